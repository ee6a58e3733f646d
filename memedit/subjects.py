"""Is this name in that text, and what is left of the text without it?

Names are compared word by word after folding: case, diacritics, possessives, hyphens and dots don't count
("J. K. Rowling's" names "JK Rowling"), one slip of the keyboard in a longer word doesn't either, but a name
is never found inside another word.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

MASK = "X"

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i", "ð": "d", "þ": "th"})
# Words that carry no meaning of their own.
COMMON = frozenset(
    """
    a about after all also am an and any are as at be been before being between both but by can could did do does
    done during each for from had has have he her hers him his how i if in into is it its itself just me more most
    my name no not of on one or other our out over s she so some such than that the their them then there these
    they this those through to too under until up us was we were what when where which while who whom whose why
    will with would you your tell please true false correct say know called named
    """.split()
)
_JOINS = frozenset("of the de la le du von van der den da di del al el bin ibn and y".split())
QUESTION = frozenset(
    "what who whom whose where when which why how is are was were do does did can could in on at to".split()
)


class Word(NamedTuple):
    """A word of a text: folded, where it stands, and whether it is written with a capital (or is a number)."""

    folded: str
    start: int
    end: int
    capital: bool


class Found(NamedTuple):
    """How a text names somebody or something: share of the name's words found, and where (characters)."""

    share: float
    spans: tuple[tuple[int, int], ...]
    extended: bool  # the name goes on ("Paris Hilton" where Paris was looked for)

    @property
    def length(self) -> int:
        """Characters of the longest mention."""
        return max((end - start for start, end in self.spans), default=0)


NOWHERE = Found(0.0, (), False)


def fold(text: str) -> str:
    """Lower case without diacritics."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return plain.translate(_LETTERS)


@lru_cache(maxsize=100_000)
def words(text: str) -> tuple[Word, ...]:
    """The words of a text; the s of a possessive is none."""
    found: list[Word] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        if (
            match.group() in "sS"
            and start
            and text[start - 1] in "'’`"
            and found
            and found[-1].end == start - 1
        ):
            continue
        first = match.group()[0]
        found.append(Word(fold(match.group()), start, end, first.isupper() or first.isdigit()))
    return tuple(found)


@lru_cache(maxsize=100_000)
def content(text: str) -> frozenset[str]:
    """The folded words of a text that carry meaning."""
    return frozenset(w.folded for w in words(text) if w.folded not in COMMON)


def near(a: str, b: str) -> bool:
    """Equal, or one slip apart in a word of five letters or more: a letter more, less, other, or two swapped."""
    if a == b:
        return True
    if min(len(a), len(b)) < 5 or abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    left, right = a[start : len(a) - end], b[start : len(b) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == len(right) == 2 and left == right[::-1])


@lru_cache(maxsize=100_000)
def find(name: str, text: str) -> Found:
    """Look for `name` in `text`: the whole of it, or as many of its words as are there."""
    wanted = [w.folded for w in words(name)]
    while len(wanted) > 1 and wanted[0] in ("the", "a", "an"):
        wanted = wanted[1:]
    there = words(text)
    if not wanted or not there:
        return NOWHERE
    whole = _whole("".join(wanted), there)
    if whole:
        first, last = whole[0]
        return Found(
            1.0,
            tuple((there[i].start, there[j].end) for i, j in whole),
            _stretch(there, first, last) != (first, last),
        )
    keys = [w for w in wanted if w not in COMMON] or wanted
    hits = {i: key for key in keys for i, w in enumerate(there) if near(key, w.folded)}
    if not hits:
        return NOWHERE
    share = len(set(hits.values())) / len(set(keys))
    first, last = _run(sorted(hits))
    wide = _stretch(there, first, last)
    return Found(
        share if share < 1 else 0.99, ((there[wide[0]].start, there[wide[1]].end),), wide != (first, last)
    )


def mask(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    """The text with each span replaced by a placeholder."""
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + MASK + text[end:]
    return text


@lru_cache(maxsize=100_000)
def guesses(text: str) -> tuple[str, ...]:
    """What a sentence may be about, where nobody said: its capitalised names in order; without any, its longest word."""
    there = words(text)
    names: list[str] = []
    at = 0
    while at < len(there):
        word = there[at]
        if (
            word.capital
            and not (at == 0 and (word.folded in COMMON or word.folded in QUESTION))
            and word.folded not in ("the", "i")
        ):
            _, last = _stretch(there, at, at)
            names.append(text[word.start : there[last].end])
            at = last + 1
        else:
            at += 1
    first = there[0] if there else None
    if (
        len(names) > 1
        and first is not None
        and names[0] == text[first.start : first.end]
        and text.islower() is False
    ):
        names.append(
            names.pop(0)
        )  # a lone first word has its capital from the sentence: trust the others more
    if not names and there:
        longest = max(there, key=lambda w: (w.folded not in COMMON, len(w.folded)))
        names = [text[longest.start : longest.end]]
    return tuple(dict.fromkeys(names))


def _whole(joined: str, there: tuple[Word, ...]) -> list[tuple[int, int]]:
    """Where the words of a text, written together, are the name: (first, last) word of each place."""
    places = []
    for first in range(len(there)):
        built = ""
        for last in range(first, len(there)):
            built += there[last].folded
            if built == joined:
                places.append((first, last))
            if not joined.startswith(built):
                break
    return places


def _run(hits: list[int]) -> tuple[int, int]:
    """The longest run of hits with at most one other word between two of them."""
    runs = [[hits[0], hits[0]]]
    for at in hits[1:]:
        if at - runs[-1][1] <= 2:
            runs[-1][1] = at
        else:
            runs.append([at, at])
    first, last = max(runs, key=lambda r: r[1] - r[0])
    return first, last


def _stretch(there: tuple[Word, ...], first: int, last: int) -> tuple[int, int]:
    """The run of capitalised words around a hit, over joining words ("University of Madrid")."""
    if not there[first].capital:
        return first, last
    while last + 1 < len(there):
        step = 2 if there[last + 1].folded in _JOINS and last + 2 < len(there) else 1
        if not there[last + step].capital or there[last + step].start - there[last].end > 4 + 4 * step:
            break
        last += step
    while (
        first > 0
        and there[first - 1].capital
        and there[first - 1].folded not in COMMON
        and there[first - 1].folded not in QUESTION
    ):
        first -= 1
    return first, last
