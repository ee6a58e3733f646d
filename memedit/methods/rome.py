"""ROME: one fact is written into one MLP by a rank-one change.

Reference: Meng et al., "Locating and Editing Factual Associations in GPT", arXiv 2202.05262, section 3.1.

An MLP's output projection W (d, m) maps the key k (m,) of the subject's last token to a value v (d,). A new pair
(k*, v*) is put in with least change for other keys, whose second moment is C = E[k k^T] (m, m):

    k* = mean over prefixes x of k(x + prompt)
    v* = W k* + delta,   delta = argmin  -log P(target | x + prompt) + kl KL(P(. | "{subject} is a")) + decay |delta|^2/|v|^2
    W' = W + delta u^T / (u^T k*),   u = C^-1 k*         (the paper's equation 2; W' k* = v*)

Patch: up = delta (d, 1), down = u^T / (u^T k*) (1, m) on one `mlp_out`.
Needs: prompt, target, and a subject that the prompt names. Reads weights and activations; quantised layers are refused.
Relations: `memit`, `pmet` and `alphaedit` spread the same delta over several layers; what they share is in _locate.py.

Example:
    >>> rome = load_method("rome", layer=5)                                         # doctest: +SKIP
    >>> with rome.applied(base, [[edit]]) as model:                                 # doctest: +SKIP
    ...     model.generate(["The capital of France is"])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.layout import Layout
from memedit.methods._effects import LowRank
from memedit.methods._locate import Optimiser, ask, keys, optimise, random_prefixes
from memedit.methods._moments import second_moment, source
from memedit.methods._settings import solvable
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class ROMESettings:
    """The paper's, for GPT-2 XL (its appendix E.5).

    Attributes:
        layer: from 0; None takes the paper's where it names the model (17 of 48 in GPT-2 XL, 5 of 28 in GPT-J; see
            _papers.py), else the one at `depth`.
        steps, lr, decay, kl, clamp: see `Optimiser`. prefixes: pairs (how many, tokens each). seed: of the prefixes.
        text: a file from which C is estimated; None takes the one that ships. ridge: added to C's diagonal, as a share of
            its mean, since a short text leaves directions without a key.
    """

    layer: int | None = None
    depth: float = 0.3
    steps: int = 20
    lr: float = 0.5
    decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 4.0
    prefixes: tuple[tuple[int, int], ...] = ((10, 5), (10, 10))
    seed: int = 0
    text: str | None = None
    ridge: float = 1e-4


class ROME(PatchMethod):
    """Rank-one model editing: W' k* = v* in the MLP of one layer."""

    name = "rome"
    Settings = ROMESettings
    version = 2  # KL(now || before)
    # The shipped base recalls a subject in its first MLP, whose output outweighs all later ones: at layer 0 a higher rate
    # gets there in 20 steps (es 100 of 30 facts; 93 at the paper's 0.5, 0 at layers 1 to 4 within the clamp), and five
    # prefixes do as well as twenty in a quarter of the time.
    small: ClassVar[dict[str, Any]] = {"depth": 0.0, "lr": 1.0, "prefixes": ((5, 5),)}

    def files(self, settings: Any) -> Mapping[str, Path]:
        """The text for C."""
        return {"text": source(settings.text)}

    def solve(self, base: HFModel, edit: Edit, settings: ROMESettings) -> Solved:
        """delta and the direction u; see the module's equations."""
        module = Layout.of(base.model).blocks[self.layer(base, settings.layer, settings.depth)].mlp_out
        moment = second_moment(base, module, settings.text, self.progress)
        asked = ask(base, edit, random_prefixes(base, settings.prefixes, settings.seed))
        how = Optimiser(settings.steps, settings.lr, settings.decay, settings.kl, settings.clamp)
        key = keys(base, asked, [module])[module].mean(0)
        value = optimise(base, asked, [module], how, edit)[module]
        up, down = rank_one(value.delta, key, moment.matrix, settings.ridge)
        notes: dict[str, float | str] = {"module": module, "loss": value.loss}
        notes |= {"probability": value.probability, "steps": value.steps}
        return Solved({module: LowRank(up, down)}, notes)


def rank_one(delta: Tensor, key: Tensor, moment: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """up (d, 1) and down (1, m) with (up @ down) key = delta, of least change for keys of second moment (m, m)."""
    inverse = solved(moment, key, ridge)
    down = inverse / (inverse @ key.double().cpu())
    return delta[:, None].float().cpu(), down[None].float()


def solved(moment: Tensor, key: Tensor, ridge: float) -> Tensor:
    """(C + ridge * mean(diag C) I)^-1 key, in float64 on the CPU; key (m,) or (m, n).

    Raises:
        MethodError: the matrix is singular.
    """
    c = moment.double()
    c = c + ridge * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype)
    columns = key.double().cpu()
    with solvable("ridge"):
        out = torch.cholesky_solve(columns.reshape(len(c), -1), torch.linalg.cholesky(c))
    return out.reshape(columns.shape)
