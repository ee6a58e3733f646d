"""The command that runs tasks of lm-evaluation-harness over a memory: harness."""

from __future__ import annotations

import json
from typing import Any

import click

from memedit.cli._deciding import scope_option
from memedit.cli._group import (
    check_output,
    console,
    false_fire_option,
    memory_option,
    method_option,
    model_options,
    print_table,
    write_text,
)


@click.command()
@click.option(
    "--tasks",
    required=True,
    metavar="NAME[,NAME]",
    help="The harness's own tasks, or those of --include-path.",
)
@click.option("--include-path", metavar="DIR", help="A folder with further task files (yaml).")
@click.option("--limit", type=click.IntRange(min=1), help="The first so many documents of each task.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Worked examples.  [default: the task's own]")
@click.option(
    "--query",
    type=click.Choice(["last", "whole"]),
    default="last",
    show_default=True,
    help="What of a context is routed: what follows its last blank line, or all of it.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--floor/--no-floor",
    default=True,
    show_default=True,
    help="Ask the unedited base the same, and show its scores beside.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the harness's results, with every document's answers.",
)
@memory_option
@model_options
@method_option
@false_fire_option
@scope_option
def harness(
    tasks: str, include_path: str | None, limit: int | None, num_fewshot: int | None, query: str, batch_size: int,
    floor: bool, json_file: str | None, memory: str, model: str, device: str | None, dtype: str | None,
    method: str | None, false_fire_rate: float | None, scope: str | None,
) -> None:  # fmt: skip
    """Run tasks of EleutherAI's lm-evaluation-harness over the edited model, and over its base.

    Needs the extra lm-eval. All other options of the harness: python -m memedit.harness --model memedit
    --model_args memory=DIR,model=base,method=ice --tasks ...

    \b
    Examples:
      memedit harness --tasks lambada_openai --limit 200
      memedit harness --tasks my_task --include-path tasks --json results.json
    """
    check_output(json_file)
    from memedit.harness import Harness, results_of

    lm = Harness(
        memory, model, method, query=query, batch_size=batch_size, device=device, dtype=dtype,
        false_fire_rate=false_fire_rate, scope=scope,
    )  # fmt: skip
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    options: dict[str, Any] = {"include_path": include_path, "limit": limit, "num_fewshot": num_fewshot}
    edited = results_of(lm, names, **options)
    base = results_of(Harness(None, lm.base, batch_size=batch_size), names, **options) if floor else None
    found = {"edited": edited, "base": base, **lm.get_model_info()}
    if json_file:
        write_text(json_file, json.dumps(found, ensure_ascii=False, indent=1, default=str) + "\n")
    about = lm.get_model_info()
    console().print(
        f"{about['edits_in_memory']:,} edits in memory, routed; "
        f"{about['queries_fired']:,} of {about['queries_asked']:,} queries had one in scope; model {model}"
    )
    print_table(["task", "score", "edited#", "unedited#", "n#"], _rows(edited, base))


def _rows(edited: dict[str, Any], base: dict[str, Any] | None) -> list[list[Any]]:
    rows = []
    for task, scores in edited["results"].items():
        for name, value in scores.items():
            if isinstance(value, float) and "_stderr" not in name:
                before = base["results"][task].get(name) if base else None
                n = edited.get("n-samples", {}).get(task, {}).get("effective", "")
                rows.append(
                    [
                        task,
                        name.removesuffix(",none"),
                        f"{value:.4f}",
                        "" if before is None else f"{before:.4f}",
                        n,
                    ]
                )
    return rows
