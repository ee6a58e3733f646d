"""What the evaluations with a course of their own share: options, the base, memories that go away, the run file."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from memedit import __version__
from memedit.cli._deciding import deciding, scope_option
from memedit.cli._group import (
    check_output,
    console,
    counted,
    false_fire_option,
    model_options,
    print_json,
    print_table,
    progress,
    settings_option,
)
from memedit.cli.report import check_report, report_of, report_option
from memedit.errors import DataError

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.edited import EditedModel
    from memedit.evaluation.parts import Parts
    from memedit.lm import HFModel

Run = dict[str, Any]

# What a suite of jobs takes; which data, ways and modes there are is its own to say.
OF_JOBS = (
    "limit", "method", "routed", "settings", "unrelated", "max_new_tokens", "sampled", "batch_size", "seed", "drift",
    "no_forced", "json_file", "report", "fresh", "details", "model", "device", "dtype", "false_fire_rate", "scope", "memory",
)  # fmt: skip


def shared(command: Any) -> Any:
    """The options of all four."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap intervals."),
        click.option("--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE",
                     help="Write the run file: scores and every single answer; a stopped run goes on when the command is "
                     "given again."),
        click.option("--fresh", is_flag=True, help="Begin anew, whatever FILE holds."),
        report_option,
        click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True),
        scope_option, false_fire_option, settings_option, model_options,
    ):  # fmt: skip
        command = option(command)
    return command


def names(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (value or "").split(",") if part.strip()))


def check_methods(methods: Sequence[str], merged: Sequence[str] = ()) -> None:
    """Refuse what a trial can't ask, before any work.

    Raises:
        DataError: none or oracle. MethodError: no such method, or one to merge that changes no weights.
    """
    from memedit.cli.evaluate import mergeable
    from memedit.methods import method_info

    for name in (*methods, *merged):
        if name.partition(":")[0] in ("none", "oracle"):
            raise DataError(
                f"{name} is no method of a suite that asks the unedited base in any case, and routes: leave it out"
            )
        method_info(name)
    for name in merged:
        mergeable(name, alone=True)


def refuse_others(ctx: click.Context, suite: str, taken: Sequence[str]) -> None:
    """Refuse options that a suite has no use for.

    Raises:
        UsageError: one of them was given.
    """
    for option in ctx.command.params:
        name = str(option.name)
        source = ctx.get_parameter_source(name)
        if source == ParameterSource.COMMANDLINE and name not in ("suite", "folder", *taken):
            raise click.UsageError(f"--suite {suite} has no use for {option.opts[0]}: leave it out", ctx)


