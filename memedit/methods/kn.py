"""KN: the few MLP neurons that hold an answer get other value rows.

Reference: Dai et al., "Knowledge Neurons in Pretrained Transformers", arXiv 2104.08696, sections 3 and 5.

Each neuron i of each layer has an attribution to the old answer, by integrated gradients (see _attribution.py); of a prompt
those count that exceed t of its highest, and *knowledge neurons* are those that count in a share p of several prompts of
the fact. p goes up or down by 0.05 until there are 2 to 5 of them. With v_i (d,) a neuron's value row (a column of the MLP's
output projection), and e(.) (d,) the embedding of an answer's first token:

    v_i' = v_i + s_i (- lambda1 e(old) + lambda2 e(new))

s_i is ours, and 1 in the paper: the sign of the neuron's activation at the prompt's last token, since a gated MLP's neurons
are negative as often as not, and then push away what they hold. The embedding is the head's row, tied to the input's or not.
The prompts are the edit's own, alone and after the base's own beginnings of texts; the paper has written paraphrases.

Patch: `Swapped` on the `mlp_out` of each layer that has such a neuron: columns (n,), values (n, d).
Needs: prompt and target; the old answer, or what the base would say in its place. Reads weights, activations and gradients;
quantised layers are refused.
Relations: `rome` changes what one key maps to, not a neuron's own row. Of two edits of one neuron the newer wins.

Example:
    >>> load_method("kn", t=0.3)                                                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit import layout
from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Layout
from memedit.methods._attribution import Neuron, attributions, knowledge_neurons
from memedit.methods._effects import Effect, Swapped
from memedit.methods._locate import Asked, ask, random_prefixes, target_ids
from memedit.methods._train import seen
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class KNSettings:
    """The paper's.

    Attributes:
        layer: from 0, this one alone; None takes all. steps: of the integral. t: share of a prompt's highest attribution.
        p: share of prompts, to begin with. fewest, most: how many neurons there should be. lambda1, lambda2: see the
            module's equation. prefixes: pairs (how many, tokens each); the paper has about nine paraphrases. seed: of them.
    """

    layer: int | None = None
    steps: int = 20
    t: float = 0.2
    p: float = 0.7
    fewest: int = 2
    most: int = 5
    lambda1: float = 1.0
    lambda2: float = 8.0
    prefixes: tuple[tuple[int, int], ...] = ((8, 5),)
    seed: int = 0


class KN(PatchMethod):
    """Knowledge neurons, found and rewritten."""

    name = "kn"
    Settings = KNSettings
    reads = ("old",)
    # Three seconds an edit are allowed there: four prompts of 20 steps each took five.
    small: ClassVar[dict[str, Any]] = {"prefixes": ((2, 5),), "steps": 10}

    def solve(self, base: HFModel, edit: Edit, settings: KNSettings) -> Solved:
        """The neurons and their rows; see the module's equations."""
        layers = list(range(len(Layout.of(base.model))))
        if settings.layer is not None:
            layers = [self.layer(base, settings.layer, 0.0)]
        for layer in layers:  # what can't be rewritten need not be searched
            layout.weight(base.model, Layout.of(base.model).blocks[layer].mlp_out)
        asked = ask(base, edit, essence=False)
        old = edit.old or _said(base, asked)
        prompt = edit.prompt or ""
        prefixes = random_prefixes(base, settings.prefixes, settings.seed)
        prompts = [prompt, *(text for p in prefixes if _fits(base, text := f"{p}. {prompt}", old))]
        found = [attributions(base, text, old, layers, settings.steps) for text in prompts]
        neurons, p = refined(found, layers, settings)
        if not neurons:
            raise MethodError(
                f"no neuron helps the model to say {old!r} after {prompt!r}: give another answer by --old, or use --method rome"
            )
        modules = rewritten(base, edit, old, asked, neurons, settings)
        notes: dict[str, float | str] = {"modules": " ".join(modules), "neurons": str(len(neurons))}
        return Solved(modules, {**notes, "p": p, "old": old, "prompts": str(len(prompts))})


def refined(
    found: Sequence[Tensor], layers: Sequence[int], how: KNSettings, step: float = 0.05
) -> tuple[list[Neuron], float]:
    """The knowledge neurons, and the share p of prompts at which there are `fewest` to `most` of them, or nearest to it."""
    p = how.p
    neurons = knowledge_neurons(found, layers, t=how.t, p=p)
    while len(neurons) > how.most and p + step <= 1 + 1e-6:
        p += step
        neurons = knowledge_neurons(found, layers, t=how.t, p=p)
    while len(neurons) < how.fewest and p - step > 0:
        p -= step
        neurons = knowledge_neurons(found, layers, t=how.t, p=p)
    return neurons, p


def rewritten(
    base: HFModel, edit: Edit, old: str, asked: Asked, neurons: Sequence[Neuron], how: KNSettings
) -> dict[str, Effect]:
    """v_i' of every neuron, by module."""
    place = Layout.of(base.model)
    head = layout.weight(base.model, place.head)
    before = base.target_ids(edit.prompt or "", old)[0]
    after = target_ids(base, edit)[0]
    push = (how.lambda2 * head[after].float() - how.lambda1 * head[before].float()).detach().cpu()
    names = {n.layer: place.blocks[n.layer].mlp_out for n in neurons}
    held = seen(base, asked, list(names.values()))
    out: dict[str, Effect] = {}
    for layer, name in sorted(names.items()):
        columns = torch.tensor([n.number for n in neurons if n.layer == layer])
        active = held[name][0][0, int(asked.ends[0])].float().cpu()[columns]
        sign = torch.where(active < 0, -1.0, 1.0)
        rows = layout.weight(base.model, name).detach().float().cpu()[:, columns].T
        out[name] = Swapped(columns, rows + sign[:, None] * push)
    return out


def _said(base: HFModel, asked: Asked) -> str:
    """The likeliest next token that is more than space: what the base would say where no old answer is given."""
    with torch.no_grad():
        logits = asked.forward(base)[0, asked.ends[0]].float()
    if not bool(torch.isfinite(logits).all()):
        raise MethodError(
            "the model gave no number after the prompt: load it in float32, or mend its weights"
        )
    best = (str(base.tokenizer.decode([int(i)])).strip() for i in logits.topk(min(50, len(logits))).indices)
    said = next((text for text in best if text and text.isprintable()), "")
    if not said:
        raise MethodError("what the model says after the prompt is no word: give the old answer by --old")
    return said


def _fits(base: HFModel, text: str, old: str) -> bool:
    limit = base.context_length
    with base.tokenizing:
        own = len(base.tokenizer(text)["input_ids"])
    return limit is None or own + len(base.target_ids(text, old)) <= limit
