"""What is known of every score by its name: whether low is good, and in which unit it is shown.

A name that is not here (a run file of another version) is taken for a share of which more is better.
"""

from __future__ import annotations

from typing import NamedTuple

from memedit.report.reading import Score

SHARE, BITS, PLAIN = "share", "bits", "plain"  # shown in percent; times 100, as KnowEdit prints it; as it is


class Known(NamedTuple):
    """How to read a score. low: whether low is good."""

    unit: str = SHARE
    low: bool = False


_GOOD = (
    "success", "success_tf", "exact", "contains", "right edit fired", "unchanged", "unchanged_tf", "no edit fired", "refused",
    "efficacy", "paraphrase score", "neighbourhood score", "S", "efficacy magnitude", "paraphrase magnitude",
    "neighbourhood magnitude", "any question", "every hop", "erased", "edit stands", "feeling as asked", "newer edit wins",
    "newer edit wins, other forms", "right edit fired, other forms", "reversed fact known", "conflict score",
    "conflict magnitude", "success score", "accuracy",
)  # fmt: skip
_BAD = (
    "old answer given", "given up", "opposite feeling", "older edit given", "tied fact damage", "ignore rate", "failure rate",
    "changed",
)  # fmt: skip
KNOWN: dict[str, Known] = {
    **dict.fromkeys(_GOOD, Known()),
    **dict.fromkeys(_BAD, Known(low=True)),
    **dict.fromkeys(("fluency", "sampled fluency"), Known(BITS)),
    # kl and distortion in nats
    **dict.fromkeys(("kl", "distortion", "perplexity", "perplexity_base"), Known(PLAIN, low=True)),
}
_ELSE = Known()


def lower_is_better(score: str) -> bool:
    return KNOWN.get(score, _ELSE).low


def is_share(score: str) -> bool:
    """Whether a score is a share of 1, to be shown in percent."""
    return KNOWN.get(score, _ELSE).unit == SHARE


def scale(score: str) -> float:
    """What a score is multiplied with where it is shown."""
    return 1.0 if KNOWN.get(score, _ELSE).unit == PLAIN else 100.0


def shown(score: str, value: float | None) -> str:
    """A score's value as it is printed: percent for shares, the unit's own else."""
    if value is None:
        return ""
    unit = KNOWN.get(score, _ELSE).unit
    if unit == BITS:
        return f"{100 * value:.0f}"
    return plain(value) if unit == PLAIN else f"{100 * value:.1f}"


def plain(value: float) -> str:
    """A number of any size in few digits."""
    if value and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def interval(one: Score) -> str:
    """[low, high], as printed; empty where there is none."""
    if one.low is None or one.high is None:
        return ""
    return f"[{shown(one.score, one.low)}, {shown(one.score, one.high)}]"