class Trial:
    """What the four share: the base, memories of their own, and the run file with its journal.

    Args:
        own: the trial's options beside the shared ones, as the setting of the run file has them.

    Attributes:
        runs: what was found, as the run file has it. data: what it was found on. record: see `begin`.
    """

    def __init__(self, options: dict[str, Any], **own: Any) -> None:
        check_output(options["json_file"])
        check_report(options["report"])
        from memedit.evaluation.record import Record
        from memedit.lm import HFModel

        self.options, self.own, self.runs, self.data = options, own, list[Run](), list[dict[str, Any]]()
        self.base: HFModel = HFModel.from_pretrained(
            options["model"], device=options["device"], dtype=options["dtype"]
        )
        self.record: Record

    @contextmanager
    def begun(self, title: str, asked: Any, max_new_tokens: int) -> Iterator[bool]:
        """The run file opened: whether there is anything to do. One that is finished is shown.

        Args:
            title: for people. asked: all that is asked, in plain types or tuples; a file of other questions is refused.

        Raises:
            DataError: the file, or the unfinished run beside it, has other settings.
        """
        from memedit.evaluation.record import Record

        o = self.options
        self.title, self.tokens = title, max_new_tokens
        kept = ("model", "dtype", "settings", "batch_size", "seed", "false_fire_rate", "scope")
        setting = {
            "memedit": __version__, "base": self.base.fingerprint,
            **{name: o[name] for name in kept}, **self.own,
            "max_new_tokens": max_new_tokens, "data": [[one["name"], one["sha256"], one["cases"]] for one in self.data],
            "asked": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        }  # fmt: skip
        self.record = Record(o["json_file"], setting, o["fresh"])
        if self.record.finished is not None:
            click.echo(f"{o['json_file']} is this very run, finished; --fresh asks all anew", err=True)
            self._show(self.record.finished)
            yield False
            return
        if self.record.resumed:
            click.echo(
                f"going on with the run that was stopped: {counted(self.record.resumed, 'part')} are there",
                err=True,
            )
        try:
            yield True
        finally:
            self.record.close()

    @contextmanager
    def parts(self, data: str, method: str, way: str) -> Iterator[Parts]:
        """What keeps a run's parts, with a bar on standard error."""
        from memedit.evaluation.parts import Parts

        with progress(f"{data}, {method}, {way}") as bar:
            yield Parts(self.record, data, method, way, bar)

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
        self, parts: Parts, data: str, method: str, way: str, edits: int, scores: Any, answers: Sequence[Run], **more: Any
    ) -> None:  # fmt: skip
        """A run that is done; its failures are said."""
        from memedit.evaluation.parts import failures

        failed = failures(answers) + parts.failed
        self.runs.append(
            {"data": data, "method": method, "settings": self.options["settings"].get(method, {}), "way": way,
             "when": "after-all", "edits_in_memory": edits, "seconds": {"generating": round(parts.seconds, 3)},
             "scores": scores, "drift": None, "failed": failed, **more, "answers": answers}
        )  # fmt: skip

    def done(self, **more: Any) -> None:
        """Write the run file, and print the scores."""
        from memedit.bench.measured import machine
        from memedit.evaluation.goals import judged

        o = self.options
        model = {"name": o["model"], "digest": self.base.fingerprint,
                 "parameters": sum(p.numel() for p in self.base.model.parameters())}  # fmt: skip
        found = {
            "format": 1, "memedit": __version__, "command": "memedit " + shlex.join(sys.argv[1:]),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S"), "machine": machine(), "seed": o["seed"], "model": model,
            "decoding": {"max_new_tokens": self.tokens, "greedy": True}, "setting": self.record.setting,
            "data": self.data, **more, "runs": self.runs,
        }  # fmt: skip
        found["goals"] = judged(found)
        self.record.finish(found)
        self._show(found)

    def _show(self, found: Mapping[str, Any]) -> None:
        from memedit.cli._scores import show_failures, show_goals

        if self.options["json_file"] == "-":
            print_json(found)
            report_of(found, self.options["report"])
            return
        report_of(found, self.options["report"])
        console().print(f"{self.title}; greedy, model {found['model']['name']}")
        rows = [
            [r["method"], r["way"], s["label"] or s["kind"], s["score"], f"{s['value']:.3f}",
             f"{s['low']:.3f} to {s['high']:.3f}", "" if s["floor"] is None else f"{s['floor']:.3f}", s["n"]]
            for r in found["runs"] for s in r["scores"]
        ]  # fmt: skip
        print_table(["method", "way", "of", "score", "value#", "95 % interval", "unedited#", "n#"], rows)
        show_failures(found["runs"])
        for run in found["runs"]:
            if run["drift"]:
                click.echo(f"drift, {run['method']} {run['way']}, {run['data']}: {_drift(run['drift'])}")
        show_goals(found)
        if "published" in found:
            _published(found["published"])


def _drift(found: Mapping[str, float]) -> str:
    return (
        f"perplexity {found['perplexity_base']:.2f} to {found['perplexity']:.2f}, questions right "
        f"{100 * found['accuracy_base']:.1f} % to {100 * found['accuracy']:.1f} %, {100 * found['changed']:.1f} % of their "
        f"outputs changed, KL to the base {found['kl']:.2g}"
    )


def _published(found: Mapping[str, Any]) -> None:
    at = ", ".join(f"{100 * share:.1f} % at turn {turn}" for turn, share in found["turns"].items())
    click.echo(f"published, {found['what']}: {at} ({found['caveat']})")
