"""ConflictEdit and RoundEdit: two edits that can't both be true, and a fact that is edited away and back.

Reference: Li et al., "Unveiling the Pitfalls of Knowledge Editing for Large Language Models", arXiv 2310.02129; the scores are
those of its section 3, as its published evaluation computes them. The probability of an answer is the geometric mean over its
tokens, and of a fact the mean over its prompt and the relation's other forms.

    conflict score       CS  = share of cases with p(new) > p(old) after both edits
    conflict magnitude   CM  = mean of max((p1(old) - p2(old)) / p1(old), -1): after the first edit, and after both
    tied fact damage     TFD = mean of (p0(fact) - p2(fact)) / p0(fact), of the fact that ties a composite's edits
    success score        of coverage: share with p(new) > p(old) after the second edit alone; of a round: half for each way
    distortion           D   = Jensen-Shannon divergence (nats) of the true answers' probabilities before and after the round
    ignore rate          IR  = share of the other true answers that lost probability; failure rate FR = share with IR > 1/2

The published evaluation divides D by the number of answers (a mean taken over the wrong axis); here it is the divergence
itself, two to four times as large. A fact whose probability can't be told from nothing counts in no ratio. Beside these
stands what a user meets: greedy answers, in which the newer edit has to win.

A routed memory holds the edits of all cases at once. Merged edits are written case by case into a fresh copy, which is the
papers' own protocol and the kinder one; what many of them do to a model is drift's to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.errors import ModelError
from memedit.evaluation import asking
from memedit.evaluation.answer import described
from memedit.evaluation.parts import Parts, Row
from memedit.evaluation.pitfall_cases import FILES, ROUNDS, Pitfall
from memedit.evaluation.pitfall_whole import whole
from memedit.evaluation.scores import row
from memedit.metrics import starts_with

if TYPE_CHECKING:
    from memedit.drift import Answering
    from memedit.lm import HFModel
    from memedit.merging import Merged

LEAST = 1e-12  # a probability that is as good as none
OPTIONS: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}


# -- asking


def probabilities(model: Answering, cases: Sequence[Pitfall], batch_size: int = 32) -> list[dict[str, float]]:
    """For each case the probability of each of its probes.

    Raises:
        ModelError: one of them is no number.
    """
    asked = [
        (i, name, prompt, probe.target)
        for i, case in enumerate(cases)
        for name, probe in case.probes.items()
        for prompt in probe.prompts
    ]
    scores = model.score([row[2] for row in asked], [row[3] for row in asked], batch_size=batch_size)
    found: list[dict[str, list[float]]] = [{} for _ in cases]
    for (i, name, _, _), score in zip(asked, scores, strict=True):
        if math.isnan(score.logprob):
            raise ModelError("the model's probabilities are no numbers: its weights have collapsed")
        found[i].setdefault(name, []).append(math.exp(score.logprob / max(1, len(score.agreed))))
    return [{name: sum(each) / len(each) for name, each in one.items()} for one in found]


def said(model: Any, cases: Sequence[Pitfall], batch_size: int = 32) -> list[list[tuple[str, str]]]:
    """For each case (prompt, greedy answer), to what its second edit answers; of a reverse also to what follows from it."""
    asks = _asks(cases)
    flat = [prompt for own in asks for prompt in own]
    texts = iter(model.generate(flat, batch_size=batch_size, **OPTIONS) if flat else ())
    return [[(prompt, next(texts)) for prompt in own] for own in asks]


def _asks(cases: Sequence[Pitfall]) -> list[list[str]]:
    return [
        [*case.asked.prompts, *(case.probes["new"].prompts if case.kind == "reverse" else ())]
        for case in cases
    ]


@dataclass
class Found:
    """What was found of one case: probabilities by state ("base", "first", "both", "second"), answers after both edits and
    the base's, or why there is nothing. fired, routes: of a routed memory, ids of the edits used for each answer and the
    verdict in plain types; id: the second edit's.
    """

    case: Pitfall
    p: dict[str, dict[str, float]] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(default_factory=list)
    base: list[tuple[str, str]] = field(default_factory=list)
    fired: list[list[int]] | None = None
    id: int = -1
    error: str | None = None
    routes: list[dict[str, Any] | None] = field(default_factory=list)


def routed(
    base: HFModel,
    cases: Sequence[Pitfall],
    method: str,
    folder: Path,
    *,
    batch_size: int = 32,
    settings: Any = None,
    opening: Mapping[str, Any] | None = None,
    false_fire_rate: float | None = None,
    drift: Callable[[Any], Any] | None = None,
    parts: Parts | None = None,
) -> tuple[list[Found], Any]:
    """All cases' edits in one memory: the first ones, then the second ones as well; and the second ones alone in another.

    A case that fails is counted with its error, and the others go on. What was found, and what `drift` said.

    Args:
        folder: where the memories are made. drift: is asked about the model that holds all edits. parts: keeps the batches.
    """
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    parts, measured = parts or Parts(), None
    alone = any(case.kind == "coverage" for case in cases)
    parts.total = (3 if alone else 2) * len(cases)
    found = _begun(base, cases, batch_size, parts)
    for one in found:
        one.fired = []
    for name, states in (("both", ("first", "both")), ("alone", ("second",)))[: 2 if alone else 1]:
        with EditMemory.open(folder / name, **(opening or {})) as memory:
            model = EditedModel.from_pretrained(
                base, memory=memory, method=method, settings=settings, false_fire_rate=false_fire_rate
            )
            for state in states:
                ids = memory.add([case.first if state == "first" else case.second for case in cases]).ids

                def ask(some: Sequence[Pitfall], model: Any = model, state: str = state) -> list[Row]:
                    return _rows(model, some, batch_size, {state}, state == "both", routed=True)

                rows = parts.asked(state, cases, batch_size, ask, _failed)
                for one, id, got in zip(found, ids, rows, strict=True):
                    one.id = id if state == "both" else one.id
                    _put(one, got)
                if state == "both":
                    measured = _drift(parts, drift, partial(_unfailed, model))
    return found, measured


def _rows(
    model: Any, cases: Sequence[Pitfall], batch_size: int, states: Iterable[str], told: bool, routed: bool = False
) -> list[Row]:  # fmt: skip
    """What a model makes of some cases, in plain types; told: its answers too."""
    rows: list[Row] = [{"p": dict.fromkeys(states, p)} for p in probabilities(model, cases, batch_size)]
    if told:
        for row, texts in zip(rows, said(model, cases, batch_size), strict=True):
            row["said"] = texts
    if told and routed:
        asks = _asks(cases)
        routes = iter(model.route([prompt for own in asks for prompt in own]))
        for row, own in zip(rows, asks, strict=True):
            mine = [next(routes) for _ in own]
            row["fired"] = [[c.id for c in route.edits] for route in mine]
            row["routes"] = [described(route) for route in mine]
    return rows


def _failed(case: Pitfall, error: str) -> Row:
    return {"error": error}


def _put(one: Found, row: Row) -> None:
    one.p.update(row.get("p", {}))
    one.error = one.error or row.get("error")
    if "said" in row:
        one.said = [(prompt, text) for prompt, text in row["said"]]
    if "fired" in row:
        one.fired, one.routes = row["fired"], row["routes"]


def merged(
    base: HFModel,
    cases: Sequence[Pitfall],
    method: str,
    *,
    batch_size: int = 32,
    settings: Mapping[str, Any] | None = None,
    drift: Callable[[Any], Any] | None = None,
    parts: Parts | None = None,
) -> tuple[list[Found], Any]:
    """Each case's edits in the weights of a fresh copy; `drift` is asked about one copy that holds the edits of all.

    A case whose edit can't be solved is counted with its error, and the others go on.
    """
    from memedit.merging import Merged
    from memedit.methods import load_method

    def fresh() -> Merged:
        return Merged(base, load_method(method, **(settings or {})))

    parts = parts or Parts()
    parts.total = len(cases) * (3 if drift else 1)
    found = _begun(base, cases, batch_size, parts)
    rows = parts.asked("case", cases, 1, lambda some: [_merge(fresh, some[0], batch_size)], _failed)
    for one, got in zip(found, rows, strict=True):
        _put(one, got)
    return found, _drift(parts, drift, lambda: whole(fresh, cases, parts))


def _merge(fresh: Callable[[], Merged], case: Pitfall, batch_size: int) -> Row:
    copy = fresh()
    copy.add(case.first)
    (row,) = _rows(copy.lm, [case], batch_size, ["first"], told=False)
    copy.add(case.second)
    (both,) = _rows(copy.lm, [case], batch_size, ["both"], told=True)
    found = {**both, "p": row["p"] | both["p"]}
    if case.kind == "coverage":
        copy = fresh()
        copy.add(case.second)
        (row,) = _rows(copy.lm, [case], batch_size, ["second"], told=False)
        found["p"] |= row["p"]
    return found


def _begun(base: HFModel, cases: Sequence[Pitfall], batch_size: int, parts: Parts) -> list[Found]:
    """The base's part, which all runs on these cases share."""
    rows = parts.base().asked(
        "asked", cases, batch_size, lambda some: _rows(base, some, batch_size, ["base"], told=True), _failed
    )
    found = [Found(case) for case in cases]
    for one, got in zip(found, rows, strict=True):
        _put(one, got)
        one.base, one.said = one.said, []
    return found


