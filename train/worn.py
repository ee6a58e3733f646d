"""What people do to a text: lower case, slips of the keyboard, clumsy grammar, something before or after it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from scope_data import Case


def worn(text: str, rng: random.Random, cases: Sequence[Case] = ()) -> str:
    ways = ["lower", "lower", "slip", "ask", "bare", "clumsy", "clumsy"] + (["sentence"] if cases else [])
    way = rng.choice(ways)
    if way == "lower":
        return text.lower()
    if way == "bare":
        return text.rstrip("?. ").lower()
    if way == "slip":
        return slip(text, rng)
    if way == "clumsy":
        return clumsy(text, rng)
    if way == "sentence":
        return f"{rng.choice(cases).edit.statement} {text}"
    before, after = rng.choice(
        [
            ("Q: ", " A:"),
            ("Tell me: ", ""),
            ("Please answer: ", ""),
            ("Question: ", " Answer:"),
            ("hey, ", ""),
            ("", " Thanks!"),
        ]
    )
    return before + text + after


# What a translation there and back, or somebody's third language, makes of a question without changing what it asks.
CLUMSY = (
    (r"^What is the", "Which is the"),
    (r"^What is", "What's"),
    (r"^Who is", "Who's"),
    (r"^Which (?=\w+ (?:is|was|does|did)\b)", "What "),
    (r"^What (?=\w+ (?:is|was|does|did)\b)", "Which "),
    (r"^In (?:which|what) (\w+)", r"What \1"),
    (r"^Where ", "In which place "),
    (r"^When ", "In what year "),
    (r"^Who (?:is|was) the (.+?)\?$", r"The \1 is who?"),
    (r"^What is the (.+?)\?$", r"The \1 is what?"),
    (r"^(?:What|Who) (?:is|was) the ([\w ]+?) of ([^?]+)\?$", r"\2's \1?"),
    (r"\bthe (?=[a-z])", ""),
    (r"\bis\b", "was"),
    (r"\bwas\b", "has been"),
    (r"\bname of the ", "named "),
    (r" of ([^ ?]+)\?$", r" from \1?"),
)


def clumsy(text: str, rng: random.Random) -> str:
    """One or two of CLUMSY, where they fit."""
    fit = [(rule, other) for rule, other in CLUMSY if re.search(rule, text)]
    for rule, other in rng.sample(fit, min(len(fit), rng.randint(1, 2))):
        text = re.sub(rule, other, text, count=1)
    return text


def slip(text: str, rng: random.Random) -> str:
    """One slip of the keyboard in one longer word."""
    places = [m.span() for m in re.finditer(r"[^\W\d_]{5,}", text)]
    if not places:
        return text
    start, end = rng.choice(places)
    at = rng.randint(start + 1, end - 2)
    swapped = text[at + 1] + text[at]
    return rng.choice(
        [text[:at] + text[at + 1 :], text[:at] + swapped + text[at + 2 :], text[:at] + text[at] + text[at:]]
    )
