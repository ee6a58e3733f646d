"""What the memory and the router cost: import, one edit more, a query, opening."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from memedit.bench.measured import Entry, entry, invented_edits, seconds
from memedit.router import Router


def import_(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    from memedit.memory import EditMemory

    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=device) as memory:
        memory.encoder.encode(["warm"])
        spent = seconds(lambda: memory.add(invented_edits(1000)))
    return [
        entry(
            "import of 1 000 edits, encoding included",
            spent,
            "s",
            15,
            "one run; the encoder is loaded before",
        )
    ]


def add(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    from memedit.memory import EditMemory

    edits = list(invented_edits(1100))
    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=device) as memory:
        memory.add(edits[:1000])
        each = [seconds(lambda e=e: memory.add(e)) for e in edits[1000:1040]]  # type: ignore[misc]
    further = entry(
        "one further edit inside a process",
        1000 * statistics.median(each),
        "ms",
        30,
        "median of 40, 1 000 edits in memory",
    )
    with tempfile.TemporaryDirectory() as folder:

        def cold_add(
            i: int,
        ) -> None:  # another fact each time: a repeat is found out before anything is encoded
            fact = f"The capital of France is Lyon {i}."
            command = [
                sys.executable,
                "-m",
                "memedit",
                "add-fact",
                fact,
                "--memory",
                str(Path(folder) / "memory"),
            ]
            subprocess.run(command, check=True, capture_output=True)

        cold = [seconds(lambda i=i: cold_add(i)) for i in range(3)]  # type: ignore[misc]
    return [further, entry("add-fact as a cold process", statistics.median(cold), "s", 10, "median of 3")]


def route(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    from memedit.memory import EditMemory

    edits = list(invented_edits(10_000))
    outside = [
        f"what is the best way to store {thing} for {n} days"
        for n in range(2, 12)
        for thing in ("milk", "rope", "wine", "seeds", "paint")
    ]
    inside = [f"{e.prompt} known to be" for e in edits[:: len(edits) // 50]]
    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=device) as memory:
        memory.add(edits)
        router = Router(memory)
        router.route(outside[:4] + inside[:4])
        times = {}
        for name, queries in (("out of scope", outside), ("naming an edited subject", inside)):
            times[name] = 1000 * statistics.median(seconds(lambda q=q: router.route([q])) for q in queries)  # type: ignore[misc]
        some = [f"{text} {i}" for i in range(6) for text in (*outside[:40], *inside[:10])]
        spent = seconds(lambda: router.route(some))
        same = 100 * _equal_verdicts(router, [*outside, *inside, *some])
    return [
        *(
            entry(f"route, one query {name}, 10 000 edits", times[name], "ms", limit, "median of 50")
            for name, limit in (("out of scope", 12), ("naming an edited subject", 30))
        ),
        entry(
            "route, many queries at once, four in five out of scope",
            len(some) / spent,
            "queries/s",
            300,
            f"{len(some)} queries in one call, 10 000 edits",
            at_least=True,
        ),
        entry(
            "verdicts as float32 alone would give them",
            same,
            "%",
            99.9,
            f"{len(outside) + len(inside) + len(some)} queries; 100 where there is no 8-bit path",
            at_least=True,
        ),
    ]


def _equal_verdicts(router: Router, queries: list[str]) -> float:
    """Share of queries for which the same edits fire whether or not the 8-bit path is taken."""
    exact = Router(router.memory, exact=True).route(queries)
    return statistics.mean(
        [c.id for c in a.edits] == [c.id for c in b.edits]
        for a, b in zip(router.route(queries), exact, strict=True)
    )


def open_(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    import numpy as np

    from memedit.memory import EditMemory

    with tempfile.TemporaryDirectory() as folder:
        with EditMemory.open(folder, device=device) as memory:
            memory.add(invented_edits(10_000))
            encoder = memory.encoder
            vector = encoder.encode(["where was Ada born"])

        def first_query() -> None:
            with EditMemory.open(folder, encoder=encoder, device=device) as memory:
                memory.near(["where was Ada born"], np.asarray(vector))

        spent = statistics.median(seconds(first_query) for _ in range(5))
    return [
        entry(
            "opening 10 000 edits, to the first search",
            spent,
            "s",
            1,
            "median of 5; the encoder is loaded before",
        )
    ]
