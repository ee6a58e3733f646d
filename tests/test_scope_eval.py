"""Scope scores: what a query is to an edit, what stands in memory beside it, who decides, and how it is counted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from memedit.data import Case, Query
from memedit.edit import Edit
from memedit.scope import SHIPPED
from memedit.scope_eval import run, scores, session, sets
from memedit.scope_eval.cases import ScopeCase, asked, scope_kind, settled
from memedit.scope_eval.crowd import Crowd, Remembered, Vectors
from memedit.scope_eval.goals import beside, goals
from memedit.scope_eval.judges import BM25, Classifier, Cosine, Judge, Piece, Top
from memedit.scope_eval.known import wiki
from memedit.scope_eval.public import Public
from memedit.scope_eval.run import Scored
from memedit.scope_eval.scores import Asked, summary

PEOPLE = [
    ("Ann Ode", "Oslo"),
    ("Bo Lind", "Lima"),
    ("Cy Moe", "Rome"),
    ("Dee Fox", "Bern"),
    ("Eve Gil", "Graz"),
]


def case(
    subject: str, target: str, relation: str = "P19", verb: str = "was born in", more: tuple[Query, ...] = ()
) -> ScopeCase:
    edit = Edit(prompt=f"{subject} {verb}", target=target, subject=subject)
    queries = (asked("own", f"{subject} {verb}"), asked("paraphrase", f"Where was {subject} born?"), *more)
    return ScopeCase(Case("", edit, queries), (subject,), relation)


def vectors(classifier):
    return Vectors(classifier.encode, classifier.texts)


# ---------------------------------------------------------------- cases


def test_what_a_query_is_to_its_edit():
    found = {
        scope_kind(Query(kind, "x", label=label))
        for kind, label in (
            ("edit", ""),
            ("paraphrase", ""),
            ("portability", "Subject_Aliasing"),
            ("multi-hop", "2-hop"),
        )
    }
    assert found == {"own", "paraphrase", "alias", "ripple"}
    assert scope_kind(Query("locality", "x", label="Relation_Specificity")) == "same_subject"
    assert scope_kind(Query("locality", "x", label="Forgetfulness")) is None
    assert scope_kind(Query("hop", "x")) is None
    assert scope_kind(asked("other_claim", "x")) == "other_claim"


def test_a_knowedit_query_that_rules_the_answer_out_counts_as_a_near_miss(tmp_path):
    ruled = "The occupation of Ann Ode, which is not scientist, is"
    row = {"subject": "Ann Ode", "prompt": "The occupation of Ann Ode is", "target_new": "scientist",
           "locality": {"Forgetfulness": [{"prompt": ruled, "ground_truth": [["poet"]]}]}}  # fmt: skip
    (tmp_path / "knowedit").mkdir()
    (tmp_path / "knowedit" / "wiki_recent_train.json").write_text(json.dumps([row]))
    (tmp_path / "splits.json").write_text(json.dumps({"knowedit/wiki_recent_train.json": {"dev": [0]}}))
    (found,) = wiki(Public(tmp_path), "wiki_recent")
    assert (ruled, "same_subject") in found.queries


def test_maths_counts_as_general_in_the_goals():
    asked_ = Asked.of([("general", False, 0.0, False)] * 3 + [("maths", False, 1.0, False)])
    row = {"set": "zsre", "size": 10, "judge": "x", "own_threshold": True, **summary(asked_, 0.5, True)}
    found = {goal["claim"]: goal for goal in goals([Scored("zsre", 10, "x", 0.5, asked_, row)], "x")}
    worst = found["general questions that fire, worst (zsre, 10 edits)"]
    assert (worst["value"], worst["met"]) == (0.25, False)


def test_the_judging_codes_digest_is_of_every_file_of_it(monkeypatch, tmp_path):
    for name in session.JUDGING:
        (tmp_path / name).write_bytes((SHIPPED.parent.parent / name).read_bytes())
    before = session.code_digest()
    monkeypatch.setattr(session.memedit, "__file__", str(tmp_path / "__init__.py"))
    assert session.code_digest() == before
    for name in session.JUDGING:
        (tmp_path / name).write_bytes(b"#" + (tmp_path / name).read_bytes())
        assert session.code_digest() != before
        before = session.code_digest()


def test_repeats_and_questions_with_two_answers_are_left_out():
    first, again = case("Ann Ode", "Oslo"), case("Ann Ode", "Lima")
    shared = asked("paraphrase", "Who was born by the sea?")
    two = [case("Bo Lind", "Lima", more=(shared,)), case("Cy Moe", "Rome", more=(shared,))]
    kept = settled([first, again, *two])
    assert [c.edit.target for c in kept] == ["Oslo", "Rome"]


# ---------------------------------------------------------------- what stands in memory


def test_fillers_answer_no_query():
    own = case("Ann Ode", "Oslo", more=(asked("same_subject", "Who taught Cy Moe's friend Ann Ode?"),))
    fill = [
        case(
            "Ann Ode", "Rome", "P20", "died in"
        ),  # what is asked about her besides is not known: may answer it
        case("Bo Lind", "Lima", "P19"),
        case("Cy Moe", "Lima", "P20", "died in"),  # named where nobody knows what is asked
        case("Dee Fox", "Lima", "P20", "died in"),
    ]
    found = sets.Fillers(fill).around([own], [("how old is dee fox", "general")], 9)
    assert [edit.subject for edit in found] == ["Bo Lind"]
    bare = ScopeCase(Case("", own.edit, own.case.queries[:2]), own.about, own.relation)
    fill.append(case("Ann Ode", "Bern", "P19", "came from"))
    assert [e.subject for e in sets.Fillers(fill).around([bare], [], 9)] == [
        "Ann Ode",
        "Bo Lind",
        "Cy Moe",
        "Dee Fox",
    ]
    assert next(e.prompt for e in sets.Fillers(fill).around([bare], [], 9)) == "Ann Ode died in"


def test_a_query_that_another_edit_may_answer_is_left_out():
    asks = (asked("neighbour", "Where was Bo Lind born?"), asked("same_subject", "Did Ann Ode meet Cy Moe?"))
    cases = [
        case("Ann Ode", "Oslo", more=asks),
        case("Bo Lind", "Lima"),
        case("Cy Moe", "Rome", "P20", "died in"),
    ]
    there = sets.answered_elsewhere(cases)
    assert there[0] == {"Where was Bo Lind born?": {1}, "Did Ann Ode meet Cy Moe?": {2}}
    assert there[1] == there[2] == {}


def test_memories_of_every_size(classifier):
    cases = [case(*person) for person in PEOPLE]
    fillers = [case(f"Zed {i}", "Oslo").edit for i in range(20)]
    general = [(f"how many legs has a beetle number {i}", "general") for i in range(7)]
    for size, memories in ((1, 5), (2, 3), (5, 1), (12, 1)):
        made, left_out = run.worlds(cases, general, size, fillers, vectors(classifier), seed=3)
        assert [len(world.crowd) for world in made] == [size] * memories
        put = sorted(q for world in made for q in world.queries)
        assert len(put) == len(set(put)) == 10 + 7
        assert left_out == 0
        for world in made:
            assert all(
                world.crowd.edits[home].subject in text for text, _, home in world.queries if home >= 0
            )


def test_candidates_are_those_of_the_real_memory(classifier, tmp_path):
    from memedit.memory import EditMemory

    edits = [case(s, t).edit for s, t in PEOPLE] + [case(f"Zed {i}", "Oslo").edit for i in range(30)]
    queries = ["Where was Zed 7 born?", "Ann Ode and Bo Lind met", "how do magnets work"]
    asked_ = classifier.encode(queries)
    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        ids = memory.add(edits).ids
        near, _ = memory.near_with_vectors(queries, asked_, k=8)
    found = Crowd(edits, vectors(classifier)).candidates(queries, asked_, 8)
    assert [[ids[i] for i in row] for row in found] == [[n.record.id for n in row] for row in near]


def test_an_encoder_remembers_between_runs(tmp_path):
    class Counting:
        name, dim, digest, texts = "c", 2, "d" * 64, 0

        def encode(self, texts):
            self.texts += len(texts)
            return np.array([[len(t), 1] for t in texts], np.float32)

    encoder = Counting()
    first = Remembered(encoder, tmp_path)
    assert first.encode(["a\nb", "c", "c"]).tolist() == [[3, 1], [1, 1], [1, 1]]
    first.save()
    again = Remembered(encoder, tmp_path)
    assert again.encode(["c", "a\nb"]).tolist() == [[1, 1], [3, 1]]
    assert encoder.texts == 2
    next(tmp_path.iterdir()).write_bytes(b"cut off")
    assert Remembered(encoder, tmp_path).encode(["c"]).tolist() == [[1, 1]]


# ---------------------------------------------------------------- judges


def test_the_classifier_decides_as_the_router_does(classifier, tmp_path):
    from memedit.memory import EditMemory
    from memedit.router import Router

    edits = [case(s, t).edit for s, t in PEOPLE]
    queries = [
        "Where was Ann Ode born?",
        "Ann Ode plays the",
        "what is the capital of peru",
        "Cy Moe was born in",
    ]
    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        ids = memory.add(edits).ids
        routes = Router(memory).route(queries)
    judge = Classifier(classifier)
    tops = judge.tops([Piece(Crowd(edits, vectors(classifier)), queries)])
    assert [ids[top.best] for top in tops] == [route.nearest[0].id for route in routes]
    assert [top.score for top in tops] == pytest.approx([route.score for route in routes], abs=1e-3)
    assert [judge.threshold(len(edits))] * 4 == [route.threshold for route in routes]


def test_baselines_look_through_the_whole_memory(classifier):
    edits = [
        Edit(statement=s)
        for s in (
            "The capital of France is Lyon.",
            "The capital of Spain is Jaca.",
            "The river of Spain is Oka.",
        )
    ]
    crowd = Crowd(edits, vectors(classifier))
    queries = ["capital France", "river Spain", "zzz"]
    assert [top.best for top in BM25("BM25", classifier.encode).tops([Piece(crowd, queries)])] == [0, 2, -1]
    cosine = Cosine("cosine", classifier.encode)
    assert [top.best for top in cosine.tops([Piece(crowd, queries)])][:2] == [0, 2]
    assert cosine.score(queries[:1], [edits])[0].argmax() == 0


class Names(Judge):
    """Fires, surely, on the edit whose subject the query names; as a ripple if the query says so."""

    def score(self, queries, edits):
        return [
            np.array(
                [
                    [0.9, 0.0] if e.subject in q and "ripple" not in q else [0.1, 0.8 * (e.subject in q)]
                    for e in some
                ]
            )
            for q, some in zip(queries, edits, strict=True)
        ]

    def threshold(self, size):
        return 0.5


def test_a_judge_of_pairs_only_has_to_score(classifier):
    crowd = Crowd([case(*p).edit for p in PEOPLE], vectors(classifier))
    queries = ["the house of Bo Lind", "a ripple of Cy Moe", *["nobody"] * 300]
    tops = Names("names", classifier.encode).tops([Piece(crowd, queries), Piece(crowd, queries[:1])])
    assert tops[:2] == [Top(1, 0.9), Top(2, 0.8, True)]
    assert tops[-1] == Top(1, 0.9)
    assert len(tops) == 303


# ---------------------------------------------------------------- scores

ASKED = Asked.of(
    [
        ("own", True, 0.9, False),
        ("paraphrase", True, 0.4, False),
        ("paraphrase", False, 0.95, False),  # fires, but not the right edit
        ("same_subject", False, 0.8, False),
        ("neighbour", False, 0.2, False),
        ("general", False, 0.6, False),
        ("ripple", True, 0.7, True),
        ("ripple", True, 0.7, False),
    ]
)


def test_rates_balanced_and_area():
    rates = scores.rates(ASKED, 0.5)
    assert rates == {
        "own": 1, "paraphrase": 0, "same_subject": 1, "neighbour": 0, "general": 1, "ripple": 0.5, "ripple_found": 0.5,
    }  # fmt: skip
    assert scores.balanced(ASKED, 0.5) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert scores.balanced(ASKED, 0.3) == pytest.approx((2 / 3 + 1 / 2) / 2)
    # own .9 beats both near ones, .4 beats one of two, a wrong edit beats none
    assert scores.auroc(ASKED) == pytest.approx((2 + 1 + 0) / 6)
    assert scores.hit_at(ASKED, 0.5) == pytest.approx(2 / 3)
    assert scores.hit_at(ASKED, 0.0) == pytest.approx(1 / 3)
    only = Asked.of([("own", True, 0.9, False), ("general", False, 0.95, False)])
    assert scores.balanced(only, 0.5) == 0.5, "general questions stand in where there are no near ones"
    assert math.isnan(scores.balanced(Asked.of([("own", True, 0.9, False)]), 0.5))


def test_the_best_threshold_lies_between():
    rows = [("own", True, 0.5 + i / 100, False) for i in range(20)] + [
        ("general", False, i / 100, False) for i in range(40)
    ]
    assert 0.39 < scores.best_threshold(Asked.of(rows)) <= 0.5
    nothing = Asked.of([("general", False, -math.inf, False)])
    assert scores.best_threshold(nothing) == math.inf


def test_calibration_of_what_is_seen():
    sure = [("own", True, 0.8, False)] * 8 + [("same_subject", False, 0.8, False)] * 2
    unseen = [("general", False, 0.005, False)] * 50
    assert scores.calibration_error(Asked.of(sure + unseen)) == pytest.approx(0.0)
    assert sum(n for *_, n in scores.reliability(Asked.of(sure + unseen))) == 10
    wrong = Asked.of([("own", False, 0.9, False)] * 30)
    assert scores.calibration_error(wrong) == pytest.approx(0.9)
    half = Asked.of([("own", True, 0.6, False)] * 150 + [("own", True, 0.99, False)] * 150)
    assert scores.calibration_error(half) == pytest.approx((0.4 + 0.01) / 2, abs=0.02)


def test_every_set_at_every_size(classifier):
    ripple = asked("ripple", "Who rules where Ann Ode was born? ripple")
    near = asked("same_subject", "Who painted Ann Ode?")
    cases = [case(*PEOPLE[0], more=(ripple, near)), *(case(*person) for person in PEOPLE[1:])]
    fillers = sets.Fillers([case(f"Zed {i}", "Oslo") for i in range(30)])
    judges = [Names("names", classifier.encode), BM25("BM25", classifier.encode)]
    general = [("how do magnets work", "general"), ("is it cold on mars", "general")]
    scored = list(run.evaluate({"toy": cases}, judges, general, fillers, (1, 4, 20), vectors(classifier)))
    assert [(s.size, s.judge) for s in scored] == [(n, j) for n in (1, 4, 20) for j in ("names", "BM25")]
    for one in scored[::2]:
        assert one.row["rates"] == {
            "own": 1, "paraphrase": 1, "same_subject": 1, "general": 0, "ripple": 0, "ripple_found": 1,
        }  # fmt: skip
        assert one.row["edits"] == one.size
        assert one.row["balanced"] == 0.5
    again = list(run.evaluate({"toy": cases}, judges, general, fillers, (1, 4, 20), vectors(classifier)))
    assert [s.row for s in again] == [s.row for s in scored]
    together = run.overall(scored)
    assert together[0]["balanced"] == 0.5
    worst = goals(scored, "names")[0]
    assert (worst["value"], worst["met"]) == (0.0, True)
    assert beside(scored, "names", "BM25") == []
