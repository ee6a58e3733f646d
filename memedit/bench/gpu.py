"""Routing on a GPU, measured: `memedit bench gpu`. With ``--device cpu`` the same in small, on the CPU.

What is real and what is not: the smaller memory holds invented facts, each encoded. The larger holds the same
rows again and again, put into SQLite and the index directly, under ids of their own, with the first ones' vectors
and noise, so that a million texts need not be encoded. Search, the reading of candidates' texts, and judging do
all the work that a million facts would be. Names are looked up among the first rows only.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count, cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from memedit.bench.measured import Entry, invented_edits, seconds
from memedit.devices import best, why_no_gpu
from memedit.errors import MemeditError

if TYPE_CHECKING:
    import torch

    from memedit.memory import EditMemory
    from memedit.router import Router

BATCH = 256
TIMES = {1: 50, BATCH: 5}  # how often batches of these sizes are measured
SIZES = {"cuda": (10_000, 1_000_000), "cpu": (1_000, 20_000)}  # edits: encoded, and swollen to
_NOISE = 0.48  # its length beside a vector of length 1: cosine .9 between a row and its copies
_THINGS = "milk rope wine seeds paint flour candles letters honey tools".split()


def gpu(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """Entries for two sizes of memory, and on a GPU routed generation against plain.

    Raises:
        MemeditError: there is no GPU, and no other device was named.
    """
    import torch

    from memedit.memory import EditMemory
    from memedit.router import Router

    if device is None and why_no_gpu():
        raise MemeditError(
            f"bench gpu needs a CUDA device: {why_no_gpu()}; --device cpu runs it on the CPU, with smaller memories"
        )
    where = torch.device(best(device))
    small, large = SIZES["cuda" if where.type == "cuda" else "cpu"]
    speed = bandwidth(where)
    entries = [
        figure(
            "bandwidth of the device's memory",
            speed / 1e9,
            "GB/s",
            f"{where}: a large copy, read and written",
        )
    ]
    queries = _queries(small)
    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=str(where)) as memory:
        memory.add(invented_edits(small))
        router = Router(memory)
        entries += _routing(router, queries, f"{small:,} edits")
        entries += _search(memory, speed, f"{small:,} edits")
        swell(memory, large)
        entries += _routing(router, queries, f"{large:,} edits, {small:,} of them real")
        entries += _search(memory, speed, f"{large:,} edits, {small:,} of them real")
    if where.type == "cpu":  # there `memedit bench generate` says the rest, in minutes
        return entries
    from memedit.bench.generate import generate

    return [*entries, *generate(model, str(where), dtype)]


def figure(claim: str, value: float, unit: str, detail: str) -> Entry:
    """What was measured, where nothing is claimed yet."""
    return {"claim": claim, "value": value, "unit": unit, "limit": "none set", "met": None, "detail": detail}


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes: what a pass over all vectors is held against."""
    import torch

    size = 1 << (30 if device.type == "cuda" else 27)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))

    def copy() -> None:
        target.copy_(source)
        _wait(device)

    copy()
    return 2 * size / statistics.median(seconds(copy) for _ in range(9))


def swell(memory: EditMemory, size: int) -> None:
    """Put copies of a memory's rows into its tables and its index until it holds `size` edits.

    They are in no operation, so the memory is good for nothing but measuring.
    """
    from memedit.memory import reading

    columns = (
        "version, status, superseded_by, added, changed, hash, subject, source, method, ref, tags, "
        "valid_from, valid_to, content"
    )
    first = len(memory)
    with memory._store.reading() as db:
        index = memory._live.level(db)
        assert index is not None
        parts = list(reading.views_of(db, index.dim))
    ids = np.concatenate([part[0] for part in parts])
    views = np.concatenate([part[1] for part in parts]).astype(np.float32)
    rng = np.random.default_rng(0)
    shift = int(ids.max())
    for copy in range(1, -(-size // first)):
        some = slice(0, min(first, size - copy * first))
        with memory._store.writing() as db:
            db.execute(
                f"INSERT INTO edits (id, {columns}) SELECT id + ?, {columns} FROM edits WHERE id <= ? ORDER BY id LIMIT ?",
                (copy * shift, shift, some.stop),
            )
        noise = rng.standard_normal(views[some].shape, dtype=np.float32)
        moved = views[some] + noise * (_NOISE / index.dim**0.5)
        moved /= np.linalg.norm(moved, axis=-1, keepdims=True)
        index.put(ids[some] + copy * shift, moved if index.keeps_views else moved[:, 0])
    memory._counted = ((-1, ""), 0)


def _queries(edits: int) -> Iterator[str]:
    """Without end and hardly ever twice: half name an edited subject, half ask for something else."""
    inside = cycle(invented_edits(edits))
    for n in count():
        for thing in _THINGS:
            yield f"what is the best way to store {thing} for {n} days"
            yield f"{next(inside).prompt} known to be"


def _routing(router: Router, queries: Iterator[str], among: str) -> list[Entry]:
    def median(rows: int) -> float:
        asked = [list(islice(queries, rows)) for _ in range(TIMES[rows] + 1)]
        spent = [seconds(partial(router.route, texts)) for texts in asked]
        return statistics.median(spent[1:])  # with the first, weights and vectors get to where they are used

    batch, single = median(BATCH), median(1)
    return [
        figure(f"route, one query, {among}", 1000 * single, "ms", f"median of {TIMES[1]}"),
        figure(
            f"route in batches of {BATCH}, {among}",
            BATCH / batch,
            "queries/s",
            f"median of {TIMES[BATCH]}",
        ),
    ]


def _search(memory: EditMemory, speed: float, among: str) -> list[Entry]:
    """Search alone, held against the time in which the vectors could be read once.

    A small memory's vectors lie in a cache, which is quicker than the limit.
    """
    from memedit.memory.torch_index import TorchIndex

    with memory._store.reading() as db:
        index = memory._live.level(db)
    assert index is not None
    rng = np.random.default_rng(1)
    entries = []
    for rows, times in TIMES.items():
        asked = rng.standard_normal((rows, index.dim), dtype=np.float32)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        search = partial(index.search, index.taken(asked) if isinstance(index, TorchIndex) else asked, 8)
        search()
        spent = statistics.median(seconds(search) for _ in range(times))
        share = len(index) * index.dim * index.width / speed / spent
        entries.append(
            figure(
                f"search, {rows} at once, {among}: share of the limit that bandwidth sets",
                100 * share,
                "%",
                f"{1000 * spent:.3g} ms, median of {times}; {len(index) * index.dim * index.width / 1e6:.4g} MB to read",
            )
        )
    return entries


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
