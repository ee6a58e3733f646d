"""A copy of a memory while it is in use, and its way back.

A backup is a folder that opens as a memory, written beside and moved into place: whole, or not there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memedit.errors import MemoryBusy, MemoryError_
from memedit.memory import wal
from memedit.memory.compaction import abandoned, size, sweep
from memedit.memory.migrations import SCHEMA
from memedit.memory.patches import FOLDER, path_of
from memedit.memory.repair import replaced
from memedit.memory.snapshot import sync_folder, write_durably
from memedit.memory.store import FILE, Store

Progress = Callable[[int, int], None]

_PAGES = 2048  # that are copied between two steps of a progress bar
_INDEXES = ("vectors.faiss", "vectors.safetensors")
DEMONSTRATIONS = (
    "demonstrations.safetensors"  # see memedit.demonstrations, which imports the memory and not the reverse
)


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or a restore has put in place.

    Attributes:
        path: where. edits: live ones. operations: in its history. bytes: on the disk.
    """

    path: str
    edits: int
    operations: int
    bytes: int


def backup(store: Store, target: Path, *, force: bool = False, progress: Progress | None = None) -> Copied:
    """Copy a memory, as it is at this moment, into a folder of its own.

    Readers and writers go on meanwhile. Kept with it are the patches that are whole, and the index.

    Args:
        force: take the place of a memory that is there. progress: called with (pages copied, all pages).

    Raises:
        MemoryError_: the folder is taken, or can't be written, or the memory is damaged.
    """
    source = store.folder.resolve()
    where = target.resolve()
    if where == source or source in where.parents or where in source.parents:
        raise MemoryError_(f"{target} is the memory's own folder, or inside it; name another for the backup")
    _check_free(target, force)
    with _said(target), _beside(where) as made:
        with closing(store.another_reader()) as reader:
            reader.execute("BEGIN")  # one state, whatever is written meanwhile
            reader.execute("SELECT count(*) FROM meta").fetchone()
            _copy(reader.conn, made / FILE, progress)
        with closing(_connect(made / FILE)) as copy:
            _check_whole(copy, store.folder, "quick_check")
            _drop(copy, _copy_files(source, made, copy))
        _move(made, where)
    return _measured(target)


