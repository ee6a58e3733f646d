"""What the memory's tests share: a small real encoder, and edits by the dozen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from memedit.edit import Edit


class TrigramEncoder:
    """Texts as counts of their hashed character trigrams: deterministic, quick, and near texts are near."""

    name = "trigrams"
    views: tuple[str, ...] = ("statement", "prompt")

    def __init__(self, dim: int = 32, seed: int = 0) -> None:
        self.dim, self.seed = dim, seed
        self.fingerprint = f"trigrams-{dim}-{seed}"
        self.encoded = 0

    def texts(self, edit: Edit) -> tuple[str, ...]:
        return edit.statement, edit.prompt or edit.statement

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(out, texts, strict=True):
            padded = f"  {text.casefold()} "
            for at in range(len(padded) - 2):
                digest = hashlib.blake2b(f"{self.seed}{padded[at : at + 3]}".encode(), digest_size=4).digest()
                number = int.from_bytes(digest, "little")
                row[number % self.dim] += 1 if number >> 16 & 1 else -1
            row /= np.linalg.norm(row) or 1
        self.encoded += len(texts)
        return out


def capital(country: str, city: str, **more: object) -> Edit:
    """The fact that a city is a country's capital."""
    return Edit.from_dict(
        {"prompt": f"The capital of {country} is", "target": city, "subject": country, **more}
    )


def facts(count: int) -> list[Edit]:
    """Different facts of different subjects."""
    return [
        capital(f"Land {n:05d} of {hashlib.md5(str(n).encode()).hexdigest()[:6]}", f"Town {n}")
        for n in range(count)
    ]
