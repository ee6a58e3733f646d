"""The speed claims, measured: `memedit bench`. Medians; ratios are taken inside one run, turn by turn."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memedit.edit import Edit

Entry = dict[str, Any]
Progress = Callable[[int, int], None]

_FIRST = (
    "Ada Ben Cleo Dov Esi Finn Gita Hugo Ines Jarl Kofi Lena Mira Nils Oona Pavel Quinn Rosa Sven Tala Uma Viktor "
    "Wanda Xenia Yusuf Zora"
).split()
_LAST = (
    "Abara Brandt Castel Dorn Ekstrom Falk Grieg Haldane Ibsen Juhl Kranz Lunde Moreau Novak Orsini Petrov Quist "
    "Rask Sorel Tamm Ueda Varga Wilde Yilmaz Zeman"
).split()
_RELATIONS = (
    ("The birthplace of {} is", "Oslo Lima Accra Turin Kyoto Quito Bergen Porto Lagos Minsk".split()),
    ("{} works for", "Northwind Acme Globex Initech Umbra Soylent Hooli Vandelay Stark Wonka".split()),
    ("The mother tongue of {} is", "French Dutch Tamil Welsh Hindi Czech Thai Zulu Greek Irish".split()),
    ("{} plays the", "oboe harp cello flute piano viola tuba banjo lute organ".split()),
)


def invented_edits(n: int) -> Iterator[Edit]:
    """n edits about invented people, no two alike; the same ones each time."""
    for i in range(n):
        prompt, targets = _RELATIONS[i % len(_RELATIONS)]
        j = i // len(_RELATIONS)
        subject = f"{_FIRST[j % len(_FIRST)]} {_LAST[j // len(_FIRST) % len(_LAST)]}"
        rest = j // (len(_FIRST) * len(_LAST))
        subject += f" {'I' * rest}" if rest else ""
        yield Edit(prompt=prompt.format(subject), target=targets[(i * 7 + j) % len(targets)], subject=subject)


def machine() -> str:
    """What the numbers were taken on."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores{gpu}; {versions}; {time.strftime('%Y-%m-%d')}"


def run(
    names: list[str],
    *,
    model: str = "base",
    device: str | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """The entries of these benches, in order: claim, value, unit, limit, met, detail."""
    out: list[Entry] = []
    for i, name in enumerate(names):
        if progress:
            progress(i, len(names))
        out += BENCHES[name](model, device, dtype)
    return out


def entry(claim: str, value: float, unit: str, limit: float, detail: str) -> Entry:
    """One claim with what was measured; `limit` is the most that it may be."""
    return {
        "claim": claim,
        "value": value,
        "unit": unit,
        "limit": f"<= {limit:g} {unit}",
        "met": value <= limit,
        "detail": detail,
    }


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _import(model: str, device: str | None, dtype: str | None) -> list[Entry]:
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


def _add(model: str, device: str | None, dtype: str | None) -> list[Entry]:
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


def _route(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    from memedit.memory import EditMemory
    from memedit.router import Router

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
    return [
        entry(f"route, one query {name}, 10 000 edits", value, "ms", 25, "median of 50")
        for name, value in times.items()
    ]  # fmt: skip


def _open(model: str, device: str | None, dtype: str | None) -> list[Entry]:
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


def _generate(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    from memedit.bench_generate import generate

    return generate(model, device, dtype)


def _chat(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """See `memedit.bench_chat`."""
    from memedit.bench_chat import chat

    return chat(model, device, dtype)


def _gpu(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    from memedit.bench_gpu import gpu

    return gpu(model, device, dtype)


ALONE = ("gpu",)  # asked for by name only, no part of `all`
BENCHES: dict[str, Callable[[str, str | None, str | None], list[Entry]]] = {
    "import": _import,
    "add": _add,
    "route": _route,
    "open": _open,
    "generate": _generate,
    "chat": _chat,
    "gpu": _gpu,
}
