"""What is written: one `Change` is one operation inside one transaction of the store."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlite_utils import Database

from memedit.edit import Edit
from memedit.errors import EditError, EncoderMismatch
from memedit.memory import conflicts, content
from memedit.memory.reading import live_twin, record, records, rivals
from memedit.memory.records import Action, Added, Encoder, OperationKind, Record, Status
from memedit.memory.rules import inheriting, name_keys, says_the_same

_EDIT = (
    "version", "status", "superseded_by", "added", "changed", "hash", "subject", "source", "method", "ref",
    "tags", "valid_from", "valid_to", "content", "stated",
)  # fmt: skip
_PUT_EDIT = (
    f"INSERT INTO edits (id, {', '.join(_EDIT)}) VALUES (:id, {', '.join(f':{name}' for name in _EDIT)}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _EDIT)}"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new edit comes to stand among the live ones.

    Attributes:
        edit: as it will be kept. twin: the id of a live edit that says just that; then it is no new one.
        takes: those whose place it takes. beside: ids of those that stay beside it.
    """

    edit: Edit
    twin: int | None
    takes: list[Record]
    beside: set[int]


def place(db: Database, edit: Edit, keep_both: bool = False) -> Place:
    """What becomes of the live edits that a new one is a rival of, and what it has from them.

    It takes their place, and keeps the names of those that are about the same subject
    (`memedit.memory.rules.inheriting`). With `keep_both` it takes only the place of those that say the same or
    have its ref. Where it replaces one by ref or in other words, what was to stay beside that one stays beside it.
    """
    twin = live_twin(db, edit)
    if twin is not None:
        return Place(edit, twin, [], set())
    found = rivals(db, edit)
    same = [r for r in found if says_the_same(edit, r.edit) or (edit.ref and edit.ref == r.edit.ref)]
    stay = set().union(*conflicts.beside(db, [r.id for r in same]).values()) - {r.id for r in same}
    takes = same if keep_both else [r for r in found if r.id not in stay]
    left = {r.id for r in found} - {r.id for r in takes}
    edit = inheriting(edit, [r.edit for r in takes])
    return Place(edit, live_twin(db, edit), takes, stay | left)


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
        self.stated: list[Edit] = []  # what this operation said, as it was kept
        self.renewed: list[int] = []

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

    def add(self, edit: Edit, keep_both: bool = False) -> tuple[int, bool]:
        """The edit's id, and whether it is new: a live edit that says the same keeps its place.

        Unless a newer one contradicts it: what was said again is the newest word.
        """
        where = place(self.db, edit, keep_both)
        if where.twin is not None:
            if not keep_both and conflicts.outdated(self.db, where.twin):
                self.begin()
                known = record(self.db, where.twin)
                self.write(known.id, known.version + 1, known.edit, "live", None, "add", known.added, self.id)
                self.renewed.append(known.id)
            return where.twin, False
        self.begin()
        id = self._next_id()
        self._supersede(where.takes, id)
        self.write(id, 1, where.edit, "live", None, "add", self.at, self.id)
        conflicts.keep_both(self.db, self.id, [(id, other) for other in where.beside])
        conflicts.await_check(self.db, [id])
        self.stated.append(where.edit)
        return id, True

    def update(self, known: Record, edit: Edit) -> None:
        """Give a live edit new content, by which it is the newest and may take others' places."""
        self.begin()
        stay = conflicts.beside(self.db, [known.id]).get(known.id, frozenset()) | {known.id}
        self._supersede([r for r in rivals(self.db, edit) if r.id not in stay], known.id)
        # Another label or source makes nothing newer: what the edit says is as old as before.
        stated = known.stated if edit.content_hash == known.edit.content_hash else self.id
        self.write(known.id, known.version + 1, edit, "live", None, "update", known.added, stated)
        conflicts.await_check(self.db, [known.id])
        self.stated.append(edit)

    def turn(self, known: Record, status: Status, action: Action, superseded_by: int | None = None) -> None:
        """Give an edit another status; its content stays."""
        self.begin()
        self.write(
            known.id, known.version + 1, known.edit, status, superseded_by, action, known.added, known.stated
        )

    def _supersede(self, taken: Iterable[Record], by: int) -> None:
        for known in taken:
            self.turn(known, "superseded", "supersede", by)
            self.superseded.append((known.id, by))

    def _next_id(self) -> int:
        row = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'edits'").fetchone()
        return int(row[0]) + 1 if row else 1

    def write(
        self, id: int, version: int, edit: Edit, status: Status, by: int | None, action: Action, added: str,
        stated: int,
    ) -> None:  # fmt: skip
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
                **columns(edit),
                "content": text,
                "stated": stated,
            },
        )
        self.db.execute(
            "INSERT INTO versions (edit, version, operation, action, status, superseded_by, hash, content, "
            "stated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (id, version, self.id, action, status, by, digest, text, stated),
        )
        if version > 1:
            unlist(self.db, id)
        if status == "live":
            enlist(self.db, id, edit)


def columns(edit: Edit) -> dict[str, str | None]:
    """What an edit's row holds of its content besides, so that it can be looked for."""
    return {
        "subject": edit.subject,
        "source": edit.source,
        "method": edit.method,
        "ref": edit.ref,
        "tags": tagged(edit.tags),
        "valid_from": edit.valid_from,
        "valid_to": edit.valid_to,
    }


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


def take_in(db: Database, edits: list[Edit], further: Collection[int] = ()) -> tuple[Added, list[Edit]]:
    """Add edits as one operation; conflicts are not looked for.

    Args:
        further: positions of those that are further values beside what is there.

    Returns:
        what was done, and the edits whose vectors are wanted.
    """
    change = Change(db, "add")
    outcome = [change.add(edit, n in further) for n, edit in enumerate(edits)]
    added = Added(
        ids=[id for id, _ in outcome],
        new=[id for id, new in outcome if new],
        superseded=change.superseded,
        duplicates=[place for place, (_, new) in enumerate(outcome) if not new],
        conflicts=[],
        operation=change.id,
        renewed=change.renewed,
    )
    return added, change.stated


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
