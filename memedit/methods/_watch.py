"""Looking into forward passes while a patch is prepared, and what is worked out about a base once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from memedit.lm import HFModel

Hook = Callable[
    [tuple[Any, ...], Tensor], "Tensor | None"
]  # (the module's arguments, its output) -> another output


@contextmanager
def watched(base: HFModel, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Hooks on named modules, for this thread's forward passes alone; of a tuple the first entry is the output.

    Raises:
        ModelError: the model is in training mode, in which dropout would be learned from.
    """
    base.check_mode()
    me = threading.get_ident()

    def put(hook: Hook) -> Callable[..., Any]:
        def forward_hook(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            if threading.get_ident() != me:
                return None
            changed = hook(args, output[0] if isinstance(output, tuple) else output)
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return forward_hook

    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(base.model.get_submodule(name).register_forward_hook(put(hook)))
        yield
    finally:
        for handle in handles:
            handle.remove()


_BESIDE: WeakKeyDictionary[HFModel, dict[str, Any]] = WeakKeyDictionary()


_ORIGINS: WeakKeyDictionary[HFModel, HFModel] = WeakKeyDictionary()


def stems_from(copy: HFModel, base: HFModel) -> None:
    """Edits are written into a copy of a base, one after another: what is worked out once is worked out of the base."""
    _ORIGINS[copy] = origin(base)


def origin(base: HFModel) -> HFModel:
    """The base that a copy stems from; itself, where it is none."""
    return _ORIGINS.get(base, base)


def kept_beside(base: HFModel) -> dict[str, Any]:
    """What was worked out about a base's weights as they are now; it goes with the base. A copy has its origin's."""
    base = origin(base)
    beside = _BESIDE.setdefault(base, {})
    if beside.get("fingerprint") != base.fingerprint:
        beside.clear()
        beside["fingerprint"] = base.fingerprint
    return beside
