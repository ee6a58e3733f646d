"""`memedit eval`: any methods on any data, scored after all edits, through the router, in free generation."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit import __version__
from memedit.cli._deciding import deciding, scope_option
from memedit.cli._group import (
    check_output,
    counted,
    false_fire_option,
    model_options,
    print_json,
    settings_option,
)
from memedit.cli.report import check_report, report_of, report_option
from memedit.errors import BadRecord, DataError, MemeditError

if TYPE_CHECKING:
    from memedit.evaluation import Evaluation, Job, Record
    from memedit.evaluation.suites import Suite
    from memedit.lm import HFModel


def _listed(ctx: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """Words between commas, each once."""
    return tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))


def _sizes(ctx: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Numbers of edits between commas, each once."""
    words = _listed(ctx, option, value)
    if not all(word.isdecimal() and int(word) for word in words):
        raise click.BadParameter(f"{value!r}: write numbers of edits, such as 1000,10000")
    return tuple(int(word) for word in words)


TRIALS = ("pushback", "pitfalls", "erasure", "opinions")  # suites with a course, and a command, of their own


@click.group("eval", invoke_without_command=True)
@click.option(
    "--data",
    multiple=True,
    metavar="FILE",
    help="A data set in any format that `import` reads; may be repeated.",
)
@click.option(
    "--suite",
    metavar="NAME",
    help="A named set of runs: small (a few cases of every format), pitfalls, pushback, erasure, opinions.",
)
@click.option("--limit", "--edits", "limit", type=click.IntRange(min=1), metavar="N",
              help="Take the first so many cases of each set.  [default: all]")  # fmt: skip
@click.option("--split", type=click.Choice(["dev", "train", "all"]), default="all", show_default=True,
              help="The part of each set that the splits.json beside it gives.")  # fmt: skip
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Leave out records that can't be taken (each is named), and score the rest.",
)
@click.option("--method", metavar="NAME[,NAME]",
              help="Editing methods; also none (the unedited base), oracle or oracle:METHOD (the right edit always fires).  "
              "[default: ice]")  # fmt: skip
@settings_option
@click.option("--mode", "modes", default="all", show_default=True, metavar="MODE[,MODE]", callback=_listed,
              help="all edits made, then all questions; single (each case alone); batch:N; sequential (asked after each, "
              "and after all).  Several are scored side by side.")  # fmt: skip
@click.option("--merged", is_flag=True,
              help="Write the edits one after another into a copy's weights, as the literature does; with --routed, "
              "both.")  # fmt: skip
@click.option(
    "--routed", is_flag=True, help="Edits in a memory, every question through the router.  [default]"
)
@click.option("--fill", "fills", metavar="N[,N]", default="", callback=_sizes,
              help="Fill the memory up with edits of other data, so that it holds so many; of several sizes each.")  # fmt: skip
@click.option("--folder", envvar="MEMEDIT_DATA", show_envvar=True, type=click.Path(file_okay=False, path_type=Path),
              metavar="DIR", help="The public data sets with splits.json, for --suite and --fill.  "
              "[default: where --data is]")  # fmt: skip
@click.option("--unrelated", metavar="FILE", help="General questions whose output must not change.")
@click.option(
    "--questions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of each sort of a case's questions at most so many.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--sampled", type=click.IntRange(min=1), metavar="N",
              help="For fluency also draw N tokens (top-k 5, as ROME; it takes 100) after each edit's prompt.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="For intervals, and for the order of --fill."
)
@click.option("--drift", is_flag=True, help="Also measure perplexity, shipped questions, and KL to the base.")
@click.option("--no-forced", is_flag=True, help="Leave teacher-forced scores out: a third of the time.")
@click.option(
    "--memory",
    metavar="DIR",
    help="Keep the memory there (one data set, --mode all).  [default: a temporary one]",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE",
              help="Write scores and every single answer; a stopped run goes on when the command is given again.")  # fmt: skip
