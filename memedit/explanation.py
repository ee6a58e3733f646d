"""`Explanation`: why one prompt is answered as it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memedit import batches
from memedit.errors import ModelError
from memedit.router import Route


@dataclass(frozen=True, slots=True)
class Explanation:
    """One prompt, explained.

    Attributes:
        route: which edits fire, the nearest others, probabilities, threshold, reasons.
        read: what the model is given: context (none where no edit fires) and prompt.
        base_text, text: the frozen base's new text, and the edited model's.
        left_out: facts and demonstrations that there was no room for.
        steps: what a method that answers in several steps (`mello`) has asked and found, a line each.
    """

    route: Route
    read: str
    base_text: str
    text: str
    left_out: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people, a few lines."""
        route = self.route
        lines = [
            f"prompt:  {route.query}",
            f"answer:  {self.text.strip()}",
            f"base:    {self.base_text.strip()}",
        ]
        verdict = ", ".join(f"edit {c.id}" for c in route.edits)
        lines.append(
            f"route:   {f'{verdict} by {route.method}' if verdict else 'no edit in scope: the base answers'}"
        )
        for c in route.nearest[:5]:
            lines.append(
                f"  edit {c.id}  {c.probability:.3f} of {route.threshold:.3f}  {c.edit.statement}  ({c.reason})"
            )
        lines += [f"  left out: {text.strip()}" for text in self.left_out]
        lines += [f"  step: {step}" for step in self.steps]
        return "\n".join([*lines, "read:", *(f"  {line}" for line in self.read.splitlines())])


def explained(model: Any, prompt: str, at: str | datetime | None, **options: Any) -> Explanation:
    """As `EditedModel.explain` says, of an `EditedModel`."""
    if batches.setting("num_return_sequences", options, model.generation_config) not in (None, 1):
        raise ModelError("explain shows one answer: leave num_return_sequences out")
    (route,) = model.route([prompt], at)
    (base,) = model.base.generate([prompt], **options)
    if not route.fired:
        return Explanation(route, prompt, base, base)
    talks = model.asked.in_texts([prompt])
    with model.knowing([[c.edit for c in route.edits]], talks, [route.at]) as lm:
        (text,) = lm.generate([prompt], **options)
    (read,) = lm.read
    before = max(0, prompt.rfind(talks[0].turns[talks[0].last].text)) if talks[0] else 0
    given = prompt[:before] + read.text + prompt[before:]
    return Explanation(route, given, base, text, tuple(piece.text for piece in read.left_out), read.steps)
