"""Conversations, and what a tokenizer's chat template makes of them: rendered to ids, and found again in ids.

No template is known by name. Each is shown a few conversations whose contents are marks, and what stands before,
between and after the marks tells how its turns are written.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from memedit.chat._places import tokens_after, tokens_from
from memedit.errors import ModelError

# For tokenizers without a template: a form that models which were never trained to chat go on with.
PLAIN = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim }}\n\n{% else %}"
    "{{ 'Question: ' if m.role == 'user' else 'Answer: ' }}{{ m.content | trim }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
PLAIN_STOP = "\nQuestion:"  # where an answer in the plain form is over

NO_MESSAGES = 'a conversation is a list of messages like {"role": "user", "content": "..."}'
_MARKS = {"system": "qzsystemqz", "user": "qz{}userqz", "assistant": "qz{}assistantqz"}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: `role` is ``"user"`` or ``"assistant"``."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, oldest first; at least one of them is the user's.

    Attributes:
        system: the system prompt, where the template keeps it apart.
        tail: how many tokens stand from the beginning of the last user turn's content on; None while not rendered.
        after: how many stand behind what the user says there; None also where that can't be told.
        merged: what the template puts between a system prompt and the user's words where it writes both into one
            turn, so that they can't be told apart for certain; empty otherwise.
    """

    turns: tuple[Turn, ...]
    system: str | None = None
    tail: int | None = None
    merged: str = ""
    after: int | None = None

    @property
    def last(self) -> int:
        """Number of the last user turn."""
        return max(i for i, turn in enumerate(self.turns) if turn.role == "user")

    def longer(self, tokens: int) -> Conversation:
        """The same, gone on by so many tokens."""
        tail, after = (None if n is None else n + tokens for n in (self.tail, self.after))
        return replace(self, tail=tail, after=after)

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """A conversation as chat templates take it: [{"role": ..., "content": ...}, ...].

        Raises:
            ModelError: no list of messages, or none of them is the user's.
        """
        if not is_messages(messages):
            raise ModelError(NO_MESSAGES)
        turns = [Turn(m["role"], text_of(m)) for m in messages if m["role"] in ("user", "assistant")]
        system = [text_of(m) for m in messages if m["role"] == "system"]
        if not any(turn.role == "user" and turn.text.strip() for turn in turns):
            raise ModelError("the conversation has no message of the user; add one with role 'user'")
        return cls(tuple(turns), system="\n\n".join(system) if system else None)


def is_messages(given: Any) -> bool:
    """Whether this is one conversation as chat templates take it."""
    return (
        isinstance(given, (list, tuple))
        and bool(given)
        and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in given)
    )


def conversations_in(given: Any) -> list[Any] | None:
    """One conversation or a list of them as a list; None where it is neither."""
    if is_messages(given):
        return [given]
    some = isinstance(given, (list, tuple)) and bool(given) and all(is_messages(one) for one in given)
    return list(given) if some else None


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may also come in parts, of which the texts count."""
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a template writes around contents.

    Attributes:
        head: before the first user turn, where no system prompt is given.
        system: what stands before and after a system prompt; None where the template takes none or merges it.
        opens: what every user turn begins with. parts: what ends one user turn or answer and opens the next user turn.
        answers: between a user's words and the answer. closes: what always comes after a user's words.
        end: after the last user's words, where an answer is asked for. bare: where none is. merged: see `Conversation`.
    """

    head: str
    system: tuple[str, str] | None
    opens: str
    parts: tuple[str, ...]
    answers: str
    closes: str
    end: str
    bare: str
    merged: str


