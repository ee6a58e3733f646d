"""Scores of answers: what counts as the target, and how sure a share is.

The headline, edit success in free generation, asks that the greedy answer to the prompt alone
*starts* with the target. Teacher-forced success (`Score.agreement`) is what most papers report; it
is the easier of the two.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "“”‘’«»–—…¿¡", " "))


def normalise(text: str) -> str:
    """Lower case, punctuation and articles off, white space folded."""
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split())


def starts_with(text: str, answers: Iterable[str]) -> bool:
    """Whether the normalised text starts, at a word boundary, with any of the answers (`es`, `gen`)."""
    said = normalise(text)
    return any(said == a or said.startswith(a + " ") for a in map(normalise, answers) if a)


def contains(text: str, answers: Iterable[str]) -> bool:
    """Whether any answer stands in the text at word boundaries: the lenient variant."""
    said = f" {normalise(text)} "
    return any(f" {a} " in said for a in map(normalise, answers) if a)


def exact(text: str, answers: Iterable[str]) -> bool:
    """Whether the text, up to its first full stop or line's end, is an answer and nothing more."""
    said = normalise(re.split(r"[.\n]", text.strip(), maxsplit=1)[0])
    return any(said == a for a in map(normalise, answers) if a)


def bootstrap(values: Sequence[float], seed: int = 0, rounds: int = 1000) -> tuple[float, float, float]:
    """Mean and 95 % interval (percentile bootstrap) of a list of scores; NaN where it is empty."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    array = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(0, len(array), (rounds, len(array)))
    low, high = np.percentile(array[draws].mean(1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)
