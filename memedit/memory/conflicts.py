"""Pairs of edits: suspected to contradict each other, or decided to both stay. All take an open database.

A suspected pair is kept for good and looked at anew whenever it is listed: it counts while both edits are
live and their present statements are still suspicious. So it vanishes when one is forgotten, superseded or
reworded, and is there again when that is undone. A decision counts while its operation is not undone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from sqlite_utils import Database

from memedit.memory.reading import chunked, live_records
from memedit.memory.records import Record

_IN_FORCE = "operation NOT IN (SELECT undoes FROM operations WHERE undoes IS NOT NULL)"


def suspect(db: Database, pairs: Iterable[tuple[int, int]]) -> None:
    """Note pairs that may contradict each other."""
    db.conn.executemany(
        "INSERT OR IGNORE INTO conflicts (one, other) VALUES (?, ?)", [(min(p), max(p)) for p in pairs]
    )


def suspected(db: Database, id: int | None = None) -> list[tuple[int, int]]:
    """The pairs of live edits, or of one with others, that were ever suspected and of which nothing was decided."""
    rows = db.execute(
        "SELECT one, other FROM conflicts JOIN edits a ON a.id = one JOIN edits b ON b.id = other "
        f"WHERE {'1' if id is None else '? IN (one, other)'} "
        "AND a.status = 'live' AND b.status = 'live' AND NOT EXISTS "
        f"(SELECT 1 FROM kept WHERE kept.one = conflicts.one AND kept.other = conflicts.other AND {_IN_FORCE})",
        () if id is None else (id,),
    )
    return [(one, other) for one, other in rows]


def outdated(db: Database, id: int) -> bool:
    """Whether a live edit is suspected to be contradicted by a newer one, and nothing was decided of the two."""
    others = {one + other - id for one, other in suspected(db, id)}
    rows = chunked(db, "SELECT max(stated) FROM edits WHERE id IN ({})", list(others))
    newest = max((row[0] for row in rows), default=-1)
    return bool(newest > db.execute("SELECT stated FROM edits WHERE id = ?", (id,)).fetchone()[0])


def keep_both(db: Database, operation: int, pairs: Iterable[tuple[int, int]]) -> None:
    """Write down that this operation lets both edits of each pair stay."""
    rows = [(min(p), max(p), operation) for p in pairs]
    db.conn.executemany("INSERT OR IGNORE INTO kept (one, other, operation) VALUES (?, ?, ?)", rows)


def beside(db: Database, ids: Collection[int]) -> dict[int, frozenset[int]]:
    """For those of these ids that have some: the ids of edits, of whatever status, that stay beside them."""
    found: dict[int, set[int]] = defaultdict(set)
    if ids and db.execute("SELECT EXISTS (SELECT 1 FROM kept)").fetchone()[0]:
        given = list(ids)
        for here, there in (("one", "other"), ("other", "one")):
            sql = f"SELECT {here}, {there} FROM kept WHERE {here} IN ({{}}) AND {_IN_FORCE}"
            for id, partner in chunked(db, sql, given):
                found[id].add(partner)
    return {id: frozenset(partners) for id, partners in found.items()}


def kept_by(db: Database, operation: int) -> list[tuple[Record, Record]]:
    """The pairs of live edits, the older first, of which this operation alone decided that both stay."""
    rows = db.execute(
        f"SELECT one, other FROM kept k WHERE operation = ? AND NOT EXISTS (SELECT 1 FROM kept WHERE "
        f"kept.one = k.one AND kept.other = k.other AND kept.operation != k.operation AND {_IN_FORCE})",
        (operation,),
    ).fetchall()
    pairs = [sorted(live_records(db, pair), key=lambda record: record.recency) for pair in rows]
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def await_check(db: Database, ids: Iterable[int]) -> None:
    """Note edits that became live and are still to be compared with the others."""
    db.conn.executemany("INSERT OR IGNORE INTO unchecked VALUES (?)", [(id,) for id in ids])


def awaiting(db: Database) -> list[int]:
    """The edits that are to be compared with the others."""
    return [row[0] for row in db.execute("SELECT edit FROM unchecked ORDER BY edit")]


def checked(db: Database, ids: Iterable[int]) -> None:
    """These were compared with the others."""
    db.conn.executemany("DELETE FROM unchecked WHERE edit = ?", [(id,) for id in ids])
