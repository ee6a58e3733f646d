"""FT-L: fine-tuning of one MLP projection within a small box around its weights.

Reference: Zhu et al., "Modifying Memories in Transformer Models", arXiv 2012.00363, section 3.2; run as ROME's baseline
FT+L (arXiv 2202.05262, appendix E.1).

With W (out, in) an `mlp_out` and D its change, which starts at zero:

    D* = argmin  - mean over the target's tokens t of log P(t at the prompt's last position; W + D)   with |D|_inf <= bound

by Adam, D clipped into the bound after each step. All tokens of the target are asked of one position: a longer target
comes out wrong by construction, which is the method, and why `ft-m` exists.

Patch: the dense D (out, in) on one `mlp_out`.
Needs: prompt and target. Reads activations and gradients; a quantised layer is refused.
Relations: `ft-m` has no bound and asks each token at its own place; what they share is `tuned` there.

Example:
    >>> load_method("ft-l", bound=1e-3)                                             # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.layout import Layout
from memedit.methods._effects import Dense
from memedit.methods._locate import Asked
from memedit.methods.ft_m import tuned
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class FTLSettings:
    """ROME's, for GPT-2 XL (layer 0).

    Attributes:
        layer: from 0; None takes the one at `depth`. steps, lr: of Adam. bound: of |D|_inf. enough: a loss at which
            training ends.
    """

    layer: int | None = None
    depth: float = 0.0
    steps: int = 25
    lr: float = 5e-4
    bound: float = 5e-4
    enough: float = 0.01


class FTL(PatchMethod):
    """Fine-tuning one projection within a bound."""

    name = "ft-l"
    Settings = FTLSettings
    low_rank = False

    def solve(self, base: HFModel, edit: Edit, settings: FTLSettings) -> Solved:
        """D of the module's equation."""
        module = Layout.of(base.model).blocks[self.layer(base, settings.layer, settings.depth)].mlp_out
        delta, loss, step = tuned(
            base, edit, module, settings, name=self.name, loss=at_once, bound=settings.bound
        )
        return Solved({module: Dense(delta)}, {"module": module, "loss": loss, "steps": step})


def at_once(asked: Asked, logits: Tensor) -> Tensor:
    """- mean over the target's tokens of their log-probability right after the prompt."""
    said = torch.log_softmax(logits[0, asked.ends[0]].float(), -1)
    return -said[torch.tensor(asked.target, device=said.device)].mean()
