"""What methods prepared for edits: a file each, and a row that says what the file must be."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from memedit.errors import MemoryError_
from memedit.memory.content import instant
from memedit.memory.snapshot import write_durably
from memedit.memory.store import Store

FOLDER = "patches"
_HEADER = 1 << 20  # bytes; a file that claims a longer header is none
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def path_of(folder: Path, key: str) -> Path:
    """Where the patch with this key lies.

    Raises:
        MemoryError_: the key can't be a file's name.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise MemoryError_(
            f"{key!r} can't be a patch's key; take letters, digits, dots, dashes and underscores"
        )
    return folder / FOLDER / f"{key}.safetensors"


def put(store: Store, edit: int | str, key: str, method: str, data: bytes) -> int:
    """Keep a patch: first the file, then the row, so that a row's file is there and whole.

    Args:
        edit: an edit's id; or a content hash, for all live edits that say so.

    Returns:
        For how many edits it is kept; for none nothing is written.
    """
    path = path_of(store.folder, key)
    if not isinstance(data, bytes):
        raise MemoryError_(f"a patch is bytes, not {type(data).__name__}")
    with store.writing() as db:
        ids = [edit] if isinstance(edit, int) else _saying(db, edit)
        if not ids:
            return 0
        try:
            path.parent.mkdir(exist_ok=True)
            write_durably(path, data)
        except OSError as error:
            raise MemoryError_(
                f"the patch {key} can't be written in {path.parent}: {error.strerror}"
            ) from error
        row = {
            "key": key,
            "method": method,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "at": instant(None),
        }
        db.table("patches").insert_all(({**row, "edit": id} for id in ids), replace=True)
        # Edits of one content share a key and its file: what is written for one holds for all.
        db.execute(
            "UPDATE patches SET size = ?, sha256 = ? WHERE key = ?",
            (len(data), hashlib.sha256(data).hexdigest(), key),
        )
        return len(ids)


def get(store: Store, key: str) -> bytes | None:
    """The patch's bytes; None where it was never kept, or is lost or damaged."""
    path = path_of(store.folder, key)
    with store.reading() as db:
        row = db.execute("SELECT sha256 FROM patches WHERE key = ?", (key,)).fetchone()
    try:
        data = path.read_bytes() if row else b""
    except OSError:
        return None
    return data if row and hashlib.sha256(data).hexdigest() == row[0] else None


def rows(store: Store, edit_id: int | None = None, content: str | None = None) -> list[dict[str, Any]]:
    """The rows of one edit, of the live edits of one content hash, or of all."""
    where: str | None = None
    values: list[int | str] | None = None
    if edit_id is not None:
        where, values = "edit = ?", [edit_id]
    elif content is not None:
        where, values = (
            "edit IN (SELECT id FROM edits WHERE hash = ? AND status = 'live')",
            [content],
        )
    with store.reading() as db:
        found = db.table("patches").rows_where(
            where, values, select="key, edit, method, size, at", order_by="at, key"
        )
        return list(found)


def about(store: Store, key: str) -> dict[str, str]:
    """What a patch's file says of itself (method, base, settings, seconds, ...); empty where it can't be read."""
    try:
        with path_of(store.folder, key).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length)).get("__metadata__") if length < _HEADER else None
    except (OSError, ValueError, AttributeError):
        return {}
    return {str(name): str(value) for name, value in (found or {}).items()}


def _saying(db: Database, content_hash: str) -> list[int]:
    rows_ = db.execute("SELECT id FROM edits WHERE hash = ? AND status = 'live'", (content_hash,))
    return [id for (id,) in rows_.fetchall()]
