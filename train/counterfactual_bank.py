"""Relations in our own words for the counterfactual model: forms of every kind, part of them held out to measure with.

The files are train/relations/*.txt (see scope_bank.py); marks begin their lines: ``+``
keywords, ``=`` a claim or yes/no question with [X] and [Y], ``~`` two hops, ``<`` asked from the other end, ``!`` another
question about the subject. Without a mark: a question, an imperative (ends in a full stop), or a sentence that the object ends.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
FILES = tuple(sorted((HERE / "relations").glob("*.txt")))


@dataclass(frozen=True)
class Relation:
    """One relation with its forms, [X] for the subject and [Y] for the object; "[X]" holds the place of a name.

    Attributes:
        kind: what has it (person, place, company, ...). number: ParaRel's id, or nothing.
        asked: questions, imperatives and keywords; clozes: beginnings of sentences that the object ends.
        yes_no, claims: with both [X] and [Y], questions and assertions; reversed: with [Y] alone.
        near: other questions about the subject, which the object does not answer.
    """

    kind: str
    name: str
    number: str
    asked: tuple[str, ...] = ()
    clozes: tuple[str, ...] = ()
    yes_no: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()
    near: tuple[str, ...] = ()

    @property
    def forms(self) -> tuple[str, ...]:
        """All that the object answers."""
        return self.asked + self.clozes

    def without(self, forms: set[str]) -> Relation:
        """The relation without some forms, however they are written."""

        def kept(some: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(form for form in some if bare(form) not in forms)

        return replace(
            self,
            asked=kept(self.asked),
            clozes=kept(self.clozes),
            yes_no=kept(self.yes_no),
            claims=kept(self.claims),
        )


def bare(form: str) -> str:
    """A form as it is compared: lower case, letters and brackets only."""
    return " ".join(re.sub(r"[^\w\[\]]+", " ", form.lower()).split())


def order(text: str) -> str:
    """A hash to choose by, the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(files: Sequence[Path] = FILES) -> list[Relation]:
    """All relations of the files; blocks of one relation (by ParaRel's id, or by kind and name) are joined.

    Raises:
        SystemExit: a block without a head of three parts; one sentence names the file.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    heads: dict[tuple[str, str], tuple[str, str, str]] = {}
    for file in files:
        for block in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            lines = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#")]
            if not lines:
                continue
            head = [part.strip() for part in lines[0].split("|")]
            if len(head) != 3:
                raise SystemExit(
                    f"error: {file} has a block that begins with {lines[0]!r}; its first line must be 'kind | relation | id'"
                )
            key = (head[0], head[2] or head[1].lower())
            heads.setdefault(key, (head[0], head[1], head[2]))
            forms = found.setdefault(key, {name: [] for name in _PLACES})
            for line in lines[1:]:
                place, form = _placed(line)
                if place and form not in forms[place]:
                    forms[place].append(form)
    return [
        Relation(*heads[key], **{name: tuple(some) for name, some in forms.items()})
        for key, forms in found.items()
        if len(forms["asked"]) + len(forms["clozes"]) > 1
    ]


_PLACES = ("asked", "clozes", "yes_no", "claims", "reversed", "near")


def _placed(line: str) -> tuple[str, str]:
    """Which kind of form a line is, and the form; "" for a kind that nothing can answer here."""
    mark, form = (line[0], line[1:].strip()) if line[0] in "+=~<!" else ("", line)
    x, y = form.count("[X]"), form.count("[Y]")
    if mark == "=":
        return ("yes_no" if form.endswith("?") else "claims", form) if x == y == 1 else ("", form)
    if mark == "<":
        return ("reversed", form) if y == 1 and not x else ("", form)
    if mark == "~" or x != 1 or y:
        return "", form
    if mark == "!":
        return "near", form
    return ("asked" if mark == "+" or form.endswith(("?", ".")) else "clozes"), form