class ChatTemplate:
    """A tokenizer's chat template, in both directions; without one, a plain form of questions and answers.

    Args:
        tokenizer: a Hugging Face tokenizer. It is never changed.
        tokenizing: held while it works, for a tokenizer that several threads use.

    Attributes:
        plain: whether the tokenizer has no template of its own.
    """

    def __init__(self, tokenizer: Any, tokenizing: threading.Lock | None = None) -> None:
        self.tokenizer = tokenizer
        self._tokenizing = tokenizing or threading.Lock()
        self.source = getattr(tokenizer, "chat_template", None)
        self.plain = not self.source
        self._learned: tuple[date, _Shape | None] | None = None
        self._learning = threading.Lock()

    @property
    def stop(self) -> list[str]:
        """Strings at which an answer is over, where no token says so."""
        return [PLAIN_STOP] if self.plain else []

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Ids of a conversation, by the tokenizer's own `apply_chat_template`; an answer is asked for.

        A conversation whose last message is the assistant's is to be gone on with.

        Args:
            options: for the template (tools, enable_thinking, ...).

        Raises:
            ModelError: the template refuses the conversation; says why.
        """
        mine = messages[-1]["role"] == "assistant"
        given = {"add_generation_prompt": not mine, "continue_final_message": mine, **options}
        if self.plain:
            given["chat_template"] = PLAIN
        try:
            with self._tokenizing:
                out = self.tokenizer.apply_chat_template(
                    list(messages), tokenize=True, return_dict=True, **given
                )
            return out["input_ids"]
        except Exception as error:  # a template may raise whatever it likes, and says in words what it misses
            raise ModelError(f"the model's chat template refuses this conversation: {error}") from error

    def rendered(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> tuple[list[int], Conversation]:
        """Ids, and the conversation with its `tail`; what each side said is taken from the messages themselves.

        Raises:
            ModelError: as `Conversation.of` and `render`.
        """
        conversation = Conversation.of(messages)
        ids = self.render(messages, **options)
        text, found = self._found(ids)
        said = conversation.turns[conversation.last].text.strip()
        if found is None:
            start = text.rfind(said)
        else:  # right before the user's own words: a template may have put the system prompt before them
            read, start = found
            within = read.turns[read.last].text.rfind(said) if read.merged else 0
            start += max(within, 0)
        if self.plain and start >= 0:  # a line of its own before the question
            start -= len("Question: ")
        return ids, conversation if start < 0 else self._placed(conversation, ids, text, start)

    def parse(self, ids: Sequence[int]) -> Conversation | None:
        """The conversation that these ids (without padding) are a rendering of; None where they follow no template."""
        text, found = ("", None) if self.plain or not len(ids) else self._found(ids)
        if found is None:
            return None
        placed = self._placed(found[0], ids, text, found[1])
        return None if placed.tail is None else placed

    def parse_text(self, text: str) -> Conversation | None:
        """As `parse`, of the ids that the tokenizer makes of a text."""
        shape = None if self.plain else self.shape
        bos = getattr(self.tokenizer, "bos_token", None) or ""
        if shape is None or not text.removeprefix(bos).startswith(
            tuple(start.removeprefix(bos) for start in _starts(shape))
        ):
            return None
        with self._tokenizing:
            ids = self.tokenizer(text)["input_ids"]
        return self.parse(ids)

    def _found(self, ids: Sequence[int]) -> tuple[str, tuple[Conversation, int] | None]:
        """Ids as text; the conversation in it and where the last user's words begin, where it follows the template."""
        text, shape = self._decoded(ids), self.shape
        if shape is None or self.plain:
            return text, None
        bos = getattr(self.tokenizer, "bos_token", None) or ""
        # A tokenizer may put a BOS of its own before the template's.
        skipped = (
            len(bos) if bos and text.startswith(bos) and not text.startswith(tuple(_starts(shape))) else 0
        )
        skipped = len(bos) if bos and text.startswith(bos * 2) else skipped
        found = _read(text[skipped:], shape)
        return text, None if found is None else (found[0], found[1] + skipped)

    @property
    def shape(self) -> _Shape | None:
        """How turns are written; None where that can't be told. Learned anew each day: templates write the date."""
        with self._learning:
            today = date.today()
            if self._learned is None or self._learned[0] != today:
                self._learned = (today, self._learn())
            return self._learned[1]

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _placed(self, talk: Conversation, ids: Sequence[int], text: str, start: int) -> Conversation:
        """The conversation with `tail` and `after`; its last user turn begins at character `start` of the text."""
        said = talk.turns[talk.last].text.strip()
        tail = tokens_from(ids, text, start, self._decoded)
        return replace(talk, tail=tail, after=tokens_after(ids, text, start, said, self._decoded))

    # -- learning

    def _learn(self) -> _Shape | None:
        one = self._gaps("u")
        if one is None or not one[0].strip():
            return None
        head, end = one
        three, five, twice = self._gaps("uau"), self._gaps("uauau"), self._gaps("uu")
        answers = [gap for found, at in ((three, 1), (five, 1), (five, 3)) if found for gap in [found[at]]]
        answers = answers or [found[1] for found in [self._gaps("ua")] if found]
        nexts = {
            gap
            for found, at in ((three, 2), (five, 2), (five, 4), (twice, 1))
            if found
            for gap in [found[at]]
        }
        answer = _common_prefix(answers)
        if not answer.strip() or not all(gap.strip() for gap in nexts):
            return None
        opens = _common_suffix([head, *nexts])
        system, merged = self._system(head)
        bare = self._gaps("u", asking=False)
        return _Shape(
            head=head,
            system=system,
            opens=opens if opens.strip() else head,
            parts=tuple(sorted(nexts, key=len, reverse=True)),
            answers=answer,
            closes=_common_prefix([answer, end, *[found[-1] for found in (three, five) if found]]),
            end=end,
            bare=bare[-1] if bare else "",
            merged=merged,
        )

    def _system(self, head: str) -> tuple[tuple[str, str] | None, str]:
        """What stands around a system prompt; and what stands after one that is merged into a user turn."""
        single, longer = self._gaps("su"), self._gaps("suau")
        if single is None:
            return None, ""
        before, after, _ = single
        if before == head and not after.strip():
            return None, after
        if longer is not None and longer[0] != before:  # only the last user turn carries it
            return None, after
        return (before, after), ""

    def _gaps(self, roles: str, asking: bool = True) -> list[str] | None:
        """What the template writes around the contents of such a conversation; None where it refuses or changes them.

        Where the system prompt stands later than first, it is looked at as part of what surrounds it.
        """
        names = {"s": "system", "u": "user", "a": "assistant"}
        messages = [
            {"role": names[role], "content": _MARKS[names[role]].format(i)} for i, role in enumerate(roles)
        ]
        try:
            with self._tokenizing:
                ids = self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=True,
                    return_dict=True,
                    add_generation_prompt=asking and roles[-1] == "u",
                )["input_ids"]
        except Exception:
            return None
        text = self._decoded(ids)
        marks = sorted((m["content"] for m in messages), key=text.find)
        if any(text.count(mark) != 1 for mark in marks):
            return None
        if marks != [m["content"] for m in messages] and roles != "suau":
            return None
        return re.split("|".join(map(re.escape, marks)), text)


