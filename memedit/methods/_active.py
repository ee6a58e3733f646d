"""Whose rows the forward passes of this thread belong to, and what is kept apart from them.

A caller's own processors and criteria run between the passes. Should one of them ask the model itself, it asks the
base: `apart` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from memedit.methods._rows import _Batch

ACTIVE: ContextVar[_Batch | None] = ContextVar("memedit_rows", default=None)


class _Apart:
    """A custom processor or criterion: should it ask the model itself, it asks the base, not the row with its edits."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        token = ACTIVE.set(None)
        try:
            return self._inner(input_ids, scores)
        finally:
            ACTIVE.reset(token)


def apart(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with what the caller wrote to be asked between the passes set apart.

    Hugging Face's own stay as they are, since `generate` knows by their class what takes the place of an option.
    """
    out = dict(options)
    for name in ("logits_processor", "stopping_criteria"):
        own = out.get(name)
        if own:
            known = [
                type(each).__module__.startswith("transformers.") and not hasattr(each, "model")
                for each in own
            ]
            out[name] = type(own)(each if k else _Apart(each) for each, k in zip(own, known, strict=True))
    return out
