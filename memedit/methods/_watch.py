"""Looking into forward passes while a patch is prepared, and what is worked out about a base, or a file, once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from memedit.errors import MethodError
from memedit.lm import HFModel

Hook = Callable[
    [tuple[Any, ...], Tensor], "Tensor | None"
]  # (the module's arguments, its output) -> another output


def gradients(loss: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The slope of a loss by each part.

    Raises:
        MethodError: no gradient comes through the base's layers.
    """
    try:
        return torch.autograd.grad(loss, list(parts))
    except RuntimeError as error:
        if "not have been used in the graph" not in str(error) and "does not require grad" not in str(error):
            raise
        raise MethodError(
            "no gradient comes through the base's layers (bitsandbytes may pack 4-bit ones for inference): load the "
            "model by --dtype 4bit or as it is, or take --method ice"
        ) from error


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


PROBE = "The 3 naïve cats' 1,250 km,\n  Zürich 東京 -- isn't it?"


def tokenizer_digest(base: HFModel) -> str:
    """Hex digest of how a base's tokenizer cuts texts."""
    kept, own = kept_beside(base), base.tokenizer
    state = (id(own), len(own))  # tokens may be added to it
    if kept.get("tokenizer", (None,))[0] != state:
        with base.tokenizing:
            said: Any = {"vocabulary": sorted(own.get_vocab().items()), "probe": own(PROBE)["input_ids"]}
            if own.is_fast:
                said = json.loads(own.backend_tokenizer.to_str())
                for name in ("padding", "truncation"):  # the state of its last call
                    said.pop(name, None)
        text = json.dumps(said, sort_keys=True)
        kept["tokenizer"] = (state, hashlib.sha256(text.encode()).hexdigest())
    digest: str = kept["tokenizer"][1]
    return digest


def file_digest(path: Path) -> str:
    """Hex digest of what a file holds; "none" where it can't be read, which whoever needs it will say."""
    try:
        found = path.stat()
        return _digest(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return "none"


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