@report_option
@click.option("--fresh", is_flag=True, help="Begin anew, whatever FILE holds.")
@click.option("--details", is_flag=True, help="Print every score, by label, with its interval.")
@model_options
@false_fire_option
@scope_option
@click.pass_context
def eval_(ctx: click.Context, **given: Any) -> None:
    """Score editing methods: all edits made, every question through the router, greedy free generation, the unedited
    base beside it.

    `memedit eval scope` scores the router's decisions alone, on all development sets.

    \b
    Examples:
      memedit eval --data counterfact-val.json --edits 1000 --unrelated nq_open_dev_clean.jsonl --json run.json
      memedit eval --data counterfact-val.json --limit 200 --method none,ice,ike,oracle --set ike.k=8 --report report
      memedit eval --data wiki_recent_train.json --split dev --method ice --fill 1000,10000 --folder ../shared/data
      memedit eval --data known.jsonl --limit 100 --method rome --routed --merged --mode batch:1,batch:10,all
      memedit eval --data known.jsonl --limit 100 --method rome,ft-m --merged --mode sequential --drift
      memedit eval --suite small --folder ../shared/data
      memedit eval --suite pitfalls --folder ../shared/data --limit 50
      memedit eval scope --data ../shared/data --limit 100
    """
    if ctx.invoked_subcommand is not None:
        return
    if not given["data"] and not given["suite"]:
        raise click.UsageError("Missing option '--data'.", ctx)
    if given["data"] and given["suite"]:
        raise click.UsageError("--suite names its own data: leave --data out, or --suite.", ctx)
    check_output(given["json_file"])
    check_report(given["report"])
    if given["suite"] in TRIALS:
        from memedit.cli.trials import as_suite

        return as_suite(ctx, given)
    if given["suite"]:
        from memedit.cli._trial import OF_JOBS, refuse_others

        refuse_others(ctx, given["suite"], OF_JOBS)
    ways = tuple(way for way in ("routed", "merged") if given[way]) or ("routed",)
    if given["memory"] and "merged" in ways:
        raise click.UsageError("--merged writes into weights and has no memory: leave --memory out", ctx)
    if given["memory"] and (
        given["suite"] or given["modes"] != ("all",) or len(given["fills"]) > 1 or len(given["data"]) != 1
    ):
        raise click.UsageError(
            "--memory keeps one data set's memory, routed, in --mode all: leave it out", ctx
        )
    made = _suite(given) if given["suite"] else _named(given, ways)
    for name, why in made.skipped:
        click.echo(f"left out {name}: {why}", err=True)
    if not made.jobs:
        raise DataError("nothing is left to score; see what was left out, above")
    _evaluated(given, made)
    if made.broken:
        raise DataError(f"left out, though the file is there: {', '.join(made.broken)}; see why, above")


def _methods(given: dict[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (given["method"] or "").split(",") if name.strip()))


def _suite(given: dict[str, Any]) -> Suite:
    from memedit.evaluation.suites import suite

    if given["folder"] is None:
        raise DataError("a suite needs the folder of the data sets: name it by --folder, or set MEMEDIT_DATA")
    return suite(given["suite"], given["folder"], given["limit"], _methods(given))


