"""The claims of speed, and of what stands, measured: `memedit bench`.

memory.py (import, add, route, open), generate.py, chat.py, evaluation.py, methods.py, drift.py, gpu.py;
measured.py is what they share. Medians; ratios are taken inside one run, turn by turn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from memedit.bench.measured import Entry, machine

__all__ = ["ALONE", "BENCHES", "Entry", "machine", "run"]

Progress = Callable[[int, int], None]

BENCHES: dict[str, str] = {  # name -> where it lives; imported when it is run
    "import": "memedit.bench.memory:import_",
    "add": "memedit.bench.memory:add",
    "route": "memedit.bench.memory:route",
    "open": "memedit.bench.memory:open_",
    "generate": "memedit.bench.generate:generate",
    "chat": "memedit.bench.chat:chat",
    "mixed-batch": "memedit.bench.methods:mixed_batch",
    "covariance": "memedit.bench.methods:covariance",
    "methods": "memedit.bench.methods:methods",
    "drift": "memedit.bench.drift:drift",
    "eval": "memedit.bench.evaluation:evaluation",
    "gpu": "memedit.bench.gpu:gpu",
}
ALONE = ("drift", "gpu", "methods")  # asked for by name only, no part of `all`


def run(
    names: list[str],
    *,
    model: str = "base",
    device: str | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
    **more: Any,
) -> list[Entry]:
    """The entries of these benches, in order: claim, value, unit, limit, met, detail.

    Args:
        more: what only `methods` and `drift` take: data, limit, only, settings, ...
    """
    out: list[Entry] = []
    for i, name in enumerate(names):
        if progress:
            progress(i, len(names))
        module, _, function = BENCHES[name].partition(":")
        own = {**more, "progress": progress} if name in ("methods", "drift") else {}
        out += getattr(importlib.import_module(module), function)(model, device, dtype, **own)
    return out
