"""SQLite's write-ahead log, read as bytes: is what was committed into it still whole?

SQLite takes a log up to the first frame whose checksum fails, and silently forgets the rest: right where a
process died while it wrote, wrong where a bit of an older frame flipped. The two differ in what follows: after
a torn end nothing was ever committed.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_MAGIC = 0x377F0682  # the lowest bit says that checksums are of big-endian words


@dataclass(frozen=True, slots=True)
class Log:
    """What a log's file holds.

    Attributes:
        pages: page number and image, frame by frame, up to the last committed one, sound or not.
        sound: how many of the frames from the beginning SQLite will take.
        committed: how many frames there are up to the last one that ended a transaction.
        whole: whether the log's own header is. salts: what tells its frames from those of the log before.
    """

    pages: list[tuple[int, bytes]]
    sound: int
    committed: int
    whole: bool
    salts: tuple[int, ...] = ()

    @property
    def damaged(self) -> bool:
        """Whether something that was committed would be left out."""
        return self.committed > self.sound


def read(path: Path) -> Log:
    """The log in a file; an empty one where there is none.

    Raises:
        OSError: it is there and can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    if len(data) < _HEADER.size + _FRAME.size:
        return Log([], 0, 0, True)
    magic, _, size, _, *salts, one, two = _HEADER.unpack_from(data)
    order = ">" if magic & 1 else "<"
    whole = magic | 1 == _MAGIC | 1 and (one, two) == _checksum(data[: _HEADER.size - 8], order, (0, 0))
    if not whole:  # the frames still say whose they are, and pages of another size were never made by memedit
        size, salts = 4096, list(_FRAME.unpack_from(data, _HEADER.size)[2:4])
    width = _FRAME.size + size
    heads = [_FRAME.unpack_from(data, start) for start in range(_HEADER.size, len(data) - width + 1, width)]
    ours = [at for at, head in enumerate(heads) if list(head[2:4]) == salts]
    committed = max((at + 1 for at in ours if heads[at][1]), default=0)
    sound = _sound(data, heads, salts, size, order, (one, two)) if whole else 0
    pages = [
        (heads[at][0], data[_HEADER.size + at * width + _FRAME.size : _HEADER.size + (at + 1) * width])
        for at in range(committed)
    ]
    return Log(pages, sound, committed, whole, tuple(salts))


def damaged(path: Path, most: int | None = None) -> bool:
    """Whether a log lost something that was committed.

    One that is being written meanwhile may look so for a moment: its sound part grows, or is another log's.

    Args:
        most: bytes; a longer log is taken to be sound. None looks at a log of any length.
    """
    if most is not None and (not path.exists() or path.stat().st_size > most):
        return False
    seen = read(path)
    for _ in range(2):
        if not seen.damaged:
            return False
        time.sleep(0.05)
        before, seen = seen, read(path)
        if (before.sound, before.salts) != (seen.sound, seen.salts):
            return False
    return seen.damaged


def _sound(
    data: bytes, heads: list[tuple[int, ...]], salts: list[int], size: int, order: str, seed: tuple[int, int]
) -> int:
    """How many frames carry the right salts and checksums, and so does every one before them."""
    width, state = _FRAME.size + size, seed
    for at, head in enumerate(heads):
        start = _HEADER.size + at * width
        # The first 8 bytes of a frame's head and its page are summed up, and what came before.
        state = _checksum(data[start : start + 8] + data[start + _FRAME.size : start + width], order, state)
        if list(head[2:4]) != salts or head[4:6] != state:
            return at
    return len(heads)


def _checksum(data: bytes, order: str, state: tuple[int, int]) -> tuple[int, int]:
    """SQLite's two running sums: a += x + b, b += y + a for every pair of 32-bit words x, y.

    Both are linear in the words, so one product with their weights stands for the loop.
    """
    words = np.frombuffer(data, order + "u4").astype(np.uint32)
    weights = _weights(len(words) // 2)
    a, b = (np.concatenate([np.array(state, np.uint32), words]) * weights).sum(axis=1, dtype=np.uint32)
    return int(a), int(b)


@cache
def _weights(pairs: int) -> np.ndarray:
    """(2, 2 + 2 * pairs) uint32: by how much the two sums grow with the two they began with, and with each word."""
    weights = np.zeros((2, 2 + 2 * pairs), np.uint64)
    a, b = (
        (1, 0),
        (0, 1),
    )  # what the final sums take of a and of b, before the last pair, the last but one, ...
    for pair in range(pairs, 0, -1):
        # A pair (x, y) makes of (a, b): (a + b + x, a + 2 b + x + y).
        weights[:, 2 * pair] = [a[0] + b[0], a[1] + b[1]]
        weights[:, 2 * pair + 1] = b
        a, b = (
            ((a[0] + b[0]) % 2**32, (a[1] + b[1]) % 2**32),
            ((a[0] + 2 * b[0]) % 2**32, (a[1] + 2 * b[1]) % 2**32),
        )
    weights[:, 0], weights[:, 1] = a, b
    return (weights % 2**32).astype(np.uint32)
