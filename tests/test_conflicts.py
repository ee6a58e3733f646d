"""Suspected conflicts: found, listed, decided, undone; and what the router then uses (shipped classifier)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_fixtures import TrigramEncoder, capital

from memedit.edit import Edit
from memedit.errors import MemoryError_
from memedit.memory import EditMemory
from memedit.router import Router

ANN = Edit(statement="The chief executive of the Acme corporation is Ann Lee.")
BOB = Edit(statement="The chief executive of the Acme corporation is Bob Lee.")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory.open(tmp_path / "m", encoder=TrigramEncoder(), timeout=0.3) as memory:
        yield memory


def pairs(memory: EditMemory) -> list[tuple[int, int]]:
    return [(c.newer.id, c.older.id) for c in memory.conflicts()]


# -- the list


def test_what_add_suspects_is_kept_and_listed_with_who_wins(memory: EditMemory) -> None:
    memory.add([ANN, capital("France", "Lyon")])
    [(new, old, cosine)] = memory.add(BOB).conflicts
    [found] = memory.conflicts()
    assert (found.newer.id, found.older.id, found.wins) == (new, old, new) == (3, 1, 3)
    assert found.similarity == pytest.approx(cosine)
    assert (found.newer.edit, found.older.edit) == (BOB, ANN)
    path = memory.path
    memory.close()
    with EditMemory.open(path, encoder=TrigramEncoder(), readonly=True) as again:
        assert pairs(again) == [(3, 1)]


def test_who_wins_is_the_newer_that_holds(memory: EditMemory) -> None:
    memory.add(ANN)
    memory.add(BOB.updated(valid_from="2999-01-01"))
    [found] = memory.conflicts()
    assert (found.newer.id, found.wins) == (2, 1)


@pytest.mark.parametrize("change", ["forget", "update", "supersede"])
def test_a_pair_vanishes_with_one_of_its_edits_and_comes_back_with_undo(
    memory: EditMemory, change: str
) -> None:
    memory.add(ANN.updated(ref="boss"))
    memory.add(BOB)
    if change == "forget":
        memory.forget(1)
    elif change == "update":
        memory.update(2, statement="Wholly another matter is blue.")
    else:
        memory.add(Edit(statement="Tea is quite another matter.", ref="boss"))
    assert pairs(memory) == []
    memory.undo()
    assert pairs(memory) == [(2, 1)]


def test_what_was_changed_or_brought_back_is_compared_too(memory: EditMemory) -> None:
    memory.add(ANN)
    memory.forget(1)
    memory.add(BOB)
    assert pairs(memory) == []
    memory.undo(2)
    assert pairs(memory) == [(2, 1)]
    memory.add(Edit(statement="The mayor of the old town of Ulm is Cid Oak."))
    memory.update(3, statement="The chief executive of the Acme corporation is Cid Oak.")
    assert pairs(memory) == [(3, 2), (3, 1), (2, 1)]


def test_a_crash_after_the_add_loses_no_suspicion(
    memory: EditMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.add(ANN)
    monkeypatch.setattr(EditMemory, "_compared", lambda *_: None)
    memory.add(BOB)
    monkeypatch.undo()
    assert pairs(memory) == [(2, 1)]


def test_conflicts_of_a_memory_of_the_first_schema_are_found(tmp_path: Path) -> None:
    first = Path(__file__).parent / "memory_schema1.db.gz"
    (tmp_path / "memory.db").write_bytes(gzip.decompress(first.read_bytes()))
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(dim=8)) as memory:
        assert (5, 3) in pairs(memory)  # Ann and Bo; eight dimensions suspect more than these
        assert [r.stated for r in memory.list(status="all")] == [1, 3, 1, 2, 2]
        memory.undo(2)
        assert memory.check() == []


# -- deciding


def test_keep_both_is_an_operation_and_ends_the_conflict_for_good(memory: EditMemory) -> None:
    memory.add(ANN)
    memory.add(BOB)
    done = memory.keep_both(2, 1)
    assert (done.kind, done.edits) == ("keep-both", 2)
    assert pairs(memory) == []
    memory.forget(1)
    memory.undo()
    memory.update(2, tags=["x"])
    assert pairs(memory) == []
    with pytest.raises(MemoryError_, match="decided already"):
        memory.keep_both(1, 2)
    memory.undo(done.id)
    assert pairs(memory) == [(2, 1)]
    memory.keep_both(1, 2)
    assert pairs(memory) == []


def test_a_decision_that_alone_keeps_two_apart_is_not_undone(memory: EditMemory) -> None:
    def of_ann(prompt: str, target: str, **more: str) -> Edit:
        return Edit(prompt=f"{prompt} of Ann is", target=target, subject="Ann", **more)

    memory.add(of_ann("The child", "Bob", relation="child"))
    memory.add(of_ann("A son", "Cid"))
    done = memory.keep_both(1, 2)
    memory.update(2, relation="child")
    with pytest.raises(
        MemoryError_, match="edit 2 would have the place of edit 1; `memedit conflicts supersede 2 1`"
    ):
        memory.undo(done.id)
    assert memory.undo().kind == "update"
    assert memory.undo().id == done.id


def test_supersede_takes_either_of_the_two(memory: EditMemory) -> None:
    memory.add(ANN)
    memory.add(BOB)
    assert memory.supersede(1, 2).superseded_by == 1
    assert [r.id for r in memory] == [1]
    assert memory.undo().kind == "supersede"
    assert (len(memory), pairs(memory)) == (2, [(2, 1)])


def test_only_two_live_edits_can_be_decided_on(memory: EditMemory) -> None:
    memory.add([ANN, BOB])
    memory.forget(2)
    for call in (memory.keep_both, memory.supersede):
        for one, other, why in ((1, 2, "forgotten"), (1, 1, "name two"), (1, 9, "no edit 9")):
            with pytest.raises(MemoryError_, match=why):
                call(one, other)
    assert memory.operations(1)[0].kind == "forget"


# -- several values of one relation


def child(name: str, **more: Any) -> Edit:
    return Edit.from_dict(
        {"prompt": "The child of Zelda Quist is", "target": name, "subject": "Zelda Quist", **more}
    )


def test_a_second_child_stays_beside_the_first(memory: EditMemory) -> None:
    memory.add(child("Bo Quist", relation="child"))
    added = memory.add(child("Cy Quist", relation="child"), keep_both=True)
    assert (added.superseded, added.conflicts) == ([], [])
    assert pairs(memory) == []
    assert [r.edit.target for r in memory] == ["Bo Quist", "Cy Quist"]
    memory.undo()
    assert [r.edit.target for r in memory] == ["Bo Quist"]


def test_of_one_list_some_are_further_values(memory: EditMemory) -> None:
    cities = [capital("France", "Lyon"), capital("France", "Paris")]
    added = memory.add([child("Bo"), child("Cy"), *cities, child("Di")], keep_both=[1, 4])
    assert added.superseded == [(3, 4)]
    assert [r.edit.target for r in memory] == ["Bo", "Cy", "Paris", "Di"]
    assert memory.beside([1, 4]) == {1: [2, 5]}
    memory.forget(2)
    assert memory.beside([1, 2, 5]) == {1: [5], 2: [1, 5], 5: [1]}
    assert pairs(memory) == []


def test_saying_one_of_several_again_replaces_that_one_only(memory: EditMemory) -> None:
    memory.add(child("Bo Quist", ref="b"))
    memory.add(child("Cy Quist", ref="c"), keep_both=True)
    assert memory.add(child("Bo Quist")).new == []  # it says nothing new
    assert memory.add(child("Bo Quist", aliases=["Zee"])).superseded == [(1, 3)]
    assert memory.add(child("Cyrus Quist", ref="c")).superseded == [(2, 4)]
    memory.update(4, target="Cyra Quist")
    assert memory.add(child("Di Quist", ref="c"), keep_both=True).superseded == [(4, 5)]
    assert [r.edit.target for r in memory] == ["Bo Quist", "Di Quist"]
    assert pairs(memory) == []
    assert memory.add(child("Ed Quist")).superseded == [
        (3, 6),
        (5, 6),
    ]  # not said to be one more: the only one


def test_the_router_uses_both_or_the_newest(tmp_path: Path, classifier: Any) -> None:
    def said(query: str) -> list[str | None]:
        return [c.edit.target for c in Router(memory).route([query])[0].edits]

    question = "Who is the child of Zelda Quist?"
    with EditMemory.open(tmp_path, encoder=classifier) as memory:
        memory.add(child("Bo Quist"))
        assert said(question) == ["Bo Quist"]
        memory.add(child("Cy Quist"), keep_both=True)
        assert said(question) == ["Bo Quist", "Cy Quist"]
        memory.add(Edit(prompt="Zelda Quist's child is", target="Di Quist", subject="Zelda Quist"))
        assert said(question) == ["Di Quist"]
        assert pairs(memory) == [(3, 2), (3, 1)]
        memory.keep_both(3, 1)
        assert said(question) == ["Bo Quist", "Di Quist"]
        memory.keep_both(3, 2)
        assert said(question) == ["Bo Quist", "Cy Quist", "Di Quist"]
        memory.undo()
        memory.update(2, target="Cyrus Quist")  # now that is the newest word against the third
        assert said(question) == ["Bo Quist", "Cyrus Quist"]
        memory.supersede(3, 2)
        assert said(question) == ["Bo Quist", "Di Quist"]


# -- what a newer edit has from the one whose place it takes


def test_aliases_are_handed_on_to_the_superseding_edit(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon", aliases=["the Hexagon"], target_aliases=["Lyons"]))
    assert memory.add(capital("France", "Lyon")).duplicates == [0]  # poorer, and else the same
    memory.add(capital("France", "Paris", aliases=["la France"], target_aliases=["Paname"]))
    edit = memory.get(2).edit
    assert (edit.subject_aliases, edit.target_aliases) == (("la France", "the Hexagon"), ("Paname",))
    text = "The capital of the Hexagon is"
    assert memory.near([text], memory.encoder.encode([text]))[0][0].named
    memory.update(2, subject_aliases=())
    assert memory.get(2).edit.subject_aliases == ()
    assert memory.check() == []


def test_aliases_of_another_subject_are_not_taken(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon", aliases=["the Hexagon"], ref="r"))
    memory.add(capital("Spain", "Vigo", ref="r"))
    assert memory.get(2).edit.subject_aliases == ()
