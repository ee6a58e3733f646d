"""Memories of several sizes with queries against them: what the scope classifier learns from and is judged on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from memedit.combiner import pair_features, to_read
from memedit.edit import Edit
from memedit.scope import ScopeClassifier
from memedit.subjects import content, fold, words
from memedit.training.cases import IN_SCOPE, Case, Query
from memedit.wording import Pair, asked_by, names

OUT, DIRECT, RIPPLE, UNKNOWN = 0, 1, 2, -1  # labels
TOGETHER = 512  # queries judged at once
Step = Callable[[str, int, int], None]  # told (what, done, all)
Asked = tuple[Query, int | None]  # a query, and the place of the case that it was written for


class Shelf:
    """Edits in memory as the real one hands them out: the nearest by statement, and those that a query names."""

    def __init__(self, cases: Sequence[Case], classifier: ScopeClassifier) -> None:
        self.cases = list(cases)
        keys = classifier.encode([classifier.texts(case.edit)[0] for case in cases])
        self.keys = keys.astype(np.float16).astype(np.float32)  # as they are stored
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
                out.append([i for _, i in sorted((-row[i], i) for i in found)])
        return out

    def _names_in(self, query: str) -> list[int]:
        there = [w.folded for w in words(query)]
        runs = (
            "".join(there[i:j]) for i in range(len(there)) for j in range(i + 1, min(i + 9, len(there) + 1))
        )
        return [i for run in dict.fromkeys(runs) for i in self.named.get(run, ())]


def candidates(
    classifier: ScopeClassifier, shelf: Shelf, queries: Sequence[str], nearest: int
) -> tuple[np.ndarray, list[list[int]], list[np.ndarray]]:
    """Vectors of the queries, candidates of each, and the candidates' vectors."""
    vectors = classifier.encode(queries)
    found = shelf.candidates(queries, vectors, nearest)
    return vectors, found, stored(classifier, [[shelf.cases[i] for i in some] for some in found])


def stored(classifier: ScopeClassifier, cases: Sequence[Sequence[Case]]) -> list[np.ndarray]:
    """For each query the vectors of its candidates as a memory stores them, (candidates, views, dim)."""
    texts = [text for some in cases for case in some for text in classifier.texts(case.edit)]
    flat = classifier.encode(texts).astype(np.float16).reshape(-1, len(classifier.views), classifier.dim)
    return np.split(flat, np.cumsum([len(some) for some in cases])[:-1])


