"""Whether a turn doubts the answer before it: told by words, English ones.

A doubt questions, contradicts or puts another answer in the place, and asks nothing new. In doubt about a doubt it is
none: a change of topic must not be answered with what was said before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from memedit.subjects import COMMON, Word, content, words

WH = frozenset("who whom whose what where which when why how".split())
AUX = frozenset(
    """
    am are aren can could couldn did didn do does doesn don had hadn has hasn have haven is isn may
    might must shall should shouldn was wasn were weren will won would wouldn
    """.split()
)
ASKS = frozenset(
    """
    add calculate check compare compose compute convert count create define describe draft explain find
    fix generate give help imagine let list make name plan play proofread recommend remind rewrite show
    sing solve suggest summarise summarize teach tell translate write
    """.split()
)
# Words that a doubter uses, with which nothing else is said.
SOFT = frozenset(
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
STRONG = frozenset(
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
WEAK = _SOURCES | _TELLS
SMALL = frozenset(
    "ok okay thanks thank you fine great good got it sure right cool nice so well and now no yes please "
    "hello hi hey bye goodbye again".split()
)
PERSONAL = frozenset("he him she they them it".split())
POSSESSIVE = frozenset("his its their her".split())
_LINKS = frozenset("it that this you your thats its they".split())
LEAD = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|thanks|thank you|so|well|fine|great|right|and|but|then|now|also|sorry)\b[\s,.:;!-]*)+",
    re.I,
)
ABOUT = re.compile(r"^\W*(?:(?:and|but|so|ok(?:ay)?|then|now)\b[\s,]*)*(?:what|how) about\b\s*", re.I)
AND = re.compile(r"^\W*(?:(?:ok(?:ay)?|so|then)\b[\s,]*)*(?:and|or|but)\b[\s,]*", re.I)
_PREPOSITION = re.compile(r"^(?:of|in|for|to|with|at|on|by|from)\s+", re.I)
SENTENCE = re.compile(r"[^.?!\n]+[.?!]*")


def doubts(text: str, known: frozenset[str], claims: Iterable[str] = ()) -> bool:
    """Whether a turn doubts or takes up the answer before it, and asks nothing new.

    Args:
        known: words of the exchange before. claims: what the answer claims, and what was believed before.
    """
    claimed = frozenset(word for claim in claims for word in content(claim))
    if ABOUT.match(text) or (AND.match(text) and elliptical(text) and not claimed & content(text)):
        return False
    verdicts = verdicts_on(text, known, claimed)
    return "doubt" in verdicts and not {"new", "other"} & set(verdicts)


def verdicts_on(text: str, known: frozenset[str], claimed: frozenset[str] = frozenset()) -> list[str]:
    return [_verdict(s.strip(), known, claimed) for s in SENTENCE.findall(text) if words(s)]


def _verdict(sentence: str, known: frozenset[str], claimed: frozenset[str]) -> str:
    """Of one sentence: ``"doubt"``, ``"new"`` (a question or a wish), ``"other"`` (said in passing), ``"nothing"``."""
    there = words(LEAD.sub("", sentence)) or words(sentence)
    folded = [w.folded for w in there]
    if all(w in SMALL for w in folded) and not ({"no", "sure"} & set(folded) or folded == ["again"]):
        return "nothing"
    # "When I was in school ..." asks nothing.
    wh = folded[0] in WH and (sentence.endswith("?") or bool(AUX & set(folded[1:2])))
    asks = wh or (folded[0] == "please" and folded[1:2] and folded[1] in ASKS) or folded[0] in ASKS
    sources = frozenset() if asks and not _TELLS & set(folded) else _SOURCES  # "Who is his wife?"
    strange = [
        w
        for w in there
        if w.folded not in COMMON | SOFT | STRONG | _TELLS | sources | AUX | known | claimed
        and len(w.folded) > 1
    ]
    # The first word has its capital from the sentence, unless a name goes on after it or there is no other.
    opening = there[1:] and not there[1].capital and any(w.capital for w in strange if w is not there[0])
    names = _runs([w for w in strange if w.capital and not (opening and w is there[0])], there)
    lower = [w for w in strange if not any(w in run for run in names)]
    if not strange:
        return "nothing" if set(folded) <= SMALL - {"no", "sure"} else "doubt"
    said = set(folded)
    asked = sentence.endswith("?") or folded[0] in AUX
    mine = "my" in said and not said & (WEAK | STRONG)  # "My name is Tom."
    if asks:
        return "new"
    if not mine and len(names) <= 1 and _doubted(there, names, lower, asked, claimed):
        return "doubt"
    connected = said & (_LINKS | STRONG | WEAK | known | claimed)
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
        return alternative and not lower and (bool(STRONG & said) or _negated(folded) or linked)
    if STRONG & said:
        return len(lower) < 2 or linked or alternative
    if WEAK & said:
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


def elliptical(text: str) -> str:
    """Of "And of Italy?", "What about Italy?" or "Italy?" the name; empty where a turn is none of these."""
    rest = ABOUT.sub("", text) if ABOUT.match(text) else AND.sub("", text)
    rest = _PREPOSITION.sub("", rest.strip()).strip(" ?!.,")
    rest = re.sub(r"\s*,?\s+then$", "", rest)
    there = words(rest)
    if (
        not there
        or len(there) > 5
        or any(w.folded in WH | AUX | POSSESSIVE | PERSONAL | _LINKS for w in there)
    ):
        return ""
    if not text.rstrip().endswith("?") and not ABOUT.match(text):
        return ""
    article = there[0].folded in ("the", "a", "an") and not any(w.capital for w in there[1:])
    return "" if article else rest
