"""The evaluation engine: what is in memory when, who is asked what, what a stopped run leaves, what a failure counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memedit.data import Case, Query
from memedit.edit import Edit
from memedit.errors import DataError, MemeditError
from memedit.evaluation import DataSet, Evaluation, Job, Options, Record, load
from memedit.evaluation.answer import Answer, questions
from memedit.evaluation.scores import again, summarise
from memedit.evaluation.states import steps

PEOPLE = (("Ann Ode", "Oslo", "Bo Lind"), ("Cy Moe", "Lima", "Dee Fox"), ("Eli Gray", "Kyoto", "Fay Hart"))


def record(i: int) -> dict:
    subject, target, other = PEOPLE[i]
    return {
        "case_id": i, "prompt": f"{subject} was born in", "target_new": target, "subject": subject, "ground_truth": "Rome",
        "rephrase": f"The birthplace of {subject} is", "locality_prompt": f"{other} was born in",
        "locality_ground_truth": "Rome",
    }  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    path = tmp_path / "people.json"
    path.write_text(json.dumps([record(i) for i in range(3)]))
    return load(str(path))


def evaluate(base, jobs, **options):
    keep = Record(None, {})
    try:
        return Evaluation(base, keep, Options(max_new_tokens=6, **options)).run(jobs)
    finally:
        keep.close()


def scores(run):
    return {(s["kind"], s["score"]): s for s in run["scores"] if not s["label"]}


def test_modes_say_what_is_in_memory_and_when_it_is_asked():
    def plan(mode):
        return [(list(s.add), list(s.ask), s.when, s.alone) for s in steps(mode, 3)]

    assert plan("all") == [([0, 1, 2], [0, 1, 2], "after-all", True)]
    assert plan("batch:2") == [([0, 1], [0, 1], "after-all", True), ([2], [2], "after-all", True)]
    assert plan("single") == [([i], [i], "after-all", True) for i in range(3)]
    assert plan("sequential") == [
        *(([i], [i], "after-each", i == 0) for i in range(3)),
        ([], [0, 1, 2], "after-all", False),
    ]
    with pytest.raises(DataError, match="unknown mode 'batch:0'"):
        list(steps("batch:0", 3))


@pytest.mark.parametrize(
    ("mode", "held"), [("all", [3]), ("single", [1]), ("batch:2", [2]), ("sequential", [3, 3])]
)
def test_each_mode_routes_every_question_and_leaves_what_is_out_of_scope(lm, data, mode, held):
    runs = evaluate(lm("llama"), [Job(data, "ice", mode=mode)], general=["how long do eggs take to boil"])
    assert [run["edits_in_memory"] for run in runs] == held
    last = runs[-1]
    assert len(last["answers"]) == 3 * 3 + 1
    found = scores(last)
    assert found["edit", "right edit fired"]["value"] == 1
    assert found["locality", "unchanged"]["value"] == found["unrelated", "unchanged"]["value"] == 1
    assert [run["when"] for run in runs] == (["after-each"] if mode == "sequential" else []) + ["after-all"]
    # an edit is found by the ids of the memory it is in, and no two edits share one there
    fired = [a["fired"] for a in last["answers"] if a["kind"] == "edit"]
    assert all(len(ids) == 1 for ids in fired)
    assert len({ids[0] for ids in fired}) == 3


def test_none_is_the_floor_of_the_others_and_an_oracle_always_fires_the_right_edit(lm, data):
    none, routed, oracle = evaluate(lm("llama"), [Job(data, m) for m in ("none", "ice", "oracle")])
    assert all(a["text"] == a["base"] and a["fired"] is None for a in none["answers"])
    assert [a["base"] for a in oracle["answers"] if a["kind"] == "locality"] == [
        a["text"] for a in none["answers"] if a["kind"] == "locality"
    ]
    for kind in ("edit", "paraphrase"):
        assert scores(oracle)[kind, "right edit fired"]["value"] == 1
        assert scores(none)[kind, "success_tf"]["value"] == scores(routed)[kind, "success_tf"]["floor"]
    assert all(bool(a["fired"]) == (a["kind"] != "locality") for a in oracle["answers"])


def test_answers_are_those_that_are_given_one_by_one(lm, data):
    """Batches change nothing but the time, and teacher-forced scores are the models' own."""
    (batched,), (alone,) = (evaluate(lm("llama"), [Job(data, "oracle")], batch_size=n) for n in (32, 1))
    assert [a["text"] for a in batched["answers"]] == [a["text"] for a in alone["answers"]]
    for one, other in zip(batched["answers"], alone["answers"], strict=True):
        for name in ("new", "old", "base_new", "base_old"):
            assert one["forced"][name] == pytest.approx(other["forced"][name], abs=1e-3)
    base, edit = lm("llama"), batched["answers"][0]
    (score,) = base.score([edit["prompt"]], [edit["answers"][0]])
    assert edit["forced"]["base_new"][1] == pytest.approx(score.logprob, abs=1e-3)
    assert edit["forced"]["new"][1] != pytest.approx(score.logprob, abs=1e-3)