def _unfailed(lm: Any) -> tuple[Any, list[dict[str, str]]]:
    return lm, []


def _drift(parts: Parts, drift: Callable[[Any], Any] | None, model: Callable[[], tuple[Any, Any]]) -> Any:
    """What `drift` says of a model, kept; what failed on the way is among the parts' failures."""
    if drift is None:
        return None

    def make() -> Row:
        failed: list[dict[str, str]] = []
        try:
            lm, failed = model()
            return {"drift": drift(lm), "failed": failed}
        except Exception as error:  # as of a model that has collapsed: the answers stand without it
            return {"drift": None, "failed": [*failed, {"case": "drift", "error": asking.said(error)}]}

    kept = parts.kept("drift", make)
    parts.failed += kept["failed"]
    return kept["drift"]


# -- scores

Values = list[
    tuple[float, float | None]
]  # of each case: the edited model's, the base's where that says something


def scores(found: Sequence[Found], seed: int = 0) -> list[dict[str, Any]]:
    """Every score of each kind that was measured, as a run file has them: kind "conflict" or "round", label the data's.

    A case that failed has the worst value of each.
    """
    out = []
    for label in FILES:
        own = [one for one in found if one.case.kind == label]
        if not own:
            continue
        kind, of = ("round", _of_rounds) if label in ROUNDS else ("conflict", _of_conflicts)
        for name, values in {**_of_answers(own), **of(own)}.items():
            if values:
                floor = [base for _, base in values if base is not None]
                out.append(row(kind, name, [value for value, _ in values], None, floor, label, seed))
    return out


