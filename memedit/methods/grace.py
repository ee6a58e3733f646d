"""GRACE: a codebook of keys, values and radii replaces one layer's output where a key is near.

Reference: Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors", arXiv
2211.11031, section 3.

With f a layer, x (m,) its input at the prompt's last token, and entries (k_i, v_i, e_i) with k (m,), v (d,):

    f'(x) = v_i   if |x - k_i| <= e_i for the nearest key i that reaches x, else f(x)
    k = x of the edit's own prompt,   v = argmin  - sum over the target's tokens of log P(token | prompt, target so far)

v starts from f(k). It stands at the prompt's last token alone, while the prompt is read; the tokens after it see it through
attention's keys and values. So it is trained on the whole target at once, until greedy generation must take each of
its tokens (a sum below ln 2 leaves every token more likely than all others together).

A new entry within reach of another (|k - k_i| <= e_i + e) changes it, as the paper says:
    the same target:  no new entry; e_i grows to |k - k_i|, so that the old one serves both;
    another target:   both radii end half-way, at |k - k_i| / 2.
Each edit is solved alone; the rule holds among the edits of one row, oldest first (`row_patch`).

Patch: `Replaced` on one `mlp_out`: key (1, m), value (1, d), radius (1,).
Needs: prompt and target. Reads activations and gradients, no weights: quantised layers will do.
Relations: `t-patcher` adds to an MLP's output where a trained neuron wakes; here the reach is a distance, and nothing
outside it changes by a bit. `ice` reads the fact instead; it, too, leaves the weights alone.

Example:
    >>> load_method("grace", radius=3.0)                                            # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.layout import Layout
from memedit.methods._effects import Replaced, RowPatch
from memedit.methods._locate import Asked, ask
from memedit.methods._train import seen, trained, wide
from memedit.methods.patched import PatchMethod, Solved, newest

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class GRACESettings:
    """The paper's (layer 35 of 48 in GPT-2 XL).

    Attributes:
        layer: from 0; None takes the one at `depth`. radius: e of a new entry, Euclidean. steps, lr: of Adam, for v.
        enough: a loss, in all tokens of the target together, at which training ends.
    """

    layer: int | None = None
    depth: float = 0.73
    radius: float = 1.0
    steps: int = 100
    lr: float = 1.0
    enough: float = 0.1


class GRACE(PatchMethod):
    """A codebook at one MLP: outputs are replaced near the edits' keys."""

    name = "grace"
    Settings = GRACESettings
    low_rank = False
    # Keys of the shipped base are about 20 long; the same question in other words lies 6 to 10 away, other subjects 14 and
    # more. The paper's 1.0 holds the edit's own prompt alone (gen 1 of 8, neighbours 60 of 60; with 10.0 8 of 8 and 60 of 60).
    small: ClassVar[dict[str, Any]] = {"radius": 10.0}

    def solve(self, base: HFModel, edit: Edit, settings: GRACESettings) -> Solved:
        """The edit's entry; see the module's equations."""
        layout = Layout.of(base.model)
        layer = self.layer(base, settings.layer, settings.depth)
        if settings.layer is None:  # from the last one nothing would reach the tokens after the prompt
            layer = min(layer, max(0, len(layout) - 2))
        module = layout.blocks[layer].mlp_out
        asked = ask(base, edit, essence=False)
        x, y = seen(base, asked, [module])[module]
        end = int(asked.ends[0])
        key = x[0, end].float()
        value = y[0, end].float().clone().requires_grad_()

        def put(args: tuple[Any, ...], output: Tensor) -> Tensor:
            states = wide(asked, output).clone()
            states[0, end] = value.to(states)
            return states.view(output.shape)

        loss, steps = trained(
            base, edit, asked, {module: put}, [value], settings, name=self.name, loss=whole_target
        )
        radius = torch.tensor([settings.radius])
        entry = Replaced(key[None].cpu(), value.detach()[None].cpu(), radius)
        return Solved({module: entry}, {"module": module, "loss": loss, "steps": steps})

    def row_patch(self, base: HFModel, edits: Sequence[Edit]) -> RowPatch | None:
        """The codebook of a row's edits, put together oldest first; of edits that answer the same, the newest counts."""
        books: dict[str, list[Entry]] = {}
        for edit in newest(edits):
            for module, effect in self.patch(base, edit).modules.items():
                assert isinstance(effect, Replaced)
                entry = Entry(
                    effect.keys[0], effect.values[0], float(effect.radius[0]), (edit.target or "").strip()
                )
                books[module] = entered(books.get(module, []), entry)
        return {
            module: Replaced(
                torch.stack([e.key for e in book]),
                torch.stack([e.value for e in book]),
                torch.tensor([e.radius for e in book]),
            )
            for module, book in books.items()
        } or None


def whole_target(asked: Asked, logits: Tensor) -> Tensor:
    """- log P(target | prompt), of all its tokens together."""
    return -asked.said(logits)[0].sum()


# -- the codebook


@dataclass(frozen=True)
class Entry:
    """One line of the codebook: key (m,), value (d,), and the target that the value says."""

    key: Tensor
    value: Tensor
    radius: float
    target: str


def entered(book: Sequence[Entry], new: Entry) -> list[Entry]:
    """The codebook with a new entry; radii never overlap between targets."""
    if not book:
        return [new]
    distances = [float(torch.linalg.vector_norm(old.key - new.key)) for old in book]
    i = distances.index(min(distances))
    near, distance = book[i], distances[i]
    rest = [old for j, old in enumerate(book) if j != i]
    if distance > near.radius + new.radius:
        return [*book, new]
    if near.target == new.target:
        return [*rest, replace(near, radius=max(near.radius, distance))]
    if not distance:  # nothing lies between them: what was said last counts
        return [*rest, new]
    # A radius that is smaller already (after another split) need not grow.
    old, new = (replace(e, radius=min(e.radius, distance / 2)) for e in (near, new))
    return [*rest, old, new]
