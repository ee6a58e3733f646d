"""A memory for the scores: edits with their vectors, and the candidates that the real memory would hand out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from memedit.edit import Edit
from memedit.encoder import Encoder
from memedit.memory.rules import name_keys, named_in

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


class Crowd:
    """Edits in memory.

    Args:
        edits: the newest last. vectors: (edits, views, dim), as stored: float16, the statement's first.
    """

    def __init__(self, edits: Sequence[Edit], vectors: np.ndarray) -> None:
        self.edits, self.vectors = list(edits), vectors
        self.keys = vectors[:, 0].astype(np.float32)
        self._named: dict[str, list[int]] = defaultdict(list)
        for i, edit in enumerate(self.edits):
            for name in name_keys(edit):
                self._named[name].append(i)

    def __len__(self) -> int:
        return len(self.edits)

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
