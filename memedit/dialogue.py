"""What a user's turn asks in the light of the turns before it: pure functions on words.

A turn may ask anew, ask about what was named before ("Who is his wife?", "And of Italy?"), or doubt the last answer
("No, it's Paris."). The first is routed as it stands; the second is put into sentences that stand alone; the third
keeps what was stated for the turn that it doubts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memedit.chat import Conversation, Turn
from memedit.subjects import COMMON, Word, content, find, guesses, words

MOST_STEPS = 32  # user turns that are gone back for what a doubt is about
MOST_NAMES = 6  # names that are tried in a pronoun's place

_WH = frozenset("who whom whose what where which when why how".split())
_AUX = frozenset(
    """
    am are aren can could couldn did didn do does doesn don had hadn has hasn have haven is isn may
    might must shall should shouldn was wasn were weren will won would wouldn
    """.split()
)
_ASKS = frozenset(
    """
    add calculate check compare compose compute convert count create define describe draft explain find
    fix generate give help imagine let list make name plan play proofread recommend remind rewrite show
    sing solve suggest summarise summarize teach tell translate write
    """.split()
)
# Words that a doubter uses, with which nothing else is said.
_SOFT = frozenset(
    """
    absolutely actually again ago ah aha already although another answer answers anyway ask asked asking
    away back believe believed bet bit both c cannot case certain certainly changed check checked
    checking claim claims clarify clear clearly come completely confident confirm confused consider
    correct could course cross curious d definitely deny detail details different differently doing
    double easily either elaborate else ever every exactly excuse explain fact facts fair final find
    first fully gave get gets getting give given gives go going good got guess hang happens hard having
    hear heard here hey hm hmm hold honest honestly huh i idea ignore im info information insist interesting its
    joking judge justify kidding kind know known knows last later learn learned learnt least let like
    likely little ll look looked looking looks made make makes making maybe mean means mind minute
    moment money mr must n never new nope not nothing now odd of off oh ok okay once oops other others
    otherwise own pardon people please point positive positively possible possibly pretty prior probably
    proof prove proved quite rather re reading real really reason recall recent recently recheck reckon
    reconsider refer remember repeat reply response right same saw saying second see seem seems seen
    serious seriously several since so something somewhere sorry sound sounds source sources stand
    stands still stop strange sure surely swear sworn t take taken talking tells thank thanks that thats
    thing things think thinking though thought time times today totally tried truth try twice two u uh
    um up ur usually ve version very view wait want way weird well went whatever will wonder word words
    work worth wow yeah yep yes yesterday yet
    """.split()
)
# Words that question what was said.
_STRONG = frozenset(
    """
    absurd admit bogus bollocks bullshit convinced debatable differ disagree disbelieve disprove doubt
    doubtful doubts dubious erred erroneous error evidence fabricate fabricated fake false falsehood
    garbage hallucinate hallucinated hallucinating hallucination impossible improbable inaccurate
    incorrect incorrectly insist invented inventing lie lied lies lying misinformed mistake mistaken
    mixed nonsense outdated recheck reconsider refute ridiculous rubbish sceptical skeptical sure
    suspicious unbelievable unconvinced unlikely untrue verify wrong wrongly
    """.split()
)
# Words for where a doubter has it from; they need more to be a doubt.
_SOURCES = frozenset(
    """
    according article atlas atlases aunt bing book books boss brother chatgpt class claude colleague dad
    dictionary encyclopaedia encyclopedia everybody everyone everywhere expert experts family father
    friend friends gemini google gpt grandma grandfather grandmother grandpa husband internet journal lesson map maps media mom
    mother mum uncle news newspaper newspapers note notes online paper parents press professor scholars school
    schoolbook show shows sister site teacher teachers textbook textbooks tv university website websites
    wife wiki wikipedia
    """.split()
)
_TELLS = frozenset(
    """
    believe cite googled heard learned learnt posted published read report reported reports said saw say
    saying says studied taught thought told written
    """.split()
)
_WEAK = _SOURCES | _TELLS
_SMALL = frozenset(
    "ok okay thanks thank you fine great good got it sure right cool nice so well and now no yes please "
    "hello hi hey bye goodbye again".split()
)
_PERSONAL = frozenset("he him she they them it".split())
_POSSESSIVE = frozenset("his its their her".split())
_LINKS = frozenset("it that this you your thats its they".split())
_LEAD = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|thanks|thank you|so|well|fine|great|right|and|but|then|now|also|sorry)\b[\s,.:;!-]*)+",
    re.I,
)
_ABOUT = re.compile(r"^\W*(?:(?:and|but|so|ok(?:ay)?|then|now)\b[\s,]*)*(?:what|how) about\b\s*", re.I)
_AND = re.compile(r"^\W*(?:(?:ok(?:ay)?|so|then)\b[\s,]*)*(?:and|or|but)\b[\s,]*", re.I)
_PREPOSITION = re.compile(r"^(?:of|in|for|to|with|at|on|by|from)\s+", re.I)
_SENTENCE = re.compile(r"[^.?!\n]+[.?!]*")


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
        verdicts = set(_verdicts(text, known))
        idle = verdicts <= {"nothing"}  # "Thanks!"
        asks = at == len(users) - 1 or not (doubt or idle) or bool(named(text))
        passes = "new" not in verdicts and not _ABOUT.match(text) and not _elliptical(text)
        out.append(Step(text, tuple(variants), doubt, known, passes, asks))
        if idle:
            continue
        if not doubt:
            question = variants[0] if refers and variants else text
        answers = turns[users[at] + 1 : users[at + 1]] if at + 1 < len(users) else ()
        own = _names([text, *(turn.text for turn in answers)], named)
        goes_on = doubt or (refers and not _elliptical(text))  # "And Italy?" leaves what was spoken of
        pool = list(dict.fromkeys([*own, *(pool if goes_on else ())]))[:MOST_NAMES]
    return out


def depends(text: str, known: frozenset[str]) -> bool:
    """Whether a turn may need those before it: it points back, names nothing, or asks nothing new."""
    return not _standing(text) or "new" not in _verdicts(text, known)


def _standing(text: str) -> bool:
    """Whether a turn names what it is about, and points at nothing else."""
    apart = not (_points(text) or _AND.match(text) or _ABOUT.match(text))
    return apart and bool(_capitals(text)) and len(words(text)) > 2


def _points(text: str) -> bool:
    """Whether a turn has a word that points at something said before, or may."""
    return any(
        w.folded in _PERSONAL | _POSSESSIVE | {"this", "that", "these", "those", "there"} for w in words(text)
    )


# -- doubts


def doubts(text: str, known: frozenset[str], claims: Iterable[str] = ()) -> bool:
    """Whether a turn doubts or takes up the answer before it, and asks nothing new.

    Args:
        known: words of the exchange before. claims: what the answer claims, and what was believed before.
    """
    claimed = frozenset(word for claim in claims for word in content(claim))
    if _ABOUT.match(text) or (_AND.match(text) and _elliptical(text) and not claimed & content(text)):
        return False
    verdicts = _verdicts(text, known, claimed)
    return "doubt" in verdicts and not {"new", "other"} & set(verdicts)


def _verdicts(text: str, known: frozenset[str], claimed: frozenset[str] = frozenset()) -> list[str]:
    return [_verdict(s.strip(), known, claimed) for s in _SENTENCE.findall(text) if words(s)]


def _verdict(sentence: str, known: frozenset[str], claimed: frozenset[str]) -> str:
    """Of one sentence: ``"doubt"``, ``"new"`` (a question or a wish), ``"other"`` (said in passing), ``"nothing"``."""
    there = words(_LEAD.sub("", sentence)) or words(sentence)
    folded = [w.folded for w in there]
    if all(w in _SMALL for w in folded) and not ({"no", "sure"} & set(folded) or folded == ["again"]):
        return "nothing"
    # "When I was in school ..." asks nothing.
    wh = folded[0] in _WH and (sentence.endswith("?") or bool(_AUX & set(folded[1:2])))
    asks = wh or (folded[0] == "please" and folded[1:2] and folded[1] in _ASKS) or folded[0] in _ASKS
    sources = frozenset() if asks and not _TELLS & set(folded) else _SOURCES  # "Who is his wife?"
    strange = [
        w
        for w in there
        if w.folded not in COMMON | _SOFT | _STRONG | _TELLS | sources | _AUX | known | claimed
        and len(w.folded) > 1
    ]
    # The first word has its capital from the sentence, unless a name goes on after it or there is no other.
    opening = there[1:] and not there[1].capital and any(w.capital for w in strange if w is not there[0])
    names = _runs([w for w in strange if w.capital and not (opening and w is there[0])], there)
    lower = [w for w in strange if not any(w in run for run in names)]
    if not strange:
        return "nothing" if set(folded) <= _SMALL - {"no", "sure"} else "doubt"
    said = set(folded)
    asked = sentence.endswith("?") or folded[0] in _AUX
    mine = "my" in said and not said & (_WEAK | _STRONG)  # "My name is Tom."
    if asks:
        return "new"
    if not mine and len(names) <= 1 and _doubted(there, names, lower, asked, claimed):
        return "doubt"
    connected = said & (_LINKS | _STRONG | _WEAK | known | claimed)
    return "other" if connected and not asked else "new"


def _doubted(
    there: Sequence[Word],
    names: Sequence[list[Word]],
    lower: Sequence[Word],
    asked: bool,
    claimed: frozenset[str],
) -> bool:
    """Whether a sentence that brings in strange words (at most one name, others in lower case) is a doubt for all that."""
    folded = [w.folded for w in there]
    said = set(folded)
    linked = bool(said & (_LINKS | claimed))
    alternative = bool(names) or bool(claimed & said)
    raining = "it" in said and bool(lower) and lower[-1].folded.endswith("ing")
    if not names and not raining and _alone(lower, there) and _put_forward(folded, asked, len(lower)):
        return True
    if asked:
        return alternative and not lower and (bool(_STRONG & said) or _negated(folded) or linked)
    if _STRONG & said:
        return len(lower) < 2 or linked or alternative
    if _WEAK & said:
        return (alternative or linked) and len(lower) <= 3
    return alternative and len(lower) <= (3 if claimed & said else 1 if linked else 0)


def _alone(some: Sequence[Word], there: Sequence[Word]) -> bool:
    """Whether these words stand side by side, three at the most."""
    return len(some) <= 3 and len(_runs(some, there)) == 1


def _put_forward(folded: Sequence[str], asked: bool, strange: int) -> bool:
    """Whether an expression without a capital is put in an answer's place: "It's jazz.", "Isn't it jazz?", "Jazz!"."""
    said = set(folded)
    if asked:
        return _negated(folded)
    return (
        bool(said & {"it", "its", "that", "this", "answer", "actually"} or said & _TELLS)
        or len(folded) == strange
    )


