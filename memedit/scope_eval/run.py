"""Every set at every memory size, put to every judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memedit.edit import Edit
from memedit.scope_eval.cases import ScopeCase, plain
from memedit.scope_eval.crowd import Bar, Crowd, Vectors
from memedit.scope_eval.judges import Judge, Piece
from memedit.scope_eval.scores import Asked, balanced, curve, hit_at, reliability, summary
from memedit.scope_eval.scores import best_threshold as best
from memedit.scope_eval.sets import Fillers, answered_elsewhere, nearly_the_same

SIZES = (1, 10, 100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class World:
    """One memory of a set, with the queries put to it: (text, kind, place of its own edit, -1 for none)."""

    crowd: Crowd
    queries: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Scored:
    """A judge's verdicts on a set at a size."""

    set: str
    size: int
    judge: str
    threshold: float
    asked: Asked
    row: dict[str, Any]


def worlds(
    cases: Sequence[ScopeCase],
    general: Sequence[tuple[str, str]],
    size: int,
    fillers: Sequence[Edit],
    vectors: Vectors,
    seed: int,
) -> tuple[list[World], int]:
    """The memories of a set at a size, and how many queries were left out.

    A set of more edits than the size is dealt out to several memories, each asked about its own edits; what room is
    left has fillers. General questions are dealt out among the memories. Left out is a
    query out of scope whose answer another edit of the same memory may hold.
    """
    order = list(range(len(cases)))
    random.Random(seed).shuffle(order)
    chunks = [sorted(order[at : at + size]) for at in range(0, len(order), size)]
    elsewhere = answered_elsewhere(cases)
    asked_in_scope = {plain(text) for case in cases for text, _ in case.queries}
    dealt = [
        pair
        for pair in general
        if plain(pair[0]) not in asked_in_scope and not nearly_the_same(pair[0], cases)
    ]
    out, dropped = [], 0
    for number, chunk in enumerate(chunks):
        edits = [
            *fillers[: size - len(chunk)],
            *(cases[i].edit for i in chunk),
        ]  # the set's own are the newest
        there = set(chunk)
        queries = []
        for at, i in enumerate(chunk, start=len(edits) - len(chunk)):
            for text, kind in cases[i].queries:
                if elsewhere[i].get(text, set()) & there:
                    dropped += 1
                else:
                    queries.append((text, kind, at))
        queries += [(text, kind, -1) for text, kind in dealt[number :: len(chunks)]]
        out.append(World(Crowd(edits, vectors), tuple(queries)))
    return out, dropped


def ask(judge: Judge, memories: Sequence[World], step: Callable[[int], None] | None = None) -> Asked:
    """A judge's verdicts on all queries of the memories."""
    pieces = [Piece(world.crowd, [text for text, *_ in world.queries]) for world in memories]
    queries = [query for world in memories for query in world.queries]
    tops = judge.tops(pieces, step)
    return Asked.of(
        [
            (kind, home >= 0 and top.best == home, top.score, top.ripple)
            for (_, kind, home), top in zip(queries, tops, strict=True)
        ]
    )


def evaluate(
    sets: Mapping[str, Sequence[ScopeCase]],
    judges: Sequence[Judge],
    general: Sequence[tuple[str, str]],
    fillers: Fillers,
    sizes: Sequence[int],
    vectors: Vectors,
    seed: int = 0,
    bar: Bar | None = None,
) -> Iterator[Scored]:
    """Each set at each size by each judge; the first judge is the one whose false fires the others are compared at.

    Args:
        bar: called with (done, all) queries, put to a judge.
    """
    expected = (
        sum(sum(len(c.queries) for c in cases) + len(general) for cases in sets.values())
        * len(sizes)
        * len(judges)
    )
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if bar:
            bar(min(done, expected), expected)

    for name, cases in sets.items():
        around = fillers.around(cases, general, max(-len(cases) % size for size in sizes))
        for size in sizes:
            memories, dropped = worlds(cases, general, size, around, vectors, seed)
            edits = round(float(np.mean([len(world.crowd) for world in memories])), 1)
            about = {
                "set": name,
                "size": size,
                "edits": edits,
                "memories": len(memories),
                "left_out": dropped,
            }
            first: Asked | None = None
            fires = 0.0
            for judge in judges:
                asked = ask(judge, memories, step)
                given = judge.threshold(size)
                threshold = best(asked) if given is None else given
                row = {**about, "judge": judge.name, "own_threshold": given is not None}
                row |= summary(asked, threshold, calibrated=given is not None)
                if first is None:
                    first, fires = asked, float((asked.score >= threshold)[asked.outside()].mean())
                row["hit_at_same"] = hit_at(asked, fires)  # at the first judge's own share of false fires
                row["curve"] = [[round(x, 5) for x in point] for point in curve(asked)]
                yield Scored(name, size, judge.name, threshold, asked, row)


def overall(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """By judge and size, all sets together, each set counting once: mean balanced, and the mean of each rate."""
    out = []
    for judge, size in dict.fromkeys((s.judge, s.size) for s in scored):
        rows = [s for s in scored if (s.judge, s.size) == (judge, size)]
        kinds = sorted({kind for s in rows for kind in s.row["rates"]})
        means = {k: float(np.mean([s.row["rates"][k] for s in rows if k in s.row["rates"]])) for k in kinds}
        row: dict[str, Any] = {"judge": judge, "size": size, "sets": len(rows), "rates": means}
        row["balanced"] = float(np.nanmean([balanced(s.asked, s.threshold) for s in rows]))
        if all(s.row["own_threshold"] for s in rows):
            row["reliability"] = reliability(Asked.joined([s.asked for s in rows]))
            row["calibration_error"] = float(np.mean([s.row["calibration_error"] for s in rows]))
        out.append(row)
    return out
