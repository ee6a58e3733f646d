"""`Case`: the edits of one record of a data set, with the queries that tell whether they were made well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memedit.edit import Edit

QueryKind = Literal["edit", "paraphrase", "locality", "portability", "multi-hop", "hop", "ripple"]


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a case.

    Attributes:
        kind: ``"edit"`` (the edit's own prompt), ``"paraphrase"`` (in scope, other words), ``"locality"`` (out
            of scope: the output must stay the base's), ``"portability"`` (follows from the edit),
            ``"multi-hop"`` (follows from several facts), ``"hop"`` (one step of a multi-hop question), ``"ripple"`` (needs
            the edit, and its own answer is not known: it only tells of the scope).
        answers: what counts as right in scope; of a locality query, the true answer where known.
        label: the data set's own name for this sort of query ("Subject_Aliasing", "Forgetfulness", ...).
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
