"""`memedit merge`: a model with edits in its weights, for use without memedit."""

from __future__ import annotations

import os
import shutil
import tempfile
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
from memedit.loading import find_model
from memedit.methods import load_method, method_info

if TYPE_CHECKING:
    import torch

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
    The weights are saved in the type that the base's are stored in, or in that of --dtype.

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
    kept_as = None if dtype else _stored(model)
    if kept_as is not None:
        _round(merged.lm, kept_as)  # what is measured is what is saved
    before, after = standard.measure(base), standard.measure(merged.lm)
    _save(merged.lm, folder, kept_as)
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


def _stored(model: str) -> torch.dtype | None:
    """What a checkpoint's config says that its weights are stored in; a CPU computes in float32 all the same."""
    import torch
    from transformers import AutoConfig

    found = getattr(AutoConfig.from_pretrained(find_model(model)), "dtype", None)
    return found if isinstance(found, torch.dtype) else None


def _round(lm: HFModel, dtype: torch.dtype) -> None:
    """Weights to what a type can hold; they stay of the type that they are computed in."""
    import torch

    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.copy_(weight.to(dtype))


def _save(lm: HFModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Whole or not at all.

    Args:
        dtype: of the saved weights; None leaves them as they are, and the model is good for nothing else otherwise.
    """
    if dtype is not None:
        lm.model.to(dtype)
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
        f"{100 * before.accuracy:.0f} % before, {100 * after.accuracy:.0f} % now, "
        f"{100 * after.beside(before)['changed']:.0f} % of these outputs changed ({standard})"
    )
    for record, error in refused:
        click.echo(f"edit {record.id} was left out: {error}", err=True)
    click.echo(f"warning: merged edits change what no edit is about: {drift}", err=True)
    if as_json:
        left = [{"edit": record.id, "error": error} for record, error in refused]
        one, other = ({"perplexity": d.perplexity, "accuracy": d.accuracy} for d in (before, after))
        changed = after.beside(before)["changed"]
        measured = {"before": one, "after": other, "changed": changed, "on": str(standard)}
        print_json({"folder": output, "method": name, "edits": edits, "left_out": left, "drift": measured})
    else:
        click.echo(
            f"merged {counted(edits, 'edit')} by {name} into {output}, a model for use without memedit"
        )