def test_a_neighbour_that_is_another_edits_own_prompt_is_left_out_and_counted(tmp_path):
    rows = [record(i) for i in range(3)]
    rows[0]["locality_prompt"] = f"{rows[1]['prompt'].upper()}?"
    path = tmp_path / "people.json"
    path.write_text(json.dumps(rows))
    found = load(str(path))
    assert [sum(q.kind == "locality" for q in c.queries) for c in found.cases] == [0, 1, 1]
    assert (found.edited, found.to_dict()["questions_left_out"]) == (1, 1)
    assert load(str(path), together=False).edited == 0  # alone in memory, nothing answers it


def test_a_failed_answer_counts_as_wrong_in_every_score(lm, data):
    (run,) = evaluate(lm("llama"), [Job(data, "oracle")])
    fine = {(s["kind"], s["score"]): s for s in run["scores"]}
    first = next(a for a in run["answers"] if a["kind"] == "edit")
    failed = {**first, "text": "", "forced": None, "success": False, "error": "no room"}
    found = {(s["kind"], s["score"]): s for s in again([failed if a is first else a for a in run["answers"]])}
    for score in ("success", "success_tf", "efficacy", "exact"):
        assert found["edit", score]["n"] == fine["edit", score]["n"] == 3, score
        assert found["edit", score]["value"] <= 2 / 3 + 1e-9
    assert found["edit", "old answer given"]["n"] == 2  # nothing was said, the old answer neither


def test_an_opinion_is_told_by_feeling_and_its_locality_by_divergence(lm, tmp_path):
    rows = [
        {"ent": "umbrellas", "pos": ["Lovely."], "neg": ["Awful."]},
        {"ent": "tea", "pos": ["Nice."], "neg": ["Sad."]},
    ]
    path = tmp_path / "convsent.json"
    path.write_text(json.dumps(rows))
    routed, none = evaluate(lm("llama"), [Job(load(str(path)), m) for m in ("ice", "none")])
    for run in (routed, none):
        found = scores(run)
        assert found["opinion", "feeling as asked"]["n"] == 6
        assert found["locality", "kl"]["value"] == 0  # no topic of the file
        assert again(run["answers"]) == run["scores"]
    assert scores(routed)["opinion", "right edit fired"]["value"] > 0
    asked = next(a for a in routed["answers"] if a["kind"] == "opinion")
    for feeling, text in (("positive", "They are lovely."), ("negative", "They are awful.")):
        (told,) = (
            s for s in again([{**asked, "text": text}]) if s["score"] == "feeling as asked" and not s["label"]
        )
        assert told["value"] == (feeling == asked["label"])


def test_divergence_is_that_of_an_edit_which_fires(lm, data):
    """As of a question about another topic for which an edit fires wrongly."""
    case = Case(
        "1", data.cases[0].edit, (Query("locality", f"{PEOPLE[0][0]} was born in", (), "other topic"),)
    )
    one = DataSet("one", "", "memedit", "", "all", (case,), 0)
    run, none = evaluate(lm("llama"), [Job(one, m) for m in ("ice", "none")])
    assert run["answers"][0]["fired"]
    assert run["answers"][0]["kl"] > 1e-4
    assert none["answers"][0]["kl"] == 0


def test_beginnings_of_texts_are_asked_for_fluency_alone(lm, data):
    case = Case("1", data.cases[0].edit, (Query("generation", "Ann Ode is known for"),))
    one = DataSet("one", "", "memedit", "", "all", (case,), 0)
    assert evaluate(lm("llama"), [Job(one, "ice")]) == []  # nothing is asked
    (run,) = evaluate(lm("llama"), [Job(one, "ice")], sampled=12)
    assert set(scores(run)) <= {("generation", "fluency"), ("generation", "sampled fluency")}
    assert scores(run)["generation", "sampled fluency"]["n"] == 1


