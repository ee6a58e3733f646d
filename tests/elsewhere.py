"""A device that isn't there: torch's arithmetic on the CPU, with the rules of a GPU.

A tensor on it is a `Remote`: it says that its device is `DEVICE`, its numbers can't be read from the host, and it
doesn't mix with the CPU's tensors, as a GPU's don't. What comes back to the host is a copy, and each is counted.
So code that is written for a GPU is run without one, and held to what it says it does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device(
    "meta"
)  # torch knows it everywhere, and keeps no numbers there: these are kept beside it


class Remote(torch.Tensor):
    """A tensor elsewhere; `there` are its numbers."""

    there: torch.Tensor

    @staticmethod
    def __new__(cls, there: torch.Tensor) -> Remote:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            there.size(),
            strides=there.stride(),
            storage_offset=there.storage_offset(),
            dtype=there.dtype,
            device=DEVICE,
        )
        self.there = there
        return self

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Remote({self.there})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor elsewhere, outside of `Elsewhere`")


class Elsewhere(TorchDispatchMode):
    """Within it `DEVICE` works.

    Attributes:
        copies: of what came back to the host, the shapes and dtypes; a number read by itself has shape ().
        waits: what was sent there and waited for, likewise.
        largest: numbers in the largest tensor that was made there, views left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.waits: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.largest = 0

    def __enter__(self) -> Elsewhere:
        # Inference mode would pass whole compound operations here, and knows no views of a wrapped tensor.
        self._own, torch.inference_mode = torch.inference_mode, torch.no_grad  # type: ignore[misc,assignment]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.inference_mode = self._own  # type: ignore[misc]

    def forget(self) -> None:
        """Count from here."""
        self.copies, self.waits, self.largest = [], [], 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = _leaves((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        remote = [t for t in given if isinstance(t, Remote)]
        target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        name = func.overloadpacket.__name__
        if name == "_fused_sdp_choice":
            return 0  # attention by its formula, as on a device without a kernel of its own
        if remote and name not in ("to", "_to_copy", "copy_"):
            local = [t for t in given if not isinstance(t, Remote) and t.dim() > 0]
            assert not local, f"{func}: a tensor of the host among tensors elsewhere"
        to_host = target is not None and target != DEVICE
        if name == "copy_" and not isinstance(args[0], Remote):
            to_host = bool(remote)
        if (
            target == DEVICE and given and not remote and not any(leaf is True for leaf in leaves)
        ):  # non_blocking
            self.waits.append((tuple(given[0].shape), given[0].dtype))
        if remote and (to_host or self._waits(func, name, given)):
            self.copies.append((tuple(remote[0].shape) if to_host else (), remote[0].dtype))
        out = func(*tree_map(_opened, args), **tree_map(_opened, kwargs))
        if to_host or not (remote or target):
            return out
        old = {t.there.untyped_storage().data_ptr() for t in remote}
        return tree_map(lambda value: self._closed(value, old), out)

    @staticmethod
    def _waits(func: Any, name: str, given: list[torch.Tensor]) -> bool:
        """Whether the host has to wait for a number or for the size of a result."""
        if name == "index":
            return any(t.dtype == torch.bool for t in given[1:])
        by_size = torch.Tag.dynamic_output_shape in func.tags and name != "repeat_interleave"
        return by_size or torch.Tag.data_dependent_output in func.tags or name in ("item", "is_nonzero")

    def _closed(self, value: Any, old: set[int]) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Remote):
            return value
        if value.untyped_storage().data_ptr() not in old:  # no view, and not changed in place
            self.largest = max(self.largest, value.numel())
        return Remote(value)


def _opened(value: Any) -> Any:
    if value == DEVICE and isinstance(value, torch.device):
        return torch.device("cpu")
    return value.there if isinstance(value, Remote) else value


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, tree)
    return found
