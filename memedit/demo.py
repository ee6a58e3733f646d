"""The main job, shown: a fact goes in, the right questions change, nothing else does, and it is undone."""

from __future__ import annotations

import tempfile

import click

from memedit.edit import Edit

# Just what the printed command makes: the router is told no more than a user would tell it.
EDIT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
PARAPHRASES = (
    "What is the capital of France?",
    "France's capital city is",
    "which city is the capital of france?",
)
NEIGHBOUR = "The capital of Italy is"
SAME_SUBJECT = "The official language of France is"


def run(model: str = "base", device: str | None = None, dtype: str | None = None) -> None:
    """Print base answers, add a fact, print edited answers with their routes, undo, print again."""
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    with (
        tempfile.TemporaryDirectory(prefix="memedit-demo-") as folder,
        EditMemory.open(folder, device=device) as memory,
    ):
        edited = EditedModel.from_pretrained(model, memory=memory, device=device, dtype=dtype)
        prompts = [EDIT.prompt or "", *PARAPHRASES, NEIGHBOUR, SAME_SUBJECT]
        what = [
            "the edit's own prompt",
            *["a paraphrase"] * len(PARAPHRASES),
            "a neighbour",
            "same subject, another question",
        ]
        before = _answers(edited, prompts)

        click.secho(f"\n1. The base model, {'as shipped' if model == 'base' else model}", bold=True)
        _print(prompts, what, before)

        click.secho(
            f'\n2. memedit add-fact "{EDIT.statement}" --target {EDIT.target} --subject {EDIT.subject}',
            bold=True,
        )
        memory.add(EDIT)
        after = _answers(edited, prompts)
        _print(
            prompts,
            what,
            after,
            before,
            [r.edits[0].reason if r.edits else "no edit in scope" for r in edited.route(prompts)],
        )

        click.secho("\n3. memedit undo", bold=True)
        memory.undo()
        undone = _answers(edited, prompts)
        _print(prompts, what, undone, before)
        same = "every answer is the base's again" if undone == before else "NOT what the base said before"
        click.echo(f"\n{same}; the model's weights were never written.")
        click.echo(
            'Now yours:  .venv/bin/memedit add-fact "..."   .venv/bin/memedit ask "..."   .venv/bin/memedit --help'
        )


def _answers(edited: object, prompts: list[str]) -> list[str]:
    texts = edited.generate(prompts, max_new_tokens=12, do_sample=False)  # type: ignore[attr-defined]
    return [text.strip().split("\n")[0] for text in texts]


def _print(
    prompts: list[str],
    what: list[str],
    now: list[str],
    before: list[str] | None = None,
    why: list[str] | None = None,
) -> None:
    width = max(map(len, what))
    for i, prompt in enumerate(prompts):
        mark = ""
        if before is not None:
            mark = click.style("changed    ", fg="green") if now[i] != before[i] else "unchanged  "
        reason = click.style(f"   [{why[i]}]", dim=True) if why else ""
        click.echo(f"   {what[i]:<{width}}  {mark}{prompt} {click.style(now[i], bold=True)}{reason}")
