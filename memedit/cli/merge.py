"""`memedit merge`: a model with edits in its weights, for use without memedit."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import (
    counted,
    existing,
    find_live,
    json_option,
    memory_option,
    model_options,
    print_json,
    progress,
    settings_option,
)
from memedit.errors import DataError, MemeditError, MethodError
from memedit.methods import load_method, method_info

if TYPE_CHECKING:
    from memedit.drift import Drift
    from memedit.lm import HFModel
    from memedit.memory import Record


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID_OR_REF]...")
@click.option("--output", required=True, type=click.Path(), metavar="DIR", help="A new folder for the model.")
@click.option(
    "--method",
    metavar="NAME",
    help="The editing method of all of them.  [default: the edits' own, if it is one]",
)
@click.option(
    "--text",
    metavar="FILE",
    help="Running text whose perplexity is compared.  [default: sentences that ship]",
)
@click.option(
    "--passages", type=click.IntRange(min=1), default=100, show_default=True, help="So many passages of it."
)
@click.option(
    "--questions",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="So many of the shipped questions.",
)
@settings_option
@model_options
@memory_option
@json_option
def merge(
    ids: tuple[str, ...], output: str, method: str | None, text: str | None, passages: int, questions: int,
    settings: dict[str, Any], model: str, device: str | None, dtype: str | None, memory: str, as_json: bool,
) -> None:  # fmt: skip
    """Write edits into the weights of a copy of the base, one after another, and save it as a model of its own.

    Each edit is solved on the weights that those before it changed. There is no router in such a model: it is how the
    literature edits, and what else it changes is printed. Behind memedit's router nothing of the sort is lost.

    \b
    Examples:
      memedit merge --method rome --output rome-model
      memedit merge 3 7 --method ft-m --output two-edits --text wikitext.txt
    """
    from memedit.drift import Standard
    from memedit.lm import HFModel
    from memedit.merging import Merged

    folder = _new(output)
    standard = Standard.of(text, passages, questions)
    with existing(memory, readonly=True) as m:
        records = sorted([find_live(m, name) for name in ids] or m.list(), key=lambda r: r.recency)
        name = method or _one_method(
            [m.default_method if r.edit.method is None else r.edit.method for r in records]
        )
        method_info(name)
        base = HFModel.from_pretrained(model, device=device, dtype=dtype)
        merged = Merged(base, load_method(name, **settings.get(name, {})))
        refused = []
        with progress("merging") as bar:
            for i, record in enumerate(records):
                try:
                    merged.add(record.edit)
                except MemeditError as error:
                    refused.append((record, str(error)))
                bar(i + 1, len(records))
    if not merged.edits:
        raise MethodError(
            f"no edit could be merged: {refused[0][1]}" if refused else "there is no live edit to merge"
        )
    before, after = standard.measure(base), standard.measure(merged.lm)
    _save(merged.lm, folder)
    _say(output, name, merged.edits, refused, standard, before, after, as_json)


def _new(output: str) -> Path:
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{output} is there and not empty; name a new folder for the model")
    if not folder.absolute().parent.is_dir():
        raise DataError(f"there is no folder {folder.absolute().parent} for the model; make it first")
    return folder.absolute()


def _one_method(names: list[str]) -> str:
    if len(set(names)) > 1:
        raise MethodError(
            f"the edits have several methods ({', '.join(sorted(set(names)))}); take one by --method"
        )
    return names[0] if names else "rome"


def _save(lm: HFModel, folder: Path) -> None:
    """Whole or not at all."""
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        lm.model.save_pretrained(beside)
        lm.tokenizer.save_pretrained(beside)
        beside.chmod(0o755)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _say(
    output: str, name: str, edits: int, refused: list[tuple[Record, str]], standard: Any, before: Drift, after: Drift,
    as_json: bool,
) -> None:  # fmt: skip
    drift = (
        f"perplexity {before.perplexity:.1f} before, {after.perplexity:.1f} now; right answers "
        f"{100 * before.accuracy:.0f} % before, {100 * after.accuracy:.0f} % now ({standard})"
    )
    for record, error in refused:
        click.echo(f"edit {record.id} was left out: {error}", err=True)
    click.echo(f"warning: merged edits change what no edit is about: {drift}", err=True)
    if as_json:
        left = [{"edit": record.id, "error": error} for record, error in refused]
        measured = {"before": asdict(before), "after": asdict(after), "on": str(standard)}
        print_json({"folder": output, "method": name, "edits": edits, "left_out": left, "drift": measured})
    else:
        click.echo(
            f"merged {counted(edits, 'edit')} by {name} into {output}, a model for use without memedit"
        )
