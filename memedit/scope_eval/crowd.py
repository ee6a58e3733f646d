"""A memory for the scores: edits with their vectors, and the candidates that the real memory would hand out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memedit.edit import Edit
from memedit.encoder import Encoder
from memedit.memory.rules import name_keys, named_in
from memedit.pairs import PairModel, Side

if TYPE_CHECKING:
    import torch

STEP = 1024  # texts encoded at a time, between two steps of a progress bar
SAVED_AFTER = 32 * STEP  # new texts, so that a run that is killed has not encoded for nothing
Bar = Callable[[int, int], None]  # told (done, all)


class Remembered:
    """An encoder that encodes every text once, and keeps the vectors in a file between runs.

    Args:
        folder: where the file is kept; None keeps nothing. bar: is told how far it is, where many texts are new.
        precision: in which vectors are kept: "float32" as a query's are, or "float16" as a memory stores an edit's.
    """

    def __init__(
        self, encoder: Encoder, folder: Path | None, bar: Bar | None = None, precision: str = "float32"
    ) -> None:
        self.encoder, self.name, self.dim, self.digest = encoder, encoder.name, encoder.dim, encoder.digest
        self.path = folder / f"texts-{encoder.digest[:12]}-{precision}.npz" if folder else None
        self.bar = bar
        self.at: dict[str, int] = {}
        self.vectors = np.zeros((0, encoder.dim), dtype=precision)
        self._unsaved = 0
        if self.path and self.path.exists():
            self._load(self.path)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as kept:
                texts = kept["texts"].tobytes().decode().split("\0")
                vectors = kept["vectors"]
                if vectors.shape == (len(texts), self.dim) and vectors.dtype == self.vectors.dtype:
                    self.vectors, self.at = vectors, {text: i for i, text in enumerate(texts)}
        except Exception:  # a damaged file costs time, nothing else
            path.unlink(missing_ok=True)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, dim), float32."""
        new = [t for t in dict.fromkeys(texts) if t not in self.at]
        for start in range(0, len(new), STEP):
            some = new[start : start + STEP]
            used = len(self.at)
            if used + len(some) > len(self.vectors):  # grown by halves, not for every few texts
                room = np.zeros((len(self.vectors) // 2 + len(some), self.dim), dtype=self.vectors.dtype)
                self.vectors = np.concatenate([self.vectors, room])
            self.vectors[used : used + len(some)] = self.encoder.encode(some)
            self.at.update((text, used + i) for i, text in enumerate(some))
            self._unsaved += len(some)
            if self._unsaved >= SAVED_AFTER:
                self.save()
            if self.bar and len(new) > STEP:
                self.bar(start + len(some), len(new))
        return self.vectors[[self.at[t] for t in texts]].astype(np.float32)

    def save(self) -> None:
        """Write the file, all or nothing."""
        if self.path is None or not self._unsaved:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        texts = "\0".join(self.at).encode()
        beside = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        try:
            with beside.open("wb") as file:
                np.savez(
                    file, vectors=self.vectors[: len(self.at)], texts=np.frombuffer(texts, dtype=np.uint8)
                )
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)
        self._unsaved = 0


class Vectors:
    """Vectors of edits as a memory stores them: float16, of several texts each, the statement's first.

    Args:
        encode: texts to unit vectors. texts: the texts of an edit, as `ScopeClassifier.texts` gives them.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], np.ndarray], texts: Callable[[Edit], tuple[str, ...]]
    ) -> None:
        self._encode, self._texts = encode, texts

    def keys(self, edits: Sequence[Edit]) -> np.ndarray:
        """Of the statements, (edits, dim)."""
        return self._encode([self._texts(edit)[0] for edit in edits]).astype(np.float16)

    def views(self, edits: Sequence[Edit]) -> np.ndarray:
        """Of all texts, (edits, views, dim)."""
        each = [self._texts(edit) for edit in edits]
        flat = self._encode([text for texts in each for text in texts]).astype(np.float16)
        return flat.reshape(len(edits), -1, flat.shape[-1])


class RememberedPairs:
    """A pair model that reads every pair once: the same ones are asked at every size of memory."""

    def __init__(self, model: PairModel) -> None:
        self.encoder, self._model = model.encoder, model
        self._known: dict[tuple[Side, Side], torch.Tensor] = {}

    def logits(self, pairs: Sequence[tuple[Side, Side]]) -> torch.Tensor:
        """As `PairModel.logits`."""
        import torch

        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            self._known.update(zip(new, self._model.logits(new), strict=True))
        return torch.stack([self._known[pair] for pair in pairs]) if pairs else self._model.logits([])


class Crowd:
    """Edits in memory.

    Args:
        edits: the newest last. vectors: makes their vectors; only candidates' are made in all views.
    """

    def __init__(self, edits: Sequence[Edit], vectors: Vectors) -> None:
        self.edits, self._vectors = list(edits), vectors
        self.keys = vectors.keys(self.edits).astype(np.float32)
        self._named: dict[str, list[int]] = defaultdict(list)
        for i, edit in enumerate(self.edits):
            for name in name_keys(edit):
                self._named[name].append(i)

    def __len__(self) -> int:
        return len(self.edits)

    def views(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For each query the vectors of its candidates, (candidates, views, dim)."""
        flat = self._vectors.views([self.edits[i] for row in rows for i in row])
        return np.split(flat, np.cumsum([len(row) for row in rows])[:-1])

    def candidates(self, queries: Sequence[str], vectors: np.ndarray, nearest: int) -> list[list[int]]:
        """For each query its candidates, the nearest first: the nearest of all, and the nearest of those it names."""
        out = []
        count = len(self.edits)
        for start in range(0, len(queries), 256):
            cosines = vectors[start : start + 256] @ self.keys.T
            for query, row in zip(queries[start : start + 256], cosines, strict=True):
                k = min(nearest, count)
                found = set(np.argpartition(-row, k - 1)[:k].tolist()) if k < count else set(range(count))
                named = {i for name in named_in(query) & self._named.keys() for i in self._named[name]}
                found |= set(sorted(named, key=lambda i: (-row[i], -i))[:nearest])
                out.append(sorted(found, key=lambda i: (-row[i], -i)))
        return out
