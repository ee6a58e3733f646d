"""Rows out of a damaged SQLite file, page by page, without SQLite: each table leaf that can still be made out.

The format is that of https://www.sqlite.org/fileformat.html. Nothing here trusts a number that it reads: what
leads out of its page, or is no row of a known table, is passed by.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_INDEX_LEAF, _INDEX_INNER = 0x0A, 0x02  # such pages hold no rows of tables
_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # of whole numbers, by serial type

_TIME, _STATUS = r"\d{4}-\d\d-\d\dT.*", "live|superseded|forgotten|purged"
# What a column's text looks like, by the column's name.
_LOOKS = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "content": r"\{.*\}", "hash": "[0-9a-f]{64}", "sha256": "[0-9a-f]{64}", "at": _TIME, "added": _TIME,
        "changed": _TIME, "status": _STATUS, "action": "[a-z]+", "kind": "[a-z-]+",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table's columns, as SQLite declares them.

    Attributes:
        names: of the columns. types: INTEGER, TEXT or BLOB. needed: whether it may not be null.
        defaults: what a row has that was written before the column was.
        rowid: the position of the column that stands for the rowid; None where there is none.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    needed: tuple[bool, ...]
    defaults: tuple[Any, ...]
    rowid: int | None = None

    def row(self, values: Sequence[Any], rowid: int) -> tuple[Any, ...] | None:
        """Values, as they are written on a page, as a row of this table; None where they can't be one."""
        row = (*values, *self.defaults[len(values) :])
        if self.rowid is not None and len(row) == len(self.names):
            if row[self.rowid] is not None:  # the rowid is never written twice
                return None
            row = (*row[: self.rowid], rowid, *row[self.rowid + 1 :])
        return row if self.fits(row) else None

    def fits(self, row: Sequence[Any]) -> bool:
        """Whether values could be a row of this table."""
        if len(row) != len(self.names):
            return False
        kinds: dict[str, type] = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
        for name, kind, needed, value in zip(self.names, self.types, self.needed, row, strict=True):
            if value is None:
                if needed:
                    return False
                continue
            if not isinstance(value, kinds.get(kind, object)):
                return False
            if isinstance(value, str) and name in _LOOKS and not _LOOKS[name].fullmatch(value):
                return False
        return True


@dataclass
class Image:
    """A database as numbered pages.

    Attributes:
        size: of a page, bytes. page: images by number, from 1: the last that is certain, and those after it.
    """

    size: int
    page: dict[int, list[bytes]] = field(default_factory=dict)

    def rows(self, tables: Mapping[str, Table]) -> Iterator[tuple[str, int, tuple[Any, ...]]]:
        """(table, rowid, values) of every row on every page, the oldest images first."""
        for number, images in self.page.items():
            for page in images:
                for rowid, values in self._cells(page, 100 if number == 1 else 0):
                    for name, table in tables.items():
                        row = table.row(values, rowid)
                        if row is not None:
                            yield name, rowid, row

    def _cells(self, page: bytes, header: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        if len(page) < header + 8 or page[header] in (_INDEX_LEAF, _INDEX_INNER):
            return
        (count,) = struct.unpack_from(">H", page, header + 3)
        for at in range(min(count, (len(page) - header - 8) // 2)):
            (start,) = struct.unpack_from(">H", page, header + 8 + 2 * at)
            try:
                size, start = _varint(page, start)
                rowid, start = _varint(page, start)
                yield rowid, tuple(_values(self._payload(page, start, size)))
            except (IndexError, ValueError, struct.error):  # not a cell, or no longer one
                continue

    def _payload(self, page: bytes, start: int, size: int) -> bytes:
        """A cell's bytes, with those on the overflow pages that it leads to."""
        if size > len(self.page) * self.size:
            raise ValueError("longer than the file")
        local = size
        if size > self.size - 35:
            least = (self.size - 12) * 32 // 255 - 23
            local = least + (size - least) % (self.size - 4)
            local = local if local <= self.size - 35 else least
        found = page[start : start + local]
        if len(found) < local:
            raise ValueError("leads out of the page")
        if local < size:
            (more,) = struct.unpack_from(">I", page, start + local)
            while len(found) < size:
                if more not in self.page:
                    raise ValueError("leads out of the file")
                rest = self.page[more][-1]
                (more,) = struct.unpack_from(">I", rest)
                found += rest[4 : 4 + size - len(found)]
        return found


def _values(payload: bytes) -> Iterator[Any]:
    """The values of a record."""
    end, at = _varint(payload, 0)
    types = []
    while at < end:
        kind, at = _varint(payload, at)
        types.append(kind)
    at = end
    for kind in types:
        size = _SIZES.get(kind, (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else 0)
        data = payload[at : at + size]
        if len(data) < size or kind in (10, 11):
            raise ValueError("leads out of the record")
        at += size
        if kind == 0:
            yield None
        elif kind in (8, 9):
            yield kind - 8
        elif kind == 7:
            yield struct.unpack(">d", data)[0]
        elif kind < 7:
            yield int.from_bytes(data, "big", signed=True)
        else:
            yield data.decode() if kind % 2 else data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where the next begins."""
    value = 0
    for step in range(8):
        byte = data[at + step]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + step + 1
    return value << 8 | data[at + 8], at + 9
