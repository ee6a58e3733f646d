"""UltraEdit: one step in closed form, from an edit's keys and gradients, measured by statistics of all edits so far.

Reference: Gu et al., "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models", arXiv
2505.14679, section 3.

At every position that predicts a token of the target, a linear module W (out, in) has a key h (in,) and a gradient g (out,)
of the target's loss at its output. Both are normalised by the running mean and spread of the edits seen so far, the edit
itself included (lifelong normalisation):

    h', g' = (h - mean) / spread, (g - mean) / spread
    v = - eta |h'|^2 g'                                          what the module should give in addition, (out,)
    D = argmin |H D - V|^2 + lambda |D|^2 = (H^T H + lambda I)^-1 H^T V,     W' = W + D^T

with H (n, in) the keys as they are, which the changed module will meet, and V (n, out). For n positions this is
H^T (H H^T + lambda I)^-1 V, of rank n at most.

Behind the router each edit is solved alone, and the statistics of one edit say nothing; they are warmed on unrelated edits
(_features.py). Where edits are merged one after another, they go on from edit to edit.

Patch: up = V^T (H H^T + lambda I)^-1 (out, n), down = H (n, in) on the `mlp_out` of several layers; n tokens in the target.
Needs: prompt and target, no subject. Reads activations and gradients, no weights: quantised layers will do.
Relations: `mend` learns what is made of h and g; `memit` asks for v by optimisation and at the subject.

Example:
    >>> load_method("ultraedit", lr=3e-4)                                           # doctest: +SKIP
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
from memedit.methods._features import Running, features, unrelated, warmed
from memedit.methods._locate import ask
from memedit.methods._settings import solvable
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class UltraEditSettings:
    """For models of seven billion parameters, where the authors take eta = 1e-6 and lambda = 1.

    They name modules for each model (in Llama 3 8B gates of layers 11 to 15 and up projections of 18 to 24). Here it is
    output projections, whose outputs a gradient reaches with no gate between, in the layers that end where theirs do.

    Attributes:
        layer: the last one to change, from 0; None takes the one at `depth`. span: how many are changed, that one
            included. lr: eta. l2: lambda.
        warm: on how many unrelated edits the statistics are warmed at most; 208 ship, so that more than those need
            `facts`. facts: a file of them, JSON lines with prompt and target; None takes the one that ships.
    """

    layer: int | None = None
    depth: float = 0.75
    span: int = 7
    lr: float = 1e-6
    l2: float = 1.0
    warm: int = 256
    facts: str | None = None


class UltraEdit(PatchMethod):
    """A closed-form step at the target's positions, by lifelong normalisation."""

    name = "ultraedit"
    Settings = UltraEditSettings
    once = "statistics of unrelated edits"
    # A small model's keys are narrow, so that |h'|^2 is small. At one edit success (80 % of ten facts) its last four layers
    # left 77 % of neighbouring answers alone, layers 0 to 6 27 %; at a rate of 2e-3 es is 95 and gen 100 of twenty others.
    small: ClassVar[dict[str, Any]] = {"depth": 0.99, "span": 4, "lr": 2e-3}

    def files(self, settings: Any) -> Mapping[str, Path]:
        """The facts that statistics are warmed on."""
        return {"facts": unrelated(settings.facts)}

    def solve(self, base: HFModel, edit: Edit, settings: UltraEditSettings) -> Solved:
        """D of the module's equation, in every module."""
        ask(base, edit, essence=False)  # refuses what can't be asked
        last = self.layer(base, settings.layer, settings.depth)
        blocks = Layout.of(base.model).blocks[max(0, last + 1 - max(1, settings.span)) : last + 1]
        names = [block.mlp_out for block in blocks]
        # Before anything is warmed: a base that gives no number should say so at once.
        found = features(base, [edit], names)
        before = warmed(base, names, settings.facts, settings.warm, self.progress)
        modules: dict[str, LowRank] = {}
        now: dict[str, Running] = {}
        for name, (h, g) in found.items():
            known = before[name] if self.sequel is None else self.sequel.get(name, before[name])
            now[name] = known.with_more(torch.cat([h, g], 1))
            up = step(h, *now[name].normalised(h, g), settings.lr, settings.l2)
            modules[name] = LowRank(up.float(), h.float())
        if self.sequel is not None:
            self.sequel.update(now)
        notes: dict[str, float | str] = {"modules": " ".join(names), "seen": now[names[-1]].count}
        return Solved(modules, notes)


def step(h: Tensor, key: Tensor, slope: Tensor, eta: float, l2: float) -> Tensor:
    """V^T (H H^T + lambda I)^-1 (out, n) of keys (n, in), and of both normalised: (n, in) and (n, out)."""
    v = -eta * key.square().sum(1, keepdim=True) * slope
    with solvable("l2"):
        return torch.linalg.solve(h @ h.T + l2 * torch.eye(len(h), dtype=h.dtype), v).T
