"""`memedit report`: one run of `memedit eval` as Markdown and a page, or two runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import console, counted, json_option, print_json, print_table

if TYPE_CHECKING:
    from memedit.report import Comparison

_MOST = 25  # rows on the terminal


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="A.json [B.json]", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the report there; made where it is missing.  [needed for one run]",
)
@json_option
def report(runs: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Write the report of a run of `memedit eval`, or compare two runs point by point.

    One run: report.md, report.html (one page that needs nothing else, with a browser of all answers), scores.csv and
    the figures. Two runs: which scores got worse, worst first, whether their 95 % intervals overlap, and the answers
    that flipped; with --output also as compare.md, compare.html and compare.json.

    \b
    Examples:
      memedit report run.json --output report
      memedit report before.json after.json
      memedit report before.json after.json --output changes --json
    """
    from memedit.report import compare, write_comparison, write_report

    if len(runs) > 2:
        raise click.UsageError(f"a report is of one run or two, and {len(runs)} were named")
    if len(runs) == 1:
        if output is None:
            raise click.UsageError("Missing option '--output': the folder for the report.")
        written = write_report(runs[0], output)
        said(written, as_json)
        return
    found = compare(*runs)
    written = write_comparison(found, output) if output is not None else []
    if as_json:
        print_json({**found.as_json(), "files": [str(path) for path in written]})
        return
    _show(found)
    if written:
        said(written)


def said(written: list[Path], as_json: bool = False, err: bool = False) -> None:
    """Which files were written, on standard output, or for people on standard error."""
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        click.echo(f"wrote {written[0]} and {counted(len(written) - 1, 'file')} beside it", err=err)


report_option = click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the report of this run there: report.html, report.md, scores.csv, figures.",
)


def check_report(folder: Path | None) -> None:
    """Refuse a folder that no report could be written to, before a long run.

    Raises:
        DataError: see `memedit.report.check_folder`.
    """
    if folder is not None:
        from memedit.report import check_folder

        check_folder(folder)


def report_of(document: Mapping[str, Any], folder: Path | None) -> None:
    """Write the report of the run just made, where a folder is named; say so on standard error."""
    if folder is not None:
        from memedit.report import write_report

        said(write_report(document, folder), err=True)


def _show(found: Comparison) -> None:
    """The changed points as a table, what got worse first, and the number of flips."""
    from memedit.report.blocks import Items, Text
    from memedit.report.compare import beyond, blocks, change
    from memedit.report.units import shown

    changed = [p for p in found.points if p.worse]
    rows = []
    for p in changed[:_MOST]:
        kind = f"{p.kind}: {p.label}" if p.label else p.kind
        run = [p.data, f"{p.method}, {p.way}", f"{p.mode}, {p.when}", f"{p.edits[1]:,}", kind, p.score]
        rows.append([*run, shown(p.score, p.a.value), shown(p.score, p.b.value), change(p), beyond(p)])
    if rows:
        heads = ["data", "method", "mode", "edits#", "kind", "score", "A#", "B#", "change#", "intervals"]
        print_table(heads, rows, title=f"A {found.a}, B {found.b}: what got worse first")
    if len(changed) > _MOST:
        console().print(
            f"{counted(len(changed) - _MOST, 'more score')} changed; --output or --json gives them all."
        )
    for block in blocks(found)[1:5]:
        if isinstance(block, Text):
            console().print(block.text, markup=False)
        elif isinstance(block, Items):
            for item in block.items:
                console().print(f"- {item}", markup=False)
