"""Operations are taken back: the last one, or an earlier one on which nothing later builds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from sqlite_utils import Database

from memedit.edit import Edit
from memedit.errors import MemoryError_
from memedit.memory import conflicts, content
from memedit.memory.reading import live_twin, operation_with, sharing_keys
from memedit.memory.records import Operation, Status
from memedit.memory.rules import supersedes
from memedit.memory.writing import Change

_UNDONE = "SELECT undoes FROM operations WHERE undoes IS NOT NULL"


def undo(db: Database, id: int | None = None) -> Operation:
    """Take back an operation, the last one that still stands where none is named, and record that.

    Edits that were purged since stay so; the operation that is given back says which.

    Raises:
        MemoryError_: there is nothing to undo, or no such operation; it is one that can't be undone, or was
            undone already; or later ones build on it.
    """
    target = _last(db) if id is None else _named(db, id)
    _nothing_later(db, target)
    before = _before(db, target.id)
    passed = [state.edit_id for state in before if state.was_purged]
    back = [state for state in before if not state.was_purged]
    if before and not back:
        raise MemoryError_(
            f"nothing is left of operation {target.id} that could be taken back: "
            "all that it changed was purged; `memedit log` shows the others"
        )
    _no_rivals(db, target, back)
    _still_beside(db, target)
    change = Change(db, "undo", undoes=target.id)
    change.begin()
    for state in back:
        change.write(
            state.edit_id, state.version + 1, state.edit, state.status, state.superseded_by, "undo", state.added,
            state.stated,
        )  # fmt: skip
    conflicts.await_check(db, [state.edit_id for state in back if state.status == "live"])
    return replace(operation_with(db, target.id), passed=tuple(passed))


@dataclass(frozen=True, slots=True)
class _State:
    """How an edit was before an operation, and what has to be known to bring it back there."""

    edit_id: int
    version: int
    added: str
    was_purged: bool
    status: Status
    superseded_by: int | None
    edit: Edit
    stated: int


def _last(db: Database) -> Operation:
    row = db.execute(
        f"SELECT id FROM operations WHERE kind NOT IN ('undo', 'reencode') AND id NOT IN ({_UNDONE}) "
        "ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise MemoryError_("there is nothing to undo: no change is left that still stands")
    last = operation_with(db, row[0])
    if last.kind == "purge":
        raise MemoryError_(
            f"the last operation, {last.id}, is a purge, which can't be undone; "
            "`memedit log` shows the earlier ones, and `memedit undo OPERATION` takes one of them back"
        )
    return last


def _named(db: Database, id: int) -> Operation:
    possible = isinstance(id, int) and 0 < id < 1 << 63
    if not possible or not db.execute("SELECT 1 FROM operations WHERE id = ?", (id,)).fetchone():
        raise MemoryError_(f"there is no operation {id!r} in this memory; `memedit log` lists them")
    found = operation_with(db, id)
    if found.kind == "purge":
        raise MemoryError_(
            f"operation {id} is a purge, which can't be undone: nothing is left of what it purged"
        )
    if found.kind == "undo":
        raise MemoryError_(f"operation {id} is an undo, which can't be undone; do again what it took back")
    if found.kind == "reencode":
        raise MemoryError_(
            f"operation {id} is a new encoding, which changed no edit: there is nothing to undo"
        )
    if found.undone:
        raise MemoryError_(f"operation {id} was undone already; `memedit log` shows what still stands")
    return found


def _nothing_later(db: Database, target: Operation) -> None:
    """See that no operation that still stands has changed the same edits later.

    Raises:
        MemoryError_: one has.
    """
    row = db.execute(
        "SELECT v.operation, v.edit FROM versions v JOIN operations o ON o.id = v.operation "
        "WHERE v.operation > ? AND v.status != 'purged' AND o.kind NOT IN ('undo', 'reencode', 'purge') "
        f"AND o.id NOT IN ({_UNDONE}) AND v.edit IN (SELECT edit FROM versions WHERE operation = ?) "
        "ORDER BY v.operation DESC LIMIT 1",
        (target.id, target.id),
    ).fetchone()
    if row is not None:
        later = operation_with(db, row[0])
        raise MemoryError_(
            f"operation {target.id} ({target.kind}) can't be taken back alone: operation {later.id} "
            f"({later.kind}) changed edit {row[1]} after it; `memedit undo {later.id}` first"
        )


def _before(db: Database, target: int) -> list[_State]:
    """Every edit that an operation changed, as it was before it."""
    touched = db.execute(
        "SELECT DISTINCT e.id, e.version, e.added, e.status, e.content, e.stated FROM versions v "
        "JOIN edits e ON e.id = v.edit WHERE v.operation = ? ORDER BY e.id",
        (target,),
    )
    found = []
    for id, version, added, now, text, stated in touched.fetchall():
        row = db.execute(
            "SELECT status, superseded_by, content, stated FROM versions WHERE edit = ? AND operation < ? "
            "ORDER BY version DESC LIMIT 1",
            (id, target),
        ).fetchone()
        # An edit that wasn't there yet leaves again.
        status, by, text, stated = row or ("forgotten", None, text, stated)
        found.append(
            _State(id, version, added, now == "purged", cast(Status, status), by, content.loads(text), stated)
        )
    return found


def _no_rivals(db: Database, target: Operation, back: list[_State]) -> None:
    """See that no edit would be live again beside one that has its place by now.

    Raises:
        MemoryError_: one would.
    """
    own = {state.edit_id for state in back}
    beside = conflicts.beside(db, own)
    for state in back:
        if state.status != "live":
            continue
        stay = own | beside.get(state.edit_id, frozenset())
        for other in sharing_keys(db, state.edit):
            newer = other.recency > (state.stated, state.edit_id)
            pair = (other.edit, state.edit) if newer else (state.edit, other.edit)
            if other.id not in stay and supersedes(*pair):
                _refuse(target, state.edit_id, other.id)
        twin = live_twin(db, state.edit)
        if twin is not None and twin not in stay:
            _refuse(target, state.edit_id, twin)


def _still_beside(db: Database, target: Operation) -> None:
    """See that no two live edits stay beside each other by this decision alone, of which one would supersede the other.

    They came to that by a later update: without the decision they would be two where there can be one only.

    Raises:
        MemoryError_: two do.
    """
    if target.kind != "keep-both":
        return
    for older, newer in conflicts.kept_by(db, target.id):
        if supersedes(newer.edit, older.edit):
            raise MemoryError_(
                f"operation {target.id} (keep-both) can't be taken back: without it edit {newer.id} would have the "
                f"place of edit {older.id}; `memedit conflicts supersede {newer.id} {older.id}` gives it that"
            )


def _refuse(target: Operation, id: int, other: int) -> None:
    raise MemoryError_(
        f"operation {target.id} ({target.kind}) can't be taken back: edit {id} would be live again, and edit {other} "
        f"has its place by now; forget edit {other} first"
    )