def _of_answers(found: Sequence[Found]) -> dict[str, Values]:
    """Greedy answers after both edits: is it the newer one's, the older one's, and does what follows from it hold."""
    out: dict[str, Values] = {}

    def put(name: str, one: Found, part: slice, target: str, worst: float = 0.0) -> None:
        if one.said[part] or (one.error and _asks([one.case])[0][part]):
            value = worst if one.error else _share(one.said[part], target)
            out.setdefault(name, []).append((value, _share(one.base[part], target) if one.base else None))

    for one in found:
        case, many = one.case, len(one.case.asked.prompts)
        put("newer edit wins", one, slice(1), case.second.target or "")
        put("newer edit wins, other forms", one, slice(1, many), case.second.target or "")
        if case.kind in ("coverage", *ROUNDS):  # else the two edits answer different questions
            put("older edit given", one, slice(many), case.first.target or "", worst=1.0)
        put("reversed fact known", one, slice(many, None), case.probes["new"].target)
        for name, part in (("right edit fired", slice(1)), ("right edit fired, other forms", slice(1, many))):
            if one.fired is None or not case.asked.prompts[part]:
                continue
            used = [] if one.error else one.fired[part]
            out.setdefault(name, []).append((sum(one.id in ids for ids in used) / max(1, len(used)), None))
    return out


