"""`DecidedMemory`: which edits may contradict each other, and what is decided of them. `EditMemory` adds the rest."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from sqlite_utils import Database

from memedit.errors import MemoryBusy, MemoryError_
from memedit.memory import conflicts, purge, reading
from memedit.memory.content import instant
from memedit.memory.readable import ReadableMemory
from memedit.memory.records import Conflict, Encoder, Operation, Record
from memedit.memory.store import Store
from memedit.memory.writing import Change


class DecidedMemory(ReadableMemory):
    """The part of `memedit.memory.EditMemory` that is about pairs of edits."""

    def __init__(
        self, store: Store, encoder: Encoder | Callable[[], Encoder] | None, device: str | None
    ) -> None:
        super().__init__(store, encoder, device)
        self._purge_done = purge.resume(store)  # else a purge waits for somebody to get out of the way

    def conflicts(self) -> builtins.list[Conflict]:
        """The pairs of live edits that may contradict each other and of which nothing was decided, newest first.

        Those that were found when edits were added, and, looked for now, those of edits that were changed or
        brought back since.
        """
        with self._store.reading() as db:
            waiting = reading.live_among(db, conflicts.awaiting(db))
            found = self._live.suspected(db, waiting) if waiting else []
        if not self._store.why_readonly:
            self._compared(waiting, found)
        with self._store.reading() as db:
            listed = self._live.conflicts(db, instant(None), [pair[:2] for pair in found])
        return listed

    def beside(self, ids: Collection[int]) -> dict[int, builtins.list[int]]:
        """For those of these edits that have some: the live edits of which it was decided that both stay."""
        with self._store.reading() as db:
            found = conflicts.beside(db, ids)
            live = set(reading.live_among(db, sorted(set().union(*found.values()))))
        return {id: sorted(others & live) for id, others in found.items() if others & live}

    def keep_both(self, one: int, other: int) -> Operation:
        """Decide that two live edits don't contradict each other: both are used, and are no conflict any more.

        An operation, which can be undone.

        Raises:
            MemoryError_: one of them isn't live, they are one, or it was decided already.
        """
        with self._writing() as db:
            self._two_live(db, one, other)
            if other in conflicts.beside(db, [one]).get(one, ()):
                raise MemoryError_(f"that edits {one} and {other} both stay is decided already")
            change = Change(db, "keep-both")
            conflicts.keep_both(db, change.begin(), [(one, other)])
            return reading.operation_with(db, change.id)

    def supersede(self, new: int, old: int) -> Record:
        """Let one live edit take another's place, and give the one that was superseded.

        Raises:
            MemoryError_: one of them isn't live, or they are one.
        """
        with self._writing() as db:
            _, loser = self._two_live(db, new, old)
            Change(db, "supersede").turn(loser, "superseded", "supersede", new)
            return reading.record(db, old)

    def _two_live(self, db: Database, one: int, other: int) -> tuple[Record, Record]:
        if one == other:
            raise MemoryError_(f"edit {one} and edit {other} are one: name two edits")
        return reading.live_record(db, one), reading.live_record(db, other)

    def _compared(
        self,
        ids: Iterable[int],
        found: Iterable[tuple[int, int, float]],
        stay: Iterable[tuple[int, int, float]] = (),
        operation: int = 0,
    ) -> None:
        """Write down what comparing these edits with the others has shown; no harm is done if it can't be.

        Args:
            found: suspected pairs. stay: those that both stay, by this operation.
        """
        with suppress(MemoryBusy), self._store.writing(lazily=True) as db:
            conflicts.suspect(db, [pair[:2] for pair in found])
            conflicts.keep_both(db, operation, [pair[:2] for pair in stay])
            conflicts.checked(db, ids)

    @contextmanager
    def _writing(self) -> Iterator[Database]:
        """A transaction, before which an unfinished purge is carried on as far as nobody is in the way."""
        if not self._purge_done:
            self._purge_done = purge.resume(self._store)
        with self._store.writing() as db:
            yield db
