"""The path of a GPU: on a device that isn't there (see elsewhere.py), and on a real one where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from elsewhere import DEVICE, Elsewhere, Remote
from memory_fixtures import TrigramEncoder, capital, facts

from memedit import devices, doctor
from memedit.bench import generate as bench_generate
from memedit.bench import gpu as bench_gpu
from memedit.cli import main
from memedit.edit import Edit
from memedit.encoder import MiniLM
from memedit.memory import EditMemory, torch_search
from memedit.memory.torch_index import TorchIndex
from memedit.router import Router
from memedit.scope import FEATURES, SHIPPED, ScopeClassifier

DIM = 32
EDITS = [
    capital("France", "Lyon"),
    capital("Spain", "Bilbao"),
    Edit(prompt="What instrument does Toko Yasuda play?", target="piano", subject="Toko Yasuda"),
    Edit(statement="The Autonomous University of Madrid is located in Sweden."),
    *facts(60),
    Edit(statement="The head of Acme Works is Ann Able."),
    Edit(statement="The head of Acme Works is Bo Baker."),  # a suspected conflict: the newer is to fire
]
QUERIES = [
    "What is the capital of France?",
    "What is the population of France?",
    "Where is the Autonomous University of Madrid?",
    "how do magnets work",
    "Toko Yasuda plays the",
    "The capital of Land 00017 is",
    "Who is the head of Acme Works?",
]


@pytest.fixture(params=["cpu", "elsewhere", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with Elsewhere() if request.param == "elsewhere" else nullcontext():
        yield str(DEVICE) if request.param == "elsewhere" else request.param


# -- exact search


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors as they are stored (float16), in tight bunches, a tenth of them said twice or more."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 50), DIM))
    vectors = centres[rng.integers(0, len(centres), count)] + 0.05 * rng.standard_normal((count, DIM))
    vectors[: count // 10] = vectors[rng.integers(0, count, count // 10)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def exactly(kept: dict[int, np.ndarray], query: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """The plain answer: every product in float64; of equals, the greater id first."""
    products = {
        id: round(float(v.astype(np.float64) @ query.astype(np.float64)), 6) for id, v in kept.items()
    }
    best = sorted(kept, key=lambda id: (-products[id], -id))[:k]
    return best, [products[id] for id in best]


@pytest.mark.parametrize("half", [False, True], ids=["single", "half"])
@pytest.mark.parametrize("k", [1, 8, 1000])
def test_search_is_exact_search(device: str, half: bool, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_search, "PRODUCTS", 900)  # several chunks of rows
    monkeypatch.setattr(torch_search, "QUERIES", 5)  # and several of queries
    index = TorchIndex(DIM, device, half)
    kept = dict(enumerate(clustered(400, 1), 100))
    index.put(np.array(list(kept)), np.stack(list(kept.values())))
    gone = [100, 101, 250, 499, 777]
    index.remove(gone)
    for id in gone:
        kept.pop(id, None)
    fresh = dict(enumerate(clustered(90, 2), 480))  # some replace, some are new
    index.put(np.array(list(fresh)), np.stack(list(fresh.values())))
    kept |= fresh
    hidden = set(list(kept)[::7])
    open_ = {id: vector for id, vector in kept.items() if id not in hidden}
    queries = np.concatenate([clustered(9, 3), np.stack(list(kept.values()))[:8]])
    for without, among in ((set(), kept), (hidden, open_)):
        products, ids = index.search(queries, k, without)
        assert ids.shape == (len(queries), min(k, len(kept)))
        for query, got, values in zip(queries, ids, products, strict=True):
            wanted, best = exactly(among, query, k)
            assert values[: len(best)] == pytest.approx(best, abs=2e-6)
            assert (got[len(best) :] == -1).all()
            # Which of two that differ by less than a float32 can tell comes first is nobody's business.
            for id, value, id_there, value_there in zip(got.tolist(), values, wanted, best, strict=False):
                assert id == id_there or abs(float(among[id].astype(np.float64) @ query) - value_there) < 2e-6
                assert value == pytest.approx(value_there, abs=2e-6)


def test_of_equals_the_newest_come_first_however_many_there_are(device: str) -> None:
    index = TorchIndex(DIM, device, half=True)
    [one, other] = clustered(2, 5)
    ids = np.random.default_rng(0).permutation(3000) + 1
    index.put(ids, np.where((ids % 2 == 0)[:, None], one, other))
    assert index.search(one[None], 5)[1].tolist() == [[3000, 2998, 2996, 2994, 2992]]
    index.remove([3000, 2996])
    assert index.search(one[None], 3, without={2998})[1].tolist() == [[2994, 2992, 2990]]


def test_a_list_that_proves_nothing_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that are nearly one in half precision are told apart."""
    index = TorchIndex(DIM, "cpu", half=True)
    base = clustered(1, 6)[0]
    rng = np.random.default_rng(1)
    close = base + 3e-4 * rng.standard_normal((4000, DIM))
    vectors = (close / np.linalg.norm(close, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    index.put(np.arange(4000), vectors)
    query = clustered(1, 6)
    wanted = np.sort(vectors @ query[0])[::-1][:8]
    assert index.search(query, 8)[0][0] == pytest.approx(wanted, abs=1e-6)
    monkeypatch.setattr(torch_search, "row_by_row", None)
    with pytest.raises(TypeError):
        index.search(query, 8)  # this case does come to that


def test_what_a_search_takes_is_bounded() -> None:
    with Elsewhere() as there, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_search, "PRODUCTS", 20_000)
        patch.setattr(torch_search, "QUERIES", 16)
        index = TorchIndex(DIM, str(DEVICE))
        index.put(np.arange(4000), clustered(4000, 7))
        there.forget()
        index.search(clustered(200, 8), 4)
        # Products and the rows of the short lists; all products at once would be 800 000 numbers.
        assert there.largest <= max(20_000, 16 * torch_search.SHORT * DIM)


def test_changes_send_only_what_changes() -> None:
    with Elsewhere() as there:
        index = TorchIndex(DIM, str(DEVICE))
        index.put(
            np.arange(4096), clustered(4096, 7)
        )  # fills it to the brim: room for more comes by doubling
        index.put(np.arange(4096, 4100), clustered(4, 8))
        assert there.largest >= 8000 * DIM
        there.forget()
        index.put(np.arange(5000, 5010), clustered(10, 9))
        index.remove(range(100, 150))
        assert there.largest <= 50 * DIM
        assert there.copies == there.waits == []
        assert len(index) == 4060


def test_several_views_are_kept_and_the_first_is_searched(device: str) -> None:
    index = TorchIndex(DIM, device)
    views = clustered(300, 4).reshape(100, 3, DIM)
    index.put(np.arange(100), views)
    index.remove([3])
    index.put(np.array([200]), views[3:4])
    assert index.search(views[3, :1], 1)[1].tolist() == [[200]]
    assert np.array_equal(index.views([200, 7]).cpu().numpy(), views[[3, 7]])
    again = TorchIndex.loads(index.dumps(), DIM, device=device)
    assert np.array_equal(again.views([99, 200]).cpu().numpy(), views[[99, 3]])
    with pytest.raises(ValueError, match="views"):
        index.put(np.array([5]), views[5:6, :2])


# -- a memory on a device


@contextmanager
def opened(folder: Path, device: str, edits: list[Edit]) -> Iterator[EditMemory]:
    """A memory that is encoded and searched on a device, in float32 everywhere so that it can be compared."""
    classifier = ScopeClassifier.load()
    made_by = classifier.settings["encoder"]
    encoder = MiniLM(SHIPPED, made_by["name"], made_by["digest"], device=device, precision="float32")
    there = ScopeClassifier(classifier.settings, classifier.trees, classifier.lenses, SHIPPED, encoder)
    with EditMemory.open(folder, encoder=there, device=device) as memory:
        memory.add(edits)
        yield memory


@pytest.mark.parametrize("place", ["elsewhere", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_routing_on_a_device_gives_the_verdicts_of_the_cpu(place: str, tmp_path: Path) -> None:
    with opened(tmp_path / "host", "cpu", EDITS) as memory:
        wanted = Router(memory, exact=True).route(QUERIES)  # a GPU has no 8-bit path
        memory.save_index()
    assert [len(route.edits) for route in wanted] == [1, 0, 1, 0, 1, 0, 1]
    name = str(DEVICE) if place == "elsewhere" else place
    with (
        Elsewhere() if place == "elsewhere" else nullcontext(),
        opened(tmp_path / "there", name, EDITS) as memory,
    ):
        got = Router(memory).route(QUERIES)
    assert [r.to_dict()["edit"] for r in got] == [r.to_dict()["edit"] for r in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        a, b = ({c.id: c for c in route.nearest} for route in (ours, theirs))
        assert a.keys() == b.keys()
        for id in a:
            assert a[id].probability == pytest.approx(b[id].probability, abs=1e-5)
            assert a[id].cosine == pytest.approx(b[id].cosine, abs=1e-5)
            assert a[id].named == b[id].named


def test_between_encoding_and_verdict_no_vector_comes_to_the_host(tmp_path: Path) -> None:
    """What comes back: the candidates' ids with their cosines, since their texts are here; what is known of each; and
    what the pair model says of those that it reads."""
    with Elsewhere() as there, opened(tmp_path, str(DEVICE), EDITS) as memory:
        router = Router(memory)
        router.route(QUERIES)  # what is sent once is there now: weights, trees, lenses, the index
        there.forget()
        routes = router.route(QUERIES)
        pairs = sum(len(route.nearest) for route in routes)
        (candidates, known, said, *after), waits = there.copies, there.waits
        assert candidates[1] == torch.int64
        rows, columns = candidates[0]
        assert rows == len(QUERIES)
        assert (
            columns <= 2 * (8 + 8) + 1
        )  # ids and cosines of 8 near and at most 8 named, and whether it is proven
        assert known == ((pairs, len(FEATURES) + 1), torch.float64)
        assert 0 < said[0][0] <= pairs
        assert said[0][1] == 2
        assert waits == []
        # After the verdict: where several edits fire, whether two contradict each other, by the cosines of two views.
        assert all(shape == () for shape, _ in after)
        near, stored = memory.near_with_vectors(QUERIES, memory.encoder.embed(QUERIES))  # type: ignore[attr-defined]
        assert isinstance(stored, Remote)
        assert isinstance(near[0][0].vectors, Remote)


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_but_for_candidates_and_verdict(tmp_path: Path) -> None:
    """The same, said by CUDA itself: every wait is a warning, and there are three."""
    with opened(tmp_path, "cuda", EDITS) as memory:
        router = Router(memory)
        router.route(QUERIES)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchroniz") as said:
                router.route(QUERIES)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(said) == 3


def test_a_memory_on_a_device_follows_its_edits(tmp_path: Path) -> None:
    def found(memory: EditMemory, text: str, **options: Any) -> list[int]:
        [near] = memory.near([text], memory.encoder.encode([text]), k=3, **options)
        return [n.record.id for n in near]

    with Elsewhere(), EditMemory.open(tmp_path, encoder=TrigramEncoder(), device=str(DEVICE)) as memory:
        memory.add([capital("France", "Paris", valid_from="2020-01-01", valid_to="2024-01-01"), *facts(40)])
        assert found(memory, "The capital of France is", at="2021-06-01")[0] == 1
        assert 1 not in found(memory, "The capital of France is", at="2025-01-01")
        later = memory.add(capital("France", "Lyon", valid_from="2024-01-01")).ids[0]
        assert found(memory, "The capital of France is", at="2025-01-01")[0] == later
        memory.update(later, target="Nice")
        [near] = memory.search("The capital of France is Nice.", 1)
        assert (near.record.id, near.record.edit.target) == (later, "Nice")
        memory.forget(later)
        assert later not in found(memory, "The capital of France is", at="2025-01-01")
        memory.undo()
        memory.save_index()
        assert memory.search("The capital of France is Nice.", 1)[0].record.id == later
    with Elsewhere(), EditMemory.open(tmp_path, encoder=TrigramEncoder(), device=str(DEVICE)) as memory:
        assert memory.search("The capital of France is Nice.", 1)[0].record.id == later
        assert memory.check() == []


def test_the_simulated_device_has_the_rules_of_one() -> None:
    def refused(work: Callable[[], object]) -> None:
        with pytest.raises((AssertionError, RuntimeError, TypeError)):
            work()

    with Elsewhere() as there:
        far = torch.ones(4).to(DEVICE, non_blocking=True)
        assert (far.device, there.copies, there.waits) == (DEVICE, [], [])
        refused(lambda: far + torch.ones(4))
        refused(lambda: far.numpy())
        assert float(far.sum()) == 4
        assert (far > 0).any()
        far[far > 0]
        assert far.cpu().tolist() == [1] * 4
        assert [shape for shape, _ in there.copies] == [(), (), (), (4,)]
        torch.zeros(2).to(DEVICE)
        assert there.waits == [((2,), torch.float32)]
    refused(lambda: far + far)


# -- what is said, what is measured


def test_why_there_is_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.version.hip", None, raising=False)
    assert "built for the CPU only" in devices.why_no_gpu()
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every GPU" in devices.why_no_gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("os.path.exists", lambda path: False)
    assert "no NVIDIA driver" in devices.why_no_gpu()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert devices.why_no_gpu() == ""
    assert (devices.best(), devices.best("cpu")) == ("cuda", "cpu")


def test_doctor_says_what_runs_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = {f["what"]: f["finding"] for f in doctor.examine(str(tmp_path / "none"))}
    assert said["gpu"].startswith("none: ")
    assert said["encoder runs on"].startswith("cpu, ")
    assert "FAISS" in said["index and judging run on"]
    assert said["base runs on"].startswith("cpu, float32")
    with Elsewhere(), monkeypatch.context() as patch:
        patch.setattr(doctor, "best", lambda: str(DEVICE))
        patch.setattr("memedit.memory.index.choose", lambda device: (TorchIndex, {"device": str(DEVICE)}))
        there = {f["what"]: f["finding"] for f in doctor._places()}
    assert there["encoder runs on"] == "meta, bfloat16"
    assert there["index and judging run on"].startswith("meta, by torch: float16")
    assert there["base runs on"].startswith("meta, the weights' own")


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_bench_measures_real_and_swollen_memories(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "SIZES", {"cpu": (12, 40), "cuda": (12, 40)})
    monkeypatch.setattr(bench_gpu, "BATCH", 4)
    monkeypatch.setattr(bench_gpu, "TIMES", {1: 2, 4: 1})
    monkeypatch.setattr(bench_gpu, "bandwidth", lambda device: 1e10)
    monkeypatch.setattr(bench_generate, "generate", lambda *given: [{"claim": "ratio", "given": given}])
    entries = bench_gpu.gpu("base", place, None)
    if place != "cpu":
        assert entries.pop() == {"claim": "ratio", "given": ("base", place, None)}
    claims = {e["claim"]: e for e in entries}
    assert len(claims) == 9
    for among in ("12 edits", "40 edits, 12 of them real"):
        assert claims[f"route, one query, {among}"]["value"] > 0
        assert claims[f"route in batches of 4, {among}"]["unit"] == "queries/s"
        assert claims[f"search, 4 at once, {among}: share of the limit that bandwidth sets"]["met"] is None


def test_a_swollen_memory_is_searched_read_and_judged_whole(tmp_path: Path) -> None:
    with Elsewhere(), opened(tmp_path, str(DEVICE), EDITS[:10]) as memory:
        bench_gpu.swell(memory, 35)
        assert len(memory) == 35
        [route] = Router(memory, k=35).route(["What is the capital of France?"])
        assert len(route.nearest) == 35
        assert {c.id for c in route.nearest if c.edit == EDITS[0]} == {1, 11, 21, 31}


def test_without_a_gpu_the_bench_says_so_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(main, ["bench", "gpu"])
    assert done.exit_code == 1
    [line] = done.output.strip().splitlines()
    assert line.startswith("error: bench gpu needs a CUDA device: ")
    assert "--device cpu" in line


def test_the_copy_that_bandwidth_is_measured_by_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "seconds", lambda work: (work(), 0.5)[1])
    assert bench_gpu.bandwidth(torch.device("cpu")) == 2 * (1 << 27) / 0.5
