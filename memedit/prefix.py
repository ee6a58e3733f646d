"""`PrefixCache`: keys and values of prefixes that recur, so that a stated fact is read once and not at every query.

A prefix stands at the positions 0, 1, 2, ... whatever comes after it, so that its keys and values are
a function of its ids alone. They are always computed by themselves, one row, without padding: the
answer to a query never depends on what was asked before it.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memedit.spread import input_device

if TYPE_CHECKING:
    from torch import Tensor

# Rotary angles of these kinds depend on how long the whole sequence is.
_STRETCHED = ("'longrope'", "'dynamic'")

Layers = list[tuple["Tensor", "Tensor"]]  # keys and values of each layer, (1, heads, length, size of a head)


class PrefixCache:
    """Keys and values by prefix ids; what was longest unused goes first when the budget is full.

    Args:
        budget: bytes, on the model's device; 0 keeps nothing.
    """

    def __init__(self, budget: int = 256 << 20) -> None:
        self.budget = budget
        self.hits = self.misses = 0
        self._kept: OrderedDict[tuple[Any, ...], Layers] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """What is kept, in bytes."""
        return self._bytes

    def clear(self) -> None:
        """Forget all: for who has written the model's weights."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def get(self, model: Any, ids: tuple[int, ...]) -> Layers | None:
        """Keys and values of a prefix; computed where they are not at hand.

        Returns:
            None where the model keeps something else than keys and values of the whole sequence (a sliding window,
            a recurrent state).
        """
        key = (ids, weights_now(model))
        with self._lock:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                return self._kept[key]
            self.misses += 1
        layers = _read(model, ids)
        if layers is not None:
            self._keep(key, layers)
        return layers

    def _keep(self, key: tuple[Any, ...], layers: Layers) -> None:
        size = _size(layers)
        with self._lock:
            if size > self.budget or key in self._kept:
                return
            self._kept[key] = layers
            self._bytes += size
            while self._bytes > self.budget:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= _size(dropped)


def weights_now(model: Any) -> int:
    """A number that changes with the weights: when they are written, moved or replaced, adapters come or are switched.

    Writing through `.data` in place goes unseen; see `PrefixCache.clear`.
    """
    return hash(
        tuple(
            (w.data_ptr(), None if w.is_inference() else w._version, w.requires_grad, w.dtype, w.device)
            for w in model.parameters()
        )
    )


def serves(model: Any, cache: Any) -> bool:
    """Whether this empty cache of `generate` can be filled with a prefix: it grows, and keeps all of every layer."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    # Without position ids the model would count from the padding between a prefix and what follows it.
    return (
        type(cache) is DynamicCache
        and not any(kind in repr(rope) for kind in _STRETCHED)
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and "position_ids" in inspect.signature(model.forward).parameters
    )


def fill(cache: Any, prefixes: Sequence[Layers]) -> Tensor:
    """Put each row's prefix into an empty cache, left-padded to the longest.

    Args:
        cache: `DynamicCache` without content. prefixes: one per row.

    Returns:
        The mask of what is in the cache, (rows, longest).
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    while len(cache.layers) < len(prefixes[0]):  # a layer that is not the model's own, as a pointer's keys
        cache.layers.append(DynamicLayer())
    lengths = [layers[0][0].shape[2] for layers in prefixes]
    width = max(lengths)
    alike = all(layers is prefixes[0] for layers in prefixes)
    for i, parts in enumerate(zip(*prefixes, strict=True)):
        for_layer = []
        for which in (0, 1):
            first = parts[0][which]
            if alike:
                for_layer.append(first.expand(len(prefixes), *first.shape[1:]))
                continue
            stacked = first.new_zeros(len(prefixes), first.shape[1], width, first.shape[3])
            for row, part in enumerate(parts):
                stacked[row, :, width - lengths[row] :] = part[which][0]
            for_layer.append(stacked)
        cache.update(*for_layer, i)
    columns = torch.arange(width)
    return (columns[None] >= width - torch.tensor(lengths)[:, None]).long()


def _read(model: Any, ids: tuple[int, ...]) -> Layers | None:
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache(config=model.config)
    device = input_device(model)
    row = torch.tensor([ids], device=device)
    # Only the keys and values are wanted: the head over the vocabulary is the dearest part of a small model.
    spared = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with torch.no_grad():
        model(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            position_ids=torch.arange(len(ids), device=device)[None],
            past_key_values=cache,
            use_cache=True,
            **spared,
        )
    layers: Layers = []
    for layer in cache.layers:
        if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
            return None
        layers.append((layer.keys, layer.values))
    return layers


def _size(layers: Layers) -> int:
    return sum(t.numel() * t.element_size() for pair in layers for t in pair)
