"""A pointer beside a causal LM's head: a next token may be copied from what the row has read.

A small model spells rare names wrong, since their embeddings are hardly told apart; it has read them a line above. The
pointer-generator (See et al., "Get To The Point", arXiv 1704.04368, equations 8 and 9) mixes both:

    p(w) = (1 - g) p_vocabulary(w) + g * sum over i with x_i = w of a_i

    h_t   last hidden state at step t, the one that the head reads           (hidden,)
    a     attention over the tokens x_1 ... x_t: softmax_i of q(h_t) . k_i / sqrt(width) + sum over n of b_n(h_t) same_n(i)
    k_i   now(h_i) + before(h_{i-1})                                           (width,)
    same  n = 1 ... 8: whether the n tokens before x_i are the last n of the row, so that a copy that has begun goes on
    g     sigmoid of a linear map of h_t and the largest of a

What differs from the paper: it attends over an encoder's states, from a decoder's; here both are the one row of a causal model.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from memedit.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 8  # tokens before x_i that are compared with the row's last


class Pointer(nn.Module):
    """The pointer's weights, in float32 whatever the model's are.

    Args:
        hidden: size of the model's hidden states. width: of queries and keys.
    """

    def __init__(self, hidden: int, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Linear(hidden, width)
        self.now = nn.Linear(hidden, width, bias=False)
        self.before = nn.Linear(hidden, width, bias=False)
        self.same = nn.Linear(hidden, LONGEST)
        self.gate = nn.Linear(hidden + 1, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1.0)  # at first the model's own word counts for more

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Pointer:
        """The pointer of saved weights.

        Raises:
            RuntimeError, KeyError: they are not a pointer's.
        """
        width, hidden = tensors["query.weight"].shape
        pointer = cls(hidden, width)
        pointer.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return pointer

    def keys(self, hidden: Tensor) -> Tensor:
        """Both parts of the keys, (rows, length, 2 * width), of (rows, length, hidden) states."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            return torch.cat([self.now(hidden), self.before(hidden)], dim=-1)

    def forward(
        self,
        logits: Tensor,
        states: Tensor,
        row: Tensor,
        column: Tensor,
        keys: Tensor,
        ids: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Log-probabilities of the mixture, (queries, vocabulary), for queries anywhere in a batch.

        Args:
            logits: (queries, vocabulary), the head's own. states: (queries, hidden), what the head read.
            row, column: (queries,) where each of them stands; it sees columns up to its own.
            keys: (rows, length, 2 * width), of `keys`. ids, mask: (rows, length), with padding wherever it is.
        """
        with torch.autocast(states.device.type, enabled=False):  # a training under it would mix in halves
            states, places = states.float(), _before(mask)
            now, before = keys.split(self.width, dim=-1)
            begun = (places[0] >= 0).unsqueeze(-1)
            gathered = before.gather(1, places[0].clamp(min=0).unsqueeze(-1).expand_as(before))
            scores = torch.einsum("nw,nlw->nl", self.query(states), (now + gathered * begun)[row])
            scores = scores / math.sqrt(self.width)
            bonus, alike = self.same(states), torch.ones_like(scores, dtype=torch.bool)
            at = column.unsqueeze(-1)
            for n, place in enumerate(places):
                # The n-th token before x_i, and the n-th last of the row, the query's own column included.
                theirs = torch.where(place >= 0, ids.gather(1, place.clamp(min=0)), -1)[row]
                mine = torch.where(at >= 0, ids[row].gather(1, at.clamp(min=0)), -2)
                alike = alike & (theirs == mine)
                scores = scores + bonus[:, n : n + 1] * alike
                at = torch.where(at >= 0, places[0][row].gather(1, at.clamp(min=0)), -1)
            columns = torch.arange(ids.shape[1], device=ids.device)
            own = column.unsqueeze(-1)
            seen = mask.bool()[row] & (columns <= own) | (
                columns == own
            )  # a column of padding sees itself, for a number
            attention = scores.masked_fill(~seen, float("-inf")).softmax(-1)
            gate = torch.sigmoid(self.gate(torch.cat([states, attention.amax(-1, keepdim=True)], dim=-1)))
            said = (1 - gate) * logits.float().softmax(-1)
            return said.scatter_add(1, ids[row], gate * attention).clamp(min=1e-30).log()


def _before(mask: Tensor) -> list[Tensor]:
    """For n = 1 ... LONGEST the column of the n-th token before each, padding not counted; -1 where there is none."""
    columns = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    latest = torch.where(mask.bool(), columns, -1).cummax(1).values
    first = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], dim=1)
    places = [first]
    for _ in range(LONGEST - 1):
        last = places[-1]
        places.append(torch.where(last >= 0, first.gather(1, last.clamp(min=0)), -1))
    return places


def attach(model: Any, pointer: Pointer) -> tuple[Any, Any]:
    """Let a causal LM's logits be the pointer's mixture from now on, in `generate` and in plain forward passes.

    The keys go with the cache, as a layer of their own behind the model's: beams and kept prefixes carry them along.

    Returns:
        Handles whose `remove` takes it off again.

    Raises:
        ModelError: the model's body gives no hidden states.
    """
    body, head = model.get_decoder(), model.get_output_embeddings()
    if body is None or head is None:
        raise ModelError(
            f"{type(model).__name__} has no body and head of its own for a pointer to stand between"
        )
    model.add_module("pointer", pointer.to(model.device).eval())
    layers = model.config.get_text_config().num_hidden_layers
    read = threading.local()

    def after_body(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        keys, mask = pointer.keys(output.last_hidden_state), kwargs.get("attention_mask")
        keys, ids = _kept(output.past_key_values, keys, ids, layers)
        if mask is None:
            mask = torch.ones_like(ids)
        read.now = keys, ids, mask[:, -ids.shape[1] :]

    def after_head(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        keys, ids, mask = read.now
        rows, count = output.shape[:2]
        row = torch.arange(rows, device=ids.device).repeat_interleave(count)
        column = torch.arange(ids.shape[1] - count, ids.shape[1], device=ids.device).repeat(rows)
        mixed = pointer(output.flatten(0, 1), args[0].flatten(0, 1), row, column, keys, ids, mask)
        return mixed.view_as(output).to(output.dtype)

    return body.register_forward_hook(after_body, with_kwargs=True), head.register_forward_hook(after_head)


def _kept(cache: Any, keys: Tensor, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and ids of the whole row: those of this pass behind those that the cache has from former ones."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if cache is None:
        return keys, ids
    if type(cache) is not DynamicCache:
        raise ModelError(
            f"a model with a pointer needs a cache that grows, not {type(cache).__name__}: leave cache_implementation out"
        )
    while len(cache.layers) <= layer:
        cache.layers.append(DynamicLayer())
    # As float32, in which every id of a vocabulary has a value of its own.
    own: DynamicLayer = cache.layers[layer]  # type: ignore[assignment]
    keys, numbers = own.update(keys.unsqueeze(1), ids.float()[:, None, :, None])
    return keys.squeeze(1), numbers[:, 0, :, 0].long()
