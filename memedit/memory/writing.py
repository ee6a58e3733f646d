"""What is written: one `Change` is one operation inside one transaction of the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from sqlite_utils import Database

from memedit.edit import Edit
from memedit.errors import EditError, EncoderMismatch, MemoryError_
from memedit.memory import content
from memedit.memory.reading import live_twin, operation_with, records, rivals
from memedit.memory.records import Action, Added, Encoder, Operation, OperationKind, Record, Status
from memedit.memory.rules import name_keys

_EDIT = (
    "version", "status", "superseded_by", "added", "changed", "hash", "subject", "source", "method", "ref",
    "tags", "valid_from", "valid_to", "content",
)  # fmt: skip
_PUT_EDIT = (
    f"INSERT INTO edits (id, {', '.join(_EDIT)}) VALUES (:id, {', '.join(f':{name}' for name in _EDIT)}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _EDIT)}"
)


class Change:
    """One operation being written, recorded at its first change: one that changes nothing leaves no trace.

    Args:
        db: inside a transaction. kind: of the operation. undoes: of an undo, what it takes back.
    """

    def __init__(self, db: Database, kind: OperationKind, undoes: int | None = None) -> None:
        self.db, self.kind, self.undoes = db, kind, undoes
        self.id = 0
        self.at = ""
        self.superseded: list[tuple[int, int]] = []

    def begin(self) -> int:
        """Record the operation, if it isn't yet; its time is after the last one's, also if clocks go back."""
        if not self.id:
            last = self.db.execute("SELECT at FROM operations ORDER BY id DESC LIMIT 1").fetchone()
            self.at = content.instant(None)
            if last and self.at <= last[0]:
                self.at = content.instant(datetime.fromisoformat(last[0]) + timedelta(microseconds=1))
            cursor = self.db.execute(
                "INSERT INTO operations (kind, at, undoes) VALUES (?, ?, ?)",
                (self.kind, self.at, self.undoes),
            )
            self.id = int(cursor.lastrowid or 0)
        return self.id

    def add(self, edit: Edit) -> tuple[int, bool]:
        """The edit's id, and whether it is new: a live edit that says the same keeps its place."""
        twin = live_twin(self.db, edit)
        if twin is not None:
            return twin, False
        self.begin()
        self._supersede(edit, id := self._next_id())
        self._write(id, 1, edit, "live", None, "add", self.at)
        return id, True

    def update(self, record: Record, edit: Edit) -> None:
        """Give a live edit new content; it may take others' places by it."""
        self.begin()
        self._supersede(edit, record.id, besides=record.id)
        self._write(record.id, record.version + 1, edit, "live", None, "update", record.added)

    def turn(self, record: Record, status: Status, action: Action, superseded_by: int | None = None) -> None:
        """Give an edit another status; its content stays."""
        self.begin()
        self._write(record.id, record.version + 1, record.edit, status, superseded_by, action, record.added)

    def take_back(self, target: int) -> None:
        """Bring every edit that operation `target` changed to where it was before."""
        self.begin()
        touched = self.db.execute(
            "SELECT DISTINCT edit FROM versions WHERE operation = ? ORDER BY edit", (target,)
        )
        for (id,) in touched.fetchall():
            version, added, text = self.db.execute(
                "SELECT version, added, content FROM edits WHERE id = ?", (id,)
            ).fetchone()
            before = self.db.execute(
                "SELECT status, superseded_by, content FROM versions WHERE edit = ? AND operation < ? "
                "ORDER BY version DESC LIMIT 1",
                (id, target),
            ).fetchone()
            if before is None:  # an edit that wasn't there yet leaves again
                before = ("forgotten", None, text)
            status, by, text = before
            self._write(id, version + 1, content.loads(text), cast(Status, status), by, "undo", added)

    def _supersede(self, edit: Edit, by: int, besides: int | None = None) -> None:
        for record in rivals(self.db, edit):
            if record.id != besides:
                self.turn(record, "superseded", "supersede", by)
                self.superseded.append((record.id, by))

    def _next_id(self) -> int:
        row = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'edits'").fetchone()
        return int(row[0]) + 1 if row else 1

    def _write(
        self, id: int, version: int, edit: Edit, status: Status, by: int | None, action: Action, added: str
    ) -> None:
        """The edit's newest state, into all tables that hold it."""
        text, digest = content.dumps(edit), edit.content_hash
        self.db.execute(
            _PUT_EDIT,
            {
                "id": id,
                "version": version,
                "status": status,
                "superseded_by": by,
                "added": added,
                "changed": self.at,
                "hash": digest,
                "subject": edit.subject,
                "source": edit.source,
                "method": edit.method,
                "ref": edit.ref,
                "tags": tagged(edit.tags),
                "valid_from": edit.valid_from,
                "valid_to": edit.valid_to,
                "content": text,
            },
        )
        self.db.execute(
            "INSERT INTO versions (edit, version, operation, action, status, superseded_by, hash, content) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (id, version, self.id, action, status, by, digest, text),
        )
        if version > 1:
            unlist(self.db, id)
        if status == "live":
            enlist(self.db, id, edit)