def _starts(shape: _Shape) -> Iterator[str]:
    """What a rendering begins with, up to the first line's end or figure: what follows may be a date."""
    for whole in (shape.head, shape.system[0] if shape.system else ""):
        if whole:
            match = re.match(r"[^\n\d]*\n?", whole)
            cut = match.group() if match else ""
            yield cut if cut.strip() else whole


def _read(text: str, shape: _Shape) -> tuple[Conversation, int] | None:
    """The turns of a rendering, and where the last user's words begin; None where it isn't one."""
    if not text.startswith(tuple(_starts(shape))):
        return None
    system, at = _opening(text, shape)
    if at < 0:
        return None
    turns: list[Turn] = []
    while True:
        found = [(text.find(part, at), part) for part in shape.parts]
        ends = min(((i, -len(part)) for i, part in found if i >= 0), default=None)
        if ends is None:
            break
        turns += _exchange(text[at : ends[0]], shape)
        at = ends[0] - ends[1]
    rest = text[at:]
    if shape.end and rest.endswith(shape.end) and shape.answers not in rest[: -len(shape.end)]:
        last = [Turn("user", rest[: -len(shape.end)])]
    elif shape.closes and shape.closes in rest:
        last = list(_exchange(rest, shape))
    elif rest.endswith(shape.bare):
        last = [Turn("user", rest[: len(rest) - len(shape.bare)])]
    else:
        return None
    if not last[0].text.strip():
        return None
    return Conversation((*turns, *last), system=system, merged=shape.merged), at


def _opening(text: str, shape: _Shape) -> tuple[str | None, int]:
    """The system prompt, and where the first user turn's content begins; -1 where there is none."""
    by_head = text.startswith(shape.head)
    if shape.system is not None:
        before, after = shape.system
        ends = text.find(after, len(before)) if text.startswith(before) else -1
        defaulted = by_head and len(shape.head) > len(before)
        if ends >= 0 and not defaulted and after.strip():
            return text[len(before) : ends], ends + len(after)
    if by_head:
        return None, len(shape.head)
    at = text.find(shape.opens)
    return None, -1 if at < 0 else at + len(shape.opens)


def _exchange(text: str, shape: _Shape) -> Iterator[Turn]:
    """What the user said, and what was answered, where anything was."""
    said, answered, answer = text.partition(shape.answers)
    if not answered and shape.closes:
        said = text.partition(shape.closes)[0]
    yield Turn("user", said)
    if answer.strip():
        yield Turn("assistant", answer)


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    same = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return low[:same]


def _common_suffix(texts: Sequence[str]) -> str:
    return _common_prefix([text[::-1] for text in texts])[::-1]
