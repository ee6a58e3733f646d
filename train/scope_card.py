"""The card of a trained scope classifier: what it was made of, and what the training saw. Written beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memedit.memory.snapshot import write_durably

MARK = "<!-- written by train/scope.py -->"
TAIL = 60  # steps that a loss is the mean of, as in the curve


def put(folder: Path, card: str) -> Path:
    """A card as README.md in the folder; as training.md where a README.md lies that a person wrote. Returns which."""
    readme = folder / "README.md"
    mine = not readme.exists() or MARK in readme.read_text(encoding="utf-8")
    path = readme if mine else folder / "training.md"
    write_durably(path, card.encode())
    return path


def text(
    folder: Path,
    about: Mapping[str, Any],
    losses: Mapping[str, Sequence[float]],
    made: Mapping[str, Any],
    curve: str,
) -> str:
    """The card in Markdown.

    Args:
        about: settings, with the data files' sha256 as "data". losses: of the steps, by stage. made: the classifier's
            settings, for the calibration. curve: the file name of the losses' figure.
    """
    lines = [
        MARK,
        "# A scope classifier",
        "",
        "Made by `python -m train.scope`. Load it with `--scope` or",
        "",
    ]
    lines += [
        "```python",
        "ScopeClassifier.load(FOLDER)",
        "```",
        "",
        "## Data",
        "",
        "| file | sha256 |",
        "|---|---|",
    ]
    lines += [f"| {name} | `{digest}` |" for name, digest in about["data"].items()]
    lines += ["", "## Settings", ""]
    lines += [f"- {name}: {value}" for name, value in about.items() if name != "data"]
    lines += ["", "## Loss", "", f"Cross entropy of the pair model, mean of {TAIL} steps.", ""]
    lines += ["| stage | steps | first | last |", "|---|--:|--:|--:|"]
    lines += [
        f"| {stage} | {len(some):,} | {_mean(some[:TAIL])} | {_mean(some[-TAIL:])} |"
        for stage, some in losses.items()
    ]
    lines += ["", f"![The loss against the pairs read]({curve})", "", "## Calibration", ""]
    lines += [
        "On relations that neither pair model nor trees learned from: slope and shift of each sigmoid.",
        "",
    ]
    lines += ["| trees | slope | shift |", "|---|--:|--:|"]
    lines += [f"| {kind} | {slope:.4f} | {shift:.4f} |" for kind, (slope, shift) in made["platt"].items()]
    lines += ["", *_thresholds(made["thresholds"]), "", "## Scores", ""]
    command = f"memedit eval scope --classifier {folder} --data DATA --report DIR"
    lines += ["The table over the development sets (scope.md) is made by", "", f"    {command}", ""]
    return "\n".join(lines)


def _thresholds(found: Mapping[str, Any]) -> list[str]:
    """Logits from which an edit fires: of each size of memory, and the floor, by the rate of false fires."""
    rates = [f"{rate:g}" for rate in found["rates"]]
    lines = ["Logits from which an edit fires, by the share of general questions that may fire falsely:", ""]
    lines += ["| edits | " + " | ".join(rates) + " |", "|--:|" + "--:|" * len(rates)]
    rows = [
        *((f"{n:,}", row) for n, row in zip(found["sizes"], found["logits"], strict=True)),
        ("never below", found["floors"]),
    ]
    return lines + [f"| {name} | " + " | ".join(f"{x:.3f}" for x in row) + " |" for name, row in rows]


def _mean(some: Sequence[float]) -> str:
    return f"{sum(some) / len(some):.4f}" if some else ""