def restore(
    source: Path,
    target: Path,
    *,
    force: bool = False,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> Copied:
    """Put a backup in the place of a memory, in one step; programs that have the memory open see it at their next query.

    Args:
        force: also where there are edits already; they are gone then. timeout: seconds to wait for another
            writer. progress: called with (pages copied, all pages).

    Raises:
        MemoryError_: the backup is none, or damaged, or newer than this memedit; or there is a memory already.
        MemoryBusy: another process writes into the memory.
    """
    if source.resolve() == target.resolve():
        raise MemoryError_(f"{source} is the memory itself; name the backup's folder")
    with _said(target), closing(_opened(source)) as copy:
        _check_whole(copy, source, "integrity_check")
        if not (target / FILE).exists():
            _check_free(target, force)
            where = target.resolve()
            with _beside(where) as made:
                _copy(copy, made / FILE, progress)
                with closing(_connect(made / FILE)) as new:
                    _drop(new, _copy_files(source, made, copy))
                _move(made, where)
            return _measured(target)
        store = _old(target, timeout)
        if store is None:  # damaged: nothing can be written into it, and it is kept
            if not force:
                raise MemoryError_(f"{target} is damaged; --force puts the backup in its place")
            with replaced(target, timeout) as (_, made_file):
                _copy(copy, made_file, progress)
                with closing(_connect(made_file)) as new:
                    _drop(new, _copy_files(source, target, copy))
            return _measured(target)
        with closing(store):
            if store.meta("memory") and _edits(store) and not force:
                raise MemoryError_(f"{target} holds edits already; --force puts the backup in their place")
            _copy_patches(source, target, copy)
            with store.alone() as db:
                _overwrite(copy, db.conn, target, progress)
            with store.writing() as db:
                _drop(db.conn, _copy_files(source, target, copy))
            sweep(store)
    return _measured(target)


# -- the database


def _connect(file: Path, mode: str = "rw", more: str = "") -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?mode={mode}{more}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def _opened(source: Path) -> sqlite3.Connection:
    """A backup's database, of this schema or an older one, for reading; also from where nothing can be written."""
    file = source / FILE
    if not file.is_file():
        raise MemoryError_(f"{source} is no backup: it holds no {FILE}; name the folder that `backup` made")
    if wal.damaged(file.with_name(FILE + "-wal")):
        raise MemoryError_(
            f"the log of {file} is damaged; `memedit doctor --repair --memory {source}` saves what it can"
        )
    connection = _connect(file, "ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        connection = _connect(file, "ro", "&immutable=1")
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        raise MemoryError_(f"{file} is no memory, or damaged ({error}); name another backup") from None
    if row is None or int(row[0]) > SCHEMA:
        connection.close()
        raise MemoryError_(f"{source} was made by a newer memedit; update with `pip install -U memedit`")
    return connection


def _old(target: Path, timeout: float) -> Store | None:
    """The memory that a backup is to replace; None where it is damaged."""
    try:
        store = Store(target, timeout=timeout)
    except MemoryBusy:
        raise
    except MemoryError_ as error:
        if "damaged" in str(error):
            return None
        raise
    if _sound(store):
        return store
    store.close()
    return None


def _sound(store: Store) -> bool:
    try:
        with store.reading() as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except MemoryError_:
        return False


def _edits(store: Store) -> bool:
    with store.reading() as db:
        return db.execute("SELECT 1 FROM versions LIMIT 1").fetchone() is not None


def _check_whole(copy: sqlite3.Connection, source: Path, how: str) -> None:
    try:
        (said,) = copy.execute(f"PRAGMA {how}(1)").fetchone()
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise MemoryError_(
            f"{source / FILE} is damaged ({said.splitlines()[-1]}); nothing was changed, "
            f"`memedit doctor --repair --memory {source}` saves what can be read"
        )


def _copy(source: sqlite3.Connection, file: Path, progress: Progress | None) -> None:
    with closing(_connect(file, "rwc")) as copy:
        source.backup(copy, pages=_PAGES, progress=_steps(progress))


def _overwrite(
    source: sqlite3.Connection, old: sqlite3.Connection, folder: Path, progress: Progress | None
) -> None:
    """One transaction for everybody who has the old one open."""
    steps = _steps(progress)

    def step(status: int, remaining: int, total: int) -> None:
        if status in (5, 6):  # busy, locked: SQLite has waited already
            raise MemoryBusy(
                f"the memory at {folder} is being written by another process; nothing was changed, try again"
            )
        steps(status, remaining, total)

    source.backup(old, pages=_PAGES, progress=step)


def _steps(progress: Progress | None) -> Callable[[int, int, int], None]:
    def step(status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    return step


# -- the files beside it


def _copy_files(source: Path, made: Path, copy: sqlite3.Connection) -> list[str]:
    """Patches, the index, and demonstrations; the keys of patches that are lost or damaged."""
    lost = _copy_patches(source, made, copy)
    for name in (
        *_INDEXES,
        DEMONSTRATIONS,
    ):  # an index that is of something else is made anew
        (made / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(source / name, made / name)
    return lost


def _copy_patches(source: Path, made: Path, copy: sqlite3.Connection) -> list[str]:
    lost = []
    for key, digest in copy.execute("SELECT DISTINCT key, sha256 FROM patches").fetchall():
        try:
            data = path_of(source, key).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() == digest:
            (made / FOLDER).mkdir(exist_ok=True)
            write_durably(path_of(made, key), data)
        else:
            lost.append(key)
    return lost


def _drop(db: sqlite3.Connection, lost: list[str]) -> None:
    """Patches whose files could not be copied are prepared again."""
    db.executemany("DELETE FROM patches WHERE key = ?", [(key,) for key in lost])


# -- the folder


def _check_free(target: Path, force: bool) -> None:
    """See that a folder may be written, and is not somebody else's."""
    if target.exists() and not target.is_dir():
        raise MemoryError_(f"{target} is a file; a memory is a folder: name another path")
    try:
        inside = [path.name for path in target.iterdir()] if target.exists() else []
    except OSError as error:
        raise MemoryError_(f"{target} can't be read: {error.strerror}") from None
    if inside and FILE not in inside:
        raise MemoryError_(
            f"{target} holds {inside[0]!r} and is no memory; nothing was touched, name another folder"
        )
    if inside and not force:
        raise MemoryError_(
            f"{target} holds a memory already; name another folder, or replace it with --force"
        )


@contextmanager
def _beside(where: Path) -> Iterator[Path]:
    """A new folder in the same place, gone in the end if it wasn't moved."""
    where.parent.mkdir(parents=True, exist_ok=True)
    made = where.with_name(f".{where.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move(made: Path, where: Path) -> None:
    """Into place; what was there stays aside until then."""
    old = made.with_suffix(".old")
    sync_folder(made)
    if where.exists():
        where.rename(old)
    try:
        made.rename(where)
    except BaseException:
        if old.exists():
            old.rename(where)
        raise
    sync_folder(where.parent)
    shutil.rmtree(old, ignore_errors=True)
    for left in [*where.parent.glob(f".{where.name}.*.part"), *where.parent.glob(f".{where.name}.*.old")]:
        if abandoned(left):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)


def _measured(folder: Path) -> Copied:
    with (
        closing(Store(folder)) as store,
        store.reading() as db,
    ):  # also brings an old one to the present schema
        live = db.execute("SELECT count(*) FROM edits WHERE status = 'live'").fetchone()[0]
        operations = db["operations"].count
    return Copied(str(folder), live, operations, size(folder))


@contextmanager
def _said(target: Path) -> Iterator[None]:
    """What the disk and SQLite say, in words for people."""
    try:
        yield
    except OSError as error:
        raise MemoryError_(
            f"{target} can't be written: {error.strerror or error}; what was there is as it was"
        ) from error
    except sqlite3.DatabaseError as error:
        what = "the disk is full" if "full" in str(error) else str(error)
        raise MemoryError_(f"{target} can't be written: {what}; what was there is as it was") from error
