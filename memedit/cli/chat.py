"""The command that talks: chat."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from memedit.cli._deciding import deciding, scope_option
from memedit.cli._group import (
    counted,
    fact,
    false_fire_option,
    json_option,
    memory_option,
    method_option,
    model_options,
    opened,
    print_table,
    read_json_lines,
    settings_option,
)
from memedit.cli.ask import edited_model, say_route
from memedit.errors import ContextWarning, DataError, MemeditError

if TYPE_CHECKING:
    from memedit.edited import EditedModel
    from memedit.router import Route

Message = dict[str, Any]

_HELP = """\
/add-fact SENTENCE [--target ... --subject ...]   a fact, known from the next turn on
/undo                                             take the last change of the memory back
/edits                                            the memory's newest edits
/route                                            why the last answer was given as it was
/system TEXT                                      another system prompt; without TEXT, none
/reset                                            forget what was said (the system prompt stays)
/exit                                             leave; so does Ctrl-D"""


@click.command()
@click.option("--system", metavar="TEXT", help="A system prompt.")
@click.option(
    "--input",
    "source",
    metavar="FILE",
    help='The user\'s turns from JSON lines {"content": ...}; a "role" may say system or assistant instead.',
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@model_options
@method_option
@settings_option
@false_fire_option
@scope_option
@memory_option
@json_option
def chat(
    system: str | None, source: str | None, max_new_tokens: int, model: str, device: str | None, dtype: str | None,
    method: str | None, settings: dict[str, Any], false_fire_rate: float | None, scope: str | None, memory: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Talk with the edited model; after every answer, see which edit was stated and why.

    Turns are typed, piped in (one a line), or read from a file. With --json each answer is a line for programs.

    \b
    Examples:
      memedit chat
      memedit chat --model Qwen/Qwen3-0.6B --system "Answer in one sentence."
      memedit chat --input turns.jsonl --json
    """
    rows = list(_read(source)) if source else None
    with opened(memory, **deciding(scope)) as m:
        edited = edited_model(m, model, device, dtype, method, false_fire_rate, settings)
        talk = Talk(edited, system, max_new_tokens)
        if talk.edited.asked.template.plain:
            _note("the model has no chat template: it is asked in plain questions and answers")
        if rows is not None:
            for row in rows:
                _turn_of_program(talk, row, as_json)
        elif sys.stdin.isatty() and not as_json:
            _converse(talk)
        else:
            for line in sys.stdin:
                text = line.strip()
                if as_json and text:
                    _turn_of_program(talk, {"content": text}, as_json)
                elif text and not _turn(talk, text, fails=True):
                    break


