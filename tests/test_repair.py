"""Damaged files: bits flipped and ends cut off, in the database, its log and the index; what can be read is saved."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.errors import MemeditError, MemoryDamaged, MemoryError_
from memedit.memory import EditMemory, repair_memory, restore, wal
from memedit.memory.repair import needed, repair

TABLES = {"operations": "id", "edits": "id", "versions": "seq", "kept": "id"}


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
                except (sqlite3.DatabaseError, UnicodeDecodeError):
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


def flip(file: Path, *bits: int) -> None:
    data = bytearray(file.read_bytes())
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def replace(file: Path, old: bytes, new: bytes) -> int:
    """Change every occurrence of some bytes by as many others; how many there were."""
    data = file.read_bytes()
    assert len(old) == len(new)
    file.write_bytes(data.replace(old, new))
    return data.count(old)


def saved(folder: Path, before: dict[tuple[str, int], tuple[Any, ...]]) -> int:
    """Repair; every row that could be read as it was is there as it was. How many of all are."""
    wanted = {key: row for key, row in rows(folder / "memory.db").items() if before.get(key) == row}
    repair_memory(folder, encoder=TrigramEncoder())
    after = rows(folder / "memory.db")
    assert {key: after.get(key) for key in wanted} == wanted
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        assert memory.check() == []
    use(folder)
    return sum(after.get(key) == row for key, row in before.items())


def harm(kind: str, file: Path, chance: random.Random) -> None:
    data = file.read_bytes()
    page = chance.randrange(1, len(data) // 4096) * 4096
    if kind == "flip":
        flip(file, chance.randrange(8 * len(data)))
    elif kind == "flips":
        flip(file, *(chance.randrange(8 * len(data)) for _ in range(6)))
    elif kind == "cut":
        file.write_bytes(data[: chance.randrange(len(data) // 2, len(data))])
    elif kind == "page":
        file.write_bytes(data[:page] + chance.randbytes(4096) + data[page + 4096 :])
    else:
        file.write_bytes(data[:page] + bytes(4096) + data[page + 4096 :])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["flip", "flips", "cut", "page", "zeroes"])
def test_every_row_that_can_be_read_is_saved(sound: Path, hurt: Path, kind: str, seed: int) -> None:
    before = rows(sound / "memory.db")
    harm(kind, hurt / "memory.db", random.Random(f"{kind}{seed}"))
    said = ""
    try:
        use(hurt)
    except MemeditError as error:  # never another error
        said = str(error)
    assert "\n" not in said
    assert not said or needed(hurt)
    kept = saved(hurt, before)
    assert kept >= len(before) * (0.4 if kind == "cut" else 0.95)


def test_a_long_life_is_saved_whole(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        for city in ("Lyon", "Paris", "Lyon"):
            memory.add(capital("France", city))
        memory.add([capital("Spain", "Vigo"), capital("Italy", "Bari"), capital("Peru", "Cusco")])
        memory.keep_both(3, 4)
        memory.keep_both(4, 5)
        memory.undo()
        memory.supersede(4, 5)
        memory.purge(6)
    before = rows(tmp_path / "memory.db")
    assert {table for table, _ in before} == {*TABLES}
    repair(tmp_path)  # as where one bit elsewhere is damaged
    assert rows(tmp_path / "memory.db") == before
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        assert memory.beside([3]) == {3: [4]}
        assert [v.status for v in memory.history(1)] == ["live", "superseded"]


@pytest.mark.parametrize("at", [0, 17, 21, 30, 100, 103, 200])
def test_a_damaged_first_page_costs_no_row(sound: Path, hurt: Path, at: int) -> None:
    before = rows(sound / "memory.db")
    flip(hurt / "memory.db", 8 * at + 1)
    if needed(hurt):
        repair_memory(hurt, encoder=TrigramEncoder())
    assert rows(hurt / "memory.db") == before


def test_what_one_table_lost_the_other_tells(sound: Path, hurt: Path) -> None:
    with closing(sqlite3.connect(hurt / "memory.db")) as db, db:
        db.execute("DELETE FROM versions WHERE edit IN (5, 181, 190)")
        db.execute("DELETE FROM edits WHERE id IN (1, 2, 3)")
        db.execute("UPDATE edits SET content = replace(content, 'Town 50', 'Town 51') WHERE id = 51")
        db.execute("UPDATE versions SET content = replace(content, 'Town 60', 'Town 61') WHERE edit = 61")
    with EditMemory.open(hurt, encoder=TrigramEncoder()) as memory:
        assert "edits are not what their history says; run `memedit doctor --repair`" in memory.check()[1]
    said = repair_memory(hurt, encoder=TrigramEncoder())
    assert "saved 205 edits" in said[0]
    with EditMemory.open(sound, readonly=True) as old, EditMemory.open(hurt, encoder=TrigramEncoder()) as new:
        assert old.list(status="all") == new.list(status="all")
        assert new.history(5)[-1].action == "add"
        assert new.history(181)[-1].action == "supersede"
        assert new.default_method == "ike"
        assert new.get_patch("key") == b"patch"
        assert new.check() == []
        assert new.add(capital("Peru", "Lima")).ids == [206]


def test_a_fact_that_was_altered_in_both_tables_is_told_of(hurt: Path) -> None:
    assert replace(hurt / "memory.db", b'Town 77"', b'Town 78"') == 2
    with EditMemory.open(hurt, encoder=TrigramEncoder()) as memory:
        assert any("no longer say what was written" in problem for problem in memory.check())
    said = repair_memory(hurt, encoder=TrigramEncoder())
    assert any("edit 78 may say something else than was written" in text for text in said)


def test_damage_is_one_sentence_with_what_to_run(hurt: Path) -> None:
    (hurt / "memory.db").write_bytes((hurt / "memory.db").read_bytes()[:200_000])
    with pytest.raises(MemoryDamaged, match=r"run `memedit doctor --repair`$"):
        use(hurt)
    kept = (hurt / "memory.db").read_bytes()
    said = repair_memory(hurt, encoder=TrigramEncoder())
    (aside,) = hurt.glob("memory.db.damaged-*")
    assert str(aside) in said[0]
    assert aside.read_bytes() == kept
    assert use(hurt) > 50


def test_what_is_no_memory_is_left_as_it_is(tmp_path: Path, hurt: Path) -> None:
    with pytest.raises(MemoryError_, match="there is no memory"):
        repair_memory(tmp_path / "none")
    with sqlite3.connect(tmp_path / "memory.db") as other:
        other.execute("CREATE TABLE recipes (name)")
    before = (tmp_path / "memory.db").read_bytes()
    with pytest.raises(MemoryError_, match="nothing of a memory can be read"):
        repair_memory(tmp_path)
    assert (tmp_path / "memory.db").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} <= {"memory.db", "memory", "memory.db-journal"}


def test_a_sound_memory_is_only_mended(hurt: Path, sound: Path) -> None:
    (hurt / "vectors.faiss").write_bytes(b"x")
    (hurt / "patches" / "stray.safetensors").write_bytes(b"x")
    (hurt / "patches" / "key.safetensors").write_bytes(b"x")
    said = repair_memory(hurt, encoder=TrigramEncoder())
    assert said[:2] == [
        "dropped 1 patches that are lost or damaged; they are prepared again",
        "removed 2 files that belonged to nothing",
    ]
    assert rows(hurt / "memory.db") == rows(sound / "memory.db")
    assert not list(hurt.glob("memory.db.damaged-*"))


def test_a_repair_that_was_cut_short_goes_on(hurt: Path, sound: Path) -> None:
    (hurt / "memory.db").rename(hurt / "memory.db.damaged-20260101T000000")
    with pytest.raises(MemoryDamaged, match="cut short; run `memedit doctor --repair` again"):
        EditMemory.open(hurt)
    repair_memory(hurt, encoder=TrigramEncoder())
    assert rows(hurt / "memory.db") == rows(sound / "memory.db")


# -- vectors


def test_damaged_vectors_are_seen_and_encoded_again(hurt: Path) -> None:
    with closing(sqlite3.connect(hurt / "memory.db")) as db, db:
        for id, change in ((10, b"\x00\x7b"), (11, b"\x00\x7c"), (12, b"")):  # huge, infinite, too short
            (data,) = db.execute("SELECT data FROM vectors WHERE id = ?", (id,)).fetchone()
            db.execute("UPDATE vectors SET data = ? WHERE id = ?", (change + data[2:], id))
        db.execute("DELETE FROM vectors WHERE id = 13")
    with EditMemory.open(hurt, encoder=TrigramEncoder()) as memory:
        assert any("vectors of 3 contents are damaged" in problem for problem in memory.check())
    said = repair_memory(hurt, encoder=TrigramEncoder())
    assert said[0].startswith("encoded ")
    with EditMemory.open(hurt, encoder=TrigramEncoder()) as memory:
        assert memory.check() == memory.spot_check() == []


def test_vectors_that_belong_to_other_edits_are_seen(hurt: Path) -> None:
    with closing(sqlite3.connect(hurt / "memory.db")) as db, db:
        one, other = (data for (data,) in db.execute("SELECT data FROM vectors WHERE id IN (101, 102)"))
        db.execute("UPDATE vectors SET data = ? WHERE id = 101", (other,))
        db.execute("UPDATE vectors SET data = ? WHERE id = 102", (one,))
    with EditMemory.open(hurt, encoder=TrigramEncoder()) as memory:
        assert memory.check() == []  # each is a unit vector
        assert "2 of" in memory.spot_check(1000)[0]


def test_without_its_encoder_the_rows_are_saved_all_the_same(sound: Path, hurt: Path) -> None:
    with closing(sqlite3.connect(hurt / "memory.db")) as db, db:
        db.execute("DELETE FROM vectors WHERE hash = (SELECT hash FROM edits WHERE id = 50)")
        db.execute("DELETE FROM edits WHERE id = 1")
    said = repair_memory(hurt, encoder=TrigramEncoder(seed=1))
    assert "1 edits have no vectors and can't be found: the memory at" in said[1]
    assert rows(hurt / "memory.db") == rows(sound / "memory.db")


# -- the log


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A memory as a killed process leaves it: its last commits are in the log only."""
    with EditMemory.open(tmp_path / "open", encoder=TrigramEncoder()) as memory:
        for n in range(30):
            memory.add(capital(f"Country {n}", "Lyon"))
        shutil.copytree(tmp_path / "open", tmp_path / "killed")
    (tmp_path / "killed" / "memory.db-shm").unlink()
    return tmp_path / "killed"


