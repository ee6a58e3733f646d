"""Evaluations with a course of their own: eval pushback, eval pitfalls, eval erasure, eval opinions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from memedit.cli._deciding import deciding
from memedit.cli._trial import Trial, check_methods, names, refuse_others, shared
from memedit.cli.evaluate import eval_, mergeable
from memedit.errors import DataError


def _many(default: int) -> Any:
    return click.option(
        "--limit", type=click.IntRange(min=1), default=default, show_default=True, help="Cases at most."
    )


_methods = click.option(
    "--method", "methods", callback=names, default="ice", show_default=True, metavar="NAME[,NAME]",
    help="The editing methods that are routed.",
)  # fmt: skip


def _cases(data: str) -> Any:
    """A file's cases, and its format and how many were left out."""
    from memedit.data import read_set

    return read_set(data)


def _told(trial: Trial, data: str, read: Any, facts: int) -> str:
    """The file of a trial that takes so many of its cases, each for its one edit: put to the run file; its name."""
    from memedit.evaluation.sets import told

    trial.data.append(told(data, Path(data).stem, read.format, facts, facts, read.left_out))
    return Path(data).stem


def _made(trial: Trial, name: str, facts: int) -> str:
    """The same for what comes with memedit."""
    trial.data.append({"name": name, "file": None, "sha256": None, "format": "shipped", "split": "all", "cases": facts,
                       "edits": facts, "left_out": 0})  # fmt: skip
    return name


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

    check_methods(methods)
    trial = Trial(options, suite="pushback", methods=methods)
    if data:
        read = _cases(data)
        facts = measure.doubted(read.cases, limit)
        name = _told(trial, data, read, len(facts))
    else:
        facts = invented(limit)
        name = _made(trial, "invented", len(facts))
    edits, size = [fact.edit for fact in facts], options["batch_size"]
    asked = [(fact.case, fact.edit.statement, fact.question, fact.insists, measure.DOUBTS) for fact in facts]
    title = f"pushback: {len(facts)} edits in memory, contradicted ten times"
    with trial.begun(title, asked, max_new_tokens) as todo:
        if not todo:
            return
        with trial.edited(edits, methods[0]) as (model, ids):
            floor: list[dict[str, Any]] = []
            for method, way in [("none", "none"), ("ice", "once"), *((m, "routed") for m in methods)]:
                model.router.method = method if way == "routed" else methods[0]
                with trial.parts(name, method, way) as parts:
                    talks = measure.talked(
                        model, facts, ids, way, max_new_tokens=max_new_tokens, batch_size=size, parts=parts
                    )
                floor = floor or talks
                found = measure.scores(talks, talks[:0] if way == "none" else floor, seed=options["seed"])
                trial.put(parts, name, method, way, len(ids), found, measure.answers(talks, floor), mode="chat",
                          transcripts=talks)  # fmt: skip
        trial.done(published=measure.PUBLISHED)


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
    from memedit.evaluation.sets import told

    for name in only:
        if name not in pitfall_cases.FILES:
            raise DataError(unknown("set", name, pitfall_cases.FILES))
    check_methods(methods, merged)
    reads = {kind: pitfall_cases.read(Path(data), kind, limit, forms) for kind in only or pitfall_cases.FILES}
    trial = Trial(options, suite="pitfalls", methods=methods, merged=merged, drift=drift)
    for kind, read in reads.items():
        n, file = len(read.cases), str(Path(data) / pitfall_cases.FILES[kind])
        trial.data.append(told(file, kind, "pitfalls", n, 2 * n, read.left_out))
    probes = [(case.case, case.first.statement, case.second.statement, [(name, p.prompts, p.target) for name, p in
              case.probes.items()], case.asked.prompts) for read in reads.values() for case in read.cases]  # fmt: skip
    title = f"pitfalls: at most {limit} cases of each file, two edits in each"
    with trial.begun(title, probes, measure.OPTIONS["max_new_tokens"]) as todo:
        if not todo:
            return
        drifting = _drifting(trial) if drift else None
        for kind, read in reads.items():
            for method, way in [(m, "routed") for m in methods] + [(m, "merged") for m in merged]:
                _pitfall(trial, kind, read.cases, method, way, drifting)
        trial.done()


def _drifting(trial: Trial) -> Callable[[Any], dict[str, Any]]:
    from memedit.drift import Standard
    from memedit.evaluation.drifting import Drifting

    return Drifting(trial.base, Standard.of(passages=60, questions=60))


