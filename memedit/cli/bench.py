"""`memedit bench`: the claims, measured."""

from __future__ import annotations

import json
from typing import Any

import click
from click.core import ParameterSource

from memedit.cli._group import check_output, model_options, print_table, progress, settings_option, write_text
from memedit.errors import MemeditError, unknown


def _counts(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """1,3,10 as numbers."""
    if value is None:
        return None
    try:
        found = tuple(int(one) for one in value.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"{value!r}; write numbers of edits, such as 1,10,100", ctx, option)
    return found


# Which benches an option is for; those of the model and --json are for all.
_FOR = {
    **dict.fromkeys(("data", "only", "counts", "settings"), ("methods", "drift")),
    **dict.fromkeys(("output", "sample", "text", "passages", "questions", "how"), ("drift",)),
    "limit": ("methods",),
}


def _refuse(ctx: click.Context, name: str) -> None:
    """Options of other benches, which would be passed over.

    Raises:
        UsageError: names the first of them.
    """
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        theirs = _FOR.get(option.name or "", (name,))
        if given and name not in theirs:
            raise click.UsageError(
                f"{option.opts[0]} is for bench {' and '.join(theirs)}; leave it out of bench {name}"
            )


def _limit(ctx: click.Context, counts: tuple[int, ...] | None, limit: int) -> int:
    """How many facts `methods` measures: --limit, or a single number of --edits.

    Raises:
        UsageError: both are given, or several numbers.
    """
    if counts is None:
        return limit
    if len(counts) > 1 or ctx.get_parameter_source("limit") is ParameterSource.COMMANDLINE:
        raise click.UsageError("bench methods measures one number of facts: give --limit N, or --edits N")
    return counts[0]


@click.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the entries to a file.",
)
@click.option(
    "--data",
    metavar="FILE",
    help="For methods and drift: facts that the base knows (prompt, target, old, ...).",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=60, show_default=True, help="For methods: so many facts."
)
@click.option("--method", "only", metavar="A,B", help="For methods and drift: these alone.")
@click.option(
    "--output",
    metavar="DIR",
    help="For drift: where points, table and figure go; a stopped run goes on there.",
)
@click.option(
    "--edits",
    "counts",
    callback=_counts,
    metavar="N,N",
    help="For drift: numbers of edits.  [default: 1,3,10,...,1000]  For methods: as --limit.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="For drift: ask about so many edits.",
)
@click.option("--text", metavar="FILE", help="For drift: running text.  [default: sentences that ship]")
@click.option(
    "--passages",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="For drift: so many of the text.",
)
@click.option(
    "--questions",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="For drift: so many that ship.",
)
@click.option(
    "--how", type=click.Choice(["merged", "routed"]), help="For drift: this alone.  [default: both]"
)
@settings_option
@model_options
@click.pass_context
def bench(
    ctx: click.Context, name: str, json_file: str | None, data: str | None, limit: int, only: str | None,
    settings: dict[str, Any],
    model: str, device: str | None, dtype: str | None, output: str | None, counts: tuple[int, ...] | None, sample: int,
    text: str | None, passages: int, questions: int, how: str | None,
) -> None:  # fmt: skip
    """Measure the claims, mostly of speed: one entry per claim, medians, ratios taken inside one run.

    \b
    NAME is import, add, route, generate, open, chat, mixed-batch, covariance, eval, or all of these; or methods, drift,
    or gpu.
    Examples:
      memedit bench all --json bench.json
      memedit bench methods --data known.jsonl --limit 60 --method rome,ft-m
      memedit bench drift --data known.jsonl --edits 1,10,100 --output drift --text wikitext-test.txt
      memedit bench gpu --json gpu.json
    """
    from memedit.bench import ALONE, BENCHES, machine, run

    if name != "all" and name not in BENCHES:
        raise MemeditError(unknown("bench", name, [*BENCHES, "all"]))
    _refuse(ctx, name)
    check_output(json_file)
    chosen = [one.strip() for one in only.split(",") if one.strip()] if only else []
    more: dict[str, Any] = {"data": data, "only": chosen, "settings": settings}
    if name == "methods":
        more["limit"] = _limit(ctx, counts, limit)
    elif name == "drift":
        more |= {
            "output": output,
            "sample": sample,
            "text": text,
            "passages": passages,
            "questions": questions,
        }
        more |= {"counts": counts} if counts else {}
        more |= {"ways": [how]} if how else {}
    with progress(f"bench {name}") as bar:
        entries = run(
            [n for n in BENCHES if n not in ALONE] if name == "all" else [name],
            model=model,
            device=device,
            dtype=dtype,
            progress=bar,
            **more,
        )
    if json_file:
        write_text(json_file, json.dumps({"machine": machine(), "entries": entries}, indent=2) + "\n")
    if name == "methods":
        from memedit.bench.methods import HEADS, table

        click.echo(
            "Facts that the base knows, each edit alone, greedy, no router; percent (goal), processor seconds."
        )
        print_table(list(HEADS), table(entries), title=machine())
        return
    rows = [
        [
            e["claim"],
            f"{e['value']:.4g} {e['unit']}",
            e["limit"],
            {True: "yes", False: "NO", None: ""}[e["met"]],
            e["detail"],
        ]
        for e in entries
    ]
    print_table(["claim", "measured", "limit", "met", "how"], rows, title=machine())