class Talk:
    """A conversation under way: what was said, and the verdict on the last turn.

    Attributes:
        messages: the turns so far, without the system prompt. route: of the last turn.
        dropped: turns that the last answer was given without, since the model takes no more tokens.
    """

    def __init__(self, edited: EditedModel, system: str | None, max_new_tokens: int) -> None:
        self.edited, self.system, self.max_new_tokens = edited, system, max_new_tokens
        self.messages: list[Message] = []
        self.route: Route | None = None
        self.dropped = 0

    def say(self, text: str, show: Callable[[str], None] | None = None) -> str:
        """The answer to a user's turn, which is then part of the conversation.

        Args:
            show: is given the answer bit by bit, while it is made.

        Raises:
            MemeditError: why there is none; the conversation is as it was.
        """
        messages = [*self._opening(), *self.messages, {"role": "user", "content": text}]
        (self.route,) = self.edited.route([messages])
        fitting = self._fitting(messages)
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        if show is not None:
            options["streamer"] = _streamer(self.edited, show)
        answer = self.edited.chat(fitting, routes=[self.route], **options)
        self.dropped = len(messages) - len(fitting)
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return answer

    def _opening(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """The conversation without its oldest turns, as far as the model can't take them with the facts and an answer."""
        base, route = self.edited.base, self.route
        facts = [c.edit.statement or "" for c in route.edits] if route else []
        stated = sum(len(base.encode_context(f"Fact: {fact}\n")) for fact in facts)
        kept = list(messages)
        first = len(self._opening())
        while base.context_length is not None:
            needed = len(self.edited.asked.template.render(kept)) + stated + self.max_new_tokens
            users = [i for i, message in enumerate(kept) if message["role"] == "user"]
            if needed <= base.context_length or len(users) < 2:
                break
            del kept[first : users[1]]
        return kept


def _streamer(edited: EditedModel, show: Callable[[str], None]) -> Any:
    """Hugging Face's streamer that hands on words as they come; what begins an end of the answer is held back."""
    from transformers import TextStreamer

    stops = edited.asked.template.stop

    class Shown(TextStreamer):
        said, shown = "", 0

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.said += text
            whole = self.said.lstrip()
            for stop in stops:
                whole = whole.partition(stop)[0]
                ends = next((n for n in range(len(stop), 0, -1) if whole.endswith(stop[:n])), 0)
                whole = whole[: len(whole) - (0 if stream_end else ends)]
            if stream_end:
                whole = whole.rstrip()
            if len(whole) > self.shown:
                show(whole[self.shown :])
                self.shown = len(whole)

    return Shown(edited.tokenizer, skip_prompt=True, skip_special_tokens=True)


# --- one turn ---------------------------------------------------------------------------------------------------


def _converse(talk: Talk) -> None:
    """With a person at a terminal, until they leave."""
    _note(f"the memory holds {counted(len(talk.edited.memory), 'edit')}; /help shows the commands")
    with suppress(ImportError):  # with it, lines can be edited and called back
        importlib.import_module("readline")
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        try:
            if text and not _turn(talk, text, fails=False):
                return
        except KeyboardInterrupt:
            _note("stopped; the turn is not kept")


def _turn(talk: Talk, text: str, fails: bool) -> bool:
    """A command or something said; False where the person leaves. Errors are shown, or raised where `fails`."""
    try:
        if text.startswith("/"):
            return _command(talk, text)
        with _warned():
            talk.say(text, show=lambda part: click.echo(part, nl=False))
        click.echo()
        if talk.dropped:
            _note(f"the oldest {counted(talk.dropped, 'turn')} no longer fit the model and were left out")
        _note(_verdict(talk.route))
    except click.exceptions.Exit:  # the command's --help was shown
        pass
    except (MemeditError, click.ClickException) as error:
        if fails:
            raise
        click.echo(
            f"error: {error.format_message() if isinstance(error, click.ClickException) else error}", err=True
        )
    return True


def _turn_of_program(talk: Talk, row: Mapping[str, Any], as_json: bool) -> None:
    """A line of a file: a turn of the user, or one that is taken in as it is."""
    role, text = row.get("role", "user"), row["content"]
    if role == "system":
        talk.system = text
    elif role == "assistant":
        talk.messages.append({"role": role, "content": text})
    elif role != "user":
        raise DataError(f"a turn has the role {role!r}; write user, assistant or system")
    else:
        answer = talk.say(text)
        assert talk.route is not None
        reasons = [c.reason for c in talk.route.edits]
        verdict = {**talk.route.to_dict(), "reasons": reasons, "dropped": talk.dropped}
        said = json.dumps({**row, "text": answer, **verdict}, ensure_ascii=False) if as_json else answer
        click.echo(said)


def _command(talk: Talk, line: str) -> bool:
    """Do what a line that begins with a slash asks; False to leave."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/exit", "/quit"):
        return False
    if name in ("/add-fact", "/undo"):
        from memedit.cli.edits import add_fact
        from memedit.cli.takeback import undo

        command, arguments = (add_fact, _fact(rest)) if name == "/add-fact" else (undo, rest.split())
        context = command.make_context(name, arguments)
        context.params["memory"] = talk.edited.memory  # the one that is open
        command.invoke(context)
    elif name == "/edits":
        newest = list(talk.edited.memory)[-20:][::-1]
        print_table(["id#", "fact"], [[r.id, fact(r.edit)] for r in newest]) if newest else _note("no edits")
    elif name == "/route":
        say_route(talk.route) if talk.route is not None else _note("nothing was asked yet")
    elif name == "/system":
        talk.system = rest or None
        _note("the system prompt is set" if rest else "no system prompt")
    elif name == "/reset":
        talk.messages, talk.route = [], None
        _note("a new conversation")
    else:
        click.echo(
            _HELP if name == "/help" else f"no command {name}; /help shows what there is", err=name != "/help"
        )
    return True


def _fact(rest: str) -> list[str]:
    """Arguments of add-fact; the sentence needs no quotes, since it ends where the first flag begins."""
    sentence, *flags = re.split(r"\s+(?=--\w)", f" {rest}".rstrip())
    sentence = sentence.strip()
    if len(sentence) > 1 and sentence[0] == sentence[-1] and sentence[0] in "\"'":
        sentence = sentence[1:-1]
    arguments = [sentence] if sentence else []
    for flag in flags:
        name, _, value = flag.partition(" ")
        try:
            values = shlex.split(value)
        except ValueError:  # an apostrophe
            values = [value]
        arguments += [name, *([" ".join(values)] if values else [])]
    return arguments


def _read(source: str) -> Iterator[dict[str, Any]]:
    for _, row in read_json_lines(source, "content"):
        yield row


def _verdict(route: Route | None) -> str:
    if route is None or not route.fired:
        return "no edit in scope: the base answered"
    return "; ".join(f"edit {c.id}: {fact(c.edit)} ({c.reason})" for c in route.edits)


def _note(text: str) -> None:
    click.secho(f"  {text}", dim=True, err=True)


@contextmanager
def _warned() -> Iterator[None]:
    """Shows what was warned of as a note, once each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ContextWarning)
        yield
    for message in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, ContextWarning)):
        _note(message)
