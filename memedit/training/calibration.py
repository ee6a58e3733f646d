"""Calibration: from scores to probabilities, and the probabilities from which an edit fires.

On pairs that neither the trees nor the pair model learned from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memedit.scope import DEFAULT_RATE, KNOWN_SUBJECT, ScopeClassifier
from memedit.training.cases import Case
from memedit.training.worlds import DIRECT, OUT, RIPPLE, UNKNOWN, Pairs, Shelf, Step, candidates, read

RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # false fires that a user may ask for
NEAR_RATE = 10  # near misses may fire falsely so many times as often as general queries: they were written to be mistaken
FEW = 20  # pairs in scope, or out of it, that a sigmoid needs at least
# Without a told subject so many times more of the near misses may fire: half of what users ask in words of their own would
# be missed otherwise, and their near misses, which differ in a word, are harder than any.
UNTOLD = 3
CUTS = np.linspace(-4, 6, 201)  # logits to choose from
MISSED = 0.003  # share of the queries in scope that the gate may keep from the pair model


@dataclass(frozen=True)
class CombinerSettings:
    """How the trees and the lenses are made."""

    sizes: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)  # edits in memory
    queries: int = 2_500  # for each size
    nearest: int = 8
    ground: int = 12_000  # pairs for each lens
    epochs: int = 2  # of the lenses
    trees: int = 200
    leaves: int = 12
    rate: float = 0.06  # of the boosting
    seed: int = 1


def calibrate(classifier: ScopeClassifier, unseen: Pairs, step: Step | None = None) -> None:
    """Platt and the floors, on pairs that neither trees nor pair model learned from."""
    made = classifier.settings
    pairs = read(classifier, unseen, step)
    told = pairs.table[:, KNOWN_SUBJECT] > 0
    logits = np.zeros(len(told))
    for kind, mine in (("direct", told), ("untold", ~told)):
        some = pairs[mine]
        scores = classifier.trees[kind](some.table)
        if both_sides(some):
            made["platt"][kind] = platt(scores, some.label == DIRECT, some)
        slope, shift = made["platt"][kind]
        logits[mine] = slope * scores + shift
    mine = told if both_sides(pairs[told]) else np.ones(len(told), bool)
    made.setdefault("thresholds", {})["floors"] = lowest = floors(logits[mine], pairs[mine])
    if both_sides(
        pairs[~told]
    ):  # the floor is one for all: without a told subject probabilities make up for it
        at = cut(logits[~told], pairs[~told], UNTOLD * NEAR_RATE * DEFAULT_RATE)
        made["platt"]["untold"][1] += max(0.0, lowest[RATES.index(DEFAULT_RATE)] - at)
    rest = pairs[pairs.label != DIRECT]
    ripple = classifier.trees["ripple"](rest.table)
    made["platt"]["ripple"] = slope, shift = platt(ripple, rest.label == RIPPLE, rest)
    near = (rest.label == OUT) & rest.home
    if near.any():  # near misses fire as ripples, too: one in NEAR_RATE of those that may fire at all
        most = float(np.quantile(slope * ripple[near] + shift, 1 - DEFAULT_RATE))
        lower = made["thresholds"]["floors"][RATES.index(DEFAULT_RATE)] - most
        made["platt"]["ripple"] = [slope, shift + min(0.0, lower)]


def both_sides(pairs: Pairs) -> bool:
    """Whether there are enough pairs in scope, and enough out of it, to learn from."""
    return bool(min((pairs.label == DIRECT).sum(), (pairs.label == OUT).sum()) >= FEW)


def platt(scores: np.ndarray, target: np.ndarray, pairs: Pairs, even: bool = True) -> list[float]:
    """Slope and shift of the sigmoid that turns scores of unseen relations into probabilities (Platt 1999).

    Args:
        even: what is in scope and what is not weigh the same: a query that is near enough to be read is as likely as
            not to concern the edit.
    """
    from sklearn.linear_model import LogisticRegression

    known = pairs.label != UNKNOWN
    if len(np.unique(target[known])) < 2:
        return [1.0, 0.0]
    weights = pairs.weights()[known]
    for value in (False, True) if even else ():
        weights[target[known] == value] *= len(weights) / 2 / max(weights[target[known] == value].sum(), 1e-9)
    model = LogisticRegression(C=1e6).fit(scores[known, None], target[known], sample_weight=weights)
    return [float(model.coef_[0, 0]), float(model.intercept_[0])]


def gate(near: np.ndarray, pairs: Pairs) -> list[float]:
    """The score from which a pair is read, and how far behind its query's best it may be.

    Each keeps no more than MISSED of the pairs in scope from being read.
    """
    inside = pairs.label == DIRECT
    if not inside.any():
        return [-30.0, 60.0]
    _, query = np.unique(pairs.query, return_inverse=True)
    best = np.full(query.max() + 1, -np.inf)
    np.maximum.at(best, query, near)
    behind = (best[query] - near)[inside]
    return [float(np.quantile(near[inside], MISSED)), float(np.quantile(behind, 1 - MISSED))]


def thresholds(
    classifier: ScopeClassifier,
    cases: Sequence[Case],
    general: Sequence[str],
    settings: CombinerSettings,
    step: Step | None = None,
) -> dict[str, Any]:
    """Logits from which general queries fire at each of RATES, for each size of memory.

    A general question is taken for a ripple sooner than for a direct one, since it often names an edit's object. Rather
    than raise the threshold for both, "ripple" is made less sure, until it keeps to the rate at the threshold of "direct".
    """
    rng = random.Random(settings.seed)
    logits, lower, at = [], 0.0, RATES.index(DEFAULT_RATE)
    for number, size in enumerate(settings.sizes):
        if step:
            step("thresholds", number, len(settings.sizes))
        tops: list[np.ndarray] = []
        for _ in range(max(1, min(10, 1_000 // size))):
            shelf = Shelf(rng.sample(cases, min(size, len(cases))), classifier)
            vectors, found, stored = candidates(classifier, shelf, general, settings.nearest)
            edits = [[shelf.cases[i].edit for i in some] for some in found]
            judged = classifier.judge(general, vectors, edits, stored)
            tops += [pairs.max(axis=0, initial=1e-13) for pairs in judged]
        top = np.clip(np.array(tops), 1e-13, 1 - 1e-13)
        odds = np.log(top / (1 - top))
        direct, ripple = ([float(np.quantile(some, 1 - rate)) for rate in RATES] for some in odds.T)
        logits.append(direct)
        lower = min(lower, max(direct[at], classifier.settings["thresholds"]["floors"][at]) - ripple[at])
    classifier.settings["platt"]["ripple"][1] += lower
    rising = np.maximum.accumulate(np.array(logits), axis=0)  # a larger memory never needs less
    return {"sizes": list(settings.sizes), "rates": list(RATES), "logits": rising.tolist()}


def floors(logits: np.ndarray, pairs: Pairs) -> list[float]:
    """For each of RATES the logit at which NEAR_RATE times that share of near queries fires falsely.

    Near queries are about an edit's subject or relation and don't concern it. Never below the point where hits and false
    fires balance, up to the default rate.
    """
    hits, fires = _curves(logits, pairs)
    balanced = float(CUTS[int(np.argmax(hits - fires))])
    out = []
    for rate in RATES:
        logit = cut(logits, pairs, NEAR_RATE * rate)
        out.append(max(logit, balanced) if rate <= DEFAULT_RATE else logit)
    return out


def cut(logits: np.ndarray, pairs: Pairs, share: float) -> float:
    """The lowest logit from which no more than this share of near queries fires falsely."""
    few = _curves(logits, pairs)[1] <= share
    return float(CUTS[int(np.argmax(few))]) if few.any() else float(CUTS[-1])


def _curves(logits: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the pairs in scope, and of near ones out of it, that fire from each of CUTS on."""
    weight = pairs.weights()

    def above(mine: np.ndarray) -> np.ndarray:
        fired = [weight[mine & (logits >= cut)].sum() for cut in CUTS]
        return np.array(fired) / max(weight[mine].sum(), 1e-9)

    return above(pairs.label == DIRECT), above((pairs.label == OUT) & pairs.home)
