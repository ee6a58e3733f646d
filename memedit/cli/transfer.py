"""Commands that take edits from files and write them to files: import and export. Only --format peft loads the base model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from memedit.cli._dry_run import KEEP_BOTH, WORDS, counts, in_order, show_dry_run, summed, unmarked
from memedit.cli._group import (
    check_output,
    counted,
    existing,
    json_option,
    memory_option,
    method_option,
    model_options,
    opened,
    print_json,
    progress,
    settings_option,
    write_json_lines,
    write_text,
)
from memedit.cli.adapters import FORMAT, Adapting, export_adapter, import_adapter
from memedit.data import NAMES, Reading, read
from memedit.data.hub import is_hub
from memedit.errors import DataError, MemeditError
from memedit.methods import method_info


class DataFile(click.Path):
    """A file, or a name on a hub, which is looked for when it is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_hub(value) else super().convert(value, param, ctx)


def _adapting(command: Any) -> Any:
    """The options of --format peft."""
    command = model_options(method_option(settings_option(command)))
    return click.option(
        "--edit",
        "edits",
        multiple=True,
        metavar="ID_OR_REF",
        help="With --format peft: this edit (export: repeatable).",
    )(command)


@click.command("import")
@click.argument("file", type=DataFile(exists=True, allow_dash=True))
@click.option(
    "--dry-run", is_flag=True, help="Show what would be new, superseded, known, refused; change nothing."
)
@click.option(
    "--skip-bad", is_flag=True, help="Leave out what can't be taken (each is named), and take the rest."
)
@click.option("--limit", type=click.IntRange(min=1), help="Take the first so many records only.")
@click.option(
    "--format",
    "format_",
    type=click.Choice([*NAMES, FORMAT]),
    metavar="NAME",
    help=f"Read it as this: {', '.join(NAMES)}; or {FORMAT}, an adapter's folder.  [default: seen from the file]",
)
@click.option("--tag", "tags", multiple=True, help="Label all edits of this import (repeatable).")
@click.option("--source", help="Where they come from, for those that don't say.")
@click.option(
    "--conflicts/--no-conflicts",
    default=True,
    show_default=True,
    help="Whether a dry run looks for possible conflicts, for which it encodes the edits.",
)
@_adapting
@memory_option
@json_option
def import_(
    file: str,
    dry_run: bool,
    skip_bad: bool,
    limit: int | None,
    format_: str | None,
    tags: tuple[str, ...],
    source: str | None,
    conflicts: bool,
    memory: str,
    as_json: bool,
    **adapting: Any,
) -> None:
    """Import edits: JSON lines, JSON, CSV, or a public data set.

    Own lines have prompt and target, or statement; a table's first line names such columns (question and
    answer will do). CounterFact, zsRE, KnowEdit, MQuAKE and a dozen other public sets are read as they are published, also
    gzipped; hf:OWNER/NAME[:CONFIG][:SPLIT] names one on a hub. docs/data.md lists them.

    A line with "keep_both": true is a further value (a second child), as by `add-fact --keep-both`.

    All or nothing: a bad line is named and nothing is taken, unless --skip-bad. One import is one
    operation: `memedit undo` takes all of it back. Unknown keys are kept and exported again.

    With --format peft, FILE is the folder of a LoRA adapter for the --model, which becomes the patch of the edit that
    --edit names.

    \b
    Examples:
      memedit import indexes/example.jsonl
      memedit import facts.csv --dry-run
      memedit import counterfact.json --limit 1000 --memory indexes/counterfact
      cat facts.jsonl | memedit import - --skip-bad
      memedit import my-adapter --format peft --edit 3
    """
    how = Adapting(memory, **adapting)
    if format_ == FORMAT:
        if dry_run or skip_bad or limit or tags or source:
            raise click.UsageError(
                "--format peft takes a whole adapter; its options are --edit, --method and --model"
            )
        import_adapter(file, how, as_json)
        return
    how.refuse()
    if file != "-" and Path(file).is_dir():
        raise click.UsageError(
            f"{file} is a directory; name a file, or use --format peft for an adapter's folder"
        )
    if not (conflicts or dry_run):
        raise click.UsageError("--no-conflicts is for --dry-run: an import always looks for conflicts")
    found = _labelled(read(file, limit, format_), tags, source)
    if dry_run:
        show_dry_run(file, found, memory, skip_bad, conflicts, as_json)
        return
    if found.refused and not skip_bad:
        raise DataError(
            f"{file} {_first(found)}; nothing was imported: mend it, or use --skip-bad to take the rest"
        )
    if not found.edits:
        raise DataError(f"{file} holds no edit that can be taken")
    found, further = unmarked(found)
    with opened(memory) as m, progress("encoding") as bar:
        added = m.add(found.edits, keep_both=further, progress=bar)
        total = len(m)
    bad = [f"{place}: {reason}" for place, reason in found.refused]
    for problem in bad:
        click.echo(f"skipped {problem}", err=True)
    summary = summed(found, added, total)
    if as_json:
        print_json({**summary, "bad": bad})
        return
    said = counts(summary, {**WORDS, "skipped": "skipped"})
    click.echo(f"imported {file} ({found.format}): {said}; the memory holds {counted(total, 'live edit')}")


