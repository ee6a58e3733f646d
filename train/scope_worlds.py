"""Memories of several sizes with queries against them: what the scope classifier learns from and is judged on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from rich.console import Console
from rich.progress import track
from scope_data import IN_SCOPE, Case, Query

from memedit.scope import ScopeClassifier, names
from memedit.subjects import content, fold, words


class Shelf:
    """Edits in memory as the real one hands them out: the nearest by statement, and those that a query names."""

    def __init__(self, cases: Sequence[Case], classifier: ScopeClassifier) -> None:
        self.cases = list(cases)
        texts = [text for case in cases for text in classifier.texts(case.edit)]
        vectors = classifier.encode(texts).astype(np.float16)  # as they are stored
        self.vectors = vectors.reshape(len(cases), len(classifier.views), -1)
        self.keys = self.vectors[:, 0].astype(np.float32)
        self.named: dict[str, list[int]] = defaultdict(list)
        for i, case in enumerate(cases):
            for name in case.edit.names:
                self.named["".join(w.folded for w in words(name))].append(i)

    def candidates(self, queries: Sequence[str], vectors: np.ndarray, nearest: int) -> list[list[int]]:
        """For each query the indexes of its candidates, the nearest first."""
        out = []
        for start in range(0, len(queries), 512):
            cosines = vectors[start : start + 512] @ self.keys.T
            for query, row in zip(queries[start : start + 512], cosines, strict=True):
                k = min(nearest, len(row))
                found = set(np.argpartition(-row, k - 1)[:k].tolist()) | set(self._names_in(query)[:nearest])
                out.append(sorted(found, key=lambda i, row=row: -row[i]))
        return out

    def _names_in(self, query: str) -> list[int]:
        there = [w.folded for w in words(query)]
        runs = (
            "".join(there[i:j]) for i in range(len(there)) for j in range(i + 1, min(i + 9, len(there) + 1))
        )
        return [i for run in dict.fromkeys(runs) for i in self.named.get(run, ())]


def ask(
    classifier: ScopeClassifier, shelf: Shelf, queries: Sequence[str], nearest: int
) -> tuple[list[list[int]], np.ndarray]:
    """Candidates of each query, and one row of features for each of them."""
    vectors = classifier.encode(queries)
    found = shelf.candidates(queries, vectors, nearest)
    edits = [[shelf.cases[i].edit for i in some] for some in found]
    table, _ = classifier.features(queries, vectors, edits, [shelf.vectors[some] for some in found])
    return found, table


@dataclass
class Pairs:
    """Rows of features with what is known of them; one row for each (query, candidate)."""

    table: np.ndarray
    label: np.ndarray  # 1 in scope, 0 out, -1 nobody knows
    query: np.ndarray  # which query a row belongs to
    group: np.ndarray  # source and kind of the query
    home: np.ndarray  # whether the candidate is the edit that the query was written for

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        shift = np.cumsum([0] + [int(p.query.max(initial=-1)) + 1 for p in parts[:-1]])
        query = np.concatenate([p.query + s for p, s in zip(parts, shift, strict=True)])
        rest = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts])
            for f in fields(cls)
            if f.name != "query"
        }
        return cls(query=query, **rest)

    def weights(self) -> np.ndarray:
        """Every query counts once for its own edit and once for all others; a group by the root of its queries; in
        scope, not in scope of its own edit, and other edits the same in all."""
        weight = np.zeros(len(self.label))
        for mine in (self.label == 1, (self.label == 0) & self.home, (self.label == 0) & ~self.home):
            if not mine.any():
                continue
            _, each = np.unique(self.query[mine], return_inverse=True)
            weight[mine] = 1 / np.bincount(each)[each]
            _, group = np.unique(self.group[mine], return_inverse=True)
            weight[mine] /= np.sqrt(np.bincount(group, weights=weight[mine]))[group]
            weight[mine] /= weight[mine].sum() or 1
        return weight * len(weight)


def worlds(
    classifier: ScopeClassifier,
    cases: list[Case],
    general: list[str],
    sizes: Sequence[int],
    queries: int,
    nearest: int,
    seed: int,
) -> Pairs:
    """Memories of every size, each asked about its own edits, about edits that it lacks, and general questions."""
    rng = random.Random(seed)
    strangers = [(Query(text, "general"), None) for text in general]
    parts = []
    for size in sizes:
        asked = [(query, i) for i, case in enumerate(cases) for query in case.queries]
        rng.shuffle(asked)
        asked = asked[:queries]
        order = list(range(len(cases)))
        rng.shuffle(order)
        order = order[: max(size, len(asked) if size <= 10 else size * 4)]
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        lookup = defaultdict(list)
        for query, i in asked:
            lookup[i].append((query, i))
        for chunk in track(chunks, f"{size:,} edits in memory", console=Console(stderr=True)):
            shelf = Shelf([cases[i] for i in chunk], classifier)
            own = [pair for i in chunk for pair in lookup[i]]
            if not own:
                continue
            other = rng.sample(asked, min(len(asked), len(own) // 4 + 1)) + rng.sample(
                strangers, min(len(strangers), len(own) // 2 + 1)
            )
            parts.append(_label(classifier, shelf, own + other, cases, chunk, nearest))
    return Pairs.joined(parts)


def _label(
    classifier: ScopeClassifier,
    shelf: Shelf,
    asked: list[tuple[Query, int | None]],
    cases: list[Case],
    chunk: list[int],
    nearest: int,
) -> Pairs:
    found, table = ask(classifier, shelf, [query.text for query, _ in asked], nearest)
    rows = [
        (j, chunk[i], query, home)
        for j, ((query, home), some) in enumerate(zip(asked, found, strict=True))
        for i in some
    ]
    label = np.array(
        [truth(query, cases[home] if home is not None else None, cases[i]) for _, i, query, home in rows]
    )
    group = np.array(
        [f"{cases[home].source if home is not None else ''} {query.kind}" for _, _, query, home in rows]
    )
    return Pairs(
        table, label, np.array([j for j, *_ in rows]), group, np.array([i == home for _, i, _, home in rows])
    )


def truth(query: Query, home: Case | None, case: Case) -> int:
    """Whether a query concerns a case's edit: 1, 0, or -1 where the data doesn't say."""
    if home is case:
        return int(query.kind in IN_SCOPE)
    if _folded(query.text) in (_folded(case.edit.prompt or ""), _folded(case.edit.statement)):
        return 1
    if home is None or query.kind == "general":
        return (
            -1
            if case.source == "natural" and _much_alike(query.text, case.edit.prompt or case.edit.statement)
            else 0
        )
    same = {fold(n) for n in names(home.edit)} & {fold(n) for n in names(case.edit)}
    return -1 if same and (home.source != case.source or home.relation == case.relation) else 0


def _much_alike(a: str, b: str) -> bool:
    one, two = content(a), content(b)
    return len(one & two) * 2 > min(len(one), len(two))


def _folded(text: str) -> str:
    return " ".join(w.folded for w in words(text))
