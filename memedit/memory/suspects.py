"""Which edits are near enough to new ones to be looked at for a conflict."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from sqlite_utils import Database

from memedit.memory import reading
from memedit.memory.index import VectorIndex
from memedit.memory.rules import ALIKE

_NEAREST = 8  # edits that are looked at for each new one
_INEXACT = 0.02  # by so much the cosines of an index of bytes may be off
_MANY = 256  # new edits from which it pays to look among those that share a name
_BLOCK = 1024  # rows of one product


def close_pairs(db: Database, index: VectorIndex, new: Sequence[int]) -> set[tuple[int, int]]:
    """Pairs (newer id, older id) of live edits, one of `new` in each, whose statements are alike.

    A few new edits are searched for in the whole index. For many that would grow with their square, so those
    that have names are compared with what shares a name, and with what has none: others can't conflict
    (`memedit.memory.rules.suspicious`).
    """
    if len(new) < _MANY:
        return set(_searched(index, new))
    named = reading.names_of(db, new)
    groups = reading.by_name(db, sorted({name for names in named.values() for name in names}))
    pairs = set(_searched(index, [id for id in new if id not in named]))
    fresh = set(named)
    for members in {frozenset(ids) for ids in groups.values() if len(ids) > 1}:
        pairs.update(_compared(index, [id for id in members if id in fresh], list(members)))
    pairs.update(_compared(index, list(named), reading.nameless(db)))
    return pairs


def _searched(index: VectorIndex, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Those nearest in the whole index."""
    if ids:
        yield from _alike(ids, *index.search(index.vectors(ids), _NEAREST + 1))


def _compared(index: VectorIndex, ids: Sequence[int], others: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Those nearest among some."""
    if not ids or not others:
        return
    theirs, numbers = index.vectors(others), np.array(others)
    for start in range(0, len(ids), _BLOCK):
        some = ids[start : start + _BLOCK]
        cosines = index.vectors(some) @ theirs.T
        k = min(_NEAREST + 1, len(others))
        best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        yield from _alike(some, np.take_along_axis(cosines, best, 1), numbers[best])


def _alike(ids: Collection[int], cosines: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    """Of ids (n,) and what was found for them, cosines and ids (n, k), the pairs above the threshold."""
    mine = np.fromiter(ids, np.int64, len(ids))[:, None]
    rows, columns = np.nonzero((cosines >= ALIKE - _INEXACT) & (others != mine) & (others != -1))
    for one, other in zip(mine[rows, 0].tolist(), others[rows, columns].tolist(), strict=True):
        yield max(one, other), min(one, other)
