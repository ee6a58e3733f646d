"""The index of a memory's live edits, kept level with SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from sqlite_utils import Database

from memedit.errors import EncoderMismatch, MemoryError_
from memedit.memory import conflicts, reading, snapshot
from memedit.memory.index import VectorIndex, choose
from memedit.memory.records import Array, Conflict, Near, Record
from memedit.memory.rules import cosines, named_in, suspicious
from memedit.memory.snapshot import Mark
from memedit.memory.suspects import close_pairs

if TYPE_CHECKING:
    import torch

    from memedit.memory.torch_index import TorchIndex

_KEPT_TEXTS = 65_536  # the same, without their vectors, for an index that keeps these
_KEPT = 4096  # edits whose rows stay in memory between searches


class LiveIndex:
    """Made on first need from its snapshot, or from SQLite where that is lost, damaged, foreign or too old.

    Not for two threads at once: the caller holds the store's reading lock.

    Args:
        folder: where the snapshot lies. device: see `memedit.memory.index.choose`.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder, self.device = folder, device
        self.index: VectorIndex | None = None
        self.mark: Mark | None = None
        self._saved = 0  # the operation of the snapshot on disk; 0: none that is of use
        self._behind = 0  # edits that changed since
        self._rows: dict[int, tuple[Record, np.ndarray]] = {}
        self._records: dict[int, Record] = {}
        self._dim = 0

    def prepare(self) -> None:
        """See that there is something to search with.

        Raises:
            MemoryError_: no FAISS is installed.
        """
        if self.index is None:
            kind, options = choose(self.device)
            kind(1, **options)

    def level(self, db: Database) -> VectorIndex | None:
        """The index of just the edits that are live in `db`; None while no encoder is known, so no edit."""
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        if "encoder_dim" not in meta:
            return None
        operation, at = reading.last_operation(db)
        now = Mark(meta["memory"], meta["encoder_fingerprint"], operation, at)
        if self.index is not None and now == self.mark:
            return self.index
        self._dim = int(meta["encoder_dim"])
        if self.index is None:
            self._load(db, now)
        elif not self._follows(db, now):
            self._build(db)
        self._replay(db)
        self.mark = now
        return self.index

    def rebuild(self, db: Database) -> None:
        """Forget what is there, on disk too, and make the index from SQLite."""
        self.index, self.mark, self._saved = None, None, 0
        kind, _ = choose(self.device)
        (self.folder / kind.file).unlink(missing_ok=True)
        self.level(db)

    def rows(self, db: Database, ids: Iterable[int]) -> dict[int, tuple[Record, np.ndarray]]:
        """Records and vectors (views, dim) of live edits, by id."""
        wanted = set(ids)
        missing = sorted(wanted - self._rows.keys())
        if missing:
            if len(self._rows) + len(missing) > _KEPT:
                self._rows = {id: row for id, row in self._rows.items() if id in wanted}
            for record, vectors in reading.with_vectors(db, missing, self._dim):
                vectors.flags.writeable = False  # handed out many times
                self._rows[record.id] = (record, vectors)
        return {id: self._rows[id] for id in wanted if id in self._rows}

    # -- searching

    def near(
        self, db: Database, queries: Sequence[str], vectors: Array, k: int, moment: str
    ) -> tuple[list[list[Near]], Array]:
        """See `memedit.memory.EditMemory.near_with_vectors`; vectors are (len(queries), dim) float32."""
        index = self.level(db)
        if index is None or not len(index) or not len(queries):
            return [[] for _ in queries], np.zeros((0, 0, 0), np.float32)
        if tuple(vectors.shape) != (len(queries), index.dim):
            raise EncoderMismatch(
                f"{len(queries)} queries of this memory need vectors of shape {(len(queries), index.dim)}, "
                f"not {tuple(vectors.shape)}; encode them with the memory's own encoder"
            )
        hidden = reading.not_valid(db, moment)
        named = [ids - hidden for ids in reading.named(db, [named_in(text) for text in queries])]
        if index.keeps_views:
            return self._near_on_device(db, cast("TorchIndex", index), vectors, k, hidden, named)
        asked = np.ascontiguousarray(
            vectors if isinstance(vectors, np.ndarray) else vectors.cpu(), np.float32
        )
        return self._near_on_host(db, index, asked, k, hidden, named)

    def _near_on_host(
        self,
        db: Database,
        index: VectorIndex,
        vectors: np.ndarray,
        k: int,
        hidden: set[int],
        named: list[set[int]],
    ) -> tuple[list[list[Near]], np.ndarray]:
        asked = k * index.oversampling
        _, found = index.search(vectors, asked, without=hidden)
        wanted = [
            {*ids.tolist(), *_best(index, vector, names, asked)} - {-1}
            for ids, vector, names in zip(found, vectors, named, strict=True)
        ]
        rows = self.rows(db, set().union(*wanted))
        records = {id: record for id, (record, _) in rows.items()}
        products = [
            {id: float(rows[id][1][0] @ vector) for id in ids if id in rows}
            for ids, vector in zip(wanted, vectors, strict=True)
        ]
        near = _ranked(db, records, products, named, k, lambda ids: [rows[id][1] for id in ids])
        every = [n.vectors for row in near for n in row]
        return near, np.stack(every) if every else np.zeros((0, 0, 0), np.float32)  # type: ignore[arg-type]

    def _near_on_device(
        self, db: Database, index: TorchIndex, vectors: Array, k: int, hidden: set[int], named: list[set[int]]
    ) -> tuple[list[list[Near]], torch.Tensor]:
        """The candidates' ids and cosines come to the host, where their texts are; no vector does."""
        products, found = index.candidates(index.taken(vectors), k, hidden, named)
        records = self._texts(db, set(found.ravel().tolist()) - {-1})
        cosines = [
            {id: value for id, value in zip(ids, values, strict=True) if id in records}
            for ids, values in zip(found.tolist(), products.tolist(), strict=True)
        ]
        stored: list[torch.Tensor] = []

        def views(ids: list[int]) -> Sequence[torch.Tensor]:
            stored.append(index.views(ids))
            return stored[0].unbind(0)

        return _ranked(db, records, cosines, named, k, views), stored[0]

    def _texts(self, db: Database, ids: set[int]) -> dict[int, Record]:
        """Records of live edits, by id."""
        missing = sorted(ids - self._records.keys())
        if missing:
            if len(self._records) + len(missing) > _KEPT_TEXTS:
                self._records = {id: record for id, record in self._records.items() if id in ids}
            self._records |= {record.id: record for record in reading.live_records(db, missing)}
        return {id: self._records[id] for id in ids if id in self._records}

    def suspected(self, db: Database, new: Sequence[int]) -> list[tuple[int, int, float]]:
        """Pairs (newer id, older id, cosine) that may contradict each other, with one of `new` in each.

        Not those of which it was decided that both stay.
        """
        index = self.level(db)
        ids = reading.live_among(db, new)
        if index is None or not ids:
            return []
        pairs = close_pairs(db, index, ids)
        beside = conflicts.beside(db, {id for pair in pairs for id in pair})
        pairs = {(one, other) for one, other in pairs if other not in beside.get(one, ())}
        return [(a.id, b.id, cosine) for a, b, cosine in self._suspicious(db, pairs)]

    def conflicts(self, db: Database, moment: str, more: Iterable[tuple[int, int]]) -> list[Conflict]:
        """The suspected pairs, and `more`, that are still open, the newest first; who wins is said for a moment."""
        if self.level(db) is None:
            return []
        hidden = reading.not_valid(db, moment)
        found = [
            Conflict(
                newer, older, cosine, older.id if newer.id in hidden and older.id not in hidden else newer.id
            )
            for newer, older, cosine in self._suspicious(
                db, {*conflicts.suspected(db), *((min(p), max(p)) for p in more)}
            )
        ]
        return sorted(found, key=lambda c: (c.newer.recency, c.older.recency), reverse=True)

    def _suspicious(
        self, db: Database, pairs: Iterable[tuple[int, int]]
    ) -> list[tuple[Record, Record, float]]:
        """Of pairs of live edits those that may contradict each other: (newer, older, cosine)."""
        pairs = sorted(pairs)
        rows = self.rows(db, {id for pair in pairs for id in pair})
        found = []
        for pair in pairs:
            if not all(id in rows for id in pair):
                continue
            (older, theirs), (newer, ours) = sorted((rows[id] for id in pair), key=lambda row: row[0].recency)
            said, asked = cosines(ours, theirs)
            if suspicious(newer.edit, older.edit, said, asked):
                found.append((newer, older, said))
        return found

    def save(self) -> None:
        """Write the snapshot, if it isn't up to date.

        Raises:
            MemoryError_: the folder can't be written, or the disk is full.
        """
        if self.index is None or self.mark is None or self._saved == self.mark.operation:
            return
        try:
            snapshot.save(self.folder / self.index.file, self.index.dumps(), self.mark)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self.folder.exists():
                return  # a purge in another process has just taken the unfinished file away, rightly
            raise MemoryError_(
                f"the index can't be saved in {self.folder}: {error.strerror}; the edits themselves are safe"
            ) from error
        self._saved, self._behind = self.mark.operation, 0

    def save_where_it_pays(self, db: Database) -> None:
        """Save if the next opening gains by it: to replay a few edits is cheaper than to write all.

        That it can't be written is no error here: the snapshot is a convenience.
        """
        if self.index is not None and self._behind > max(256, len(self.index) // 20):
            with suppress(MemoryError_):
                self.level(db)  # what was purged elsewhere since is not to be written
                self.save()

    # -- keeping level

    def _load(self, db: Database, now: Mark) -> None:
        kind, options = choose(self.device)
        found = snapshot.load(self.folder / kind.file)
        if found is not None:
            payload, mark = found
            try:
                self.index, self.mark = kind.loads(payload, self._dim, **options), mark
            except ValueError:
                self.index = self.mark = None
            if self.index is not None and self._follows(db, now):
                self._saved, self._behind = mark.operation, 0
                return
        self.index = kind(self._dim, **options)
        self._build(db)

    def _follows(self, db: Database, now: Mark) -> bool:
        """Whether what is known is an earlier state of this same memory, so that its tail can be replayed."""
        mark = self.mark
        if (
            mark is None
            or (mark.memory, mark.encoder) != (now.memory, now.encoder)
            or mark.operation > now.operation
        ):
            return False
        row = db.execute("SELECT at FROM operations WHERE id = ?", (mark.operation,)).fetchone()
        if (row[0] if row else "") != mark.at:
            return False
        # An index with lists was trained on what it held, a purged edit as well: it is not carried on.
        kinds = (
            "reencode",
            "purge" if self.index is not None and self.index.oversampling > 1 else "reencode",
        )
        since = "SELECT 1 FROM operations WHERE id > ? AND kind IN (?, ?) LIMIT 1"
        return db.execute(since, (mark.operation, *kinds)).fetchone() is None

    def _build(self, db: Database) -> None:
        """All live edits, from SQLite."""
        kind, options = choose(self.device)
        index = kind(self._dim, **options)
        self._put(db, index)
        operation, at = reading.last_operation(db)
        self.index, self._rows, self._records = index, {}, {}
        self.mark = Mark("", "", operation, at)
        self._saved, self._behind = 0, len(index)

    def _put(self, db: Database, index: VectorIndex, ids: Sequence[int] | None = None) -> None:
        """The vectors of live edits, of those among `ids` or of all, into an index."""
        if index.keeps_views:
            for some, views in reading.views_of(db, self._dim, ids):
                index.put(some, views)
        else:
            index.put(*reading.keys_of(db, self._dim, ids))

    def _replay(self, db: Database) -> None:
        """The edits that changed since the mark."""
        assert self.index is not None
        assert self.mark is not None
        rows = db.execute("SELECT DISTINCT edit FROM versions WHERE operation > ?", (self.mark.operation,))
        changed = [row[0] for row in rows]
        if not changed:
            return
        for id in changed:
            self._rows.pop(id, None)
            self._records.pop(id, None)
        self.index.remove(set(changed).difference(reading.live_among(db, changed)))
        oversampling = self.index.oversampling
        self._put(db, self.index, changed)
        rearranged = (
            self.index.oversampling != oversampling
        )  # which took long: the next opening is to be spared it
        self._behind += len(self.index) if rearranged else len(changed)


def _best(index: VectorIndex, query: np.ndarray, ids: set[int], k: int) -> list[int]:
    """At most k of these ids: those nearest to the query (dim,); the newer of equals."""
    given = sorted(ids, reverse=True)
    if len(given) <= k:
        return given
    products = index.vectors(given) @ query
    return [given[at] for at in np.argsort(-products, kind="stable")[:k]]


def _ranked(
    db: Database,
    records: Mapping[int, Record],
    cosines: Sequence[Mapping[int, float]],
    named: Sequence[set[int]],
    k: int,
    vectors: Callable[[list[int]], Sequence[Array]],
) -> list[list[Near]]:
    """For each query the k nearest of its ids, and the k nearest that are named; the newer first among equals.

    Args:
        cosines: of each query's ids. vectors: called once, with the ids of all that are chosen, in order.
    """
    chosen = []
    for some, names in zip(cosines, named, strict=True):
        order = sorted(some, key=lambda id: (some[id], records[id].recency), reverse=True)
        best = {*order[:k], *[id for id in order if id in names][:k]}
        chosen.append([id for id in order if id in best])
    each = iter(vectors([id for row in chosen for id in row]))
    beside = conflicts.beside(db, {id for row in chosen for id in row})
    return [
        [Near(records[id], some[id], id in names, next(each), beside.get(id, frozenset())) for id in row]
        for row, some, names in zip(chosen, cosines, named, strict=True)
    ]
