"""What is read: rows of the store as `Record`, `Version`, `Operation`. All take an open database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from sqlite_utils import Database

from memedit.edit import Edit
from memedit.errors import MemoryDamaged, MemoryError_
from memedit.memory import content
from memedit.memory.records import Operation, Record, Version
from memedit.memory.rules import supersedes

_RECORD = (
    "edits.id, edits.content, edits.version, edits.status, edits.added, edits.changed, edits.superseded_by, "
    "edits.stated"
)
_BAD_VECTORS = "the vectors of an edit are damaged; run `memedit doctor --repair`"
_ROUNDING = 0.005  # by so much halving the precision may change a unit vector's length, and more
_CHUNK = 500  # parameters of one statement; SQLite's own limit was 999 for long


def record(db: Database, id: int) -> Record:
    """The edit with this id.

    Raises:
        MemoryError_: there is none.
    """
    possible = isinstance(id, int) and 0 < id < 1 << 63
    row = db.execute(f"SELECT {_RECORD} FROM edits WHERE id = ?", (id,)).fetchone() if possible else None
    if row is None:
        raise MemoryError_(f"there is no edit {id!r} in this memory; `memedit list` shows what there is")
    return _record(row)


def live_record(db: Database, id: int) -> Record:
    """The live edit with this id.

    Raises:
        MemoryError_: there is none, or it was superseded or forgotten.
    """
    found = record(db, id)
    if found.status == "superseded":
        by = found.superseded_by
        row = db.execute("SELECT status FROM edits WHERE id = ?", (by,)).fetchone()
        gone = row is not None and row[0] in ("forgotten", "purged")
        then = f", which was {row[0]}; add it again" if gone else "; change that one"
        raise MemoryError_(f"edit {id} was superseded by edit {by}{then}")
    if found.status == "forgotten":
        raise MemoryError_(f"edit {id} was forgotten; add it again")
    if found.status == "purged":
        raise MemoryError_(f"edit {id} was purged: nothing of it is left; add it again")
    return found


def record_with_ref(db: Database, ref: str) -> Record:
    """The edit with this ref; of several the live one, else the newest.

    Raises:
        MemoryError_: there is none.
    """
    row = db.execute(
        f"SELECT {_RECORD} FROM edits WHERE ref = ? ORDER BY status = 'live' DESC, id DESC LIMIT 1", (ref,)
    ).fetchone()
    if row is None:
        raise MemoryError_(f"no edit has the ref {ref!r}; `memedit list` shows what there is")
    return _record(row)


def records(
    db: Database,
    *,
    status: str = "live",
    subject: str | None = None,
    source: str | None = None,
    method: str | None = None,
    tag: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Iterator[Record]:
    """Edits by id; every filter that is given must hold. A subject is compared without regard to case.

    The status ``"all"`` takes all but the purged, of which there is nothing to read.
    """
    wheres, values = (["status != 'purged'"] if status == "all" else []), []
    for clause, value in (
        ("status = ?", None if status == "all" else status),
        ("folded(subject) = folded(?)", subject),
        ("source = ?", source),
        ("method = ?", method),
        ("instr(tags, ?) > 0", None if tag is None else f"\x1f{tag}\x1f"),
    ):
        if value is not None:
            wheres.append(clause)
            values.append(value)
    if subject is not None:
        db.conn.create_function(
            "folded", 1, lambda text: text.casefold() if text else text, deterministic=True
        )
    where = "WHERE " + " AND ".join(wheres) if wheres else ""
    sql = f"SELECT {_RECORD} FROM edits {where} ORDER BY id LIMIT ? OFFSET ?"
    return map(_record, db.execute(sql, (*values, -1 if limit is None else limit, offset)))


def count(db: Database, status: str = "live") -> int:
    """How many edits have this status."""
    return int(db.execute("SELECT count(*) FROM edits WHERE status = ?", (status,)).fetchone()[0])


def live_twin(db: Database, edit: Edit) -> int | None:
    """The id of the live edit with the same content."""
    row = db.execute(
        "SELECT id FROM edits WHERE hash = ? AND status = 'live'", (edit.content_hash,)
    ).fetchone()
    return int(row[0]) if row else None


def sharing_keys(db: Database, edit: Edit) -> list[Record]:
    """The live edits that are about the same thing, by `Edit.keys`."""
    marks = ", ".join("?" * len(edit.keys))
    rows = db.execute(
        f"SELECT {_RECORD} FROM edits WHERE id IN (SELECT edit FROM keys WHERE key IN ({marks})) ORDER BY id",
        edit.keys,
    ).fetchall()
    return [_record(row) for row in rows]


def rivals(db: Database, edit: Edit) -> list[Record]:
    """The live edits whose place this one takes, by `memedit.memory.rules.supersedes`."""
    return [found for found in sharing_keys(db, edit) if supersedes(edit, found.edit)]


def versions(db: Database, id: int) -> list[Version]:
    """An edit's history, oldest first."""
    rows = db.execute(
        "SELECT versions.edit, version, operation, action, operations.at, status, superseded_by, content "
        "FROM versions JOIN operations ON operations.id = versions.operation "
        "WHERE versions.edit = ? ORDER BY version",
        (id,),
    )
    return [
        Version(edit, version, operation, action, at, status, by, content.loads(text))
        for edit, version, operation, action, at, status, by, text in rows
    ]


