"""Goals: which runs they speak of, what is a miss, and which answers show why."""

from __future__ import annotations

import pytest

from memedit.evaluation.goals import GOALS, Goal, judged
from memedit.metrics import APART
from memedit.report import read_run

TABLE = (Goal("c", "edit success", "edit", "success", 0.9), Goal("c", "locality", "locality", "unchanged", 0.5, "dev"),
         Goal("c", "paraphrases", "paraphrase", "success", 0.9))  # fmt: skip


def said(kind, right, fired=(1,), label="", hit=None):
    out = kind == "locality"
    return {
        "case": "x", "kind": kind, "label": label, "prompt": "p", "answers": ["a"], "text": "t", "base": "b",
        "fired": list(fired), "right": hit, "success": None if out else right, "unchanged": right if out else None,
    }  # fmt: skip


def run(edit, locality, **more):
    scores = [{"kind": k, "label": "", "score": s, "value": v, "n": 9}
              for k, s, v in (("edit", "success", edit), ("locality", "unchanged", locality))]  # fmt: skip
    answers = [said("edit", True), *(said("edit", False, hit=True) for _ in range(3)), said("edit", False, (), hit=False),
               said("locality", False), said("locality", True, ())]  # fmt: skip
    return {"data": "c", "method": "ice", "way": "routed", "mode": "all", "when": "after-all", "edits_in_memory": 1234,
            "scores": scores, "answers": answers, **more}  # fmt: skip


def file(*runs, model="base", split="dev", scope=None):
    return {"format": 1, "model": {"name": model}, "setting": {"scope": scope}, "data": [{"name": "c", "split": split}],
            "runs": list(runs)}  # fmt: skip


def test_a_miss_names_answers_of_each_sort_that_the_report_finds():
    document = file(run(0.1, 0.1, method="none"), run(0.8, 0.5))
    edit, locality = judged(document, TABLE)  # nobody asked for paraphrases
    assert edit["what"] == "ice on c, 1,234 edits: edit success"
    assert (edit["value"], edit["goal"], edit["met"]) == (0.8, 0.9, False)
    assert edit["examples"] == [
        [1, 1],
        [1, 4],
        [1, 2],
    ]  # the right edit fired; none did; and one more of the first sort
    assert (locality["met"], locality["examples"]) == (True, [])
    read = read_run({**document, "goals": [edit]})
    found = [read.answer(place) for place in read.goals[0]["examples"]]
    assert [pair[1]["fired"] for pair in found if pair] == [[1], [], [1]]


def test_the_best_method_is_judged_by_all_its_numbers():
    low, high = judged(file(run(0.8, 1.0), run(0.95, 0.2, method="ike")), TABLE)
    assert (low["what"].split()[0], high["what"].split()[0]) == ("ike", "ike")
    assert (low["met"], high["met"]) == (True, False)


@pytest.mark.parametrize(
    "document",
    [
        file(run(0.8, 0.5), model="gpt2"),
        file(run(0.8, 0.5), scope="mine"),
        {**file(run(0.8, 0.5)), "decoding": {"max_new_tokens": 8}},
        file(run(0.8, 0.5, method="oracle:ice"), run(0.8, 0.5, method="none")),
        file(run(0.8, 0.5, way="merged"), run(0.8, 0.5, mode="single"), run(0.8, 0.5, mode="batch:9")),
        file(run(0.8, 0.5, mode="sequential", when="after-each"), run(0.8, 0.5, data="d")),
    ],
)
def test_other_models_ways_and_modes_have_no_goals(document):
    assert judged(document, TABLE) == []


def test_rows_that_were_trained_on_do_not_count():
    assert [goal["what"][-12:] for goal in judged(file(run(0.8, 0.5), split="all"), TABLE)] == [
        "edit success"
    ]


def test_what_is_no_paraphrase_is_no_example():
    label = next(iter(APART))
    rows = [said("paraphrase", False, label=label), said("paraphrase", False)]
    score = {"kind": "paraphrase", "label": "", "score": "success", "value": 0, "n": 1}
    (goal,) = judged(file(run(0, 0, scores=[score], answers=rows)), TABLE)
    assert goal["examples"] == [[0, 1]]


def test_the_table_has_each_goal_once():
    keys = [(g.data, g.kind, g.score, g.label) for g in GOALS]
    assert len(set(keys)) == len(keys)
    assert all(0.8 < g.least < 1 for g in GOALS)
