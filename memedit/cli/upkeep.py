"""Commands around a memory and the models: doctor, rebuild, methods."""

from __future__ import annotations

import sys

import click

from memedit.cli._group import (
    counted,
    existing,
    json_option,
    memory_option,
    print_json,
    print_table,
    progress,
)
from memedit.methods import METHODS


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
