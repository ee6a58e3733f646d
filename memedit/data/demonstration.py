"""`Demonstration`: a fact with all that shows how a stated fact is used, and when it is not; made from a `Case`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memedit.data.case import Case
from memedit.data.reading import read_placed
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
    """The demonstrations of a file, in any format that `read_cases` knows; of equal prompts, the first.

    In our own JSON lines: ``{"prompt", "target", "subject"?, "paraphrases": [...], "neighbours": [{"prompt", "answer"}]}``.
    Of a public data set, paraphrases are the in-scope queries, and neighbours the locality queries with an answer.

    Args:
        limit: take so many records at most.

    Raises:
        DataError: the file can't be read or is of no known format, or no record of it can be demonstrated.
    """
    found: dict[str, Demonstration] = {}
    left_out: list[str] = []
    for number, (where, case) in enumerate(read_placed(path, None)[1]):
        if limit is not None and number >= limit:
            break
        if isinstance(case, DataError):
            left_out.append(f"{where}: " + str(case).removeprefix(f"{where}: "))
            continue
        for place, edit in enumerate(case.edits):
            here = f"{where} ({edit.statement[:60]})"
            if not edit.prompt or not edit.target:
                left_out.append(f"{here}: no prompt and target, and a demonstration needs both")
            elif edit.prompt not in found:
                found[edit.prompt] = _demonstration(case, place, here, left_out)
    if not found:
        why = f"; first: {left_out[0]}" if left_out else ""
        raise DataError(f"{path} holds no fact with a prompt and a target, which a demonstration needs{why}")
    return Demonstrations(list(found.values()), left_out)


def _demonstration(case: Case, place: int, where: str, left_out: list[str]) -> Demonstration:
    """One of the case's edits with the queries that are about it."""
    edit = case.edits[place]
    prompt, target = edit.prompt or "", edit.target or ""
    own = [q for q in case.queries if q.of == place]
    given = [(q.prompt, target) for q in own if q.kind == "paraphrase"]
    beside = [(q.prompt, q.answers[0]) for q in own if q.kind == "locality" and any(q.answers[:1])]
    beside += _neighbours(edit.extra.get("neighbours"), where, left_out)
    paraphrases = [asked for asked, _ in _cleaned(given, where, left_out) if asked != prompt]
    neighbours = [pair for pair in _cleaned(beside, where, left_out) if pair[0] != prompt]
    return Demonstration(
        prompt,
        target,
        edit.statement,
        edit.subject,
        tuple(dict.fromkeys(paraphrases))[:MOST],
        tuple(dict.fromkeys(neighbours))[:MOST],
    )


def _neighbours(given: Any, where: str, left_out: list[str]) -> list[tuple[str, str]]:
    """What our own lines have as neighbours; a further key of a line may be anything."""
    out = []
    for one in given if isinstance(given, list) else [] if given is None else [given]:
        if isinstance(one, Mapping) and {"prompt", "answer"} <= one.keys():
            out.append((one["prompt"], one["answer"]))
        else:
            left_out.append(f'{where}: a neighbour must be {{"prompt": "...", "answer": "..."}}')
    return out


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