def _named(given: dict[str, Any], ways: Sequence[str]) -> Suite:
    """The jobs of --data, --method, --mode, --routed and --merged; checked before any data is read.

    Raises:
        MemeditError: no such method or mode, or one that can't be merged.
    """
    from memedit.evaluation import DataSet, Job, load
    from memedit.evaluation.run import NONE
    from memedit.evaluation.suites import Suite

    names = _methods(given) or ("ice",)
    nothing = DataSet("", "", "", "", "", (), 0)
    modes = given["modes"] or ("all",)
    for name, way, mode in product(names, ways, modes):
        Job(nothing, name, way, mode)
    pairs = [
        (name, way)
        for way in ways
        for name in names
        if way == "routed" or mergeable(name, alone=len(ways) == 1)
    ]
    try:
        sets = [
            load(path, given["split"], given["limit"], modes != ("single",), given["skip_bad"])
            for path in given["data"]
        ]
    except BadRecord as error:
        raise DataError(f"{error} Mend the record, or leave such ones out by --skip-bad.") from error
    for data in sets:
        for where, reason in data.refused:
            click.echo(f"left out {data.file} {where}: {reason}", err=True)
    if len({data.name for data in sets}) < len(sets):
        raise DataError(
            "two of the data sets have the same file name, by which they are told apart: rename one"
        )
    jobs = [
        Job(data, name, way, mode, fill)
        for data, (name, way), mode in product(sets, pairs, modes)
        for fill in (given["fills"] or (0,) if way == "routed" and name != NONE else (0,))
    ]
    return Suite(tuple(jobs), most=given["questions"])


def mergeable(name: str, alone: bool) -> bool:
    """Whether a method changes weights; beside --routed, those that don't are only routed.

    Raises:
        MethodError: it does not, and merging is all that is asked for.
    """
    from memedit.errors import MethodError
    from memedit.evaluation.run import NONE
    from memedit.methods import load_method
    from memedit.methods.patched import PatchMethod

    if name == NONE:
        return alone
    if isinstance(load_method(name), PatchMethod):
        return True
    if alone:
        raise MethodError(
            f"{name} changes no weights, so that there is nothing to merge; take rome, memit, ft-m or lora"
        )
    return False


def _evaluated(given: dict[str, Any], made: Suite) -> None:
    """Run the jobs, or show what a finished file holds; print the tables."""
    from memedit.cli._scores import show_run_file
    from memedit.data import read_prompts
    from memedit.drift import Standard
    from memedit.evaluation import Evaluation, Options, Record
    from memedit.lm import HFModel

    general = read_prompts(given["unrelated"]) if given["unrelated"] else []
    _check_memory(given)
    base = HFModel.from_pretrained(given["model"], device=given["device"], dtype=given["dtype"])
    record = Record(given["json_file"], _setting(given, made, base, general), given["fresh"])
    if record.finished is not None:
        click.echo(f"{given['json_file']} is this very run, finished; --fresh asks all anew", err=True)
        show_run_file(record.finished, given["details"])
        report_of(record.finished, given["report"])
        return
    if record.resumed:
        click.echo(f"going on with the run that was stopped: {record.resumed:,} batches are there", err=True)
    _too_long(made.jobs, base, given["max_new_tokens"])
    options = Options(
        settings=given["settings"], general=general, most=made.most, max_new_tokens=given["max_new_tokens"],
        sampled=given["sampled"] or 0,
        batch_size=given["batch_size"], seed=given["seed"], teacher=not given["no_forced"],
        standard=Standard.of() if given["drift"] else None, false_fire_rate=given["false_fire_rate"],
        opening=deciding(given["scope"], given["device"]), folder=_folder(given), memory=given["memory"],
    )  # fmt: skip
    try:
        with _bar() as bar:
            evaluation = Evaluation(base, record, options, bar)
            document = _document(given, made.jobs, base, record, evaluation)
        record.finish(document)
    finally:
        record.close()
    if given["json_file"] == "-":
        print_json(document)
    else:
        show_run_file(document, given["details"])
    report_of(document, given["report"])


def _too_long(jobs: Sequence[Job], base: HFModel, most: int) -> None:
    """Say of which targets so many new tokens are too few: no method could be right there."""
    for data in {job.data.name: job.data for job in jobs}.values():
        asked = [
            q.answers for case in data.cases for q in case.queries if q.kind == "edit" and any(q.answers)
        ]
        spaced = [[f" {answer}" for answer in answers] for answers in asked]
        long = sum(min(map(len, base.tokenizer(own)["input_ids"])) > most for own in spaced)
        if long:
            click.echo(
                f"{long:,} of {counted(len(asked), 'target')} of {data.name} can't be said in --max-new-tokens {most}, "
                "and count as misses", err=True,
            )  # fmt: skip


