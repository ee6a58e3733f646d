"""A data set as it is scored: the cases of a file, or of that part of it which splits.json gives to training or development."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memedit.data import Case, Query, read_set
from memedit.errors import DataError
from memedit.metrics import normalise


@dataclass(frozen=True)
class DataSet:
    """The cases of one file.

    Attributes:
        left_out: cases that contradict an earlier one, or only repeat it, and records that can't be taken.
        refused: those records, as (place, reason). edited: locality questions left out, since they are, word for word,
            another edit's own prompt: its answer is asked for, and not what was said before.
    """

    name: str
    file: str
    format: str
    sha256: str
    split: str
    cases: tuple[Case, ...]
    left_out: int
    refused: tuple[tuple[str, str], ...] = ()
    edited: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What a run file says of it."""
        return {
            "name": self.name, "file": self.file, "sha256": self.sha256, "format": self.format, "split": self.split,
            "cases": len(self.cases), "edits": sum(len(c.edits) for c in self.cases), "left_out": self.left_out,
            "questions_left_out": self.edited,
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
    cases = _still_neighbours(found.cases) if together else found.cases
    edited = sum(len(a.queries) - len(b.queries) for a, b in zip(found.cases, cases, strict=True))
    refused = tuple(found.refused)
    return DataSet(
        name, str(path), found.format, digest, split, tuple(cases), found.left_out, refused, edited
    )


def _still_neighbours(cases: list[Case]) -> list[Case]:
    """The cases without locality questions that an edit of the set answers in its own words."""
    asked = {normalise(edit.prompt) for case in cases for edit in case.edits if edit.prompt}

    def stays(query: Query) -> bool:
        return query.kind != "locality" or normalise(query.prompt) not in asked

    return [replace(case, queries=tuple(filter(stays, case.queries))) for case in cases]


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
