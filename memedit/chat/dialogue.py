"""What a user's turn asks in the light of the turns before it: pure functions on words.

A turn may ask anew, ask about what was named before ("Who is his wife?", "And of Italy?"), or doubt the last answer
("No, it's Paris."). The first is routed as it stands; the second is put into sentences that stand alone; the third
keeps what was stated for the turn that it doubts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memedit.chat.doubts import (
    ABOUT,
    AND,
    ASKS,
    AUX,
    LEAD,
    PERSONAL,
    POSSESSIVE,
    SENTENCE,
    SMALL,
    SOFT,
    STRONG,
    WEAK,
    WH,
    doubts,
    elliptical,
    verdicts_on,
)
from memedit.chat.template import Conversation, Turn
from memedit.subjects import COMMON, content, find, guesses, words

MOST_STEPS = 32  # user turns that are gone back for what a doubt is about
MOST_NAMES = 6  # names that are tried in a pronoun's place


@dataclass(frozen=True, slots=True)
class Step:
    """One user turn of the way from what a conversation is about to its last turn.

    Attributes:
        text: the user's words. variants: what they may mean, each standing alone, the likeliest first.
        doubts: whether they doubt what was said, as far as words tell; known: the words of what was said.
        passes: whether they ask nothing new, so that what was stated before may be taken up after them.
        asks: whether they may name a subject, and so have to be routed.
    """

    text: str
    variants: tuple[str, ...]
    doubts: bool
    known: frozenset[str]
    passes: bool
    asks: bool

    def doubt_of(self, claims: Iterable[str]) -> bool:
        """Whether this turn doubts an answer made of such claims (an edit's target, old answer and subject)."""
        return self.doubts or doubts(self.text, self.known, claims)


def steps(conversation: Conversation, named: Callable[[str], Sequence[str]]) -> list[Step]:
    """The last user turn, preceded by those that it can't be understood without; oldest first.

    Args:
        named: the subjects of the memory's edits that a text names, as the text writes them.
    """
    turns = conversation.turns[: conversation.last + 1]
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    first = len(users) - 1
    while (
        first
        and len(users) - first < MOST_STEPS
        and depends(turns[users[first]].text, _said(turns, users, first))
    ):
        first -= 1
    out: list[Step] = []
    question = ""  # what was last asked, standing alone
    pool: list[str] = []  # the names that were spoken of
    for at in range(first, len(users)):
        text, known = turns[users[at]].text, _said(turns, users, at)
        before = at > first
        doubt = before and doubts(text, known)
        refers = before and not doubt and depends(text, known)
        asked = "?" in text and _points(
            text
        )  # "Where is it?" may be a doubt, or a question about what was named
        variants = meant(text, question, pool) if before and (asked or not doubt) else []
        verdicts = set(verdicts_on(text, known))
        idle = verdicts <= {"nothing"}  # "Thanks!"
        asks = at == len(users) - 1 or not (doubt or idle) or bool(named(text))
        passes = "new" not in verdicts and not ABOUT.match(text) and not elliptical(text)
        out.append(Step(text, tuple(variants), doubt, known, passes, asks))
        if idle:
            continue
        if not doubt:
            question = variants[0] if refers and variants else text
        answers = turns[users[at] + 1 : users[at + 1]] if at + 1 < len(users) else ()
        own = _names([text, *(turn.text for turn in answers)], named)
        goes_on = doubt or (refers and not elliptical(text))  # "And Italy?" leaves what was spoken of
        pool = list(dict.fromkeys([*own, *(pool if goes_on else ())]))[:MOST_NAMES]
    return out


def depends(text: str, known: frozenset[str]) -> bool:
    """Whether a turn may need those before it: it points back, names nothing, or asks nothing new."""
    return not _standing(text) or "new" not in verdicts_on(text, known)


def _standing(text: str) -> bool:
    """Whether a turn names what it is about, and points at nothing else."""
    apart = not (_points(text) or AND.match(text) or ABOUT.match(text))
    return apart and bool(_capitals(text)) and len(words(text)) > 2


def _points(text: str) -> bool:
    """Whether a turn has a word that points at something said before, or may."""
    return any(
        w.folded in PERSONAL | POSSESSIVE | {"this", "that", "these", "those", "there"} for w in words(text)
    )


def _said(turns: Sequence[Turn], users: Sequence[int], at: int) -> frozenset[str]:
    """Words of the exchange before a user turn."""
    if not at:
        return frozenset()
    return frozenset().union(*(content(turn.text) for turn in turns[users[at - 1] : users[at]]))


# -- references


def meant(text: str, question: str, names: Sequence[str]) -> list[str]:
    """What a turn may mean, each standing alone, the likeliest first.

    Args:
        question: what was asked before, standing alone. names: what was spoken of, the likeliest first.
    """
    found: list[str] = []
    other = elliptical(text)
    if other and question:
        found += [question.replace(name, other) for name in _within(question, names) if name != other]
    for name in names:
        found += _with(text, name)
    return [one for one in dict.fromkeys(found) if one != text]


def _within(question: str, names: Sequence[str]) -> list[str]:
    """Those names, as the question writes them."""
    found = [find(name, question) for name in names]
    return list(
        dict.fromkeys(question[start:end] for f in found if f.share == 1 for start, end in f.spans[:1])
    )


def _with(text: str, name: str) -> list[str]:
    """The turn with a name in the place of what points back; where nothing does, with the name added."""
    own = f"{name}'" if name.endswith("s") else f"{name}'s"
    out = []
    for pattern, into in (
        (
            r"\b(?:his|its|their)\b(?!\s*[?.!,]|$)|\bher\b(?=\s+\w)(?!\s+(?:in|at|on|from|with|to|for|and|or)\b)",
            own,
        ),
        (r"\b(?:the|that|this|these|those)\s+[a-z]+['’]s\b", own),
        (
            r"\b(?:this|that|these|those)\s+(?:same\s+)?(?!is\b|was\b|are\b|the\b|it\b|he\b|she\b)[a-z]+\b(?!['’])",
            name,
        ),
        (r"\b(?:he|she|him|her|it|they|them)\b", name),
        (
            r"(?<=\b(?:of|in|at|by|to)\s)(?:this|that)\b|(?<=about\s)(?:this|that)\b|\b(?:this|that)\b(?=\s*[?.!]|$)",
            name,
        ),
        (r"(?<!\bis\s)(?<!\bare\s)(?<!\bwas\s)(?<!^)\b(?:there|here)\b", f"in {name}"),
    ):
        changed = re.sub(pattern, into.replace("\\", ""), text, flags=re.IGNORECASE)
        if changed != text:
            out.append(LEAD.sub("", changed))
            break
    if not out and not _capitals(text):
        bare = LEAD.sub("", text).rstrip(" ?!.")
        if re.match(r"(?:the\s+)?[a-z]+(?:\s+[a-z]+)?$", bare, re.IGNORECASE) and text.rstrip().endswith("?"):
            bare = f"What is {bare if bare.lower().startswith('the ') else 'the ' + bare}"
        if re.search(r"\bthe\b", bare, re.IGNORECASE):
            out.append(f"{bare} of {name}?")
    elif out and not (WH | AUX) & {w.folded for w in words(out[0])[:3]} and len(words(out[0])) < 8:
        out.append(f"What is {out[0]}")
    return out


def _names(texts: Sequence[str], named: Callable[[str], Sequence[str]]) -> list[str]:
    """What texts speak of: edits' subjects first, then whatever is written like a name; the last text's first."""
    known = [name for text in reversed(texts) for name in named(text)]
    guessed = [name for text in reversed(texts) for name in _capitals(text)]
    # "CEO of Acme" is no name of its own where Acme is one.
    own = [name for name in guessed if not any(find(other, name).share == 1 for other in known)]
    return list(dict.fromkeys([*known, *own]))


def _capitals(text: str) -> list[str]:
    """The names of a text, so far as capitals tell."""
    found: list[str] = []
    for sentence in SENTENCE.findall(text):
        for name in guesses(sentence.strip()):
            first = words(name)[0]
            plain = {w.folded for w in words(name)} <= COMMON | SOFT | STRONG | WEAK | WH | AUX | ASKS | SMALL
            opening = sentence.strip().startswith(name) and len(words(name)) == 1 and len(words(sentence)) > 3
            if first.capital and not plain and not opening and not name.isdigit():
                found.append(name)
    return found