def checked(edits: Edit | Iterable[Edit]) -> list[Edit]:
    """What was given, as a list of edits.

    Raises:
        EditError: something in it is no edit.
    """
    # A mapping or a text is one thing, which is no edit, and not many.
    given: list[Any] = [edits] if isinstance(edits, (Edit, Mapping, str)) else list(edits)
    for place, edit in enumerate(given):
        if not isinstance(edit, Edit):
            raise EditError(
                f"number {place + 1} of what was given is a {type(edit).__name__}, not an Edit; "
                "make one with Edit.from_dict"
            )
    return given


def take_in(db: Database, edits: list[Edit]) -> Added:
    """Add edits as one operation; conflicts are not looked for."""
    change = Change(db, "add")
    outcome = [change.add(edit) for edit in edits]
    return Added(
        ids=[id for id, _ in outcome],
        new=[id for id, new in outcome if new],
        superseded=change.superseded,
        duplicates=[place for place, (_, new) in enumerate(outcome) if not new],
        conflicts=[],
        operation=change.id,
    )


def tagged(tags: Iterable[str]) -> str:
    """Tags as one text in which each can be found whole."""
    return "".join(f"\x1f{tag}" for tag in tags) + "\x1f"


def enlist(db: Database, id: int, edit: Edit) -> None:
    """Make a live edit findable by its keys and names."""
    db.conn.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?)", [(key, id) for key in edit.keys])
    db.conn.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", [(name, id) for name in name_keys(edit)])


def unlist(db: Database, id: int) -> None:
    """Take an edit out of what is found by keys and names."""
    db.execute("DELETE FROM keys WHERE edit = ?", (id,))
    db.execute("DELETE FROM names WHERE edit = ?", (id,))


def put_vectors(db: Database, vectors: Mapping[str, bytes]) -> None:
    """Keep vectors by content hash; what is there already stays."""
    db.conn.executemany("INSERT OR IGNORE INTO vectors (hash, data) VALUES (?, ?)", vectors.items())


def put_encoder(db: Database, encoder: Encoder) -> None:
    """Write down whose vectors these are.

    Raises:
        EncoderMismatch: they are another's.
    """
    row = db.execute("SELECT value FROM meta WHERE key = 'encoder_fingerprint'").fetchone()
    if row and row[0] != encoder.fingerprint:
        raise EncoderMismatch(
            "the memory was encoded anew by another encoder meanwhile; nothing was changed, open it again"
        )
    if not row:
        values = {
            "encoder_name": encoder.name,
            "encoder_fingerprint": encoder.fingerprint,
            "encoder_dim": str(encoder.dim),
            "encoder_views": json.dumps(list(encoder.views)),
        }
        for key, value in values.items():
            put_meta(db, key, value)


def put_meta(db: Database, key: str, value: str) -> None:
    """Write into the meta table."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def reencode(db: Database, encoder: Encoder, vectors: Mapping[str, bytes]) -> None:
    """Put new vectors in the place of all; what isn't among them is encoded when it is live again."""
    db.execute("DELETE FROM vectors")
    db.execute("DELETE FROM meta WHERE key LIKE 'encoder!_%' ESCAPE '!'")
    put_encoder(db, encoder)
    put_vectors(db, vectors)
    Change(db, "reencode").begin()


def relist(db: Database) -> None:
    """Derive anew what live edits are found by."""
    db.execute("DELETE FROM keys")
    db.execute("DELETE FROM names")
    for found in records(db):
        enlist(db, found.id, found.edit)


def undo(db: Database) -> Operation:
    """Take back the last operation that still stands, and record that.

    Raises:
        MemoryError_: nothing is left to undo.
    """
    row = db.execute(
        "SELECT id FROM operations WHERE kind NOT IN ('undo', 'reencode') AND id NOT IN "
        "(SELECT undoes FROM operations WHERE undoes IS NOT NULL) ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise MemoryError_("there is nothing to undo: no change is left that still stands")
    Change(db, "undo", undoes=row[0]).take_back(row[0])
    return operation_with(db, row[0])