def _share(texts: Sequence[tuple[str, str]], target: str) -> float:
    return sum(starts_with(text, [target]) for _, text in texts) / max(1, len(texts))


def _of_conflicts(found: Sequence[Found]) -> dict[str, Values]:
    cs, cm, tied, alone = Values(), Values(), Values(), Values()
    for one in found:
        p, base = one.p, one.p.get("base", {})
        floor = float(base["new"] > base["old"]) if base else None
        known = base.get("tied", 0.0) > LEAST if base else "tied" in one.case.probes
        if one.error:
            cs.append((0.0, floor))
            cm.append((-1.0, None))
            tied += [(1.0, None)] * known
            alone += [(0.0, None)] * (one.case.kind == "coverage")
            continue
        cs.append((float(p["both"]["new"] > p["both"]["old"]), floor))
        if p["first"]["old"] > LEAST:
            cm.append((max(_lost(p["first"]["old"], p["both"]["old"]), -1.0), None))
        if known:
            tied.append((_lost(base["tied"], p["both"]["tied"]), None))
        if one.case.kind == "coverage" and "second" in p:
            alone.append((float(p["second"]["new"] > p["second"]["old"]), None))
    return {"conflict score": cs, "conflict magnitude": cm, "tied fact damage": tied, "success score": alone}


def _lost(before: float, after: float) -> float:
    return (before - after) / before


def _of_rounds(found: Sequence[Found]) -> dict[str, Values]:
    distorted, ignored, failed, succeeded = Values(), Values(), Values(), Values()
    for one in found:
        names = ["old", *(name for name in one.case.probes if name.startswith("other"))]
        if one.error:
            succeeded.append((0.0, None))
            distorted.append((math.log(2), None))  # as much as there can be
            ignored += [(1.0, None)] * (len(names) > 1)
            failed += [(1.0, None)] * (len(names) > 1)
            continue
        before, after = ([one.p[state][name] for name in names] for state in ("base", "both"))
        there, back = (one.p[state]["new"] > one.p[state]["old"] for state in ("first", "both"))
        succeeded.append(((there + (not back)) / 2, None))
        distorted.append((divergence(before, after), None))
        if len(names) > 1:
            lost = sum(b > a for b, a in zip(before[1:], after[1:], strict=True)) / (len(names) - 1)
            ignored.append((lost, None))
            failed.append((float(lost > 0.5), None))
    return {
        "distortion": distorted,
        "ignore rate": ignored,
        "failure rate": failed,
        "success score": succeeded,
    }


def divergence(p: Iterable[float], q: Iterable[float]) -> float:
    """Jensen-Shannon divergence in nats of two lists of weights, each made to sum to 1."""
    p, q = list(p), list(q)
    p, q = ([x / max(sum(xs), LEAST) for x in xs] for xs in (p, q))
    half = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(xs: list[float]) -> float:
        return sum(x * math.log(x / m) for x, m in zip(xs, half, strict=True) if x > 0 and m > 0)

    return (kl(p) + kl(q)) / 2


def answers(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Every greedy answer as a run file has them, with the probabilities of its case beside the first."""
    out = []
    for one in found:
        many, bases = len(one.case.asked.prompts), dict(one.base)
        said = one.said or [(prompt, "") for prompt in _asks([one.case])[0] if one.error]
        for n, (prompt, text) in enumerate(said):
            turned = n >= many
            target = one.case.probes["new"].target if turned else one.case.second.target or ""
            kind = "reversal" if turned else "paraphrase" if n else "edit"
            fired = one.fired[n] if one.fired else None
            right = one.id in (fired or ()) if one.fired is not None and not turned else None
            row = {
                "case": one.case.case, "kind": kind, "label": one.case.kind, "prompt": prompt, "answers": [target],
                "old": None if turned else one.case.first.target, "base": bases.get(prompt, ""), "text": text,
                "fired": fired, "right": right, "route": one.routes[n] if one.routes else None,
                "success": not one.error and starts_with(text, [target]), "unchanged": None, "forced": None,
                **({"error": one.error} if one.error else {}),
            }  # fmt: skip
            out.append({**row, "probabilities": one.p} if n == 0 else row)
    return out
