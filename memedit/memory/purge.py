"""Edits are purged: no byte of what they said is left in any file of the memory.

In steps, of which each may be cut off by a crash. One transaction blanks the edits' rows and marks the purge as
unfinished. Then the files beside the database go (snapshots of the index, patches that belong to no edit any
more, abandoned temporary files), the database is written anew without the room that the rows left, and the
write-ahead log is cut to nothing, which waits for readers. What was cut off is done by the next opening, or the
next write, of the memory. Copies of the folder (backups) are the user's own: nobody else knows where they are.

An index that another process saves late from what it knew before is thrown away by that process itself, or by
the next one that opens the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlite_utils import Database

from memedit.errors import MemoryError_
from memedit.memory import content, snapshot
from memedit.memory.patches import FOLDER
from memedit.memory.reading import record
from memedit.memory.store import FILE, Store
from memedit.memory.writing import Change, put_meta

LAST = "purged"  # in the meta table: the last operation that purged
UNFINISHED = "purge_unfinished"  # the same, after "files " or "log ": what is still to be done
SNAPSHOTS = ("vectors.faiss", "vectors.safetensors")
_OWN = {FILE, f"{FILE}-wal", f"{FILE}-shm", *SNAPSHOTS, FOLDER}


def strike(db: Database, ids: Sequence[int]) -> int:
    """Blank the rows of edits, inside a transaction; gives the operation's id.

    What is left of each is a tombstone: its id, the operations that changed it, and that it was purged; all
    tombstones hold the same empty edit, and its hash.

    Raises:
        MemoryError_: there is no such edit, or it was purged before.
    """
    records = [record(db, id) for id in dict.fromkeys(ids)]
    for found in records:
        if found.status == "purged":
            raise MemoryError_(f"edit {found.id} was purged already: nothing of it is left")
    change = Change(db, "purge")
    change.begin()
    blank = content.loads("{}")
    for found in records:
        db.execute(
            "UPDATE versions SET status = 'purged', hash = ?, content = ? WHERE edit = ?",
            (blank.content_hash, content.dumps(blank), found.id),
        )
        change.write(found.id, found.version + 1, blank, "purged", None, "purge", found.added, found.stated)
        for table, column in (
            ("conflicts", "one"),
            ("conflicts", "other"),
            ("kept", "one"),
            ("kept", "other"),
            ("unchecked", "edit"),
            ("patches", "edit"),
        ):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (found.id,))
    db.execute("DELETE FROM vectors WHERE hash NOT IN (SELECT hash FROM versions)")
    put_meta(db, LAST, str(change.id))
    put_meta(db, UNFINISHED, f"files {change.id}")
    return change.id


def finish(store: Store, wait: float) -> str | None:
    """Do what a purge left to be done, if any; gives a sentence for what still is.

    Args:
        wait: seconds to wait for readers.

    Raises:
        MemoryBusy, MemoryError_: as a write; what was done stays done.
    """
    while (unfinished := store.meta(UNFINISHED)) is not None:
        step, _, operation = unfinished.partition(" ")
        if step == "files":
            with store.writing() as db:
                _drop_files(db, store.folder)
            store.rewrite()
            _advance(store, unfinished, f"log {operation}")
        elif store.empty_log(wait):
            _advance(store, unfinished, None)
        else:
            return (
                f"the purge is done in the database at {store.folder}, but a reader holds its write-ahead log "
                f"({FILE}-wal), which still has the old bytes; they go with the next command that opens "
                "the memory for writing after the reader has ended"
            )
    return None


def resume(store: Store) -> bool:
    """At an opening: finish what was cut off, as far as nobody is in the way; says whether nothing is left to do."""
    if store.why_readonly or store.meta(LAST) is None:
        return True
    try:
        with store.reading() as db:
            drop_stale(db, store.folder)
        return finish(store, wait=0.1) is None
    except (MemoryError_, OSError):
        return False


def drop_stale(db: Database, folder: Path) -> None:
    """Throw away snapshots of the index from before the last purge."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (LAST,)).fetchone()
    if row is None:
        return
    for path in (folder / name for name in SNAPSHOTS):
        mark = snapshot.peek(path)
        if mark is None or mark.operation < int(row[0]):
            path.unlink(missing_ok=True)


def others(folder: Path) -> Iterator[str]:
    """Files in the folder that are none of the memory's."""
    for path in sorted(folder.iterdir()):
        if path.name not in _OWN:
            yield path.name


def _drop_files(db: Database, folder: Path) -> None:
    """Delete what may hold a purged edit and can be had again; inside a transaction, so that nobody writes a patch.

    A process that is just writing a snapshot loses its temporary file, and saves none.
    """
    for path in [*(folder / name for name in SNAPSHOTS), *folder.glob("*.tmp")]:
        path.unlink(missing_ok=True)
    known = {f"{key}.safetensors" for (key,) in db.execute("SELECT key FROM patches")}
    for path in (folder / FOLDER).glob("*"):
        if path.name not in known:
            path.unlink(missing_ok=True)


def _advance(store: Store, seen: str, now: str | None) -> None:
    """Write down the next step, unless another purge has begun meanwhile."""
    with store.writing() as db:
        if now is None:
            db.execute("DELETE FROM meta WHERE key = ? AND value = ?", (UNFINISHED, seen))
        else:
            db.execute("UPDATE meta SET value = ? WHERE key = ? AND value = ?", (now, UNFINISHED, seen))
