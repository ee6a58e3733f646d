"""The index: one contract for FAISS and torch, and what becomes of its snapshot when somebody hurts it."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elsewhere import DEVICE, Elsewhere
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.errors import MemoryError_
from memedit.memory import EditMemory, index, live, snapshot
from memedit.memory.index import FaissIndex, VectorIndex, choose
from memedit.memory.snapshot import Mark
from memedit.memory.torch_index import TorchIndex

DIM = 24
MAKERS: dict[str, Callable[[], VectorIndex]] = {
    "faiss": lambda: FaissIndex(DIM),
    "faiss lists": lambda: FaissIndex(DIM, limit=100),
    "torch": lambda: TorchIndex(DIM, "cpu"),
    "torch half": lambda: TorchIndex(DIM, "cpu", half=True),
}


@pytest.fixture(params=[*MAKERS, "elsewhere", pytest.param("cuda", marks=pytest.mark.gpu)])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], VectorIndex]]:
    if request.param == "elsewhere":
        with Elsewhere():
            yield lambda: TorchIndex(DIM, str(DEVICE))
    else:
        yield MAKERS.get(request.param, lambda: TorchIndex(DIM, "cuda"))


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ids(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)


def exact(vectors: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[int]:
    return sorted(vectors, key=lambda id: -float(vectors[id] @ query))[:k]


# -- the contract


def test_search_finds_the_nearest(make: Callable[[], VectorIndex]) -> None:
    found = make()
    vectors = unit(400)
    found.put(ids(1000, 400), vectors)
    queries = unit(30, seed=1)
    products, near = found.search(queries, 5)
    assert products.dtype == np.float32
    assert products.shape == near.shape == (30, 5)
    right = sum(
        len(set(row.tolist()) & set(exact(dict(enumerate(vectors, 1000)), query, 5)))
        for row, query in zip(near, queries, strict=True)
    )
    assert right / 150 >= (0.9 if found.oversampling > 1 else 1.0)
    assert np.all(np.diff(products, axis=1) <= 0)
    assert products[0, 0] == pytest.approx(float(vectors[near[0, 0] - 1000] @ queries[0]), abs=0.03)


def test_one_query_and_many_get_the_same_answer(make: Callable[[], VectorIndex]) -> None:
    found = make()
    found.put(ids(1, 300), unit(300))
    queries = unit(64, seed=2)
    together = found.search(queries, 3)[1]
    alone = np.concatenate([found.search(query[None], 3)[1] for query in queries])
    assert np.array_equal(together, alone)


def test_put_replaces_and_remove_takes_out(make: Callable[[], VectorIndex]) -> None:
    found = make()
    vectors = dict(zip(range(1, 301), unit(300), strict=True))
    found.put(ids(1, 300), np.stack(list(vectors.values())))
    fresh = unit(20, seed=3)
    found.put(ids(11, 20), fresh)
    vectors.update(zip(range(11, 31), fresh, strict=True))
    gone = [1, 2, 15, 299, 300, 999]
    found.remove(gone)
    for id in gone:
        vectors.pop(id, None)
    assert len(found) == len(vectors) == 295
    for id in (11, 30, 150, 298):
        assert found.search(vectors[id][None], 1)[1][0, 0] == id
    everything = found.search(vectors[150][None], 295)[1]
    assert not {*gone} & {*everything.ravel().tolist()}
    found.put(ids(1, 1), fresh[:1])
    assert found.search(fresh[:1], 2)[1].tolist()[0] in ([1, 11], [11, 1])


def test_what_is_hidden_is_not_found(make: Callable[[], VectorIndex]) -> None:
    found = make()
    vectors = unit(200)
    found.put(ids(1, 200), vectors)
    [near] = found.search(vectors[:1], 3)[1].tolist()
    assert near[0] == 1
    [rest] = found.search(vectors[:1], 3, without={1, near[1], 7777})[1].tolist()
    assert rest[0] == near[2]
    [few] = found.search(vectors[:1], 3, without=set(range(1, 200)))[1].tolist()
    assert few == [200, -1, -1]


def test_fewer_than_k(make: Callable[[], VectorIndex]) -> None:
    found = make()
    assert found.search(unit(2), 4)[1].max() == -1
    found.put(ids(5, 2), unit(2))
    assert set(found.search(unit(1), 9)[1].ravel().tolist()) - {-1} == {5, 6}


def test_vectors_come_back(make: Callable[[], VectorIndex]) -> None:
    found = make()
    vectors = unit(150)
    found.put(ids(1, 150), vectors)
    assert np.allclose(found.vectors([150, 1]), vectors[[149, 0]], atol=0.02)
    assert found.vectors([]).shape == (0, DIM)


def test_saved_and_loaded_it_goes_on(make: Callable[[], VectorIndex]) -> None:
    found = make()
    vectors = unit(150)
    found.put(ids(1, 150), vectors)
    found.remove([3])
    options = {"limit": 100} if isinstance(found, FaissIndex) and found.oversampling > 1 else {}
    if isinstance(found, TorchIndex):
        options = {"device": str(found.device), "half": found._dtype == found._rows.half().dtype}
    again = type(found).loads(found.dumps(), DIM, **options)
    assert len(again) == 149
    assert np.array_equal(again.search(vectors[:20], 4)[1], found.search(vectors[:20], 4)[1])
    again.put(ids(3, 1), vectors[2:3])
    again.remove([9])
    assert again.search(vectors[2:3], 1)[1].tolist() == [[3]]
    assert len(again) == 149


@pytest.mark.parametrize("kind", [FaissIndex, TorchIndex])
def test_what_is_no_index_is_refused(kind: type[VectorIndex]) -> None:
    options = {"device": "cpu"} if kind is TorchIndex else {}
    whole = kind(DIM, **options)
    whole.put(ids(1, 3), unit(3))
    for data in (b"", b"nonsense", whole.dumps()[:40]):
        with pytest.raises(ValueError):
            kind.loads(data, DIM, **options)
    with pytest.raises(ValueError):
        kind.loads(whole.dumps(), DIM + 1, **options)


# -- inverted lists


def test_many_vectors_change_faiss_to_lists_and_grow_more_of_them() -> None:
    found = FaissIndex(DIM, limit=100)
    found.put(ids(1, 100), unit(100))
    assert found.oversampling == 1
    found.put(ids(101, 50), unit(50, seed=5))
    assert found.oversampling > 1
    lists = found._index.nlist
    found.put(ids(151, 1000), unit(1000, seed=6))
    assert found._index.nlist > lists
    assert len(found) == 1150
    assert found.search(unit(1), 1)[1].tolist() == [[1]]


def test_a_memory_with_lists_ranks_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "choose", lambda device: (FaissIndex, {"limit": 100}))
    encoder = TrigramEncoder(64)
    edits = facts(400)
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add(edits)
        assert memory._live.index is not None
        assert memory._live.index.oversampling > 1
        keys = encoder.encode([edit.statement for edit in edits]).astype(np.float16).astype(np.float32)
        queries = [f"Town {n}, the capital" for n in range(0, 400, 20)]
        vectors = encoder.encode(queries)
        right = 0
        for row, vector in zip(memory.near(queries, vectors, k=5), vectors, strict=True):
            cosines = keys @ vector
            assert len(row) == 5
            assert [n.cosine for n in row] == pytest.approx([cosines[n.record.id - 1] for n in row], abs=1e-6)
            right += len({n.record.id - 1 for n in row} & set(np.argsort(-cosines)[:5].tolist()))
        assert right >= 90
        memory.forget(1)
        assert memory.add(edits[0]).ids == [401]
        assert memory.search(edits[0].statement, 1)[0].record.id == 401


# -- torch


def test_torch_and_faiss_agree_through_a_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TrigramEncoder()
    with EditMemory.open(tmp_path, encoder=encoder, device="cpu") as memory:
        memory.add(facts(300))
        wanted = [n.record.id for n in memory.search("Which land has Town 17?")]
    monkeypatch.setattr(live, "choose", lambda device: (TorchIndex, {"device": "cpu", "half": True}))
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        assert [n.record.id for n in memory.search("Which land has Town 17?")] == wanted
        memory.save_index()
        memory.add(capital("France", "Lyon"))
        memory.forget(wanted[0])
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        assert [n.record.id for n in memory.search("Which land has Town 17?", 9)] == wanted[1:]
        assert memory._live.index is not None
        assert memory._live.index.file == "vectors.safetensors"
        assert memory.check() == []


def test_torch_takes_tensors(make: Callable[[], VectorIndex]) -> None:
    import torch

    found = make()
    found.put(ids(1, 50), unit(50))
    assert found.search(torch.as_tensor(unit(50)[7:8]), 1)[1].tolist() == [[8]]


def test_torch_searches_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memedit.memory.torch_search.PRODUCTS", 160)
    found = TorchIndex(DIM, "cpu")
    vectors = unit(100)
    found.put(ids(1, 100), vectors)
    queries = unit(10, seed=9)
    near = found.search(queries, 20, without={5, 50})[1]
    for row, query in zip(near.tolist(), queries, strict=True):
        rest = {id: vector for id, vector in enumerate(vectors, 1) if id not in (5, 50)}
        assert row == exact(rest, query, 20)


def test_a_gpu_kernel_finds_the_short_list() -> None:
    found = TorchIndex(DIM, "cpu", half=True)
    vectors = unit(100)
    found.put(ids(1, 100), vectors)
    calls = []

    def kernel(asked: Any, rows: Any, k: int) -> Any:
        calls.append(k)
        return (asked.float() @ rows.float().T).topk(k, dim=1)

    found.kernel = kernel
    assert found.search(vectors[:2], 1, without={2})[1][0].tolist() == [1]
    assert calls == [65]  # a short list, and room for what is hidden


# -- choosing


def test_without_a_gpu_faiss_is_chosen_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "may_have_gpu", lambda: False)
    assert choose(None) == (FaissIndex, {})
    assert choose("cpu") == (FaissIndex, {})


def test_a_gpu_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose(None) == (TorchIndex, {"device": "cuda"})
    assert choose("cuda:1") == (TorchIndex, {"device": "cuda:1"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose(None) == (FaissIndex, {})
    with pytest.raises(MemoryError_, match="no GPU"):
        choose("cuda")


def test_without_faiss_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_faiss(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "faiss":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_faiss)
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(), device="cpu") as memory:
        with pytest.raises(MemoryError_, match=r'pip install "memedit\[cpu\]"') as said:
            memory.add(capital("France", "Lyon"))
        assert "\n" not in str(said.value)
        assert memory.list() == []


# -- the snapshot


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        memory.add(facts(40))
        memory.save_index()
    return folder


def answers(folder: Path) -> list[tuple[int, float]]:
    with EditMemory.open(folder, encoder=TrigramEncoder()) as memory:
        return [(n.record.id, n.cosine) for n in memory.search("The capital of Land 00017", 40)]


def was_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether opening for a search makes the index from SQLite."""
    built = []
    real = live.LiveIndex._build
    with monkeypatch.context() as patch:
        patch.setattr(live.LiveIndex, "_build", lambda self, db: (built.append(1), real(self, db))[1])
        answers(folder)
    return bool(built)


