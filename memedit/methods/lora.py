"""LoRA: two low-rank factors beside frozen projections, trained on the edit.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.

With W (out, in) a projection, A (r, in) drawn from a Gaussian and B (out, r) zero at the start:

    h = W x + (alpha / r) B A x,   A, B = argmin  - mean over the target's tokens of log P(token | prompt, target so far)

by Adam, of all chosen projections at once: the query's and the value's in every layer in the paper, or the fused one where
a model has no others.

Patch: up = (alpha / r) B (out, r), down = A (r, in) on each of them: exactly what an adapter file holds.
Needs: prompt and target. Reads activations and gradients, no weights: quantised layers will do.
Relations: `ft-m` trains a whole matrix of one MLP with the same loss; `rome` finds rank one in closed form.

Example:
    >>> load_method("lora", rank=8, where="mlp")                                    # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Block, Layout
from memedit.methods._effects import LowRank
from memedit.methods._locate import ask
from memedit.methods._train import seen, trained
from memedit.methods._watch import Hook
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel

WHERE = ("attention", "mlp")


@dataclass(frozen=True)
class LoRASettings:
    """The paper's, for GPT-2 (its appendix D); it trains for epochs of a data set, so `steps` for one edit is ours.

    Attributes:
        layer: from 0, this one alone; None takes all. where: "attention" (the query's and value's projections) or "mlp"
            (its output's). rank, alpha: r and alpha. steps, lr: of Adam. enough: a loss at which training ends.
        seed: of A.
    """

    layer: int | None = None
    where: str = "attention"
    rank: int = 4
    alpha: float = 32.0
    steps: int = 50
    lr: float = 2e-4
    enough: float = 0.01
    seed: int = 0


class LoRA(PatchMethod):
    """Low-rank factors, trained on the edit."""

    name = "lora"
    Settings = LoRASettings

    def solve(self, base: HFModel, edit: Edit, settings: LoRASettings) -> Solved:
        """A and B of the module's equation."""
        if settings.where not in WHERE:
            raise MethodError(f"lora.where is {settings.where!r}; it must be one of {', '.join(WHERE)}")
        if settings.rank < 1:
            raise MethodError(f"lora.rank is {settings.rank}; it must be at least 1")
        blocks = Layout.of(base.model).blocks
        if settings.layer is not None:
            blocks = (blocks[self.layer(base, settings.layer, 0.0)],)
        names = [name for block in blocks for name in projections(block, settings.where)]
        asked, generator = ask(base, edit, essence=False), torch.Generator().manual_seed(settings.seed)
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (x, y) in seen(base, asked, names).items():
            a = torch.randn(settings.rank, x.shape[-1], generator=generator) * x.shape[-1] ** -0.5
            b = torch.zeros(y.shape[-1], settings.rank)
            factors[name] = (a.to(x.device).requires_grad_(), b.to(y.device).requires_grad_())
        scale = settings.alpha / settings.rank

        def beside(name: str) -> Hook:
            a, b = factors[name]

            def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
                return output + scale * (args[0] @ a.T.to(args[0])) @ b.T.to(args[0])

            return hook

        hooks = {name: beside(name) for name in names}
        parts = [part for name in names for part in factors[name]]
        loss, steps = trained(base, edit, asked, hooks, parts, settings, name=self.name)
        modules = {
            n: LowRank(scale * b.detach().float().cpu(), a.detach().float().cpu())
            for n, (a, b) in factors.items()
        }
        return Solved(modules, {"modules": len(names), "loss": loss, "steps": steps})


def projections(block: Block, where: str) -> tuple[str, ...]:
    """The modules of a layer that get factors: query and value, known by their first letter, else attention's input."""
    if where == "mlp":
        return (block.mlp_out,)
    named = tuple(n for n in block.attention_in if n.rpartition(".")[2].lower()[:1] in ("q", "v"))
    return named if len(named) == 2 else block.attention_in
