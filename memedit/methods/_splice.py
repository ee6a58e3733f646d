"""Where a row's context stands among its own ids, and how much of it fits.

A context is made of pieces, least important first. What does not fit the model is left out piece by
piece, demonstrations before facts and old facts before new ones; the prompt itself is never cut.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memedit.errors import ContextWarning
from memedit.texts import shortened


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a context, ended by a newline: a stated fact, or a demonstration of how to use one."""

    text: str
    demonstration: bool = False


def joined(pieces: Sequence[Piece]) -> str:
    """The text of a context."""
    return "".join(piece.text for piece in pieces)


@dataclass(frozen=True)
class Splice:
    """The rows of a forward pass with their contexts in.

    Attributes:
        ids, mask: (rows, width), left-padded. visible: columns of the caller's own batch.
        column: (rows, visible) where each of the caller's tokens stands; -1 for the caller's padding.
        heads: per row the ids up to the end of its context; rests: what follows.
    """

    ids: Tensor
    mask: Tensor
    visible: int
    column: Tensor
    heads: list[tuple[int, ...]]
    rests: list[list[int]]


def spliced(
    ids: Tensor, mask: Tensor, contexts: Sequence[Sequence[int]], starts: Sequence[int], pad: int
) -> Splice:
    """Contexts put into (rows, length) ids; `contexts` and `starts` have one entry for each of equally many rows.

    Args:
        contexts: ids to put in. starts: before which of the row's own tokens, padding not counted.
    """
    repeat = ids.shape[0] // len(contexts)
    heads: list[tuple[int, ...]] = []
    rests: list[list[int]] = []
    places: list[list[int]] = []
    for i, (row, seen) in enumerate(zip(ids.tolist(), mask.bool().tolist(), strict=True)):
        own = [token for token, there in zip(row, seen, strict=True) if there]
        context, start = contexts[i // repeat], starts[i // repeat]
        heads.append((*own[:start], *context))
        rests.append(own[start:])
        places.append([place if place < start else place + len(context) for place in range(len(own))])
    rows = [[*head, *rest] for head, rest in zip(heads, rests, strict=True)]
    width = max(map(len, rows))
    column = torch.full(ids.shape, -1)
    for i, (row, own_places) in enumerate(zip(rows, places, strict=True)):
        column[i][mask[i].bool().cpu()] = torch.tensor(own_places, dtype=torch.long) + width - len(row)
    padded, there = left_padded(rows, pad)
    return Splice(
        padded.to(ids.device),
        there.to(mask.device, mask.dtype),
        ids.shape[1],
        column.to(ids.device),
        heads,
        rests,
    )


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest)."""
    width = max(map(len, rows))
    return (
        torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows]),
        torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    )


def own_columns(tensor: Tensor, column: Tensor, dim: int) -> Tensor:
    """The caller's own columns of an output with rows in dimension 0; zeros for the caller's padding."""
    shape = [1] * tensor.dim()
    shape[0], shape[dim] = column.shape
    index = column.view(shape)
    wide = [tensor.shape[i] if i != dim else column.shape[1] for i in range(tensor.dim())]
    return tensor.gather(dim, index.clamp(min=0).expand(wide)) * (index >= 0)


def fitted(
    pieces: Sequence[Piece],
    encode: Callable[[str], list[int]],
    own: int,
    new: int,
    limit: int | None,
    prompt: str,
) -> tuple[list[int], tuple[Piece, ...]]:
    """The ids of as much of a context as fits, and the pieces that were left out; a warning says which.

    Args:
        own: tokens of the prompt. new: new tokens that need room. limit: tokens that the model takes.
        prompt: how it begins, for the message.
    """
    kept = list(pieces)
    ids = encode(joined(kept))
    while limit is not None and kept and len(ids) + own + new > limit:
        kept.remove(next((piece for piece in kept if piece.demonstration), kept[0]))
        ids = encode(joined(kept))
    out = tuple(piece for piece in pieces if piece not in kept)
    if out:
        why = f"the model takes {limit} tokens, the prompt has {own} and {new} more need room"
        warnings.warn(
            ContextWarning(f"{shortened(prompt, 40)!r} was answered without {_named(out, pieces)}: {why}"),
            stacklevel=2,
        )
    return ids, out


def _named(out: Sequence[Piece], pieces: Sequence[Piece]) -> str:
    demonstrations = sum(piece.demonstration for piece in out)
    facts = [piece.text.strip() for piece in out if not piece.demonstration]
    parts = []
    if demonstrations:
        parts.append(f"{demonstrations} of {sum(p.demonstration for p in pieces)} demonstrations")
    parts += [repr(shortened(fact, 80)) for fact in facts[:3]]
    if len(facts) > 3:
        parts.append(f"{len(facts) - 3} more facts")
    return ", ".join(parts)
