"""What a memory hands out: small frozen values, and the encoder that it asks for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Union

import numpy as np

from memedit.edit import Edit

if TYPE_CHECKING:
    import torch

Array = Union[np.ndarray, "torch.Tensor"]
Status = Literal["live", "superseded", "forgotten", "purged"]
Action = Literal["add", "supersede", "update", "forget", "undo", "purge"]
OperationKind = Literal["add", "update", "forget", "supersede", "keep-both", "purge", "undo", "reencode"]


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
        """One text per view; the first is the key that the index searches, a second what is asked."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32, (len(texts), dim), rows of unit length."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """An edit as the memory has it.

    Attributes:
        id: stable, never given twice. version: counts the edit's changes from 1.
        status: only ``"live"`` edits are routed to; of a ``"purged"`` one nothing is left, its edit is blank.
        added, changed: ISO 8601 in UTC, of the first and of the newest version.
        superseded_by: the id of the edit that took its place.
        stated: the operation by which it came to say what it says.
    """

    id: int
    edit: Edit
    version: int
    status: Status
    added: str
    changed: str
    superseded_by: int | None = None
    stated: int = 0

    @property
    def recency(self) -> tuple[int, int]:
        """Of two edits the one that was stated later is the newer; clocks have no say in it."""
        return self.stated, self.id


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
        edits: how many edits it changed, or set side by side. undoes: of an undo, the operation that it
            took back. undone: whether a later undo took it back.
        passed: of the operation that `undo` gives back, the edits that it could not bring back, being purged.
    """

    id: int
    kind: OperationKind
    at: str
    edits: int
    undoes: int | None = None
    undone: bool = False
    passed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """An edit near to a query.

    Attributes:
        cosine: of the query and the edit's first view. named: the query names its subject or an alias.
        vectors: float32, (views, dim), the edit's views in the encoder's order; on a GPU where the memory is
            searched on one.
        beside: ids of edits of which it was decided that both stay.
    """

    record: Record
    cosine: float
    named: bool
    vectors: Array
    beside: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two live edits that may contradict each other.

    Attributes:
        newer, older: by what was stated last. similarity: cosine of their statements.
        wins: the id of the one that is used where a query concerns both: the newer that holds now.
    """

    newer: Record
    older: Record
    similarity: float
    wins: int


@dataclass(frozen=True, slots=True)
class Purged:
    """What `EditMemory.purge` did.

    Attributes:
        ids: of the purged edits. operation: its id.
        left: what is still to be done, as a sentence; None where no byte is left in the memory's files.
        others: files in the memory's folder that are none of the memory's, and were not looked into.
    """

    ids: tuple[int, ...]
    operation: int
    left: str | None
    others: tuple[str, ...]


@dataclass(frozen=True)
class Added:
    """What `EditMemory.add` did.

    Attributes:
        ids: one per given edit; a duplicate has the id of the live edit that says the same.
        new: ids that did not exist before. superseded: pairs (old id, new id).
        duplicates: positions in what was given. conflicts: suspected ones, (new id, old id, cosine).
        operation: its id; 0 where nothing changed, and then there is nothing to undo.
        renewed: ids of live edits that were said again against a newer one, and are the newest word now.
    """

    ids: list[int]
    new: list[int]
    superseded: list[tuple[int, int]]
    duplicates: list[int]
    conflicts: list[tuple[int, int, float]]
    operation: int
    renewed: list[int] = field(default_factory=list)
