"""`EditMemory`: all edits, durable and versioned."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from memedit.edit import Edit
from memedit.errors import EditError, MemoryError_, unknown
from memedit.memory import health, patches, reading, writing
from memedit.memory.content import instant
from memedit.memory.live import LiveIndex
from memedit.memory.records import Added, Encoder, Near, Operation, Record, Version
from memedit.memory.store import Store
from memedit.memory.vectors import Progress, Vectors
from memedit.memory.writing import Change

DEFAULT_METHOD = "ice"
_STATUSES = ("live", "superseded", "forgotten", "all")


class EditMemory:
    """All edits, durable and versioned: SQLite is the truth, the index is a disposable snapshot of it.

    Made by `open`. Many threads may share one, many processes may read one folder, and one at a time writes:
    a second writer waits, then gets `MemoryBusy`. What a call that returned has changed survives kill -9, and
    every reader sees it at its next query. Vectors are asked of the encoder only where something new is to be
    encoded: listing, history, forget and undo load none.

    Example:
        >>> with EditMemory.open("indexes/mine") as memory:                     # doctest: +SKIP
        ...     memory.add(Edit(prompt="The capital of France is", target="Lyon", subject="France"))
        ...     memory.search("France's capital")[0].record.edit.target
        'Lyon'
    """

    def __init__(
        self, store: Store, encoder: Encoder | Callable[[], Encoder] | None, device: str | None
    ) -> None:
        self._store = store
        self._vectors = Vectors(store, encoder)
        self._live = LiveIndex(store.folder, device)
        self._counted = (-1, 0)  # generation, live edits

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Encoder | Callable[[], Encoder] | None = None,
        create: bool = True,
        readonly: bool = False,
        timeout: float = 10.0,
        device: str | None = None,
    ) -> EditMemory:
        """Open the memory in a folder; make one where there is none.

        Args:
            path: the folder. encoder: an encoder, or a function that loads one when it is first needed; None
                for memedit's scope classifier. readonly: never write, also no index snapshot.
            timeout: seconds to wait for another writer.
            device: where to search; None takes a GPU if there is one.

        Raises:
            MemoryError_: the folder holds something else, or a newer or damaged memory, or can't be read; or
                there is no memory and `create` is off.
        """
        return cls(Store(Path(path), create=create, readonly=readonly, timeout=timeout), encoder, device)

    # -- changing

    def add(self, edits: Edit | Iterable[Edit], *, progress: Progress | None = None) -> Added:
        """Take in edits as one operation: all of them, or none.

        An edit with the ref, the prompt, or the subject and relation of a live one supersedes it, also inside
        one call: the later wins (`memedit.memory.rules.supersedes`). One that says just what a live one says
        is no new edit. One whose statement is nearly that of another live edit is flagged as a possible
        conflict (`memedit.memory.rules.suspicious`), and both stay.

        Args:
            progress: called with (edits encoded, edits to encode) while they are encoded.

        Raises:
            EditError: something given is no edit. EncoderMismatch: the memory is another encoder's.
            MemoryBusy: another process writes. MemoryError_: it can't be written.
        """
        given = writing.checked(edits)
        self._live.prepare()
        encoded = self._vectors.of(given, progress)
        with self._store.writing() as db:
            added = writing.take_in(db, given)
            if added.operation:
                self._vectors.keep(db, given, encoded)
        with self._store.reading() as db:
            added.conflicts.extend(self._live.suspected(db, added.new))
            self._live.save_where_it_pays()
        return added

    def preview(
        self, edits: Edit | Iterable[Edit], *, conflicts: bool = True, progress: Progress | None = None
    ) -> Added:
        """What `add` would do with these edits now, with the ids that it would give; changes nothing.

        Args:
            conflicts: look for possible conflicts too, for which the edits are encoded.
        """
        given = writing.checked(edits)
        encoded = self._vectors.of(given, progress) if conflicts else {}
        with self._store.trying() as db:
            added = writing.take_in(db, given)
            if conflicts and added.operation:
                self._vectors.keep(db, given, encoded)
                # An index of its own, since what it sees is about to be taken back.
                added.conflicts.extend(LiveIndex(self.path, self._live.device).suspected(db, added.new))
        return added

    def update(self, id: int, **changes: Any) -> Record:
        """Change fields of a live edit; what it said before stays in its history.

        Raises:
            EditError: no such field, or the edit can't be taken so, or another live edit says it already.
            MemoryError_: there is no such edit, or it isn't live.
        """
        bad = changes.keys() - {f.name for f in fields(Edit)}
        if bad:
            raise EditError(unknown("field", min(bad), (f.name for f in fields(Edit))))
        with self._store.reading() as db:
            edit = reading.live_record(db, id).edit.updated(**changes)
        encoded = self._vectors.of([edit])
        with self._store.writing() as db:
            record = reading.live_record(db, id)
            edit = record.edit.updated(**changes)
            if edit == record.edit:
                return record
            twin = reading.live_twin(db, edit)
            if twin not in (None, id):
                raise EditError(f"edit {twin} says that already; forget edit {id} if it is no longer wanted")
            Change(db, "update").update(record, edit)
            self._vectors.keep(db, [edit], encoded)
            return reading.record(db, id)

    def forget(self, id: int) -> Record:
        """Take an edit out of use; its history stays. One that it superseded does not come back.

        Raises:
            MemoryError_: there is no such edit, or it is forgotten already.
        """
        with self._store.writing() as db:
            record = reading.record(db, id)
            if record.status == "forgotten":
                raise MemoryError_(f"edit {id} is forgotten already")
            Change(db, "forget").turn(record, "forgotten", "forget")
            return reading.record(db, id)

    def undo(self) -> Operation:
        """Take back the last operation that still stands (an import is one), and say which it was.

        Undo again to go further back. The undo is itself an operation: history only grows.

        Raises:
            MemoryError_: there is nothing left to undo.
        """
        with self._store.writing() as db:
            operation = writing.undo(db)
            last, _ = reading.last_operation(db)
            self._vectors.keep(db, [record.edit for record in reading.without_vectors(db, last)], {})
        return operation

    # -- reading

    def get(self, id: int) -> Record:
        """The edit with this id, whatever its status.

        Raises:
            MemoryError_: there is none.
        """
        with self._store.reading() as db:
            return reading.record(db, id)

    def get_ref(self, ref: str) -> Record:
        """The edit with this ref; of several the live one, else the newest.

        Raises:
            MemoryError_: there is none.
        """
        with self._store.reading() as db:
            return reading.record_with_ref(db, ref)

    def history(self, id: int) -> builtins.list[Version]:
        """All that happened to one edit, oldest first.

        Raises:
            MemoryError_: there is no such edit.
        """
        with self._store.reading() as db:
            reading.record(db, id)
            return reading.versions(db, id)

    def list(
        self,
        *,
        tag: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        method: str | None = None,
        status: str = "live",
        limit: int | None = None,
        offset: int = 0,
    ) -> builtins.list[Record]:
        """Edits by id; every filter that is given must hold.

        Raises:
            MemoryError_: `status` is none of live, superseded, forgotten and all.
        """
        if status not in _STATUSES:
            raise MemoryError_(unknown("status", status, _STATUSES))
        with self._store.reading() as db:
            return builtins.list(
                reading.records(
                    db,
                    tag=tag,
                    source=source,
                    subject=subject,
                    method=method,
                    status=status,
                    limit=limit,
                    offset=offset,
                )
            )

    def as_of(self, time: str | datetime) -> builtins.list[Record]:
        """The edits that were live at a moment, as they were then: what the memory knew."""
        with self._store.reading() as db:
            return reading.records_at(db, instant(time))

    def operations(self, limit: int | None = None) -> builtins.list[Operation]:
        """What was done to the memory, newest first."""
        with self._store.reading() as db:
            return reading.operations(db, limit)

    def __iter__(self) -> Iterator[Record]:
        """The live edits, by id."""
        return iter(self.list())

    def __len__(self) -> int:
        with self._store.reading() as db:
            generation, _ = reading.last_operation(db)
            if self._counted[0] != generation:
                self._counted = (generation, reading.count(db))
            return self._counted[1]

    @property
    def path(self) -> Path:
        """The memory's folder."""
        return self._store.folder

    @property
    def generation(self) -> int:
        """Grows whenever the edits, or their vectors, change."""
        with self._store.reading() as db:
            return reading.last_operation(db)[0]

    # -- searching

    def search(self, text: str, k: int = 10) -> builtins.list[Near]:
        """The k live edits nearest to a text, those that it names among them."""
        return self.near([text], self.encoder.encode([text]), k)[0][:k] if len(self) else []

    def near(
        self, queries: Sequence[str], vectors: np.ndarray, k: int = 8, at: str | datetime | None = None
    ) -> builtins.list[builtins.list[Near]]:
        """For each query the k nearest live edits and up to k that it names.

        Best cosine first. A query names an edit where the edit's subject, or an alias, stands in it
        (`memedit.memory.rules.named_in`).

        Args:
            queries: texts. vectors: theirs, (n, dim), by the memory's encoder. at: the moment at which the
                edits' facts hold; None for now.

        Raises:
            EncoderMismatch: the vectors are of another length than the memory's.
        """
        with self._store.reading() as db:
            return self._live.near(db, queries, np.ascontiguousarray(vectors, np.float32), k, instant(at))

    # -- settings

    @property
    def encoder(self) -> Encoder:
        """What encodes for this memory; loaded on first need.

        Raises:
            EncoderMismatch: the memory's vectors are another encoder's.
        """
        return self._vectors.encoder

    @property
    def default_method(self) -> str:
        """The method of edits that name none."""
        return self.get_meta("default_method") or DEFAULT_METHOD

    @default_method.setter
    def default_method(self, name: str) -> None:
        self.set_meta("default_method", name)

    def get_meta(self, key: str) -> str | None:
        """A setting of the memory, or a fact about it; None where it was never set."""
        return self._store.meta(key)

    def set_meta(self, key: str, value: str) -> None:
        """Keep a setting with the memory. It is no operation: undo passes it by.

        Raises:
            MemoryError_: the key is one by which the memory knows itself.
        """
        if key in ("memory", "schema_version") or key.startswith("encoder_"):
            raise MemoryError_(f"{key} is the memory's own; take another name for a setting")
        with self._store.writing() as db:
            writing.put_meta(db, key, value)

    # -- patches

    def put_patch(self, edit_id: int, key: str, method: str, data: bytes) -> None:
        """Keep what a method prepared for an edit, durably, under a key of its own.

        Raises:
            MemoryError_: there is no such edit, the key is no file name, or it can't be written.
        """
        self.get(edit_id)
        patches.put(self._store, edit_id, key, method, data)

    def get_patch(self, key: str) -> bytes | None:
        """The patch with this key; None where there is none, or it is lost or damaged."""
        return patches.get(self._store, key)

    def patches(self, edit_id: int | None = None) -> builtins.list[dict[str, Any]]:
        """What is kept, for one edit or for all: dicts of key, edit, method, size (bytes) and at."""
        return patches.rows(self._store, edit_id)

    # -- care

    def stats(self) -> dict[str, Any]:
        """Counts, sizes and settings, as plain JSON types."""
        with self._store.reading() as db:
            return health.stats(db, self.path)

    def check(self) -> builtins.list[str]:
        """What is wrong with the memory, a sentence each; nothing where all is well. Changes nothing."""
        with self._store.reading() as db:
            return health.problems(db, self._store.folder)

    def rebuild(self, *, reencode: bool = False, progress: Progress | None = None) -> None:
        """Make anew what is derived: the index, and the names and keys by which edits are found.

        Args:
            reencode: also encode every live edit with the encoder at hand, which becomes the memory's.
        """
        with self._store.writing() as db:
            if reencode:
                self._vectors.reencode(db, progress)
            writing.relist(db)
        with self._store.reading() as db:
            self._live.rebuild(db)
            self._live.save()

    def save_index(self) -> None:
        """Write the index's snapshot, so that the next opening is quick; `close` does so where it pays.

        Raises:
            MemoryError_: it can't be written.
        """
        with self._store.reading() as db:
            self._live.level(db)
            self._live.save()

    def close(self) -> None:
        """Let go of the files. Closing twice does nothing."""
        if self._store.closed:
            return
        if not self._store.why_readonly:
            with suppress(MemoryError_), self._store.reading():
                self._live.save_where_it_pays()
        self._store.close()

    def __enter__(self) -> EditMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EditMemory({str(self.path)!r})"
