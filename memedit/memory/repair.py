"""A new database in the place of a damaged one, which is kept beside it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from memedit.errors import MemoryBusy, MemoryError_, NewerMemory, OldSchema
from memedit.memory import content, wal
from memedit.memory.health import damage
from memedit.memory.reconcile import Repaired, build
from memedit.memory.salvage import salvage, tables_of
from memedit.memory.snapshot import sync_folder
from memedit.memory.store import DAMAGED, FILE, Store


def needed(folder: Path, timeout: float = 10.0) -> bool:
    """Whether something is lost or altered that can't be derived from what is there.

    Raises:
        MemoryBusy: another process writes. MemoryError_: it can't be opened, for another reason than damage.
    """
    if not (folder / FILE).exists() and not list(folder.glob(f"{DAMAGED}*")):
        raise MemoryError_(f"there is no memory at {folder} to repair")
    if wal.damaged(_log(folder / FILE)):
        return True
    try:
        with closing(Store(folder, timeout=timeout)) as store, store.reading() as db:
            return any(damage(db))
    except (MemoryBusy, NewerMemory, OldSchema):
        raise
    except (MemoryError_, ValueError):
        return True


def repair(folder: Path, timeout: float = 10.0) -> Repaired:
    """Put a database of all rows that can be read in the place of a damaged one, which is kept beside it.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is nothing to repair, or nothing can be written.
    """
    with replaced(folder, timeout) as (kept, new):
        done = Repaired(kept)
        with closing(Store(new.parent / "built")) as store, store.writing() as db:
            build(db, folder, *salvage(kept, _log(kept), tables_of(db)), done)
        os.replace(store.file, new)
    return done


@contextmanager
def replaced(folder: Path, timeout: float = 10.0) -> Iterator[tuple[Path, Path]]:
    """Two files: the damaged database, kept as it is, and where the block is to write the one for its place.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is nothing to replace, or nothing can be written.
    """
    file = folder / FILE
    try:
        with _locked(file, timeout), tempfile.TemporaryDirectory(dir=folder, prefix=".repair-") as beside:
            new, known = Path(beside) / FILE, set(folder.iterdir())
            kept = _set_aside(folder)
            try:
                yield kept, new
            except BaseException:
                for path in {kept, _log(kept)} - known:
                    path.unlink(missing_ok=True)
                raise
            for path in (_log(kept), kept.with_name(f"{kept.name}-shm")):  # which reading it has made
                if path.exists() and (path.name.endswith("-shm") or not path.stat().st_size):
                    path.unlink()
            with open(new, "rb+") as handle:
                os.fsync(handle.fileno())
            # The database first: a log without one does no harm, and a repair that is cut short here is
            # told by what is missing.
            for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                (folder / name).unlink(missing_ok=True)
            os.replace(new, file)
            sync_folder(folder)
    except OSError as error:
        raise MemoryError_(
            f"{folder} can't be repaired: {error.strerror or error}; the damaged files are as they were"
        ) from error


def _free_name(folder: Path) -> Path:
    """Where a database that is taken out of use is to lie."""
    stamp = content.instant(None)[:19].replace(":", "").replace("-", "")
    names = (folder / f"{DAMAGED}{stamp}{more}" for more in ("", *(f".{n}" for n in range(1, 1000))))
    return next(path for path in names if not path.exists())


def _log(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def _set_aside(folder: Path) -> Path:
    """A copy of the database and its log, on the disk; what a repair that was cut short left, where it is gone."""
    file, kept = folder / FILE, _free_name(folder)
    if not file.exists():
        left = sorted(p for p in folder.glob(f"{DAMAGED}*") if not p.name.endswith(("-wal", "-shm")))
        if not left:
            raise MemoryError_(f"there is no memory at {folder} to repair")
        return left[-1]
    # The log first: a copy with a log and no database is none, one without its log would lose what is in it.
    for source, copy in ((_log(file), _log(kept)), (file, kept)):
        if source.exists():
            shutil.copyfile(source, copy)
            with open(copy, "rb+") as handle:
                os.fsync(handle.fileno())
    sync_folder(folder)
    return kept


@contextmanager
def _locked(file: Path, timeout: float) -> Iterator[None]:
    """Nobody else writes meanwhile, as far as the file's damage lets that be seen to."""
    if not file.exists():
        yield
        return
    with closing(sqlite3.connect(file, timeout=timeout, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if "locked" in str(error):
                raise MemoryBusy(
                    f"the memory at {file.parent} is being written; stop what writes it, then repair it"
                ) from error
        yield
