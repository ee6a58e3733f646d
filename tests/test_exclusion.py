"""Questions that ask for another answer than an edit's: told by their form, routed to the base, with the reason."""

from __future__ import annotations

import pytest

from memedit.edit import Edit
from memedit.exclusion import rules_out, turns_round
from memedit.memory import EditMemory
from memedit.router import Router

EDIT = Edit(
    prompt="The occupation of Ann Dorr is", target="painter", subject="Ann Dorr", old="nurse", target_aliases=("artist",)
)  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "The occupation of Ann Dorr, which is not painter, is",
        "What jobs other than painter did Ann Dorr have?",
        "Which occupation that isn't painter has Ann Dorr?",
        "Besides artist, what is Ann Dorr's occupation?",
        "What is Ann Dorr's job, apart from a PAINTER?",
        "Name Ann Dorr's occupations, excluding the painter.",
    ],
)
def test_what_rules_the_answer_out_asks_for_another(query):
    assert rules_out(query, EDIT)


@pytest.mark.parametrize(
    "query",
    [
        "The occupation of Ann Dorr is",
        "Is Ann Dorr anything other than painter?",
        "Ann Dorr is not painter, is she?",
        "The occupation of Ann Dorr, which is not nurse, is",
        "What other than paint does Ann Dorr use?",
        "What jobs other than painters' assistant did Ann Dorr have?",
        "Who is Ann Dorr, the painter?",
    ],
)
def test_what_only_names_the_answer_does_not(query):
    assert not rules_out(query, EDIT)


def test_an_edit_without_a_target_is_never_ruled_out():
    assert not rules_out(
        "What other than painter is Ann Dorr?", Edit(statement="Ann Dorr paints.", subject="Ann Dorr")
    )
    assert not rules_out(
        "What other than painter is Ann Dorr?", Edit(prompt="Ann Dorr is a", kind="erase", subject="Ann Dorr")
    )


ACTIVE = Edit(prompt="Dune follows", target="Emma", subject="Dune")
PASSIVE = Edit(prompt="Dune is followed by", target="Emma", subject="Dune")


@pytest.mark.parametrize(
    "query",
    ["Dune is followed by", "Who is Dune followed by?", "What follows Dune?", "What follows the Dune?"],
)
def test_a_fact_is_not_asked_the_other_way_round(query):
    assert turns_round(query, ACTIVE) == (" by" in query)  # without a passive nothing is certain
    assert not turns_round(query, PASSIVE)


@pytest.mark.parametrize(
    "query", ["Dune follows", "What does Dune follow?", "Whom did Dune follow?", "Emma is followed by Dune"]
)
def test_nor_that_of_a_passive_as_its_active(query):
    assert turns_round(query, PASSIVE)
    assert not turns_round(query, ACTIVE)


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("Dune was directed by", "Who directed Dune?"),
        ("Dune was directed by", "Dune, directed by"),
        ("Dune was directed by", "The director of Dune is"),
        ("Dune was written by", "Dune follows"),
        ("The mayor of Dune is", "Dune is governed by"),
        ("Emma is owned by Dune and", "What does Dune own?"),
        ("What company was Dune released by?", "The production company for Dune was what?"),
        ("The song Dune was by whom?", "The song Dune was performed by whom?"),
    ],
)
def test_other_words_for_the_same_are_not_turned_round(prompt, query):
    assert not turns_round(query, Edit(prompt=prompt, target="X", subject="Dune"))


def test_the_router_leaves_it_to_the_base_and_says_why(tmp_path):
    with EditMemory.open(tmp_path / "m") as memory:
        memory.add([EDIT])
        asks, excludes = Router(memory).route(
            ["The occupation of Ann Dorr is", "The occupation of Ann Dorr, which is not painter, is"]
        )
    assert asks.fired
    assert not excludes.fired
    assert excludes.nearest[0].reason == "asks for another answer than 'painter'"
