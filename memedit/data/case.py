"""`Case`: one edit of an evaluation with the queries that tell whether it was made well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memedit.edit import Edit

QueryKind = Literal["edit", "paraphrase", "locality"]


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a case.

    Attributes:
        kind: ``"edit"`` (the edit's own prompt), ``"paraphrase"`` (in scope, other words) or
            ``"locality"`` (out of scope: the output must stay the base's).
        answers: what counts as right in scope; of a locality query, the true answer where known.
    """

    kind: QueryKind
    prompt: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """An edit and its queries; `id` is the data set's own."""

    id: str
    edit: Edit
    queries: tuple[Query, ...]
