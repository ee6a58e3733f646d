"""How a memory is: its numbers, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from memedit.errors import MemoryError_
from memedit.memory import content, reading, snapshot
from memedit.memory.patches import FOLDER, path_of
from memedit.memory.rules import name_keys
from memedit.memory.writing import columns


def stats(db: Database, folder: Path) -> dict[str, Any]:
    """Counts, sizes and settings."""
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    counts = dict(db.execute("SELECT status, count(*) FROM edits GROUP BY status").fetchall())
    methods = db.execute(
        "SELECT coalesce(method, ?), count(*) FROM edits WHERE status = 'live' GROUP BY 1 ORDER BY 2 DESC",
        ("default",),
    )
    operation, changed = reading.last_operation(db)
    return {
        "path": str(folder),
        "live": counts.get("live", 0),
        "superseded": counts.get("superseded", 0),
        "forgotten": counts.get("forgotten", 0),
        "purged": counts.get("purged", 0),
        "versions": db["versions"].count,
        "operations": db["operations"].count,
        "patches": db["patches"].count,
        "generation": operation,
        "changed": changed or None,
        "default_method": meta.get("default_method"),
        "methods": dict(methods.fetchall()),
        "schema": int(meta["schema_version"]),
        "encoder": meta.get("encoder_name"),
        "encoder_fingerprint": meta.get("encoder_fingerprint"),
        "dim": int(meta["encoder_dim"]) if "encoder_dim" in meta else None,
        "views": json.loads(meta.get("encoder_views", "[]")),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def problems(db: Database, folder: Path) -> list[str]:
    """One sentence for everything that isn't as it must be."""
    found: list[str] = []
    for part in (damage(db), _derived(db), _patches(db, folder), _snapshots(db, folder)):
        try:
            found.extend(part)
        except (MemoryError_, sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
            found.append(_damaged(error))  # too damaged to be looked at further
    return found


def damage(db: Database) -> Iterator[str]:
    """What is lost or altered of what was written, and can't be derived again."""
    try:
        for (line,) in db.execute("PRAGMA integrity_check").fetchall():
            if line != "ok":
                yield f"the database is damaged: {line}; run `memedit doctor --repair`"
        if db.execute("PRAGMA foreign_key_check").fetchone():
            yield "the database has rows that belong to nothing; run `memedit doctor --repair`"
        odd = db.execute(
            "SELECT count(*) FROM edits e LEFT JOIN versions v ON v.edit = e.id AND v.version = e.version "
            "LEFT JOIN operations o ON o.id = v.operation "
            "WHERE v.seq IS NULL OR v.status != e.status OR v.content != e.content OR v.hash != e.hash "
            "OR v.superseded_by IS NOT e.superseded_by OR v.stated != e.stated OR o.at != e.changed OR e.added > e.changed "
            "OR EXISTS (SELECT 1 FROM versions f JOIN operations p ON p.id = f.operation "
            "WHERE f.edit = e.id AND f.version = 1 AND p.at != e.added) "
            "OR v.status NOT IN ('live', 'superseded', 'forgotten', 'purged') "
            "OR EXISTS (SELECT 1 FROM versions n WHERE n.edit = e.id AND n.version > e.version)"
        ).fetchone()[0]
        odd += sum(not told(row) for row in db.query("SELECT * FROM edits"))
        if odd:
            yield f"{odd} edits are not what their history says; run `memedit doctor --repair`"
        times = [row["at"] for row in db.query("SELECT * FROM operations ORDER BY id")]
        if any(not at < later for at, later in pairwise(times)):
            yield "the operations are not in order; run `memedit doctor --repair`"
        altered = sum(
            not vouched(text, hash) for text, hash in db.execute("SELECT content, hash FROM versions")
        )
        if altered:
            yield f"{altered} versions no longer say what was written; run `memedit doctor --repair`"
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        if "encoder_dim" in meta and not (
            meta["encoder_dim"].isdecimal() and isinstance(json.loads(meta["encoder_views"]), list)
        ):
            yield "what the memory says of its encoder is damaged; run `memedit doctor --repair`"
    except (MemoryError_, sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
        yield _damaged(error)


def told(row: Mapping[str, Any]) -> bool:
    """Whether what an edit's row holds for looking it up is what its content says."""
    try:
        return all(row[name] == value for name, value in columns(content.loads(row["content"])).items())
    except (MemoryError_, TypeError, ValueError):
        return False


def _damaged(error: Exception) -> str:
    text = str(error) if isinstance(error, MemoryError_) else f"the database is damaged: {error}"
    return text if "memedit doctor" in text else f"{text}; run `memedit doctor --repair`"


def vouched(text: str, hash: str) -> bool:
    """Whether a row's content is what its hash says."""
    try:
        return content.loads(text).content_hash == hash
    except (MemoryError_, TypeError, ValueError):
        return False


def _derived(db: Database) -> Iterator[str]:
    if db.execute("SELECT 1 FROM meta WHERE key = 'purge_unfinished'").fetchone():
        yield "a purge is not finished: a reader was in the way; the next writing or opening of the memory finishes it"
    bare = len(reading.without_vectors(db))
    if bare:
        yield f"{bare} live edits have no vectors and can't be found; run `memedit doctor --repair`"
    bad = len(reading.unsound(db))
    if bad:
        yield f"the vectors of {bad} contents are damaged; run `memedit doctor --repair`"
    listed = {
        "keys": set(db.execute("SELECT key, edit FROM keys")),
        "names": set(db.execute("SELECT name, edit FROM names")),
    }
    for found in reading.records(db):
        listed["keys"] ^= {(key, found.id) for key in found.edit.keys}
        listed["names"] ^= {(name, found.id) for name in name_keys(found.edit)}
    for table, left in listed.items():
        if left:
            yield f"{len(left)} {table} of edits are listed wrongly; run `memedit rebuild`"


def lost_patches(db: Database, folder: Path) -> list[str]:
    """The keys of patches whose files are lost or damaged."""
    found = []
    for key, digest in db.execute("SELECT DISTINCT key, sha256 FROM patches").fetchall():
        try:
            data = path_of(folder, key).read_bytes()
        except (OSError, MemoryError_):
            data = None
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            found.append(key)
    return found


def _patches(db: Database, folder: Path) -> Iterator[str]:
    known = dict(db.execute("SELECT key, sha256 FROM patches").fetchall())
    for key, digest in known.items():
        path = path_of(folder, key)
        if not path.exists():
            yield f"the patch {key} is lost; it is prepared again when it is needed"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"the patch {key} is damaged; it is prepared again when it is needed"
    for path in sorted((folder / FOLDER).glob("*")):
        if path.name.removesuffix(".safetensors") not in known:
            yield f"{path} belongs to no edit; it can be deleted"


def _snapshots(db: Database, folder: Path) -> Iterator[str]:
    memory = dict(db.execute("SELECT key, value FROM meta").fetchall())["memory"]
    for path in [*folder.glob("vectors.faiss"), *folder.glob("vectors.safetensors")]:
        found = snapshot.load(path)
        if found is None or found[1].memory != memory:
            yield f"{path.name} is damaged or of another memory; it is made again when it is needed"
