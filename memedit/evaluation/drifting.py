"""What else edited models of one base change: the standard's numbers beside the base's, and KL to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memedit.evaluation.forced import divergence

if TYPE_CHECKING:
    from memedit.drift import Drift, Standard
    from memedit.lm import HFModel


class Drifting:
    """Measures edited models, routed or merged; the base once, when it is first wanted.

    Args:
        standard: the passages and questions of all.
    """

    def __init__(self, base: HFModel, standard: Standard) -> None:
        self.base, self.standard = base, standard
        self._unedited: Drift | None = None

    def __call__(self, lm: Any) -> dict[str, float]:
        """Perplexity, accuracy and the base's; "changed", the share of the questions whose greedy output is not the base's;
        "kl", the mean KL(base || lm) of the next token after them, in nats.
        """
        self._unedited = self._unedited or self.standard.measure(self.base)
        gaps = divergence(lm, self.base, [prompt for prompt, _ in self.standard.questions])
        found = self.standard.measure(lm).beside(self._unedited)
        return {**found, "kl": sum(gaps) / max(1, len(gaps))}
