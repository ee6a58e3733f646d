"""Commands that take something back: forget (and purge), undo; and log, which lists what was done."""

from __future__ import annotations

import sys
from typing import Any

import click

from memedit.cli._group import (
    counted,
    existing,
    fact,
    find,
    json_option,
    memory_option,
    print_json,
    print_table,
)


@click.command()
@click.argument("ids_or_refs", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="Leave no byte of them in the memory's files. Can't be undone.")
@click.option("--yes", is_flag=True, help="Purge without asking (at a terminal; elsewhere nobody is asked).")
@memory_option
@json_option
def forget(ids_or_refs: tuple[str, ...], purge: bool, yes: bool, memory: str, as_json: bool) -> None:
    """Take edits out of use; their history stays, and `memedit undo` brings them back.

    Several are one operation: all of them, or none. What an edit superseded does not come back by itself.
    With --purge the edits go with all their versions, from the database, its log, the index and the patches;
    what stays is that there was an edit with this id. Backups and exports are yours to look after.

    \b
    Examples:
      memedit forget 3
      memedit forget 3 7 --purge
    """
    with existing(memory) as m:
        records = list({r.id: r for r in (find(m, name) for name in ids_or_refs)}.values())
        if purge:
            if not yes and sys.stdin.isatty():
                for record in records:
                    click.echo(f"edit {record.id}: {fact(record.edit)}", err=True)
                click.confirm("Purge for good?", abort=True, err=True)
            _purge(m, [r.id for r in records], as_json)
            return
        done = m.forget_all([r.id for r in records])
        if as_json:
            rows = [{"id": r.id, "status": r.status} for r in done]
            print_json(rows[0] if len(rows) == 1 else rows)
        else:
            for record in done:
                click.echo(f"forgot edit {record.id}: {fact(record.edit)}")


def _purge(memory: Any, ids: list[int], as_json: bool) -> None:
    done = memory.purge(ids)
    if as_json:
        print_json(
            {
                "purged": list(done.ids),
                "operation": done.operation,
                "finished": done.left is None,
                "left": done.left,
                "other_files": list(done.others),
            }
        )
        return
    names = ", ".join(map(str, done.ids))
    click.echo(
        f"purged {'edit' if len(done.ids) == 1 else 'edits'} {names}; backups and exports are yours to look after"
    )
    kept = [name for name in done.others if name.startswith(("memory.db.damaged-", ".repair-"))]
    if kept:
        click.echo(
            f"  what a repair kept may still hold them: {', '.join(kept)}; delete it when you no longer need it",
            err=True,
        )
    others = [name for name in done.others if name not in kept]
    if others:
        click.echo(f"  not looked into, being no part of the memory: {', '.join(others)}", err=True)
    if done.left:
        click.echo(f"  {done.left}", err=True)


@click.command()
@click.argument("operation", type=click.IntRange(min=1), required=False)
@memory_option
@json_option
def undo(operation: int | None, memory: str, as_json: bool) -> None:
    """Take back the last operation (an import is one), or an earlier one that `memedit log` lists.

    Again, and the one before is taken back. An earlier one can be named where no later one builds on it.

    \b
    Examples:
      memedit undo
      memedit undo 3
    """
    with existing(memory) as m:
        done = m.undo(operation)
        if as_json:
            undone = {"operation": done.id, "kind": done.kind, "at": done.at, "purged": list(done.passed)}
            print_json({"undone": undone, "edits": len(m)})
            return
        what = f"{done.kind} of {counted(done.edits, 'edit')}"
        click.echo(
            f"undone: the {what} at {done.at[:19]} UTC; the memory holds {counted(len(m), 'live edit')}"
        )
        if done.passed:
            names = ", ".join(map(str, done.passed))
            click.echo(f"  but not edit {names}: purged, nothing is left to bring back", err=True)


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The last so many.")
@memory_option
@json_option
def log(limit: int, memory: str, as_json: bool) -> None:
    """List what was done to the memory, newest first: the operations that `memedit undo` takes back.

    \b
    Example:
      memedit log --limit 5
    """
    with existing(memory, readonly=True) as m:
        operations = m.operations(limit)
    if as_json:
        print_json(
            [
                {
                    "operation": o.id,
                    "kind": o.kind,
                    "at": o.at,
                    "edits": o.edits,
                    "undoes": o.undoes,
                    "undone": o.undone,
                }
                for o in operations
            ]
        )
        return
    rows = [
        [
            o.id,
            o.at[:19],
            o.kind,
            o.edits,
            f"takes back {o.undoes}" if o.undoes else "undone" if o.undone else "",
        ]
        for o in operations
    ]
    print_table(["operation#", "when (UTC)", "what", "edits#", ""], rows)
