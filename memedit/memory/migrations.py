"""The memory's tables, as numbered steps. A step that was released is never changed; a new one is added."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("memedit.memory")

SCHEMA = (
    2  # the number of the newest step; written into meta, so that an older memedit can refuse a newer memory
)


@migrations()
def m001_first(db: Database) -> None:
    """Everything of the first version.

    `versions` is the truth and is only ever appended to. `edits` holds each edit's newest version, `keys` and
    `names` what live edits are found by; all three could be derived from `versions` again.
    """
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE operations (
            id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at TEXT NOT NULL,
            undoes INTEGER REFERENCES operations(id))""",
        "CREATE UNIQUE INDEX operations_undoes ON operations(undoes) WHERE undoes IS NOT NULL",
        """CREATE TABLE edits (
            id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, status TEXT NOT NULL,
            superseded_by INTEGER, added TEXT NOT NULL, changed TEXT NOT NULL, hash TEXT NOT NULL,
            subject TEXT, source TEXT, method TEXT, ref TEXT, tags TEXT NOT NULL,
            valid_from TEXT, valid_to TEXT, content TEXT NOT NULL)""",
        "CREATE INDEX edits_hash ON edits(hash, status)",
        "CREATE INDEX edits_ref ON edits(ref) WHERE ref IS NOT NULL",
        "CREATE INDEX edits_status ON edits(status)",
        """CREATE INDEX edits_window ON edits(valid_from, valid_to)
            WHERE status = 'live' AND (valid_from IS NOT NULL OR valid_to IS NOT NULL)""",
        """CREATE TABLE versions (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, edit INTEGER NOT NULL REFERENCES edits(id),
            version INTEGER NOT NULL, operation INTEGER NOT NULL REFERENCES operations(id),
            action TEXT NOT NULL, status TEXT NOT NULL, superseded_by INTEGER, hash TEXT NOT NULL,
            content TEXT NOT NULL)""",
        "CREATE UNIQUE INDEX versions_edit ON versions(edit, version)",
        "CREATE INDEX versions_operation ON versions(operation)",
        "CREATE TABLE keys (key TEXT, edit INTEGER, PRIMARY KEY (key, edit)) WITHOUT ROWID",
        "CREATE INDEX keys_edit ON keys(edit)",
        "CREATE TABLE names (name TEXT, edit INTEGER, PRIMARY KEY (name, edit)) WITHOUT ROWID",
        "CREATE INDEX names_edit ON names(edit)",
        # By the content's hash, not by edit: going back to an earlier content finds its vectors again.
        "CREATE TABLE vectors (id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, data BLOB NOT NULL)",
        """CREATE TABLE patches (
            key TEXT, edit INTEGER REFERENCES edits(id), method TEXT NOT NULL, size INTEGER NOT NULL,
            sha256 TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (key, edit))""",
    ):
        db.execute(statement)


@migrations()
def m002_long_life(db: Database) -> None:
    """Which edit was stated last, and pairs of edits: suspected to contradict each other, or decided to both stay.

    `stated` is the operation by which an edit came to say what it says; the newest wins. A pair in `kept` counts
    while its operation isn't undone. `unchecked` holds edits that became live and were not yet compared with
    the others.
    """
    for statement in (
        "ALTER TABLE versions ADD COLUMN stated INTEGER NOT NULL DEFAULT 0",
        """UPDATE versions SET stated = coalesce((SELECT max(v.operation) FROM versions v
            WHERE v.edit = versions.edit AND v.version <= versions.version AND v.hash = versions.hash
            AND v.action IN ('add', 'update')), operation)""",
        "ALTER TABLE edits ADD COLUMN stated INTEGER NOT NULL DEFAULT 0",
        """UPDATE edits SET stated =
            (SELECT stated FROM versions v WHERE v.edit = edits.id AND v.version = edits.version)""",
        """CREATE TABLE conflicts (id INTEGER PRIMARY KEY, one INTEGER NOT NULL REFERENCES edits(id),
            other INTEGER NOT NULL REFERENCES edits(id))""",
        "CREATE UNIQUE INDEX conflicts_pair ON conflicts(one, other)",
        """CREATE TABLE kept (id INTEGER PRIMARY KEY, one INTEGER NOT NULL REFERENCES edits(id),
            other INTEGER NOT NULL REFERENCES edits(id),
            operation INTEGER NOT NULL REFERENCES operations(id))""",
        "CREATE UNIQUE INDEX kept_pair ON kept(one, other, operation)",
        "CREATE INDEX kept_other ON kept(other)",
        "CREATE TABLE unchecked (edit INTEGER PRIMARY KEY REFERENCES edits(id))",
        "INSERT INTO unchecked SELECT id FROM edits WHERE status = 'live'",
    ):
        db.execute(statement)
