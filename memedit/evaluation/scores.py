"""The metrics, from answers alone: every number can be computed again from a run file.

A `Measure` looks at one answer; a score is its mean over the answers of a kind, beside the same of the unedited base (the
floor), with a bootstrap interval that draws whole cases. To add a score, add a `Measure`; what needs several answers at
once is a function in `TOGETHER`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memedit.evaluation.answer import OUT, Answer, judged
from memedit.metrics import APART, bootstrap, contains, entropy, exact, refused

Value = bool | float | None  # None: does not count
Look = Callable[[Answer], Value]
ScoreRow = dict[str, Any]

IN = ("edit", "paraphrase", "portability", "multi-hop", "hop", "reversal")
KINDS = (*IN, "old", "opinion", *OUT)


@dataclass(frozen=True, slots=True)
class Measure:
    """One score of single answers.

    Attributes:
        score: its name. kinds: of questions. of: what an answer counts. floor: what the base's answer to the same question
            counts; None where that says nothing. failed: what an answer counts that a method failed to give: as wrong,
            where the others of its kind are scored at all; None where no number could say that.
    """

    score: str
    kinds: tuple[str, ...]
    of: Look
    floor: Look | None = None
    failed: float | None = None


def _forced(name: str) -> Look:
    """Teacher-forced agreement with a target."""

    def look(a: Answer) -> Value:
        found = (a.forced or {}).get(name)
        return found[0] if found and a.answers else None

    return look


def _chance(found: Sequence[float]) -> float:
    """Probability of a target, by token (geometric mean), as the published scores have it."""
    return math.exp(found[1] / max(1, found[2] if len(found) > 2 else 1))


def _shift(first: str, other: str, magnitude: bool = False) -> Look:
    """Whether the one target is likelier than the other, or by how much; where both are known and differ."""

    def look(a: Answer) -> Value:
        forced = a.forced or {}
        one, two = forced.get(first), forced.get(other)
        beside = a.kind != "locality" or (a.old or "").casefold() in (x.casefold() for x in a.answers)
        if not one or not two or not beside:
            return None
        gap = _chance(one) - _chance(two)
        return gap if magnitude else gap > 0

    return look


def _shifts() -> Iterable[Measure]:
    """CounterFact's scores: the new answer against the old; next to the edit, the old against the new."""
    for kind, name, one, two in (
        ("edit", "efficacy", "new", "old"),
        ("paraphrase", "paraphrase", "new", "old"),
        ("locality", "neighbourhood", "old", "new"),
    ):
        score = name if name == "efficacy" else f"{name} score"
        base = (f"base_{one}", f"base_{two}")
        yield Measure(score, (kind,), _shift(one, two), _shift(*base), failed=0.0)
        yield Measure(f"{name} magnitude", (kind,), _shift(one, two, True), _shift(*base, magnitude=True))


def _said(judge: Callable[[str, Sequence[str]], bool], base: bool = False) -> Look:
    def look(a: Answer) -> Value:
        return None if not a.answers else judge(a.base if base else a.text, a.answers)

    return look


def _old(base: bool = False) -> Look:
    def look(a: Answer) -> Value:  # where nothing was said, that the old answer is not in it says nothing
        return contains(a.base if base else a.text, [a.old]) if a.old and not a.error else None

    return look


def _feeling(base: bool = False) -> Look:
    def look(a: Answer) -> Value:
        from memedit.evaluation.opinion import feeling

        return feeling(a.base if base else a.text) == a.label if a.label else None

    return look


def _refused(base: bool = False) -> Look:
    def look(a: Answer) -> Value:  # only where an answer is to be withheld: nothing else asks for a refusal
        withheld = a.kind == "old" or (a.old and not a.answers)
        return refused(a.base if base else a.text) if withheld else None

    return look


