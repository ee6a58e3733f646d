"""Scores of scope decisions: hits, false fires, balanced, AUROC, hits at a given rate of false fires, calibration.

A query counts once. In scope it is a hit if the right edit fires, before all others; out of scope any edit that
fires is a false fire. A ripple query is neither: what is scored is whether some edit fired as if it were asked for
directly (`ripple`), and whether its own edit fired as a ripple (`ripple_found`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memedit.scope_eval.cases import GENERAL, HITS, NEAR

BINS = 15
SEEN = 0.01  # a top candidate below this probability is out of the calibration: nobody would look at it


@dataclass(frozen=True)
class Asked:
    """Queries with what a judge made of them, each array (queries,).

    Attributes:
        kind: one of `cases.KINDS`. right: whether the best edit is the query's own. score: the best edit's, -inf
            where there was none. ripple: whether it would fire as a ripple.
    """

    kind: np.ndarray
    right: np.ndarray
    score: np.ndarray
    ripple: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[str, bool, float, bool]]) -> Asked:
        """From (kind, right, score, ripple) of each query."""
        kind, right, score, ripple = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(
            np.array(kind, dtype=str), np.array(right, bool), np.array(score, float), np.array(ripple, bool)
        )

    @classmethod
    def joined(cls, parts: Sequence[Asked]) -> Asked:
        """Several as one."""
        return cls(
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("kind", "right", "score", "ripple")
            )
        )

    @property
    def inside(self) -> np.ndarray:
        """Which queries are in scope."""
        return np.isin(self.kind, HITS)

    def outside(self, near: Sequence[str] = NEAR) -> np.ndarray:
        """Which count as out of scope in `balanced`: the near ones; general ones only where there are none of those."""
        found = np.isin(self.kind, near)
        return found if found.any() else np.isin(self.kind, GENERAL)

    def own(self) -> np.ndarray:
        """Scores with those of wrong edits at the bottom: what a threshold can still turn into a hit."""
        return np.where(self.right, self.score, -np.inf)


def rates(asked: Asked, threshold: float) -> dict[str, float]:
    """By kind: hits in scope, false fires out of scope."""
    fired = asked.score >= threshold
    out = {}
    for kind in sorted(set(asked.kind.tolist())):
        mine = asked.kind == kind
        if kind in HITS:
            out[kind] = float((fired & asked.right)[mine].mean())
        elif kind == "ripple":
            out[kind] = float((fired & ~asked.ripple)[mine].mean())
            out["ripple_found"] = float((fired & asked.ripple & asked.right)[mine].mean())
        else:
            out[kind] = float(fired[mine].mean())
    return out


def balanced(asked: Asked, threshold: float, near: Sequence[str] = NEAR) -> float:
    """Mean of the share of hits in scope and of 1 - false fires out of scope; NaN where one side is empty."""
    inside, outside = asked.inside, asked.outside(near)
    if not inside.any() or not outside.any():
        return float("nan")
    hits = (asked.own() >= threshold)[inside].mean()
    return float(hits + 1 - (asked.score >= threshold)[outside].mean()) / 2


def best_threshold(asked: Asked) -> float:
    """Where hits and all false fires, general ones too, balance best on these very queries."""
    inside, outside = asked.inside, ~asked.inside
    finite = asked.score[np.isfinite(asked.score)]
    if not len(finite):
        return float("inf")
    cuts = np.unique(np.quantile(finite, np.linspace(0, 1, 400)))
    gains = np.zeros(len(cuts))
    if inside.any():
        gains += _share_above(asked.own()[inside], cuts)
    if outside.any():
        gains -= _share_above(asked.score[outside], cuts)
    return float(cuts[int(gains.argmax())])


def _share_above(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """For each cut the share of scores at or above it."""
    shares: np.ndarray = 1 - np.searchsorted(np.sort(scores), cuts, side="left") / len(scores)
    return shares


def auroc(asked: Asked) -> float:
    """Chance that a query in scope, by its own edit, scores above one out of scope; ties count half; NaN if one is missing."""
    inside, outside = asked.own()[asked.inside], asked.score[asked.outside()]
    if not len(inside) or not len(outside):
        return float("nan")
    order = np.sort(outside)
    below = np.searchsorted(order, inside, side="left") + np.searchsorted(order, inside, side="right")
    return float(below.mean() / 2 / len(outside))


def hit_at(asked: Asked, rate: float, kinds: Sequence[str] = HITS) -> float:
    """Share of hits of these kinds where at most this share out of scope fires; NaN if one side is missing."""
    inside = asked.own()[np.isin(asked.kind, kinds)]
    if not len(inside) or not asked.outside().any():
        return float("nan")
    return float((inside > cut_at(asked, rate)).mean())


def cut_at(asked: Asked, rate: float) -> float:
    """The score that may just not fire, if at most this share of queries out of scope is to fire."""
    outside = np.sort(asked.score[asked.outside()])[::-1]
    allowed = int(np.floor(rate * len(outside) + 1e-9))
    return float(outside[allowed]) if allowed < len(outside) else float("-inf")


def reliability(asked: Asked, bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean probability, share that was in scope, queries) in bins of equal mass, of top candidates above SEEN.

    With few queries there are fewer bins, of ten at least: in smaller ones chance alone would look like an error.
    """
    seen = asked.score > SEEN
    asked_for = asked.inside | ((asked.kind == "ripple") & asked.ripple)
    score, true = asked.score[seen], (asked_for & asked.right)[seen]
    order = np.lexsort((true, score))
    parts = [part for part in np.array_split(order, min(bins, max(len(order) // 10, 1))) if len(part)]
    return [(float(score[part].mean()), float(true[part].mean()), len(part)) for part in parts]


def calibration_error(asked: Asked) -> float:
    """Expected calibration error of the top candidate (METRICS: above .01, bins of equal mass); 0 where none is seen."""
    found = reliability(asked)
    count = sum(n for *_, n in found)
    return sum(n * abs(p - true) for p, true, n in found) / count if count else 0.0


def curve(asked: Asked, points: int = 60) -> list[tuple[float, float, float]]:
    """(share of hits, precision, share of false fires) from the strictest threshold to the loosest.

    Precision is of what fires: hits in scope among all that fires, in scope or out of it.
    """
    inside, outside = asked.inside, ~asked.inside & (asked.kind != "ripple")
    counted = inside | outside
    finite = np.sort(asked.score[counted & np.isfinite(asked.score)])
    if not len(finite) or not inside.any():
        return []
    out = []
    for cut in np.unique(np.quantile(finite, np.linspace(0, 1, points)))[::-1]:
        fired = asked.score >= cut
        hits = (fired & inside & asked.right).sum()
        false = (fired & outside).sum()
        out.append(
            (
                float(hits / inside.sum()),
                float(hits / max((fired & counted).sum(), 1)),
                float(false / max(outside.sum(), 1)),
            )
        )
    return out


def summary(asked: Asked, threshold: float, calibrated: bool) -> dict[str, Any]:
    """Everything that METRICS asks of one set at one size."""
    return {
        "threshold": threshold,
        "rates": rates(asked, threshold),
        "balanced": balanced(asked, threshold),
        "auroc": auroc(asked),
        "hit_at_1": hit_at(asked, 0.01),
        "calibration_error": calibration_error(asked) if calibrated else None,
        "queries": dict(sorted(Counter(asked.kind.tolist()).items())),
    }
