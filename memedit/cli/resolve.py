"""`memedit conflicts`: edits that may contradict each other, and what to do about them."""

from __future__ import annotations

from typing import Any

import click

from memedit.cli._group import existing, fact, find, json_option, memory_option, print_json

_memory = click.option("--memory", "-m", metavar="DIR", help="The memory's folder.")


@click.group(invoke_without_command=True)
@memory_option
@json_option
@click.pass_context
def conflicts(ctx: click.Context, memory: str, as_json: bool) -> None:
    """List pairs of edits that may contradict each other; decide which of them stay.

    Both edits of a pair stay until you decide; where a query concerns both, the newer is used. What was
    decided is not listed again, and can be undone. To drop one of a pair for good: `memedit forget`.

    \b
    Examples:
      memedit conflicts
      memedit conflicts keep-both 3 7      (two children: both are used)
      memedit conflicts supersede 3 7      (the newer takes the older's place)
    """
    ctx.obj = memory, as_json
    if ctx.invoked_subcommand is not None:
        return
    with existing(memory) as m:
        found = m.conflicts()
    if as_json:
        rows: list[dict[str, Any]] = [
            {
                "newer": {"id": c.newer.id, "statement": c.newer.edit.statement},
                "older": {"id": c.older.id, "statement": c.older.edit.statement},
                "similarity": round(c.similarity, 4),
                "wins": c.wins,
            }
            for c in found
        ]
        print_json(rows)
        return
    if not found:
        click.echo("no edits are suspected to contradict each other")
    for c in found:
        pair = f"{c.newer.id} {c.older.id}"
        click.echo(f"similarity {c.similarity:.2f}; where a query concerns both, edit {c.wins} is used")
        for record in (c.newer, c.older):
            click.echo(f"  edit {record.id}: {fact(record.edit)}")
        click.echo(
            f"  memedit conflicts keep-both {pair}  |  memedit conflicts supersede {pair}  |  memedit forget ID"
        )


@conflicts.command("keep-both")
@click.argument("one")
@click.argument("other")
@_memory
@json_option
@click.pass_obj
def keep_both(default: tuple[str, bool], one: str, other: str, memory: str | None, as_json: bool) -> None:
    """Let both edits be used: they state several values of one thing, such as two children.

    \b
    Example:
      memedit conflicts keep-both 3 7
    """
    with existing(memory or default[0]) as m:
        ids = find(m, one).id, find(m, other).id
        done = m.keep_both(*ids)
    if as_json or default[1]:
        print_json({"kept": list(ids), "operation": done.id})
    else:
        click.echo(
            f"edits {ids[0]} and {ids[1]} both stay, and both are used  (`memedit undo` takes this back)"
        )


@conflicts.command()
@click.argument("one")
@click.argument("other")
@click.option("--keep", metavar="ID_OR_REF", help="The one that stays.  [default: the newer]")
@_memory
@json_option
@click.pass_obj
def supersede(
    default: tuple[str, bool], one: str, other: str, keep: str | None, memory: str | None, as_json: bool
) -> None:
    """Let one of two edits take the other's place: the newer the older's, unless --keep says otherwise.

    \b
    Examples:
      memedit conflicts supersede 3 7
      memedit conflicts supersede 3 7 --keep 3
    """
    with existing(memory or default[0]) as m:
        older, newer = sorted((find(m, one), find(m, other)), key=lambda record: record.recency)
        if keep is not None:
            kept = find(m, keep).id
            if kept not in (older.id, newer.id):
                raise click.UsageError(f"--keep names edit {kept}, which is none of the two")
            if kept == older.id:
                older, newer = newer, older
        m.supersede(newer.id, older.id)
    if as_json or default[1]:
        print_json({"kept": newer.id, "superseded": older.id})
    else:
        click.echo(
            f"edit {newer.id} supersedes edit {older.id}: {fact(older.edit)}  (`memedit undo` brings it back)"
        )
