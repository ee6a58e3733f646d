"""Edits made of users' questions: reworded by rule, and beside what else was asked about the same names."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from scope_data import Data
from written import QUESTIONS, questions

from memedit.subjects import content
from memedit.training.cases import Case, Query, chance, make

# Ways of asking the same, by rule: enough to teach that wording is free, few enough to be right.
REWORDINGS = (
    (r"^who wrote (.+)", r"who is the author of \1"),
    (r"^who (?:sings|sang) (.+)", r"which singer performs \1"),
    (r"^who plays? (.+) (?:in|on) (.+)", r"which actor is \1 in \2"),
    (r"^who played (.+) (?:in|on) (.+)", r"what is the name of the actor who was \1 in \2"),
    (r"^who is the (.+)", r"what is the name of the \1"),
    (r"^who was the (.+)", r"do you know who the \1 was"),
    (r"^who (won|invented|discovered|founded|started) (.+)", r"tell me who \1 \2"),
    (r"^where is (.+) located", r"what is the location of \1"),
    (r"^where (?:was|were) (.+) born", r"what is the birthplace of \1"),
    (r"^where (is|was|are|were|does|did|do) (.+)", r"in what place \1 \2"),
    (r"^when did (.+) come out", r"what is the release date of \1"),
    (r"^when (is|was|are|were|does|did|do) (.+)", r"at what time \1 \2"),
    (r"^how many (.+?) (are|were|did|do|does|is|have|has) (.+)", r"what number of \1 \2 \3"),
    (r"^what (?:is|are) the (.+) of (.+)", r"\2: what is its \1"),
    (r"^what (is|are|was|were) (.+)", r"can you tell me what \2 \1"),
    (r"^which (.+)", r"what \1"),
    (r"^what (.+)", r"which \1"),
)


def reworded(question: str) -> list[str]:
    """The question in other words, by every rule that applies."""
    bare = question.rstrip("? ")
    made = [re.sub(rule, other, bare) for rule, other in REWORDINGS if re.match(rule, bare)]
    return [q for q in dict.fromkeys(made) if q != bare]


def natural(questions: Sequence[tuple[str, tuple[str, ...]]], rng: random.Random) -> Iterator[Case | None]:
    """Edits of users' questions with their answers: reworded; WebQuestions' twins (same answer, shared name) are
    paraphrases, questions about the same name with other answers are not."""
    holds = defaultdict(list)
    for i, (text, _) in enumerate(questions):
        for word in sorted(content(text)):
            holds[word].append(i)
    for i, (text, answers) in enumerate(questions):
        rare = [w for w in sorted(content(text)) if len(holds[w]) <= 25 and len(w) > 3]
        queries = [Query(text, "own"), *(Query(q, "paraphrase") for q in reworded(text)[:2])]
        shared: dict[int, int] = defaultdict(int)
        for word in rare:
            for j in holds[word]:
                shared[j] += j != i
        for j in sorted(shared, key=lambda j: -shared[j])[:4]:
            other, theirs = questions[j]
            if set(theirs) == set(answers):
                queries.append(Query(other, "paraphrase"))
            elif not set(theirs) & set(answers):
                queries.append(Query(other, "same_subject"))
        target = answers[0]
        shape = (
            {"prompt": text, "target": target}
            if rng.random() < 0.7
            else {"statement": f"{text.rstrip('?')}? {target}."}
        )
        yield make("natural", queries, text, **shape)


def written(data: Data, file: Path = QUESTIONS) -> Iterator[Case | None]:
    """Users' questions of the train parts as edits, with paraphrases and near misses that were written for them."""
    for row in questions(data, file):
        queries = [Query(row.text, "own"), *(Query(q, "paraphrase") for q in row.asks)]
        queries += [Query(q, "paraphrase") for q in reworded(row.text)[:1]]
        queries += [Query(q, "same_subject") for q in row.near]
        way, target = chance(row.text), row.answers[0]
        if way < 0.5:
            yield make("written", queries, row.text, prompt=row.text, target=target)
        elif way < 0.75:
            yield make("written", queries, row.text, statement=row.says)
        else:  # asked in one wording, remembered in another
            own, *rest = queries[1:]
            queries = [Query(own.text, "own"), Query(row.text, "paraphrase"), *rest]
            yield make("written", queries, row.text, prompt=own.text, target=target)