MEASURES: tuple[Measure, ...] = (
    Measure("success", (*IN, "old"), lambda a: a.success, lambda a: judged(a, a.base)),
    Measure("success_tf", IN, _forced("new"), _forced("base_new"), failed=0.0),
    Measure("feeling as asked", ("opinion",), _feeling(), _feeling(base=True)),
    Measure("exact", IN, _said(exact), _said(exact, base=True)),
    Measure("contains", IN, _said(contains), _said(contains, base=True)),
    Measure("right edit fired", (*IN, "old", "opinion"), lambda a: a.right),
    Measure("unchanged", OUT, lambda a: a.unchanged),
    Measure("unchanged_tf", OUT, lambda a: (a.forced or {}).get("unchanged"), failed=0.0),
    Measure("kl", ("locality",), lambda a: a.kl),
    Measure("no edit fired", OUT, lambda a: None if a.fired is None else not a.fired),
    *_shifts(),
    Measure("fluency", ("edit", "paraphrase", "generation"), lambda a: entropy(a.text), lambda a: entropy(a.base)),
    Measure("sampled fluency", ("edit", "generation"), lambda a: a.sampled and entropy(a.sampled[1]),
            lambda a: a.sampled and entropy(a.sampled[0])),
    Measure("old answer given", ("edit", "paraphrase", "reversal", "old"), _old(), _old(base=True)),
    Measure("refused", ("edit", "paraphrase", "old"), _refused(), _refused(base=True)),
)  # fmt: skip


def row(
    kind: str, score: str, values: Sequence[float], groups: Sequence[Hashable] | None = None, floor: Sequence[float] = (),
    label: str = "", seed: int = 0,
) -> ScoreRow:  # fmt: skip
    """One score with its interval, as a run file has it.

    Args:
        groups: which case each value is of; None where each is a case of its own.
    """
    value, low, high = bootstrap(values, groups, seed)
    at = sum(floor) / len(floor) if len(floor) else None
    return {"kind": kind, "label": label, "score": score, "value": value, "low": low, "high": high,
            "floor": at, "n": len(values)}  # fmt: skip


def summarise(
    answers: Sequence[Answer], measures: Sequence[Measure] = MEASURES, seed: int = 0
) -> list[ScoreRow]:
    """Every score of every kind of question that was asked; for all labels together (""), then for each label.

    Labels in `APART` stand by themselves alone.
    """
    out: list[ScoreRow] = []
    cases = [a.case or i for i, a in enumerate(answers)]
    kinds = dict.fromkeys((*KINDS, *(a.kind for a in answers)))
    for kind in kinds:
        own = [i for i, a in enumerate(answers) if a.kind == kind]
        labels = sorted({answers[i].label for i in own})
        for label in dict.fromkeys(("", *(labels if len(labels) > 1 or APART & set(labels) else ()))):
            some = [
                i for i in own if answers[i].label == label or (not label and answers[i].label not in APART)
            ]
            for m in measures:
                if kind in m.kinds:
                    out += _measured(m, kind, label, [(answers[i], cases[i]) for i in some], seed)
    for together in TOGETHER:
        out += together(answers, out, seed)
    return out


def _measured(
    m: Measure, kind: str, label: str, asked: Sequence[tuple[Answer, Hashable]], seed: int
) -> list[ScoreRow]:
    counted = _counted(m, asked)
    if not counted:
        return []
    floor = [m.floor(a) for _, a, _ in counted] if m.floor else []
    known = [float(f) for f in floor if f is not None]
    return [row(kind, m.score, [v for v, _, _ in counted], [c for _, _, c in counted], known, label, seed)]


def _counted(m: Measure, asked: Sequence[tuple[Answer, Hashable]]) -> list[tuple[float, Answer, Hashable]]:
    """What each answer that counts comes to, with its case; see `Measure.failed` for those that failed."""
    found = [(None if a.error and m.failed is not None else m.of(a), a, case) for a, case in asked]
    if any(value is not None for value, _, _ in found):
        found = [
            (m.failed if a.error and m.failed is not None else value, a, case) for value, a, case in found
        ]
    return [(float(value), a, case) for value, a, case in found if value is not None]


