"""Commands around a memory and the models: doctor, rebuild, methods, eval."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._deciding import deciding, scope_option
from memedit.cli._group import (
    check_output,
    console,
    counted,
    existing,
    false_fire_option,
    json_option,
    memory_option,
    model_options,
    opened,
    print_json,
    print_table,
    progress,
    settings_option,
    write_text,
)
from memedit.errors import MemeditError
from memedit.methods import METHODS, method_info

if TYPE_CHECKING:
    from memedit.data import Case
    from memedit.lm import HFModel
    from memedit.memory import EditMemory


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the editing methods: family, paper, what they need and what they store.

    \b
    Example:
      memedit methods --json
    """
    rows = [
        {
            "name": m.name,
            "family": m.family,
            "paper": m.paper,
            "needs": list(m.needs),
            "patch": m.patch,
            "summary": m.summary,
        }
        for m in METHODS.values()
    ]
    if as_json:
        print_json(rows)
    else:
        columns = ["name", "family", "paper", "needs", "patch", "summary"]
        print_table(columns, [[", ".join(r[c]) if c == "needs" else r[c] for c in columns] for r in rows])


@click.command()
@click.option(
    "--repair",
    is_flag=True,
    help="Save every readable row of a damaged memory, and make anew what can be derived.",
)
@memory_option
@json_option
def doctor(repair: bool, memory: str, as_json: bool) -> None:
    """Check the installation and the memory, and say what to do about what is wrong.

    With --repair, a damaged database is kept beside the new one, which holds all that could be read.

    \b
    Examples:
      memedit doctor --memory indexes/default
      memedit doctor --repair
    """
    from memedit.doctor import examine, repaired

    findings = []
    if repair:
        with progress("encoding") as bar:
            findings = repaired(memory, bar)
    findings += examine(memory)
    if as_json:
        print_json(findings)
    else:
        print_table(
            ["", "what", "finding"], [["ok" if f["ok"] else "!!", f["what"], f["finding"]] for f in findings]
        )
    if not all(f["ok"] for f in findings):
        sys.exit(1)


@click.command()
@click.option(
    "--reencode",
    is_flag=True,
    help="Encode all edits anew with the encoder at hand (after a change of encoder).",
)
@memory_option
@json_option
def rebuild(memory: str, reencode: bool, as_json: bool) -> None:
    """Make the index anew from the database.

    \b
    Examples:
      memedit rebuild
      memedit rebuild --reencode
    """
    from memedit.scope import ScopeClassifier

    # With --reencode the encoder at hand is named on purpose; else the memory loads its own, and only if it must.
    with (
        existing(memory, encoder=ScopeClassifier.load if reencode else None) as m,
        progress("encoding") as bar,
    ):
        m.rebuild(reencode=reencode, progress=bar)
        total = len(m)
    if as_json:
        print_json({"memory": memory, "edits": total, "reencoded": reencode})
        return
    click.echo(f"rebuilt the index of {memory}: {counted(total, 'live edit')}")


