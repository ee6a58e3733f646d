"""Ten turns of contradiction: what is said, what counts, what is written down."""

from __future__ import annotations

import pytest

from memedit.data import Case, Query
from memedit.edit import Edit
from memedit.errors import DataError
from memedit.evaluation import pushback
from memedit.evaluation.pushback import DOUBTS, Doubted, doubted, scores, talked


def _edit(subject, new, old):
    return Edit(prompt=f"The capital of {subject} is", target=new, old=old, subject=subject)


FACTS = [Doubted(s, _edit(s, new, old), f"What is the capital of {s}?", old)
         for s, new, old in (("Italy", "Turin", "Rome"), ("Japan", "Osaka", "Tokyo"))]  # fmt: skip


def test_facts_that_can_be_doubted_have_one_edit_and_an_old_answer():
    asks = (
        Query("edit", "The capital of Italy is", ("Turin",)),
        Query("paraphrase", "Italy's capital?", ("Turin",)),
    )
    other = (Query("locality", "Where is Rome?"),)
    cases = [
        Case("a", _edit("Italy", "Turin", "Rome"), asks),
        Case("b", _edit("Spain", "Turin", "Rome"), other),
        Case("two", _edit("Japan", "Osaka", "Tokyo"), (), (_edit("Japan", "Kyoto", "Osaka"),)),
        Case("no old", Edit(prompt="Up is", target="down"), ()),
    ]
    assert [(d.case, d.question) for d in doubted(cases)] == [
        ("a", "Italy's capital?"),
        ("b", "The capital of Spain is"),
    ]
    assert len(doubted(cases, 1)) == 1
    with pytest.raises(DataError, match="nothing can be doubted"):
        doubted(cases[2:])


def test_the_user_never_names_the_new_answer_and_pushes_ten_times():
    said = [FACTS[0].said_by_user(turn) for turn in range(11)]
    assert len(set(said)) == 11
    assert not any("Turin" in text for text in said)
    assert sum("Rome" in text for text in said[1:]) == sum("{}" in d for d in DOUBTS) >= 6


def test_a_turn_stands_by_its_new_object_and_is_given_up_for_the_users():
    turn = pushback._turn
    assert turn(FACTS[0], "?", "It is still Turin, not Rome.", [1], True)["stands"]
    gone = turn(FACTS[0], "?", "You are right, it is Rome.", [], False)
    assert (gone["stands"], gone["given_up"]) == (False, True)
    neither = turn(FACTS[0], "?", "I do not know.", None, None)
    assert (neither["stands"], neither["given_up"]) == (False, False)


def test_scores_are_shares_at_each_turn_beside_the_bases():
    def talk(case, *stands):
        turns = [{"stands": s, "given_up": not s, "right": s} for s in stands]
        return {"case": case, "turns": turns}

    found = scores(
        [talk("a", True, True), talk("b", True, False)],
        [talk("a", False, False), talk("b", True, False)],
        (0, 1),
    )
    by = {(s["label"], s["score"]): s for s in found}
    assert by["turn 0", "edit stands"]["value"] == 1
    assert by["turn 1", "edit stands"]["value"] == 0.5
    assert by["turn 1", "given up"]["value"] == 0.5
    assert by["turn 0", "edit stands"]["floor"] == 0.5
    assert by["turn 1", "right edit fired"]["floor"] is None
    assert by["turn 0", "edit stands"]["n"] == 2


def test_routed_states_the_fact_anew_and_once_states_it_once(lm, classifier, tmp_path):
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        ids = memory.add([fact.edit for fact in FACTS]).ids
        model = EditedModel.from_pretrained(lm("llama"), memory=memory)
        options = {"turns": 2, "max_new_tokens": 2}
        routed = talked(model, FACTS, ids, "routed", **options)
        once = talked(model, FACTS, ids, "once", **options)
    assert [turn["right"] for talk in routed for turn in talk["turns"]] == [True] * 6
    assert all(turn["fired"] is None for talk in once for turn in talk["turns"])
    assert [turn["user"].startswith("Fact: The capital of Italy is Turin.") for turn in once[0]["turns"]] == [
        True,
        False,
        False,
    ]
    rows = pushback.answers(routed, once)
    assert len(rows) == 6
    assert rows[1]["label"] == "turn 1"
    assert rows[1]["base"] == once[0]["turns"][1]["assistant"]
