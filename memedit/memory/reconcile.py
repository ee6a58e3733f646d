"""What rows read from a damaged database mean together.

Edits and their versions tell one story twice: a row that is lost or altered in one of the tables is taken from
the other, and each carries a hash that tells whether its content is what was written.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from memedit.errors import MemeditError, MemoryError_
from memedit.memory import content, patches, writing
from memedit.memory.health import told, vouched
from memedit.memory.reading import sound_vectors
from memedit.memory.salvage import Row, Rows
from memedit.memory.store import FILE


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


def build(db: Database, folder: Path, reached: Rows, scanned: Rows, done: Repaired) -> None:
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
    operations = _operations(found["operations"], versions, states, found["kept"])
    _state(versions)
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
            with suppress(sqlite3.IntegrityError):  # of edits, or operations, that are no more
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
        return bool(content.loads(row["content"]).statement) or row["status"] == "purged"
    except MemoryError_:
        return False


def _states(edits: Mapping[int, list[Row]]) -> dict[tuple[int, int], Row]:
    """The rows of `edits` by id and version: of several, the one that can be trusted most."""
    states: dict[tuple[int, int], Row] = {}
    for rows in edits.values():
        for row in rows:
            key = row["id"], row["version"]
            if _readable(row) and (key not in states or _trust(row) > _trust(states[key])):
                states[key] = row
    return states


def _trust(row: Row) -> int:
    """Of a row of `edits`: its content is what its hash says, and what its other columns say."""
    return 2 * _vouched(row) + told(row)


def _versions(found: Rows, states: Mapping[tuple[int, int], Row], done: Repaired) -> list[Row]:
    """Every version, in order; one that is lost or altered is taken from the edit's own row."""
    versions: dict[tuple[int, int], Row] = {}
    owners = {
        _marks(row): id for (id, _), row in states.items() if _trust(row) == 3 and row["status"] != "purged"
    }
    there = {(rows[0]["edit"], rows[0]["version"]) for rows in found["versions"].values()}
    for rows in found["versions"].values():
        key = rows[0]["edit"], rows[0]["version"]
        owner = owners.get(_marks(rows[0]), key[0])
        # Two edits may well have said the same: only one that lacks this version can have lost it.
        lacks = (owner, key[1]) not in there
        if key[0] != owner and lacks and (key not in states or states[key]["hash"] != rows[0]["hash"]):
            rows = [
                {**row, "edit": owner} for row in rows
            ]  # it is another edit's, and its number was altered
            key = owner, key[1]
        rows = sorted(rows, key=lambda row: row["status"] != "purged")  # older images hold what was purged
        best = next((row for row in rows if _vouched(row)), None)
        state = states.get(key)
        if state is not None and (_trust(state) == 3 or (best is None and _vouched(state))):
            best = {**(best or rows[0]), "content": state["content"], "hash": state["hash"]}
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


def _marks(row: Row) -> tuple[Any, ...]:
    """What a version and its edit's row both hold but for the edit's number."""
    names = ("version", "content", "hash", "status", "superseded_by", "stated")
    return tuple(row[name] for name in names)


def _version_of(state: Row, seq: int) -> Row:
    """The version whose outcome an edit's row is; its operation is known by its time only."""
    action = {"superseded": "supersede", "forgotten": "forget"}.get(state["status"])
    if action is None:
        action = "add" if state["version"] == 1 else "update"
    same = {name: state[name] for name in ("version", "status", "superseded_by", "content", "stated")}
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


def _state(versions: list[Row]) -> None:
    """When each edit came to say what it says, where the rows are from before that was written down."""
    last: dict[int, tuple[str, int]] = {}
    for row in versions:
        hash, stated = last.get(row["edit"], ("", 0))
        if row["action"] in ("add", "update") or hash != row["hash"]:
            stated = row["operation"]
        row["stated"] = row["stated"] or stated
        last[row["edit"]] = row["hash"], row["stated"]