def test_a_good_snapshot_is_used_and_its_tail_replayed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        memory.forget(18)
        memory.add(capital("Land 00017 again", "X"))
        memory.update(3, target="Y")
        wanted = {r.id: r.version for r in memory}
    assert not was_built(made, monkeypatch)
    assert {id for id, _ in answers(made)} == set(list(wanted)[:40])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(place: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 4
        path.write_bytes(data)

    return flip


@pytest.mark.parametrize(
    "hurt",
    [
        Path.unlink,
        _truncate,
        _half,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 10_000),
        lambda path: path.write_bytes(b"\xff\xff\xff\xffmemedit1"),
        _flip(0.0),
        _flip(0.3),
        _flip(0.97),
        _flip(1.0),
    ],
    ids=[
        "lost",
        "cut",
        "half",
        "empty",
        "noise",
        "tail only",
        "first bit",
        "a vector",
        "trailer",
        "last bit",
    ],
)
def test_a_hurt_snapshot_is_made_again_silently(
    made: Path,
    hurt: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wanted = answers(made)
    hurt(made / "vectors.faiss")
    assert was_built(made, monkeypatch)
    assert answers(made) == wanted
    assert capfd.readouterr() == ("", "")


def test_every_bit_of_a_snapshot_counts(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    mark = Mark("m", "e", 3, "2026")
    snapshot.save(path, b"payload", mark)
    whole = path.read_bytes()
    assert snapshot.load(path) == (b"payload", mark)
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert snapshot.load(path) is None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert snapshot.load(path) is None


def test_another_memorys_snapshot_is_not_used(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = answers(made)
    with EditMemory.open(tmp_path / "other", encoder=TrigramEncoder()) as memory:
        memory.add([capital(f"Nowhere {n}", "Z") for n in range(40)])
        memory.save_index()
    shutil.copy(tmp_path / "other" / "vectors.faiss", made / "vectors.faiss")
    assert was_built(made, monkeypatch)
    assert answers(made) == wanted


def test_the_mark_names_the_memory_and_the_encoder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made / "vectors.faiss"
    found = snapshot.load(path)
    assert found is not None
    payload, mark = found
    for other in (replace(mark, memory="another"), replace(mark, encoder="another")):
        snapshot.save(path, payload, other)
        assert was_built(made, monkeypatch)
    snapshot.save(path, payload, mark)
    assert not was_built(made, monkeypatch)


def test_a_snapshot_of_a_lost_branch_is_not_used(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database comes from a backup, goes on, and passes the snapshot's operation by number."""
    shutil.copy(made / "memory.db", tmp_path / "backup.db")
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        memory.add(capital("Lost", "Lyon"))
        memory.save_index()
    shutil.copy(tmp_path / "backup.db", made / "memory.db")
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        assert memory.add(capital("Kept", "Lyon")).ids == [41]
        memory.forget(1)
    assert was_built(made, monkeypatch)
    with EditMemory.open(made, encoder=TrigramEncoder()) as memory:
        assert {n.record.id for n in memory.search("x", 50)} == set(range(2, 42))
        assert memory.search("The capital of Kept is Lyon.", 1)[0].record.edit.subject == "Kept"


def test_a_snapshot_of_another_encoder_is_not_used(made: Path) -> None:
    old = (made / "vectors.faiss").read_bytes()
    with EditMemory.open(made, encoder=TrigramEncoder(seed=1)) as memory:
        memory.rebuild(reencode=True)
        wanted = [n.record.id for n in memory.search("The capital of Land 00017")]
    (made / "vectors.faiss").write_bytes(old)
    with EditMemory.open(made, encoder=TrigramEncoder(seed=1)) as memory:
        assert [n.record.id for n in memory.search("The capital of Land 00017")] == wanted


def test_bulk_imports_leave_a_snapshot_and_small_changes_dont(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        memory.add(facts(10))
    assert not (tmp_path / "vectors.faiss").exists()
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        memory.add([capital(f"Country {n}", "Lyon") for n in range(400)])
        saved = (tmp_path / "vectors.faiss").stat().st_mtime_ns
        memory.add(capital("France", "Lyon"))
    assert (tmp_path / "vectors.faiss").stat().st_mtime_ns == saved


def test_a_snapshot_that_cant_be_written_is_no_error_but_when_asked_for(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *parts: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "write_durably", full)
    memory = EditMemory.open(made, encoder=TrigramEncoder())
    memory.add([capital(f"Country {n}", "Lyon") for n in range(300)])
    with pytest.raises(MemoryError_, match=r"No space left.*the edits themselves are safe"):
        memory.save_index()
    memory.close()
    assert len(answers(made)) == 40


def test_who_reads_the_old_file_reads_on_while_a_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    snapshot.write_durably(path, b"old" * 10_000)
    with path.open("rb") as reader:
        first = reader.read(10)
        snapshot.write_durably(path, b"new" * 10_000)
        assert first + reader.read() == b"old" * 10_000
    assert path.read_bytes() == b"new" * 10_000


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    snapshot.write_durably(path, b"old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            snapshot.write_durably(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_temporary_files_of_the_killed_are_cleared_away(tmp_path: Path) -> None:
    stray, fresh = tmp_path / "file.1.2.tmp", tmp_path / "file.3.4.tmp"
    stray.write_bytes(b"")
    fresh.write_bytes(b"")
    os.utime(stray, (time.time() - 7200,) * 2)
    snapshot.write_durably(tmp_path / "file", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", fresh.name]


def test_faiss_itself_reads_the_snapshot(made: Path) -> None:
    import faiss

    assert faiss.read_index(str(made / "vectors.faiss")).ntotal == 40
    tail = (made / "vectors.faiss").read_bytes()
    length = int.from_bytes(tail[-12:-8], "little")
    assert json.loads(tail[-12 - length : -12])["mark"]["operation"] == 1
