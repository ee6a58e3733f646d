"""What `memedit doctor` looks at: the installation, the shipped models, the memory."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from memedit.errors import MemeditError
from memedit.lm import PRETRAINED


def examine(memory: str) -> list[dict[str, Any]]:
    """One finding per thing looked at: what, ok, and a sentence. Nothing is changed."""
    return [*_installation(), *_models(), *_memory(memory)]


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
    found.append(
        _finding(
            "faiss", faiss, "found" if faiss else 'missing; pip install "memedit[cpu]" (or [gpu]) brings it'
        )
    )
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: all runs on the CPU"
    found.append(_finding("gpu", True, gpu))
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
