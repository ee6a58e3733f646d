"""A data set as it is scored: the cases of a file, or of that part of it which splits.json gives to training or development."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.data import Case, read_set
from memedit.errors import DataError


@dataclass(frozen=True)
class DataSet:
    """The cases of one file.

    Attributes:
        left_out: cases that contradict an earlier one, or only repeat it, and records that can't be taken.
        refused: those records, as (place, reason).
    """

    name: str
    file: str
    format: str
    sha256: str
    split: str
    cases: tuple[Case, ...]
    left_out: int
    refused: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What a run file says of it."""
        return {
            "name": self.name, "file": self.file, "sha256": self.sha256, "format": self.format, "split": self.split,
            "cases": len(self.cases), "edits": sum(len(c.edits) for c in self.cases), "left_out": self.left_out,
        }  # fmt: skip


def load(
    path: str, split: str = "all", limit: int | None = None, together: bool = True, skip_bad: bool = False
) -> DataSet:
    """Read a file's cases; what is left out where all are in memory together, see `read_set`.

    Args:
        together: False keeps cases that contradict one another, for runs that have each alone in memory.
        skip_bad: leave out records that can't be taken, and count them; else they are refused.

    Raises:
        DataError: unreadable, of no known format, a record that can't be taken (named), a part without rows, or no case.
    """
    found = read_set(path, limit, None, None if split == "all" else split, skip_bad, together)
    _check_targets(path, found.cases)
    where = Path(path)
    digest = hashlib.sha256(where.read_bytes()).hexdigest() if where.is_file() else ""
    name = where.name.removesuffix(".gz").rpartition(".")[0] or where.name
    cases, refused = tuple(found.cases), tuple(found.refused)
    return DataSet(name, str(path), found.format, digest, split, cases, found.left_out, refused)


def told(path: str, name: str, format: str, cases: int, edits: int, left_out: int) -> dict[str, Any]:
    """What a run file says of a file that has no `DataSet`; the same words as `DataSet.to_dict`."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""
    return {"name": name, "file": path, "sha256": digest, "format": format, "split": "all", "cases": cases, "edits": edits,
            "left_out": left_out}  # fmt: skip


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
