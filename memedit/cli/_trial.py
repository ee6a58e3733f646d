"""What the evaluations with a course of their own share: options, the base, memories that go away, the run file."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from memedit import __version__
from memedit.cli._deciding import deciding, scope_option
from memedit.cli._group import (
    check_output,
    console,
    false_fire_option,
    model_options,
    print_table,
    settings_option,
    write_text,
)
from memedit.cli.report import check_report, report_of, report_option

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.edited import EditedModel
    from memedit.lm import HFModel

Run = dict[str, Any]


def shared(command: Any) -> Any:
    """The options of all four."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap intervals."),
        click.option("--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE",
                     help="Write the run file: scores and every single answer."),
        report_option,
        click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True),
        scope_option, false_fire_option, settings_option, model_options,
    ):  # fmt: skip
        command = option(command)
    return command


def names(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (value or "").split(",") if part.strip()))


class Trial:
    """What the four share: the base, memories of their own, and the run file.

    Attributes:
        runs: what was found, as the run file has it. data: what it was found on.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        check_output(options["json_file"])
        check_report(options["report"])
        from memedit.lm import HFModel

        self.options, self.runs, self.data = options, list[Run](), list[dict[str, Any]]()
        self.base: HFModel = HFModel.from_pretrained(
            options["model"], device=options["device"], dtype=options["dtype"]
        )

    @contextmanager
    def edited(self, edits: Sequence[Edit], method: str) -> Iterator[tuple[EditedModel, list[int]]]:
        """The base with these edits in a memory that goes away, and their ids."""
        from memedit.edited import EditedModel
        from memedit.memory import EditMemory

        o = self.options
        with (
            tempfile.TemporaryDirectory(prefix="memedit-eval-") as folder,
            EditMemory.open(folder, **deciding(o["scope"], o["device"])) as memory,
        ):
            ids = list(memory.add(edits).ids)
            yield (
                EditedModel.from_pretrained(
                    self.base,
                    memory=memory,
                    method=method,
                    false_fire_rate=o["false_fire_rate"],
                    settings=o["settings"],
                ),
                ids,
            )

    def put(
        self, data: str, method: str, way: str, edits: int, start: float, scores: Any, **more: Any
    ) -> None:
        """A run that is done."""
        taken = round(time.perf_counter() - start, 3)
        self.runs.append(
            {"data": data, "method": method, "settings": self.options["settings"].get(method, {}), "way": way,
             "when": "after-all", "edits_in_memory": edits, "seconds": {"generating": taken}, "scores": scores,
             "drift": None, "failed": [], **more}
        )  # fmt: skip

    def done(self, title: str, **more: Any) -> None:
        """Write the run file, and print the scores."""
        from memedit.bench.measured import machine
        from memedit.cli._scores import show_goals
        from memedit.evaluation.goals import judged

        o = self.options
        model = {"name": o["model"], "digest": self.base.fingerprint,
                 "parameters": sum(p.numel() for p in self.base.model.parameters())}  # fmt: skip
        found = {
            "format": 1, "memedit": __version__, "command": "memedit " + shlex.join(sys.argv[1:]),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S"), "machine": machine(), "seed": o["seed"], "model": model,
            "decoding": {"greedy": True}, "setting": {"scope": o["scope"]}, "data": self.data, **more, "runs": self.runs,
        }  # fmt: skip
        found["goals"] = judged(found)
        if o["json_file"]:
            write_text(o["json_file"], json.dumps(found, ensure_ascii=False, indent=1) + "\n")
        report_of(found, o["report"])
        console().print(f"{title}; greedy, model {o['model']}")
        rows = [
            [r["method"], r["way"], s["label"] or s["kind"], s["score"], f"{s['value']:.3f}",
             f"{s['low']:.3f} to {s['high']:.3f}", "" if s["floor"] is None else f"{s['floor']:.3f}", s["n"]]
            for r in self.runs for s in r["scores"]
        ]  # fmt: skip
        print_table(["method", "way", "of", "score", "value#", "95 % interval", "unedited#", "n#"], rows)
        show_goals(found)
