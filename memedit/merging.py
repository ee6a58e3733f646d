"""`Merged`: edits written into the weights of a copy, one after another, as the literature does; for comparison.

Behind the router each edit is solved alone on the base as it is, and put on the rows that it concerns. Here each is solved
anew on the weights that those before it changed, and added for good. What is worked out once for a model (key covariances,
null spaces, prefixes) stays the base's, as in the papers; what a method hands on from edit to edit goes on (AlphaEdit's
keys, UltraEdit's statistics).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from memedit import layout
from memedit.errors import DataError, MethodError
from memedit.lm import HFModel
from memedit.methods._effects import Dense, Effect, LowRank, Several, Swapped
from memedit.methods._watch import stems_from
from memedit.methods.base import EditMethod
from memedit.methods.patched import PatchMethod

if TYPE_CHECKING:
    from memedit.edit import Edit

_ABOUT, _BASE, _SETTING = "edits", "base", "setting"  # in a state's header


class Merged:
    """A copy of a base with edits in its weights.

    Args:
        base: stays as it is. method: one whose patches are changes of weights; this one's alone from now on, since it
            keeps what earlier edits leave for later ones.

    Attributes:
        lm: the copy, an LM as any other. edits: how many are in it. changed: the linear modules that were written.

    Raises:
        MethodError: a method that changes no weights.

    Example:
        >>> merged = Merged(base, load_method("rome"))                                  # doctest: +SKIP
        >>> merged.add(edit)                                                            # doctest: +SKIP
        >>> merged.lm.generate(["The capital of France is"])                            # doctest: +SKIP
    """

    def __init__(self, base: HFModel, method: EditMethod) -> None:
        if not isinstance(method, PatchMethod):
            raise MethodError(
                f"{method.name} changes no weights, so that there is nothing to merge; take rome, memit, ft-m or lora"
            )
        self.method = method
        self.method.sequel = {}
        memo: dict[int, Any] = {}
        for (
            module
        ) in base.model.modules():  # others may be putting hooks on and off meanwhile; a copy needs none
            for name, value in list(vars(module).items()):
                if "hooks" in name and isinstance(value, dict):
                    memo[id(value)] = type(value)()
        self.lm = HFModel(copy.deepcopy(base.model, memo), base.tokenizer)
        self.lm.tokenizing = base.tokenizing
        stems_from(self.lm, base)
        self._base = base.fingerprint
        self.edits = 0
        self.changed: set[str] = set()

    def add(self, edit: Edit) -> Mapping[str, float | str]:
        """Solve one edit on the weights as they are by now, and write it: what the method noted.

        Raises:
            MethodError, ModelError: the edit can't be solved, or its patch is no change of weights; nothing is written.
        """
        handed = dict(self.method.sequel or {})
        try:
            solved = self.method.solved(self.lm, edit)
            terms = [
                (name, term)
                for name, effect in solved.modules.items()
                for term in _parts(self.method, effect)
            ]
            for name, _ in terms:
                layout.weight(self.lm.model, name)  # refuses what can't be written
        except BaseException:
            self.method.sequel = handed  # what was refused is handed on to no later edit
            raise
        with torch.no_grad():
            for name, term in terms:
                _write(layout.weight(self.lm.model, name), term)
        self.changed |= set(solved.modules)
        self.edits += 1
        return solved.notes

    @property
    def resumable(self) -> bool:
        """Whether weights are all that later edits need of earlier ones."""
        return not self.method.sequel

    def save_state(self, path: Path, setting: str = "") -> None:
        """Keep the weights that were changed, for `load_state`.

        Args:
            setting: what else they belong to, in any words.
        """
        from safetensors.torch import save

        tensors = {
            name: self.lm.model.get_submodule(name).weight.detach().contiguous() for name in self.changed
        }
        beside = path.with_name(f".{path.name}.part")
        beside.write_bytes(save(tensors, {_ABOUT: str(self.edits), _BASE: self._base, _SETTING: setting}))
        beside.replace(path)

    def load_state(self, path: Path, setting: str = "") -> None:
        """Go on from what `save_state` kept.

        Raises:
            DataError: it can't be read, or is of another base or setting; nothing is written then.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file, torch.no_grad():
                about = file.metadata() or {}
                if (about.get(_BASE), about.get(_SETTING)) != (self._base, setting):
                    raise DataError(
                        f"{path} is of another base, or of other facts or settings; delete it to begin anew"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                edits = int(about[_ABOUT])
                for name, tensor in tensors.items():
                    self.lm.model.get_submodule(name).weight.copy_(tensor)
        except (OSError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{path} can't be gone on from ({error}); delete it to begin anew") from error
        self.edits, self.changed = edits, set(tensors)


def _parts(method: PatchMethod, effect: Effect) -> tuple[Effect, ...]:
    """The changes of a weight that an effect is made of.

    Raises:
        MethodError: it is something else.
    """
    parts = effect.parts if isinstance(effect, Several) else (effect,)
    other = next((part for part in parts if not isinstance(part, (LowRank, Dense, Swapped))), None)
    if other is not None:
        raise MethodError(
            f"{method.name} can't be merged: its patch ({other.kind}) is no change of a weight; take rome, memit, ft-m or lora"
        )
    return parts


def _write(weight: torch.Tensor, term: Effect) -> None:
    """Put a term into a weight (out, in), which is a view of what the model holds."""
    if isinstance(term, Swapped):
        weight[:, term.columns.to(weight.device)] = term.values.T.to(weight)
        return
    change = term.up @ term.down if isinstance(term, LowRank) else term.delta  # type: ignore[attr-defined]
    weight.copy_((weight.float() + change.to(weight.device, torch.float32)).to(weight.dtype))
