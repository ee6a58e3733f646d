"""Damaged files: bits flipped and ends cut off, in the database, its log and the index; what can be read is saved."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.memory import EditMemory, repair_memory

TABLES = {"operations": "id", "edits": "id", "versions": "seq"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The closed folder of a memory of 200 edits with a history, and a patch."""
    folder = tmp_path_factory.mktemp("sound")
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        memory.add(facts(180))
        for n in range(20):
            memory.add(capital(f"Country {n}", "Lyon", ref=f"c{n}", tags=["late"]))
        for id in range(1, 40, 3):
            memory.update(id, target=f"Newtown {id}")
        for id in range(2, 30, 5):
            memory.forget(id)
        memory.undo()
        memory.add([capital(f"Country {n}", "Nice", ref=f"c{n}") for n in range(5)])
        memory.put_patch(1, "key", "rome", b"patch")
        memory.default_method = "ike"
        memory.save_index()
    return folder


@pytest.fixture
def hurt(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "memory")
    return tmp_path / "memory"


def rows(file: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """The plain oracle: every row that SQLite gives when asked for it alone."""
    found = {}
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        for table, key in TABLES.items():
            for id in range(1, 300):
                try:
                    row = db.execute(f"SELECT * FROM {table} WHERE {key} = ?", (id,)).fetchone()
                except sqlite3.DatabaseError:
                    continue
                if row is not None:
                    found[table, id] = row
    return found


def use(folder: Path) -> int:
    """Everything that reads; returns how many edits there are."""
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        memory.search("The capital of Country 3 is", 5)
        memory.as_of("2999-01-01")
        memory.operations()
        memory.stats()
        for record in memory.list(status="all"):
            memory.history(record.id)
        return len(memory.list(status="all"))


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def saved(folder: Path, before: dict[tuple[str, int], tuple[Any, ...]]) -> list[str]:
    """Repair, and see that every row that could be read as it was is there as it was."""
    try:
        readable = rows(folder / "memory.db")
    except sqlite3.DatabaseError:
        readable = {}
    wanted = {key: row for key, row in readable.items() if before.get(key) == row}
    said = repair_memory(folder, encoder=TrigramEncoder())
    after = rows(folder / "memory.db")
    assert {key: after.get(key) for key in wanted} == wanted
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        assert memory.check() == []
    use(folder)
    return said