def test_texts_are_drawn_for_fluency_where_that_is_asked_for(lm, data):
    (run,) = evaluate(lm("llama"), [Job(data, "oracle")], sampled=20)
    (twice,) = evaluate(lm("llama"), [Job(data, "oracle")], sampled=20)
    assert run["answers"] == twice["answers"]  # by the seed
    drawn = [a["sampled"] for a in run["answers"] if a["kind"] == "edit"]
    assert len(drawn) == 3
    assert all(len(text) > len(a["text"]) for a in run["answers"] if "sampled" in a for text in a["sampled"])
    assert not any("sampled" in a for a in run["answers"] if a["kind"] != "edit")
    found = scores(run)["edit", "sampled fluency"]
    assert found["n"] == 3
    assert found["value"] != found["floor"]
    assert again(run["answers"]) == run["scores"]
    (plain,) = evaluate(lm("llama"), [Job(data, "oracle")])
    assert ("edit", "sampled fluency") not in scores(plain)


def test_merged_edits_change_the_copy_and_sequential_ones_are_asked_twice(lm, data):
    settings = {"ft-m": {"steps": 3}}
    each, every = evaluate(lm("gpt2"), [Job(data, "ft-m", "merged", "sequential")], settings=settings)
    assert (each["when"], every["when"]) == ("after-each", "after-all")
    assert every["edits_in_memory"] == 3
    assert all(a["fired"] is None and a["route"] is None for a in each["answers"] + every["answers"])
    # the last case has seen the same edits both times; the first one was asked when it was alone
    assert [a["forced"] for a in each["answers"][-3:]] == [a["forced"] for a in every["answers"][-3:]]
    assert [a["forced"] for a in each["answers"][:3]] != [a["forced"] for a in every["answers"][:3]]
    single = evaluate(lm("gpt2"), [Job(data, "ft-m", "merged", "single")], settings=settings)[0]
    assert single["edits_in_memory"] == 1
    assert [a["forced"] for a in single["answers"][:3]] == [a["forced"] for a in each["answers"][:3]]
    with pytest.raises(MemeditError, match="oracle routes"):
        Job(data, "oracle", "merged")


def test_a_method_that_fails_on_one_case_is_counted_and_named_and_the_run_goes_on(lm, data, monkeypatch):
    from memedit.methods.ice import ICE

    context = ICE.context

    def stumbles(self, edits):
        if any("Cy Moe" in e.statement for e in edits):
            raise ArithmeticError("singular matrix")
        return context(self, edits)

    monkeypatch.setattr(ICE, "context", stumbles)
    (run,) = evaluate(lm("llama"), [Job(data, "oracle")])
    assert run["failed"] == [{"case": "1", "error": "ArithmeticError: singular matrix"}]
    assert len(run["answers"]) == 9
    wrong = [a for a in run["answers"] if a.get("error")]
    assert [(a["kind"], a["text"], a["success"]) for a in wrong] == [
        ("edit", "", False),
        ("paraphrase", "", False),
    ]
    assert scores(run)["edit", "success"]["n"] == 3


def test_a_merge_that_fails_is_named_with_its_case(lm, data, monkeypatch):
    from memedit.merging import Merged

    add = Merged.add

    def stumbles(self, edit):
        if edit.subject == "Cy Moe":
            raise MemeditError("no finite step")
        return add(self, edit)

    monkeypatch.setattr(Merged, "add", stumbles)
    (run,) = evaluate(lm("gpt2"), [Job(data, "ft-m", "merged")], settings={"ft-m": {"steps": 1}})
    assert run["failed"] == [{"case": "1", "error": "no finite step"}]
    assert run["edits_in_memory"] == 2


def test_a_later_edit_of_the_same_case_is_the_one_that_should_fire(lm):
    first, second = (
        Edit(prompt="Ann Ode was born in", target=t, subject="Ann Ode") for t in ("Oslo", "Lima")
    )
    asked = tuple(Query("edit", "Ann Ode was born in", ("Lima",), of=n) for n in (0, 1))
    cases = (Case("c", first, asked, (second,)),)
    (run,) = evaluate(lm("llama"), [Job(DataSet("twice", "", "", "", "all", cases, 0), "ice")])
    assert [a["right"] for a in run["answers"]] == [True, True]
    assert run["edits_in_memory"] == 1


# -- scores


