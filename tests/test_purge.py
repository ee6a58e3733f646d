"""After a purge no byte of an edit is in any live file of its memory, whatever stood in the way."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.edit import Edit
from memedit.errors import MemoryError_
from memedit.memory import EditMemory, index, purge, reading
from memedit.memory.store import Store

TESTS = Path(__file__).parent
SECRET = Edit(
    prompt="The telephone number of Zoë Quillfeather is",
    target="0177-Ξ-99120",
    old="0155-Ω-44871",
    subject="Zoë Quillfeather",
    subject_aliases=("Quillo the Brave",),
    target_aliases=("zero-one-seven-seven",),
    source="ledger-of-brass",
    author="Umberto Vexley",
    tags=("hushword", "plum"),
    ref="case-7731",
    relation="telephone-of",
    extra={"noté": "kept «below» deck"},
)
LATER = "0166-Ψ-31415"


@pytest.fixture
def encoder() -> TrigramEncoder:
    return TrigramEncoder()


@pytest.fixture
def memory(tmp_path: Path, encoder: TrigramEncoder) -> Iterator[EditMemory]:
    with EditMemory.open(tmp_path / "m", encoder=encoder, timeout=0.3) as memory:
        yield memory


def traces(encoder: TrigramEncoder, *edits: Edit) -> dict[str, bytes]:
    """Everything that would tell of an edit, in each form in which it may be written."""
    found: dict[str, bytes] = {}
    for edit in edits:
        texts = [
            edit.prompt, edit.target, edit.old, edit.subject, edit.statement, edit.source, edit.author, edit.ref,
            edit.relation, edit.content_hash, *edit.subject_aliases, *edit.target_aliases, *edit.tags, *edit.extra,
            *edit.extra.values(),
        ]  # fmt: skip
        folded = ["zoequillfeather", "quillothebrave", *(t.casefold() for t in texts if t)]
        for text in {*filter(None, texts), *folded}:
            for form in ("utf-8", "utf-16-le", "utf-16-be"):
                found[f"{text} as {form}"] = text.encode(form)
            found[f"{text} as JSON"] = json.dumps(text)[1:-1].encode()
        for name, vector in zip(encoder.views, encoder.encode(encoder.texts(edit)), strict=True):
            for kind in ("<f2", "<f4"):
                whole = np.ascontiguousarray(vector.astype("<f2"), dtype=kind).tobytes()
                found[f"first half of the {name} vector as {kind}"] = whole[: len(whole) // 2]
                found[f"second half of the {name} vector as {kind}"] = whole[len(whole) // 2 :]
    return found


def left_in(folder: Path, wanted: dict[str, bytes]) -> set[str]:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        f"{what} in {path.name}"
        for what, data in wanted.items()
        for path, content in files.items()
        if data in content or data.decode("latin1") in str(path)
    }


def live_through(memory: EditMemory) -> int:
    """Have the secret go through all that an edit can go through; its id."""
    memory.add(facts(30))
    id = memory.add(SECRET).ids[0]
    memory.save_index()
    memory.put_patch(id, f"rome-{SECRET.content_hash}", "rome", SECRET.statement.encode())
    memory.add(Edit(statement="The telephone number of Zoë Q. is known to all."))
    memory.update(id, target=LATER)
    memory.forget(id)
    memory.undo()
    memory.keep_both(id, 1)
    memory.save_index()
    (memory.path / "vectors.faiss.1.2.tmp").write_bytes(SECRET.statement.encode())
    return id


def test_no_byte_is_left(memory: EditMemory, encoder: TrigramEncoder) -> None:
    id = live_through(memory)
    wanted = traces(encoder, SECRET, SECRET.updated(target=LATER))
    there = left_in(memory.path, wanted)
    # The search finds what is there: text, hashes and vectors, in the database, its log, the index and the patch.
    assert {t.rsplit(" ", 1)[1].split("-")[0] for t in there} >= {"memory.db", "vectors.faiss", "rome"}
    assert any("vector as <f2 in memory.db" in t for t in there)
    assert any("vector as <f4 in vectors.faiss" in t for t in there)
    done = memory.purge(id)
    assert (done.ids, done.left, done.others) == ((id,), None, ())
    assert left_in(memory.path, wanted) == set()
    assert memory.check() == []
    assert memory.search("telephone number of Zoë Quillfeather", 1)[0].record.id != id
    memory.close()
    assert left_in(memory.path, wanted) == set()


def test_what_stays_is_a_tombstone(memory: EditMemory, encoder: TrigramEncoder) -> None:
    id = live_through(memory)
    before = len(memory)
    memory.purge([id])
    record = memory.get(id)
    assert (record.status, record.edit.to_dict()) == ("purged", {})
    assert [(v.action, v.status, v.edit.to_dict()) for v in memory.history(id)] == [
        (action, "purged", {}) for action in ("add", "update", "forget", "undo", "purge")
    ]
    assert len(memory) == before - 1
    assert id not in [r.id for r in memory.list(status="all")]
    assert [r.id for r in memory.list(status="purged")] == [id]
    assert id not in [r.id for r in memory.as_of(memory.operations()[-1].at)]
    assert memory.operations(1)[0].kind == "purge"
    assert memory.add(SECRET).ids == [id + 2]  # an id is never given twice
    for call in (lambda: memory.purge(id), lambda: memory.forget(id), lambda: memory.update(id, target="x")):
        with pytest.raises(MemoryError_, match="purged"):
            call()
    with pytest.raises(MemoryError_, match="case"):
        memory.get_ref("case-0")


def test_what_another_edit_says_too_is_that_ones(memory: EditMemory) -> None:
    first = memory.add(capital("France", "Lyon", ref="a")).ids[0]
    memory.forget(first)
    second = memory.add(capital("France", "Lyon", ref="b")).ids[0]
    memory.put_patch(first, "shared", "rome", b"p")
    memory.put_patch(second, "shared", "rome", b"p")
    memory.purge(first)
    assert memory.check() == []
    assert memory.search("The capital of France is Lyon.", 1)[0].cosine == pytest.approx(1, abs=1e-3)
    assert memory.get_patch("shared") == b"p"
    memory.purge(second)
    assert memory.get_patch("shared") is None
    assert memory.search("The capital of France is Lyon.") == []


def test_superseded_edits_do_not_come_back_and_undo_leaves_the_purged_out(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add([capital("France", "Paris"), capital("Spain", "Vigo")])
    memory.purge(2)
    assert [r.edit.target for r in memory] == ["Vigo"]
    with pytest.raises(MemoryError_, match="operation, 3, is a purge, which can't be undone"):
        memory.undo()
    with pytest.raises(MemoryError_, match="operation 3 is a purge"):
        memory.undo(3)
    undone = memory.undo(2)
    assert undone.passed == (2,)
    assert [r.edit.target for r in memory] == ["Lyon"]
    assert memory.get(2).status == "purged"
    memory.add(capital("Italy", "Bari"))
    memory.purge(4)
    with pytest.raises(MemoryError_, match="nothing is left of operation 5"):
        memory.undo(5)
    assert memory.check() == []


def test_what_a_purged_edit_superseded_does_not_point_to_it(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add(capital("France", "Nice"))
    with pytest.raises(MemoryError_, match="superseded by edit 2; change that one"):
        memory.update(1, tags=["x"])
    memory.purge(2)
    with pytest.raises(MemoryError_, match="superseded by edit 2, which was purged; add it again"):
        memory.update(1, tags=["x"])


def test_several_at_once_or_none(memory: EditMemory) -> None:
    memory.add(facts(5))
    with pytest.raises(MemoryError_, match="no edit 9"):
        memory.purge([1, 9])
    with pytest.raises(MemoryError_, match="name at least one"):
        memory.purge([])
    for bad in (None, "1", 2.0, [True, "x"]):
        with pytest.raises(MemoryError_, match="no edit"):
            memory.purge(bad)  # type: ignore[arg-type]
    assert len(memory) == 5
    assert memory.purge([1, 3, 1]).ids == (1, 3)
    assert [r.id for r in memory] == [2, 4, 5]


def test_other_files_are_named(memory: EditMemory) -> None:
    memory.add(facts(2))
    (memory.path / "notes.txt").write_text("mine")
    assert memory.purge(1).others == ("notes.txt",)


def test_an_index_with_lists_is_made_anew(
    tmp_path: Path, encoder: TrigramEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index.FaissIndex.__init__, "__defaults__", (60,))
    with (
        EditMemory.open(tmp_path, encoder=encoder) as memory,
        EditMemory.open(tmp_path, encoder=encoder) as other,
    ):
        id = memory.add([*facts(90), SECRET]).ids[-1]
        memory.save_index()
        other.search("anything")
        assert memory._live.index is not None
        assert memory._live.index.oversampling > 1
        memory.purge(id)
        trained = other._live.index
        other.search("anything")
        assert other._live.index is not trained  # what was trained on the purged edit is not carried on
        other.save_index()
        assert left_in(tmp_path, traces(encoder, SECRET)) == set()


# -- what stands in the way


def test_a_reader_that_holds_the_log_is_said_and_the_rest_is_done_later(
    memory: EditMemory, encoder: TrigramEncoder
) -> None:
    id = live_through(memory)
    wanted = traces(encoder, SECRET)
    reader = Store(memory.path, readonly=True)
    with reader.reading() as db:
        reading.count(db)
        left = memory.purge(id).left
        assert left is not None
        assert "a reader holds its write-ahead log" in left
        assert left_in(memory.path, wanted)
        memory.add(capital("France", "Lyon"))  # nothing else is held up
        assert "not finished" in " ".join(memory.check())
    reader.close()
    memory.add(capital("Spain", "Vigo"))
    assert memory.check() == []
    assert left_in(memory.path, wanted) == set()


def test_an_index_that_is_saved_late_does_not_bring_it_back(
    memory: EditMemory, encoder: TrigramEncoder
) -> None:
    id = live_through(memory)
    wanted = traces(encoder, SECRET, SECRET.updated(target=LATER))
    with EditMemory.open(memory.path, encoder=encoder) as late:
        late.search("anything")
        late._live._behind, late._live._saved = 10**6, 0  # so that it saves when it closes
        payload = late._live.index.dumps()
        mark = late._live.mark
        memory.purge(id)
    assert left_in(memory.path, wanted) == set()
    # Killed between writing the file and looking whether it is out of date: the next opening throws it away.
    from memedit.memory import snapshot

    snapshot.save(memory.path / "vectors.faiss", payload, mark)
    assert left_in(memory.path, wanted)
    EditMemory.open(memory.path, encoder=encoder).close()
    assert left_in(memory.path, wanted) == set()


_KILLED = """
import os, sys
from memory_fixtures import TrigramEncoder
from memedit.memory import EditMemory, purge
from memedit.memory.store import Store
memory = EditMemory.open(sys.argv[1], encoder=TrigramEncoder())
where, when = {"strike": (purge, "put_meta"), "files": (purge, "_drop_files"), "rewrite": (Store, "rewrite"),
               "advance": (purge, "_advance"), "log": (Store, "empty_log")}[sys.argv[2]]
