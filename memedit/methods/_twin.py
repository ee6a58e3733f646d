"""A second module tree over the same weights, in which a library may put its own layers: the base's tree stays as it is."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from memedit.lm import HFModel


def twin(base: HFModel) -> HFModel:
    """The base's model with modules of its own and the base's numbers: nothing is copied but the tree.

    Parameters are new objects over the same storage, without a gradient, so that flags that are set on them are not set on
    the base's. Hooks are listed anew: those that are put on or taken off later, here or there, concern one tree alone.
    Whoever writes into a weight in place writes into both.
    """
    from memedit.lm import HFModel

    memo: dict[int, Any] = {}
    for module in base.model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            memo[id(tensor)] = _same(tensor)
        for name, value in list(vars(module).items()):
            if "hooks" in name and isinstance(value, dict):
                memo[id(value)] = value.copy()
    out = HFModel(copy.deepcopy(base.model, memo), base.tokenizer)
    out.tokenizing = base.tokenizing  # one tokenizer, one lock
    return out


def _same(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers under another name; a quantised weight, which is more than its numbers, as it is."""
    if type(tensor) is torch.nn.Parameter:
        return torch.nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor
