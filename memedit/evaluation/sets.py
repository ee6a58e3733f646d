"""A data set as it is scored: the cases of a file, or of that part of it which splits.json gives to training or development."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.data import Case, read_placed
from memedit.data.formats import about
from memedit.errors import DataError

SPLITS = ("dev", "train", "all")


@dataclass(frozen=True)
class DataSet:
    """The cases of one file.

    Attributes:
        left_out: cases that contradict an earlier one, or only repeat it.
    """

    name: str
    file: str
    format: str
    sha256: str
    split: str
    cases: tuple[Case, ...]
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """What a run file says of it."""
        return {
            "name": self.name, "file": self.file, "sha256": self.sha256, "format": self.format, "split": self.split,
            "cases": len(self.cases), "edits": sum(len(c.edits) for c in self.cases), "left_out": self.left_out,
        }  # fmt: skip


def load(path: str, split: str = "all", limit: int | None = None) -> DataSet:
    """Read a file's cases.

    Left out are cases that contradict an earlier one, since no answer could be right for both, and those whose only edit
    was there already, unless they ask what follows from it together with others.

    Raises:
        DataError: unreadable, of no known format, a record that can't be taken (named), a part without rows, or no case.
    """
    where = Path(path)
    rows = part(where, split)
    name, found = read_placed(path)
    cases: list[Case] = []
    known: dict[str, str | None] = {}
    left_out = 0
    for number, (place, case) in enumerate(found):
        if limit is not None and len(cases) >= limit:
            break
        if rows is not None and number not in rows:
            continue
        if isinstance(case, DataError):
            raise DataError(f"{path} {place}: " + str(case).removeprefix(f"{place}: "))
        targets = {key: edit.target for edit in case.edits for key in about(edit)}
        against = any(known.get(key, target) != target for key, target in targets.items())
        repeated = len(case.edits) == 1 and about(case.edit)[0] in known
        if against or (repeated and all(q.kind != "multi-hop" for q in case.queries)):
            left_out += 1
            continue
        cases.append(case)
        known.update(targets)
    if not cases:
        raise DataError(f"{path} holds no case" + ("" if split == "all" else f" in its {split} part"))
    _check_targets(path, cases)
    digest = hashlib.sha256(where.read_bytes()).hexdigest() if where.is_file() else ""
    return DataSet(where.name.removesuffix(".gz").rpartition(".")[0] or where.name, str(path), name, digest, split,
                   tuple(cases), left_out)  # fmt: skip


def _check_targets(path: str, cases: list[Case]) -> None:
    """Refuse a set of which nothing could be scored.

    Raises:
        DataError: no edit has a target, and no query an answer.
    """
    said = any(q.answers or q.kind in ("locality", "old") for c in cases for q in c.queries)
    if not said and not any(e.target or e.kind == "erase" for c in cases for e in c.edits):
        raise DataError(
            f"{path} has no targets and no answers, so that nothing can be scored; give each edit a target"
        )


def part(path: Path, split: str) -> frozenset[int] | None:
    """The rows (from 0) of a part of a file by the splits.json beside it or above it; None for all of them.

    Raises:
        DataError: there is no splits.json, or it has no such rows.
    """
    if split == "all":
        return None
    home = next((p for p in path.resolve().parents if (p / "splits.json").is_file()), None)
    if home is None:
        raise DataError(
            f"there is no splits.json beside {path} or above it: leave --split out, or take --split all"
        )
    try:
        told = json.loads((home / "splits.json").read_text(encoding="utf-8"))
        name = path.resolve().relative_to(home).as_posix()
        if any(Path(name).match(one) for one in told.get(f"{split}_only", ())):
            return None
        rows = frozenset(told[name][split])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{home / 'splits.json'} has no rows of {path.name} for the part {split}") from None
    if not rows:
        raise DataError(
            f"the part {split} of {path.name} is empty in {home / 'splits.json'}; take another --split"
        )
    return rows
