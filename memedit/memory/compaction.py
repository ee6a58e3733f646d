"""Giving back space: files that belong to nothing, vectors that no edit needs, holes in the database."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from memedit.memory.patches import FOLDER
from memedit.memory.snapshot import ABANDONED
from memedit.memory.store import Store


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `compact` did: bytes of the memory's folder before and after.

    Attributes:
        vectors: how many were dropped because no edit has their content. files: how many, that belonged to
            nothing. waits: a reader kept the log from being emptied; the last one that closes does it.
    """

    before: int
    after: int
    vectors: int
    files: int
    waits: bool


def sweep(store: Store) -> int:
    """Remove files that belong to nothing: patches of no edit, and what killed processes were writing."""
    swept = 0
    with store.writing() as db:  # while this holds, nobody writes a patch
        known = {f"{key}.safetensors" for (key,) in db.execute("SELECT key FROM patches")}
        for path in [*(store.folder / FOLDER).glob("*")]:
            if path.is_file() and path.name not in known:
                path.unlink(missing_ok=True)
                swept += 1
    for path in [*store.folder.glob("*.tmp"), *store.folder.glob(".repair-*")]:
        with suppress(OSError):
            if abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                swept += 1
    return swept


def compact(store: Store) -> tuple[int, bool]:
    """Drop vectors that no edit needs, and write the database anew without holes.

    Returns:
        How many vectors, and whether a reader kept the log from being emptied.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is no room for the copy that this needs.
    """
    with store.writing() as db:
        gone = "DELETE FROM vectors WHERE hash NOT IN (SELECT hash FROM edits)"
        dropped = db.execute(gone).rowcount
    store.rewrite()
    return dropped, not store.empty_log(wait=0.5)


def size(folder: Path) -> int:
    """Bytes of all files in a folder, but for what SQLite shares between processes."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            total += path.stat().st_size if path.is_file() and not path.name.endswith("-shm") else 0
    return total


def abandoned(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > ABANDONED
