"""memedit: change what a language model says, without changing its weights.

Edits live in a memory outside the model; a trained scope classifier sends each query either to
the frozen base model or to an editing method. The right questions change, and nothing else does.

    >>> from memedit import Edit, EditedModel, EditMemory                       # doctest: +SKIP
    >>> model = EditedModel.from_pretrained("Qwen/Qwen3-0.6B", memory="indexes/default")
    >>> model.memory.add(Edit(prompt="The capital of France is", target="Lyon", subject="France"))
    >>> model.generate(["What is the capital of France?"], max_new_tokens=8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memedit.edit import Edit
from memedit.errors import MemeditError

if TYPE_CHECKING:
    from memedit.edited import EditedModel
    from memedit.lm import HFModel
    from memedit.memory import EditMemory
    from memedit.router import Route, Router
    from memedit.scope import ScopeClassifier

__version__ = "0.1.0"

# Imported on use: torch and transformers cost seconds that `memedit list` should not pay.
_WHERE = {
    "EditMemory": "memedit.memory",
    "EditedModel": "memedit.edited",
    "HFModel": "memedit.lm",
    "Route": "memedit.router",
    "Router": "memedit.router",
    "ScopeClassifier": "memedit.scope",
}
__all__ = [
    "Edit",
    "EditMemory",
    "EditedModel",
    "HFModel",
    "MemeditError",
    "Route",
    "Router",
    "ScopeClassifier",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'memedit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
