"""AlphaEdit: as MEMIT, with the change projected on the null space of the keys that are to be preserved.

Reference: Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", arXiv 2410.02355, section 3.

C = E[k k^T] (m, m) = U diag(s) U^T; with B (m, p) the directions of U that running text hardly uses, P = B B^T (m, m):

    W_l' = W_l + R_l K_l^T P (Kp Kp^T P + K_l K_l^T P + l2 I)^-1         (the paper's equation 11)

so that the change is nothing at every key in the span of the other directions. Kp, the keys of edits made before, is
empty behind the router: each edit is solved alone, on the base as it is. With the projected keys Q = P K this is
R Q^T (Q Q^T + l2 I)^-1; where edits are merged one after another, Qp = P Kp grows, and it is
R Q^T (Qp Qp^T + Q Q^T + l2 I)^-1.

The paper cuts U where s < 0.01, a number in its models' units. Here the smallest s are taken as long as they make up at
most a `share` of the sum of all, which does not depend on units; at least one direction, never all.

Patch: for each layer up = R_l (d, 1), down = Q_l^T (Q_l Q_l^T + l2 I)^-1 (1, m) on its `mlp_out`.
Needs: prompt, target, and a subject that the prompt names. Reads activations; quantised layers are refused.
Relations: `memit`, whose z and way over the layers it takes; there old keys have a weight, here they are out of reach.

Example:
    >>> load_method("alphaedit", share=0.05)                                        # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.layout import Block
from memedit.methods._layers import Goal, SpreadMethod, SpreadSettings
from memedit.methods._locate import Asked, Optimiser
from memedit.methods._moments import Moment, second_moment, source
from memedit.methods._settings import solvable
from memedit.methods._watch import file_digest, kept_beside
from memedit.methods.memit import block_goal

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class AlphaEditSettings(SpreadSettings):
    """The paper's, for GPT-2 XL, but for `share`.

    Attributes:
        share: how much of the sum of C's eigenvalues the null space may hold. l2: of the change.
    """

    share: float = 0.02
    l2: float = 1.0


class AlphaEdit(SpreadMethod):
    """MEMIT within the null space of what is to be preserved."""

    name = "alphaedit"
    Settings = AlphaEditSettings
    version = 2  # KL and decay as in the authors' code
    # As MEMIT's; what a small model's keys have in the null space is short, and l2 must not dwarf its square.
    small: ClassVar[dict[str, Any]] = {"span": 3, "lr": 1.0, "clamp": 2.0, "prefixes": ((5, 5),), "l2": 0.01}

    def goal(
        self, base: HFModel, asked: Asked, last: Block, how: Optimiser, edit: Edit, settings: Any
    ) -> Goal:
        """z at the output of the last block."""
        return block_goal(base, asked, last, how, edit)

    def down(self, base: HFModel, module: str, key: Tensor, settings: Any) -> Tensor:
        """Q^T (Q Q^T + l2 I)^-1."""
        moment = second_moment(base, module, settings.text, self.progress)
        free = self._free(base, module, moment, settings)
        if self.sequel is None:
            return projected(key[:, None], free, settings.l2)
        inside = free.double().T @ key[:, None].double().cpu()
        earlier = self.sequel.get(module, inside[:, :0])
        self.sequel[module] = torch.cat([earlier, inside], 1)
        return projected(key[:, None], free, settings.l2, earlier)

    def _free(self, base: HFModel, module: str, moment: Moment, settings: Any) -> Tensor:
        """B of a module, found once for these weights."""
        kept: dict[Any, Tensor] = kept_beside(base).setdefault("free", {})
        place = (module, file_digest(source(settings.text)), settings.share)
        if place not in kept:
            kept[place] = null_space(moment.matrix, settings.share).float()
        return kept[place]


def null_space(moment: Tensor, share: float) -> Tensor:
    """B (m, p), orthonormal: the eigenvectors of C (m, m) with the smallest eigenvalues, of at most a share of their sum."""
    values, vectors = torch.linalg.eigh(moment.double().cpu())
    held = values.clamp(min=0).cumsum(0)
    count = int((held <= share * held[-1]).sum())
    return vectors[:, : min(max(1, count), len(values) - 1)]


def projected(keys: Tensor, free: Tensor, l2: float, earlier: Tensor | None = None) -> Tensor:
    """Q^T (Qp Qp^T + Q Q^T + l2 I)^-1 (n, m), Q = B B^T K, of keys (m, n) and B (m, p), in float64 on the CPU.

    Args:
        earlier: (p, before): B^T Kp, the keys of edits that were merged before.
    """
    inside = free.double().cpu().T @ keys.double().cpu()  # (p, n): Q in B's own coordinates
    if earlier is None:
        small = inside.T @ inside + l2 * torch.eye(inside.shape[1], dtype=torch.float64)
        with solvable("l2"):
            return torch.linalg.solve(small, inside.T) @ free.double().cpu().T
    whole = earlier @ earlier.T + inside @ inside.T + l2 * torch.eye(len(inside), dtype=torch.float64)
    with solvable("l2"):
        return torch.linalg.solve(whole, inside).T @ free.double().cpu().T
