"""FT-M: fine-tuning of one MLP projection on the target's tokens.

Reference: Zhang et al., "A Comprehensive Study of Knowledge Editing for Large Language Models", arXiv 2401.01286, section
4.1 (FT-M: the one way of fine-tuning that competes; cross-entropy on the target answer while masking the original text).

With W (out, in) an `mlp_out` and D its change, which starts at zero:

    D* = argmin  - mean over the target's tokens of log P(token | prompt, target so far; W + D),   by Adam

Patch: the dense D (out, in) on one `mlp_out`; Adam's steps make it of full rank.
Needs: prompt and target. Reads activations and gradients; weights are never written, but a quantised layer is refused,
since its output is no plain product.
Relations: `ft-l` bounds D's entries, and asks all of the target of the prompt's last position, as ROME's baseline does.

Example:
    >>> load_method("ft-m", steps=40)                                               # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit import layout
from memedit.edit import Edit
from memedit.layout import Layout
from memedit.methods._effects import Dense
from memedit.methods._locate import ask
from memedit.methods._train import Loss, Steps, per_token, trained
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class FTMSettings:
    """The survey's (its appendix; layer 21 of 32 in Llama 2 7B).

    Attributes:
        layer: from 0; None takes the one at `depth`. steps, lr: of Adam. enough: a loss at which training ends.
    """

    layer: int | None = None
    depth: float = 0.66
    steps: int = 25
    lr: float = 5e-4
    enough: float = 0.01


class FTM(PatchMethod):
    """Fine-tuning one projection, the prompt masked."""

    name = "ft-m"
    Settings = FTMSettings
    low_rank = False
    # The survey's rate, made for billions of parameters, moves a model of 13 million too little in 25 steps.
    small: ClassVar[dict[str, Any]] = {"lr": 2e-3}

    def solve(self, base: HFModel, edit: Edit, settings: FTMSettings) -> Solved:
        """D of the module's equation."""
        module = Layout.of(base.model).blocks[self.layer(base, settings.layer, settings.depth)].mlp_out
        delta, loss, step = tuned(base, edit, module, settings)
        return Solved({module: Dense(delta)}, {"module": module, "loss": loss, "steps": step})


def tuned(
    base: HFModel,
    edit: Edit,
    module: str,
    how: Steps,
    *,
    name: str = FTM.name,
    loss: Loss = per_token,
    bound: float | None = None,
) -> tuple[Tensor, float, int]:
    """D (out, in) in float32, the loss that it reached, and the steps that it took.

    Args:
        bound: no entry of D is larger than this.

    Raises:
        MethodError: the loss is no number, or the target no token.
    """
    weight = layout.weight(base.model, module)
    delta = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device, requires_grad=True)

    def shift(args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + args[0] @ delta.T.to(args[0].dtype)

    def within() -> None:
        if bound is not None:
            delta.clamp_(-bound, bound)

    asked, hooks = ask(base, edit, essence=False), {module: shift}
    reached, step = trained(base, edit, asked, hooks, [delta], how, name=name, loss=loss, after=within)
    return delta.detach().cpu(), reached, step
