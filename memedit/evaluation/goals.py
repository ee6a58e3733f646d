"""What the shipped models are to reach, by data set and kind of question; and whether a run reached it.

A goal is judged where the shipped base and the shipped scope classifier answered, with all edits in memory at once, every
question routed; of several methods the one that does best on the data set's first goal. What was trained on a set's other
rows (the scope classifier) makes only its part "dev" count. Every miss keeps up to three examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memedit.evaluation.states import AFTER_ALL
from memedit.metrics import APART

EXAMPLES = 3
TOKENS = 16  # an answer that was cut off sooner is no miss of the model's
Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """One number to reach.

    Attributes:
        data: the data set's name. words: for people. kind, score, label: of the run's score. least: a share of 1.
        split: the part that counts; "" for any. asked: kind of the answers that are examples; "" for `kind`.
    """

    data: str
    words: str
    kind: str
    score: str
    least: float
    split: str = ""
    label: str = ""
    asked: str = ""


def _goals(data: str, success: float, general: float | None, locality: float, split: str = "") -> list[Goal]:
    paraphrases = (
        [Goal(data, "paraphrases", "paraphrase", "success", general, split)] if general is not None else []
    )
    return [
        Goal(data, "edit success", "edit", "success", success, split),
        *paraphrases,
        Goal(data, "locality", "locality", "unchanged", locality, split),
    ]


# CounterFact's own file has no paraphrases that are some: there generalisation is what EREN's questions about it say.
GOALS: tuple[Goal, ...] = (
    *_goals("counterfact-val", 0.96, 0.88, 0.98),
    Goal("counterfact-val", "general questions unchanged", "unrelated", "unchanged", 0.995),
    Goal("counterfact_hard_dev", "EREN's questions", "paraphrase", "success", 0.88),
    *_goals("wiki_counterfact_train", 0.95, None, 0.97, "dev"),
    *_goals("wiki_recent_train", 0.95, None, 0.97, "dev"),
    *_goals("zsre_mend_train-1k", 0.95, 0.88, 0.99, "dev"),
    Goal("coverage_edit", "newer edit wins", "edit", "success", 0.98),
    Goal("coverage", "newer edit wins", "conflict", "newer edit wins", 0.98, label="coverage", asked="edit"),
)


def judged(document: Mapping[str, Any], goals: Sequence[Goal] = GOALS) -> list[dict[str, Any]]:
    """The goals that a run file's runs were asked for, as a run file has them; none of another model's.

    Args:
        document: a run file. An example is a pair: place of the run, place of the answer in it.
    """
    from memedit.loading import SHIPPED

    if document["model"]["name"] not in SHIPPED or (document.get("setting") or {}).get("scope"):
        return []
    if document.get("decoding", {}).get("max_new_tokens", TOKENS) < TOKENS:
        return []
    parts = {data["name"]: data.get("split", "") for data in document["data"]}
    out = []
    for name in dict.fromkeys(goal.data for goal in goals):
        own = [goal for goal in goals if goal.data == name and goal.split in ("", parts.get(name))]
        able = [
            (place, run) for place, run in enumerate(document["runs"]) if run["data"] == name and _counts(run)
        ]
        if own and able:
            place, run = max(able, key=lambda one: ([_value(one[1], goal) or 0.0 for goal in own], -one[0]))
            out += [_judged(goal, place, run) for goal in own if _value(run, goal) is not None]
    return out


def _counts(run: Run) -> bool:
    """Whether a run is of the sort that the goals speak of."""
    method = run["method"].partition(":")[0]
    sort = run["way"], run["mode"], run["when"]
    return sort == ("routed", "all", AFTER_ALL) and method not in ("none", "oracle")


def _value(run: Run, goal: Goal) -> float | None:
    wanted = goal.kind, goal.label, goal.score
    return next((s["value"] for s in run["scores"] if (s["kind"], s["label"], s["score"]) == wanted), None)


def _judged(goal: Goal, place: int, run: Run) -> dict[str, Any]:
    value = _value(run, goal)
    met = value is not None and value >= goal.least
    what = f"{run['method']} on {goal.data}, {run['edits_in_memory']:,} edits: {goal.words}"
    return {
        "what": what, "value": value, "goal": goal.least, "met": met,
        "examples": [] if met else [[place, at] for at in _examples(goal, run)],
    }  # fmt: skip


def _examples(goal: Goal, run: Run) -> list[int]:
    """Places of misses: one of each sort (nothing fired, the wrong edit, the right one) before a second of any."""
    verdict = "unchanged" if goal.score == "unchanged" else "success"
    firsts: list[int] = []
    others: list[int] = []
    sorts: set[tuple[bool, Any]] = set()
    for at, answer in enumerate(run["answers"]):
        if (
            answer["kind"] != (goal.asked or goal.kind)
            or answer[verdict] is not False
            or answer["label"] in APART
        ):
            continue
        sort = bool(answer["fired"]), answer["right"]
        (others if sort in sorts else firsts).append(at)
        sorts.add(sort)
    return [*firsts, *others][:EXAMPLES]