@click.group("eval", invoke_without_command=True)
@click.option(
    "--data",
    metavar="FILE",
    help="A data set: CounterFact, or our JSON lines with paraphrases and locality.",
)
@click.option("--edits", type=click.IntRange(min=1), help="Take the first so many cases.  [default: all]")
@click.option(
    "--method",
    default="ice",
    show_default=True,
    metavar="NAME[,NAME]",
    help="The editing methods, each scored on the same memory.",
)
@settings_option
@click.option("--unrelated", metavar="FILE", help="General questions whose output must not change.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--memory", metavar="DIR", help="Keep the memory there.  [default: a temporary one]")
@click.option(
    "--merged",
    is_flag=True,
    help="Instead of routing: write the edits one after another into a copy's weights, as the literature does.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write scores and every single answer.",
)
@model_options
@false_fire_option
@scope_option
@click.pass_context
def eval_(
    ctx: click.Context, data: str | None, edits: int | None, method: str, settings: dict[str, Any],
    unrelated: str | None, max_new_tokens: int, batch_size: int, memory: str | None,
    merged: bool, json_file: str | None, model: str, device: str | None, dtype: str | None, false_fire_rate: float | None,
    scope: str | None,
) -> None:  # fmt: skip
    """Put all edits of a data set into one memory, then score them: routed, in free generation, greedy.

    `memedit eval scope` scores the router's decisions alone, on all development sets.

    \b
    Examples:
      memedit eval --data counterfact-val.json --edits 1000 --unrelated nq_open_dev_clean.jsonl
      memedit eval --data counterfact-val.json --edits 200 --method ice,ike --set ike.k=8
      memedit eval --data known.jsonl --edits 100 --method rome,ft-m --merged
      memedit eval scope --data ../shared/data --limit 100
    """
    if ctx.invoked_subcommand is not None:
        return
    if data is None:
        raise click.UsageError("Missing option '--data'.", ctx)
    names = list(dict.fromkeys(name.strip() for name in method.split(",")))
    for name in names:
        method_info(name)
    check_output(json_file)
    from memedit.data import read_cases, read_prompts
    from memedit.lm import HFModel

    cases = read_cases(data, limit=edits)
    general = read_prompts(unrelated) if unrelated else []
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    if merged:
        if memory:
            raise click.UsageError("--merged writes into weights and has no memory: leave --memory out", ctx)
        answers, scores, live = _merged(cases, names, settings, general, (model, device, dtype), options)
    else:
        with ExitStack() as stack:
            folder = memory or stack.enter_context(tempfile.TemporaryDirectory(prefix="memedit-eval-"))
            m = stack.enter_context(opened(folder, **deciding(scope, device)))
            if memory and len(m):
                raise MemeditError(
                    f"{memory} holds edits already; evaluation wants a memory of its own: name an empty folder"
                )
            base = HFModel.from_pretrained(model, device=device, dtype=dtype)
            answers, scores = _routed(m, base, cases, names, settings, general, false_fire_rate, options)
            live = len(m)
    setting = {
        "model": model, "data": data, "edits_in_memory": live, "mode": "all edits made when scored", "routed": not merged,
        "method": ",".join(names), "settings": settings, "decoding": f"greedy, {max_new_tokens} new tokens",
        "unrelated": unrelated,
    }  # fmt: skip
    if json_file:
        text = json.dumps(
            {"setting": setting, "scores": scores, "answers": answers}, ensure_ascii=False, indent=1
        )
        write_text(json_file, text + "\n")
    made = "merged into the weights" if merged else "in memory at scoring"
    way = "no router" if merged else "routed"
    title = f"{data}: {live:,} edits {made}, {setting['method']}, {way}, {setting['decoding']}, model {model}"
    _show_scores(title, scores)


Scored = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # single answers, scores


def _routed(
    memory: EditMemory, base: HFModel, cases: Sequence[Case], names: Sequence[str], settings: dict[str, Any],
    general: Sequence[str], false_fire_rate: float | None, options: dict[str, Any],
) -> Scored:  # fmt: skip
    """All edits in one memory, every query through the router."""
    from memedit.edited import EditedModel
    from memedit.evaluate import as_rows, ask_all, summarise

    with progress("encoding") as bar:
        added = iter(memory.add([edit for c in cases for edit in c.edits], progress=bar).ids)
    ids = [[next(added) for _ in c.edits] for c in cases]
    answers: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for name in names:
        edited = EditedModel.from_pretrained(
            base, memory=memory, method=name, false_fire_rate=false_fire_rate, settings=settings
        )
        with progress(f"asking, {name}") as bar:
            given = ask_all(edited, cases, ids, general, progress=bar, **options)
        answers += [{"method": name, **row} for row in as_rows(given)]
        scores += [{"method": name, **row} for row in summarise(given)]
    return answers, scores


def _merged(
    cases: Sequence[Case], names: Sequence[str], settings: dict[str, Any], general: Sequence[str],
    model: tuple[str, str | None, str | None], options: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:  # fmt: skip
    """All edits one after another in the weights of a copy, by each method; and how many there are."""
    from memedit.evaluate import as_rows, ask_merged, summarise
    from memedit.lm import HFModel
    from memedit.merging import Merged
    from memedit.methods import load_method

    base = HFModel.from_pretrained(model[0], device=model[1], dtype=model[2])
    answers: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    edits = [edit for c in cases for edit in c.edits]
    for name in names:
        copy = Merged(base, load_method(name, **settings.get(name, {})))
        with progress(f"merging, {name}") as bar:
            for i, edit in enumerate(edits):
                try:
                    copy.add(edit)
                except MemeditError as error:  # as happens once a model has collapsed: the others count
                    click.echo(f"{name}: {error}", err=True)
                bar(i + 1, len(edits))
        with progress(f"asking, {name}") as bar:
            given = ask_merged(copy.lm, base, cases, general, progress=bar, **options)
        answers += [{"method": name, **row} for row in as_rows(given)]
        scores += [{"method": name, **row} for row in summarise(given)]
    return answers, scores, len(edits)


def _show_scores(title: str, scores: list[dict[str, Any]]) -> None:
    rows = [
        [s["method"], s["kind"], s["score"], f"{100 * s['value']:.1f}", f"{100 * s['low']:.1f} to {100 * s['high']:.1f}",
         "" if s["floor"] is None else f"{100 * s['floor']:.1f}", s["n"]]
        for s in scores
    ]  # fmt: skip
    console().print(title)
    print_table(["method", "query", "score", "%#", "95 % interval", "unedited#", "n#"], rows)
