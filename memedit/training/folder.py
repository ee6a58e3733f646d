"""A fine-tuned classifier's folder: what it may replace, and how it is written, with its card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.errors import ModelError
from memedit.scope import SHIPPED, ScopeClassifier
from memedit.training.combining import write

if TYPE_CHECKING:
    import torch

ENCODER = (
    "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip

SHOWN = ("rounds", "pairs", "batch", "rate", "held_out", "seed")  # settings on the card


def check_out(out: Path, start: Path, work: Path) -> None:
    """Refuse, before any work, a folder that must not be written to.

    Raises:
        ModelError: it holds something else, or is the shipped classifier's; or there is none to begin with.
    """
    if not (start / "scope.json").exists():
        raise ModelError(
            f"{start} holds no scope classifier to begin with; name a folder that does, or leave --from out"
        )
    whole = out.resolve()
    if whole == SHIPPED.resolve():
        raise ModelError(f"{out} is the shipped classifier; name another folder with --out")
    if whole == work.resolve():
        raise ModelError(f"{out} can't hold both the classifier and the checkpoints; give another --work")
    if out.exists() and not out.is_dir():
        raise ModelError(f"{out} is a file; name a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "scope.json").exists():
        raise ModelError(f"{out} holds something else than a scope classifier; name a new folder with --out")


def put_folder(
    classifier: ScopeClassifier,
    out: Path,
    start: Path,
    weights: Mapping[str, torch.Tensor],
    result: Mapping[str, Any],
) -> None:
    """The classifier with its card, all or nothing: written beside, then moved into place.

    Raises:
        ModelError: it can't be written; what was there is as it was.
    """
    beside = out.resolve().with_name(f".{out.resolve().name}.{os.getpid()}.part")
    try:
        write(
            classifier, beside, weights, {k: result[k] for k in ("job", "settings", "files", "start", "best")}
        )
        for name in ENCODER if start.resolve() != SHIPPED.resolve() else ():
            if (start / name).exists():
                shutil.copyfile(start / name, beside / name)
        (beside / "training.json").write_text(json.dumps(dict(result), indent=1) + "\n", encoding="utf-8")
        curve = _draw(result, beside / "curve.png")
        (beside / "README.md").write_text(card(result, curve), encoding="utf-8")
        if out.is_dir():
            for path in sorted(beside.iterdir(), key=lambda p: p.name == "scope.json"):
                path.replace(out / path.name)  # each loads with what is there already
        else:
            out.resolve().parent.mkdir(parents=True, exist_ok=True)
            beside.replace(out)
    except OSError as error:
        raise ModelError(
            f"{out} can't be written: {error.strerror}; the checkpoint is kept: make room, and the same command goes on"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The table of before and after, as texts."""
    return [
        [row["what"], f"{row['queries']:,}", _percent(row["before"]), _percent(row["after"])]
        for row in result["table"]
    ]


def card(result: Mapping[str, Any], curve: bool) -> str:
    """README.md of the folder."""
    s, edits = result["settings"], result["edits"]
    lines = ["# A scope classifier, fine-tuned", ""]
    lines += [
        f"Made by `memedit train scope` from the classifier in `{s['start']}`. Load it with `--scope` or",
        "",
    ]
    lines += ["```python", "ScopeClassifier.load(FOLDER)", "```", "", "## Data", ""]
    lines += ["| file | sha256 |", "|---|---|", *(f"| {n} | `{d}` |" for n, d in result["files"].items()), ""]
    said = f"{edits['learnt']:,} edits to learn from, {edits['choosing']:,} to choose the round by, "
    lines += [said + f"{edits['before and after']:,} only for the table below.", *result["notes"], ""]
    lines += ["## Before and after", "", "| queries | n | before, % | after, % |", "|---|--:|--:|--:|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(result)]
    t = result["threshold"]
    lines += ["", "All the user's edits in memory; at the classifier's own threshold "
              f"({t['before']:.3f} before, {t['after']:.3f} after). Nothing was tuned on these edits.", ""]  # fmt: skip
    lines += ["## Training", "", *(f"- {name}: {s[name]}" for name in SHOWN), ""]
    marks = ", ".join(f"{mark:.4f}" for mark in result["epochs"])
    lines += [f"Marks of the rounds on the edits that they were chosen by, the start's first: {marks}. "
              f"Kept: round {result['best']}. "
              f"Calibration: {'made anew' if result['calibrated'] else 'that of the start'}.", ""]  # fmt: skip
    if curve:
        lines += ["![Loss and marks of the rounds](curve.png)", ""]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _draw(result: Mapping[str, Any], path: Path) -> bool:
    """Losses of the steps and marks of the rounds; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    losses, marks = result["losses"], result["epochs"]
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(losses) + 1), losses, linewidth=1)
    left.set(xlabel="step", ylabel="loss")
    right.plot(range(len(marks)), marks, marker="o")
    right.axvline(result["best"], color="grey", linestyle=":")
    right.set(xlabel="round", ylabel="mark", xticks=range(len(marks)))
    figure.savefig(path, dpi=120)
    return True
