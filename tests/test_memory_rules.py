"""Names in queries, and when two edits are about one thing."""

from __future__ import annotations

import pytest
from memory_fixtures import capital

from memedit.edit import Edit
from memedit.memory.rules import name_keys, named_in, supersedes, suspicious


def named(name: str, text: str) -> bool:
    return bool(name_keys(Edit(statement="x y", subject=name)) & named_in(text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("France", "What is the capital of France?"),
        ("France", "FRANCE'S capital"),
        ("France", "France’s capital"),
        ("The Netherlands", "Where are the Netherlands?"),
        ("The Netherlands", "Netherlands: population"),
        ("J. K. Rowling", "books by JK Rowling"),
        ("São Paulo", "mayor of sao paulo"),
        ("O'Brien", "Who is O’Brien?"),
        ("Jean-Luc Picard", "captain Jean Luc Picard's ship"),
        ("法国", "法国的首都是哪里?"),
        (
            "Regulation of the European Parliament and of the Council on Bananas",
            "what the Regulation of the European Parliament and of the Council on Bananas says",
        ),
        ("U2", "albums of u2"),
        ("Mercury (planet)", "how hot is Mercury (planet)?"),
    ],
)
def test_is_named(name: str, text: str) -> None:
    assert named(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("France", "Who is Francesca?"),
        ("Rome", "the Romeo of the play"),
        ("The Who", "Who wrote this?"),
        ("New York City", "New York state"),
        ("France", ""),
        ("!!!", "What!!!"),
    ],
)
def test_is_not_named(name: str, text: str) -> None:
    assert not named(name, text)


def test_aliases_are_names() -> None:
    edit = Edit(
        statement="x y", subject="Joanne Rowling", subject_aliases=("J. K. Rowling", "Robert Galbraith")
    )
    for text in ("Who is Robert Galbraith?", "jk rowling", "Joanne Rowling"):
        assert name_keys(edit) & named_in(text)
    assert name_keys(Edit(statement="No subject here.")) == frozenset()


def test_a_new_edit_that_holds_for_a_part_of_the_time_supersedes_nothing() -> None:
    old = capital("France", "Lyon", valid_from="2020-01-01", valid_to="2030-01-01")
    for window, takes in (
        ({}, True),
        ({"valid_from": "2020-01-01"}, True),
        ({"valid_from": "2019-01-01", "valid_to": "2030-01-01"}, True),
        ({"valid_from": "2021-01-01"}, False),
        ({"valid_to": "2029-01-01"}, False),
    ):
        assert supersedes(capital("France", "Paris", **window), old) is takes
    assert supersedes(
        capital("France", "Paris", valid_from="2025-01-01", ref="r"), capital("Spain", "Vigo", ref="r")
    )


def test_suspicion_needs_nearness_a_common_subject_another_target_and_a_common_time() -> None:
    one, other = (
        capital("France", "Lyon"),
        Edit(prompt="France has the capital", target="Paris", subject="france"),
    )
    assert suspicious(one, other, 0.81)
    assert not suspicious(one, other, 0.79)
    assert not suspicious(one, other.updated(target="LYON"), 0.9)
    assert not suspicious(one, capital("Spain", "Vigo"), 0.9)
    assert suspicious(one, Edit(statement="France is ruled from Paris."), 0.9)
    assert suspicious(one, capital("the Hexagon", "Paris", aliases=["France"]), 0.9)
    past = one.updated(valid_to="2020-01-01")
    assert not suspicious(past, other.updated(valid_from="2020-01-01"), 0.9)
    assert suspicious(past, other.updated(valid_from="2019-12-31"), 0.9)
