"""`EditMemory`: all edits, durable and versioned."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from memedit.edit import Edit
from memedit.errors import EditError, MemoryError_, unknown
from memedit.memory import patches, purge, reading, undo, writing
from memedit.memory.care import Care
from memedit.memory.content import checked
from memedit.memory.decided import DecidedMemory
from memedit.memory.live import LiveIndex
from memedit.memory.records import Added, Encoder, Operation, Purged, Record
from memedit.memory.store import Store
from memedit.memory.vectors import Progress
from memedit.memory.writing import Change

DEFAULT_METHOD = "ice"


class EditMemory(Care, DecidedMemory):
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
        super().__init__(store, encoder, device)

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
            device: where to encode and to search; None takes a GPU if there is one.

        Raises:
            MemoryError_: the folder holds something else, or a newer or damaged memory, or can't be read; or
                there is no memory and `create` is off.
        """
        return cls(Store(Path(path), create=create, readonly=readonly, timeout=timeout), encoder, device)

    # -- changing

    def add(
        self,
        edits: Edit | Iterable[Edit],
        *,
        keep_both: bool | Collection[int] = False,
        progress: Progress | None = None,
    ) -> Added:
        """Take in edits as one operation: all of them, or none.

        An edit with the ref, the prompt, or the subject and relation of a live one supersedes it, also inside
        one call: the later wins (`memedit.memory.rules.supersedes`), and keeps the other's aliases
        (`memedit.memory.rules.inheriting`). One that then says just what a live one says is no new edit; if a newer
        one contradicts that, it is the newest word again. One whose statement is nearly that of another live
        edit is flagged as a possible conflict (`memedit.memory.rules.suspicious`), and both stay.

        Args:
            keep_both: these are further values beside what is known (a second child): they supersede only what
                has their ref or their target, and are in conflict with nothing that is there. For some of
                the edits only: their positions.
            progress: called with (edits encoded, edits to encode) while they are encoded.

        Raises:
            EditError: something given is no edit. EncoderMismatch: the memory is another encoder's.
            MemoryBusy: another process writes. MemoryError_: it can't be written.
        """
        given = writing.checked(edits)
        further = set(range(len(given)) if keep_both is True else keep_both or ())
        self._live.prepare()
        encoded = self._encoded(given, further, progress)
        with self._writing() as db:
            added, stated = writing.take_in(db, given, further)
            self._vectors.keep(db, stated, encoded)
        with self._store.reading() as db:
            found = self._live.suspected(db, added.new)
            self._live.save_where_it_pays(db)
        beside = {added.ids[n] for n in further}
        stay = [pair for pair in found if pair[0] in beside]
        added.conflicts.extend(pair for pair in found if pair[0] not in beside)
        self._compared(added.new, added.conflicts, stay, added.operation)
        return added

    def preview(
        self,
        edits: Edit | Iterable[Edit],
        *,
        keep_both: bool | Collection[int] = False,
        conflicts: bool = True,
        progress: Progress | None = None,
    ) -> Added:
        """What `add` would do with these edits now, with the ids that it would give; changes nothing.

        Args:
            keep_both: as for `add`.
            conflicts: look for possible conflicts too, for which the edits are encoded.
        """
        given = writing.checked(edits)
        further = set(range(len(given)) if keep_both is True else keep_both or ())
        encoded = self._encoded(given, further, progress) if conflicts else {}
        with self._store.trying() as db:
            added, stated = writing.take_in(db, given, further)
            if conflicts and added.operation:
                self._vectors.keep(db, stated, encoded)
                # An index of its own, since what it sees is about to be taken back.
                found = LiveIndex(self.path, self._live.device).suspected(db, added.new)
                beside = {added.ids[n] for n in further}
                added.conflicts.extend(pair for pair in found if pair[0] not in beside)
        return added

    def _encoded(
        self, given: builtins.list[Edit], further: Collection[int], progress: Progress | None
    ) -> dict[str, bytes]:
        """The vectors of edits that are about to be added, as they will be kept."""
        with self._store.reading() as db:
            kept = [writing.place(db, edit, n in further).edit for n, edit in enumerate(given)]
        return self._vectors.of(kept, progress)

    def update(self, id: int, **changes: Any) -> Record:
        """Change fields of a live edit; what it said before stays in its history.

        A change of what it says makes it the newest; another tag, source, author, old answer or ref does not.

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
        with self._writing() as db:
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
        return self.forget_all([id])[0]

    def forget_all(self, ids: Iterable[int]) -> builtins.list[Record]:
        """As `forget`, several edits as one operation: all of them, or none."""
        given = builtins.list(dict.fromkeys(ids))
        with self._writing() as db:
            change = Change(db, "forget")
            for id in given:
                record = reading.record(db, id)
                if record.status in ("forgotten", "purged"):
                    raise MemoryError_(f"edit {id} is {record.status} already")
                change.turn(record, "forgotten", "forget")
            return [reading.record(db, id) for id in given]

    def purge(self, ids: int | Iterable[int]) -> Purged:
        """Take edits away with all their versions: no byte of what they said stays in a file of the memory.

        What stays is that there was an edit with this id, and which operations changed it. What it superseded
        stays superseded, as after `forget`; what other edits say too (a subject's name) is theirs. A purge
        can't be undone. Copies of the folder are yours to look after.

        A reader that still uses the write-ahead log keeps the old bytes there; after the memory's timeout the
        result's `left` says so, and the rest is done by the next writing or opening.

        Raises:
            MemoryError_: there is no such edit, or it is purged already. MemoryBusy: another process writes.
        """
        given = builtins.list(ids) if isinstance(ids, Iterable) else [ids]
        if not given:
            raise MemoryError_("nothing to purge: name at least one edit")
        with self._store.writing() as db:
            operation = purge.strike(db, given)
        indexed = self._live.index is not None or any((self.path / name).exists() for name in purge.SNAPSHOTS)
        self._purge_done = False
        left = purge.finish(self._store, self._store.timeout)
        self._purge_done = left is None
        if indexed:
            with suppress(MemoryError_), self._store.reading() as db:
                self._live.rebuild(db)
                self._live.save()
        return Purged(tuple(dict.fromkeys(given)), operation, left, tuple(purge.others(self.path)))

    def undo(self, operation: int | None = None) -> Operation:
        """Take back the last operation that still stands (an import is one), and say which it was.

        Undo again to go further back. The undo is itself an operation: history only grows. What was purged
        since does not come back, and is named in the `passed` of what is returned.

        Args:
            operation: the id of an earlier one (see `operations`) on which no later one builds.

        Raises:
            MemoryError_: there is nothing left to undo; or no such operation, or it can't be undone, and why.
        """
        with self._writing() as db:
            done = undo.undo(db, operation)
            last, _ = reading.last_operation(db)
            self._vectors.keep(db, [record.edit for record in reading.without_vectors(db, last)], {})
        return done

    # -- settings

    @property
    def default_method(self) -> str:
        """The method of edits that name none."""
        return self.get_meta("default_method") or DEFAULT_METHOD

    @default_method.setter
    def default_method(self, name: str) -> None:
        self.set_meta("default_method", name)

    def set_meta(self, key: str, value: str) -> None:
        """Keep a setting with the memory. It is no operation: undo passes it by.

        Raises:
            MemoryError_: the key is one by which the memory knows itself.
        """
        checked("a setting's name", key)
        checked(f"the setting {key}", value)
        if key in ("memory", "schema_version") or key.startswith(("encoder_", "purge")):
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
        checked("a method", method)
        patches.put(self._store, edit_id, key, method, data)

    def keep_patch(self, edit: Edit, key: str, method: str, data: bytes) -> int:
        """Keep a patch for every live edit that says just this; gives how many do. For none nothing is written.

        Raises:
            MemoryError_: the key is no file name, or it can't be written.
        """
        checked("a method", method)
        return patches.put(self._store, edit.content_hash, key, method, data)

    def get_patch(self, key: str) -> bytes | None:
        """The patch with this key; None where there is none, or it is lost or damaged."""
        return patches.get(self._store, key)

    def patches(
        self, edit_id: int | None = None, content: str | None = None
    ) -> builtins.list[dict[str, Any]]:
        """What is kept, for one edit, for the live edits of one content hash, or for all: dicts of key, edit, method,
        size (bytes) and at, oldest first.
        """
        return patches.rows(self._store, edit_id, content)

    def about_patch(self, key: str) -> dict[str, str]:
        """What a patch says of itself: method, base, settings, content, seconds, and what the method noted."""
        return patches.about(self._store, key)

    def close(self) -> None:
        """Let go of the files. Closing twice does nothing."""
        if self._store.closed:
            return
        if not self._store.why_readonly:
            with suppress(MemoryError_):
                with self._store.reading() as db:
                    self._live.save_where_it_pays(db)
                self._drop_stale()
        self._store.close()

    def __enter__(self) -> EditMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EditMemory({str(self.path)!r})"
