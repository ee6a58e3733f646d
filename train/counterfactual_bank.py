"""Relations in our own words as the counterfactual model needs them: what is answered, claimed, asked back, and near."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import relation_bank


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


def read() -> list[Relation]:
    """All relations of relation_bank.py; those with one of ParaRel's ids (or one kind and name) are joined.

    Of forms, those with each of their places once are kept: an answer is to be put there.
    """
    joined: dict[tuple[str, str], list[relation_bank.Relation]] = {}
    for found in relation_bank.read():
        joined.setdefault((found.kind, found.number or found.name.lower()), []).append(found)
    out = []
    for some in joined.values():
        claims = _once((form for one in some for form in one.claims), "[X]", "[Y]")
        relation = Relation(
            some[0].kind,
            some[0].name,
            some[0].number,
            asked=_once((f for r in some for f in (*r.questions, *r.requests, *r.keywords)), "[X]"),
            clozes=_once((form for one in some for form in one.clozes), "[X]"),
            yes_no=tuple(form for form in claims if form.endswith("?")),
            claims=tuple(form for form in claims if not form.endswith("?")),
            reversed=_once((form for one in some for form in one.reversed), "[Y]"),
            near=_once((form for one in some for form in one.misses), "[X]"),
        )
        if len(relation.forms) > 1:
            out.append(relation)
    return out


def _once(forms: Iterable[str], *places: str) -> tuple[str, ...]:
    """The forms that have these places once each, and no other."""
    wanted = [place in places for place in ("[X]", "[Y]")]
    return tuple(
        dict.fromkeys(
            form for form in forms if [form.count("[X]"), form.count("[Y]")] == [int(w) for w in wanted]
        )
    )
