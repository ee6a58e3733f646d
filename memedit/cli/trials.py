"""Evaluations with a course of their own: eval pushback, eval pitfalls, eval erasure, eval opinions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from memedit.cli._deciding import deciding
from memedit.cli._group import progress
from memedit.cli._trial import Trial, names, shared
from memedit.cli.evaluate import eval_
from memedit.errors import DataError


def _many(default: int) -> Any:
    return click.option(
        "--limit", type=click.IntRange(min=1), default=default, show_default=True, help="Cases at most."
    )


_methods = click.option(
    "--method", "methods", callback=names, default="ice", show_default=True, metavar="NAME[,NAME]",
    help="The editing methods that are routed.",
)  # fmt: skip


def _cases(trial: Trial, data: str) -> Any:
    from memedit.data import read_cases

    trial.data.append({"name": Path(data).stem, "file": data})
    return read_cases(data)


@eval_.command()
@click.option("--data", metavar="FILE", help="Facts with their old answers.  [default: invented ones]")
@_many(60)
@_methods
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@shared
def pushback(
    data: str | None, limit: int, methods: tuple[str, ...], max_new_tokens: int, **options: Any
) -> None:
    """Contradict every edit for ten turns of a chat: does it still stand?

    Beside the routed memory: the fact stated once, before the first question, and the unedited base.

    \b
    Examples:
      memedit eval pushback --limit 60
      memedit eval pushback --data counterfact-val.json --limit 100 --json pushback.json
    """
    from memedit.evaluation import pushback as measure

    trial = Trial(options)
    if data:
        facts = measure.doubted(_cases(trial, data), limit)
    else:
        facts = invented(limit)
        trial.data.append({"name": "invented", "file": None})
    name, own = trial.data[0]["name"], {"max_new_tokens": max_new_tokens, "batch_size": options["batch_size"]}
    edits = [fact.edit for fact in facts]
    with trial.edited(edits, methods[0]) as (model, ids):
        ways = [("none", "none"), ("ice", "once"), *((method, "routed") for method in methods)]
        floor: list[dict[str, Any]] = []
        for method, way in ways:
            start, model.router.method = time.perf_counter(), method if way == "routed" else methods[0]
            with progress(f"talking, {way}") as bar:
                talks = measure.talked(model, facts, ids, way, progress=bar, **own)
            floor = floor or talks
            beside = talks[:0] if way == "none" else floor
            found = measure.scores(talks, beside, seed=options["seed"])
            trial.put(name, method, way, len(ids), start, found, mode="chat", transcripts=talks,
                      answers=measure.answers(talks, floor))  # fmt: skip
    trial.done(f"pushback: {len(facts)} edits in memory, contradicted ten times", published=measure.PUBLISHED)
    shares: dict[str, float] = measure.PUBLISHED["turns"]
    at = ", ".join(f"{100 * share:.1f} % at turn {turn}" for turn, share in shares.items())
    click.echo(f"published, {measure.PUBLISHED['what']}: {at} ({measure.PUBLISHED['caveat']})")


def invented(limit: int) -> list[Any]:
    """Facts about invented people; the user insists on another answer of the same sort."""
    from itertools import islice

    from memedit.bench.measured import RELATIONS, invented_edits
    from memedit.evaluation.pushback import Doubted

    asks = (
        "Where was {} born?",
        "Who does {} work for?",
        "What is the mother tongue of {}?",
        "What instrument does {} play?",
    )
    out = []
    for i, edit in enumerate(islice(invented_edits(limit), limit)):
        others = [one for one in RELATIONS[i % 4][1] if one != edit.target]
        question = asks[i % 4].format(edit.subject)
        out.append(Doubted(f"invented-{i}", edit, question, others[i % len(others)]))
    return out


@eval_.command()
@click.option(
    "--data",
    metavar="DIR",
    required=True,
    help="The folder of the published files (coverage_edit.json, ...).",
)
@click.option(
    "--only",
    callback=names,
    metavar="A,B",
    help="Of coverage, reverse, composite, easy, hard.  [default: all]",
)
@_many(50)
@_methods
@click.option(
    "--merged",
    callback=names,
    metavar="NAME[,NAME]",
    help="Methods whose edits are written into weights, for comparison.",
)
@click.option(
    "--forms",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Other forms of each relation that are asked.",
)
@click.option(
    "--drift/--no-drift",
    default=True,
    show_default=True,
    help="Perplexity and questions, with all edits made.",
)
@shared
def pitfalls(
    data: str, only: tuple[str, ...], limit: int, methods: tuple[str, ...], merged: tuple[str, ...], forms: int,
    drift: bool, **options: Any,
) -> None:  # fmt: skip
    """ConflictEdit and RoundEdit: edits that contradict one another, and edits that are taken back by another edit.

    Routed: the edits of all cases of a file in one memory. Merged: each case alone in a copy's weights, as published;
    drift is that of one copy with the edits of all.

    \b
    Examples:
      memedit eval pitfalls --data ../shared/data/pitfalls --limit 100
      memedit eval pitfalls --data pitfalls --only coverage,hard --merged rome,memit --json pitfalls.json
    """
    from memedit.errors import unknown
    from memedit.evaluation import pitfall_cases
    from memedit.evaluation import pitfalls as measure
    from memedit.methods import method_info

    for name in only:
        if name not in pitfall_cases.FILES:
            raise DataError(unknown("set", name, pitfall_cases.FILES))
    for name in (*methods, *merged):
        method_info(name)
    trial = Trial(options)
    drifting = _drifting(trial) if drift else None
    for kind in only or pitfall_cases.FILES:
        read = pitfall_cases.read(Path(data), kind, limit, forms)
        file = str(Path(data) / pitfall_cases.FILES[kind])
        trial.data.append({"name": kind, "file": file, "cases": len(read.cases), "left_out": read.left_out})
        for method, way in [(m, "routed") for m in methods] + [(m, "merged") for m in merged]:
            _pitfall(trial, measure, kind, read.cases, method, way, drifting)
    trial.done(f"pitfalls: at most {limit} cases of each file, two edits in each")
    for run in trial.runs:
        if run["drift"]:
            d = run["drift"]
            click.echo(
                f"drift, {run['method']} {run['way']}, {run['data']}: "
                f"perplexity {d['perplexity_base']:.2f} to {d['perplexity']:.2f}, "
                f"questions right {100 * d['accuracy_base']:.1f} % to {100 * d['accuracy']:.1f} %"
            )


def _drifting(trial: Trial) -> Callable[[Any], dict[str, Any]]:
    from memedit.drift import Standard

    standard = Standard.of(passages=60, questions=60)
    base = standard.measure(trial.base)

    def measured(lm: Any) -> dict[str, Any]:
        after = standard.measure(lm)
        return {"perplexity": after.perplexity, "perplexity_base": base.perplexity, "accuracy": after.accuracy,
                "accuracy_base": base.accuracy, "kl": None}  # fmt: skip

    return measured


def _pitfall(trial: Trial, measure: Any, kind: str, cases: Any, method: str, way: str, drift: Any) -> None:
    o, start = trial.options, time.perf_counter()
    own = {"batch_size": o["batch_size"], "drift": drift}
    if way == "routed":
        with tempfile.TemporaryDirectory(prefix="memedit-eval-") as folder:
            found, drifted = measure.routed(
                trial.base, cases, method, Path(folder), settings=o["settings"],
                opening=deciding(o["scope"], o["device"]), false_fire_rate=o["false_fire_rate"], **own,
            )  # fmt: skip
    else:
        with progress(f"merging, {method}, {kind}") as bar:
            found, drifted = measure.merged(
                trial.base, cases, method, settings=o["settings"].get(method), progress=bar, **own
            )
    failed = [{"case": one.case.case, "error": one.error} for one in found if one.error]
    edits, mode = (2 * len(cases), "all") if way == "routed" else (2, "single")
    more = {"answers": measure.answers(found), "failed": failed, "drift": drifted}
    trial.put(kind, method, way, edits, start, measure.scores(found, o["seed"]), mode=mode, **more)
    if failed:
        click.echo(
            f"{method}, {kind}: {len(failed)} of {len(found)} cases failed, the first: {failed[0]['error']}",
            err=True,
        )


@eval_.command()
@click.option("--data", metavar="FILE", required=True, help="Facts with their old answers.")
@_many(200)
@_methods
@shared
def erasure(data: str, limit: int, methods: tuple[str, ...], **options: Any) -> None:
    """Erase every fact of a data set: is the old answer gone, is a refusal given, is all else as it was?

    \b
    Examples:
      memedit eval erasure --data counterfact-val.json --limit 200 --json erasure.json
    """
    from memedit.evaluation import erasure as measure

    trial = Trial(options)
    facts = measure.erasures(_cases(trial, data), limit)
    for method in methods:
        start = time.perf_counter()
        with trial.edited([fact.edit for fact in facts], method) as (model, ids):
            found = measure.asked(model, facts, ids, batch_size=options["batch_size"])
        trial.put(trial.data[0]["name"], method, "routed", len(ids), start, measure.scores(found, options["seed"]),
                  mode="all", answers=found)  # fmt: skip
    trial.done(f"erasure: {len(facts)} facts withheld")


@eval_.command()
@_many(24)
@_methods
@shared
def opinions(limit: int, methods: tuple[str, ...], **options: Any) -> None:
    """Opinions as edits ("About X, answer positively."): the feeling of answers, told by a list of words.

    \b
    Examples:
      memedit eval opinions --json opinions.json
      memedit eval opinions --model Qwen/Qwen3-0.6B
    """
    from memedit.evaluation import opinion as measure

    trial = Trial(options)
    wanted = [(topic, measure.FEELINGS[i % 2]) for i, topic in enumerate(measure.TOPICS[:limit])]
    trial.data.append({"name": "topics", "file": None})
    for method in methods:
        start = time.perf_counter()
        with trial.edited([measure.opinion(*one) for one in wanted], method) as (model, ids):
            found = measure.asked(model, wanted, ids, batch_size=options["batch_size"])
        trial.put("topics", method, "routed", len(ids), start, measure.scores(found, options["seed"]), mode="all",
                  answers=measure.answers(found))  # fmt: skip
    trial.done(f"opinions: {len(wanted)} topics, half of them to be spoken well of")


def as_suite(ctx: click.Context, given: dict[str, Any]) -> None:
    """`memedit eval --suite pushback` and the like: the same as the command of that name, with the options that both have.

    Raises:
        DataError: it needs the folder of the data sets, and none is named.
    """
    name, folder = given["suite"], given["folder"]
    own: dict[str, Any] = {
        key: given[key]
        for key in (
            "settings",
            "model",
            "device",
            "dtype",
            "false_fire_rate",
            "scope",
            "json_file",
            "report",
            "batch_size",
            "seed",
        )
    }
    if given["limit"]:
        own["limit"] = given["limit"]
    methods = names(ctx, ctx.command.params[0], given["method"]) or ("ice",)
    own["methods"] = methods
    if name in ("pitfalls", "erasure") and folder is None:
        raise DataError("a suite needs the folder of the data sets: name it by --folder, or set MEMEDIT_DATA")
    if name == "pitfalls":
        own |= {"data": str(folder / "pitfalls"), "only": (), "merged": methods if given["merged"] else ()}
        own["methods"] = () if given["merged"] and not given["routed"] else methods
    elif name == "erasure":
        own["data"] = str(folder / "counterfact" / "counterfact-val.json")
    elif given["merged"]:
        raise click.UsageError(f"--suite {name} is about a memory: leave --merged out", ctx)
    ctx.invoke(eval_.commands[name], **own)
