"""The part of `EditMemory` that looks after it: is it well, is there a copy, does it take more space than it needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from memedit.errors import EncoderMismatch
from memedit.memory import backup as copies
from memedit.memory import compaction, health, purge, reading, repair, writing
from memedit.memory.backup import Copied
from memedit.memory.compaction import Compacted
from memedit.memory.live import LiveIndex
from memedit.memory.records import Encoder
from memedit.memory.store import Store
from memedit.memory.vectors import Progress, Vectors

_OFF = 0.1  # how far a vector may lie from the one that the encoder gives on another machine or batch size


class Care:
    """What `EditMemory` can do with itself as a whole."""

    _store: Store
    _vectors: Vectors
    _live: LiveIndex

    def stats(self) -> dict[str, Any]:
        """Counts, sizes and settings, as plain JSON types."""
        with self._store.reading() as db:
            return health.stats(db, self._store.folder)

    def check(self) -> list[str]:
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
        self._write_index()

    def save_index(self) -> None:
        """Write the index's snapshot, so that the next opening is quick; `close` does so where it pays.

        Raises:
            MemoryError_: it can't be written.
        """
        with self._store.reading() as db:
            self._live.level(db)
            self._live.save()
        self._drop_stale()

    def _drop_stale(self) -> None:
        """An index that was saved while another process purged is of no use, and must not stay."""
        with suppress(OSError), self._store.reading() as db:
            purge.drop_stale(db, self._store.folder)

    def backup(self, path: str | Path, *, force: bool = False, progress: Progress | None = None) -> Copied:
        """Copy the memory, as it is now, into a folder that opens as a memory; others may write meanwhile.

        Args:
            force: replace the memory that is there. progress: called with (pages copied, all pages).

        Raises:
            MemoryError_: the folder is taken, or can't be written, or this memory is damaged.
        """
        return copies.backup(self._store, Path(path), force=force, progress=progress)

    def compact(self) -> Compacted:
        """Give back space: holes in the database, its log, vectors and files that belong to nothing.

        No edit and no version goes. Vectors stay for what each edit says now; undoing a change of content
        encodes the former content again.

        Raises:
            MemoryBusy: another process writes. MemoryError_: there is no room for the copy that this needs.
        """
        before = compaction.size(self._store.folder)
        dropped, waits = compaction.compact(self._store)
        swept = compaction.sweep(self._store)
        self._write_index()
        return Compacted(before, compaction.size(self._store.folder), dropped, swept, waits)

    def mend(self, progress: Progress | None = None) -> list[str]:
        """Make good whatever can be derived: vectors that are missing or damaged, lists, patches, the index.

        Returns:
            What was done, a sentence each; also where vectors are missing and the encoder at hand is another's.
        """
        done = []
        with self._store.writing() as db:
            bad = reading.unsound(db)
            db.conn.executemany("DELETE FROM vectors WHERE hash = ?", [(hash,) for hash in bad])
            lost = health.lost_patches(db, self._store.folder)
            db.conn.executemany("DELETE FROM patches WHERE key = ?", [(key,) for key in lost])
            if lost:
                done.append(
                    f"dropped {len(lost):,} patches that are lost or damaged; they are prepared again"
                )
            writing.relist(db)
        try:
            with self._store.writing() as db:
                bare = [record.edit for record in reading.without_vectors(db)]
                if bare:
                    self._vectors.keep(db, bare, self._vectors.of(bare, progress, db))
                    done.append(f"encoded {len(bare):,} edits whose vectors were missing or damaged")
        except EncoderMismatch as error:
            done.append(f"{len(bare):,} edits have no vectors and can't be found: {error}")
        if swept := compaction.sweep(self._store):
            done.append(f"removed {swept:,} files that belonged to nothing")
        self._write_index()
        return [*done, "made the index anew"]

    def spot_check(self, count: int = 64) -> list[str]:
        """What is wrong with the vectors of some live edits, spread over all, by encoding those edits again."""
        with self._store.reading() as db:
            ids = [id for (id,) in db.execute("SELECT id FROM edits WHERE status = 'live' ORDER BY id")]
            some = ids[:: -(-len(ids) // count) or 1]
            rows = list(self._live.rows(db, some).values()) if self._live.level(db) is not None else []
        if not rows:
            return []
        encoder = self._vectors.encoder
        texts = [text for record, _ in rows for text in encoder.texts(record.edit)]
        again = np.asarray(encoder.encode(texts)).reshape(len(rows), len(encoder.views), -1)
        off = sum(
            bool(np.any(np.linalg.norm(new - old, axis=-1) > _OFF))
            for new, (_, old) in zip(again, rows, strict=True)
        )
        if not off:
            return []
        return [
            f"{off} of {len(rows)} vectors looked at are not the encoder's; run `memedit rebuild --reencode`"
        ]

    def _write_index(self) -> None:
        with self._store.reading() as db:
            self._live.rebuild(db)
            self._live.save()
        self._drop_stale()


def restore(
    source: str | Path,
    path: str | Path,
    *,
    force: bool = False,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> Copied:
    """Put a backup in the place of a memory; see `memedit.memory.backup.restore`."""
    return copies.restore(Path(source), Path(path), force=force, timeout=timeout, progress=progress)


def repair_memory(
    path: str | Path,
    *,
    encoder: Encoder | Callable[[], Encoder] | None = None,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> list[str]:
    """Save every readable row of a damaged memory, and make anew what is derived; a sound one loses nothing by it.

    Returns:
        What was done, a sentence each.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is no memory, or nothing of it can be read.
    """
    from memedit.memory.memory import EditMemory  # which is made of this module

    folder, said = Path(path), []
    if repair.needed(folder, timeout):
        done = repair.repair(folder, timeout)
        saved = ", ".join(f"{count:,} {name}" for name, count in done.saved.items())
        said = [f"saved {saved}; the damaged database is kept as {done.kept}", *done.notes]
    with EditMemory.open(folder, encoder=encoder, create=False, timeout=timeout) as memory:
        said.extend(memory.mend(progress))
    return said
