"""The pair model: reads a query and an edit together, and tells direct, ripple and out apart.

A cross-encoder that shares its lower layers with the text encoder. Query and edit go through them one by one, which
costs nothing for a query that was just encoded and is remembered for edits; then the model's own upper layers read both
at once (the split of DeFormer, Cao et al., arXiv 2005.00697). Each token carries a mark: is it part of the
subject's name, by whatever alias, of the answer, or neither? So the model need not learn who is who by heart,
and carries over to names and relations that it never met.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memedit.edit import Edit
from memedit.encoder import MiniLM, bert_layer, padded, rounded
from memedit.subjects import find

if TYPE_CHECKING:
    import torch

CLASSES = ("direct", "ripple", "out")
WORD, WHOLE, PART, GUESS = (
    0,
    1,
    2,
    3,
)  # marks of a query's tokens: of no name, of the whole name, of a part, of a guess
SAID, SUBJECT, GUESSED, ANSWER = 4, 5, 6, 7  # marks of an edit's tokens
MARKS = 8
LONGEST = 96  # tokens of a query or an edit; of a longer one the last count
KEPT = 40_000  # tokens whose states are remembered: 61 MB in float32
BATCH = 64  # pairs at once

Spans = tuple[tuple[int, int], ...]


class Side(NamedTuple):
    """Token ids of a query or an edit, with a mark for each."""

    ids: tuple[int, ...]
    marks: tuple[int, ...]


class PairModel:
    """Scores marked pairs.

    Args:
        encoder: whose lower layers read each side.
        weights: of the own layers, as `bert_layer` names them ("layer.0.attention..."), "marks" (MARKS, dim) and
            "head.weight" (3, dim), "head.bias" (3,).
        lower: how many of the encoder's layers are shared.
    """

    def __init__(self, encoder: MiniLM, weights: Mapping[str, torch.Tensor], lower: int) -> None:
        self.encoder, self.lower = encoder, lower
        dtype = encoder.weights["embeddings.LayerNorm.weight"].dtype
        self.weights: dict[str, Any] = {
            name: value.to(encoder.device, dtype) for name, value in weights.items()
        }
        self.layers = len({name.split(".")[1] for name in weights if name.startswith("layer.")})
        self._states: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        encoder.kept_layer, encoder.keep = lower, self._remember

    def quick(self, encoder: MiniLM) -> PairModel:
        """The same with layers in 8-bit integers, on an encoder's that are so too (`MiniLM.quick`)."""
        twin = PairModel(encoder, self.weights, self.lower)
        twin.weights = rounded(self.weights)
        return twin

    def logits(self, pairs: Sequence[tuple[Side, Side]]) -> torch.Tensor:
        """(pairs, 3), one column for each of CLASSES, where the encoder works."""
        import torch

        if not pairs:
            return torch.zeros((0, len(CLASSES)), device=self.encoder.device)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0].ids) + len(pairs[i][1].ids))
        with torch.inference_mode():
            parts = []
            for start in range(0, len(order), BATCH):
                some = [pairs[i] for i in order[start : start + BATCH]]
                states = self._read({side.ids for pair in some for side in pair})
                parts.append(
                    joint(some, states, self.weights, self.layers, self.encoder.heads, self.encoder.eps)
                )
            back = torch.tensor(order).argsort().to(self.encoder.device, non_blocking=True)
            return torch.cat(parts).index_select(0, back).float()

    def _read(self, texts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], torch.Tensor]:
        """What the shared layers make of each text, (tokens, dim); from memory where it was read of late."""
        found: dict[tuple[int, ...], torch.Tensor] = {}
        with self._lock:
            for ids in texts:
                if ids in self._states:
                    self._states.move_to_end(ids)
                    found[ids] = self._states[ids]
        new = sorted((ids for ids in texts if ids not in found), key=lambda ids: (len(ids), ids))
        for start in range(0, len(new), BATCH):
            rows = [list(ids) for ids in new[start : start + BATCH]]
            x = shared_states(self.encoder, rows, self.lower)
            found.update((tuple(row), x[i, : len(row)]) for i, row in enumerate(rows))
            self._remember(rows, x)
        return found

    def _remember(self, rows: Sequence[Sequence[int]], x: torch.Tensor) -> None:
        """Keep the states of some texts, and let go of those that were not used for longest."""
        with self._lock:
            for i, row in enumerate(rows):
                if (ids := tuple(row)) not in self._states:
                    self._states[ids] = x[i, : len(row)].clone()
                    self._held += len(row)
            while self._held > KEPT:
                ids, _ = self._states.popitem(last=False)
                self._held -= len(ids)


