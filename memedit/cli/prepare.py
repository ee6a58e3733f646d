"""Commands that solve for patches: prepare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import (
    Bar,
    counted,
    existing,
    find_live,
    json_option,
    memory_option,
    method_option,
    model_options,
    print_json,
    progress,
    settings_option,
)
from memedit.methods import load_method, method_info

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.kept import Prepared
    from memedit.lm import HFModel
    from memedit.memory import EditMemory, Record

Solving = Callable[[Sequence["Record"], bool], Iterator["Prepared"]]


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID_OR_REF]...")
@click.option("--tag", metavar="TAG", help="All live edits with this tag.")
@click.option("--anew", is_flag=True, help="Also what was prepared already.")
@model_options
@method_option
@settings_option
@memory_option
@json_option
def prepare(
    ids: tuple[str, ...], tag: str | None, anew: bool, model: str, device: str | None, dtype: str | None, method: str | None,
    settings: dict[str, Any], memory: str, as_json: bool,
) -> None:  # fmt: skip
    """Solve for the patches of edits ahead of their first use: of those named, or of all live ones.

    Each edit is solved for alone, and stored before the next is begun, so that a stopped run goes on where it was.
    A patch belongs to one base and one set of settings; those of others stay and are never applied.
    Methods that only state the fact (ice, ike) have nothing to prepare.

    \b
    Examples:
      memedit prepare --method rome
      memedit prepare 3 7 --method ft-m --set ft-m.steps=40 --json
    """
    if method:
        method_info(method)
    if tag and ids:
        raise click.UsageError("name edits or give --tag, not both")
    with existing(memory) as m, progress("preparing") as bar:
        records = [find_live(m, name) for name in ids] or m.list(tag=tag)
        base, solving, _ = solve(m, model, device, dtype, method, settings, bar)
        done = []
        bar(0, len(records))
        for one in solving(records, anew):
            done.append(one)
            bar(len(done), len(records))
    if as_json:
        print_json([asdict(one) for one in done])
    else:
        say(done, base)
    if any(one.error for one in done):
        sys.exit(1)


def solve(
    memory: EditMemory,
    model: str,
    device: str | None,
    dtype: str | None,
    method: str | None,
    settings: dict[str, Any],
    bar: Bar,
) -> tuple[HFModel, Solving, Callable[[Edit], str | None]]:
    """The base, a function that prepares records (all anew, if it is told so), and one that tries an edit that is not yet
    in the memory: its patch is held for when it is, and its key given where it was made now.
    """
    from memedit.demonstrations import handed
    from memedit.kept import MemoryPatches, bound
    from memedit.kept import prepare as prepared
    from memedit.lm import HFModel
    from memedit.methods.base import EditMethod
    from memedit.methods.patched import PatchMethod
    from memedit.router import Router

    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    router, patches, loaded = Router(memory, method=method), MemoryPatches(memory), dict[str, EditMethod]()

    def method_of(edit: Edit) -> EditMethod:
        name = router.method_of(edit)
        if name not in loaded:
            given = {**handed(method_info(name).handed, memory), **settings.get(name, {})}
            own = loaded[name] = bound(load_method(name, **given), patches)
            if isinstance(own, PatchMethod):
                own.progress = bar.beside(own.once)
        return loaded[name]

    def tried(edit: Edit) -> str | None:
        own = method_of(edit)
        if not isinstance(own, PatchMethod):
            return None
        key = own.key(base, edit)
        if patches.get(key) is not None:
            return None
        patches.hold(key, own.prepare(base, edit))
        return key

    return base, lambda records, anew: prepared(patches, base, records, method_of, anew=anew), tried


def say(done: Sequence[Prepared], base: HFModel) -> None:
    """What became of each edit, for people."""
    for one in done:
        if one.error:
            click.echo(f"edit {one.id}: {one.error}", err=True)
    new = [one for one in done if one.new]
    there = sum(one.key is not None and not one.new for one in done)
    none = [one for one in done if one.key is None and not one.error]
    seconds, size = sum(one.seconds for one in new), sum(one.size for one in new)
    parts = [
        f"prepared {counted(len(new), 'patch').replace('patchs', 'patches')} for base {base.fingerprint[:12]}"
    ]
    if new:
        parts.append(f"{seconds:.1f} s and {size:,} bytes in all")
    if there:
        parts.append(f"{there:,} there already")
    if none:
        parts.append(
            f"{counted(len(none), 'edit')} by {', '.join(sorted({one.method for one in none}))} with nothing to prepare"
            + ("" if new or there else "; take a method that has patches by --method, such as --method rome")
        )
    others = sum(one.others for one in done)
    if others:
        parts.append(f"{others:,} for other bases or settings stay and are not used here")
    click.echo("; ".join(parts))
