"""The SQLite file of a memory: how it is opened, read and written, and what its errors mean.

One connection reads and another writes, so that threads that read never wait for one that waits to write.
What the rows mean is the business of `memedit.memory.reading` and `memedit.memory.writing`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlite_utils import Database

from memedit.errors import MemoryBusy, MemoryDamaged, MemoryError_, NewerMemory, OldSchema
from memedit.memory import wal
from memedit.memory.migrations import SCHEMA, migrations

FILE = "memory.db"
DAMAGED = f"{FILE}.damaged-"  # and a time: what a repair has kept
_WAL_KEPT = 1 << 24  # bytes that the write-ahead log keeps after a bulk write was taken over
# Bytes of a log that an opening looks through; a longer one is only left by a process killed in a huge import.
_WAL_LOOKED_AT = 1 << 26
# What SQLite says of a damaged file: of its pages, its header, a text in it, its list of tables.
_SIGNS = (
    "malformed", "not a database", "corrupt", "UTF-8", "no such table", "no such column", "unsupported file format",
)  # fmt: skip


class _TakenBack(Exception):
    """Ends a transaction that was a trial."""


class Store:
    """The open database of one memory.

    Args:
        folder: the memory's folder; made where it is missing, if `create`.
        readonly: never write. A folder that can't be written is opened like this too.
        timeout: seconds to wait for another process that writes.

    Raises:
        MemoryError_: there is no memory, or it is damaged, newer than this memedit, or no memory at all.
    """

    def __init__(
        self, folder: Path, *, create: bool = True, readonly: bool = False, timeout: float = 10.0
    ) -> None:
        self.folder, self.file, self.timeout = folder, folder / FILE, timeout
        self.why_readonly = "it was opened for reading only" if readonly else None
        self._lock = threading.RLock()
        self._write_lock = threading.Lock()
        self._writer: Database | None = None
        self._still: tuple[int, ...] | None = None
        self.closed = False
        self._find(create and not readonly)
        if not self.why_readonly and not all(
            os.access(path, os.W_OK) for path in (folder, self.file) if path.exists()
        ):
            self.why_readonly = f"{folder} can't be written by this user"
        with suppress(OSError):  # what can't be read SQLite will say better
            if self.file.exists() and wal.damaged(self.file.with_name(FILE + "-wal"), _WAL_LOOKED_AT):
                lost = "is damaged, and edits in it would be lost; run `memedit doctor --repair`"
                raise MemoryDamaged(f"the log of {self.file} {lost}")
        with self._said():
            self._reader = self._open_reader()
            self._opened = self._which()
            try:
                self._settle(create and not self.why_readonly)
            except BaseException:
                self._reader.close()
                raise

    # -- opening

    def _find(self, create: bool) -> None:
        """See that there is a memory or a place for one; touches nothing that is something else."""
        if self.folder.exists() and not self.folder.is_dir():
            raise MemoryError_(f"{self.folder} is a file; a memory is a folder: name another path")
        try:
            if self.file.exists():
                return
            inside = (
                [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
                if self.folder.exists()
                else []
            )
        except OSError as error:
            raise MemoryError_(f"{self.folder} can't be read: {error.strerror}") from None
        if any(name.startswith(DAMAGED) for name in inside) and not self.file.exists():
            raise MemoryDamaged(
                f"a repair of the memory at {self.folder} was cut short; run `memedit doctor --repair` again"
            )
        if inside and not self.file.exists():  # asked again: another process may make it at this moment
            raise MemoryError_(
                f"{self.folder} is no memory: it holds {inside[0]!r} but no {FILE}; "
                "nothing was touched, name another folder"
            )
        if not create:
            raise MemoryError_(
                f"there is no memory at {self.folder}; the first `memedit add-fact` or `import` makes one"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MemoryError_(
                f"{self.folder} can't be made: {error.strerror}; name a folder that you may write"
            ) from None

    def _open_reader(self) -> Database:
        if not self.why_readonly:
            return self._connect("rwc")
        database = self._connect("ro")
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            # In a folder that can't be written, SQLite can't make the -shm file that WAL needs. While nobody
            # writes the file can be read as it stands; `_look_again` sees when that ends.
            database.close()
            if self._size_of_wal():
                raise
            self._still = self._state()
            database = self._connect("ro", "&immutable=1")
        return database

    def _connect(self, mode: str, more: str = "") -> Database:
        uri = f"{self.file.absolute().as_uri()}?mode={mode}{more}"
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=self.timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        return Database(connection, recursive_triggers=False, execute_plugins=False)

    def _settle(self, create: bool) -> None:
        """Check that this is a memory, of a schema that we know; make or migrate it where that is allowed."""
        tables = set(self._reader.table_names())
        if not tables and not create:
            raise MemoryError_(
                f"there is no memory at {self.folder}; the first `memedit add-fact` or `import` makes one"
            )
        if tables and not {"meta", "operations", "versions"} <= tables:
            raise MemoryError_(
                f"{self.file} is another program's database, not a memory; nothing was touched"
            )
        if tables:
            applied = len(migrations.applied(self._reader))
            written = max(applied, int(self.meta("schema_version") or 0))
            if written > SCHEMA:
                raise NewerMemory(
                    f"the memory at {self.folder} was made by a newer memedit "
                    f"(schema {written}, this one knows {SCHEMA}); update with `pip install -U memedit`"
                )
        if tables and not migrations.pending(self._reader):
            return
        if self.why_readonly:
            raise OldSchema(
                f"the memory at {self.folder} must be brought to the present schema, but {self.why_readonly}; "
                "open it once for writing, as `memedit stats` does"
            )
        with self.writing(migrating=True) as db:
            migrations.apply(db)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA),))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('memory', ?)", (uuid.uuid4().hex,))

    # -- reading and writing

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The database as it is now, the same until the block ends; one thread at a time, blocks may nest."""
        with self._lock, self._said():
            self._check_open()
            if self._reader.conn.in_transaction:
                yield self._reader
                return
            self._look_again()
            self._check_there()
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                with suppress(sqlite3.Error):
                    self._reader.execute("COMMIT")

    @contextmanager
    def writing(self, *, migrating: bool = False, lazily: bool = False) -> Iterator[Database]:
        """One transaction, on the disk when the block has ended; an exception leaves everything as it was.

        Args:
            lazily: a power cut may lose it (a kill can't): for what could be found out again.

        Raises:
            MemoryBusy: another process, or thread, writes for longer than `timeout`.
            MemoryError_: the memory is for reading only, the disk is full, the file is damaged.
        """
        if self.why_readonly:
            raise MemoryError_(f"the memory at {self.folder} can't be changed: {self.why_readonly}")
        if not self._write_lock.acquire(timeout=self.timeout):
            raise MemoryBusy(self._busy())
        try:
            with self._said():
                self._check_open()
                self._check_there()
                db = self._writing_connection()
                # FULL: a commit is on the disk when it returns, also through a power cut.
                db.execute(f"PRAGMA synchronous = {'NORMAL' if lazily else 'FULL'}")
                db.execute("BEGIN IMMEDIATE")
                try:
                    self._check_there()  # it may have been put in another's place while this one waited
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    # A full disk may have rolled back already; then there is nothing to take back.
                    with suppress(sqlite3.Error):
                        db.rollback()
                    raise
                self._check_there()
        finally:
            self._write_lock.release()

    @contextmanager
    def alone(self) -> Iterator[Database]:
        """The writing connection outside of a transaction, for what SQLite only does there; no thread writes or reads.

        Raises:
            MemoryBusy: another process, or thread, writes for longer than `timeout`.
            MemoryError_: the memory is for reading only, the disk is full, the file is damaged.
        """
        if self.why_readonly:
            raise MemoryError_(f"the memory at {self.folder} can't be changed: {self.why_readonly}")
        if not self._write_lock.acquire(timeout=self.timeout):
            raise MemoryBusy(self._busy())
        try:
            with self._lock, self._said():
                self._check_open()
                self._check_there()
                yield self._writing_connection()
        finally:
            self._write_lock.release()

    def another_reader(self) -> Database:
        """A connection of the caller's own, for reading; to be closed."""
        with self._lock, self._said():
            self._check_open()
            self._look_again()
            self._check_there()
            return self._connect("ro", "&immutable=1" if self._still else "")

    @contextmanager
    def trying(self) -> Iterator[Database]:
        """As `writing`, and in the end everything is taken back, whatever happened."""
        with suppress(_TakenBack), self.writing() as db:
            yield db
            raise _TakenBack

    def _writing_connection(self) -> Database:
        if self._writer is None:
            self._writer = self._connect("rw")
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute(
                "PRAGMA secure_delete = ON"
            )  # what is deleted is overwritten, not only unlinked
            self._writer.execute("PRAGMA foreign_keys = ON")
            self._writer.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        return self._writer

    def rewrite(self) -> None:
        """Write the database anew without the room that deleted rows left, in one transaction (VACUUM).

        Raises:
            MemoryBusy, MemoryError_: as `writing`; the database is as it was.
        """
        with self.alone() as db:
            db.execute("VACUUM")

    def empty_log(self, wait: float) -> bool:
        """Take the whole write-ahead log over into the database and cut it to nothing.

        Args:
            wait: seconds to wait for readers, in any process, that still read from it.

        Returns:
            whether it is empty now.
        """
        with self.alone() as db:
            db.execute(f"PRAGMA busy_timeout = {int(1000 * wait)}")
            try:
                return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                return False
            finally:
                db.execute(f"PRAGMA busy_timeout = {int(1000 * self.timeout)}")

    def meta(self, key: str) -> str | None:
        """A value of the meta table."""
        with self.reading() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        """Close both connections. Closing twice does nothing."""
        with self._write_lock, self._lock:
            self.closed = True
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    # -- a file that is read as it stands

    def _state(self) -> tuple[int, ...]:
        status = self.file.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino, self._size_of_wal()

    def _size_of_wal(self) -> int:
        try:
            return self.file.with_name(FILE + "-wal").stat().st_size
        except OSError:
            return 0

    def _look_again(self) -> None:
        """A file that was opened as one that nobody writes is opened anew when somebody did."""
        if self._still is None:
            return
        try:
            changed = self._still != self._state()
        except OSError as error:
            raise MemoryError_(f"{self.file} is gone ({error.strerror}); restore the folder") from None
        if changed:
            self._reader.close()
            self._still = None
            self._reader = self._open_reader()
            self._opened = self._which()

    def _which(self) -> tuple[int, int]:
        """What tells this file from another of the same name."""
        try:
            status = os.stat(self.file)
        except OSError:
            return (0, 0)
        return status.st_dev, status.st_ino

    # -- errors

    def _check_open(self) -> None:
        if self.closed:
            raise MemoryError_(f"the memory at {self.folder} was closed; open it again")

    def _check_there(self) -> None:
        """What is written into a file that was deleted, or replaced, nobody would ever see again."""
        now = self._which()
        if now == (0, 0):
            raise MemoryError_(
                f"the memory at {self.folder} was deleted while in use; "
                "put a backup in its place with `memedit restore`, or begin a new one by opening it again"
            )
        if now != self._opened:
            raise MemoryError_(
                f"the memory at {self.folder} was replaced by another while in use; open it again"
            )

    def _busy(self) -> str:
        return (
            f"the memory at {self.folder} is being written by another process or thread and was not free "
            f"within {self.timeout:g} s; nothing was changed, try again"
        )

    @contextmanager
    def _said(self) -> Iterator[None]:
        """SQLite's errors in words for people."""
        try:
            yield
        except UnicodeDecodeError as error:  # of a message that quotes a damaged text
            raise MemoryDamaged(f"{self.file} is damaged; run `memedit doctor --repair`") from error
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise MemoryBusy(self._busy()) from error
            if "full" in text:
                raise MemoryError_(
                    f"the disk that holds {self.folder} is full; nothing was changed, make room and try again"
                ) from error
            if "readonly" in text or "unable to open" in text:
                raise MemoryError_(
                    f"{self.file} can't be written or opened ({text}); check the folder's rights"
                ) from error
            if isinstance(error, sqlite3.OperationalError) and "disk I/O" in text:
                raise MemoryError_(f"{self.file}: the disk failed ({text}); nothing was changed") from error
            if any(sign in text for sign in _SIGNS):
                raise MemoryDamaged(
                    f"{self.file} is damaged ({text}); run `memedit doctor --repair`"
                ) from error
            raise