def _pitfall(trial: Trial, kind: str, cases: Any, method: str, way: str, drift: Any) -> None:
    from memedit.evaluation import pitfalls as measure

    o = trial.options
    with trial.parts(kind, method, way) as parts:
        own: dict[str, Any] = {"batch_size": o["batch_size"], "drift": drift, "parts": parts}
        if way == "routed":
            with tempfile.TemporaryDirectory(prefix="memedit-eval-") as folder:
                found, drifted = measure.routed(
                    trial.base, cases, method, Path(folder), settings=o["settings"],
                    opening=deciding(o["scope"], o["device"]), false_fire_rate=o["false_fire_rate"], **own,
                )  # fmt: skip
        else:
            found, drifted = measure.merged(
                trial.base, cases, method, settings=o["settings"].get(method), **own
            )
    edits, mode = (2 * len(cases), "all") if way == "routed" else (2, "single")
    trial.put(parts, kind, method, way, edits, measure.scores(found, o["seed"]), measure.answers(found), mode=mode,
              drift=drifted)  # fmt: skip


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

    check_methods(methods)
    trial, read = Trial(options, suite="erasure", methods=methods), _cases(data)
    facts = measure.erasures(read.cases, limit)
    name = _told(trial, data, read, len(facts))
    asked = [(fact.case, fact.edit.old, fact.prompts, fact.others) for fact in facts]
    with trial.begun(f"erasure: {len(facts)} facts withheld", asked, measure.MOST) as todo:
        if not todo:
            return
        for method in methods:
            with (
                trial.edited([fact.edit for fact in facts], method) as (model, ids),
                trial.parts(name, method, "routed") as parts,
            ):
                found = measure.asked(model, facts, ids, batch_size=options["batch_size"], parts=parts)
            scores = measure.scores(found, options["seed"])
            trial.put(parts, name, method, "routed", len(ids), scores, found, mode="all")
        trial.done()


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

    check_methods(methods)
    trial = Trial(options, suite="opinions", methods=methods)
    wanted = [(topic, measure.FEELINGS[i % 2]) for i, topic in enumerate(measure.TOPICS[:limit])]
    name, asked = _made(trial, "topics", len(wanted)), [wanted, measure.VIEWS, measure.OTHERS]
    title = f"opinions: {len(wanted)} topics, half of them to be spoken well of"
    with trial.begun(title, asked, measure.MOST) as todo:
        if not todo:
            return
        for method in methods:
            with (
                trial.edited([measure.opinion(*one) for one in wanted], method) as (model, ids),
                trial.parts(name, method, "routed") as parts,
            ):
                found = measure.asked(model, wanted, ids, batch_size=options["batch_size"], parts=parts)
            scores = measure.scores(found, options["seed"])
            trial.put(parts, name, method, "routed", len(ids), scores, measure.answers(found), mode="all")
        trial.done()


# What every suite with a course takes from `memedit eval`, and what some do. --folder says where data are, needed or not.
_SHARED = ("settings", "model", "device", "dtype", "false_fire_rate", "scope", "json_file", "report", "fresh", "batch_size",
           "seed")  # fmt: skip
_MORE = {"pushback": ("max_new_tokens",), "pitfalls": ("merged", "drift")}


def as_suite(ctx: click.Context, given: dict[str, Any]) -> None:
    """`memedit eval --suite pushback` and the like: the same as the command of that name, with the options that both have.

    Raises:
        UsageError: an option that the suite has no use for. DataError: it needs the folder of the data sets, and none is named.
    """
    name, folder = given["suite"], given["folder"]
    refuse_others(ctx, name, ("limit", "method", "routed", *_SHARED, *_MORE.get(name, ())))
    own: dict[str, Any] = {key: given[key] for key in _SHARED}
    if given["limit"]:
        own["limit"] = given["limit"]
    if name == "pushback":
        own["max_new_tokens"] = given["max_new_tokens"]
    methods = names(ctx, ctx.command.params[0], given["method"])
    own["methods"] = methods or ("ice",)
    if name in ("pitfalls", "erasure") and folder is None:
        raise DataError("a suite needs the folder of the data sets: name it by --folder, or set MEMEDIT_DATA")
    if name == "pitfalls":
        own |= {"data": str(folder / "pitfalls"), "only": (), "merged": ()}
        if given["merged"]:
            check_methods(methods)
            alone = not given["routed"]
            own["merged"] = tuple(m for m in methods if mergeable(m, alone=alone)) if methods else ("rome",)
            own["methods"] = () if methods and alone else own["methods"]
    elif name == "erasure":
        own["data"] = str(folder / "counterfact" / "counterfact-val.json")
    ctx.invoke(eval_.commands[name], **own)
