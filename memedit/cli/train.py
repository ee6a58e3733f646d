"""Training jobs: a user's own examples for the scope classifier, and the repository's jobs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memedit.cli._group import Suggesting, counted, json_option, print_json, print_table
from memedit.cli.transfer import DataFile
from memedit.errors import MemeditError

if TYPE_CHECKING:
    from memedit.training.fine_tuning import FineTuning, Result


@click.group(cls=Suggesting)
def train() -> None:
    """Train: scope goes on with the scope classifier on your own examples, base makes the small base model.

    \b
    Examples:
      memedit train scope --data mine.jsonl --out runs/mine
      memedit train base --help
    """


@train.command("scope")
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=DataFile(exists=True, dir_okay=False),
    metavar="FILE",
    help="Examples, in any format that `import` reads, or a data set's name (hf:OWNER/NAME); may be repeated.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the classifier goes; one that is there is replaced.",
)
@click.option(
    "--from",
    "start",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The classifier to begin with.  [default: the shipped one]",
)
@click.option("--format", "format_", metavar="NAME", help="The files' format.  [default: seen from the file]")
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Leave out records that contradict others or can't be taken; each is named.",
)
@click.option(
    "--general",
    type=DataFile(exists=True, dir_okay=False),
    metavar="FILE",
    help="Questions that concern none of the facts: half to learn from, half for before and after.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="Rounds, each with new hard pairs.",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=32),
    metavar="N",
    help="Pairs (query, fact) of each round.  [default: 1600, more for more than 500 facts]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=5e-5,
    show_default=True,
    metavar="X",
    help="Learning rate.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.6, min_open=True),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Share of the facts that only before and after are measured on.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the parts and the pairs.")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="For checkpoints; taken away at the end.  [default: DIR.work beside --out]",
)
@click.option("--fresh", is_flag=True, help="Start anew, whatever checkpoints there are.")
@click.option("--device", metavar="NAME", help="cpu, cuda, ...; a GPU is used where there is one.")
@json_option
def scope(
    data: tuple[str, ...], out: Path, start: Path | None, format_: str | None, skip_bad: bool, general: str | None, rounds: int,
    pairs: int | None, rate: float, held_out: float, seed: int, work: Path | None, fresh: bool, device: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Fine-tune the scope classifier on your own examples, and see what it was before and is after.

    Each line of FILE is a fact with queries that ask for it, that need it on the way, that only look so:

    \b
      {"prompt": "The fee for a late return is", "target": "2 euros", "subject": "late return",
       "in_scope": ["What does a late return cost?", "How much do I pay if I return it late?"],
       "ripple": ["What do three late returns cost?"],
       "out_of_scope": ["When is a return late?", "What does a lost book cost?"]}

    A part of the facts is held apart; the round that is best on one half of them is kept, and the other half is only
    for the table. The same command goes on where it was stopped. Use the result with --scope DIR.

    \b
    Examples:
      memedit train scope --data mine.jsonl --out runs/mine
      memedit train scope --data mine.jsonl --data counterfact.json --general questions.jsonl --out runs/mine --json
      accelerate launch -m memedit train scope --data mine.jsonl --out runs/mine
    """
    from memedit.scope import SHIPPED
    from memedit.training.fine_tuning import FineTuning, fine_tune

    settings = FineTuning(
        data, out, start or SHIPPED, format_, general, rounds, pairs or 0, rate=rate, held_out=held_out, seed=seed,
        work=work, device=device, skip_bad=skip_bad,
    )  # fmt: skip
    try:
        result = fine_tune(settings, fresh)
    except KeyboardInterrupt:
        raise MemeditError(_stopped(settings)) from None
    if result is None:  # another process of several tells
        return
    if as_json:
        print_json({"out": str(out), **asdict(result)})
    else:
        _show(result, out)


def _stopped(settings: FineTuning) -> str:
    kept = (settings.folder / "checkpoint.safetensors").exists()
    return f"stopped; the same command goes on from the last checkpoint in {settings.folder}" if kept else (
        "stopped before the first checkpoint; the same command starts anew"
    )  # fmt: skip


def _show(result: Result, out: Path) -> None:
    from memedit.training.folder import rows

    e, found = result.edits, asdict(result)
    title = f"{counted(e['before and after'], 'fact')} held apart, all {sum(e.values()):,} in memory"
    print_table(["queries", "n#", "before, %#", "after, %#"], rows(found), title=title)
    for note in result.notes:
        click.echo(f"note: {note}")
    kept = f"round {result.best} of {len(result.epochs) - 1}" if result.best else "the start's weights"
    click.echo(f"{out}: {kept}, with its card README.md; use it with --scope {out}")


@train.command("base", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def base(arguments: tuple[str, ...]) -> None:
    """Train the small base model: what follows goes to the repository's job train/base.py.

    \b
    Example:
      memedit train base --help
    """
    script = Path(__file__).parents[2] / "train" / "base.py"
    if not script.exists():
        raise MemeditError(
            f"the training jobs are files of the repository's folder train/, and {script} is not there; run from a clone"
        )
    sys.exit(subprocess.run([sys.executable, str(script), *arguments]).returncode)
