"""A new database from what can be read of a damaged one.

Edits and their versions tell one story twice: a row that is lost or altered in one of the tables is taken from
the other, and each carries a hash that tells whether its content is what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlite_utils import Database

from memedit.errors import MemeditError, MemoryBusy, MemoryError_, NewerMemory
from memedit.memory import content, patches, writing
from memedit.memory.health import damage, vouched
from memedit.memory.reading import sound_vectors
from memedit.memory.salvage import Row, Rows, salvage, tables_of
from memedit.memory.snapshot import sync_folder
from memedit.memory.store import DAMAGED, FILE, Store

_ACTIONS = {"add": "add", "supersede": "add", "update": "update", "forget": "forget", "undo": "undo"}


@dataclass
class Repaired:
    """What a repair saved.

    Attributes:
        kept: where the damaged database lies now. saved: rows by table.
        notes: a sentence for everything that couldn't be saved as it was.
    """

    kept: Path
    saved: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def needed(folder: Path, timeout: float = 10.0) -> bool:
    """Whether something is lost or altered that can't be derived from what is there.

    Raises:
        MemoryBusy: another process writes. MemoryError_: it can't be opened, for another reason than damage.
    """
    if not (folder / FILE).exists() and not list(folder.glob(f"{DAMAGED}*")):
        raise MemoryError_(f"there is no memory at {folder} to repair")
    try:
        with closing(Store(folder, timeout=timeout)) as store, store.reading() as db:
            return any(damage(db))
    except (MemoryBusy, NewerMemory):
        raise
    except (MemoryError_, ValueError):
        return True


def repair(folder: Path, timeout: float = 10.0) -> Repaired:
    """Put a database of all rows that can be read in the place of a damaged one, which is kept beside it.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is nothing to repair, or nothing can be written.
    """
    with replaced(folder, timeout) as (kept, new):
        done = Repaired(kept)
        with closing(Store(new.parent / "built")) as store, store.writing() as db:
            _build(db, folder, *salvage(kept, _log(kept), tables_of(db)), done)
        os.replace(store.file, new)
    return done


@contextmanager
def replaced(folder: Path, timeout: float = 10.0) -> Iterator[tuple[Path, Path]]:
    """Two files: the damaged database, kept as it is, and where the block is to write the one for its place.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is nothing to replace, or nothing can be written.
    """
    file = folder / FILE
    try:
        with _locked(file, timeout), tempfile.TemporaryDirectory(dir=folder, prefix=".repair-") as beside:
            new, known = Path(beside) / FILE, set(folder.iterdir())
            kept = _set_aside(folder)
            try:
                yield kept, new
            except BaseException:
                for path in {kept, _log(kept)} - known:
                    path.unlink(missing_ok=True)
                raise
            with open(new, "rb+") as handle:
                os.fsync(handle.fileno())
            # The database first: a log without one does no harm, and a repair that is cut short here is
            # told by what is missing.
            for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                (folder / name).unlink(missing_ok=True)
            os.replace(new, file)
            sync_folder(folder)
    except OSError as error:
        raise MemoryError_(
            f"{folder} can't be repaired: {error.strerror or error}; the damaged files are as they were"
        ) from error


def _free_name(folder: Path) -> Path:
    """Where a database that is taken out of use is to lie."""
    stamp = content.instant(None)[:19].replace(":", "").replace("-", "")
    names = (folder / f"{DAMAGED}{stamp}{more}" for more in ("", *(f".{n}" for n in range(1, 1000))))
    return next(path for path in names if not path.exists())


def _log(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def _set_aside(folder: Path) -> Path:
    """A copy of the database and its log, on the disk; what a repair that was cut short left, where it is gone."""
    file, kept = folder / FILE, _free_name(folder)
    if not file.exists():
        left = sorted(p for p in folder.glob(f"{DAMAGED}*") if not p.name.endswith(("-wal", "-shm")))
        if not left:
            raise MemoryError_(f"there is no memory at {folder} to repair")
        return left[-1]
    # The log first: a copy with a log and no database is none, one without its log would lose what is in it.
    for source, copy in ((_log(file), _log(kept)), (file, kept)):
        if source.exists():
            shutil.copyfile(source, copy)
            with open(copy, "rb+") as handle:
                os.fsync(handle.fileno())
    sync_folder(folder)
    return kept


@contextmanager
def _locked(file: Path, timeout: float) -> Iterator[None]:
    """Nobody else writes meanwhile, as far as the file's damage lets that be seen to."""
    if not file.exists():
        yield
        return
    with closing(sqlite3.connect(file, timeout=timeout, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise MemoryBusy(
                    f"the memory at {file.parent} is being written; stop what writes it, then repair it"
                ) from error
        yield


# -- the rows, judged


def _build(db: Database, folder: Path, reached: Rows, scanned: Rows, done: Repaired) -> None:
    """Everything that can be said for certain, into an empty database."""
    found = {
        name: {
            id: reached[name].get(id, []) + scanned[name].get(id, [])
            for id in sorted(reached[name].keys() | scanned[name].keys())
        }
        for name in reached
    }
    if not found["versions"] and not found["edits"]:
        raise MemoryError_(f"nothing of a memory can be read in {folder / FILE}; it was left as it is")
    states = _states(found["edits"])
    versions = _versions(found, states, done)
    operations = _operations(found["operations"], versions, states)
    encoder = _meta(db, found["meta"])
    for row in operations.values():
        _put(db, "operations", row)
    for row in _edits(versions, operations, states):
        _put(db, "edits", row)
    for row in versions:
        _put(db, "versions", {name: value for name, value in row.items() if name != "at"})
    # Vectors that were replaced by another encoder's may still lie on unused pages.
    stale = any(row["kind"] == "reencode" for row in operations.values())
    if encoder:
        _vectors(db, reached["vectors"] if stale else found["vectors"], versions, *encoder)
    _patches(db, folder, found["patches"])
    for name in found.keys() - {"meta", "operations", "versions", "edits", "vectors", "patches"}:
        for rows in found[name].values():
            _put(db, name, rows[0])
    writing.relist(db)
    done.saved = {name: db[name].count for name in ("edits", "versions", "operations", "vectors", "patches")}
    lost = max((row["seq"] for row in versions), default=0) - len(versions)
    if lost > 0:
        done.notes.append(f"up to {lost} rows of history are lost")


def _put(db: Database, table: str, row: Row) -> None:
    names = ", ".join(f"[{name}]" for name in row)
    db.execute(
        f"INSERT OR IGNORE INTO [{table}] ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
    )


def _vouched(row: Row) -> bool:
    return vouched(row["content"], row["hash"])


def _readable(row: Row) -> bool:
    try:
        return bool(content.loads(row["content"]).statement)
    except MemoryError_:
        return False


def _states(edits: Mapping[int, list[Row]]) -> dict[tuple[int, int], Row]:
    """The rows of `edits` by id and version, those preferred whose content is what was written."""
    states: dict[tuple[int, int], Row] = {}
    for rows in edits.values():
        for row in rows:
            key = row["id"], row["version"]
            if _readable(row) and (key not in states or (_vouched(row) and not _vouched(states[key]))):
                states[key] = row
    return states


def _versions(found: Rows, states: Mapping[tuple[int, int], Row], done: Repaired) -> list[Row]:
    """Every version, in order; one that is lost or altered is taken from the edit's own row."""
    versions: dict[tuple[int, int], Row] = {}
    for rows in found["versions"].values():
        key = rows[0]["edit"], rows[0]["version"]
        best = next((row for row in rows if _vouched(row)), None)
        state = states.get(key)
        if best is None and state is not None and _vouched(state):
            best = {**rows[0], "content": state["content"], "hash": state["hash"]}
        if best is None:
            best = next((row for row in rows if _readable(row)), None)
            if best is None:
                continue
            best = {**best, "hash": content.loads(best["content"]).content_hash}
            done.notes.append(f"version {key[1]} of edit {key[0]} may say something else than was written")
        key = best["edit"], best["version"]
        if key not in versions or not _vouched(versions[key]):
            versions[key] = {**best, "at": None}
    seq = max((row["seq"] for row in versions.values()), default=0)
    newest: dict[int, int] = {}
    for id, version in states:
        newest[id] = max(version, newest.get(id, 0))
    for id, version in newest.items():
        if (id, version) not in versions:
            seq += 1
            versions[id, version] = _version_of(states[id, version], seq)
    return sorted(versions.values(), key=lambda row: (row["edit"], row["version"]))


def _version_of(state: Row, seq: int) -> Row:
    """The version whose outcome an edit's row is; its operation is known by its time only."""
    action = {"superseded": "supersede", "forgotten": "forget"}.get(state["status"])
    if action is None:
        action = "add" if state["version"] == 1 else "update"
    same = {name: state[name] for name in ("version", "status", "superseded_by", "content")}
    hash = content.loads(state["content"]).content_hash
    return {
        "seq": seq,
        "edit": state["id"],
        "operation": 0,
        "action": action,
        **same,
        "hash": hash,
        "at": state["changed"],
    }


def _operations(
    rows: Mapping[int, list[Row]], versions: list[Row], states: Mapping[tuple[int, int], Row]
) -> dict[int, Row]:
    """Every operation that is known, or spoken of; their times grow with their ids."""
    known = {id: some[0] for id, some in rows.items()}
    for row in versions:
        if row["at"] is not None:  # that of the time, or the place where it must have been
            before = max((id for id, other in known.items() if other["at"] <= row["at"]), default=0)
            there = before in known and known[before]["at"] == row["at"]
            row["operation"] = before if there or before + 1 in known else before + 1
    spoken = {row["operation"] for row in versions} | {row["undoes"] for row in known.values()} - {None}
    kinds: dict[int, str] = {}
    times: dict[int, str] = {}
    for row in versions:
        if row["operation"] not in kinds or row["action"] != "supersede":
            kinds[row["operation"]] = _ACTIONS.get(row["action"], row["action"])
        state = states.get((row["edit"], row["version"]))
        if state is not None:
            times[row["operation"]] = state["changed"]
    last: str = ""
    out: dict[int, Row] = {}
    for id in sorted((known.keys() | spoken) - {0}):
        row: Row = known.get(id) or {
            "id": id,
            "kind": kinds.get(id, "add"),
            "at": times.get(id, ""),
            "undoes": None,
        }
        if row["at"] <= last:
            row = {**row, "at": content.instant(_after(last))}
        out[id] = row
        last = row["at"]
    return out


def _after(at: str) -> datetime | str:
    return datetime.fromisoformat(at) + timedelta(microseconds=1) if at else "1970-01-01"


def _edits(
    versions: list[Row], operations: Mapping[int, Row], states: Mapping[tuple[int, int], Row]
) -> Iterator[Row]:
    """Each edit as its newest version has it."""
    added = {id: state["added"] for (id, _), state in states.items()}
    newest: dict[int, Row] = {}
    for row in versions:
        added.setdefault(row["edit"], operations[row["operation"]]["at"])
        newest[row["edit"]] = row
    for id, row in newest.items():
        yield {
            **writing.columns(content.loads(row["content"])),
            "id": id,
            "version": row["version"],
            "status": row["status"],
            "superseded_by": row["superseded_by"],
            "added": added[id],
            "changed": operations[row["operation"]]["at"],
            "hash": row["hash"],
            "content": row["content"],
        }


def _meta(db: Database, rows: Mapping[int, list[Row]]) -> tuple[int, int] | None:
    """Settings, the newest of each; the encoder's dim and its number of views, if all is known of it."""
    settings = {some[0]["key"]: some[0]["value"] for _, some in sorted(rows.items())}
    settings.pop("schema_version", None)
    try:
        size = int(settings["encoder_dim"]), len(json.loads(settings["encoder_views"]))
        whole = size[0] > 0 and size[1] > 0 and {"encoder_name", "encoder_fingerprint"} <= settings.keys()
    except (KeyError, ValueError, TypeError):
        whole = False
    for key, value in settings.items():
        if whole or not key.startswith("encoder_"):
            writing.put_meta(db, key, value)
    return size if whole else None


def _vectors(db: Database, rows: Mapping[int, list[Row]], versions: list[Row], dim: int, views: int) -> None:
    """Those that belong to a content and are what an encoder gives; others are encoded again."""
    wanted = {row["hash"] for row in versions}
    for some in rows.values():
        for row in some:
            if row["hash"] in wanted and sound_vectors(row["data"], dim, views):
                _put(db, "vectors", {"hash": row["hash"], "data": row["data"]})


def _patches(db: Database, folder: Path, rows: Mapping[int, list[Row]]) -> None:
    """Those of edits that are there, whose files are whole."""
    edits = {id for (id,) in db.execute("SELECT id FROM edits")}
    for some in rows.values():
        for row in some:
            with suppress(MemeditError, OSError):
                data = patches.path_of(folder, row["key"]).read_bytes()
                if row["edit"] in edits and hashlib.sha256(data).hexdigest() == row["sha256"]:
                    _put(db, "patches", row)