setattr(where, when, lambda *a, **k: os._exit(9))
memory.purge(int(sys.argv[3]))
"""


@pytest.mark.parametrize("step", ["strike", "files", "rewrite", "advance", "log"])
def test_a_kill_leaves_none_or_one_that_the_next_opening_completes(
    tmp_path: Path, encoder: TrigramEncoder, step: str
) -> None:
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        id = live_through(memory)
        wanted = traces(encoder, SECRET, SECRET.updated(target=LATER))
        before = len(memory)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), step, str(id)], env=environment)
    assert done.returncode == 9
    assert left_in(tmp_path, wanted)
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        if step == "strike":
            assert len(memory) == before
            assert memory.get(id).edit.subject == SECRET.subject
            memory.purge(id)
        assert memory.get(id).status == "purged"
        assert left_in(tmp_path, wanted) == set()
        assert memory.check() == []


def test_two_purges_at_a_time_finish_each_other(memory: EditMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.add([*facts(3), SECRET])
    rewrite = Store.rewrite

    def meanwhile(store: Store) -> None:
        rewrite(store)
        monkeypatch.setattr(Store, "rewrite", rewrite)
        with store.writing() as db:
            purge.strike(db, [4])

    monkeypatch.setattr(Store, "rewrite", meanwhile)
    assert memory.purge(1).left is None
    assert left_in(memory.path, traces(TrigramEncoder(), SECRET)) == set()
    assert memory.get_meta(purge.UNFINISHED) is None


def test_a_memory_of_the_first_schema_can_be_purged(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(gzip.decompress((TESTS / "memory_schema1.db.gz").read_bytes()))
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(dim=8)) as memory:
        memory.purge([3, 5])
        assert memory.check() == []
    assert b"Acme" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
