"""Knowledge neurons of a fact: those whose attribution stands out, for most of the ways in which it is asked.

Reference: Dai et al., "Knowledge Neurons in Pretrained Transformers", arXiv 2104.08696, sections 3.2 and 3.3; the
attributions themselves are in methods/_attribution.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.methods._attribution import Neuron, attributions, knowledge_neurons

if TYPE_CHECKING:
    from memedit.lm import HFModel

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Neurons:
    """What attribution found for one fact.

    Attributes:
        prompts: how often it was asked in other words. found: the neurons, strongest first. counts: per layer, how many.
        sums: per layer, the sum of all attributions of its neurons: what they add to the answer's probability.
    """

    prompts: int
    found: tuple[Neuron, ...]
    counts: tuple[int, ...]
    sums: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "prompts": self.prompts,
            "per_layer": list(self.counts),
            "sums": [round(value, 6) for value in self.sums],
            "neurons": [{**n._asdict(), "attribution": round(n.attribution, 6)} for n in self.found],
        }


def neurons(
    base: HFModel,
    prompts: Sequence[str],
    answer: str,
    *,
    steps: int = 20,
    t: float = 0.2,
    p: float = 0.7,
    progress: Progress | None = None,
) -> Neurons:
    """The knowledge neurons of one fact, asked by one prompt or several.

    Args:
        steps: of the integral. t, p: the paper's thresholds, see `knowledge_neurons`.
        progress: called with (done, all) layers of all prompts.

    Raises:
        MethodError, ModelError: as `attributions`.
    """
    found = []
    for i, prompt in enumerate(prompts):

        def said(done: int, layers: int, i: int = i) -> None:
            if progress is not None:
                progress(i * layers + done, len(prompts) * layers)

        found.append(attributions(base, prompt, answer, steps=steps, progress=said))
    kept = knowledge_neurons(found, t=t, p=p)
    layers = found[0].shape[0]
    counts = tuple(sum(n.layer == layer for n in kept) for layer in range(layers))
    sums = tuple(float(sum(one[layer].sum() for one in found) / len(found)) for layer in range(layers))
    return Neurons(len(prompts), tuple(kept), counts, sums)
