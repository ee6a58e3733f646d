"""`Demonstration`: a fact with all that shows how a stated fact is used, and when it is not; made from a `Case`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memedit.data.case import Case
from memedit.data.formats import read_cases
from memedit.edit import Edit
from memedit.errors import DataError, EditError

MOST = 16  # paraphrases, and neighbours, of one fact: one of them is ever used


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A stated fact and questions that show what it changes; texts are cleaned as an edit's are.

    Attributes:
        prompt, target: the fact. statement: the fact as one sentence. subject: what it is about, where known.
        paraphrases: other ways to ask for it, answered by the target.
        neighbours: (prompt, answer) that the fact must leave alone.
    """

    prompt: str
    target: str
    statement: str
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()

    def names(self, name: str) -> bool:
        """Whether any of its texts names `name`, as whole words, in whatever case."""
        own = [
            self.statement,
            *self.paraphrases,
            *(f"{prompt} {answer}" for prompt, answer in self.neighbours),
        ]
        return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", "\n".join(own), re.IGNORECASE) is not None

    def to_dict(self) -> dict[str, Any]:
        """All that is set, as plain JSON types: a line that `demos build` takes."""
        out: dict[str, Any] = {"prompt": self.prompt, "target": self.target, "statement": self.statement}
        if self.subject:
            out["subject"] = self.subject
        if self.paraphrases:
            out["paraphrases"] = list(self.paraphrases)
        if self.neighbours:
            out["neighbours"] = [{"prompt": p, "answer": a} for p, a in self.neighbours]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Demonstration:
        """The reverse of `to_dict`, for what was cleaned before."""
        return cls(
            data["prompt"],
            data["target"],
            data["statement"],
            data.get("subject"),
            tuple(data.get("paraphrases", ())),
            tuple((n["prompt"], n["answer"]) for n in data.get("neighbours", ())),
        )


@dataclass(frozen=True)
class Demonstrations:
    """What a file gave.

    Attributes:
        facts: those that can be demonstrated. left_out: in words, each record and text that can't, and why.
    """

    facts: list[Demonstration] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_demonstrations(path: str | Path, limit: int | None = None) -> Demonstrations:
    """The demonstrations of a file, in any format that `read_cases` knows.

    In our own JSON lines: ``{"prompt", "target", "subject"?, "paraphrases": [...], "neighbours": [{"prompt", "answer"}]}``.
    Of a public data set, paraphrases are the in-scope queries, and neighbours the locality queries with an answer.

    Raises:
        DataError: the file can't be read or is of no known format, a line's neighbours are not as above, or no
            record can be demonstrated.
    """
    out = Demonstrations()
    for number, case in enumerate(read_cases(path, limit=limit), 1):
        where = f"{path} record {number} ({case.edit.statement[:60]})"
        if not case.edit.prompt or not case.edit.target:
            out.left_out.append(f"{where}: no prompt and target, and a demonstration needs both")
            continue
        out.facts.append(_demonstration(case, where, out.left_out))
    if not out.facts:
        raise DataError(f"no record of {path} has a prompt and a target, which a demonstration needs")
    return out


def _demonstration(case: Case, where: str, left_out: list[str]) -> Demonstration:
    edit = case.edit
    assert edit.prompt is not None
    assert edit.target is not None
    given = [(q.prompt, edit.target) for q in case.queries if q.kind == "paraphrase"]
    beside = [(q.prompt, q.answers[0]) for q in case.queries if q.kind == "locality" and any(q.answers[:1])]
    beside += _neighbours(edit.extra.get("neighbours"), where)
    paraphrases = [prompt for prompt, _ in _cleaned(given, where, left_out) if prompt != edit.prompt]
    neighbours = [(p, a) for p, a in _cleaned(beside, where, left_out) if p != edit.prompt]
    return Demonstration(
        edit.prompt,
        edit.target,
        edit.statement,
        edit.subject,
        tuple(dict.fromkeys(paraphrases))[:MOST],
        tuple(dict.fromkeys(neighbours))[:MOST],
    )


def _neighbours(given: Any, where: str) -> list[tuple[str, str]]:
    if given is None:
        return []
    if not isinstance(given, list) or not all(
        isinstance(n, Mapping) and isinstance(n.get("prompt"), str) and isinstance(n.get("answer"), str)
        for n in given
    ):
        raise DataError(f'{where}: neighbours must be a list of {{"prompt": "...", "answer": "..."}}')
    return [(n["prompt"], n["answer"]) for n in given]


def _cleaned(pairs: list[tuple[str, str]], where: str, left_out: list[str]) -> list[tuple[str, str]]:
    """Pairs as an edit takes them: white space folded, nothing that could pass for a template's label."""
    out = []
    for prompt, answer in pairs:
        try:
            edit = Edit(prompt=prompt, target=answer)
        except EditError as error:
            left_out.append(f"{where}: {str(prompt)[:60]!r}: {error}")
            continue
        out.append((edit.prompt or "", edit.target or ""))
    return out