def shared_states(encoder: MiniLM, rows: Sequence[Sequence[int]], lower: int) -> torch.Tensor:
    """What the encoder's first `lower` layers make of rows of token ids, (rows, longest, dim)."""
    ids, real = padded(rows, encoder.device)
    x = encoder.start(ids, ids.shape[1])
    for layer in range(lower):
        x = encoder.layer(x, layer, real)
    return x


def joint(
    pairs: Sequence[tuple[Side, Side]],
    states: Mapping[tuple[int, ...], torch.Tensor],
    weights: Mapping[str, Any],
    layers: int,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """Logits (pairs, 3): the upper layers over the query's and the edit's tokens together.

    The head reads the query's first token, all that the last layer makes.
    """
    import torch
    from torch.nn.functional import linear
    from torch.nn.utils.rnn import pad_sequence

    device = weights["marks"].device
    rows = [torch.cat([states[query.ids], states[edit.ids]]) for query, edit in pairs]
    marks, real = padded([[*query.marks, *edit.marks] for query, edit in pairs], device)
    x = pad_sequence(rows, batch_first=True) + weights["marks"][marks]
    for layer in range(layers):
        x = bert_layer(x, weights, f"layer.{layer}.", heads, eps, real, first=layer == layers - 1)
    return linear(x[:, 0], weights["head.weight"], weights["head.bias"])


class Marker:
    """Makes `Side`s of texts.

    Args:
        tokenizer: the encoder's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._edit = lru_cache(maxsize=20_000)(self._marked_edit)

    def query(self, text: str, spans: Spans, mark: int) -> Side:
        """A query, in which `spans` (characters) name the subject; `mark` is one of WHOLE, PART, GUESS."""
        return self._marked(text, WORD, [(spans, mark)])

    def edit(self, edit: Edit, name: str | None, guessed: bool) -> Side:
        """An edit's statement, with a name (of its subject, or guessed) and its answer marked."""
        return self._edit(edit.statement, edit.target or "", name, guessed)

    def _marked_edit(self, text: str, target: str, name: str | None, guessed: bool) -> Side:
        spans = find(name, text).spans if name else ()
        answer: Spans = ()
        if target and (at := text.rfind(target)) >= 0:
            answer = ((at, at + len(target)),)
        return self._marked(text, SAID, [(answer, ANSWER), (spans, GUESSED if guessed else SUBJECT)])

    def _marked(self, text: str, plain: int, marked: Sequence[tuple[Spans, int]]) -> Side:
        encoded = self.tokenizer.encode(text)
        marks = np.full(len(encoded.ids), plain)
        offsets = np.array(encoded.offsets).reshape(-1, 2)
        for spans, mark in marked:
            for start, end in spans:
                marks[(offsets[:, 0] < end) & (offsets[:, 1] > start)] = mark
        ids, found = encoded.ids, marks.tolist()
        if len(ids) > LONGEST:  # the first token is read by the head; what is asked stands at the end
            ids, found = [ids[0], *ids[1 - LONGEST :]], [found[0], *found[1 - LONGEST :]]
        return Side(tuple(ids), tuple(found))


def untrained(encoder: MiniLM, lower: int, layers: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights to start training from: the encoder's own layers after the shared ones, float32."""
    import torch

    made = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(layers):
        at = f"encoder.layer.{min(lower + layer, encoder.layers - 1)}."
        for name, value in encoder.weights.items():
            if name.startswith(at):
                weights[f"layer.{layer}.{name.removeprefix(at)}"] = value.float().cpu().clone()
    weights["marks"] = torch.randn(MARKS, encoder.dim, generator=made) * 0.02
    weights["head.weight"] = torch.randn(len(CLASSES), encoder.dim, generator=made) * 0.02
    weights["head.bias"] = torch.zeros(len(CLASSES))
    return weights