def _document(
    given: dict[str, Any], jobs: Sequence[Job], base: HFModel, record: Record, evaluation: Evaluation
) -> dict[str, Any]:
    """The run file, all jobs made."""
    from memedit.bench.measured import machine
    from memedit.evaluation import FORMAT
    from memedit.evaluation.goals import judged

    command = "memedit " + shlex.join(sys.argv[1:]) if sys.argv[1:2] == ["eval"] else "memedit eval"
    about = {
        "format": FORMAT, "memedit": __version__, "command": command, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(), "seed": given["seed"],
        "model": {"name": given["model"], "digest": base.fingerprint,
                  "parameters": sum(p.numel() for p in base.model.parameters())},
        "decoding": {"max_new_tokens": given["max_new_tokens"], "greedy": True, "sampled": given["sampled"] or 0},
        "data": list({job.data.name: job.data.to_dict() for job in jobs}.values()),
    }  # fmt: skip
    if len(jobs) > 1:

        def told(run: dict[str, Any]) -> None:
            wrong = f", failed on {counted(len(run['failed']), 'case')}" if run["failed"] else ""
            click.echo(
                f"{run['method']} on {run['data']}, {run['way']}, {run['mode']}, {run['when']}: "
                f"{counted(len(run['answers']), 'answer')} in {sum(run['seconds'].values()):.0f} s{wrong}", err=True,
            )  # fmt: skip
    else:
        told = None  # type: ignore[assignment]
    runs = evaluation.run(jobs, told)
    made = {**about, "setting": record.setting, "runs": runs}
    return {**made, "goals": judged(made)}


def _setting(given: dict[str, Any], made: Suite, base: HFModel, general: Sequence[str]) -> dict[str, Any]:
    """All that the answers depend on: with another of these, a file is another run's."""
    kept = ("model", "dtype", "settings", "max_new_tokens", "sampled", "batch_size", "seed", "drift", "no_forced",
            "false_fire_rate", "scope", "memory")  # fmt: skip
    return {
        "memedit": __version__, "base": base.fingerprint, **{name: given[name] for name in kept},
        "questions": made.most, "unrelated": hashlib.sha256("\n".join(general).encode()).hexdigest() if general else None,
        "jobs": [
            [job.data.name, job.data.sha256, job.data.split, len(job.data.cases), job.method, job.way, job.mode, job.fill]
            for job in made.jobs
        ],
    }  # fmt: skip


def _check_memory(given: dict[str, Any]) -> None:
    """Refuse to score a memory that others use.

    Raises:
        MemeditError: it holds edits.
    """
    from memedit.memory import EditMemory

    if not given["memory"] or not Path(given["memory"]).is_dir():
        return
    work = Path(given["json_file"] or "-").resolve()
    if work.with_name(f".{work.name}.work").is_dir() and not given["fresh"]:
        return  # a stopped run's own
    with EditMemory.open(given["memory"], readonly=True) as memory:
        if len(memory):
            raise MemeditError(
                f"{given['memory']} holds edits already; evaluation wants a memory of its own: name an empty folder"
            )


def _folder(given: dict[str, Any]) -> Path | None:
    """Of the public data sets.

    Raises:
        DataError: edits of other data are asked for, and nobody says where those are.
    """
    if given["folder"] is not None or not given["fills"]:
        return given["folder"]
    above = [
        p for path in given["data"] for p in Path(path).resolve().parents if (p / "splits.json").is_file()
    ]
    if not above:
        raise DataError(
            "--fill needs the folder of the public data sets: name it by --folder, or set MEMEDIT_DATA"
        )
    return above[0]


@contextmanager
def _bar() -> Iterator[Any]:
    """A bar on standard error that says what is under way and how much is left; where nobody looks on, none."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
