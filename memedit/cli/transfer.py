"""Commands that take edits from files and write them to files: import and export. None of them loads the base model."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import (
    check_output,
    counted,
    existing,
    json_option,
    memory_option,
    opened,
    print_json,
    print_table,
    progress,
    write_json_lines,
    write_text,
)
from memedit.data import NAMES, Reading, read
from memedit.errors import DataError, MemeditError
from memedit.methods import method_info

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.memory import Added, EditMemory

_SHOWN = 20  # rows of a dry run that people see
_KEEP_BOTH = "keep_both"  # the key by which a line says that it is a further value beside what is known

_WORDS = {
    "new": "new",
    "superseded": "older superseded",
    "duplicates": "known already",
    "renewed": "of them the newest word again",
    "conflicts": "possible conflict",
    "skipped": "refused",
}


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
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
    type=click.Choice(NAMES),
    metavar="NAME",
    help=f"Read it as this: {', '.join(NAMES)}.  [default: seen from the file]",
)
@click.option("--tag", "tags", multiple=True, help="Label all edits of this import (repeatable).")
@click.option("--source", help="Where they come from, for those that don't say.")
@click.option(
    "--conflicts/--no-conflicts",
    default=True,
    show_default=True,
    help="Whether a dry run looks for possible conflicts, for which it encodes the edits.",
)
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
) -> None:
    """Import edits: JSON lines, JSON, CSV, or a public data set.

    Own lines have prompt and target, or statement; a table's first line names such columns (question and
    answer will do). CounterFact, zsRE, KnowEdit and MQuAKE are read as they are published, also gzipped.

    A line with "keep_both": true is a further value (a second child), as by `add-fact --keep-both`.

    All or nothing: a bad line is named and nothing is taken, unless --skip-bad. One import is one
    operation: `memedit undo` takes all of it back. Unknown keys are kept and exported again.

    \b
    Examples:
      memedit import indexes/example.jsonl
      memedit import facts.csv --dry-run
      memedit import counterfact.json --limit 1000 --memory indexes/counterfact
      cat facts.jsonl | memedit import - --skip-bad
    """
    if not (conflicts or dry_run):
        raise click.UsageError("--no-conflicts is for --dry-run: an import always looks for conflicts")
    found = _labelled(read(file, limit, format_), tags, source)
    if dry_run:
        _dry_run(file, found, memory, skip_bad, conflicts, as_json)
        return
    if found.refused and not skip_bad:
        raise DataError(
            f"{file} {_first(found)}; nothing was imported: mend it, or use --skip-bad to take the rest"
        )
    if not found.edits:
        raise DataError(f"{file} holds no edit that can be taken")
    found, further = _further(found)
    with opened(memory) as m, progress("encoding") as bar:
        added = m.add(found.edits, keep_both=further, progress=bar)
        total = len(m)
    bad = [f"{place}: {reason}" for place, reason in found.refused]
    for problem in bad:
        click.echo(f"skipped {problem}", err=True)
    summary = _summary(found, added, total)
    if as_json:
        print_json({**summary, "bad": bad})
        return
    said = _counts(summary, {**_WORDS, "skipped": "skipped"})
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
    return replace(out, refused=sorted(out.refused, key=lambda pair: _position(pair[0])))


def _further(found: Reading) -> tuple[Reading, list[int]]:
    """The edits without the mark of further values, and the positions of those that had it."""
    marked = [n for n, e in enumerate(found.edits) if str(e.extra.get(_KEEP_BOTH)).casefold() == "true"]
    edits = list(found.edits)
    for n in marked:
        edits[n] = edits[n].updated(extra={k: v for k, v in edits[n].extra.items() if k != _KEEP_BOTH})
    return replace(found, edits=edits), marked


def _position(place: str) -> tuple[int, ...]:
    """Places sort as they stand in the file."""
    return tuple(map(int, re.findall(r"\d+", place)))


def _first(found: Reading) -> str:
    """The first refusal, and how many more there are."""
    place, reason = found.refused[0]
    more = f" (and {len(found.refused) - 1} more)" if len(found.refused) > 1 else ""
    return f"{place}: {reason}{more}"


def _summary(found: Reading, added: Added, total: int) -> dict[str, Any]:
    return {
        "format": found.format,
        "new": len(added.new),
        "superseded": len(added.superseded),
        "duplicates": len(added.duplicates),
        "renewed": len(added.renewed),
        "conflicts": len(added.conflicts),
        "skipped": len(found.refused),
        "edits": total,
    }


def _counts(summary: dict[str, Any], words: dict[str, str]) -> str:
    said = {key: f"{summary[key]:,} {text}" for key, text in words.items() if summary[key] or key == "new"}
    if "conflicts" in said:
        said["conflicts"] = counted(summary["conflicts"], words["conflicts"])
    return ", ".join(said.values())


# -- the dry run


def _dry_run(file: str, found: Reading, memory: str, skip_bad: bool, conflicts: bool, as_json: bool) -> None:
    """Say what the import would do. It runs in a transaction that is taken back, so it is just what would happen."""
    found, further = _further(found)
    with _as_it_is(memory) as m, progress("encoding") as bar:
        added = m.preview(found.edits, keep_both=further, conflicts=conflicts, progress=bar)
        total = len(m) + len(added.new) - len(added.superseded)
        rows = _rows(found, added, lambda id: m.get(id).edit)
    summary = _summary(found, added, total)
    taken = bool(found.edits) and (skip_bad or not found.refused)
    if as_json:
        if not conflicts:
            summary["conflicts"] = None
        print_json({"dry_run": True, "would_import": taken, **summary, "rows": rows})
        return
    click.echo(f"dry run of {file} ({found.format}), nothing was changed: {_counts(summary, _WORDS)}")
    # What is just new comes last: the others are what one looks for.
    shown = sorted(rows, key=lambda row: _what(row) == "new")[:_SHOWN]
    print_table(
        ["at", "id#", "what", "fact"],
        [[row["at"], row.get("id"), _what(row), _fact(row)] for row in shown],
    )
    if len(rows) > len(shown):
        click.echo(f"... and {len(rows) - len(shown):,} more; --json has all")
    if not conflicts:
        click.echo("possible conflicts were not looked for")
    if taken:
        click.echo(f"the memory would hold {counted(total, 'live edit')}")
    elif found.edits:
        click.echo(
            "as it is, nothing would be imported: mend what is refused, or use --skip-bad to take the rest"
        )
    else:
        click.echo("it holds no edit that can be taken")


@contextmanager
def _as_it_is(path: str) -> Iterator[EditMemory]:
    """The memory at `path`; where there is none yet, an empty one elsewhere, so that none is made."""
    folder = Path(path)
    inside = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    if inside or folder.is_file():
        with existing(path) as m:
            yield m
        return
    with tempfile.TemporaryDirectory(prefix="memedit-dry-run-") as empty, opened(empty) as m:
        yield m


def _rows(found: Reading, added: Added, old: Callable[[int], Edit]) -> list[dict[str, Any]]:
    """What would become of each record, in the file's order.

    Args:
        old: the edit with an id, of those that are in the memory already.
    """
    known = set(added.duplicates)
    at = {
        id: place for n, (id, place) in enumerate(zip(added.ids, found.places, strict=True)) if n not in known
    }
    texts = {
        id: edit.statement
        for n, (id, edit) in enumerate(zip(added.ids, found.edits, strict=True))
        if n not in known
    }

    def other(id: int) -> dict[str, Any]:
        """Another edit: of this file, or of the memory."""
        here = {"at": at[id]} if id in at else {}
        return {"id": id, **here, "statement": texts.get(id) or old(id).statement}

    rows: list[dict[str, Any]] = []
    by_id: dict[int, dict[str, Any]] = {}
    for n, (id, place, edit) in enumerate(zip(added.ids, found.places, found.edits, strict=True)):
        row = {
            "at": place,
            "action": "duplicate" if n in known else "new",
            "id": id,
            "statement": edit.statement,
        }
        if edit.kind == "erase":
            row["kind"] = edit.kind
        if n in known and id in added.renewed:
            row["renewed"] = True
        if n in known and id in at:
            row["of"] = at[id]
        elif n not in known:
            by_id[id] = row
        rows.append(row)
    for older, newer in added.superseded:
        by_id[newer].setdefault("supersedes", []).append(other(older))
        if older in by_id:
            by_id[older]["superseded_by"] = other(newer)
    for newer, older, cosine in added.conflicts:
        if newer in by_id:
            by_id[newer].setdefault("conflicts", []).append({**other(older), "similarity": round(cosine, 4)})
    rows += [{"at": place, "action": "refused", "reason": reason} for place, reason in found.refused]
    return sorted(rows, key=lambda row: _position(row["at"]))


def _fact(row: dict[str, Any]) -> str:
    """What a row says, or why it is refused."""
    said = str(row.get("statement", row.get("reason")))
    return f"{said} (withheld)" if row.get("kind") == "erase" else said


def _what(row: dict[str, Any]) -> str:
    """A row's fate in few words."""
    if row["action"] == "duplicate":
        known = f"known already ({row['of']})" if "of" in row else "known already"
        return f"{known}, the newest word again" if row.get("renewed") else known
    said = [row["action"]]
    for one in row.get("supersedes", ()):
        said.append(f"supersedes {_named(one)}")
    for one in row.get("conflicts", ()):
        said.append(f"may conflict with {_named(one)}")
    if "superseded_by" in row:
        said.append(f"superseded by {_named(row['superseded_by'])}")
    return ", ".join(said)


def _named(one: dict[str, Any]) -> str:
    return f"{one['id']} ({one['at']})" if "at" in one else f"{one['id']}: {one['statement']}"


# -- export


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@memory_option
@click.option("--tag", help="Only edits with this tag.")
@click.option(
    "--all", "everything", is_flag=True, help="Superseded and forgotten edits too, each with its status."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "csv", "tsv"]),
    help="How to write them.  [default: by the file's name, else jsonl]",
)
@json_option
def export(
    file: str, memory: str, tag: str | None, everything: bool, format_: str | None, as_json: bool
) -> None:
    """Write the live edits as JSON lines, or as a table, that `import` reads back to the same edits.

    \b
    Examples:
      memedit export facts.jsonl
      memedit export facts.csv
      memedit export - --tag geography | head
    """
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
            **({_KEEP_BOTH: True} if r.id in stay else {}),
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
