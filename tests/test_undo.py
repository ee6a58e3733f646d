"""Undo and history judged by what a question is answered with: routed by the shipped classifier."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.edit import Edit
from memedit.errors import EditError, MemoryError_
from memedit.memory import EditMemory, conflicts, content, supersedes
from memedit.memory.content import instant
from memedit.router import Router

CAPITALS = {"France": "Lyon", "Spain": "Vigo", "Italy": "Bari", "Poland": "Gdynia", "Japan": "Osaka"}


@pytest.fixture
def memory(tmp_path: Path, classifier: Any) -> Iterator[EditMemory]:
    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        yield memory


def answers(memory: EditMemory, at: str | None = None) -> dict[str, str | None]:
    """By country, the statement that answers for its capital; countries of which nothing is known are left out."""
    routes = Router(memory).route([f"What is the capital of {country}?" for country in CAPITALS], at)
    return {
        country: route.edits[-1].edit.target
        for country, route in zip(CAPITALS, routes, strict=True)
        if route.fired
    }


def without(*countries: str) -> dict[str, str]:
    return {country: city for country, city in CAPITALS.items() if country not in countries}


@pytest.mark.parametrize("gone", ["France", "Italy", "Japan"])
def test_of_five_edits_any_can_be_undone(memory: EditMemory, gone: str) -> None:
    for country, city in CAPITALS.items():
        memory.add(capital(country, city))
    assert answers(memory) == CAPITALS
    place = list(CAPITALS).index(gone) + 1
    assert memory.undo(place).id == place
    assert answers(memory) == without(gone)
    assert [v.action for v in memory.history(place)] == ["add", "undo"]
    assert memory.add(capital(gone, CAPITALS[gone])).ids == [6]
    assert answers(memory) == CAPITALS
    for left in (4, 3, 2, 1, 0):  # from the last on, over what was undone already
        memory.undo()
        assert len(answers(memory)) == left
    with pytest.raises(MemoryError_, match="nothing to undo"):
        memory.undo()


def test_two_edits_with_one_target_are_two(memory: EditMemory) -> None:
    memory.add(capital("France", "Porto"))
    memory.add(capital("Spain", "Porto"))
    memory.undo(1)
    assert answers(memory) == {"Spain": "Porto"}
    memory.undo()
    assert answers(memory) == {}


def test_lyon_paris_lyon_again(memory: EditMemory) -> None:
    said, times = [], []
    for city in ("Lyon", "Paris", "Lyon"):
        memory.add(capital("France", city))
        said.append(answers(memory)["France"])
        times.append(memory.operations(1)[0].at)
    assert said == ["Lyon", "Paris", "Lyon"]
    assert [[r.edit.target for r in memory.as_of(at)] for at in times] == [["Lyon"], ["Paris"], ["Lyon"]]
    for city in ("Paris", "Lyon", None):
        memory.undo()
        assert answers(memory).get("France") == city
    assert [[r.edit.target for r in memory.as_of(at)] for at in times] == [["Lyon"], ["Paris"], ["Lyon"]]


def test_the_newest_word_wins_and_an_update_is_one(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add(Edit(prompt="France's capital is", target="Nice", subject="France"))
    assert answers(memory)["France"] == "Nice"
    memory.update(1, target="Metz")
    assert answers(memory)["France"] == "Metz"
    memory.update(2, tags=["checked"])  # a label is no new word
    assert answers(memory)["France"] == "Metz"
    memory.undo()
    memory.undo()
    assert answers(memory)["France"] == "Nice"
    memory.forget(2)
    assert answers(memory)["France"] == "Lyon"
    memory.undo()
    assert answers(memory)["France"] == "Nice"


def test_what_is_said_again_is_the_newest_word(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add(Edit(prompt="France's capital is", target="Paris", subject="France"))
    assert answers(memory)["France"] == "Paris"
    added = memory.add(capital("France", "Lyon"))
    assert (added.ids, added.new, added.renewed) == ([1], [], [1])
    assert answers(memory)["France"] == "Lyon"
    assert memory.add(capital("France", "Lyon")).operation == 0
    memory.undo()
    assert answers(memory)["France"] == "Paris"
    memory.keep_both(1, 2)
    assert memory.add(capital("France", "Lyon")).operation == 0


def test_facts_answer_in_their_time(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon", valid_to="2030-01-01"))
    memory.add(capital("France", "Metz", valid_from="2030-01-01"))
    assert answers(memory, "2029-12-31") == {"France": "Lyon"}
    assert answers(memory, "2030-01-01") == {"France": "Metz"}
    memory.undo()
    assert answers(memory, "2030-01-01") == {}


# -- what can't be taken back, and why (no classifier needed)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory.open(tmp_path / "p", encoder=TrigramEncoder()) as memory:
        yield memory


def live(memory: EditMemory) -> list[str | None]:
    return [r.edit.target for r in memory]


def test_what_later_operations_build_on_is_not_taken_back_alone(plain: EditMemory) -> None:
    plain.add([capital("France", "Lyon"), capital("Spain", "Vigo")])
    plain.add(capital("France", "Paris"))
    plain.update(2, target="Lugo")
    with pytest.raises(
        MemoryError_, match=r"operation 1 \(add\) .* operation 3 \(update\) changed edit 2 .* undo 3"
    ):
        plain.undo(1)
    assert live(plain) == ["Lugo", "Paris"]
    plain.undo(3)
    plain.undo(2)
    plain.undo(1)
    assert live(plain) == []


@pytest.mark.parametrize("same", [True, False])
def test_an_edit_does_not_come_back_into_anothers_place(plain: EditMemory, same: bool) -> None:
    plain.add(capital("France", "Lyon"))
    plain.forget(1)
    plain.add(capital("France", "Lyon" if same else "Paris"))
    with pytest.raises(MemoryError_, match="edit 2 has its place by now; forget edit 2 first"):
        plain.undo(2)
    plain.forget(2)
    plain.undo(2)
    assert live(plain) == ["Lyon"]
    assert plain.check() == []


def test_operations_that_are_not_undone(plain: EditMemory) -> None:
    plain.add(facts(2))
    plain.undo()
    plain.rebuild(reencode=True)
    for operation, why in (
        (1, "undone already"),
        (2, "is an undo"),
        (3, "new encoding"),
        (4, "no operation 4"),
        (-1, "no"),
    ):
        with pytest.raises(MemoryError_, match=why):
            plain.undo(operation)
    assert plain.generation == 3


def test_whatever_is_done_in_whatever_order_the_memory_is_whole(plain: EditMemory) -> None:
    chance, done, refused = random.Random(3), 0, 0
    for _ in range(150):
        before = {r.id: (r.edit, r.status) for r in plain.list(status="all")}
        ids, country = sorted(before), chance.choice(list(CAPITALS))
        operation, touched = None, None
        try:
            match chance.choice(("add", "add", "add", "update", "forget", "undo", "undo", "purge", "keep")):
                case "add":
                    plain.add(capital(country, chance.choice("ABC")), keep_both=chance.random() < 0.2)
                case "update":
                    plain.update(chance.choice(ids or [1]), target=chance.choice("ABC"))
                case "forget":
                    plain.forget(chance.choice(ids or [1]))
                case "purge" if chance.random() < 0.3:
                    plain.purge(chance.choice(ids or [1]))
                case "keep":
                    plain.keep_both(*(chance.choice(ids or [1]) for _ in "ab"))
                case _:
                    operation = chance.choice([o.id for o in plain.operations()] or [1])
                    touched = {id for id in ids if any(v.operation == operation for v in plain.history(id))}
                    plain.undo(operation)
            done += 1
        except (MemoryError_, EditError):
            refused += 1
            assert {r.id: (r.edit, r.status) for r in plain.list(status="all")} == before
        if touched is not None:
            after = {r.id: (r.edit, r.status) for r in plain.list(status="all")}
            assert {id for id in ids if after[id] != before[id]} <= touched
        edits = list(plain)
        with plain._store.reading() as db:
            beside = conflicts.beside(db, [r.id for r in edits])
        for one, other in itertools.combinations(sorted(edits, key=lambda r: r.recency), 2):
            assert other.id in beside.get(one.id, ()) or not supersedes(other.edit, one.edit)
            assert one.edit.content_hash != other.edit.content_hash
    assert plain.check() == []
    assert min(done, refused) > 20


def test_a_clock_that_goes_back_changes_no_order(plain: EditMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(["2030-01-01", "2020-01-01", "2025-01-01", "2019-01-01"])
    monkeypatch.setattr(content, "instant", lambda when: instant(when or next(times)))
    plain.add(capital("France", "Lyon"))
    plain.add(Edit(prompt="France's capital is", target="Nice", subject="France"))
    plain.update(1, target="Metz")
    plain.undo()
    monkeypatch.undo()
    known = [[r.edit.target for r in plain.as_of(o.at)] for o in reversed(plain.operations())]
    assert known == [["Lyon"], ["Lyon", "Nice"], ["Metz", "Nice"], ["Lyon", "Nice"]]
    assert plain.get(1).recency < plain.get(2).recency
