"""Who decides: the scope classifier and what it is compared with, behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memedit.edit import Edit
from memedit.encoder import Encoder, Named
from memedit.errors import ModelError, unknown
from memedit.scope import ScopeClassifier
from memedit.scope_eval.crowd import Crowd, Remembered
from memedit.subjects import content

NEAREST = 8  # candidates of a query, as the router takes them
BATCH = 256  # queries judged at once
PLAIN = "a968179b9e82f121ac905f791d03ddac6b728ee33d07b2bf4286c8659ee20621"  # all-MiniLM-L6-v2 in bfloat16, no pooler
Step = Callable[[int], None]  # told how many queries were answered since


class Top(NamedTuple):
    """The best edit for a query by its place in the crowd (-1: none), its score, and whether it is for a ripple."""

    best: int
    score: float
    ripple: bool = False


@dataclass(frozen=True)
class Piece:
    """A memory and the queries put to it."""

    crowd: Crowd
    queries: Sequence[str]


class Judge(ABC):
    """Gives every query its best edit, with a score that grows with how sure it is.

    A judge of pairs only has to say `score`; its candidates are then those that the memory hands out. One that looks
    through the whole memory overrides `tops`. Without a `threshold` of its own it is given the one that is best on
    the very queries it is scored on, which flatters it.

    Args:
        name: in tables. encode: the memory's encoder, for candidates.
    """

    def __init__(self, name: str, encode: Callable[[Sequence[str]], np.ndarray]) -> None:
        self.name, self.encode = name, encode

    def threshold(self, size: int) -> float | None:
        """The score from which an edit fires in a memory of this size; None where it has none of its own."""
        return None

    @abstractmethod
    def score(self, queries: Sequence[str], edits: Sequence[Sequence[Edit]]) -> list[np.ndarray]:
        """For each query the scores of its candidates, (candidates,), or (candidates, 2): direct and ripple."""

    def judge(
        self,
        queries: Sequence[str],
        vectors: np.ndarray,
        edits: Sequence[Sequence[Edit]],
        stored: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        """As `score`, for judges that use the vectors: (queries, dim), and for each query (candidates, views, dim)."""
        return self.score(queries, edits)

    def tops(self, pieces: Sequence[Piece], step: Step | None = None) -> list[Top]:
        """The best edit of each query of each piece, in order."""
        out: list[Top] = []
        for batch in _batches(pieces):
            queries = [query for piece in batch for query in piece.queries]
            vectors = self.encode(queries)
            found: list[list[int]] = []
            edits: list[list[Edit]] = []
            stored: list[np.ndarray] = []
            for piece in batch:
                at = len(found)
                rows = piece.crowd.candidates(piece.queries, vectors[at : at + len(piece.queries)], NEAREST)
                found += rows
                edits += [[piece.crowd.edits[i] for i in row] for row in rows]
                stored += piece.crowd.views(rows)
            scores = self.judge(queries, vectors, edits, stored)
            out += [_top(row, some) for row, some in zip(found, scores, strict=True)]
            if step:
                step(len(queries))
        return out


class Classifier(Judge):
    """memedit's scope classifier, by the interface and with the threshold that the router uses."""

    def __init__(self, classifier: ScopeClassifier, name: str = "memedit") -> None:
        super().__init__(name, classifier.encode)
        self.classifier = classifier

    def threshold(self, size: int) -> float:
        return self.classifier.threshold(size)

    def score(self, queries: Sequence[str], edits: Sequence[Sequence[Edit]]) -> list[np.ndarray]:
        stored = [np.stack([self.encode(self.classifier.texts(edit)) for edit in some]) for some in edits]
        return self.judge(queries, self.encode(queries), edits, stored)

    def judge(
        self,
        queries: Sequence[str],
        vectors: np.ndarray,
        edits: Sequence[Sequence[Edit]],
        stored: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        return self.classifier.judge(queries, vectors, edits, stored)


class Cosine(Judge):
    """Plain cosine of the query and an edit's statement, over the whole memory."""

    def score(self, queries: Sequence[str], edits: Sequence[Sequence[Edit]]) -> list[np.ndarray]:
        return [
            self.encode([edit.statement for edit in some]) @ vector
            for vector, some in zip(self.encode(queries), edits, strict=True)
        ]

    def tops(self, pieces: Sequence[Piece], step: Step | None = None) -> list[Top]:
        out: list[Top] = []
        for piece in pieces:
            keys = self.encode([edit.statement for edit in piece.crowd.edits])
            for start in range(0, len(piece.queries), BATCH):
                some = piece.queries[start : start + BATCH]
                cosines = self.encode(some) @ keys.T
                best = cosines.argmax(axis=1)
                out += [Top(int(b), float(row[b])) for b, row in zip(best, cosines, strict=True)]
            if step:
                step(len(piece.queries))
        return out


class BM25(Judge):
    """Okapi BM25 (k1 1.5, b .75) over an edit's statement and names, over the whole memory."""

    def score(self, queries: Sequence[str], edits: Sequence[Sequence[Edit]]) -> list[np.ndarray]:
        return [Words([_said(e) for e in some])(query) for query, some in zip(queries, edits, strict=True)]

    def tops(self, pieces: Sequence[Piece], step: Step | None = None) -> list[Top]:
        out: list[Top] = []
        for piece in pieces:
            index = Words([_said(edit) for edit in piece.crowd.edits])
            for query in piece.queries:
                scores = index(query)
                best = int(scores.argmax())
                out.append(Top(best, float(scores[best])) if scores[best] > 0 else Top(-1, 0.0))
            if step:
                step(len(piece.queries))
        return out


class Words:
    """The words of texts, weighed by BM25."""

    def __init__(self, texts: Sequence[str]) -> None:
        places: dict[str, list[int]] = defaultdict(list)
        lengths = np.zeros(len(texts))
        for i, text in enumerate(texts):
            found = content(text)
            lengths[i] = len(found)
            for word in found:
                places[word].append(i)
        self._gain = 2.5 / (1 + 1.5 * (0.25 + 0.75 * lengths / max(lengths.mean(), 1e-9)))
        self._places = {word: np.array(some) for word, some in places.items()}
        self._count = len(texts)

    def __call__(self, query: str) -> np.ndarray:
        """The score of every text, (texts,)."""
        scores = np.zeros(self._count)
        for word in sorted(content(query)):
            where = self._places.get(word)
            if where is not None:
                rarity = np.log(1 + (self._count - len(where) + 0.5) / (len(where) + 0.5))
                scores[where] += rarity * self._gain[where]
        return scores


def baselines(
    names: Sequence[str], classifier: ScopeClassifier, minilm: str | None, cache: Path | None
) -> list[Judge]:
    """What stands beside the classifier, by name: one of BASELINES, each with its threshold chosen for it, or
    NAME=FOLDER for one of TRAINED, which have their own.

    Args:
        minilm: folder of all-MiniLM-L6-v2, where the classifier has another encoder. cache: see `Remembered`.

    Raises:
        ModelError: there is no such baseline, a folder holds none, or MiniLM is not at hand.
    """
    out = []
    for given in dict.fromkeys(names):
        name, equals, folder = given.partition("=")
        if name in TRAINED and folder:
            out.append(_trained(TRAINED[name], Path(folder), classifier, cache))
        elif name in TRAINED:
            raise ModelError(f"{name} needs its folder: write {name}=DIR, made by train/serac_scope.py")
        elif name not in BASELINES:
            raise ModelError(unknown("baseline", name, [*BASELINES, *TRAINED]))
        elif equals:
            raise ModelError(f"the baseline {name} is not trained and takes no folder; write {name} alone")
        else:
            out.append(BASELINES[name](classifier, minilm, cache))
    return out


def _trained(kind: str, folder: Path, classifier: ScopeClassifier, cache: Path | None) -> Judge:
    """SERAC's, over the encoder that the pair model reads with, which is the shipped one."""
    from memedit.scope_eval.serac import judge

    return judge(kind, folder, classifier.pairs.encoder, classifier.encode, cache)


def _bm25(classifier: ScopeClassifier, minilm: str | None, cache: Path | None) -> Judge:
    return BM25("BM25", classifier.encode)


def _cosine(classifier: ScopeClassifier, minilm: str | None, cache: Path | None) -> Judge:
    """With all-MiniLM-L6-v2 as published: the classifier's encoder where it is that, else from its folder or the hub."""
    if minilm is None and getattr(classifier.encoder, "digest", None) == PLAIN:
        return Cosine("MiniLM cosine", classifier.encode)
    encoder: Encoder = Named(minilm or "sentence-transformers/all-MiniLM-L6-v2")
    return Cosine("MiniLM cosine", Remembered(encoder, cache).encode)


BASELINES: dict[str, Callable[[ScopeClassifier, str | None, Path | None], Judge]] = {
    "bm25": _bm25,
    "cosine": _cosine,
}
TRAINED = {"serac-embedding": "embedding", "serac-cross": "cross"}


def _said(edit: Edit) -> str:
    return f"{edit.statement} {' '.join(edit.names)}"


def _batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces cut and joined so that about BATCH queries are judged at once."""
    batch: list[Piece] = []
    room = BATCH
    for piece in pieces:
        for start in range(0, len(piece.queries), BATCH):
            some = piece.queries[start : start + BATCH]
            if len(some) > room and batch:
                yield batch
                batch, room = [], BATCH
            batch.append(Piece(piece.crowd, some))
            room -= len(some)
    if batch:
        yield batch


def _top(row: Sequence[int], scores: np.ndarray) -> Top:
    """Of candidates the best, with the higher of its two scores; the first of equals, which is the nearest."""
    if not len(row):
        return Top(-1, -np.inf)
    either = scores if scores.ndim == 1 else scores.max(axis=1)
    best = int(either.argmax())
    return Top(row[best], float(either[best]), bool(scores.ndim > 1 and scores[best, 1] > scores[best, 0]))
