"""How far a training is, on the terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """One bar for each stage, on stderr; without a terminal a line for every tenth of a stage.

    Args:
        quiet: say nothing (all processes but one).
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._live, self._quiet = console.is_terminal and not quiet, quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console, disable=not self._live)
        self._tasks: dict[str, Any] = {}
        self._said: dict[str, int] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def loss(self, done: int, all_: int, loss: float) -> None:
        """A step of the pair model's training."""
        self.step("pair model", done, all_, f", loss {loss:.3f}")

    def settling(self, done: int, all_: int, loss: float) -> None:
        """A step of its last round."""
        self.step("pair model, all relations", done, all_, f", loss {loss:.3f}")

    def step(self, what: str, done: int, all_: int, more: str = "") -> None:
        """A stage and how far it is."""
        if self._quiet:
            return
        if self._live:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=all_)
            self._bars.update(self._tasks[what], completed=done, total=all_, description=what + more)
        elif self._said.get(what) != (tenth := 10 * done // max(all_, 1)):
            self._said[what] = tenth
            print(f"{what}: {done:,} of {all_:,}{more}", file=sys.stderr, flush=True)
