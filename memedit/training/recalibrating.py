"""A fine-tuned pair model's own probabilities and thresholds, where there are examples enough to tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from memedit.scope import ScopeClassifier
from memedit.training.calibration import calibrate
from memedit.training.cases import IN_SCOPE, KINDS, Case
from memedit.training.worlds import worlds

NEAR = frozenset(KINDS) - IN_SCOPE - {"ripple", "general"}
QUERIES = 2_500  # for each size of memory


def recalibrated(
    classifier: ScopeClassifier,
    cases: Sequence[Case],
    general: Sequence[str],
    enough: int,
    seed: int,
    mark: Callable[[], float],
) -> bool:
    """Platt and floors anew, on cases that the pair model did not learn from; not where they are too few, or it got worse.

    Thresholds for general questions are carried over to the new scale, and never fall.

    Args:
        enough: queries in scope, and near ones out of it, that are needed. mark: how good the classifier is now.
    """
    asked = [query.kind for case in cases for query in case.queries]
    few = min(sum(kind in some for kind in asked) for some in (IN_SCOPE, NEAR)) < enough
    if few or find_spec("sklearn") is None:
        return False
    settings, first = classifier.settings, mark()
    old = {name: json.loads(json.dumps(settings[name])) for name in ("platt", "thresholds")}
    sizes = sorted({1, min(10, len(cases)), len(cases)})
    calibrate(classifier, worlds(classifier, cases, general, sizes, QUERIES, 8, seed))
    if asked.count("ripple") < enough:
        settings["platt"]["ripple"] = old["platt"]["ripple"]
    new, falls = np.array(old["thresholds"]["logits"]), False
    for kind in ("direct", "untold"):
        (slope, shift), (slope_before, shift_before) = settings["platt"][kind], old["platt"][kind]
        moved = slope * (np.array(old["thresholds"]["logits"]) - shift_before) / slope_before + shift
        new, falls = np.maximum(new, moved), falls or slope <= 0
    settings["thresholds"]["logits"] = new.tolist()
    if falls or mark() < first:
        settings.update(old)
        return False
    return True
