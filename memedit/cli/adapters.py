"""`memedit export` and `memedit import` with --format peft: patches as LoRA adapters. These load the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import counted, existing, find_live, print_json, progress
from memedit.errors import DataError, MethodError
from memedit.methods import load_method, method_info

if TYPE_CHECKING:
    from memedit.lm import HFModel
    from memedit.memory import EditMemory, Record
    from memedit.methods.patched import PatchMethod

FORMAT = "peft"


@dataclass(frozen=True)
class Adapting:
    """What both commands are told beside the folder: of the base, the method and its settings, and which edits."""

    memory: str
    edits: tuple[str, ...]
    model: str
    device: str | None
    dtype: str | None
    method: str | None
    settings: dict[str, Any]

    def refuse(self) -> None:
        """Options that belong to --format peft, given without it.

        Raises:
            UsageError: names them.
        """
        if self.edits or self.method or self.settings:
            raise click.UsageError("--edit, --method and --set go with --format peft")


def export_adapter(folder: str, how: Adapting, tag: str | None, as_json: bool) -> None:
    """Write the patches of edits as one adapter; what was not prepared is prepared."""
    from memedit.methods._adapter_file import write_adapter

    if folder == "-":
        raise click.UsageError("an adapter is a folder: name one")
    if tag and how.edits:
        raise click.UsageError("give --edit or --tag, not both")
    with existing(how.memory) as m:
        records = [find_live(m, name) for name in how.edits] or m.list(tag=tag)
        if not records:
            raise DataError("there is no live edit to export")
        base, method = _method(m, how, records)
        records = _newest(records)
        with progress("preparing") as bar:
            method.progress = bar.beside(method.once)
            modules = method.row_patch(base, [r.edit for r in records])
        assert modules is not None  # there are edits
        about = {"memedit.method": method.name, "memedit.edits": " ".join(str(r.id) for r in records)}
        ranks = write_adapter(Path(folder), base, modules, about)
    said = {"folder": folder, "format": FORMAT, "method": method.name, "edits": [r.id for r in records]}
    if as_json:
        print_json({**said, "base": base.fingerprint, "ranks": ranks})
        return
    click.echo(
        f"exported {counted(len(records), 'edit')} by {method.name} to {folder}: factors of {counted(len(ranks), 'module')}, "
        f"rank {max(ranks.values())} at most; an adapter is on for every prompt, with no router before it",
        err=True,
    )


def _newest(records: Sequence[Record]) -> list[Record]:
    """Oldest first, without those that a later one answers too: the adapter has none of these."""
    from memedit.methods.patched import newest

    ordered = sorted(records, key=lambda r: r.recency)
    counting = {id(edit) for edit in newest([r.edit for r in ordered])}
    return [r for r in ordered if id(r.edit) in counting]


def import_adapter(folder: str, how: Adapting, as_json: bool) -> None:
    """Keep an adapter as the patch of one edit."""
    from memedit.kept import adopt
    from memedit.methods._adapter_file import read_adapter

    if len(how.edits) != 1:
        raise click.UsageError("an adapter becomes the patch of one edit: name it by --edit")
    with existing(how.memory) as m:
        record = find_live(m, how.edits[0])
        base, method = _method(m, how, [record], otherwise="lora")
        kept = adopt(m, base, method, record, read_adapter(Path(folder), base), folder)
    said = {"folder": folder, "format": FORMAT, "edit": record.id, "method": method.name}
    if as_json:
        print_json({**said, "key": kept.key, "size": kept.size})
        return
    also = "" if record.edit.method == method.name else f"; ask with --method {method.name}"
    click.echo(f"edit {record.id} has {folder} as its patch by {method.name}: {kept.size:,} bytes{also}")


def _method(
    memory: EditMemory, how: Adapting, records: Sequence[Record], otherwise: str | None = None
) -> tuple[HFModel, PatchMethod]:
    """The base, and the one method of the edits.

    Args:
        otherwise: the method of an edit whose own has no patch of low rank.

    Raises:
        MethodError: they have several, or one whose patches can't be an adapter.
    """
    from memedit.kept import MemoryPatches
    from memedit.methods.patched import PatchMethod
    from memedit.router import Router

    if how.method:
        method_info(how.method)
    router = Router(memory, method=how.method)
    names = sorted({router.method_of(record.edit) for record in records})
    if otherwise and not how.method and not _low_rank(names[0]):
        names = [otherwise]
    if len(names) > 1:
        raise MethodError(f"the edits have several methods ({', '.join(names)}); take one by --method")
    if method_info(names[0]).patch == "nothing":
        raise MethodError(f"{names[0]} has no patches; take a method that has, such as --method lora")
    method = load_method(names[0], **how.settings.get(names[0], {}))
    if not isinstance(method, PatchMethod) or not method.low_rank:  # before anything is prepared
        raise MethodError(
            f"the patches of {names[0]} are no low-rank changes of weights; take --method lora or rome"
        )
    method.kept = MemoryPatches(memory)
    from memedit.lm import HFModel

    return HFModel.from_pretrained(how.model, device=how.device, dtype=how.dtype), method


def _low_rank(name: str) -> bool:
    from memedit.methods.patched import PatchMethod

    if method_info(name).patch == "nothing":
        return False
    method = load_method(name)
    return isinstance(method, PatchMethod) and method.low_rank
