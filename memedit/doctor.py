"""What `memedit doctor` looks at: the installation, the shipped models, the memory."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from memedit.devices import best, why_no_gpu
from memedit.errors import MemeditError
from memedit.loading import PRETRAINED


def examine(memory: str) -> list[dict[str, Any]]:
    """One finding per thing looked at: what, ok, and a sentence. Nothing is changed."""
    return [*_installation(), *_models(), *_places(), *_memory(memory)]


def repaired(memory: str, progress: Callable[[int, int], None] | None = None) -> list[dict[str, Any]]:
    """Repair a memory; what was done, as findings.

    Raises:
        MemoryBusy: another process writes. MemoryError_: there is no memory, or nothing of it can be read.
    """
    from memedit.memory import repair_memory

    return [_finding("repair", True, text) for text in repair_memory(memory, progress=progress)]


def _finding(what: str, ok: bool, text: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "finding": text}


def _installation() -> list[dict[str, Any]]:
    found = [_finding("python", True, platform.python_version())]
    for package in ("torch", "transformers", "sentence-transformers", "sqlite-utils"):
        try:
            found.append(_finding(package, True, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append(_finding(package, False, f'missing; pip install "memedit[cpu]" brings {package}'))
    faiss = find_spec("faiss") is not None
    missing = 'missing; pip install "memedit[cpu]" (or [gpu]) brings it'
    found.append(_finding("faiss", faiss, _faiss_build() if faiss else missing))
    why = why_no_gpu()
    found.append(_finding("gpu", True, _gpus() if not why else f"none: {why}; all runs on the CPU"))
    return found


def _faiss_build() -> str:
    import faiss

    for_gpus = hasattr(faiss, "StandardGpuResources")
    return f"{faiss.__version__}, built for {'GPUs' if for_gpus else 'the CPU'}"


def _gpus() -> str:
    import torch

    return ", ".join(
        f"cuda:{i} {torch.cuda.get_device_name(i)} "
        f"({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
        for i in range(torch.cuda.device_count())
    )


def _places() -> list[dict[str, Any]]:
    """What runs where when no device is named, and in which precision."""
    from memedit.memory.index import FLAT_LIMIT, FaissIndex, choose
    from memedit.scope import ScopeClassifier

    device = best()
    found = []
    try:
        encoder = ScopeClassifier.load(device=device).encoder
        precision = getattr(encoder, "precision", "its own precision")
        found.append(_finding("encoder runs on", True, f"{device}, {precision}"))
    except MemeditError as error:
        found.append(_finding("encoder runs on", False, str(error)))
    try:
        kind, options = choose(None)
        index = kind(1, **options)
        if isinstance(index, FaissIndex):
            where = f"cpu, by FAISS: float32 and exact to {FLAT_LIMIT:,} edits, then lists of bytes"
        else:
            by = "FAISS's GPU kernel" if index.kernel else "torch"
            where = f"{index.device}, by {by}: float16, ranked in float32, exact; judging too"
        found.append(_finding("index and judging run on", True, where))
    except MemeditError as error:
        found.append(_finding("index and judging run on", False, str(error)))
    dtype = "float32" if device == "cpu" else "the weights' own precision"
    found.append(_finding("base runs on", True, f"{device}, {dtype}; --device and --dtype change that"))
    return found


def _models() -> list[dict[str, Any]]:
    found = []
    for name in ("base", "scope"):
        files = sorted((PRETRAINED / name).rglob("*.safetensors"))
        size = sum(f.stat().st_size for f in files) / 1e6
        text = f"{size:.1f} MB" if files else "missing; reinstall memedit"
        found.append(_finding(f"shipped {name}", bool(files), text))
    return found


def _memory(folder: str) -> list[dict[str, Any]]:
    if not Path(folder).exists():
        return [_finding("memory", True, f"none at {folder} yet; `memedit add-fact` makes one")]
    from memedit.memory import EditMemory

    try:
        with EditMemory.open(folder, create=False, readonly=True) as memory:
            problems, edits = memory.check(), len(memory)
            if not problems:
                problems = memory.spot_check()
    except MemeditError as error:
        return [_finding("memory", False, str(error))]
    if not problems:
        return [_finding("memory", True, f"{edits:,} live edits in {folder}, nothing wrong")]
    return [_finding("memory", False, problem) for problem in problems]
