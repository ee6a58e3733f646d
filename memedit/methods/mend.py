"""MEND: a trained network turns a fine-tuning gradient into an edit of a few MLP matrices.

Reference: Mitchell et al., "Fast Model Editing at Scale", arXiv 2110.11309, section 3.

The gradient of -log P(target | prompt) in a matrix W (out, in) is sum_i delta_i u_i^T over the text's tokens. An editor that
was trained beforehand, for this base, maps each pair to another (see _hypernetwork.py):

    (u~_i, delta~_i) = g(u_i, delta_i),      W~ = W - scale * alpha sum_i delta~_i u~_i^T

g and the rates alpha are trained on  c_e L_e + L_loc,  with L_e = -log P(target | the prompt or another wording; W~) and
L_loc = KL(P(. | another text; W) || P(. | another text; W~)). An edit costs one pass forward and one back.

Patch: up = -scale * alpha delta~^T (out, n), down = u~ (n, in) on each matrix that the editor knows, of a rank of at most n,
the tokens that have a gradient (all but the target's last; in the last layer those from which the target is said).
Needs: prompt, target, and an editor for the base: one ships for the shipped base, `train/mend.py` trains others. Reads
activations, gradients, and a hash of the edited weights: quantised layers are refused.
Relations: `lora` and `ft-m` descend the same gradient step by step, and learn nothing from other edits. `rome` finds rank one
in closed form.

Example:
    >>> load_method("mend", editor="runs/mend/export")                              # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from memedit.edit import Edit
from memedit.errors import MethodError, ModelError
from memedit.layout import Layout
from memedit.loading import PRETRAINED
from memedit.methods._effects import LowRank
from memedit.methods._hypernetwork import CONFIG, WEIGHTS, Editor, Factors, gradient_factors, weights_digest
from memedit.methods._locate import ask
from memedit.methods._train import per_token, wide
from memedit.methods._watch import kept_beside, origin, watched
from memedit.methods.patched import PatchMethod, Solved
from memedit.texts import shortened

if TYPE_CHECKING:
    from memedit.lm import HFModel

SHIPPED = PRETRAINED / "mend"
HOW = "train one by `python -m train.mend --base DIR --out DIR` and name it by --set mend.editor=DIR"


@dataclass(frozen=True)
class MENDSettings:
    """The paper has none when it edits; those of training are in train/mend.py.

    Attributes:
        layer: from 0, of those that the editor edits this one alone; None takes all. editor: the editor's folder; None
            takes the one that ships. scale: of the learned rates; 1 is what was trained.
    """

    layer: int | None = None
    editor: str | None = None
    scale: float = 1.0


class MEND(PatchMethod):
    """A hypernetwork on gradients: one step, learned to be the right one."""

    name = "mend"
    Settings = MENDSettings

    def key(self, base: HFModel, edit: Edit) -> str:
        """As for any method, and of this editor: one trained anew gives other patches."""
        file = _folder(self.settings_for(base)) / WEIGHTS
        tag = _digest(file, file.stat().st_mtime_ns) if file.is_file() else "none"
        return f"{super().key(base, edit)}-{tag}"

    def solve(self, base: HFModel, edit: Edit, settings: MENDSettings) -> Solved:
        """The editor's factors for the edit's gradient."""
        names = self._modules(base, settings)
        editor = editor_for(base, settings)
        asked = ask(base, edit, essence=False)

        def loss() -> torch.Tensor:
            found = per_token(asked, asked.forward(base))
            if not bool(torch.isfinite(found)):
                raise MethodError(
                    f"the gradient for {shortened(edit.prompt or '', 60)!r} gave no number: load the model in float32"
                )
            losses.append(float(found.detach()))
            return found

        losses: list[float] = []
        chosen = [name for name in editor.shapes if names is None or name in names]
        if not chosen:
            raise MethodError(
                f"the editor edits {', '.join(editor.shapes)}, nothing in layer {settings.layer}: leave mend.layer out"
            )
        found = gradient_factors(loss, chosen, lambda hooks: watched(base, hooks))
        modules = {}
        for name, pair in found.items():
            # The second text is the prompt again, of which nothing is asked.
            u, delta = wide(asked, pair.u)[0], wide(asked, pair.delta)[0]
            there = delta.abs().amax(-1) > 0
            out = editor.edited(name, Factors(u[there].cpu(), delta[there].cpu()))
            modules[name] = LowRank(settings.scale * out.delta.T.contiguous(), out.u)
        tokens = max(effect.down.shape[0] for effect in modules.values())
        return Solved(modules, {"modules": " ".join(modules), "loss": losses[0], "rank": str(tokens)})

    def _modules(self, base: HFModel, settings: MENDSettings) -> set[str] | None:
        if settings.layer is None:
            return None
        block = Layout.of(base.model).blocks[self.layer(base, settings.layer, 0.0)]
        return {*block.mlp_in, block.mlp_out}


def editor_for(base: HFModel, settings: MENDSettings) -> Editor:
    """The editor that was trained for a base; read once for a base.

    Raises:
        ModelError: none was, or it can't be read, or the base's weights are quantised.
    """
    folder = _folder(settings)
    if settings.editor is None and not (folder / CONFIG).is_file():
        raise ModelError(f"no MEND editor ships with this installation: {HOW}")
    base = origin(base)  # edits that are merged move a copy's weights away from those it was trained for
    kept = kept_beside(base).setdefault("mend editors", {})
    key = (str(folder), (folder / WEIGHTS).stat().st_mtime_ns if (folder / WEIGHTS).exists() else 0)
    if key not in kept:
        editor = Editor.load(folder)
        linear = {name for name, _ in base.model.named_modules()}
        same = set(editor.shapes) <= linear and editor.base == weights_digest(base.model, list(editor.shapes))
        if not same:
            raise ModelError(
                f"the MEND editor in {folder} was trained for other weights than this model's: {HOW}, or use --method rome"
            )
        kept[key] = editor
    found: Editor = kept[key]
    return found


def edited_modules(base: HFModel, layers: int, last: bool = True) -> dict[str, tuple[int, int]]:
    """The MLP matrices of a few layers, in order: name -> (out, in); the paper takes the last three layers'."""
    from memedit.layout import weight

    blocks = Layout.of(base.model).blocks
    chosen = blocks[-layers:] if last else blocks[:layers]
    names = [name for block in chosen for name in (*block.mlp_in, block.mlp_out)]
    return {name: (int(w.shape[0]), int(w.shape[1])) for name in names for w in [weight(base.model, name)]}


@lru_cache(maxsize=8)
def _digest(file: Path, changed: int) -> str:
    """Of what a file holds since it was last changed."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def _folder(settings: MENDSettings) -> Path:
    return SHIPPED if settings.editor is None else Path(settings.editor).expanduser()
