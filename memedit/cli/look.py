"""Commands that look into a memory: list, show, search, history, stats."""

from __future__ import annotations

import json
from typing import Any

import click

from memedit.cli._group import (
    counted,
    existing,
    fact,
    find,
    json_option,
    memory_option,
    moment,
    print_json,
    print_table,
)


@click.command("list")
@click.option("--tag", help="Only edits with this tag.")
@click.option("--source", help="Only edits from this source.")
@click.option("--subject", help="Only edits about this subject.")
@click.option("--method", help="Only edits that name this method.")
@click.option(
    "--status",
    type=click.Choice(["live", "superseded", "forgotten", "purged", "all"]),
    default="live",
    show_default=True,
    help="Which edits; all but the purged.",
)
@click.option(
    "--as-of",
    metavar="TIME",
    callback=moment,
    help="What was live then, as it was then, e.g. 2026-11-21T12:00; a date alone is its first moment.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--offset", type=click.IntRange(0, 2**62), default=0, help="Leave out the first so many.")
@memory_option
@json_option
def list_(memory: str, as_of: str | None, as_json: bool, **filters: Any) -> None:
    """List edits: those of now, or those that the memory knew at some time (UTC where no zone is given).

    \b
    Examples:
      memedit list --tag geography
      memedit list --status all --json
      memedit list --as-of 2026-11-21
    """
    if as_of is not None and filters.pop("status") != "live":
        raise click.UsageError("--as-of lists what was live then; leave --status out")
    with existing(memory, readonly=True) as m:
        records = m.list(**filters) if as_of is None else m.as_of(as_of, **filters)
        total = len(m)
    if as_json:
        print_json(
            [
                {**r.edit.to_dict(), "id": r.id, "status": r.status, "version": r.version, "added": r.added}
                for r in records
            ]
        )
        return
    rows = [
        [r.id, fact(r.edit), r.edit.ref, r.edit.method, ", ".join(r.edit.tags), r.status, r.added[:16]]
        for r in records
    ]
    kept = [i for i in range(7) if i in (0, 1, 6) or any(row[i] for row in rows)]
    headers = ["id#", "fact", "ref", "method", "tags", "status", "added (UTC)"]
    print_table([headers[i] for i in kept], [[row[i] for i in kept] for row in rows])
    now = "" if as_of is None else " now"
    click.echo(f"{len(records):,} shown; {counted(total, 'live edit')}{now} in {memory}")


@click.command()
@click.argument("id_or_ref")
@memory_option
@json_option
def show(id_or_ref: str, memory: str, as_json: bool) -> None:
    """Show all fields of one edit, and which patches were prepared for it, their size and what they cost.

    \b
    Example:
      memedit show 3
    """
    with existing(memory, readonly=True) as m:
        r = find(m, id_or_ref)
        from memedit.kept import described

        patches = described(m, r.id)
    data: dict[str, Any] = {
        "id": r.id,
        "status": r.status,
        "version": r.version,
        "added": r.added,
        "changed": r.changed,
    }
    if r.superseded_by:
        data["superseded_by"] = r.superseded_by
    data = {**{k: v for k, v in r.edit.to_dict().items() if k not in data}, **data}
    if patches:
        data["patches"] = patches
    if as_json:
        print_json(data)
    else:
        print_table(
            ["field", "value"],
            [
                [k, ", ".join(map(str, v)) if isinstance(v, list) else v]
                for k, v in data.items()
                if k != "patches"
            ],
        )
        for patch in patches:
            click.echo(_said(patch))


def _said(patch: dict[str, Any]) -> str:
    """A patch in one line."""
    notes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in patch["notes"].items())
    cost = "" if patch["seconds"] is None else f", {patch['seconds']:.2f} s"
    base = f" for base {patch['base']}" if patch["base"] else ""
    given = ", ".join(f"{name}={json.dumps(value)}" for name, value in patch["given"].items())
    parts = (
        f"patch {patch['key']}: {patch['method']}{base}, {patch['size']:,} bytes{cost}",
        "for an earlier version of the edit, and not used now" if patch["earlier"] else "",
        f"set {given}" if given else "",
        notes,
    )
    return "; ".join(part for part in parts if part)


@click.command()
@click.argument("text")
@click.option("-k", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@memory_option
@json_option
def search(text: str, k: int, memory: str, as_json: bool) -> None:
    """Find the edits whose statement is nearest in meaning to a text.

    \b
    Example:
      memedit search "seat of the French government" -k 5
    """
    if not text.strip():
        raise click.UsageError("give a text to search for")
    with existing(memory, readonly=True) as m:
        found = m.search(text, k)
    if as_json:
        print_json(
            [
                {"id": n.record.id, "cosine": round(n.cosine, 4), "statement": n.record.edit.statement}
                for n in found
            ]
        )
    else:
        print_table(
            ["id#", "cosine#", "fact"],
            [[n.record.id, f"{n.cosine:.3f}", fact(n.record.edit)] for n in found],
        )


@click.command()
@click.argument("id_or_ref")
@memory_option
@json_option
def history(id_or_ref: str, memory: str, as_json: bool) -> None:
    """Show every version of an edit, oldest first.

    \b
    Example:
      memedit history 3
    """
    with existing(memory, readonly=True) as m:
        versions = m.history(find(m, id_or_ref).id)
    if as_json:
        print_json(
            [
                {
                    "version": v.version,
                    "action": v.action,
                    "status": v.status,
                    "at": v.at,
                    "edit": v.edit.to_dict(),
                }
                for v in versions
            ]
        )
    else:
        print_table(
            ["version#", "when (UTC)", "what", "then", "fact"],
            [[v.version, v.at[:19], v.action, v.status, fact(v.edit) or "(purged)"] for v in versions],
        )


@click.command()
@memory_option
@json_option
def stats(memory: str, as_json: bool) -> None:
    """Count edits, and say what the memory is made of and how big it is.

    \b
    Example:
      memedit stats
    """
    with existing(memory, readonly=True) as m:
        data = m.stats()
    if as_json:
        print_json(data)
    else:
        print_table(
            ["", "value"],
            [[k.replace("_", " "), f"{v:,}" if isinstance(v, int) else v] for k, v in data.items()],
        )