def _labelled(found: Reading, tags: tuple[str, ...], source: str | None) -> Reading:
    """The edits with what the command line adds; those whose method is unknown are refused."""
    out = Reading(found.format, refused=list(found.refused))
    for edit, place in zip(found.edits, found.places, strict=True):
        try:
            if edit.method:
                method_info(edit.method)
            changed = edit.updated(tags=(*edit.tags, *tags), source=edit.source or source)
        except MemeditError as error:
            out.refused.append((place, str(error)))
        else:
            out.edits.append(changed)
            out.places.append(place)
    return replace(out, refused=sorted(out.refused, key=lambda pair: in_order(pair[0])))


def _first(found: Reading) -> str:
    """The first refusal, and how many more there are."""
    place, reason = found.refused[0]
    more = f" (and {len(found.refused) - 1} more)" if len(found.refused) > 1 else ""
    return f"{place}: {reason}{more}"


# -- export


@click.command()
@click.argument("file", type=click.Path(allow_dash=True), default="-")
@memory_option
@click.option("--tag", help="Only edits with this tag.")
@click.option(
    "--all", "everything", is_flag=True, help="Superseded and forgotten edits too, each with its status."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "csv", "tsv", FORMAT]),
    help="How to write them; peft writes their patches as an adapter.  [default: by the file's name, else jsonl]",
)
@_adapting
@json_option
def export(
    file: str,
    memory: str,
    tag: str | None,
    everything: bool,
    format_: str | None,
    as_json: bool,
    **adapting: Any,
) -> None:
    """Write the live edits as JSON lines, or as a table, that `import` reads back to the same edits.

    With --format peft, FILE is a new folder: the low-rank patches of the edits (those that --edit names, or all live ones)
    become one LoRA adapter that plain `peft` loads. It holds the edits of one --method for one --model.

    \b
    Examples:
      memedit export facts.jsonl
      memedit export facts.csv
      memedit export - --tag geography | head
      memedit export my-adapter --format peft --method rome --edit 3 --edit 7
    """
    how = Adapting(memory, **adapting)
    if format_ == FORMAT:
        if everything:
            raise click.UsageError("--all goes with JSON lines and tables; an adapter holds live edits")
        export_adapter(file, how, tag, as_json)
        return
    how.refuse()
    if file != "-" and Path(file).is_dir():
        raise click.UsageError(f"{file} is a directory; name a file for the edits")
    if as_json and file == "-":
        raise click.UsageError("the edits themselves go to standard output; with --json name a FILE for them")
    check_output(file)
    from memedit.data import table
    from memedit.memory import replayable

    with existing(memory, readonly=True) as m:
        records = m.list(tag=tag, status="all" if everything else "live")
        stay = m.beside([r.id for r in records if r.status == "live"])
    if not everything:
        # By what was said last, so that the newest is the newest again.
        records = replayable(sorted(records, key=lambda r: r.recency), stay)
    rows = [
        {
            **r.edit.to_dict(),
            **({KEEP_BOTH: True} if r.id in stay else {}),
            **({"status": r.status} if everything else {}),
        }
        for r in records
    ]
    kind = format_ or {".csv": "csv", ".tsv": "tsv"}.get(Path(file).suffix.lower(), "jsonl")
    if kind == "jsonl":
        write_json_lines(file, rows)
    else:
        write_text(file, table.write(rows, "\t" if kind == "tsv" else ","))
    if as_json:
        print_json({"file": file, "format": kind, "edits": len(rows)})
    else:
        click.echo(f"exported {counted(len(rows), 'edit')}{'' if file == '-' else f' to {file}'}", err=True)