def records_at(db: Database, at: str) -> list[Record]:
    """The edits that were live at a moment, as they were then."""
    last = db.execute("SELECT max(id) FROM operations WHERE at <= ?", (at,)).fetchone()[0] or 0
    rows = db.execute(
        "SELECT v.edit, v.content, v.version, v.status, edits.added, operations.at, v.superseded_by, v.stated "
        "FROM versions v JOIN (SELECT edit, max(version) AS version FROM versions WHERE operation <= ? "
        "GROUP BY edit) USING (edit, version) "
        "JOIN edits ON edits.id = v.edit JOIN operations ON operations.id = v.operation "
        "WHERE v.status = 'live' ORDER BY v.edit",
        (last,),
    )
    return [_record(row) for row in rows]


_OPERATION = (
    "SELECT o.id, o.kind, o.at, "
    "CASE kind WHEN 'keep-both' THEN 2 * (SELECT count(*) FROM kept WHERE operation = o.id) "
    "ELSE (SELECT count(DISTINCT edit) FROM versions WHERE operation = o.id) END, o.undoes, "
    "EXISTS (SELECT 1 FROM operations u WHERE u.undoes = o.id) FROM operations o "
)


def operations(db: Database, limit: int | None) -> list[Operation]:
    """The last operations, newest first."""
    rows = db.execute(_OPERATION + "ORDER BY o.id DESC LIMIT ?", (-1 if limit is None else limit,))
    return [_operation(row) for row in rows]


def operation_with(db: Database, id: int) -> Operation:
    """The operation with this id, which exists."""
    return _operation(db.execute(_OPERATION + "WHERE o.id = ?", (id,)).fetchone())


def last_operation(db: Database) -> tuple[int, str]:
    """Id and time of the newest operation; (0, "") in an empty memory."""
    row = db.execute("SELECT id, at FROM operations ORDER BY id DESC LIMIT 1").fetchone()
    return (int(row[0]), str(row[1])) if row else (0, "")


# -- what a search needs


def named(db: Database, names: Sequence[set[str]]) -> list[set[int]]:
    """For each set of names the live edits that have one of them (see `memedit.memory.rules.named_in`)."""
    having = by_name(db, sorted(set().union(*names)))
    return [{edit for name in some & having.keys() for edit in having[name]} for some in names]


def names_of(db: Database, ids: Sequence[int]) -> dict[int, list[str]]:
    """The names by which live edits among these are found; those without one are left out."""
    found: dict[int, list[str]] = {}
    for edit, name in chunked(db, "SELECT edit, name FROM names WHERE edit IN ({})", ids):
        found.setdefault(edit, []).append(name)
    return found


def by_name(db: Database, names: Sequence[str]) -> dict[str, list[int]]:
    """The live edits that have each of these names."""
    found: dict[str, list[int]] = {}
    for name, edit in chunked(db, "SELECT name, edit FROM names WHERE name IN ({})", names):
        found.setdefault(name, []).append(edit)
    return found


def nameless(db: Database) -> list[int]:
    """The live edits that have no name; goes through all edits."""
    rows = db.execute(
        "SELECT id FROM edits WHERE status = 'live' AND id NOT IN (SELECT edit FROM names) ORDER BY id"
    )
    return [row[0] for row in rows]


def live_among(db: Database, ids: Sequence[int]) -> list[int]:
    """Those of these ids whose edits are live."""
    return sorted(
        row[0] for row in chunked(db, "SELECT id FROM edits WHERE status = 'live' AND id IN ({})", ids)
    )


def not_valid(db: Database, at: str) -> set[int]:
    """The live edits that don't hold at this moment."""
    rows = db.execute(  # told which index: the planner takes the one on status, and goes through all edits
        "SELECT id FROM edits INDEXED BY edits_window WHERE status = 'live' "
        "AND (valid_from IS NOT NULL OR valid_to IS NOT NULL) AND (valid_from > ? OR valid_to <= ?)",
        (at, at),
    )
    return {row[0] for row in rows}


