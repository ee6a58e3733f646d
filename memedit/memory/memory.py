"""`EditMemory`: all edits, durable and versioned."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from sqlite_utils import Database

from memedit.edit import Edit
from memedit.errors import EditError, EncoderMismatch, MemoryError_, unknown
from memedit.memory import health, patches, reading, writing
from memedit.memory.writing import Change
from memedit.memory.content import instant
from memedit.memory.live import LiveIndex
from memedit.memory.records import Added, Encoder, Near, Operation, Record, Version
from memedit.memory.rules import SUSPECT, named_in, suspicious
from memedit.memory.store import Store

DEFAULT_METHOD = "ice"
_STATUSES = ("live", "superseded", "forgotten", "all")
_BATCH = 256  # edits that are encoded between two steps of the progress bar
_SUSPECTS = 8  # nearest edits that are looked at for a conflict with a new one


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
        self._encoder = encoder
        self._loading = threading.Lock()
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
            timeout: seconds to wait for another writer. device: where to search; None takes a GPU if there is one.

        Raises:
            MemoryError_: the folder holds something else, or a newer or damaged memory, or can't be read; or
                there is no memory and `create` is off.
        """
        return cls(Store(Path(path), create=create, readonly=readonly, timeout=timeout), encoder, device)

    # -- changing

    def add(
        self, edits: Edit | Iterable[Edit], *, progress: Callable[[int, int], None] | None = None
    ) -> Added:
        """Take in edits as one operation: all of them, or none.

        An edit with the ref, the prompt, or the subject and relation of a live one supersedes it (also inside
        one call: the later wins; see `memedit.memory.rules`). One that says just what a live one says is no new
        edit. One whose statement is nearly that of another live edit is flagged as a possible conflict.

        Args:
            progress: called with (edits encoded, edits given) while they are encoded.

        Raises:
            EditError: something given is no edit. EncoderMismatch: the memory is another encoder's.
            MemoryBusy: another process writes. MemoryError_: it can't be written.
        """
        given = [edits] if isinstance(edits, Edit) else builtins.list(edits)
        for place, edit in enumerate(given):
            if not isinstance(edit, Edit):
                raise EditError(
                    f"number {place + 1} of what was given is no Edit but {type(edit).__name__}; see Edit.from_dict"
                )
        self._live.prepare()
        encoded = self._encode(given, progress)
        with self._store.writing() as db:
            change = Change(db, "add")
            outcome = [change.add(edit) for edit in given]
            if change.id:
                self._keep_vectors(db, given, encoded)
        added = Added(
            ids=[id for id, _ in outcome],
            new=[id for id, new in outcome if new],
            superseded=change.superseded,
            duplicates=[place for place, (_, new) in enumerate(outcome) if not new],
            conflicts=[],
            operation=change.id,
        )
        added.conflicts.extend(self._suspected(added.new))
        self._save_if_worth()
        return added

    def update(self, id: int, **changes: Any) -> Record:
        """Change fields of a live edit; what it said before stays in its history.

        Raises:
            EditError: no such field, or the edit can't be taken like that, or another live edit says it already.
            MemoryError_: there is no such edit, or it isn't live.
        """
        bad = changes.keys() - {f.name for f in fields(Edit)}
        if bad:
            raise EditError(unknown("field", min(bad), (f.name for f in fields(Edit))))
        edit = self._usable(self.get(id)).edit.updated(**changes)
        encoded = self._encode([edit])
        with self._store.writing() as db:
            record = self._usable(self._found(reading.record(db, id), id))
            edit = record.edit.updated(**changes)
            if edit == record.edit:
                return record
            twin = reading.live_twin(db, edit)
            if twin not in (None, id):
                raise EditError(f"edit {twin} says that already; forget edit {id} if it is no longer wanted")
            Change(db, "update").update(record, edit)
            self._keep_vectors(db, [edit], encoded)
            return self._found(reading.record(db, id), id)

    def forget(self, id: int) -> Record:
        """Take an edit out of use; its history stays. One that it superseded does not come back.

        Raises:
            MemoryError_: there is no such edit, or it is forgotten already.
        """
        with self._store.writing() as db:
            record = self._found(reading.record(db, id), id)
            if record.status == "forgotten":
                raise MemoryError_(f"edit {id} is forgotten already")
            Change(db, "forget").turn(record, "forgotten", "forget")
            return self._found(reading.record(db, id), id)

    def undo(self) -> Operation:
        """Take back the last operation that still stands (an import is one), and say which it was.

        Undo again to go further back. The undo is itself an operation: history only grows.

        Raises:
            MemoryError_: there is nothing left to undo.
        """
        with self._store.writing() as db:
            operation = writing.undo(db)
            last, _ = reading.last_operation(db)
            self._keep_vectors(db, [record.edit for record in reading.without_vectors(db, last)], {})
        return operation

    # -- reading

    def get(self, id: int) -> Record:
        """The edit with this id, whatever its status.

        Raises:
            MemoryError_: there is none.
        """
        with self._store.reading() as db:
            return self._found(reading.record(db, id), id)

    def get_ref(self, ref: str) -> Record:
        """The edit with this ref; of several the live one, else the newest.

        Raises:
            MemoryError_: there is none.
        """
        with self._store.reading() as db:
            record = reading.record_with_ref(db, ref)
        if record is None:
            raise MemoryError_(f"no edit has the ref {ref!r}; `memedit list` shows what is there")
        return record

    def history(self, id: int) -> builtins.list[Version]:
        """All that happened to one edit, oldest first.

        Raises:
            MemoryError_: there is no such edit.
        """
        with self._store.reading() as db:
            self._found(reading.record(db, id), id)
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
        """For each query the k nearest live edits, and up to k whose subject or alias it names; best cosine first.

        Args:
            queries: texts. vectors: theirs, (n, dim), by the memory's encoder. at: the moment at which the
                edits' facts hold; None for now.

        Raises:
            EncoderMismatch: the vectors are of another length than the memory's.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        moment = instant(at)
        with self._store.reading() as db:
            index = self._live.level(db)
            if index is None or not len(index) or not len(queries):
                return [[] for _ in queries]
            if vectors.shape != (len(queries), index.dim):
                raise EncoderMismatch(
                    f"the vectors are of shape {vectors.shape}; for {len(queries)} queries of this memory it is "
                    f"{(len(queries), index.dim)}: encode them with its own encoder, {self.get_meta('encoder_name')}"
                )
            hidden = reading.not_valid(db, moment)
            _, found = index.search(vectors, k * index.oversampling, without=hidden)
            named = [reading.named(db, named_in(text)) - hidden for text in queries]
            wanted = [
                {
                    *ids.tolist(),
                    *(self._live.best(vector, names, k * index.oversampling) if len(names) > k else names),
                }
                - {-1}
                for ids, names, vector in zip(found, named, vectors, strict=True)
            ]
            rows = self._live.rows(db, set().union(*wanted))
        return [
            _ranked([rows[id] for id in ids if id in rows], vector, names, k)
            for ids, vector, names in zip(wanted, vectors, named, strict=True)
        ]

    # -- settings

    @property
    def encoder(self) -> Encoder:
        """What encodes for this memory; loaded on first need.

        Raises:
            EncoderMismatch: the memory's vectors are another encoder's.
        """
        encoder = self._loaded()
        known = self.get_meta("encoder_fingerprint")
        if known not in (None, encoder.fingerprint):
            raise EncoderMismatch(
                f"the memory at {self.path} was encoded by {self.get_meta('encoder_name')} ({known}), not by {encoder.name} "
                f"({encoder.fingerprint}); open it with that one, or encode it anew with `memedit rebuild --encoder`"
            )
        return encoder

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
        """Keep a setting with the memory. It is no operation: undo passes it by."""
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
        """The patch with this key; None where there is none, or its file is lost or damaged: prepare it again."""
        return patches.get(self._store, key)

    def patches(self, edit_id: int | None = None) -> builtins.list[dict[str, Any]]:
        """What is kept, for one edit or for all: dicts of key, edit, method, size (bytes) and at."""
        return patches.rows(self._store, edit_id)

    # -- care

    def stats(self) -> dict[str, Any]:
        """Counts, sizes and settings, as plain JSON types."""
        with self._store.reading() as db:
            return health.stats(db, self._store.folder)

    def check(self) -> builtins.list[str]:
        """What is wrong with the memory, a sentence each; nothing where all is well. Changes nothing."""
        with self._store.reading() as db:
            return health.problems(db, self._store.folder)

    def rebuild(self, *, reencode: bool = False, progress: Callable[[int, int], None] | None = None) -> None:
        """Make all that is derived anew from SQLite: the index, and the names and keys by which edits are found.

        Args:
            reencode: also encode every live edit with the encoder at hand, which becomes the memory's.
        """
        with self._store.writing() as db:
            if reencode:
                edits = [record.edit for record in reading.records(db)]
                encoder = self._loaded()
                writing.reencode(db, encoder, _vectors(encoder, edits, progress))
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
        self._save_if_worth()
        self._store.close()

    def __enter__(self) -> EditMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EditMemory({str(self.path)!r})"

    # -- parts

    def _loaded(self) -> Encoder:
        with self._loading:
            if self._encoder is None:
                self._encoder = _shipped_encoder()
            elif isinstance(self._encoder, type) or not hasattr(self._encoder, "encode"):
                self._encoder = cast(Callable[[], Encoder], self._encoder)()
            return cast(Encoder, self._encoder)

    def _encode(
        self,
        edits: Sequence[Edit],
        progress: Callable[[int, int], None] | None = None,
        db: Database | None = None,
    ) -> dict[str, bytes]:
        """Vectors, by content hash, of those edits that have none yet; the encoder is loaded if there are such."""
        by_hash = {edit.content_hash: edit for edit in edits}
        with nullcontext(db) if db is not None else self._store.reading() as source:
            have = reading.hashes_with_vectors(source, builtins.list(by_hash))
        missing = [edit for digest, edit in by_hash.items() if digest not in have]
        return _vectors(self.encoder, missing, progress) if missing else {}

    def _keep_vectors(self, db: Database, edits: Sequence[Edit], encoded: dict[str, bytes]) -> None:
        """Write the vectors of edits that were just written; encodes what another process took away meanwhile."""
        encoded = encoded | self._encode([edit for edit in edits if edit.content_hash not in encoded], db=db)
        if encoded:
            writing.put_encoder(db, self.encoder)
            writing.put_vectors(db, encoded)

    def _suspected(self, new: Sequence[int]) -> builtins.list[tuple[int, int, float]]:
        """Pairs (newer id, older id, cosine) that may contradict each other, with one of `new` in each."""
        with self._store.reading() as db:
            index = self._live.level(db)
            ids = reading.live_among(db, new)
            if index is None or not ids:
                return []
            near = index.search(index.vectors(ids), _SUSPECTS + 1)
            pairs = {
                (max(id, other), min(id, other)): float(cosine)
                for id, cosines, others in zip(ids, *near, strict=True)
                for cosine, other in zip(cosines, others.tolist(), strict=True)
                if other not in (id, -1) and cosine >= SUSPECT - 0.02  # an index of bytes is off by so much
            }
            rows = self._live.rows(db, {id for pair in pairs for id in pair})
        found = []
        for newer, older in sorted(pairs):
            (a, ours), (b, theirs) = rows[newer], rows[older]
            cosine = float(ours[0] @ theirs[0])
            if suspicious(a.edit, b.edit, cosine):
                found.append((newer, older, cosine))
        return found

    def _save_if_worth(self) -> None:
        """The snapshot is a convenience: that it can't be written is nobody's concern now."""
        with suppress(MemoryError_):
            if not self._store.why_readonly:
                with self._store.reading():
                    if self._live.worth_saving:
                        self._live.save()

    def _found(self, record: Record | None, id: int) -> Record:
        if record is None:
            raise MemoryError_(f"there is no edit {id!r} in {self.path}; `memedit list` shows what is there")
        return record

    def _usable(self, record: Record) -> Record:
        if record.status == "superseded":
            raise MemoryError_(
                f"edit {record.id} was superseded by edit {record.superseded_by}; change that one"
            )
        if record.status == "forgotten":
            raise MemoryError_(f"edit {record.id} was forgotten; add it again")
        return record


def _vectors(
    encoder: Encoder, edits: Sequence[Edit], progress: Callable[[int, int], None] | None = None
) -> dict[str, bytes]:
    """The edits' views, encoded, as bytes to keep, by content hash."""
    found = {}
    for start in range(0, len(edits), _BATCH):
        some = edits[start : start + _BATCH]
        texts = [text for edit in some for text in encoder.texts(edit)]
        vectors = np.asarray(encoder.encode(texts)).reshape(len(some), -1)
        found |= {edit.content_hash: reading.pack(row) for edit, row in zip(some, vectors, strict=True)}
        if progress is not None:
            progress(start + len(some), len(edits))
    return found


def _ranked(
    rows: Sequence[tuple[Record, np.ndarray]], query: np.ndarray, named: set[int], k: int
) -> builtins.list[Near]:
    """The k nearest by exact cosine, and the k nearest of those that are named; the newer first among equals."""
    near = [Near(record, float(vectors[0] @ query), record.id in named, vectors) for record, vectors in rows]
    near.sort(key=lambda n: (-n.cosine, -n.record.id))
    kept = {id(n) for n in near[:k]} | {id(n) for n in [n for n in near if n.named][:k]}
    return [n for n in near if id(n) in kept]


def _shipped_encoder() -> Encoder:
    from memedit.scope import ScopeClassifier  # late: it imports more than `memedit list` needs

    return ScopeClassifier.load()
