"""What `memit`, `pmet` and `alphaedit` share: one residual, spread over the MLPs of several layers.

With L the last of n layers and z what the model should hold there at the subject's last token (d,), each layer l from
the lowest to L is changed in turn, with the layers below it changed already:

    k_l = mean over prefixes of the key (m,) at layer l
    r_l = (z - h) / share(L - l + 1),      h what the model holds at L now
    W_l' = W_l + r_l D_l,                  D_l (1, m) is the method's own

`memit` and `alphaedit` read z and h at the output of block L and share by the number of layers left; `pmet` reads them
at the output of L's MLP and shares by its square root.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memedit import layout
from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Block, Layout
from memedit.methods._effects import LowRank
from memedit.methods._locate import Asked, Optimiser, Value, ask, random_prefixes
from memedit.methods._moments import source
from memedit.methods._watch import Hook, watched
from memedit.methods.patched import PatchMethod, Solved
from memedit.texts import shortened

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class SpreadSettings:
    """What the three methods have in common; MEMIT's for GPT-2 XL (its repository's), where their own classes say nothing else.

    Attributes:
        layer: the last one to change, from 0; None takes the paper's where it names the model (17 of 48 in GPT-2 XL;
            see _papers.py), else the one at `depth`. span: how many are changed, that one included; fewer where there
            are not so many below it.
        steps, lr, decay, kl, clamp: see `Optimiser`. prefixes: pairs (how many, tokens each). seed: of the prefixes.
        text: a file from which C is estimated; None takes the one that ships.
    """

    layer: int | None = None
    depth: float = 0.36
    span: int = 5
    steps: int = 20
    lr: float = 0.5
    decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 0.75
    prefixes: tuple[tuple[int, int], ...] = ((5, 10),)
    seed: int = 0
    text: str | None = None


@dataclass(frozen=True)
class Goal:
    """What the last layer should hold.

    Attributes:
        module: whose output z is. z: (d,). value: how the optimisation ended.
    """

    module: str
    z: Tensor
    value: Value


class SpreadMethod(PatchMethod):
    """A method that spreads a residual over layers. Subclasses say what z is, how it is shared, and what D is."""

    @abstractmethod
    def goal(
        self, base: HFModel, asked: Asked, last: Block, how: Optimiser, edit: Edit, settings: Any
    ) -> Goal:
        """z, and where it is read."""

    @abstractmethod
    def down(self, base: HFModel, module: str, key: Tensor, settings: Any) -> Tensor:
        """D_l (1, m) for a key (m,) of a module."""

    def share(self, left: int) -> float:
        """What the residual is divided by where `left` layers are yet to be changed: so many."""
        return float(left)

    def solve(self, base: HFModel, edit: Edit, settings: Any) -> Solved:
        """r_l and D_l of every layer; see the module's equations.

        Raises:
            MethodError: what a layer holds is no number.
        """
        blocks = self.blocks(base, settings)
        for block in blocks:
            layout.check_readable(base.model.get_submodule(block.mlp_out), block.mlp_out)
        asked = ask(base, edit, random_prefixes(base, settings.prefixes, settings.seed))
        how = Optimiser(settings.steps, settings.lr, settings.decay, settings.kl, settings.clamp)
        goal = self.goal(base, asked, blocks[-1], how, edit, settings)
        terms: dict[str, LowRank] = {}
        for i, block in enumerate(blocks):
            key, held = held_now(base, asked, block.mlp_out, goal.module, terms)
            if not bool(key.isfinite().all() and held.isfinite().all()):
                raise MethodError(
                    f"{self.name} meets no finite numbers at {block.mlp_out} for {shortened(edit.prompt or '', 60)!r}: "
                    "load the model in float32, or take fewer merged edits"
                )
            residual = (goal.z - held) / self.share(len(blocks) - i)
            down = self.down(base, block.mlp_out, key, settings)
            terms[block.mlp_out] = LowRank(residual[:, None].float().cpu(), down.float().cpu())
        _, held = held_now(base, asked, blocks[-1].mlp_out, goal.module, terms)
        notes: dict[str, float | str] = {
            "modules": " ".join(terms),
            "loss": goal.value.loss,
            "probability": goal.value.probability,
            "steps": goal.value.steps,
            "left": float((goal.z - held).norm() / goal.value.delta.norm().clamp(min=1e-12)),
        }
        return Solved(terms, notes)

    def files(self, settings: Any) -> Mapping[str, Path]:
        """The text for C."""
        return {"text": source(settings.text)}

    def blocks(self, base: HFModel, settings: Any) -> Sequence[Block]:
        """The layers to change, lowest first.

        Raises:
            MethodError: the model has no such layer.
        """
        last = self.layer(base, settings.layer, settings.depth)
        return Layout.of(base.model).blocks[max(0, last + 1 - max(1, settings.span)) : last + 1]


def held_now(
    base: HFModel, asked: Asked, module: str, read: str, terms: Mapping[str, LowRank]
) -> tuple[Tensor, Tensor]:
    """A module's key (m,), a mean over the rows that ask, and what `read` gives (d,) for the prompt without a prefix,
    both at the subject's last token and with terms added to the modules that they name.
    """
    found: dict[str, Tensor] = {}

    def hook_of(name: str) -> Hook:
        term = terms.get(name)

        def hook(args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            changed = None
            if term is not None:
                x = args[0]
                changed = output + (x @ term.down.T.to(x)) @ term.up.T.to(x)
            if name == module:
                found["key"] = asked.at_subject(args[0]).float().mean(0)
            if name == read:
                found["held"] = asked.at_subject(output if changed is None else changed)[0].float()
            return changed

        return hook

    # Heads are read anew: what stands before the subject's last token meets the terms as well.
    fresh = dataclasses.replace(asked, _cache=None)
    with torch.no_grad(), watched(base, {name: hook_of(name) for name in {*terms, module, read}}):
        fresh.forward(base)
    return found["key"], found["held"]