def with_vectors(db: Database, ids: Sequence[int], dim: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Live edits among these ids, each with its vectors, float32 (views, dim)."""
    sql = (
        f"SELECT {_RECORD}, vectors.data FROM edits JOIN vectors ON vectors.hash = edits.hash "
        "WHERE edits.status = 'live' AND edits.id IN ({})"
    )
    for row in chunked(db, sql, ids):
        yield _record(row), unpack(row[8], dim)


def live_records(db: Database, ids: Sequence[int]) -> Iterator[Record]:
    """The live edits among these ids, without their vectors."""
    return map(
        _record, chunked(db, f"SELECT {_RECORD} FROM edits WHERE status = 'live' AND id IN ({{}})", ids)
    )


def without_vectors(db: Database, operation: int = 0) -> list[Record]:
    """Live edits, changed in this operation or later, whose content the present encoder never saw."""
    sql = (
        f"SELECT {_RECORD} FROM edits WHERE status = 'live' AND hash NOT IN (SELECT hash FROM vectors) "
        "AND id IN (SELECT edit FROM versions WHERE operation >= ?)"
    )
    return [_record(row) for row in db.execute(sql, (operation,))]


def unsound(db: Database) -> list[str]:
    """The content hashes whose vectors can't be what the encoder gave (see `sound_vectors`)."""
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if "encoder_dim" not in meta:
        return []
    dim, views = int(meta["encoder_dim"]), len(json.loads(meta["encoder_views"]))
    rows = db.execute("SELECT hash, data FROM vectors")
    return [hash for hash, data in rows if not sound_vectors(data, dim, views)]


def keys_of(db: Database, dim: int, ids: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) int64 and first views (n, dim) float32 of the live edits, or of those among `ids`."""
    sql = (
        "SELECT edits.id, vectors.data FROM vectors JOIN edits ON edits.hash = vectors.hash "
        "WHERE edits.status = 'live'"
    )
    rows = db.execute(sql) if ids is None else chunked(db, sql + " AND edits.id IN ({})", ids)
    found, blobs, width = [], bytearray(), 2 * dim
    for id, data in rows:
        if len(data) < width:
            raise MemoryDamaged(_BAD_VECTORS)
        found.append(id)
        blobs += data[:width]
    matrix = np.frombuffer(bytes(blobs), dtype="<f2").reshape(-1, dim).astype(np.float32)
    return np.array(found, dtype=np.int64), matrix


def views_of(
    db: Database, dim: int, ids: Sequence[int] | None = None, size: int = 1 << 16
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `keys_of`, but all views, (n, views, dim) float16, at most `size` edits at a time."""
    sql = (
        "SELECT edits.id, vectors.data FROM vectors JOIN edits ON edits.hash = vectors.hash "
        "WHERE edits.status = 'live'"
    )
    rows = iter(db.execute(sql) if ids is None else chunked(db, sql + " AND edits.id IN ({})", ids))
    while some := list(islice(rows, size)):
        views = np.frombuffer(bytearray().join(data for _, data in some), dtype="<f2").reshape(
            len(some), -1, dim
        )
        yield np.array([id for id, _ in some], dtype=np.int64), views


def hashes_with_vectors(db: Database, hashes: Sequence[str]) -> set[str]:
    """Which of these contents have vectors."""
    return {row[0] for row in chunked(db, "SELECT hash FROM vectors WHERE hash IN ({})", hashes)}


def pack(vectors: np.ndarray) -> bytes:
    """(views, dim) as the bytes that are kept: float16, little end first."""
    return np.ascontiguousarray(vectors, dtype="<f2").tobytes()


def unpack(data: bytes, dim: int) -> np.ndarray:
    """float32 (views, dim) from kept bytes.

    Raises:
        MemoryDamaged: they are no vectors any more.
    """
    if not data or len(data) % (2 * dim):
        raise MemoryDamaged(_BAD_VECTORS)
    return np.frombuffer(data, dtype="<f2").reshape(-1, dim).astype(np.float32)


def sound_vectors(data: bytes, dim: int, views: int) -> bool:
    """Whether kept bytes can be what an encoder gave: so many numbers, each view of unit length (or nothing)."""
    if len(data) != 2 * dim * views:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(unpack(data, dim), axis=1)
    return bool(np.all((np.abs(lengths - 1) < _ROUNDING) | (lengths == 0)))


def chunked(db: Database, sql: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """A query with `{}` where its values go, asked for some of them at a time."""
    for start in range(0, len(values), _CHUNK):
        some = values[start : start + _CHUNK]
        yield from db.execute(sql.format(", ".join("?" * len(some))), tuple(some))


def _record(row: Sequence[Any]) -> Record:
    return Record(
        id=row[0],
        edit=content.loads(row[1]),
        version=row[2],
        status=row[3],
        added=row[4],
        changed=row[5],
        superseded_by=row[6],
        stated=row[7],
    )


def _operation(row: Sequence[Any]) -> Operation:
    return Operation(row[0], row[1], row[2], row[3], row[4], bool(row[5]))
