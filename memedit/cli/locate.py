"""Commands that look into a model: locate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import (
    check_output,
    counted,
    existing,
    find,
    json_option,
    memory_option,
    model_options,
    print_json,
    print_table,
    progress,
    settings_option,
)
from memedit.errors import DataError, MemeditError

if TYPE_CHECKING:
    from memedit.data import Case
    from memedit.lm import HFModel
    from memedit.locate import Neurons, Swept, Traced

WHAT = ("hidden", "mlp", "attention", "neurons")
_MOST = 10_000  # layers; a slip of the finger need not fill the memory


def _what(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    wrong = [name for name in names if name not in WHAT]
    if wrong or not names:
        raise click.BadParameter(f"{value!r}; name some of {', '.join(WHAT)}", ctx, param)
    return names


def _layers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """0,2,5-7 as [0, 2, 5, 6, 7]."""
    if value is None:
        return None
    out: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(f"{value!r}; write numbers from 0, such as 0,2,5-7", ctx, param)
        low, high = int(first), int(last if dash else first)
        if low > high:
            raise click.BadParameter(
                f"{value!r}; write the lower of {part.strip()} first: {high}-{low}", ctx, param
            )
        if high >= _MOST:
            raise click.BadParameter(f"{value!r}; no model has a layer {high}", ctx, param)
        out += range(low, high + 1)
    return list(dict.fromkeys(out))


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID_OR_REF]...")
@click.option(
    "--prompt",
    metavar="TEXT",
    help="A fact without a memory: its prompt, such as 'The capital of France is'.",
)
@click.option("--subject", metavar="TEXT", help="What the prompt is about, as it stands in the prompt.")
@click.option(
    "--target", metavar="TEXT", help="The answer to trace; with --old, the new one that a sweep writes."
)
@click.option(
    "--old", metavar="TEXT", help="The answer that the model has now; it is traced in the target's place."
)
@click.option("--data", metavar="FILE", help="A file of facts, in any format that `import` reads.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Of a file, so many facts."
)
@click.option(
    "--what",
    callback=_what,
    default=",".join(WHAT),
    show_default=True,
    metavar="A,B",
    help="What is looked at.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Of noise, for causal tracing.",
)
@click.option(
    "--noise", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True, metavar="X",
    help="Times the embeddings' standard deviation.",
)  # fmt: skip
@click.option(
    "--window",
    type=click.IntRange(min=1),
    help="Layers restored at once, for MLP and attention.  [default: 10 of 48]",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Of the integral, for neurons."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option(
    "--sweep", metavar="METHOD", help="Edit at each layer by this method, and say which edits best."
)
@click.option("--layers", callback=_layers, metavar="0,2,5-7", help="The layers of a sweep.  [default: all]")
@click.option("--figure", metavar="FILE", help="Draw heat maps into a .png or .svg.")
@settings_option
@model_options
@memory_option
@json_option
def locate(
    ids: tuple[str, ...], prompt: str | None, subject: str | None, target: str | None, old: str | None, data: str | None,
    limit: int, what: tuple[str, ...], samples: int, noise: float, window: int | None, steps: int, seed: int,
    sweep: str | None, layers: list[int] | None, figure: str | None, settings: dict[str, Any], model: str,
    device: str | None, dtype: str | None, memory: str, as_json: bool,
) -> None:  # fmt: skip
    """Say where a fact lives in a model: causal tracing over layers and tokens, and knowledge neurons.

    Facts are edits of a memory, one fact given here, or a file. What is traced is the answer that the model has: an
    edit's old one where it is known. With --sweep, a method also edits at one layer after the other.

    \b
    Examples:
      memedit locate --prompt "The capital of France is" --subject France --target Paris --figure france.png
      memedit locate 3 --what hidden,mlp --json
      memedit locate --data known.jsonl --limit 20 --sweep rome --figure layers.svg
    """
    from memedit.locate import checked, picture
    from memedit.methods import method_info

    if bool(ids) + (prompt is not None) + (data is not None) != 1:
        raise click.UsageError("name edits of a memory, or give --prompt, or --data FILE")
    if sweep is not None:
        method_info(sweep)
    if layers is not None and sweep is None:
        raise click.UsageError("--layers goes with --sweep METHOD")
    if figure is not None:
        picture.check(figure)
        check_output(figure)
    cases = _cases(ids, prompt, subject, target, old, data, limit, memory)
    from memedit.layout import Layout
    from memedit.lm import HFModel

    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    taken = str(Layout.of(base.model))
    if sweep is not None:
        checked(base, sweep, cases, layers, settings.get(sweep))
    traced, found = _looked(base, cases, what, samples, noise, window, steps, seed)
    swept = None
    if sweep is not None:
        from memedit.locate import sweep as run

        with progress(f"sweep, {sweep}") as bar:
            swept = run(base, sweep, cases, layers=layers, settings=settings.get(sweep), progress=bar)
    if figure is not None:
        _draw(figure, traced, found, sweep, swept)
    if as_json:
        print_json({"model": taken, **_as_json(traced, found, sweep, swept)})
        return
    click.echo(taken)
    _say(traced, found)
    if sweep is not None and swept is not None:
        _say_sweep(sweep, swept, len(cases))


def _cases(
    ids: tuple[str, ...], prompt: str | None, subject: str | None, target: str | None, old: str | None,
    data: str | None, limit: int, memory: str,
) -> list[Case]:  # fmt: skip
    """The facts, each with an answer to look for.

    Raises:
        DataError: an edit without prompt or answer.
    """
    from memedit.data import Case, read_cases
    from memedit.edit import Edit

    if data is not None:
        cases = [c for c in read_cases(data, limit=limit) if c.edit.prompt and (c.edit.old or c.edit.target)]
        if not cases:
            raise DataError(f"{data} holds no fact with a prompt and an answer among its first {limit}")
        return cases
    if prompt is not None:
        if target is None and old is None:
            raise click.UsageError("--prompt needs --target, the answer to look for")
        target = old if target is None else target
        return [
            Case(
                "",
                Edit(prompt=prompt, target=target, subject=subject, old=None if old == target else old),
                (),
            )
        ]
    with existing(memory, readonly=True) as m:
        edits = [(name, find(m, name).edit) for name in ids]
    for name, edit in edits:
        if not edit.prompt or not (edit.old or edit.target):
            raise DataError(
                f"edit {name} has no {'prompt' if not edit.prompt else 'answer'} to look for: "
                "give the fact by --prompt, --subject and --target"
            )
    return [Case(name, edit, ()) for name, edit in edits]


def _looked(
    base: HFModel, cases: list[Case], what: tuple[str, ...], samples: int, noise: float, window: int | None,
    steps: int, seed: int,
) -> tuple[list[Traced], list[Neurons]]:  # fmt: skip
    """Tracing and neurons of every fact; of a file, what can't be looked at is said and left out.

    Raises:
        MemeditError: nothing could be looked at.
    """
    from memedit.locate import neurons, trace
    from memedit.metrics import pooled

    kinds = [kind for kind in what if kind != "neurons"]
    traced: list[Traced] = []
    found: list[Neurons] = []
    with progress("locating") as bar:
        for i, case in enumerate(cases):

            def said(done: int, all_: int, i: int = i) -> None:
                bar(i * all_ + done, len(cases) * all_)

            answer = case.edit.old or case.edit.target or ""
            asked = [
                case.edit.prompt or "",
                *(q.prompt for q in pooled(case.queries, "paraphrase")),
            ]
            try:
                one = None
                if kinds:
                    one = trace(
                        base, case.edit, answer, kinds=kinds, samples=samples, times=noise, window=window, seed=seed,
                        progress=said,
                    )  # fmt: skip
                if "neurons" in what:
                    found.append(neurons(base, asked, answer, steps=steps, progress=None if kinds else said))
                if one is not None:
                    traced.append(one)
            except MemeditError as error:
                if len(cases) == 1:
                    raise
                click.echo(f"left out: {error}", err=True)
    if not traced and not found:
        raise DataError(f"none of the {counted(len(cases), 'fact')} could be looked at; see above why")
    return traced, found


def _draw(
    path: str, traced: list[Traced], found: list[Neurons], sweep: str | None, swept: list[Swept] | None
) -> None:
    from memedit.locate import averaged, picture

    whole = None if not traced else traced[0] if len(traced) == 1 else averaged(traced)
    together = None if not found else _together(found)
    picture.draw(path, whole, together, None if sweep is None or swept is None else (sweep, swept))


def _together(found: list[Neurons]) -> Neurons:
    """Counts and sums of several facts added up; whose neurons they are is in JSON."""
    from memedit.locate import Neurons

    layers = range(len(found[0].counts))
    return Neurons(
        sum(one.prompts for one in found),
        tuple(n for one in found for n in one.found),
        tuple(sum(one.counts[i] for one in found) for i in layers),
        tuple(sum(one.sums[i] for one in found) / len(found) for i in layers),
    )


def _as_json(
    traced: list[Traced], found: list[Neurons], sweep: str | None, swept: list[Swept] | None
) -> dict[str, Any]:
    from dataclasses import asdict

    from memedit.locate import averaged, best

    out: dict[str, Any] = {
        "facts": [one.to_dict() for one in traced],
        "neurons": [one.to_dict() for one in found],
    }
    if len(traced) > 1:
        out["mean"] = averaged(traced).to_dict()
    if swept is not None:
        top = best(swept)
        out["sweep"] = {"method": sweep, "layers": [asdict(one) for one in swept], "best": top and top.layer}
    return out


def _say(traced: list[Traced], found: list[Neurons]) -> None:
    """A row for each layer, and where effects are largest."""
    from memedit.locate import averaged

    whole = None if not traced else traced[0] if len(traced) == 1 else averaged(traced)
    columns, layers = ["layer#"], len(found[0].counts) if found else 0
    if whole is not None:
        layers = len(next(iter(whole.effects.values())))
        name = f"{whole.prompt} -> {whole.answer}" if whole.answer else whole.prompt
        click.echo(f"{name}: probability {whole.clean:.3g}, with the subject corrupted {whole.corrupted:.3g}")
        if whole.clean < 0.1:
            click.echo(
                "  the model hardly gives this answer, so that there is little to find; give the one it has by --old"
            )
        columns += [f"{kind}: effect#" for kind in whole.effects]
        columns += [f"{kind}: at" for kind in whole.effects]
    rows: list[list[Any]] = []
    together = _together(found) if found else None
    for layer in range(layers):
        row: list[Any] = [layer]
        if whole is not None:
            tops = [whole.strongest_of(kind, layer) for kind in whole.effects]
            row += [f"{effect:.3f}" for _, effect in tops] + [
                whole.labels[column].strip() for column, _ in tops
            ]
        if together is not None:
            row += [together.counts[layer], f"{together.sums[layer]:.3f}"]
        rows.append(row)
    if together is not None:
        columns += ["knowledge neurons#", "their layer adds#"]
    print_table(columns, rows)
    if whole is not None:
        for kind in whole.effects:
            layer, column, effect = whole.strongest(kind)
            click.echo(f"{kind}: largest at layer {layer}, {whole.labels[column].strip()!r}: {effect:+.3f}")
    if len(found) == 1:
        names = ", ".join(f"{n.layer}.{n.number} ({n.attribution:.3f})" for n in found[0].found[:8])
        click.echo(f"neurons, layer.number: {names or 'none stands out'}")


def _say_sweep(name: str, swept: list[Swept], facts: int) -> None:
    from memedit.locate import best

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.0f}"

    rows = [
        [
            s.layer,
            percent(s.es),
            percent(s.gen),
            percent(s.neighbours),
            f"{100 * s.score:.0f}",
            s.refused or "",
        ]
        for s in swept
    ]
    title = f"{name} at each layer, {counted(facts, 'fact')}, each alone, no router, greedy"
    print_table(["layer#", "es %#", "gen %#", "neighbours %#", "together#", "refused#"], rows, title=title)
    top = best(swept)
    if top is not None:
        click.echo(f"best: layer {top.layer}; take it by --set {name}.layer={top.layer}")
        return
    why = next((s.why for s in swept if s.why), "")
    click.echo(f"no layer made the model say a new answer{f': {why}' if why else ''}")
