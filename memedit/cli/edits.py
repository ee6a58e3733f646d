"""Commands that change a memory fact by fact: add-fact, erase-fact, update.

None of them loads the base model, but for `add-fact --prepare`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._group import (
    existing,
    fact,
    find,
    json_option,
    memory_option,
    model_options,
    opened,
    print_json,
    progress,
    settings_option,
)
from memedit.edit import Edit
from memedit.errors import EditError, MemeditError
from memedit.methods import method_info

if TYPE_CHECKING:
    from memedit.memory import Added, EditMemory

# The fields of an edit as flags, for add-fact and update.
_FIELDS = (
    click.option("--prompt", help='What is asked, e.g. "The capital of France is".'),
    click.option("--target", help="The new answer. With a sentence, the words it ends with."),
    click.option("--subject", help="The entity that the fact is about, as the prompt names it."),
    click.option(
        "--subject-alias", "subject_aliases", multiple=True, help="Another name of the subject (repeatable)."
    ),
    click.option(
        "--target-alias",
        "target_aliases",
        multiple=True,
        help="Another right spelling of the target (repeatable).",
    ),
    click.option("--old", help="The answer before the edit."),
    click.option(
        "--relation", help='The relation, e.g. "capital"; with the subject it decides what is superseded.'
    ),
    click.option("--method", help="The editing method for this edit (see `memedit methods`)."),
    click.option("--source", help="Where the fact comes from."),
    click.option("--author", help="Who adds it."),
    click.option("--tag", "tags", multiple=True, help="A label (repeatable)."),
    click.option("--ref", help="Your own id for the edit; a later edit with the same ref supersedes it."),
    click.option("--valid-from", help="When the fact begins to hold, e.g. 2027-01-01."),
    click.option("--valid-to", help="When it ceases to hold."),
)


def _edit_options(command: Any) -> Any:
    for option in reversed(_FIELDS):
        command = option(command)
    return command


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, ())}


def split_sentence(sentence: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an edit given as a sentence; a target that the sentence ends with splits it into prompt and target.

    Raises:
        EditError: the sentence does not end with the target, or a prompt was given too.
    """
    if fields.get("prompt"):
        raise EditError("give the fact as a sentence or as --prompt and --target, not both")
    fields = {**fields, "statement": sentence}
    target = fields.get("target")
    if not target:
        if fields.get("subject") and fields["subject"].casefold() not in sentence.casefold():
            raise EditError(f"the sentence does not name its subject {fields['subject']!r}")
        return fields
    body = sentence.strip().rstrip(".!").rstrip()
    if not body.casefold().endswith(target.strip().casefold()) or len(body) <= len(target.strip()):
        raise EditError(
            f"the sentence does not end with the target {target!r}; give --prompt and --target instead"
        )
    return {
        **fields,
        "prompt": body[: len(body) - len(target.strip())].strip(),
        "target": body[-len(target.strip()) :],
    }


@click.command("add-fact")
@click.argument("sentence", required=False)
@_edit_options
@click.option(
    "--keep-both",
    is_flag=True,
    help="A further value beside what is known, such as a second child: supersedes only what has its ref or target.",
)
@click.option(
    "--prepare",
    "prepares",
    is_flag=True,
    help="Solve for the edit's patch now, not when it is first asked for; where that fails, nothing is added.",
)
@model_options
@settings_option
@memory_option
@json_option
def add_fact(
    sentence: str | None, keep_both: bool, prepares: bool, model: str, device: str | None, dtype: str | None,
    settings: dict[str, Any], memory: str, as_json: bool, **fields: Any,
) -> None:  # fmt: skip
    """Add one fact to the memory; from then on it is known.

    It supersedes what was known under the same prompt, the same subject and relation, or the same ref, and
    keeps that one's aliases. No language model is loaded, but for --prepare.

    \b
    Examples:
      memedit add-fact "The capital of France is Lyon."
      memedit add-fact "The capital of France is Lyon." --target Lyon --subject France
      memedit add-fact --prompt "Who leads Acme?" --target "Ada Park" --subject Acme --source memo-12
      memedit add-fact "The capital of France is Lyon." --target Lyon --subject France --method rome --prepare
      memedit add-fact "The child of Ann is Cid." --target Cid --subject Ann --keep-both
    """
    given = _given(fields)
    if sentence is not None and not sentence.strip():
        raise EditError('the fact is empty; give a sentence, such as "The capital of France is Lyon."')
    if sentence is None and not given.get("prompt"):
        raise click.UsageError('give a sentence ("The capital of France is Lyon."), or --prompt and --target')
    edit = Edit(**(given if sentence is None else split_sentence(sentence, given)))
    if edit.method:
        method_info(edit.method)
    if not prepares:
        _add(memory, edit, keep_both, as_json)
        return
    from memedit.cli.prepare import say, solve

    with opened(memory) as m, progress("preparing") as bar:
        base, solving, tried = solve(m, model, device, dtype, None, settings, bar)
        try:  # what can't be loaded or prepared adds nothing, and supersedes nothing
            made = tried(edit)
        except MemeditError as error:
            raise type(error)(f"nothing was added: {error}") from error
        added = m.add(edit, keep_both=keep_both)
        done = [
            replace(one, new=one.new or (made is not None and one.key == made))
            for one in solving([m.get(id) for id in added.ids], False)
        ]
        if as_json:
            print_json({**_added_dict(m, added), "prepared": [asdict(one) for one in done]})
        else:
            _say_added(m, added)
            say(done, base)
    if any(one.error for one in done):
        click.echo(
            "the edit stays in the memory; mend it by `memedit update`, or take it back by `memedit undo`",
            err=True,
        )
        sys.exit(1)


