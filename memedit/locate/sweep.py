"""Which layer a method edits best on the model at hand: a few facts, written at one layer after the other.

Each edit alone, no router, greedy: es, the answer begins with the target; gen, the same for the fact's paraphrases that
the base answered with the old answer (where that is not known: with anything but the target); neighbours, the answer
about other subjects is what it was. The best layer has the highest harmonic mean of what was asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.errors import MemeditError, MethodError
from memedit.layout import Layout
from memedit.methods import load_method
from memedit.methods.patched import PatchMethod
from memedit.metrics import pooled, starts_with

if TYPE_CHECKING:
    from memedit.data import Case
    from memedit.lm import HFModel

OPTIONS: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Swept:
    """One layer: shares from 0 to 1, None where nothing was asked, and how many facts the method could not write there."""

    layer: int
    es: float | None
    gen: float | None
    neighbours: float | None
    score: float
    refused: int
    why: str = ""  # the last refusal


def sweep(
    base: HFModel,
    name: str,
    cases: Sequence[Case],
    *,
    layers: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Swept]:
    """A method tried at each layer, on the first edit of each case.

    Args:
        layers: numbers from 0; None takes all. settings: of the method, but for the layer.
        progress: called with (done, all) facts of all layers.

    Raises:
        MethodError: as `checked`.
    """
    wanted, cases = checked(base, name, cases, layers, settings)
    before = [_asked(base, case) for case in cases]
    out = []
    for i, layer in enumerate(wanted):
        method = load_method(name, **{**(settings or {}), "layer": layer})
        marks: dict[str, list[bool]] = {"es": [], "gen": [], "neighbours": []}
        refused, why = 0, ""
        for j, (case, known) in enumerate(zip(cases, before, strict=True)):
            try:
                with method.applied(base, [[case.edit]] * len(known)) as model:
                    said = model.generate([prompt for prompt, _, _ in known], **OPTIONS)
                _marked(case, known, said, marks)
            except MemeditError as error:
                refused, why = refused + 1, str(error)
                marks["es"].append(False)
            if progress is not None:
                progress(i * len(cases) + j + 1, len(wanted) * len(cases))
        shares = {kind: sum(own) / len(own) if own else None for kind, own in marks.items()}
        out.append(Swept(layer, **shares, score=_harmonic(list(shares.values())), refused=refused, why=why))
    return out


def checked(
    base: HFModel,
    name: str,
    cases: Sequence[Case],
    layers: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[Case]]:
    """The layers that a sweep tries and the cases it writes, known before any work is done.

    Raises:
        MethodError: the method has no layer to choose, the model no such layer, or no case has prompt and target.
    """
    method = load_method(name, **(settings or {}))
    fields = (
        {f.name for f in dataclasses.fields(method.Settings)} if isinstance(method, PatchMethod) else set()
    )
    if "layer" not in fields:
        raise MethodError(
            f"{name} has no layer to choose; take a method that edits one, such as rome or ft-m"
        )
    writable = [case for case in cases if case.edit.prompt and case.edit.target]
    if not writable:
        raise MethodError(
            "a sweep writes facts, and none here has a prompt and a target: give --target, or another file"
        )
    count = len(Layout.of(base.model))
    wanted = list(range(count)) if layers is None else list(layers)
    wrong = next((layer for layer in wanted if not 0 <= layer < count), None)
    if wrong is not None or not wanted:
        there = "no layer to try" if wrong is None else f"there is no layer {wrong}"
        raise MethodError(f"the model has layers 0 to {count - 1}; {there}")
    return wanted, writable


def best(found: Sequence[Swept]) -> Swept | None:
    """The layer with the highest score, the lowest of equals; None where no layer wrote a fact."""
    top = max(found, key=lambda one: (one.score, -one.layer))
    return top if top.es else None


def _asked(base: HFModel, case: Case) -> list[tuple[str, str, str]]:
    """(prompt, kind, what the base says) of the edit's prompt, the paraphrases that count, and its neighbours."""
    asked = [(case.edit.prompt or "", "es")]
    asked += [(query.prompt, "gen") for query in pooled(case.queries, "paraphrase")]
    asked += [(query.prompt, "neighbours") for query in pooled(case.queries, "locality")]
    texts = base.generate([prompt for prompt, _ in asked], **OPTIONS)
    return [
        (prompt, kind, text)
        for (prompt, kind), text in zip(asked, texts, strict=True)
        if kind != "gen" or _to_change(case, text)
    ]


def _to_change(case: Case, text: str) -> bool:
    """Whether the base's answer to a paraphrase is the one that the edit is to change."""
    if case.edit.old:
        return starts_with(text, [case.edit.old])
    return not starts_with(text, [case.edit.target or "", *case.edit.target_aliases])


def _marked(
    case: Case, known: Sequence[tuple[str, str, str]], said: Sequence[str], marks: dict[str, list[bool]]
) -> None:
    right = [case.edit.target or "", *case.edit.target_aliases]
    for (_, kind, before), text in zip(known, said, strict=True):
        marks[kind].append(text == before if kind == "neighbours" else starts_with(text, right))


def _harmonic(shares: Sequence[float | None]) -> float:
    there = [share for share in shares if share is not None]
    return len(there) / sum(1 / share for share in there) if there and all(there) else 0.0
