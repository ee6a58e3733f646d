"""The SQLite file: what is opened and what is refused, how it is locked, and what its errors say."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.errors import MemoryBusy, MemoryError_
from memedit.memory import EditMemory
from memedit.memory.migrations import SCHEMA, migrations
from memedit.memory.store import Store

TESTS = Path(__file__).parent


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder of a closed memory with three edits."""
    folder = tmp_path / "memory"
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        memory.add(facts(3))
    return folder


# -- opening


def test_a_new_memory_is_made_with_its_parents(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "a" / "b") as memory:
        assert memory.list() == []
    assert (tmp_path / "a" / "b" / "memory.db").exists()


def test_commits_are_whole_and_on_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    store.close()


def test_every_migration_is_numbered_and_the_newest_is_the_schema() -> None:
    names = [step.name for step in migrations.pending(_empty())]
    assert [int(name[1:4]) for name in names] == list(range(1, SCHEMA + 1))


def _empty():  # type: ignore[no-untyped-def]
    from sqlite_utils import Database

    return Database(memory=True)


def test_without_create_nothing_is_made(tmp_path: Path) -> None:
    for options in ({"create": False}, {"readonly": True}):
        with pytest.raises(MemoryError_, match="there is no memory at"):
            EditMemory.open(tmp_path / "none", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_no_memory_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear to somebody")
    with pytest.raises(MemoryError_, match=r"is no memory: it holds 'thesis.tex'"):
        EditMemory.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MemoryError_, match="is a file"):
        EditMemory.open(tmp_path / "file")
    with pytest.raises(MemoryError_, match="can't be made"):
        EditMemory.open(tmp_path / "file" / "below")


def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(MemoryError_, match="is damaged"):
        EditMemory.open(tmp_path)
    assert (tmp_path / "memory.db").read_bytes() == b"not a database at all" * 100


def test_another_programs_database_is_refused_and_untouched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "memory.db") as other:
        other.execute("CREATE TABLE recipes (name)")
    before = (tmp_path / "memory.db").read_bytes()
    with pytest.raises(MemoryError_, match="another program's database"):
        EditMemory.open(tmp_path)
    assert (tmp_path / "memory.db").read_bytes() == before


def test_an_empty_file_left_by_a_killed_first_opening_is_a_new_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.db").touch()
    with pytest.raises(MemoryError_, match="there is no memory"):
        EditMemory.open(tmp_path, readonly=True)
    with EditMemory.open(tmp_path) as memory:
        assert memory.check() == []


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE meta SET value = '{SCHEMA + 1}' WHERE key = 'schema_version'",
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
        "VALUES ('memedit.memory', 'm999_x', '')",
    ],
)
def test_a_memory_of_a_newer_schema_is_refused(made: Path, change: str) -> None:
    with sqlite3.connect(made / "memory.db") as db:
        db.execute(change)
    with pytest.raises(
        MemoryError_, match=rf"newer memedit \(schema {SCHEMA + 1}, this one knows {SCHEMA}\); update"
    ):
        EditMemory.open(made)


def test_two_first_openings_at_once_make_one_memory(tmp_path: Path) -> None:
    found: list[str | None] = []

    def open_one() -> None:
        with EditMemory.open(tmp_path / "new") as memory:
            found.append(memory.get_meta("memory"))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert found[0]


def test_a_flipped_bit_in_the_database_is_found(made: Path) -> None:
    data = bytearray((made / "memory.db").read_bytes())
    page = data.find(b"The capital of Land 00001")
    data[page - 40 : page + 40] = bytes(80)
    (made / "memory.db").write_bytes(data)
    try:
        with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
            assert memory.check()
    except MemoryError_ as error:
        assert "damaged" in str(error)  # noqa: PT017 - either is a good answer, silence is none


# -- reading only


def test_readonly_reads_and_refuses_to_write(made: Path) -> None:
    before = (made / "memory.db").read_bytes()
    with EditMemory.open(made, encoder=TrigramEncoder(), readonly=True) as memory:
        assert len(memory.search("Town 1")) == 3
        for call in (
            lambda: memory.add(capital("France", "Lyon")),
            lambda: memory.forget(1),
            memory.undo,
            memory.rebuild,
            lambda: memory.put_patch(1, "k", "rome", b""),
        ):
            with pytest.raises(MemoryError_, match="can't be changed: it was opened for reading only"):
                call()
    assert (made / "memory.db").read_bytes() == before
    assert not (made / "vectors.faiss").exists()


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that other users can get at, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="memedit-"))
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


