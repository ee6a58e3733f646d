"""Labelled pairs for the pair model: drawn from cases, names masked or swapped in part, and mined where it errs."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memedit.edit import Edit
from memedit.errors import EditError
from memedit.pairs import CLASSES
from memedit.subjects import MASK, find
from memedit.training.cases import IN_SCOPE, Case
from memedit.wording import asked_by

DIRECT, RIPPLE, OUT = range(len(CLASSES))
# Of what kinds the pairs of a round are, in shares. "stranger": a query and the near edit of another case.
SHARES = {
    "own": 0.03, "paraphrase": 0.25, "alias": 0.03, "claim": 0.10, "ripple": 0.09,
    "same_subject": 0.27, "neighbour": 0.10, "swapped": 0.03, "stranger": 0.10,
}  # fmt: skip
DISGUISED = 0.3  # share of pairs whose subject's name is another, in query and edit alike


@dataclass(frozen=True)
class Example:
    """A query, an edit, and how they stand to each other (an index of CLASSES)."""

    query: str
    edit: Edit
    label: int
    kind: str
    source: str


def label_of(kind: str) -> int:
    """What a kind of query is to its own edit."""
    return DIRECT if kind in IN_SCOPE else RIPPLE if kind == "ripple" else OUT


class Pool:
    """All pairs that cases give, by kind and source.

    Args:
        cases: what to draw from. strangers: (query, edit of another case, source): near, and not its answer.
    """

    def __init__(self, cases: Sequence[Case], strangers: Sequence[tuple[str, Edit, str]] = ()) -> None:
        self.examples: list[Example] = []
        for case in cases:
            for query in case.queries:
                if query.kind != "general":
                    label = label_of(query.kind)
                    self.examples.append(Example(query.text, case.edit, label, query.kind, case.source))
        self.examples += [Example(text, edit, OUT, "stranger", source) for text, edit, source in strangers]
        self._groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, example in enumerate(self.examples):
            self._groups[example.kind, example.source].append(i)
        self.names = sorted({case.edit.subject or case.about for case in cases} - {""})

    def digest(self) -> str:
        """Of all texts and labels, and of how many pairs there are.

        Of strangers only the queries count: which near edits they get hangs on the last digits of cosines, which
        another number of threads may change.
        """
        own = [
            (e.query, e.edit.statement, e.label, e.kind, e.source)
            for e in self.examples
            if e.kind != "stranger"
        ]
        asked = sorted({e.query for e in self.examples if e.kind == "stranger"})
        text = json.dumps([len(self.examples), own, asked])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def draw(self, count: int, rng: random.Random, outside: bool = False) -> list[int]:
        """Places of about `count` pairs by SHARES, a source by the root of its pairs; with `outside` only such as
        don't fire."""
        there = {kind for kind, _ in self._groups}
        shares = {k: s for k, s in SHARES.items() if k in there and not (outside and label_of(k) != OUT)}
        out: list[int] = []
        for kind, share in shares.items():
            of = [group for (k, _), group in sorted(self._groups.items()) if k == kind]
            roots = sum(len(group) ** 0.5 for group in of)
            for group in of:
                wanted = round(count * share / sum(shares.values()) * len(group) ** 0.5 / roots)
                whole, rest = divmod(wanted, len(group))
                out += group * min(whole, 2)
                out += rng.sample(group, rest if whole < 2 else 0)
        rng.shuffle(out)
        return out

    def disguised(self, example: Example, rng: random.Random) -> Example:
        """The pair with another name, or none, in the place of its subject's."""
        edit, query = example.edit, example.query
        name = edit.subject
        if not name or rng.random() > DISGUISED or name not in edit.statement or not self.names:
            return example
        found = find(name, query)
        other = MASK if rng.random() < 0.25 else rng.choice(self.names)
        if found.share not in (0.0, 1.0) or not find(name, asked_by(edit)).share:
            return example
        if other == name or find(other, query).share:
            return example  # the query names it already: the pair would turn into another one
        if not found.share and example.label == DIRECT:
            return example  # asked for by an alias: leave it to that
        for start, end in sorted(found.spans, reverse=True):
            query = query[:start] + other + query[end:]
        try:
            prompt = edit.prompt.replace(name, other) if edit.prompt else None
            made = edit.updated(subject=other, prompt=prompt, statement=edit.statement.replace(name, other))
        except EditError:
            return example
        return Example(query, made, example.label, example.kind, example.source)


def mined(
    pool: Pool,
    count: int,
    rng: random.Random,
    score: Callable[[Sequence[Example]], np.ndarray],
    share: float = 0.3,
) -> list[int]:
    """A round's pairs, `share` of which are those out of scope that the model takes most for something else.

    Args:
        score: probability of "out" for each of some pairs.
    """
    hard = int(count * share)
    candidates = pool.draw(2 * hard, rng, outside=True)
    order = np.argsort(score([pool.examples[i] for i in candidates]), kind="stable")
    first = len(order) // 200  # the very first are mostly mistakes of the data
    out = [candidates[i] for i in order[first : first + hard]] + pool.draw(count - hard, rng)
    rng.shuffle(out)
    return out