def _operations(
    rows: Mapping[int, list[Row]],
    versions: list[Row],
    states: Mapping[tuple[int, int], Row],
    kept: Mapping[int, list[Row]],
) -> dict[int, Row]:
    """Every operation that is known, or spoken of; their times grow with their ids."""
    most = max((row["operation"] for row in versions), default=0) + max(rows, default=0) + len(kept)
    decided = {some[0]["operation"] for some in kept.values() if 0 < some[0]["operation"] <= most}
    known = {id: some[0] for id, some in rows.items()}
    for row in versions:
        if row["at"] is not None:  # that of the time, or the place where it must have been
            before = max((id for id, other in known.items() if other["at"] <= row["at"]), default=0)
            there = before in known and known[before]["at"] == row["at"]
            row["operation"] = before if there or (before and before + 1 in known) else before + 1
    _mend_operations(versions, max(known, default=0) + len(versions))
    spoken = {row["operation"] for row in versions} | decided
    spoken |= {
        row["undoes"] for id, row in known.items() if row["undoes"] is not None and 0 < row["undoes"] < id
    }
    kinds = dict.fromkeys(decided, "keep-both")
    times: dict[int, str] = {}
    added = {id: state["added"] for (id, _), state in states.items()}
    for row in versions:
        if row["operation"] not in kinds or row["action"] != "supersede" or row["operation"] in decided:
            kinds[row["operation"]] = row["action"]
        state = states.get((row["edit"], row["version"]))
        if state is not None:
            times[row["operation"]] = state["changed"]
        if row["version"] == 1 and row["edit"] in added:
            times.setdefault(row["operation"], added[row["edit"]])
    return dict(_in_order(known, sorted((known.keys() | spoken) - {0}), kinds, times))


def _mend_operations(versions: list[Row], most: int) -> None:
    """Operations grow with the versions' order: a number that most others speak against becomes the one before."""
    ordered = {row["seq"]: row for row in versions if row["at"] is None}
    said = {
        seq: (row["operation"], seq) for seq, row in sorted(ordered.items()) if 0 < row["operation"] <= most
    }
    certain, before = _growing(list(said), said), 1
    for seq in sorted(ordered):
        if seq not in certain:
            ordered[seq]["operation"] = before
        before = ordered[seq]["operation"]


def _in_order(
    known: Mapping[int, Row], ids: Sequence[int], kinds: Mapping[int, str], times: Mapping[int, str]
) -> Iterator[tuple[int, Row]]:
    """Operations by id, each later than the one before: a time that most others speak against is made anew."""
    said = {id: known[id]["at"] if id in known else times.get(id, "") for id in ids}
    certain = _growing([id for id in ids if said[id]], said)
    last: str = ""
    for place, id in enumerate(ids):
        after = next((said[later] for later in ids[place + 1 :] if later in certain), "9")
        tries = [said[id] if id in certain else "", times.get(id, ""), content.instant(_after(last))]
        last = next((at for at in tries if last < at < after), tries[-1])
        row: Row = known.get(id, {"id": id, "kind": kinds.get(id, "add"), "undoes": None})
        undoes = row["undoes"] if row["undoes"] is not None and 0 < row["undoes"] < id else None
        yield id, {**row, "at": last, "undoes": undoes}


def _growing(ids: Sequence[int], value: Mapping[int, Any]) -> set[int]:
    """The largest choice of ids whose values grow with them."""
    ends: list[Any] = []  # the smallest value that ends a choice of 1, 2, ... ids
    lengths = []
    for id in ids:
        length = bisect_left(ends, value[id])
        ends[length : length + 1] = [value[id]]
        lengths.append(length)
    chosen: list[int] = []
    for id, length in zip(reversed(ids), reversed(lengths), strict=True):
        if length == len(ends) - 1 - len(chosen) and (not chosen or value[id] < value[chosen[-1]]):
            chosen.append(id)
    return set(chosen)


def _after(at: str) -> datetime | str:
    return datetime.fromisoformat(at) + timedelta(microseconds=1) if at else "1970-01-01"


def _edits(
    versions: list[Row], operations: Mapping[int, Row], states: Mapping[tuple[int, int], Row]
) -> Iterator[Row]:
    """Each edit as its newest version has it."""
    began = {id: state["added"] for (id, _), state in states.items()}
    added: dict[int, str] = {}
    newest: dict[int, Row] = {}
    for row in versions:
        at = operations[row["operation"]]["at"]
        if row["edit"] not in added:
            added[row["edit"]] = at if row["version"] == 1 else min(began.get(row["edit"], at), at)
        newest[row["edit"]] = row
    for id, row in newest.items():
        yield {
            **writing.columns(content.loads(row["content"])),
            "id": id,
            "version": row["version"],
            "status": row["status"],
            "superseded_by": row["superseded_by"],
            "stated": row["stated"],
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
