"""Scores of answers: what counts as the target, and how sure a share is.

The headline, edit success in free generation, asks that the greedy answer to the prompt alone
*starts* with the target. Teacher-forced success (`Score.agreement`) is what most papers report; it
is the easier of the two.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memedit.data import Query

# Labels that no score of all labels together counts. CounterFact's short fields call "rephrase_prompt" what was made from
# prompts for long texts, and is mostly no paraphrase.
APART = frozenset({"rephrase_prompt"})

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "“”‘’«»–—…¿¡", " "))
_WORDS = re.compile(r"\w+|[^\w\s]")
_REFUSAL = re.compile(
    r"(?:i'm |i am )?(?:sorry|afraid)\b"
    r"|i (?:do not|don't|can ?not|can't|could not|couldn't|am (?:not able|unable)|won't|will not|would not|have no)\b"
    r"|i'm (?:not able|unable|not sure)\b|(?:unknown|withheld|no (?:answer|information|comment))\b"
    r"|(?:it|this|that(?: information)?) (?:is|was) (?:unknown|unavailable|withheld|private|not (?:known|available))\b"
    r"|as an? (?:ai|language model)\b|not (?:known|available)\b"
)


def pooled(queries: Iterable[Query], kind: str) -> list[Query]:
    """The queries of one kind that a score of all labels counts, about a case's first edit or none in particular."""
    return [q for q in queries if q.kind == kind and q.label not in APART and q.of in (0, None)]


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


def refused(text: str) -> bool:
    """Whether a text says that it will not or can't tell, before it says anything else."""
    return _REFUSAL.match(" ".join(text.casefold().replace("’", "'").split()).lstrip(" \"'.,:;-")) is not None


def entropy(text: str) -> float | None:
    """Weighted bi- and tri-gram entropy in bits (weights 2/3 and 4/3, halved), the literature's fluency; the more a text
    says the same again, the lower. None of a text of fewer than three words.
    """
    said = _WORDS.findall(text)
    if len(said) < 3:
        return None
    return (2 / 3 * _entropy(said, 2) + 4 / 3 * _entropy(said, 3)) / 2


def _entropy(said: Sequence[str], n: int) -> float:
    counts = np.array(list(Counter(zip(*(said[i:] for i in range(n)), strict=False)).values()), float)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + 0.0)


def bootstrap(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0, rounds: int = 1000
) -> tuple[float, float, float]:
    """Mean and 95 % interval (percentile bootstrap) of a list of scores; NaN where it is empty.

    Args:
        groups: which case each value is of: whole cases are drawn, since the questions of one stand or fall together. None
            where each value is a case of its own.
    """
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    groups = range(len(values)) if groups is None else groups
    place = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    own = np.array([place[group] for group in groups])
    sums, counts = np.bincount(own, np.asarray(values, float)), np.bincount(own)
    rng, means = np.random.default_rng(seed), []
    at_once = max(1, 4_000_000 // len(sums))  # draws held at a time
    for start in range(0, rounds, at_once):
        draws = rng.integers(0, len(sums), (min(at_once, rounds - start), len(sums)))
        means.append(sums[draws].sum(1) / counts[draws].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)
