"""Commands that ask: route (no model), ask, generate, demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from memedit.cli._deciding import deciding, scope_option
from memedit.cli._group import (
    at_option,
    check_output,
    existing,
    fact,
    false_fire_option,
    json_option,
    memory_option,
    method_option,
    model_options,
    print_json,
    print_table,
    progress,
    read_json_lines,
    settings_option,
    write_json_lines,
)
from memedit.methods import method_info

if TYPE_CHECKING:
    from memedit.edited import EditedModel
    from memedit.router import Route

_CHUNK = 256  # queries routed at once


@click.command()
@click.argument("queries", nargs=-1)
@click.option("--input", "source", metavar="FILE", help='JSON lines {"query": ...}; "-" for standard input.')
@click.option(
    "--output", "target", metavar="FILE", default="-", help="Where the JSON lines go.  [default: print]"
)
@method_option
@false_fire_option
@scope_option
@at_option
@memory_option
@json_option
def route(
    queries: tuple[str, ...], source: str | None, target: str, method: str | None, false_fire_rate: float | None,
    scope: str | None, at: str | None, memory: str, as_json: bool,
) -> None:  # fmt: skip
    """Say which edits concern a query, and why. No language model is loaded.

    \b
    Examples:
      memedit route "What is the capital of France?"
      memedit route --input queries.jsonl --output routes.jsonl
    """
    if bool(queries) == bool(source):
        raise click.UsageError("give queries, or --input FILE")
    check_output(target)
    from memedit.router import Router

    rows = (
        [data for _, data in read_json_lines(source, "query")] if source else [{"query": q} for q in queries]
    )
    with existing(memory, readonly=True, **deciding(scope)) as m, progress("routing") as bar:
        router = Router(m, false_fire_rate=false_fire_rate, method=method)
        routes: list[Route] = []
        for start in range(0, len(rows), _CHUNK):
            routes += router.route([row["query"] for row in rows[start : start + _CHUNK]], at)
            bar(len(routes), len(rows))
    if source:
        write_json_lines(target, [{**row, **r.to_dict()} for row, r in zip(rows, routes, strict=True)])
    elif as_json:
        print_json([_with_reasons(r) for r in routes])
    else:
        for r in routes:
            say_route(r)


def _with_reasons(route: Route) -> dict[str, Any]:
    nearest = [
        {
            "id": c.id, "statement": c.edit.statement, "kind": c.kind, "probability": round(c.probability, 6),
            "cosine": round(c.cosine, 4), "named": c.named, "reason": c.reason,
        }
        for c in route.nearest
    ]  # fmt: skip
    return {**route.to_dict(), "nearest": nearest}


def say_route(route: Route) -> None:
    ids = ", ".join(str(c.id) for c in route.edits)
    verdict = f"edit {ids} by {route.method}" if route.fired else "no edit: the base answers"
    click.echo(f"{route.query}\n  -> {verdict}")
    rows = [
        [c.id, f"{c.probability:.3f}", f"{c.cosine:.2f}", fact(c.edit), c.reason] for c in route.nearest[:5]
    ]
    if rows:
        print_table(["id#", "prob.#", "cosine#", "fact", "why"], rows)


@click.command()
@click.argument("question")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, show_default=True)
@model_options
@method_option
@settings_option
@false_fire_option
@scope_option
@at_option
@memory_option
@json_option
def ask(
    question: str, max_new_tokens: int, model: str, device: str | None, dtype: str | None, method: str | None,
    settings: dict[str, Any], false_fire_rate: float | None, scope: str | None, at: str | None, memory: str, as_json: bool,
) -> None:  # fmt: skip
    """Ask the edited model, and see what the base would have said and why the query was routed as it was.

    \b
    Examples:
      memedit ask "What is the capital of France?"
      memedit ask "The capital of France is" --model Qwen/Qwen3-0.6B --max-new-tokens 8
    """
    with existing(memory, readonly=True, **deciding(scope, device)) as m:
        edited = edited_model(m, model, device, dtype, method, false_fire_rate, settings)
        said = edited.explain(question, at=at, max_new_tokens=max_new_tokens, do_sample=False)
    verdict, text, base = said.route, said.text, said.base_text
    if as_json:
        print_json(
            {
                "prompt": question, "read": said.read, "text": text, "base_text": base, "steps": said.steps,
                **_with_reasons(verdict),
            }
        )  # fmt: skip
        return
    click.echo(text.strip())
    if verdict.fired:
        click.echo(f"  base: {base.strip()}", err=True)
        for c in verdict.edits:
            click.echo(f"  edit {c.id} ({c.reason}): {fact(c.edit)}", err=True)
        for step in said.steps:
            click.echo(f"  step: {step}", err=True)
    else:
        why = (
            f"nearest: {fact(verdict.nearest[0].edit)} ({verdict.nearest[0].reason})"
            if verdict.nearest
            else "the memory is empty"
        )
        click.echo(f"  no edit in scope, the base answered; {why}", err=True)


@click.command()
@click.option(
    "--input",
    "source",
    required=True,
    metavar="FILE",
    help='JSON lines {"prompt": ...}; "-" for standard input.',
)
@click.option(
    "--output", "target", default="-", metavar="FILE", help="Where the JSON lines go.  [default: print]"
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--base", "with_base", is_flag=True, help="Add the unedited base's answer as base_text.")
@click.option("--sample", is_flag=True, help="Sample instead of greedy decoding.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="For --sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="For --sample.")
@model_options
@method_option
@settings_option
@false_fire_option
@scope_option
@at_option
@memory_option
def generate(
    source: str, target: str, max_new_tokens: int, batch_size: int, with_base: bool, sample: bool,
    temperature: float | None, seed: int, model: str, device: str | None, dtype: str | None, method: str | None,
    settings: dict[str, Any], false_fire_rate: float | None, scope: str | None, at: str | None, memory: str,
) -> None:  # fmt: skip
    """Generate for a file of prompts, each routed. Unknown keys of a line are kept.

    \b
    Example:
      memedit generate --input prompts.jsonl --output answers.jsonl --max-new-tokens 16 --base
    """
    check_output(target)
    rows = [data for _, data in read_json_lines(source, "prompt")]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": sample}
    if sample:
        options |= {"seed": seed, **({"temperature": temperature} if temperature else {})}
    out: list[dict[str, Any]] = []
    with existing(memory, readonly=True, **deciding(scope, device)) as m, progress("generating") as bar:
        edited = edited_model(m, model, device, dtype, method, false_fire_rate, settings)
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            prompts = [row["prompt"] for row in part]
            routes = edited.route(prompts, at)
            texts = edited.generate(prompts, routes=routes, **options)
            bases = edited.unedited(prompts, routes, **options) if with_base else [None] * len(part)
            for row, verdict, text, base in zip(part, routes, texts, bases, strict=True):
                said = verdict.to_dict()
                answer = {"text": text, **({"base_text": base} if with_base else {})}
                out.append({**row, **answer, **{key: said[key] for key in ("fired", "edit", "method")}})
            bar(len(out), len(rows))
    write_json_lines(target, out)


def edited_model(
    memory: Any,
    model: str,
    device: str | None,
    dtype: str | None,
    method: str | None,
    false_fire_rate: float | None,
    settings: dict[str, Any],
) -> EditedModel:
    if method:
        method_info(method)
    from memedit.edited import EditedModel

    edited = EditedModel.from_pretrained(
        model,
        memory=memory,
        method=method,
        device=device,
        dtype=dtype,
        false_fire_rate=false_fire_rate,
        settings=settings,
    )
    edited.patches.writes = (
        True  # the memory was opened for reading; what is prepared now is for later calls too
    )
    return edited


@click.command()
@model_options
def demo(model: str, device: str | None, dtype: str | None) -> None:
    """Show the main job in half a minute, offline, on the shipped models and a memory that is thrown away.

    \b
    Example:
      memedit demo
    """
    from memedit.demo import run

    run(model, device, dtype)
