"""What a scope classifier that ships should reach on the development sets, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from memedit.scope_eval.cases import GENERAL as GENERAL_KINDS
from memedit.scope_eval.run import Scored
from memedit.scope_eval.scores import hit_at

# (set, score, limit, whether more is better), at STANDARD edits in memory
LIMITS = (
    ("hard", "balanced", 0.985, True),
    ("hard", "same_subject", 0.03, False),
    ("hard", "neighbour", 0.01, False),
    ("pokemqa", "paraphrase", 0.97, True),
    ("zsre", "paraphrase", 0.93, True),
    ("wiki-counterfact", "same_subject", 0.05, False),
    ("wiki-recent", "same_subject", 0.05, False),
    ("wiki-counterfact", "alias", 0.90, True),
    ("claims", "claim", 0.88, True),
    ("claims", "other_claim", 0.05, False),
)
STANDARD = 1_000
GENERAL, GENERAL_MEAN = 0.005, 0.003  # false fires of general questions, in any set and on average
HELD_OUT = 0.02  # balanced lost on relations that no training saw
LOST = {10_000: 0.01, 100_000: 0.02}  # balanced lost, on average over the sets, from one edit in memory
CALIBRATION = 0.03


def goals(scored: Sequence[Scored], judge: str) -> list[dict[str, Any]]:
    """One entry per goal that these results can tell: claim, value, limit, met."""
    rows = [s.row for s in scored if s.judge == judge]
    if not rows:
        return []
    sizes = sorted({row["size"] for row in rows})
    size = STANDARD if STANDARD in sizes else sizes[-1]
    at = {row["set"]: row for row in rows if row["size"] == size}
    return [*_limits(at, size), *_general(rows), *_together(at, size), *_lost(rows, sizes)]


def _entry(claim: str, value: float, limit: float, more: bool) -> dict[str, Any]:
    met = value >= limit - 1e-9 if more else value <= limit + 1e-9
    return {"claim": claim, "value": value, "limit": limit, "at_least": more, "met": met}


def _limits(at: dict[str, dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    for name, score, limit, more in LIMITS:
        row = at.get(name, {"balanced": None, "rates": {}})
        value: float | None = row["balanced"] if score == "balanced" else row["rates"].get(score)
        if value is not None:
            yield _entry(f"{name}: {score}, {size:,} edits", value, limit, more)


def _general(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found = [(rate, row) for row in rows if (rate := _general_rate(row)) is not None]
    if found:
        worst, row = max(found, key=lambda pair: pair[0])
        yield _entry(
            f"general questions that fire, worst ({row['set']}, {row['size']:,} edits)", worst, GENERAL, False
        )
        mean = sum(rate for rate, _ in found) / len(found)
        yield _entry("general questions that fire, mean of all sets and sizes", mean, GENERAL_MEAN, False)


def _general_rate(row: dict[str, Any]) -> float | None:
    """Of all questions about nothing in memory, users' and school mathematics alike, the share that fires."""
    asked = {kind: row["queries"].get(kind, 0) for kind in GENERAL_KINDS if kind in row["rates"]}
    count = sum(asked.values())
    return sum(row["rates"][kind] * n for kind, n in asked.items()) / count if count else None


def _together(at: dict[str, dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    if "held-out" in at and "other-relations" in at:
        lost = at["other-relations"]["balanced"] - at["held-out"]["balanced"]
        yield _entry(f"balanced lost on held-out relations, {size:,} edits", lost, HELD_OUT, False)
    errors = [row["calibration_error"] for row in at.values() if row["calibration_error"] is not None]
    if errors:
        yield _entry(
            f"calibration error, mean of the sets, {size:,} edits",
            sum(errors) / len(errors),
            CALIBRATION,
            False,
        )


def _lost(rows: list[dict[str, Any]], sizes: list[int]) -> Iterator[dict[str, Any]]:
    def mean(size: int) -> float:
        found = [row["balanced"] for row in rows if row["size"] == size and not math.isnan(row["balanced"])]
        return sum(found) / len(found) if found else math.nan

    for size, limit in LOST.items():
        if size in sizes and sizes[0] == 1:
            yield _entry(
                f"balanced lost from 1 to {size:,} edits, mean of the sets",
                mean(1) - mean(size),
                limit,
                False,
            )


def beside(scored: Sequence[Scored], judge: str, other: str) -> list[dict[str, Any]]:
    """Hits on users' questions in other words, at the judge's own threshold, held against another judge's with as many
    false fires."""
    size = max((s.size for s in scored if s.set == "nq" and s.size <= STANDARD), default=0)
    found = {s.judge: s for s in scored if s.set == "nq" and s.size == size}
    if not {judge, other} <= found.keys():
        return []
    ours, theirs = found[judge], found[other]
    fires = float((ours.asked.score >= ours.threshold)[ours.asked.outside()].mean())
    limit = hit_at(theirs.asked, fires, ("paraphrase",))
    claim = f"nq: paraphrase, {size:,} edits; limit: {other} at equal false fires"
    return [_entry(claim, ours.row["rates"].get("paraphrase", math.nan), limit, True)]
