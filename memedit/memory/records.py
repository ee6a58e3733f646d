"""What a memory hands out: small frozen values, and the encoder that it asks for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Union

import numpy as np

from memedit.edit import Edit

if TYPE_CHECKING:
    import torch

Array = Union[np.ndarray, "torch.Tensor"]
Status = Literal["live", "superseded", "forgotten"]
Action = Literal["add", "supersede", "update", "forget", "undo"]
OperationKind = Literal["add", "update", "forget", "undo", "reencode"]


class Encoder(Protocol):
    """Texts in, unit vectors out; `memedit.scope.ScopeClassifier` is one.

    Attributes:
        name: what people call it. fingerprint: hash of its weights and settings; vectors of encoders
            with different fingerprints never meet.
        dim: of the vectors. views: names of the texts that are encoded for each edit.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def views(self) -> tuple[str, ...]: ...

    def texts(self, edit: Edit) -> tuple[str, ...]:
        """One text per view; the first is the key that the index searches."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32, (len(texts), dim), rows of unit length."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """An edit as the memory has it.

    Attributes:
        id: stable, never given twice. version: counts the edit's changes from 1.
        status: only ``"live"`` edits are routed to.
        added, changed: ISO 8601 in UTC, of the first and of the newest version.
        superseded_by: the id of the edit that took its place.
    """

    id: int
    edit: Edit
    version: int
    status: Status
    added: str
    changed: str
    superseded_by: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One line of an edit's history: its state after an operation.

    Attributes:
        edit_id: whose. version: counts from 1. operation: the id of the operation that made it.
        action: what happened to the edit; ``"supersede"`` is said of the edit that was superseded.
    """

    edit_id: int
    version: int
    operation: int
    action: Action
    at: str
    status: Status
    superseded_by: int | None
    edit: Edit


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a memory's life: what one call changed, and what one `undo` takes back.

    Attributes:
        edits: how many edits it changed. undoes: of an undo, the operation that it took back.
        undone: whether a later undo took it back.
    """

    id: int
    kind: OperationKind
    at: str
    edits: int
    undoes: int | None = None
    undone: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """An edit near to a query.

    Attributes:
        cosine: of the query and the edit's first view. named: the query names its subject or an alias.
        vectors: float32, (views, dim), the edit's views in the encoder's order; on a GPU where the memory is
            searched on one.
    """

    record: Record
    cosine: float
    named: bool
    vectors: Array


@dataclass(frozen=True)
class Added:
    """What `EditMemory.add` did.

    Attributes:
        ids: one per given edit; a duplicate has the id of the live edit that says the same.
        new: ids that did not exist before. superseded: pairs (old id, new id).
        duplicates: positions in what was given. conflicts: suspected ones, (new id, old id, cosine).
        operation: its id; 0 where nothing changed, and then there is nothing to undo.
    """

    ids: list[int]
    new: list[int]
    superseded: list[tuple[int, int]]
    duplicates: list[int]
    conflicts: list[tuple[int, int, float]]
    operation: int
