"""Checkpoints that a kill, a full disk or a cut file can't take away: the last two are kept, each whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

TENSORS, STATE = "state.safetensors", "state.json"


def placed(folder: Path, fill: Callable[[Path], None], keep: bool = False) -> None:
    """Fill a folder beside its place, then move it there; with `keep` the former one stays as ``{name}.old``.

    Raises:
        SystemExit: the disk is full; what was there stays.
    """
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
    except Exception as error:  # safetensors has an error of its own for what the system refuses
        shutil.rmtree(part, ignore_errors=True)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(
            words in str(error) for words in ("No space", "too large", "StorageFull", "FileTooLarge", "quota")
        ):
            sys.exit(
                f"error: no room on the disk to write {folder}; what was there stays as it was: make room, and start again"
            )
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    if not keep:
        shutil.rmtree(old, ignore_errors=True)


def write(folder: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """Tensors and plain values in one folder."""

    def fill(part: Path) -> None:
        save_file(tensors, part / TENSORS)
        (part / STATE).write_text(json.dumps(state))

    placed(folder, fill, keep=True)


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(tensors, state) of the last whole checkpoint; None where there is none.

    Raises:
        SystemExit: there are checkpoints, and none of them can be read.
    """
    cut = []
    for one in (folder, folder.with_name(folder.name + ".old")):
        if not one.exists():
            continue
        try:
            return load_file(one / TENSORS), json.loads((one / STATE).read_text())
        except (OSError, ValueError, SafetensorError):
            cut.append(one)
            print(f"note: the checkpoint {one} is cut off, and is passed over", flush=True)
    if cut:
        sys.exit(
            f"error: no checkpoint in {folder.parent} is whole; take {cut[0].name} away to start anew, or another --run"
        )
    return None


def adam_tensors(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Parameters by name, and Adam's moments and steps beside them, as `write` takes them."""
    tensors = {name: p.detach().cpu().clone() for name, p in parameters.items()}
    for name, p in parameters.items():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"{key}:{name}"] = value.detach().cpu().clone()
    return tensors


def put_back(
    tensors: Mapping[str, torch.Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """What `adam_tensors` kept, back into parameters and optimizer, where they are."""
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[name])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}:{name}" in tensors]
            if keys:
                optimizer.state[p] = {
                    key: tensors[f"{key}:{name}"].to("cpu" if key == "step" else p.device) for key in keys
                }