def test_a_torn_end_of_the_log_is_no_damage(logged: Path) -> None:
    log = logged / "memory.db-wal"
    with open(log, "ab") as file:  # the process died while it wrote the next
        file.write(log.read_bytes()[32:3000])
    assert not wal.damaged(log)
    assert use(logged) == 30


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.9])
def test_a_damaged_log_loses_nothing_silently(logged: Path, share: float) -> None:
    log = logged / "memory.db-wal"
    size = log.stat().st_size
    flip(log, 8 * max(9, int(size * share)))
    before = log.read_bytes()
    assert wal.damaged(log)
    assert not wal.damaged(log, most=size - 1)
    with pytest.raises(MemoryDamaged, match=r"the log of .* is damaged"):
        use(logged)
    assert log.read_bytes() == before  # which SQLite itself would have thrown away
    repair_memory(logged, encoder=TrigramEncoder())
    with EditMemory.open(logged, encoder=TrigramEncoder()) as memory:
        assert [r.edit.subject for r in memory] == [f"Country {n}" for n in range(30)]
        assert memory.check() == []


def test_a_backup_is_the_other_way_out(sound: Path, hurt: Path, tmp_path: Path) -> None:
    with EditMemory.open(sound, readonly=True) as memory:
        memory.backup(tmp_path / "backup")
    (hurt / "memory.db").write_bytes((hurt / "memory.db").read_bytes()[:100_000])
    with pytest.raises(MemoryError_, match="--force"):
        restore(tmp_path / "backup", hurt)
    restore(tmp_path / "backup", hurt, force=True)
    assert rows(hurt / "memory.db") == rows(sound / "memory.db")
    assert list(hurt.glob("memory.db.damaged-*"))
