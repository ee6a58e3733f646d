"""The demonstrations that the method `ike` shows a model before a fact: build, show, list, remove."""

from __future__ import annotations

from typing import Any

import click

from memedit.cli._group import (
    counted,
    existing,
    json_option,
    memory_option,
    opened,
    print_json,
    print_table,
    progress,
)

_SHOWN = 5  # of what was left out of a build


@click.group()
def demos() -> None:
    """Demonstrations for the method ike: other new facts, and how questions are answered under them.

    A memory without its own uses a small set that ships. They are no edits, and change no answer by themselves.

    \b
    Examples:
      memedit demos build facts.jsonl
      memedit ask "What is the capital of France?" --method ike
    """


@demos.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--limit", type=click.IntRange(min=1), help="Take the first so many.  [default: all]")
@memory_option
@json_option
def build(file: str, limit: int | None, memory: str, as_json: bool) -> None:
    """Build a memory's demonstrations from a file, in the place of those it had.

    FILE is a public data set (CounterFact, ...: its paraphrases and its locality queries with answers are used), or
    JSON lines {"prompt", "target", "subject"?, "paraphrases": [...], "neighbours": [{"prompt", "answer"}]}. Take no
    data that you are going to score with.

    \b
    Examples:
      memedit demos build counterfact-train.json
      memedit demos build mine.jsonl --memory indexes/mine
    """
    from memedit.data import read_demonstrations
    from memedit.demonstrations import build as build_store

    read = read_demonstrations(file, limit)
    with opened(memory) as m, progress("encoding") as bar:
        build_store(m.path, read.facts, m.encoder, source=file, progress=bar)
    update = sum(bool(fact.paraphrases) for fact in read.facts)
    retain = sum(bool(fact.neighbours) for fact in read.facts)
    if as_json:
        counts = {"copy": len(read.facts), "update": update, "retain": retain}
        print_json(
            {"memory": memory, "facts": len(read.facts), "can_show": counts, "left_out": read.left_out}
        )
        return
    click.echo(
        f"built demonstrations from {counted(len(read.facts), 'fact')} in {memory}: "
        f"{update:,} with a paraphrase, {retain:,} with a neighbour"
    )
    for kind, number, field in (("update", update, "paraphrases"), ("retain", retain, "neighbours")):
        if not number:
            click.echo(f"  no fact has {field}: there will be no {kind} demonstration", err=True)
    for text in read.left_out[:_SHOWN]:
        click.echo(f"  left out: {text}", err=True)
    if len(read.left_out) > _SHOWN:
        click.echo(f"  and {len(read.left_out) - _SHOWN:,} more (--json lists all)", err=True)


@demos.command()
@memory_option
@json_option
def show(memory: str, as_json: bool) -> None:
    """Show what a memory's demonstrations are: how many, from which file, by which encoder.

    \b
    Example:
      memedit demos show
    """
    store = _store(memory)
    about: dict[str, Any] = {k: v for k, v in store.about.items() if k not in ("format", "sha256")}
    about["facts"] = len(store)
    about["with_paraphrases"] = sum(bool(fact.paraphrases) for fact in store)
    about["with_neighbours"] = sum(bool(fact.neighbours) for fact in store)
    if as_json:
        print_json(about)
    else:
        print_table(["", "value"], [[k.replace("_", " "), v] for k, v in about.items()])


@demos.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@memory_option
@json_option
def list_(memory: str, limit: int, as_json: bool) -> None:
    """List the facts of a memory's demonstrations; with --json as lines that build takes.

    \b
    Example:
      memedit demos list --limit 10
    """
    store = _store(memory)
    facts = [fact for _, fact in zip(range(limit), store, strict=False)]
    if as_json:
        print_json([fact.to_dict() for fact in facts])
        return
    rows = [
        [
            f.statement,
            f.paraphrases[0] if f.paraphrases else "",
            " ".join(f.neighbours[0]) if f.neighbours else "",
        ]
        for f in facts
    ]
    print_table(["new fact", "paraphrase", "left alone"], rows)
    click.echo(f"{len(facts):,} shown; {counted(len(store), 'fact')} in all, from {store.about['source']}")


@demos.command()
@memory_option
@json_option
def remove(memory: str, as_json: bool) -> None:
    """Take a memory's own demonstrations away; ike then uses those that ship.

    \b
    Example:
      memedit demos remove
    """
    from memedit.demonstrations import remove as remove_store

    with existing(memory, readonly=True) as m:
        there = remove_store(m.path)
    if as_json:
        print_json({"memory": memory, "removed": there})
        return
    click.echo(
        f"removed the demonstrations of {memory}" if there else f"{memory} has no demonstrations of its own"
    )


def _store(memory: str) -> Any:
    """The memory's store; else the shipped one, whose vectors nobody asks for here."""
    from memedit.demonstrations import DemonstrationStore

    with existing(memory, readonly=True) as m:
        return DemonstrationStore.read(m.path) or DemonstrationStore.shipped(m.encoder)
