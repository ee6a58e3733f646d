"""Training a patch on one edit: what `ft-m`, `ft-l`, `lora`, `grace` and `t-patcher` share.

A patch's numbers are parameters beside the frozen model: hooks put them on the outputs of modules, Adam moves them
until the loss is low enough. Nothing of the model is written, and no gradient is left on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from memedit.errors import MethodError
from memedit.methods._locate import Asked
from memedit.methods._watch import Hook, gradients, watched
from memedit.texts import shortened

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.lm import HFModel


class Steps(Protocol):
    """What training reads of a method's settings: at most `steps` of Adam at the rate `lr`, fewer once loss < `enough`."""

    @property
    def steps(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def enough(self) -> float: ...


Loss = Callable[[Asked, Tensor], Tensor]  # (texts, logits) -> a number


def per_token(asked: Asked, logits: Tensor) -> Tensor:
    """- mean over the target's tokens of log P(token | prompt, target so far)."""
    return -asked.said(logits)[0].mean()


def seen(base: HFModel, asked: Asked, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs (texts, longest, in) and outputs (texts, longest, out) of modules: name -> both, as the base has them."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> None:
            # Some models (OPT) run all tokens as one long row.
            found[name] = wide(asked, args[0]), wide(asked, output)

        return hook

    with torch.no_grad(), watched(base, {name: keep(name) for name in names}):
        asked.forward(base)
    return found


def wide(asked: Asked, states: Tensor) -> Tensor:
    """States as (texts, longest, width), also those of models that run all tokens as one long row."""
    return states.view(len(asked.ends), -1, states.shape[-1])


def trained(
    base: HFModel,
    edit: Edit,
    asked: Asked,
    hooks: Mapping[str, Hook],
    parts: Sequence[Tensor],
    how: Steps,
    *,
    name: str,
    loss: Loss = per_token,
    after: Callable[[], None] | None = None,
) -> tuple[float, int]:
    """Move `parts`, which the hooks put to work, until the loss is low; they are changed in place.

    Args:
        name: of the method, for the message. after: called without gradients after each step (a bound).

    Returns:
        The loss that was reached, and how many steps were taken.

    Raises:
        MethodError: the loss is no number.
    """
    optimiser = torch.optim.Adam(list(parts), lr=how.lr)
    now, step = torch.tensor(0.0), 0
    with torch.enable_grad(), watched(base, hooks):
        for step in range(how.steps + 1):
            now = loss(asked, asked.forward(base))
            if not bool(torch.isfinite(now)):
                raise MethodError(
                    f"training on {shortened(edit.prompt or '', 60)!r} gave no number in step {step}: "
                    f"take a lower rate (--set {name}.lr={how.lr / 5:.1g}), or load the model in float32"
                )
            if float(now.detach()) < how.enough or step == how.steps:
                break
            for part, gradient in zip(parts, gradients(now, parts), strict=True):
                part.grad = gradient
            optimiser.step()
            if after is not None:
                with torch.no_grad():
                    after()
    return float(now.detach()), step
