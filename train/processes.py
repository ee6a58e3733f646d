"""What several processes of one training share, where `accelerate launch` started them; with one, nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch


def started_by_accelerate() -> Any:
    """An Accelerator, or None where this process is the only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.cuda.is_available())  # it does not see by itself that there is no GPU


def part_of(accelerator: Any) -> slice:
    """This process's rows of a step."""
    return slice(accelerator.process_index, None, accelerator.num_processes) if accelerator else slice(None)


def summed_gradients(parameters: Iterable[torch.nn.Parameter], accelerator: Any) -> None:
    """Every gradient becomes the sum of all processes': each has its share of the whole step's loss."""
    if accelerator:
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = accelerator.reduce(own, "sum")


def summed(losses: dict[str, float], accelerator: Any, device: str) -> dict[str, float]:
    """The losses of all processes together, by kind."""
    if not accelerator:
        return losses
    kinds = sorted(losses)
    both = accelerator.reduce(torch.tensor([losses[kind] for kind in kinds], device=device), "sum")
    return dict(zip(kinds, both.tolist(), strict=True))