# -- what needs several answers at once


def _by_case(answers: Sequence[Answer], rows: Sequence[ScoreRow], seed: int) -> list[ScoreRow]:
    """MQuAKE: a case counts where any of its questions, or every one of its hops, is answered right."""
    out = []
    for kind, name, all_or_any in (("multi-hop", "any question", any), ("hop", "every hop", all)):
        by_case: dict[str, list[tuple[bool, bool]]] = {}
        for a in answers:
            if a.kind == kind and a.success is not None:
                by_case.setdefault(a.case, []).append((a.success, bool(judged(a, a.base))))
        if by_case:
            values = [float(all_or_any(s for s, _ in one)) for one in by_case.values()]
            floor = [float(all_or_any(b for _, b in one)) for one in by_case.values()]
            out.append(row(kind, name, values, list(by_case), floor, seed=seed))
    return out


def _harmonic(answers: Sequence[Answer], rows: Sequence[ScoreRow], seed: int) -> list[ScoreRow]:
    """S: the harmonic mean of efficacy, paraphrase and neighbourhood score, where all three are known.

    Its interval draws whole cases, for the three scores at once, and takes the harmonic mean of every draw.
    """
    names = (("edit", "efficacy"), ("paraphrase", "paraphrase score"), ("locality", "neighbourhood score"))
    found = [
        next((r for r in rows if (r["kind"], r["score"], r["label"]) == (*name, "")), None) for name in names
    ]
    if any(r is None for r in found):
        return []
    three: list[ScoreRow] = [r for r in found if r is not None]
    value, floor = (_mean([r[k] or 0.0 for r in three]) for k in ("value", "floor"))
    low, high = _drawn(answers, names, seed)
    return [{"kind": "edit", "label": "", "score": "S", "value": value, "low": low, "high": high, "floor": floor,
             "n": min(r["n"] for r in three)}]  # fmt: skip


def _drawn(
    answers: Sequence[Answer], names: Sequence[tuple[str, str]], seed: int, rounds: int = 1000
) -> tuple[float, float]:
    """95 % interval of the harmonic mean of scores (kind, name): whole cases drawn, the same for all of them.

    A draw in which one of the scores has no case says nothing and is passed over.
    """
    by: list[Hashable] = [a.case or i for i, a in enumerate(answers)]
    place = {case: i for i, case in enumerate(dict.fromkeys(by))}
    sums, counts = (np.zeros((len(names), len(place))) for _ in range(2))
    for at, (kind, name) in enumerate(names):
        measure = next(m for m in MEASURES if m.score == name)
        asked = [
            (a, case) for a, case in zip(answers, by, strict=True) if a.kind == kind and a.label not in APART
        ]
        for value, _, case in _counted(measure, asked):
            sums[at, place[case]] += value
            counts[at, place[case]] += 1
    rng, found = np.random.default_rng(seed), []
    for _ in range(rounds):
        draw = rng.integers(0, len(place), len(place))
        drawn = counts[:, draw].sum(1)
        if drawn.all():
            found.append(_mean(list(sums[:, draw].sum(1) / drawn)))
    low, high = np.percentile(found, [2.5, 97.5]) if found else (math.nan, math.nan)
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    """Harmonic mean; 0 where one of them is."""
    return 0.0 if min(values) <= 0 else float(len(values) / sum(1 / v for v in values))


TOGETHER: list[Callable[[Sequence[Answer], Sequence[ScoreRow], int], list[ScoreRow]]] = [_by_case, _harmonic]


def again(answers: Iterable[dict[str, Any]], seed: int = 0) -> list[ScoreRow]:
    """The scores of a run file's answers, computed anew; what was right is judged anew, too."""
    given = [Answer.from_dict(a) for a in answers]
    return summarise(
        [replace(a, success=judged(a, a.text) if a.error is None else a.success) for a in given], seed=seed
    )
