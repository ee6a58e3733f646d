"""`Case`: the edits of one record of a data set, with the queries that tell whether they were made well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from memedit.edit import Edit

QueryKind = Literal[
    "edit", "paraphrase", "locality", "portability", "multi-hop", "hop", "ripple", "reversal", "old", "opinion",
    "generation",
]  # fmt: skip
KINDS: tuple[QueryKind, ...] = get_args(QueryKind)


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a case.

    Attributes:
        kind: ``"edit"`` (the edit's own prompt), ``"paraphrase"`` (in scope, other words), ``"locality"`` (out
            of scope: the output must stay the base's), ``"portability"`` (follows from the edit),
            ``"multi-hop"`` (follows from several facts), ``"hop"`` (one step of a multi-hop question), ``"ripple"`` (needs
            the edit, and its own answer is not known: it only tells of the scope), ``"reversal"`` (the fact asked the
            other way round), ``"old"`` (an answer that must NOT be given any more: an erased one, or one that a
            later edit of the case took back), ``"opinion"`` (text about the subject is to be of one feeling),
            ``"generation"`` (the beginning of a longer text, which has no right answer: only its fluency is told).
        answers: what counts as right; of ``"locality"`` the true answer where known, of ``"old"`` what must not be
            said, of ``"opinion"`` example texts of the feeling.
        label: the data set's own name for this sort of query ("Subject_Aliasing", "Forgetfulness", ...); of
            ``"opinion"`` the feeling, "positive" or "negative".
        of: the place in `Case.edits` of the edit that is asked for; None where it is none in particular.
    """

    kind: QueryKind
    prompt: str
    answers: tuple[str, ...] = ()
    label: str = ""
    of: int | None = 0


@dataclass(frozen=True, slots=True)
class Case:
    """The edits and queries of one record.

    Edits are made in their order; a later one may take back an earlier one of the same case (ConflictEdit, RoundEdit).

    Attributes:
        id: the data set's own. edit: the edit, of several the first. more: the others.
    """

    id: str
    edit: Edit
    queries: tuple[Query, ...]
    more: tuple[Edit, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits of the record."""
        return (self.edit, *self.more)
