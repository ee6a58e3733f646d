"""MEMIT: a fact is written into the MLPs of several layers, each taking its share.

Reference: Meng et al., "Mass-Editing Memory in a Transformer", arXiv 2210.07229, section 4.

z = h + delta is what block L should give (d,) at the subject's last token; delta is found as ROME finds its own, with |h|
as the measure of decay and clamp. For layers l up to L, lowest first, with K (m, n) the keys and R (d, n) the residuals
of n facts (here n = 1: each edit is solved alone):

    R_l = (z - h) / (L - l + 1)                          h with the layers below l changed (the paper's equation 20)
    W_l' = W_l + R_l K_l^T (lambda C_l + K_l K_l^T)^-1   (its equation 14; C_l = E[k k^T], (m, m))

which solves the normal equations (W' - W)(lambda C + K K^T) = R K^T of: R at the new keys, nothing at the others.

Patch: for each layer up = R_l (d, 1), down = K_l^T (lambda C_l + K_l K_l^T)^-1 (1, m) on its `mlp_out`.
Needs: prompt, target, and a subject that the prompt names. Reads weights' shapes and activations; quantised layers are refused.
Relations: `rome` is one layer with lambda -> 0; `pmet` reads z at the MLP; `alphaedit` puts a projection in C's place. The
way over the layers is in _layers.py.

Example:
    >>> memit = load_method("memit", layer=2, span=3)                               # doctest: +SKIP
    >>> with memit.applied(base, [[edit]]) as model:                                # doctest: +SKIP
    ...     model.generate(["The capital of France is"])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.layout import Block
from memedit.methods._layers import Goal, SpreadMethod, SpreadSettings
from memedit.methods._locate import Asked, Optimiser, optimise
from memedit.methods._moments import second_moment
from memedit.methods._settings import solvable

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class MEMITSettings(SpreadSettings):
    """GPT-2 XL's in the authors' repository; the paper's own appendix gives those of GPT-J and GPT-NeoX.

    Attributes:
        weight: lambda, how much the old keys count beside the new one. ridge: added to C's diagonal, as a share of its
            mean, since a short text leaves directions without a key.
    """

    weight: float = 20_000.0
    ridge: float = 1e-4


class MEMIT(SpreadMethod):
    """Mass-editing memory: the residual of one fact, spread over the MLPs of several layers."""

    name = "memit"
    Settings = MEMITSettings
    version = 2  # KL and decay as in the authors' code
    # One fact alone has a k^T C^-1 k of about m, which lambda must not dwarf. Small models recall early: layers 0 to 2 of the
    # shipped base's 8, where a higher rate and a wider clamp get there in 20 steps.
    small: ClassVar[dict[str, Any]] = {
        "span": 3,
        "lr": 1.0,
        "clamp": 2.0,
        "prefixes": ((5, 5),),
        "weight": 10.0,
    }

    def goal(
        self, base: HFModel, asked: Asked, last: Block, how: Optimiser, edit: Edit, settings: Any
    ) -> Goal:
        """z at the output of the last block."""
        return block_goal(base, asked, last, how, edit)

    def down(self, base: HFModel, module: str, key: Tensor, settings: Any) -> Tensor:
        """K^T (lambda C + K K^T)^-1."""
        moment = second_moment(base, module, settings.text, self.progress)
        return normal(key[:, None], moment.matrix, settings.weight, settings.ridge)


def block_goal(base: HFModel, asked: Asked, last: Block, how: Optimiser, edit: Edit) -> Goal:
    """z = h + delta at the output of a block."""
    value = optimise(base, asked, [last.name], how, edit)[last.name]
    return Goal(last.name, value.output + value.delta, value)


def normal(keys: Tensor, moment: Tensor, weight: float, ridge: float) -> Tensor:
    """K^T (lambda C + K K^T)^-1 (n, m) of keys (m, n) and C (m, m), in float64 on the CPU.

    Raises:
        MethodError: the matrix is singular.
    """
    c, k = moment.double().cpu(), keys.double().cpu()
    c = weight * (c + ridge * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype)) + k @ k.T
    with solvable("ridge"):
        return torch.cholesky_solve(k, torch.linalg.cholesky(c)).T
