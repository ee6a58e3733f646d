"""`memedit eval scope`: the scope scores on the development sets."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import check_output, console, print_table, progress, write_text
from memedit.cli.evaluate import eval_
from memedit.errors import DataError

if TYPE_CHECKING:
    from memedit.scope_eval.run import Scored

CACHE = Path("runs") / "eval-scope"


def _sizes(ctx: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(part.replace("_", "")) for part in value.split(",")}))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers, such as 1,100,10000") from None
    if sizes[0] < 1:
        raise click.BadParameter("a memory holds at least one edit")
    return sizes


def _names(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


@eval_.command("scope")
@click.option(
    "--data",
    envvar="MEMEDIT_DATA",
    show_envvar=True,
    metavar="DIR",
    help="The folder with splits.json and the public data sets.",
)
@click.option("--sets", callback=_names, metavar="A,B", help="Only these development sets.  [default: all]")
@click.option(
    "--sizes",
    callback=_sizes,
    default="1,10,100,1000,10000",
    show_default=True,
    metavar="N,N",
    help="Edits in memory; 100000 takes an hour on one core, the first time.",
)
@click.option(
    "--baselines",
    callback=_names,
    default="bm25,cosine",
    show_default=True,
    metavar="A,B",
    help="What stands beside the classifier: bm25, cosine, serac-embedding=DIR, serac-cross=DIR; empty for nothing.",
)
@click.option(
    "--classifier",
    "--scope",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="A trained scope classifier.  [default: the shipped one]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    metavar="N",
    help="Of each set, and of general questions, at most so many; 0 for all.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="For what --limit draws, and for the order of memories and fillers.",
)
@click.option(
    "--minilm",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="all-MiniLM-L6-v2 for the baseline cosine, if the classifier has another encoder.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=CACHE,
    show_default=True,
    metavar="DIR",
    help="Where vectors are kept between runs.",
)
@click.option("--device", metavar="NAME", help="cpu, cuda, ...")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write all scores as JSON to a file; without a name, print them.",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the table (scope.md) and the figures (PNG, SVG).",
)
@click.pass_context
def scope(
    ctx: click.Context, data: str | None, sets: tuple[str, ...], sizes: tuple[int, ...], baselines: tuple[str, ...],
    classifier: str | None, limit: int, seed: int, minilm: str | None, cache: Path, device: str | None,
    json_file: str | None, report: Path | None,
) -> None:  # fmt: skip
    """Score scope decisions: hits and false fires on the development sets, at every size of memory.

    No base model is needed. Sets: hard, hard-sentence, canonical, peak, pitfalls, mquake, pokemqa, zsre,
    wiki-counterfact, wiki-recent, held-out, other-relations, claims, nq.

    \b
    Examples:
      memedit eval scope --data ../shared/data --limit 100 --sizes 1,100,1000
      memedit eval scope --sets hard,claims --classifier runs/scope/mine --json s.json --report runs/report
    """
    given = data or (ctx.parent.params.get("data") if ctx.parent else None)
    if not given:
        raise click.UsageError(
            "Missing option '--data': the folder with splits.json and the public data sets (or set MEMEDIT_DATA)."
        )
    check_output(json_file)
    if report is not None:
        _check_report(report)
    from memedit.bench import machine
    from memedit.scope_eval import report as reports
    from memedit.scope_eval.goals import beside, goals
    from memedit.scope_eval.session import Session, code_digest

    most = limit or None
    session = Session(Path(given), classifier, baselines, cache, device=device, minilm=minilm)
    scored = session.run(sets, sizes, most, seed, progress)
    ours, *others = session.judges
    reached = goals(scored, ours.name)
    for other in others:
        if other.name == "MiniLM cosine":
            reached += beside(scored, ours.name, other.name)
    setting = {
        "command": _command(), "classifier": str(classifier or "shipped"), "fingerprint": session.fingerprint,
        "judging_code": code_digest(), "data": given, "sets": list(dict.fromkeys(s.set for s in scored)), "sizes": list(sizes),
        "limit": most or "none",
        "seed": seed, "machine": machine(),
    }  # fmt: skip
    if json_file:
        result = {"setting": setting, "goals": reached, "overall": reports.overall(scored)}
        result["scores"] = [one.row for one in scored]
        write_text(json_file, json.dumps(reports.plain_json(result), ensure_ascii=False, indent=1) + "\n")
    if report is not None:
        report.mkdir(exist_ok=True)
        write_text(str(report / "scope.md"), reports.markdown(scored, setting, reached))
        reports.draw(scored, report)
    if json_file != "-":
        _show(scored, reached)


def _check_report(folder: Path) -> None:
    """Refuse a folder that can't be written, and a missing matplotlib, before the work is done.

    Raises:
        DataError: which of the two.
    """
    from importlib.util import find_spec

    if not folder.resolve().parent.is_dir():
        raise DataError(f"there is no folder {folder.parent} for the report; make it first")
    if find_spec("matplotlib") is None:
        raise DataError(
            "the figures of a report need matplotlib: pip install matplotlib, or leave --report out"
        )


def _command() -> str:
    return shlex.join(["memedit", *sys.argv[1:]])


def _show(scored: Sequence[Scored], reached: Sequence[dict[str, Any]]) -> None:
    """A table for each set, one for all together, and one of what was to be reached."""
    from memedit.scope_eval import report as reports
    from memedit.scope_eval.sets import SETS

    for name in dict.fromkeys(s.set for s in scored):
        of = [s for s in scored if s.set == name]
        kinds = reports.columns(of)
        head, *scores = reports.header(kinds)
        rows = [
            [
                "" if i and of[i - 1].size == one.size else f"{one.row['edits']:,.0f}",
                *reports.cells(one, kinds),
            ]
            for i, one in enumerate(of)
        ]
        print_table(
            ["edits#", head, *(f"{score}#" for score in scores)], rows, title=f"{name}: {SETS[name].says}"
        )
    head, *scores = reports.TOGETHER
    print_table(
        [f"{head}#", scores[0], *(f"{s}#" for s in scores[1:])],
        reports.together(scored),
        title="all sets together",
    )
    if reached:
        columns = ["goal", "%#", "limit#", "met"]
        print_table(columns, [reports.goal_cells(goal) for goal in reached])
    console().print(reports.NOTE)
