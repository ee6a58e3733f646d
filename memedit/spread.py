"""Models that accelerate has spread over devices, by `device_map`: where their inputs go, what they weigh.

Of a spread model some weights may lie on another device, in the host's memory or on disk until they are
needed; then they are "meta" tensors here, without numbers. Such a model must never be moved as a whole.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from memedit.errors import ModelError

if TYPE_CHECKING:
    import torch


def is_spread(model: Any) -> bool:
    """Whether accelerate placed this model."""
    return getattr(model, "hf_device_map", None) is not None


def check_accelerate() -> None:
    """See that a `device_map` can be followed.

    Raises:
        ModelError: accelerate is missing.
    """
    if find_spec("accelerate") is None:
        raise ModelError('device_map needs accelerate, which is not installed: pip install "memedit[multi]"')


def input_device(model: Any) -> torch.device:
    """Where a model's inputs go: the device of its input embedding, or where that will be when it runs."""
    import torch

    embedding = model.get_input_embeddings()
    device: torch.device = embedding.weight.device
    if device.type != "meta":
        return device
    runs_on = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    if runs_on is None:
        return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    return torch.device(runs_on)


def weights(model: Any) -> dict[str, torch.Tensor]:
    """All weights by name with their numbers, also those that lie elsewhere until they are needed."""
    state: dict[str, torch.Tensor] = model.state_dict()
    if any(tensor.device.type == "meta" for tensor in state.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(model)
    return state


def digest(model: Any) -> str:
    """Hex digest of all weights and their names."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(weights(model).items()):
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def places(model: Any) -> str:
    """On which devices a model lies, in words: "cuda:0", or "cuda:0, cuda:1, disk"."""
    if is_spread(model):
        named = dict.fromkeys(str(place) for place in model.hf_device_map.values())
        return ", ".join(f"cuda:{place}" if place.isdecimal() else place for place in named)
    return str(input_device(model))
