"""Questions taken apart from the inside out, by their words alone: `mello`'s plan for models that are too small to plan.

"What is the nationality of the author of Misery?" names somebody by a description, "the author of Misery", that can be
asked on its own ("What is the author of Misery?") and replaced by its answer. What is left is a shorter question.
Descriptions are

    the A of N                  N a name: capitalised words, or words in quotation marks; also "for", "in", "by", "from"
    the A where | that | ...    a clause that has a name in it, up to the end of the sentence
    N's A

and the one that begins last is the innermost. No model is asked; the words are English. This is not the paper's: there,
the model plans (`_plans.py`).
"""

from __future__ import annotations

import re

from memedit.subjects import COMMON, QUESTION

_QUOTED = r"[\"“][^\"”]{1,80}[\"”]"
_CAPITAL = r"[A-Z0-9À-ÖØ-ÞĀ-Ž](?:[\w.&-]*\w)?(?!\w)"
_JOIN = r"(?:of|the|de|la|le|du|von|van|der|den|da|di|del|al|el|bin|ibn|and|y)"
_NAME = rf"(?:{_QUOTED}|{_CAPITAL}(?:\s+(?:{_JOIN}\s+){{0,2}}{_CAPITAL})*\.?(?=\W|$))"
_HEAD = r"(?:[a-zà-ÿ][\w-]*\s+){1,6}?"
_OF = re.compile(rf"[Tt]he\s+{_HEAD}(?:of|for|in|by|from)\s+(?:the\s+)?(?P<name>{_NAME})")
_CLAUSE = re.compile(
    rf"[Tt]he\s+{_HEAD}(?:(?:in|of|from|to|by|for)\s+)?(?:where|that|who|whom|which|whose)\s+[^?]*?{_NAME}[^?.,]*"
)
_OWNED = re.compile(rf"{_NAME}['’]s\s+(?P<rest>[a-zà-ÿ][\w-]*(?:\s+[a-zà-ÿ][\w-]*){{0,3}})")
_THE = re.compile(r"\b[Tt]he\s")
# What is asked when nothing but a description is left: it is no step, but the question itself.
_ONE_HOP = re.compile(
    r"\W*(?:(?:what|who|which|where|when)(?:['’]s|\s+(?:is|was|are|were))\s+)?X(?:\s+(?:is|was|are|were))?\W*",
    re.I,
)


def innermost(text: str) -> tuple[int, int] | None:
    """Where the description stands that is to be answered first; None where the text is one question about one name.

    Example:
        >>> text = "What is the nationality of the author of Misery?"
        >>> text[slice(*innermost(text))]
        'the author of Misery'
        >>> innermost("What is the capital of France?") is None
        True
    """
    spans = [found for at in _THE.finditer(text) for found in [_the(text, at.start())] if found]
    spans += [found for match in _OWNED.finditer(text) for found in [_owned(match)] if found]
    for start, end in sorted(spans, reverse=True):
        if not _ONE_HOP.fullmatch(f"{text[:start]}X{text[end:]}"):
            return start, end
    return None


def asked_alone(description: str) -> str:
    """A description as a question.

    Example:
        >>> asked_alone("The author of Misery")
        'What is the author of Misery?'
    """
    plain = description[0].lower() + description[1:] if description.startswith("The ") else description
    return f"What is {plain}?"


def put_in(text: str, span: tuple[int, int], answer: str) -> str:
    """The text with a description replaced by its answer."""
    return text[: span[0]] + answer + text[span[1] :]


def as_statement(question: str, answer: str) -> str:
    """A question and its answer as one sentence, as nearly as its form allows.

    Example:
        >>> as_statement("What is the capital of France?", "Lyon")
        'The capital of France is Lyon.'
        >>> as_statement("Who wrote the sequel of Misery?", "Ann Dorr")
        'Who wrote the sequel of Misery? Ann Dorr.'
    """
    match = re.fullmatch(r"(?:what|who|which)\s+(is|was|are|were)\s+(.+?)\s*\?*", question.strip(), re.I)
    end = "" if answer.endswith((".", "!", "?")) else "."
    if match is None:
        return f"{question.strip()} {answer}{end}"
    thing = match[2]
    return f"{thing[0].upper()}{thing[1:]} {match[1].lower()} {answer}{end}"


def _the(text: str, at: int) -> tuple[int, int] | None:
    found = _OF.match(text, at) or _CLAUSE.match(text, at)
    return None if found is None else (at, at + len(found.group().rstrip()))


def _owned(match: re.Match[str]) -> tuple[int, int] | None:
    """N's A: as many words as are no verb or little word."""
    end = match.start("rest")
    for word in re.finditer(r"[\w-]+", match["rest"]):
        if word.group() in COMMON or word.group() in QUESTION:
            break
        end = match.start("rest") + word.end()
    return None if end == match.start("rest") else (match.start(), end)