def _negated(folded: Sequence[str]) -> bool:
    return bool({"not", "no", "n", "t", "isn", "wasn", "shouldn", "aren", "surely"} & set(folded))


def _runs(capitals: Sequence[Word], there: Sequence[Word]) -> list[list[Word]]:
    """Capitalised words that stand side by side, as one name each."""
    runs: list[list[Word]] = []
    for word in capitals:
        if runs and there.index(word) - there.index(runs[-1][-1]) == 1:
            runs[-1].append(word)
        else:
            runs.append([word])
    return runs


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
    other = _elliptical(text)
    if other and question:
        found += [question.replace(name, other) for name in _within(question, names) if name != other]
    for name in names:
        found += _with(text, name)
    return [one for one in dict.fromkeys(found) if one != text]


def _elliptical(text: str) -> str:
    """Of "And of Italy?", "What about Italy?" or "Italy?" the name; empty where a turn is none of these."""
    rest = _ABOUT.sub("", text) if _ABOUT.match(text) else _AND.sub("", text)
    rest = _PREPOSITION.sub("", rest.strip()).strip(" ?!.,")
    rest = re.sub(r"\s*,?\s+then$", "", rest)
    there = words(rest)
    if (
        not there
        or len(there) > 5
        or any(w.folded in _WH | _AUX | _POSSESSIVE | _PERSONAL | _LINKS for w in there)
    ):
        return ""
    if not text.rstrip().endswith("?") and not _ABOUT.match(text):
        return ""
    article = there[0].folded in ("the", "a", "an") and not any(w.capital for w in there[1:])
    return "" if article else rest


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
            out.append(_LEAD.sub("", changed))
            break
    if not out and not _capitals(text):
        bare = _LEAD.sub("", text).rstrip(" ?!.")
        if re.match(r"(?:the\s+)?[a-z]+(?:\s+[a-z]+)?$", bare, re.IGNORECASE) and text.rstrip().endswith("?"):
            bare = f"What is {bare if bare.lower().startswith('the ') else 'the ' + bare}"
        if re.search(r"\bthe\b", bare, re.IGNORECASE):
            out.append(f"{bare} of {name}?")
    elif out and not (_WH | _AUX) & {w.folded for w in words(out[0])[:3]} and len(words(out[0])) < 8:
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
    for sentence in _SENTENCE.findall(text):
        for name in guesses(sentence.strip()):
            first = words(name)[0]
            plain = {
                w.folded for w in words(name)
            } <= COMMON | _SOFT | _STRONG | _WEAK | _WH | _AUX | _ASKS | _SMALL
            opening = sentence.strip().startswith(name) and len(words(name)) == 1 and len(words(sentence)) > 3
            if first.capital and not plain and not opening and not name.isdigit():
                found.append(name)
    return found
