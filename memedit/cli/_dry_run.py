"""What an import would do, shown; and what commands that read files of edits share."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import counted, existing, opened, print_json, print_table, progress
from memedit.data import Reading

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.memory import Added, EditMemory

_SHOWN = 20  # rows of a dry run that people see
KEEP_BOTH = "keep_both"  # the key by which a line says that it is a further value beside what is known

WORDS = {
    "new": "new",
    "superseded": "older superseded",
    "duplicates": "known already",
    "renewed": "of them the newest word again",
    "conflicts": "possible conflict",
    "skipped": "refused",
}


def unmarked(found: Reading) -> tuple[Reading, list[int]]:
    """The edits without the mark of further values, and the positions of those that had it."""
    marked = [n for n, e in enumerate(found.edits) if str(e.extra.get(KEEP_BOTH)).casefold() == "true"]
    edits = list(found.edits)
    for n in marked:
        edits[n] = edits[n].updated(extra={k: v for k, v in edits[n].extra.items() if k != KEEP_BOTH})
    return replace(found, edits=edits), marked


def in_order(place: str) -> tuple[int, ...]:
    """Places sort as they stand in the file."""
    return tuple(map(int, re.findall(r"\d+", place)))


def summed(found: Reading, added: Added, total: int) -> dict[str, Any]:
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


def counts(summary: dict[str, Any], words: dict[str, str]) -> str:
    said = {key: f"{summary[key]:,} {text}" for key, text in words.items() if summary[key] or key == "new"}
    if "conflicts" in said:
        said["conflicts"] = counted(summary["conflicts"], words["conflicts"])
    return ", ".join(said.values())


# -- the dry run


def show_dry_run(
    file: str, found: Reading, memory: str, skip_bad: bool, conflicts: bool, as_json: bool
) -> None:
    """Say what the import would do. It runs in a transaction that is taken back, so it is just what would happen."""
    found, further = unmarked(found)
    with _as_it_is(memory) as m, progress("encoding") as bar:
        added = m.preview(found.edits, keep_both=further, conflicts=conflicts, progress=bar)
        total = len(m) + len(added.new) - len(added.superseded)
        rows = rows_of(found, added, lambda id: m.get(id).edit)
    summary = summed(found, added, total)
    taken = bool(found.edits) and (skip_bad or not found.refused)
    if as_json:
        if not conflicts:
            summary["conflicts"] = None
        print_json({"dry_run": True, "would_import": taken, **summary, "rows": rows})
        return
    click.echo(f"dry run of {file} ({found.format}), nothing was changed: {counts(summary, WORDS)}")
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


def rows_of(found: Reading, added: Added, old: Callable[[int], Edit]) -> list[dict[str, Any]]:
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
    return sorted(rows, key=lambda row: in_order(row["at"]))


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
