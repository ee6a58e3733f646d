"""What a scope classifier makes of a user's own edits: all in memory, the queries of those held apart put to it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memedit.scope import ScopeClassifier
from memedit.scope_eval.cases import GENERAL, HITS, NEAR, plain
from memedit.scope_eval.crowd import Crowd, Vectors
from memedit.scope_eval.judges import Classifier, Piece
from memedit.scope_eval.scores import Asked, balanced, rates
from memedit.subjects import fold
from memedit.training.cases import IN_SCOPE, Case
from memedit.training.worlds import OUT, truth

MOST = 2_000  # edits in memory, and queries
STRANGER = "stranger"  # asks for an edit that the memory lacks: out of scope of all others
OUTSIDE = (*NEAR, STRANGER)
SAYS = {
    "own": "hit, its own prompt", "paraphrase": "hit, in other words", "alias": "hit, by an alias", "claim": "hit, a claim",
    "ripple": "ripple, fired as direct", "ripple_found": "ripple, found as such",
    "same_subject": "false fire, same subject", "neighbour": "false fire, another subject",
    "other_claim": "false fire, another claim", STRANGER: "false fire, edit not in memory", "general": "false fire, general",
}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """Rates by kind, the number of queries of each, balanced, and the probabilities' own balance (`soft`)."""

    rates: dict[str, float]
    queries: dict[str, int]
    balanced: float
    soft: float
    threshold: float
    edits: int

    @property
    def mark(self) -> float:
        """What epochs are compared by: few queries make `balanced` coarse, so the probabilities count as much."""
        return self.soft if math.isnan(self.balanced) else (self.balanced + self.soft) / 2


class Trial:
    """A memory of edits, with the queries of some of them.

    Asked twice: with all edits in memory, and, in scope alone, with a memory that lacks the edits asked about. Left out
    is what another edit in memory may answer.

    Args:
        others: cases that only stand in memory. asked: cases whose queries are put, too. general: general questions.
    """

    def __init__(
        self,
        classifier: ScopeClassifier,
        others: Sequence[Case],
        asked: Sequence[Case],
        general: Sequence[str] = (),
    ) -> None:
        asked = asked[:MOST]
        others = others[: max(0, MOST - len(asked))]
        self.classifier = classifier
        self.edits = len(others) + len(asked)
        elsewhere = _answered([*others, *asked])
        rows = [
            (query.text, query.kind, len(others) + i)
            for i, case in enumerate(asked)
            for query in case.queries
            if query.kind in IN_SCOPE
            or elsewhere.get(plain(query.text), {len(others) + i}) == {len(others) + i}
        ]
        self.rows = rows[:MOST] + [(text, "general", -1) for text in general[:MOST]]
        self.strange = _strangers(others, asked)[:MOST] if others else []
        vectors = Vectors(classifier.encode, classifier.texts)
        self.crowds = [
            Crowd([case.edit for case in some], vectors) for some in ([*others, *asked], others) if some
        ]

    def scores(self, step: Callable[[int], None] | None = None) -> Scores:
        """By the classifier as it is now, at its own threshold for this memory."""
        pieces = [Piece(self.crowds[0], [text for text, *_ in self.rows])]
        if self.strange:
            pieces.append(Piece(self.crowds[1], self.strange))
        tops = Classifier(self.classifier).tops(pieces, step)
        kinds = [kind for _, kind, _ in self.rows] + [STRANGER] * len(self.strange)
        homes = [home for *_, home in self.rows] + [-1] * len(self.strange)
        found = Asked.of(
            [
                (kind, home >= 0 and top.best == home, top.score, top.ripple)
                for kind, home, top in zip(kinds, homes, tops, strict=True)
            ]
        )
        threshold = self.classifier.threshold(self.edits)
        return Scores(
            rates(found, threshold),
            dict(Counter(kinds)),
            balanced(found, threshold, OUTSIDE),
            _soft(found),
            threshold,
            self.edits,
        )

    @property
    def size(self) -> int:
        """Queries that `scores` puts."""
        return len(self.rows) + len(self.strange)


def table(before: Scores, after: Scores) -> list[dict[str, Any]]:
    """One row for each kind of query, and one for balanced: {"what", "queries", "before", "after"}."""
    out = []
    for kind, says in SAYS.items():
        if kind in before.rates:
            count = before.queries[kind.removesuffix("_found")]
            row: dict[str, Any] = {"kind": kind, "what": says, "queries": count}
            out.append({**row, "before": before.rates[kind], "after": after.rates[kind]})
    total = sum(before.queries.values())
    row = {"kind": "balanced", "what": "balanced", "queries": total}
    both = {"before": before.balanced, "after": after.balanced}
    return [*out, {**row, **{k: None if math.isnan(v) else v for k, v in both.items()}}]


def _soft(asked: Asked) -> float:
    """As `balanced`, with probabilities in the place of verdicts."""
    inside, outside = np.isin(asked.kind, HITS), np.isin(asked.kind, (*OUTSIDE, *GENERAL))
    score = np.where(np.isfinite(asked.score), asked.score, 0.0)
    hits = np.where(asked.right, score, 0.0)[inside].mean() if inside.any() else 0.5
    fires = score[outside].mean() if outside.any() else 0.5
    return float(hits + 1 - fires) / 2


def _answered(cases: Sequence[Case]) -> dict[str, set[int]]:
    """Which cases hold the answer of which words."""
    out: dict[str, set[int]] = defaultdict(set)
    for i, case in enumerate(cases):
        for query in case.queries:
            if query.kind in IN_SCOPE:
                out[plain(query.text)].add(i)
    return out


def _strangers(others: Sequence[Case], asked: Sequence[Case]) -> list[str]:
    """Queries in scope of `asked` that none of the others answers, as far as is known."""
    answered = _answered(others)
    by_name: dict[str, list[Case]] = defaultdict(list)
    for case in others:
        for name in case.edit.names:
            by_name[fold(name)].append(case)
    out = []
    for home in asked:
        near = [case for name in home.edit.names for case in by_name[fold(name)]]
        for query in home.queries:
            if query.kind not in IN_SCOPE or plain(query.text) in answered:
                continue
            if all(truth(query, home, case) == OUT for case in near):
                out.append(query.text)
    return out
