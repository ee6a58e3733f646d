"""PMET: as MEMIT, with the MLP's own output as the goal, found beside attention's, and a larger share for low layers.

Reference: Li et al., "PMET: Precise Model Editing in a Transformer", arXiv 2308.08742.

What a block adds to the stream comes from attention (a) and MLP (m). Both are moved at the subject's last token of layer L
to make the model say the target, so that delta_m need not carry what attention can; only delta_m is written:

    delta_a, delta_m = argmin  -log P(target | x + prompt) + kl KL(P(. | "{subject} is a")) + decay (|delta| / |v|^2 of both)
    z = m + delta_m                                          (d,), at the output of L's MLP
    R_l = (z - m) / sqrt(L - l + 1)                          m with the layers below l changed
    W_l' = W_l + R_l K_l^T (lambda C_l + K_l K_l^T)^-1       as MEMIT

Patch: for each layer up = R_l (d, 1), down = K_l^T (lambda C_l + K_l K_l^T)^-1 (1, m) on its `mlp_out`.
Needs: prompt, target, and a subject that the prompt names. Reads activations; quantised layers are refused.
Relations: `memit`, from which it differs in z and in the square root.

Example:
    >>> load_method("pmet", layer=2, span=3)                                        # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from memedit.edit import Edit
from memedit.layout import Block
from memedit.methods._layers import Goal
from memedit.methods._locate import Asked, Optimiser, optimise
from memedit.methods.memit import MEMIT, MEMITSettings

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class PMETSettings(MEMITSettings):
    """The authors', for GPT-J (layers 3 to 8 of 28).

    Attributes:
        by_block: whether |v|, the measure of decay and clamp, is that of the block's output; else each component's own.
    """

    depth: float = 0.3
    span: int = 6
    steps: int = 30
    lr: float = 0.2
    kl: float = 1.0
    weight: float = 6_000.0
    by_block: bool = False


class PMET(MEMIT):
    """Precise model editing: attention and MLP are moved, the MLP's part is written, spread by the square root."""

    name = "pmet"
    Settings = PMETSettings
    # As MEMIT's. The shipped base's MLPs above the first add a tenth of what they add to: relative to their own outputs
    # clamp and decay would leave nothing to write.
    small: ClassVar[dict[str, Any]] = {
        "span": 3, "lr": 1.0, "clamp": 2.0, "kl": 0.0625, "prefixes": ((5, 5),), "weight": 10.0, "by_block": True,
    }  # fmt: skip

    def goal(
        self, base: HFModel, asked: Asked, last: Block, how: Optimiser, edit: Edit, settings: Any
    ) -> Goal:
        """z at the output of the last layer's MLP."""
        both = [last.attention_out, last.mlp_out]
        value = optimise(base, asked, both, how, edit, last.name if settings.by_block else None)[last.mlp_out]
        return Goal(last.mlp_out, value.output + value.delta, value)

    def share(self, left: int) -> float:
        """The square root of how many layers are left."""
        return float(left**0.5)
