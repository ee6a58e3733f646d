"""Erasure, as Sanitation measures it: the old answer is given neither to the prompt nor to its paraphrases, a refusal is given
instead, and other answers stay as they were.

Sanitation's own file is read where it is at hand (`memedit eval --data`); here any data set with old answers serves: each of
its facts is erased instead of edited. A fact that the base never knew can't be taken from it, so that the scores stand once for
all facts and once (label "known") for those whose old answer the base gave to one of the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.data import Case
from memedit.edit import Edit
from memedit.errors import DataError, EditError
from memedit.evaluation.scores import row
from memedit.metrics import contains, refused

if TYPE_CHECKING:
    from memedit.edited import EditedModel

_Judge = Callable[[dict[str, Any], str], bool]  # of an answer, and which of its texts: "text" or "base"


@dataclass(frozen=True, slots=True)
class Erased:
    """One fact to be erased: the edit, what asks for it (its prompt first), and what is to stay as it was."""

    case: str
    edit: Edit
    prompts: tuple[str, ...]
    others: tuple[str, ...]


def erasures(
    cases: Iterable[Case], most: int | None = None, paraphrases: int = 2, others: int = 2
) -> list[Erased]:
    """The facts of a data set as erasures: those with a prompt and an old answer.

    Args:
        most: so many facts. paraphrases, others: so many of each for a fact.

    Raises:
        DataError: there are none.
    """
    out: list[Erased] = []
    for case in cases:
        given = case.edit
        if not given.prompt or not given.old:
            continue
        try:
            edit = Edit(prompt=given.prompt, kind="erase", subject=given.subject, subject_aliases=given.subject_aliases,
                        old=given.old, relation=given.relation)  # fmt: skip
        except EditError:
            continue
        own = [q.prompt for q in case.queries if q.kind in ("paraphrase", "old") and q.prompt != given.prompt]
        local = [q.prompt for q in case.queries if q.kind == "locality"]
        out.append(
            Erased(
                case.id,
                edit,
                (given.prompt, *dict.fromkeys(own[:paraphrases])),
                tuple(dict.fromkeys(local[:others])),
            )
        )
        if len(out) == most:
            break
    if not out:
        raise DataError("no case has a prompt with its old answer: there is nothing to erase")
    return out


def asked(
    model: EditedModel,
    facts: Sequence[Erased],
    ids: Sequence[int],
    *,
    max_new_tokens: int = 16,
    batch_size: int = 32,
) -> list[dict[str, Any]]:
    """Every question as an answer of a run file: kind "old" (label "prompt" or "paraphrase") or "locality"; greedy.

    Args:
        model: its memory holds the erasures. ids: the memory's, of each.
    """
    asks = [
        (i, "old" if n < len(fact.prompts) else "locality", n, prompt)
        for i, fact in enumerate(facts)
        for n, prompt in enumerate((*fact.prompts, *fact.others))
    ]
    order = sorted(range(len(asks)), key=lambda j: len(asks[j][3]))
    prompts = [asks[j][3] for j in order]
    routes = model.route(prompts)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "batch_size": batch_size}
    texts = model.generate(prompts, routes=routes, **options)
    bases = model.unedited(prompts, routes, **options)
    rows: dict[int, dict[str, Any]] = {}
    for j, text, base, route in zip(order, texts, bases, routes, strict=True):
        i, kind, n, prompt = asks[j]
        old, fired = facts[i].edit.old or "", [c.id for c in route.edits]
        gone = kind == "old"
        rows[j] = {
            "case": facts[i].case, "kind": kind, "label": ("paraphrase" if n else "prompt") if gone else "", "prompt": prompt,
            "answers": [], "old": old if gone else None, "base": base, "text": text, "fired": fired,
            "right": ids[i] in fired if gone else None, "route": None,
            "success": not contains(text, [old]) and refused(text) if gone else None,
            "unchanged": None if gone else text == base, "forced": None,
        }  # fmt: skip
    return [rows[j] for j in range(len(asks))]


def scores(answers: Sequence[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """As a run file has them. "erased" counts whole facts: no question gives the old answer, and every one a refusal."""
    out: list[dict[str, Any]] = []

    def put(
        label: str, score: str, own: Sequence[dict[str, Any]], judge: _Judge, floor: bool = False
    ) -> None:
        if own:
            values, before = ([float(judge(a, key)) for a in own] for key in ("text", "base"))
            cases = [a["case"] for a in own]
            out.append(row(own[0]["kind"], score, values, cases, before if floor else (), label, seed))

    asks = [a for a in answers if a["kind"] == "old"]
    known = {a["case"] for a in asks if contains(a["base"], [a["old"]])}
    for label in ("", "prompt", "paraphrase", "known"):
        own = [a for a in asks if label in ("", a["label"]) or (label == "known" and a["case"] in known)]
        put(label, "old answer given", own, lambda a, key: contains(a[key], [a["old"]]), floor=True)
        put(label, "refused", own, lambda a, key: refused(a[key]), floor=True)
        put(label, "right edit fired", own, lambda a, _: a["right"])
        if own and label in ("", "known"):
            by_case: dict[str, list[bool]] = {}
            for a in own:
                by_case.setdefault(a["case"], []).append(bool(a["success"]))
            whole = [float(all(one)) for one in by_case.values()]
            out.append(row("old", "erased", whole, label=label, seed=seed))
    local = [a for a in answers if a["kind"] == "locality"]
    put("", "unchanged", local, lambda a, _: a["unchanged"])
    put("", "no edit fired", local, lambda a, _: not a["fired"])
    return out
