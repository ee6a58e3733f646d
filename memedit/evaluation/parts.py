"""One run of a suite in parts: a batch that was answered is kept at once, and a case that fails fails alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from memedit.evaluation.asking import said

if TYPE_CHECKING:
    from memedit.edited import EditedModel
    from memedit.evaluation.record import Record
    from memedit.router import Route

Progress = Callable[[int, int], None]
Row = dict[str, Any]
Item = TypeVar("Item")


class Parts:
    """What a run asks, batch by batch.

    Args:
        record: keeps every part, so that a stopped run goes on; None keeps nothing. data, method, way: the run's.
        progress: is called with (done, total); `total` is the run's to set.

    Attributes:
        seconds: that the parts took, those of earlier processes counted. failed: what went wrong beside single cases.
    """

    def __init__(
        self, record: Record | None = None, data: str = "", method: str = "", way: str = "", progress: Progress | None = None
    ) -> None:  # fmt: skip
        self.record, self.data, self.progress = record, data, progress
        self.key = f"{data}/{method}/{way}"
        self.seconds, self.done, self.total = 0.0, 0, 0
        self.failed: list[dict[str, str]] = []

    def base(self) -> Parts:
        """The parts that all runs on the same data share."""
        return Parts(self.record, self.data, "base", "", self.progress)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What was kept under a name, else what is made now, as plain JSON types in both cases."""
        key = f"{self.key}/{name}"
        entry = self.record.get(key) if self.record else None
        if entry is None:
            start = time.perf_counter()
            found = json.loads(json.dumps(make()))
            entry = {"found": found, "seconds": round(time.perf_counter() - start, 3)}
            if self.record:
                self.record.put(key, entry)
        self.seconds += entry["seconds"]
        return entry["found"]

    def asked(
        self, name: str, items: Sequence[Item], size: int, ask: Callable[[Sequence[Item]], list[Row]],
        failed: Callable[[Item, str], Row], weight: int = 1,
    ) -> list[Row]:  # fmt: skip
        """A row for each item, in batches that are kept.

        Where a batch fails, its items are asked one by one, and each that fails again gets the row of a failure.

        Args:
            ask: rows of some items. failed: the row of an item that failed, and why. weight: of an item in the progress.
        """
        out: list[Row] = []
        for start in range(0, len(items), size):
            some, before = items[start : start + size], self.done

            def make(some: Sequence[Item] = some) -> list[Row]:
                return _rows(some, ask, failed)

            out += self.kept(f"{name}/{start // size}", make)
            self.more(before + weight * len(some) - self.done)
        return out

    def more(self, count: int) -> None:
        """So much more is done."""
        self.done += count
        if self.progress:
            self.progress(self.done, max(self.total, self.done))


def _rows(
    items: Sequence[Item], ask: Callable[[Sequence[Item]], list[Row]], failed: Callable[[Item, str], Row]
) -> list[Row]:
    try:
        return ask(items)
    except Exception as error:  # whatever a method stumbles on is its failure, to be counted; the run goes on
        if len(items) == 1:
            return [failed(items[0], said(error))]
        return [row for item in items for row in _rows([item], ask, failed)]


def failures(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The cases among rows that have an "error", each with its first, as a run file has them."""
    found: dict[str, str] = {}
    for row in rows:
        if row.get("error"):
            found.setdefault(row["case"], row["error"])
    return [{"case": case, "error": error} for case, error in found.items()]


def salvaged(model: EditedModel, prompt: str, options: Mapping[str, Any]) -> tuple[Route | None, str]:
    """Of a question that failed, the verdict and the base's answer, as far as those can be had."""
    route, base = None, ""
    with suppress(Exception):
        (route,) = model.route([prompt])
    with suppress(Exception):
        (base,) = model.base.generate([prompt], **options)
    return route, base