_READER = """
import os, sys
import faiss, numpy
from memory_fixtures import TrigramEncoder, capital
from memedit.errors import MemoryError_
from memedit.memory import EditMemory
if os.getuid() == 0:  # rights don't bind root; everything is imported, so become somebody else
    os.setgid(65534)
    os.setuid(65534)
with EditMemory.open(sys.argv[1], encoder=TrigramEncoder()) as memory:
    print(len(memory), memory.search("Town 1", 1)[0].record.edit.target)
    try:
        memory.add(capital("France", "Lyon"))
    except MemoryError_ as error:
        print(error, flush=True)
    sys.stdin.readline()
    print(len(memory))
"""


def _start_reader(folder: Path) -> subprocess.Popen[str]:
    """A process of a user who may not write in the folder."""
    if os.name == "nt":
        pytest.skip("rights are another matter there")
    return subprocess.Popen(
        [sys.executable, "-c", _READER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )


def test_a_folder_that_cant_be_written_opens_for_reading(made: Path, shelf: Path) -> None:
    for file in made.iterdir():
        shutil.copy(file, shelf)
        (shelf / file.name).chmod(0o444)
    shelf.chmod(0o555)
    out, errors = _start_reader(shelf).communicate("go\n", timeout=60)
    lines = out.splitlines()
    assert lines[0] == "3 Town 1", errors
    assert "can't be written by this user" in lines[1]
    assert lines[2] == "3"
    assert sorted(p.name for p in shelf.iterdir()) == sorted(p.name for p in made.iterdir())


def test_a_reader_without_rights_sees_what_the_owner_adds(made: Path, shelf: Path) -> None:
    if os.name == "nt" or os.getuid() != 0:
        pytest.skip("needs two users: run as root")
    shutil.copy(made / "memory.db", shelf)
    (shelf / "memory.db").chmod(0o644)
    reader = _start_reader(shelf)
    assert reader.stdout
    assert reader.stdout.readline() == "3 Town 1\n"
    assert "can't be written" in reader.stdout.readline()
    with EditMemory.open(shelf, encoder=TrigramEncoder()) as memory:
        memory.add(capital("France", "Lyon"))
    out, errors = reader.communicate("go\n", timeout=60)
    assert out.strip() == "4", errors


# -- writing


def test_a_full_disk_loses_nothing_and_leaves_nothing_half_written(made: Path) -> None:
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        with memory._store.writing() as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count = {pages + 5}")  # stands for a disk with room for five pages
        with pytest.raises(MemoryError_, match="is full; nothing was changed"):
            memory.add([capital(f"Country {n}", "Lyon") for n in range(500)])
        assert len(memory) == 3
        assert memory.generation == 1
        assert memory.check() == []
        with memory._store.writing() as db:
            db.execute(f"PRAGMA max_page_count = {pages + 1000}")
        assert memory.add(capital("France", "Lyon")).ids == [4]


def test_an_exception_takes_the_whole_transaction_back(made: Path) -> None:
    store = Store(made)

    def interrupted() -> None:
        with store.writing() as db:
            db.execute("DELETE FROM versions")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with store.reading() as db:
        assert db["versions"].count == 3
    with store.writing() as db:
        db.execute("INSERT INTO meta VALUES ('k', 'v')")
    assert store.meta("k") == "v"
    store.close()


def test_a_second_writer_waits_and_then_is_told(made: Path) -> None:
    first, second = Store(made, timeout=5), Store(made, timeout=0.2)
    with (
        first.writing(),
        pytest.raises(MemoryBusy, match=r"within 0\.2 s; nothing was changed"),
        second.writing(),
    ):
        pass
    with second.writing():
        pass
    first.close()
    second.close()


def test_a_second_writer_gets_its_turn(made: Path) -> None:
    first, second = Store(made), Store(made, timeout=30)
    began, done = threading.Event(), threading.Event()

    def write() -> None:
        with first.writing() as db:
            began.set()
            done.wait(0.3)
            db.execute("INSERT INTO meta VALUES ('first', '1')")

    thread = threading.Thread(target=write)
    thread.start()
    began.wait()
    with second.writing() as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'first'").fetchone() == ("1",)
    thread.join()
    first.close()
    second.close()


def test_a_thread_that_waits_to_write_is_told_too_and_readers_go_on(made: Path) -> None:
    store = Store(made, timeout=0.2)
    said: list[str] = []

    def write() -> None:
        try:
            with store.writing():
                pass
        except MemoryBusy as error:
            said.append(str(error))

    with store.writing():
        thread = threading.Thread(target=write)
        thread.start()
        assert store.meta("schema_version") == str(SCHEMA)
        thread.join()
    assert said
    store.close()


def test_a_read_block_sees_one_state(made: Path) -> None:
    reader, writer = Store(made), Store(made)
    with reader.reading() as db:
        before = db["edits"].count
        with writer.writing() as other:
            other.execute("DELETE FROM versions")
            other.execute("DELETE FROM edits")
        assert db["edits"].count == before == 3
    with reader.reading() as db:
        assert db["edits"].count == 0
    reader.close()
    writer.close()