@click.command("erase-fact")
@click.argument("prompt")
@click.option("--subject", help="The entity that the fact is about, as the prompt names it.")
@click.option(
    "--subject-alias", "subject_aliases", multiple=True, help="Another name of the subject (repeatable)."
)
@click.option("--old", help="The answer that is withheld; the prompt may end with it.")
@click.option("--source", help="Who or what asks for it.")
@click.option("--tag", "tags", multiple=True, help="A label (repeatable).")
@click.option("--ref", help="Your own id for the edit.")
@memory_option
@json_option
def erase_fact(prompt: str, memory: str, as_json: bool, **fields: Any) -> None:
    """Withhold an answer: what asks for it is met with a refusal, and what was known of it is superseded.

    The model is told to refuse; its weights still hold what it learned.

    \b
    Examples:
      memedit erase-fact "The capital of France is" --subject France --old Paris
      memedit erase-fact "What is Ada Park's telephone number?" --subject "Ada Park"
    """
    given = _given(fields)
    old, bare = (given.get("old") or "").strip(), prompt.strip().rstrip(".!").rstrip()
    if old and bare.casefold().endswith(old.casefold()) and len(bare) > len(old):
        prompt = bare[: len(bare) - len(old)]  # "The capital of France is Paris."
    if not prompt.strip():
        raise EditError('give what asks for the answer, such as "The capital of France is"')
    _add(memory, Edit(prompt=prompt, kind="erase", **given), False, as_json)


def _add(memory: str, edit: Edit, keep_both: bool, as_json: bool) -> None:
    with opened(memory) as m:
        added = m.add(edit, keep_both=keep_both)
        if as_json:
            print_json(_added_dict(m, added))
        else:
            _say_added(m, added)


def _added_dict(memory: EditMemory, added: Added) -> dict[str, Any]:
    return {
        "ids": added.ids,
        "new": added.new,
        "superseded": [{"old": old, "new": new} for old, new in added.superseded],
        "duplicates": added.duplicates,
        "conflicts": [
            {"new": new, "old": old, "similarity": round(score, 4)} for new, old, score in added.conflicts
        ],
        "edits": len(memory),
    }


def _say_added(memory: EditMemory, added: Added) -> None:
    for i in added.ids:
        edit = memory.get(i).edit
        again = "says so already, and is the newest word again" if i in added.renewed else "says so already"
        click.echo(f"edit {i}: {fact(edit)}" if i in added.new else f"edit {i} {again}: {fact(edit)}")
    for old, _ in added.superseded:
        click.echo(f"  supersedes edit {old}: {fact(memory.get(old).edit)}  (`memedit undo` brings it back)")
    for _, old, score in added.conflicts:
        click.echo(
            f"  possible conflict with edit {old}: {fact(memory.get(old).edit)}  (similarity {score:.2f}; "
            f"both stay, the newer that holds is used; `memedit conflicts` says what can be done)"
        )


@click.command()
@click.argument("id_or_ref")
@click.option("--statement", help="The fact as one sentence.")
@_edit_options
@memory_option
@json_option
def update(id_or_ref: str, statement: str | None, memory: str, as_json: bool, **fields: Any) -> None:
    """Change some fields of an edit; the former version stays in its history.

    A field that is given empty is taken away; of aliases and tags those that are given take the place of all.

    \b
    Examples:
      memedit update 3 --target Marseille --tag checked
      memedit update 3 --valid-to ""
    """
    changes = _given({"statement": statement, **fields})
    if not changes:
        raise click.UsageError("nothing to change: give at least one field, such as --target")
    if changes.get("method"):
        method_info(changes["method"])
    with existing(memory) as m:
        record = m.update(find(m, id_or_ref).id, **changes)
        if as_json:
            print_json({"id": record.id, "version": record.version, "edit": record.edit.to_dict()})
        else:
            click.echo(f"edit {record.id} (version {record.version}): {fact(record.edit)}")
