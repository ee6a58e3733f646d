"""The router over a real memory and the shipped classifier."""

from __future__ import annotations

import pytest

from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import EditError
from memedit.memory import EditMemory
from memedit.router import Router

FRANCE = Edit(prompt="The capital of France is", target="Lyon", subject="France", ref="fr")
ACME = Edit(
    statement="The CEO of Acme Corporation is Ada Park.",
    subject="Acme Corporation",
    subject_aliases=("Acme",),
)


@pytest.fixture
def memory(tmp_path, classifier):
    with EditMemory.open(tmp_path / "m", encoder=classifier) as m:
        m.add([FRANCE, ACME])
        yield m


def test_paraphrases_fire_and_neighbours_do_not(memory):
    inside = [
        "The capital of France is",
        "What is the capital of France?",
        "Which city is France's capital?",
        "Who is the CEO of Acme?",
    ]
    outside = ["What is the capital of Spain?", "Who is the CEO of Globex?", "how long do eggs take to boil"]
    routes = Router(memory).route(inside + outside)
    assert [r.fired for r in routes] == [True] * len(inside) + [False] * len(outside)
    assert [r.edits[0].edit.target for r in routes[:3]] == ["Lyon"] * 3


def test_a_route_says_why(memory):
    fired, kept = Router(memory).route(["What is the capital of France?", "What is the capital of Spain?"])
    assert "names the subject" in fired.edits[0].reason
    assert all("<" in c.reason for c in kept.nearest)
    assert fired.nearest[0].probability >= fired.threshold > kept.nearest[0].probability


def test_the_contract_of_the_route_command(memory):
    out = Router(memory).route(["What is the capital of France?"])[0].to_dict()
    assert list(out) == ["query", "fired", "edit", "edits", "score", "threshold", "method"]
    assert out["fired"] is True
    assert out["edit"] == "fr"
    assert out["method"] == "ice"
    assert out["edits"][0] | {"probability": 1} == {"id": 1, "ref": "fr", "kind": "direct", "probability": 1}
    none = Router(memory).route(["how long do eggs take to boil"])[0].to_dict()
    assert (none["fired"], none["edit"], none["edits"], none["method"]) == (False, None, [], None)


def test_of_conflicting_edits_the_newest_fires(memory):
    memory.add(
        Edit(statement="The chief executive of Acme Corporation is Bo Lind.", subject="Acme Corporation")
    )
    memory.add(Edit(statement="The CEO of Acme Corporation is Cy Moe.", subject="Acme Corporation"))
    (route,) = Router(memory).route(["Who is the CEO of Acme Corporation?"])
    assert (
        route.edits[-1].edit.statement == "The CEO of Acme Corporation is Cy Moe."
    )  # what is said last weighs most
    assert "The CEO of Acme Corporation is Ada Park." not in [c.edit.statement for c in route.edits]


def test_facts_hold_only_in_their_time(memory):
    memory.add(
        Edit(
            prompt="The president of Freedonia is", target="Rufus", subject="Freedonia", valid_to="2030-01-01"
        )
    )
    query = ["Who is the president of Freedonia?"]
    assert Router(memory).route(query, at="2029-06-01")[0].fired
    assert not Router(memory).route(query, at="2031-06-01")[0].fired


def test_an_edited_model_hands_the_time_on_in_both_faces(memory, lm):
    memory.add(Edit(prompt="The mayor of Ulm is", target="Ann", subject="Ulm", valid_to="2030-01-01"))
    model, query = EditedModel(lm("llama"), Router(memory)), "Who is the mayor of Ulm?"
    then, later = "2029-06-01", "2031-06-01"
    (base,) = model.base.generate([query], max_new_tokens=4)
    ids = model.tokenizer([query], return_tensors="pt").input_ids
    plain = model.base.generate(ids, max_new_tokens=4).tolist()
    assert [model.route(query, at=at)[0].fired for at in (then, later)] == [True, False]
    assert "Ann" in model.explain(query, at=then, max_new_tokens=4).read
    assert model.explain(query, at=later, max_new_tokens=4).read == query
    assert (
        model.generate([query], at=later, max_new_tokens=4)
        == [base]
        != model.generate([query], at=then, max_new_tokens=4)
    )
    assert (
        model.generate(ids, at=later, max_new_tokens=4).tolist()
        == plain
        != model.generate(ids, at=then, max_new_tokens=4).tolist()
    )
    with pytest.raises(EditError, match="is no date"):
        model.generate([query], at="some day")


def test_a_stricter_rate_raises_the_threshold(memory):
    loose = Router(memory, false_fire_rate=0.05).route(["What is the capital of France?"])[0].threshold
    strict = Router(memory, false_fire_rate=0.0005).route(["What is the capital of France?"])[0].threshold
    assert strict > loose


def test_an_edits_own_method_goes_before_the_memorys_and_the_routers_before_both(memory):
    assert Router(memory).method_of(FRANCE) == memory.default_method == "ice"
    assert Router(memory).method_of(Edit(statement="Tea is blue.", method="rome")) == "rome"
    assert Router(memory, method="ice").method_of(Edit(statement="Tea is blue.", method="rome")) == "ice"


def test_no_query_and_no_edit_need_no_encoder(tmp_path):
    def never():
        raise AssertionError("the encoder was loaded")

    with EditMemory.open(tmp_path / "empty", encoder=never) as m:
        assert Router(m).route([]) == []
        assert not Router(m).route(["Who?"])[0].fired


def test_a_name_within_a_longer_one_is_not_what_is_asked_about(memory):
    mayor = "The mayor of {} is"
    memory.add([
        Edit(prompt=mayor.format("New York"), target="Ada Park", subject="New York"),
        Edit(prompt=mayor.format("New York City"), target="Ben Falk", subject="New York City"),
    ])  # fmt: skip
    router = Router(memory)
    city, state, both = router.route(
        ["Who is the mayor of New York City?", "Who is the mayor of New York?",
         "Who is the mayor of New York City, and who of New York?"]
    )  # fmt: skip
    assert [c.edit.subject for c in city.edits] == ["New York City"]
    assert [c.edit.subject for c in state.edits] == ["New York"]
    assert {c.edit.subject for c in both.edits} <= {"New York", "New York City"}
    dropped = [c for c in city.nearest if c.edit.subject == "New York"]
    assert all("named better" in c.reason or "<" in c.reason for c in dropped)


def test_a_subject_named_in_full_outdoes_one_that_is_named_in_part(memory):
    born = "The birthplace of {} is"
    memory.add([
        Edit(prompt=born.format("Ada Abara"), target="Oslo", subject="Ada Abara"),
        Edit(prompt=born.format("Ada Lee Abara"), target="Turin", subject="Ada Lee Abara"),
    ])  # fmt: skip
    short, long = Router(memory).route(["The birthplace of Ada Abara is", "Where was Ada Lee Abara born?"])
    assert [c.edit.target for c in short.edits] == ["Oslo"]
    assert [c.edit.target for c in long.edits] == ["Turin"]