def said(kind: str, text: str, answers=("Oslo",), **more) -> Answer:
    given = {
        "case": "1",
        "label": "",
        "prompt": "?",
        "old": None,
        "base": "Rome",
        "fired": (),
        "right": None,
        **more,
    }
    out = Answer(kind=kind, text=text, answers=answers, **given)
    out.success = text.startswith(answers[0]) if answers and kind not in ("locality", "old") else None
    return out


def test_probability_shift_is_per_token_and_only_where_both_answers_are_known():
    forced = {"new": [1.0, -1.0, 2], "old": [0.0, -4.0, 2], "base_new": [0.0, -6.0, 2], "base_old": [1.0, -0.2, 2],
              "unchanged": 1.0}  # fmt: skip
    answers = [
        said("edit", "Oslo", forced=forced, old="Rome"),
        said("edit", "Oslo", forced={**forced, "old": None}),
        said("paraphrase", "Oslo", forced=forced, old="Rome"),
        said("locality", "Rome", ("Rome",), forced=forced, old="Rome"),
        said(
            "locality", "x", ("Bern",), forced=forced, old="Rome"
        ),  # not a neighbour that shares the old answer
    ]
    found = {(s["kind"], s["score"]): s for s in summarise(answers)}
    assert (
        found["edit", "efficacy"]["value"],
        found["edit", "efficacy"]["floor"],
        found["edit", "efficacy"]["n"],
    ) == (1, 0, 1)
    assert found["edit", "efficacy magnitude"]["value"] == pytest.approx(2.718281828**-0.5 - 2.718281828**-2)
    assert found["locality", "neighbourhood score"]["n"] == 1
    assert found["locality", "neighbourhood score"]["value"] == 0
    assert found["edit", "S"]["value"] == 0  # a harmonic mean with a nought in it


def test_kinds_labels_cases_and_intervals():
    answers = [
        *(said("portability", "Oslo" if i else "Rome", case=str(i), label="Reasoning") for i in range(4)),
        said("portability", "Rome", case="4", label="Subject_Aliasing"),
        said("multi-hop", "Rome", case="5"),
        said("multi-hop", "Oslo", case="5"),
        said("hop", "Oslo", case="5"),
        said("hop", "Rome", case="5"),
    ]
    found = {(s["kind"], s["score"], s["label"]): s for s in summarise(answers)}
    assert found["portability", "success", ""]["value"] == pytest.approx(0.6)
    assert found["portability", "success", "Reasoning"]["value"] == pytest.approx(0.75)
    whole = found["portability", "success", ""]
    assert whole["low"] < whole["value"] < whole["high"]
    assert (whole["floor"], whole["n"]) == (0, 5)
    assert found["multi-hop", "success", ""]["value"] == 0.5
    assert found["multi-hop", "any question", ""]["value"] == 1
    assert found["hop", "every hop", ""]["value"] == 0


def test_erasure_counts_the_old_answer_and_refusals():
    gone = said("edit", "I don't know.", (), old="Rome", base="Rome.")
    there = said("edit", "It is Rome, I think", (), old="Rome", base="Rome.")
    found = {s["score"]: s for s in summarise([gone, there])}
    assert (found["old answer given"]["value"], found["old answer given"]["floor"]) == (0.5, 1)
    assert (found["refused"]["value"], found["refused"]["floor"]) == (0.5, 0)


def test_what_is_mostly_no_paraphrase_counts_in_no_score_of_paraphrases():
    good, bad = said("paraphrase", "Oslo"), said("paraphrase", "Rome", label="rephrase_prompt")
    found = {(s["score"], s["label"]): s for s in summarise([good, bad])}
    assert (found["success", ""]["value"], found["success", ""]["n"]) == (1, 1)
    assert (found["success", "rephrase_prompt"]["value"], found["success", "rephrase_prompt"]["n"]) == (0, 1)
    assert {s["label"] for s in summarise([bad])} == {"rephrase_prompt"}


def test_scores_come_out_of_a_run_file_again(lm, data):
    (run,) = evaluate(lm("llama"), [Job(data, "ice")])
    assert again(json.loads(json.dumps(run))["answers"]) == run["scores"]


def test_questions_of_each_sort_can_be_limited():
    many = tuple(Query("locality", f"q{i}", label="a" if i < 3 else "b") for i in range(5))
    case = Case("c", Edit(statement="Tea is blue."), (*many, Query("ripple", "never asked")))
    assert [q.prompt for q in questions([case], most=1)] == ["q0", "q3"]
