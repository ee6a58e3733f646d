"""What can still be read of a damaged database: through SQLite where it still finds its way, else page by page."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from memedit.memory import wal
from memedit.memory.pages import Image, Table

Row = dict[str, Any]
Rows = dict[str, dict[int, list[Row]]]  # table, rowid, what was found there: the likeliest first

# What SQLite raises where it can't go on; the second, where its message quotes a damaged text.
FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)
_BEYOND = 64  # rowids that are tried after the last known one
_PROBES = (
    100_000  # rowids that are tried one by one in a table, at most: what SQLite can't find the pages have
)


def tables_of(db: Database) -> dict[str, Table]:
    """The tables with rows of their own: not those that are lists of others, nor SQLite's and the migrations'."""
    found = {}
    for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall():
        if name.startswith(("sqlite_", "_")) or "WITHOUT ROWID" in sql:
            continue
        columns = db.execute(f"PRAGMA table_info([{name}])").fetchall()
        rowid = [c[0] for c in columns if c[5] and c[2] == "INTEGER"]
        alone = sum(bool(c[5]) for c in columns) == 1
        found[name] = Table(
            names=tuple(c[1] for c in columns),
            types=tuple(c[2] for c in columns),
            needed=tuple(bool(c[3] or c[5]) for c in columns),
            defaults=tuple(db.execute(f"SELECT {c[4] or 'NULL'}").fetchone()[0] for c in columns),
            rowid=rowid[0] if rowid and alone else None,
        )
    return found


def salvage(file: Path, log: Path, tables: Mapping[str, Table]) -> tuple[Rows, Rows]:
    """Every row that can be read in the database or its log, which stay as they are.

    Returns:
        What SQLite reads, and what the pages hold besides: lost ways lead to it, or it was replaced since.

    Raises:
        OSError: the files themselves can't be read.
    """
    reached: Rows = {name: {} for name in tables}
    for name, rowid, row in _by_sqlite(file, tables):
        reached[name].setdefault(rowid, []).append(row)
    scanned: Rows = {name: {} for name in tables}
    for image in _images(file, log):
        for name, rowid, values in image.rows(tables):
            row = dict(zip(tables[name].names, values, strict=True))
            scanned[name].setdefault(rowid, []).insert(0, row)  # the latest image first
    return reached, scanned


def _images(file: Path, log: Path) -> Iterator[Image]:
    data = file.read_bytes()
    written = wal.read(log)
    sizes = {4096}
    if len(data) > 18:
        (said,) = struct.unpack_from(">H", data, 16)
        sizes |= {said} if said >= 512 and said & (said - 1) == 0 else set()
    for size in sizes:
        image = Image(size)
        for start in range(0, len(data), size):
            page = data[start : start + size]
            image.page[start // size + 1] = [page.ljust(size, b"\0")]
        for at, (number, page) in enumerate(written.pages):
            if len(page) == size and at < written.sound:
                image.page[number] = [page]
            elif len(page) == size:
                image.page.setdefault(number, []).append(page)
        yield image


def _by_sqlite(file: Path, tables: Mapping[str, Table]) -> Iterator[tuple[str, int, Row]]:
    uri = f"{file.absolute().as_uri()}?mode=ro"
    with suppress(*FAULTS), closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.text_factory = bytes  # so that a text with a flipped bit is seen here, and not by SQLite
        for name, table in tables.items():
            with suppress(*FAULTS):
                for rowid, values in _table(connection, name, table):
                    row = _decoded(table, values)
                    if row is not None and table.fits(row):
                        yield name, rowid, dict(zip(table.names, row, strict=True))


def _decoded(table: Table, values: tuple[Any, ...]) -> list[Any] | None:
    """Values with their texts as text; None where a flipped bit made a text none."""
    try:
        return [
            value.decode() if kind == "TEXT" and isinstance(value, bytes) else value
            for kind, value in zip(table.types, values, strict=True)
        ]
    except UnicodeDecodeError:
        return None


def _table(connection: sqlite3.Connection, name: str, table: Table) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Forward to the first damage, backward from the end to the last, and row by row in between."""
    columns = ", ".join(f"[{column}]" for column in table.names)
    select = f"SELECT rowid, {columns} FROM [{name}] NOT INDEXED"
    first = last = 0
    try:
        for rowid, *values in connection.execute(f"{select} ORDER BY rowid"):
            first = rowid
            yield rowid, tuple(values)
        return
    except FAULTS:
        pass
    try:
        for rowid, *values in connection.execute(f"{select} WHERE rowid > ? ORDER BY rowid DESC", (first,)):
            last = rowid
            yield rowid, tuple(values)
    except FAULTS:
        pass
    for rowid in range(first + 1, min(last or first + _BEYOND, first + _PROBES)):
        with suppress(*FAULTS):
            for _, *values in connection.execute(f"{select} WHERE rowid = ?", (rowid,)):
                yield rowid, tuple(values)
