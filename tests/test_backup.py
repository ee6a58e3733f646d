"""Copies of a memory while it is in use, their way back, and what compact gives back."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.errors import MemoryBusy, MemoryError_
from memedit.memory import EditMemory, restore
from memedit.memory import backup as backups
from memedit.memory.store import Store


def told(folder: Path) -> list[tuple[int, str, str]]:
    with EditMemory.open(folder, encoder=TrigramEncoder(), create=False) as memory:
        assert memory.check() == []
        found = {near.record.id for near in memory.search("The capital of Spain is", 5)}
        assert not found or found <= {record.id for record in memory}
        return [(r.id, r.status, r.edit.statement) for r in memory.list(status="all")]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        memory.add([capital("Spain", "Vigo"), *facts(3)])
        memory.put_patch(1, "whole", "rome", b"patch")
        memory.put_patch(1, "damaged", "rome", b"patch")
        (folder / "patches" / "damaged.safetensors").write_bytes(b"other")
        memory.forget(2)
        memory.save_index()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_backup_is_a_memory(made: Path, tmp_path: Path) -> None:
    steps = []
    with EditMemory.open(made, readonly=True) as memory:
        copied = memory.backup(tmp_path / "a" / "copy", progress=lambda done, all: steps.append((done, all)))
    assert (copied.edits, copied.operations) == (3, 2)
    assert steps[-1][0] == steps[-1][1] > 0
    assert names(tmp_path / "a" / "copy") == ["memory.db", "patches/whole.safetensors", "vectors.faiss"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["copy"]  # nothing is left beside
    (made / "patches" / "damaged.safetensors").write_bytes(b"patch")
    assert told(tmp_path / "a" / "copy") == told(made)


def test_a_backup_while_others_write_is_one_state(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "memory", encoder=TrigramEncoder(), timeout=60) as memory:
        memory.add(facts(200))
        stop, wrong = threading.Event(), []

        def write() -> None:
            n = 0
            try:
                while not stop.is_set():
                    memory.add([capital(f"Country {n} {part}", "Lyon") for part in range(3)])
                    n += 1
            except Exception as error:
                wrong.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for n in range(4):
                before = len(memory)
                copied = memory.backup(tmp_path / f"copy {n}")
                assert before <= copied.edits <= len(memory)
                assert copied.edits % 3 == 200 % 3  # whole operations only
        finally:
            stop.set()
            writer.join()
        assert wrong == []
    assert len(told(tmp_path / "copy 3")) == copied.edits


def test_what_is_there_is_not_overwritten_unasked(made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("dear")
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        memory.backup(tmp_path / "copy")
        memory.add(capital("France", "Lyon"))
        with pytest.raises(MemoryError_, match="holds a memory already; name another folder, or replace it"):
            memory.backup(tmp_path / "copy")
        for force in (False, True):
            with pytest.raises(MemoryError_, match="holds 'chapter' and is no memory; nothing was touched"):
                memory.backup(tmp_path / "thesis", force=force)
        for place in (made, made / "copy", tmp_path):
            with pytest.raises(MemoryError_, match=r"own folder, or inside it|is no memory"):
                memory.backup(place, force=True)
        with pytest.raises(MemoryError_, match="is a file"):
            memory.backup(tmp_path / "thesis" / "chapter")
        assert len(told(tmp_path / "copy")) == 4
        memory.backup(tmp_path / "copy", force=True)
    assert len(told(tmp_path / "copy")) == 5
    with pytest.raises(MemoryError_, match="holds edits already; --force"):
        restore(tmp_path / "copy", made)
    with pytest.raises(MemoryError_, match="is the memory itself"):
        restore(made, made, force=True)
    with pytest.raises(MemoryError_, match="is no backup"):
        restore(tmp_path / "thesis", made, force=True)


def test_restore_into_a_new_folder_and_an_empty_memory(made: Path, tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "empty"):
        pass
    for name in ("new", "empty"):
        assert restore(made, tmp_path / name).edits == 3
        assert len(told(tmp_path / name)) == 4


def test_restore_is_seen_by_those_who_have_the_memory_open(made: Path, tmp_path: Path) -> None:
    reader = EditMemory.open(made, encoder=TrigramEncoder(), readonly=True)
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        memory.backup(tmp_path / "copy")
        memory.add(capital("Mali", "Gao"))
        memory.update(1, target="Lugo")
        memory.put_patch(1, "newer", "rome", b"patch")
        for one in (reader, memory):
            assert one.search("The capital of Spain is", 1)[0].record.edit.target == "Lugo"
            assert len(one) == 4
        restore(tmp_path / "copy", made, force=True)
        for one in (reader, memory):
            assert one.search("The capital of Spain is", 1)[0].record.edit.target == "Vigo"
            assert len(one) == 3
        assert memory.add(capital("Peru", "Lima")).ids == [5]  # as if Gao had never been
        assert len(reader) == 4
        assert memory.check() == []
    reader.close()
    assert "patches/newer.safetensors" not in names(made)


def test_restore_waits_for_a_writer_and_then_is_told(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    store = Store(made)
    with store.writing(), pytest.raises(MemoryBusy, match="nothing was changed"):
        restore(tmp_path / "copy", made, force=True, timeout=0.2)
    store.close()


def test_a_damaged_backup_is_refused_and_the_memory_stays(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    before = (made / "memory.db").read_bytes()
    data = bytearray((tmp_path / "copy" / "memory.db").read_bytes())
    data[5 * 4096 : 8 * 4096] = bytes(3 * 4096)
    (tmp_path / "copy" / "memory.db").write_bytes(data)
    with pytest.raises(MemoryError_, match=r"is damaged .*; nothing was changed"):
        restore(tmp_path / "copy", made, force=True)
    assert (made / "memory.db").read_bytes() == before
    with EditMemory.open(tmp_path / "copy") as memory, pytest.raises(MemoryError_, match="damaged"):
        memory.backup(tmp_path / "copy of it")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "memory"]


def test_a_full_disk_leaves_what_was_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        memory.backup(tmp_path / "copy")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(backups, "write_durably", full)
            with pytest.raises(MemoryError_, match="No space left on device; what was there is as it was"):
                memory.backup(tmp_path / "copy", force=True)
            with pytest.raises(MemoryError_, match="No space left on device; what was there is as it was"):
                restore(tmp_path / "copy", made, force=True)
        memory.backup(tmp_path / "copy", force=True)
    assert len(told(tmp_path / "copy")) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "memory"]


def test_compact_gives_back_what_nothing_needs(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "memory", encoder=TrigramEncoder(dim=256)) as memory:
        memory.add(facts(300))
        for n in range(5):
            memory.rebuild(reencode=True)
            memory.update(1, target=f"Newtown {n}")
        memory.put_patch(1, "kept", "rome", b"patch")
        (tmp_path / "memory" / "patches" / "stray.safetensors").write_bytes(b"x" * 5000)
        before = memory.list(status="all"), memory.history(1)
        done = memory.compact()
        assert done.after < done.before
        assert (done.files, done.waits) == (1, False)
        assert done.vectors > 0
        assert (tmp_path / "memory" / "memory.db-wal").stat().st_size == 0
        assert (memory.list(status="all"), memory.history(1)) == before
        assert memory.get_patch("kept") == b"patch"
        assert memory.check() == []
        memory.undo()  # to a content whose vectors went
        assert memory.get(1).edit.target == "Newtown 3"
        assert memory.check() == []
        assert memory.search(memory.get(1).edit.statement, 1)[0].record.id == 1


def test_compact_beside_a_reader_says_that_it_waits(made: Path) -> None:
    reader = Store(made)
    with EditMemory.open(made, encoder=TrigramEncoder(), timeout=0.2) as memory, reader.reading() as db:
        assert db["edits"].count == 4
        assert memory.compact().waits
        assert memory.check() == ["the patch damaged is damaged; it is prepared again when it is needed"]
    reader.close()


def test_an_older_schema_comes_back_too(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "old").mkdir()
    first = Path(__file__).parent / "memory_schema1.db.gz"
    (tmp_path / "old" / "memory.db").write_bytes(gzip.decompress(first.read_bytes()))
    assert restore(tmp_path / "old", tmp_path / "new").edits == 4
    with EditMemory.open(tmp_path / "new", encoder=TrigramEncoder(dim=8)) as memory:
        memory.add(capital("Italy", "Turin"))
        assert restore(tmp_path / "old", tmp_path / "new", force=True).edits == 4
        assert [r.id for r in memory] == [2, 3, 4, 5]
        assert memory.check() == []


def test_abandoned_files_are_swept(made: Path) -> None:
    for name, age in (("vectors.faiss.1.2.tmp", 7200), ("vectors.faiss.3.4.tmp", 0)):
        (made / name).write_bytes(b"x")
        os.utime(made / name, (time.time() - age,) * 2)
    (made / ".repair-x").mkdir()
    os.utime(made / ".repair-x", (0, 0))
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        assert memory.compact().files == 2
    assert "vectors.faiss.3.4.tmp" in names(made)  # another process may be writing it


def test_clocks_decide_nothing(made: Path) -> None:
    with sqlite3.connect(made / "memory.db") as db:  # written by a clock that was far ahead
        db.execute("UPDATE operations SET at = '29' || substr(at, 3) WHERE id = 2")
        db.execute("UPDATE edits SET changed = (SELECT at FROM operations WHERE id = 2) WHERE id = 2")
    db.close()
    for time_of_file in (0, 1 << 33):
        for name in ("memory.db", "vectors.faiss"):
            os.utime(made / name, (time_of_file, time_of_file))
        with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
            memory.add(capital("Mali", f"Gao {time_of_file}"))
            times = [operation.at for operation in memory.operations()]
            assert times == sorted(set(times), reverse=True)
            assert memory.search("The capital of Mali is", 1)[0].record.edit.target == f"Gao {time_of_file}"
            memory.save_index()
            memory.put_patch(1, "damaged", "rome", b"patch")
            assert memory.check() == []


# -- a folder that goes away under an open memory


def test_a_memory_that_is_deleted_while_in_use_says_so(made: Path) -> None:
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        memory.search("The capital of Spain is")
        memory.add(capital("Mali", "Gao"))
        shutil.rmtree(made)
        for call in (
            lambda: memory.add(capital("France", "Lyon")),
            lambda: memory.search("The capital of Spain is"),
            lambda: memory.forget(1),
            lambda: memory.list(),
            lambda: memory.backup(made.parent / "copy"),
            memory.compact,
            memory.save_index,
            memory.undo,
        ):
            with pytest.raises(MemoryError_, match="was deleted while in use; put a backup in its place"):
                call()
    assert not made.exists()  # nothing was made again


@pytest.mark.parametrize("first", [True, False])
def test_a_memory_that_is_replaced_while_in_use_says_so(made: Path, tmp_path: Path, first: bool) -> None:
    with EditMemory.open(tmp_path / "other", encoder=TrigramEncoder()) as other:
        other.add(capital("Peru", "Lima"))
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        if first:
            memory.add(capital("Mali", "Gao"))
        made.rename(tmp_path / "away")
        (tmp_path / "other").rename(made)
        for call in (lambda: memory.add(capital("France", "Lyon")), lambda: memory.search("Spain")):
            with pytest.raises(MemoryError_, match="was replaced by another while in use; open it again"):
                call()
    assert len(told(made)) == 1
    with sqlite3.connect(tmp_path / "away" / "memory.db") as db:
        assert db.execute("SELECT count(*) FROM versions").fetchone() == (6 if first else 5,)


def test_a_writer_that_waited_while_the_memory_was_replaced_is_told(made: Path, tmp_path: Path) -> None:
    holder = Store(made)
    said: list[str] = []
    with EditMemory.open(made, encoder=TrigramEncoder(), timeout=30) as memory:
        memory.add(capital("Mali", "Gao"))

        def write() -> None:
            try:
                memory.add(capital("France", "Lyon"))
            except MemoryError_ as error:
                said.append(str(error))

        with holder.writing():
            writer = threading.Thread(target=write)
            writer.start()
            writer.join(0.3)
            shutil.copytree(made, tmp_path / "other")
            made.rename(tmp_path / "away")
            (tmp_path / "other").rename(made)
            holder._opened = holder._which()  # the holder is the one who replaces it
        writer.join()
    holder.close()
    assert "replaced by another" in said[0]