@dataclass
class Pairs:
    """Rows of features with what is known of them; one row for each (query, candidate), query after query."""

    table: np.ndarray  # (rows, features)
    label: np.ndarray  # DIRECT, RIPPLE, OUT, or UNKNOWN where nobody knows
    query: np.ndarray  # which query a row belongs to, rising
    group: np.ndarray  # source and kind of the query
    home: np.ndarray  # whether the candidate is the edit that the query was written for
    text: np.ndarray  # the query (object)
    edit: np.ndarray  # the candidate (object)

    def __getitem__(self, rows: np.ndarray) -> Pairs:
        return Pairs(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def sizes(self) -> list[int]:
        """Candidates of each query."""
        return (
            [int(n) for n in np.bincount(np.unique(self.query, return_inverse=True)[1])]
            if len(self.query)
            else []
        )

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
        scope, ripple, not in scope of its own edit, and other edits the same in all."""
        weight = np.zeros(len(self.label))
        out = self.label == OUT
        for mine in (self.label == DIRECT, self.label == RIPPLE, out & self.home, out & ~self.home):
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
    cases: Sequence[Case],
    general: Sequence[str],
    sizes: Sequence[int],
    queries: int,
    nearest: int,
    seed: int,
    step: Step | None = None,
) -> Pairs:
    """Memories of every size, each asked about its own edits, about edits that it lacks, and general questions."""
    rng = random.Random(seed)
    strangers: list[Asked] = [(Query(text, "general"), None) for text in general]
    parts: list[Pairs] = []
    waiting: list[tuple[Asked, list[int]]] = []  # queries with their candidates, to be judged many at a time
    for size in sizes:
        asked: list[Asked] = [(query, i) for i, case in enumerate(cases) for query in case.queries]
        rng.shuffle(asked)
        asked = asked[:queries]
        order = list(range(len(cases)))
        rng.shuffle(order)
        order = order[: max(size, len(asked) if size <= 10 else size * 4)]
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        lookup: dict[int | None, list[tuple[Query, int | None]]] = defaultdict(list)
        for query, i in asked:
            lookup[i].append((query, i))
        for number, chunk in enumerate(chunks):
            if step:
                step(f"{size:,} edits in memory", number + 1, len(chunks))
            own: list[Asked] = [pair for i in chunk for pair in lookup[i]]
            if not own:
                continue
            own += rng.sample(asked, min(len(asked), len(own) // 4 + 1))
            own += rng.sample(strangers, min(len(strangers), len(own) // 3 + 1))
            texts = [query.text for query, _ in own]
            found = Shelf([cases[i] for i in chunk], classifier).candidates(
                texts, classifier.encode(texts), nearest
            )
            waiting += [(one, [chunk[i] for i in some]) for one, some in zip(own, found, strict=True)]
            if len(waiting) >= TOGETHER:
                parts.append(_labelled(classifier, waiting, cases))
                waiting = []
    if waiting:
        parts.append(_labelled(classifier, waiting, cases))
    return Pairs.joined(parts)


def strangers(
    classifier: ScopeClassifier,
    cases: Sequence[Case],
    general: Sequence[str],
    rng: random.Random,
    count: int = 6_000,
) -> list[tuple[str, Edit, str]]:
    """Queries with near edits of other cases that they don't concern: (query, edit, source)."""
    shelf = Shelf(rng.sample(cases, min(len(cases), count)), classifier)
    asked = [(query, case) for case in shelf.cases for query in case.queries if query.kind != "general"]
    asked = rng.sample(asked, min(len(asked), count))
    texts = [query.text for query, _ in asked] + list(general[: count // 2])
    found = shelf.candidates(texts, classifier.encode(texts), 6)
    out = []
    for i, (text, some) in enumerate(zip(texts, found, strict=True)):
        query: Query = asked[i][0] if i < len(asked) else Query(text, "general")
        home = asked[i][1] if i < len(asked) else None
        fair = [j for j in some if shelf.cases[j] is not home and truth(query, home, shelf.cases[j]) == OUT]
        source = home.source if home else "general"
        out += [(text, shelf.cases[j].edit, source) for j in fair[:3]]
    return out


def _labelled(
    classifier: ScopeClassifier, asked: Sequence[tuple[Asked, list[int]]], cases: Sequence[Case]
) -> Pairs:
    """Features and labels of some queries with their candidates (places among all cases)."""
    texts = [query.text for (query, _), _ in asked]
    near = [[cases[i] for i in some] for _, some in asked]
    edits = [[case.edit for case in some] for some in near]
    table, _ = classifier.features(texts, classifier.encode(texts), edits, stored(classifier, near))
    rows = [(j, i, query, home) for j, ((query, home), some) in enumerate(asked) for i in some]
    homes = [cases[home] if home is not None else None for *_, home in rows]
    return Pairs(
        table,
        np.array([truth(query, home, cases[i]) for (_, i, query, _), home in zip(rows, homes, strict=True)]),
        np.array([j for j, *_ in rows]),
        np.array(
            [
                f"{home.source if home else ''} {query.kind}"
                for (_, _, query, _), home in zip(rows, homes, strict=True)
            ]
        ),
        np.array([i == home for _, i, _, home in rows]),
        np.array([query.text for *_, query, _ in rows], dtype=object),
        np.array([cases[i].edit for _, i, *_ in rows], dtype=object),
    )


def truth(query: Query, home: Case | None, case: Case) -> int:
    """How a query stands to a case's edit; UNKNOWN where the data doesn't say."""
    if home is case:
        return DIRECT if query.kind in IN_SCOPE else RIPPLE if query.kind == "ripple" else OUT
    if _folded(query.text) in (_folded(case.edit.prompt or ""), _folded(case.edit.statement)):
        return DIRECT
    if home is None or query.kind == "general":
        alike = case.source == "natural" and _much_alike(query.text, asked_by(case.edit))
        return UNKNOWN if alike else OUT
    if query.kind == "ripple" and home.edit.target and home.edit.target == case.edit.target:
        return UNKNOWN  # asked back from the answer, it needs every edit that gives it
    same = {fold(n) for n in names(home.edit)} & {fold(n) for n in names(case.edit)}
    return UNKNOWN if same and (home.source != case.source or home.relation == case.relation) else OUT


def read(classifier: ScopeClassifier, pairs: Pairs, step: Step | None = None) -> Pairs:
    """The pairs that pass the gate, with PAIR_FEATURES beside the others."""
    near = classifier.trees["near"](pairs.table)
    rows = to_read(near, pairs.sizes, classifier.settings["gate"])
    some = pairs[rows]
    read: dict[tuple[str, int], int] = {}  # a query meets its own edit in memories of every size: read once
    firsts = []
    for text, edit in zip(some.text, some.edit, strict=True):
        if (text, id(edit)) not in read:
            read[text, id(edit)] = len(read)
            firsts.append(Pair(text, edit))
    odds = []
    for start in range(0, len(firsts), 2048):
        if step:
            step("pairs read together", start, len(firsts))
        odds.append(classifier.odds(firsts[start : start + 2048]))
    at = [read[text, id(edit)] for text, edit in zip(some.text, some.edit, strict=True)]
    every = [firsts[i] for i in at]
    some.table = np.hstack([some.table, pair_features(every, np.concatenate(odds)[at], rows, pairs.sizes)])
    return some


def _much_alike(a: str, b: str) -> bool:
    one, two = content(a), content(b)
    return len(one & two) * 2 > min(len(one), len(two))


def _folded(text: str) -> str:
    return " ".join(w.folded for w in words(text))
