"""The index of a memory's live edits, kept level with SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from sqlite_utils import Database

from memedit.errors import EncoderMismatch, MemoryError_
from memedit.memory import conflicts, reading, snapshot
from memedit.memory.index import VectorIndex, choose
from memedit.memory.records import Conflict, Near, Record
from memedit.memory.rules import cosines, named_in, suspicious
from memedit.memory.snapshot import Mark
from memedit.memory.suspects import close_pairs

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
        self, db: Database, queries: Sequence[str], vectors: np.ndarray, k: int, moment: str
    ) -> list[list[Near]]:
        """See `memedit.memory.EditMemory.near`; vectors are (len(queries), dim) float32."""
        index = self.level(db)
        if index is None or not len(index) or not len(queries):
            return [[] for _ in queries]
        if vectors.shape != (len(queries), index.dim):
            raise EncoderMismatch(
                f"{len(queries)} queries of this memory need vectors of shape {(len(queries), index.dim)}, "
                f"not {vectors.shape}; encode them with the memory's own encoder"
            )
        hidden = reading.not_valid(db, moment)
        asked = k * index.oversampling
        _, found = index.search(vectors, asked, without=hidden)
        named = [reading.named(db, named_in(text)) - hidden for text in queries]
        wanted = [
            {*ids.tolist(), *_best(index, vector, names, asked)} - {-1}
            for ids, vector, names in zip(found, vectors, named, strict=True)
        ]
        rows = self.rows(db, set().union(*wanted))
        beside = conflicts.beside(db, rows)
        return [
            _ranked([rows[id] for id in ids if id in rows], vector, names, beside, k)
            for ids, vector, names in zip(wanted, vectors, named, strict=True)
        ]

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
        index.put(*reading.keys_of(db, self._dim))
        operation, at = reading.last_operation(db)
        self.index, self._rows = index, {}
        self.mark = Mark("", "", operation, at)
        self._saved, self._behind = 0, len(index)

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
        ids, vectors = reading.keys_of(db, self._dim, changed)
        self.index.remove(set(changed).difference(ids.tolist()))
        oversampling = self.index.oversampling
        self.index.put(ids, vectors)
        rearranged = (
            self.index.oversampling != oversampling
        )  # which took long: the next opening is to be spared it
        self._behind += len(self.index) if rearranged else len(changed)


def _best(index: VectorIndex, query: np.ndarray, ids: set[int], k: int) -> list[int]:
    """At most k of these ids: those nearest to the query (dim,)."""
    given = list(ids)
    if len(given) <= k:
        return given
    products = index.vectors(given) @ query
    return [given[at] for at in np.argsort(-products)[:k]]


def _ranked(
    rows: Sequence[tuple[Record, np.ndarray]],
    query: np.ndarray,
    named: set[int],
    beside: Mapping[int, frozenset[int]],
    k: int,
) -> list[Near]:
    """By exact cosine: the k nearest, and the k nearest that are named; the newer first among equals."""
    near = [
        Near(
            record, float(vectors[0] @ query), record.id in named, vectors, beside.get(record.id, frozenset())
        )
        for record, vectors in rows
    ]
    near.sort(key=lambda n: (n.cosine, n.record.recency), reverse=True)
    best = {n.record.id for n in near[:k]} | {n.record.id for n in [n for n in near if n.named][:k]}
    return [n for n in near if n.record.id in best]
