"""Low-rank factors beside a frozen model's linear modules: LoRA (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class Adapted(nn.Module):
    """A frozen linear module with low-rank factors beside it: y = W x + scale * up (down x); scale is alpha / rank = 1."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + (x @ self.down.T) @ self.up.T  # type: ignore[no-any-return]


def adapted(model: Any, rank: int, seed: int) -> dict[str, Adapted]:
    """Factors beside every linear module of the layers, by the modules' names; all else is frozen."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    out = {}
    for name in found:
        parent, _, last = name.rpartition(".")
        out[name] = Adapted(model.get_submodule(name), rank)
        setattr(model.get_submodule(parent), last, out[name])
    return out
