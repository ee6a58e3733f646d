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
from memedit.evaluation.answer import described
from memedit.evaluation.parts import Parts, salvaged
from memedit.evaluation.scores import row
from memedit.metrics import contains, refused
from memedit.router import Route

if TYPE_CHECKING:
    from memedit.edited import EditedModel

MOST = 16  # new tokens of an answer
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


@dataclass(frozen=True, slots=True)
class _Ask:
    """One question: the place of its fact, its kind, and its place among the fact's."""

    place: int
    kind: str
    number: int
    prompt: str


def asked(
    model: EditedModel,
    facts: Sequence[Erased],
    ids: Sequence[int],
    *,
    max_new_tokens: int = MOST,
    batch_size: int = 32,
    parts: Parts | None = None,
) -> list[dict[str, Any]]:
    """Every question as an answer of a run file: kind "old" (label "prompt" or "paraphrase") or "locality"; greedy.

    One that fails has its "error", and is wrong in every score.

    Args:
        model: its memory holds the erasures. ids: the memory's, of each. parts: keeps the batches.
    """
    asks = [
        _Ask(i, "old" if n < len(fact.prompts) else "locality", n, prompt)
        for i, fact in enumerate(facts)
        for n, prompt in enumerate((*fact.prompts, *fact.others))
    ]
    order = sorted(range(len(asks)), key=lambda j: len(asks[j].prompt))
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "batch_size": batch_size}

    def ask(some: Sequence[_Ask]) -> list[dict[str, Any]]:
        prompts = [one.prompt for one in some]
        routes = model.route(prompts)
        texts = model.generate(prompts, routes=routes, **options)
        bases = model.unedited(prompts, routes, **options)
        every = zip(some, routes, texts, bases, strict=True)
        return [_row(one, facts[one.place], ids[one.place], *found) for one, *found in every]

    def failed(one: _Ask, error: str) -> dict[str, Any]:
        route, base = salvaged(model, one.prompt, options)
        row = _row(one, facts[one.place], ids[one.place], route, "", base)
        return {**row, "success": None if row["success"] is None else False,
                "unchanged": None if row["unchanged"] is None else False, "error": error}  # fmt: skip

    parts = parts or Parts()
    parts.total = len(asks)
    found = parts.asked("asked", [asks[j] for j in order], batch_size, ask, failed)
    return [row for _, row in sorted(zip(order, found, strict=True), key=lambda one: one[0])]


def _row(one: _Ask, fact: Erased, id: int, route: Route | None, text: str, base: str) -> dict[str, Any]:
    old, gone = fact.edit.old or "", one.kind == "old"
    fired = None if route is None else [c.id for c in route.edits]
    label = ("paraphrase" if one.number else "prompt") if gone else ""
    return {
        "case": fact.case, "kind": one.kind, "label": label, "prompt": one.prompt, "answers": [],
        "old": old if gone else None, "base": base, "text": text, "fired": fired,
        "right": id in (fired or ()) if gone else None, "route": described(route),
        "success": not contains(text, [old]) and refused(text) if gone else None,
        "unchanged": None if gone else text == base, "forced": None,
    }  # fmt: skip


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
        put(label, "old answer given", own, _given, floor=True)
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
    put("", "no edit fired", local, lambda a, _: a["fired"] == [])
    return out


def _given(answer: dict[str, Any], key: str) -> bool:
    """Whether the old answer is in a text; what failed to answer counts as if it were, since that is the wrong side."""
    return contains(answer[key], [answer["old"]]) or (key == "text" and "error" in answer)
