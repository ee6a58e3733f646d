"""Where characters of a rendered conversation stand among its tokens: pure functions on ids and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


def tokens_from(ids: Sequence[int], text: str, start: int, decode: Decode) -> int | None:
    """Tokens from the one that holds character `start` on; decoding a beginning gives the text's beginning."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(ids[:middle])) <= start:
            low = middle
        else:
            high = middle - 1
    return len(ids) - low if text.startswith(decode(ids[:low])) else None


def tokens_after(ids: Sequence[int], text: str, start: int, said: str, decode: Decode) -> int | None:
    """Tokens behind words that stand at `start` or later, the template's own; None where the words can't be found.

    A token that holds the words' end and what follows it counts as behind them.
    """
    at = text.find(said, start) if said else -1
    return None if at < 0 else tokens_from(ids, text, at + len(said), decode)
