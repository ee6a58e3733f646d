"""EditMemory as its users see it: what is added, changed, forgotten, undone, listed and found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.edit import Edit
from memedit.errors import EditError, EncoderMismatch, MemoryError_
from memedit.memory import EditMemory, conflicting, content
from memedit.memory.content import instant


@pytest.fixture
def encoder() -> TrigramEncoder:
    return TrigramEncoder()


@pytest.fixture
def memory(tmp_path: Path, encoder: TrigramEncoder) -> Iterator[EditMemory]:
    with EditMemory.open(tmp_path / "memory", encoder=encoder) as memory:
        yield memory


def targets(memory: EditMemory) -> list[str | None]:
    return [record.edit.target for record in memory]


def no_encoder() -> TrigramEncoder:
    raise AssertionError("this must not load an encoder")


# -- add


def test_an_added_edit_comes_back_whole(memory: EditMemory) -> None:
    edit = capital(
        "France",
        "Lyon",
        aliases=["the Hexagon"],
        target_aliases=["Lyons"],
        tags=["geo", "test"],
        valid_from="2026-01-01",
        method="serac",
        ref="fr",
        source="us",
        note={"a": [1, 2, {"b": None}]},
    )
    added = memory.add(edit)
    assert (added.ids, added.new, added.duplicates, added.operation) == ([1], [1], [], 1)
    record = memory.get(1)
    assert record.edit == edit
    assert (record.version, record.status, record.superseded_by) == (1, "live", None)
    assert record.added == record.changed == memory.operations()[0].at


def test_all_kinds_of_edits_are_kept(memory: EditMemory) -> None:
    edits = [
        Edit(statement="Ada wrote the first program."),
        Edit(prompt="The pin of Bob is", kind="erase", subject="Bob"),
        Edit(prompt="法国的首都是", target="里昂", subject="法国"),
        Edit(prompt="X is", target="Y", extra={"prompt": "not the prompt", "emoji": "🦊"}),
    ]
    memory.add(edits)
    assert [record.edit for record in memory] == edits


def test_a_list_is_one_operation(memory: EditMemory) -> None:
    added = memory.add(facts(5))
    assert added.ids == [1, 2, 3, 4, 5]
    assert [(o.kind, o.edits) for o in memory.operations()] == [("add", 5)]


def test_a_duplicate_of_a_live_edit_is_no_new_edit(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    added = memory.add(
        [capital("Spain", "Vigo"), capital("France", "Lyon", source="elsewhere"), capital("Spain", "Vigo")]
    )
    assert added.ids == [2, 1, 2]
    assert added.duplicates == [1, 2]
    assert added.new == [2]
    assert len(memory) == 2


def test_adding_only_duplicates_is_no_operation(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    assert memory.add(capital("France", "Lyon")).operation == 0
    assert memory.add([]).operation == 0
    assert memory.generation == 1


def test_what_is_no_edit_is_refused_and_nothing_is_taken(memory: EditMemory) -> None:
    with pytest.raises(EditError, match=r"number 2 .* dict"):
        memory.add([capital("France", "Lyon"), {"prompt": "p", "target": "t"}])  # type: ignore[list-item]
    assert len(memory) == 0


def test_extra_keys_that_are_no_json_are_refused_and_nothing_is_taken(memory: EditMemory) -> None:
    for bad in (object(), "\ud800", {"a": {1, 2}}):
        with pytest.raises(EditError, match="JSON"):
            memory.add([capital("Spain", "Vigo"), Edit(statement="a b", extra={"x": bad})])
    assert len(memory) == 0
    assert memory.operations() == []


def test_progress_counts_what_is_encoded(memory: EditMemory) -> None:
    steps: list[tuple[int, int]] = []
    memory.add(facts(300), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(256, 300), (300, 300)]


# -- superseding


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (capital("France", "Lyon"), capital("France", "Paris")),
        (capital("France", "Lyon"), capital("FRANCE", "Paris")),
        (
            Edit(prompt="Ann works at", target="A", subject="Ann", relation="employer"),
            Edit(prompt="The employer of Ann is", target="B", subject="ann", relation="Employer"),
        ),
        (Edit(statement="One thing.", ref="r1"), Edit(statement="Quite another.", ref="r1")),
        (capital("France", "Lyon"), Edit(prompt="The capital of France is", kind="erase", subject="France")),
        (capital("France", "Lyon"), capital("France", "Lyon", method="rome")),
        (capital("France", "Lyon", valid_from="2026-01-01"), capital("France", "Paris")),
    ],
    ids=["prompt", "case", "relation", "ref", "erase", "method", "covers"],
)
def test_supersedes(memory: EditMemory, old: Edit, new: Edit) -> None:
    memory.add(old)
    assert memory.add(new).superseded == [(1, 2)]
    assert [r.id for r in memory] == [2]
    assert (memory.get(1).status, memory.get(1).superseded_by) == ("superseded", 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (capital("France", "Lyon"), capital("Spain", "Lyon")),
        (
            Edit(prompt="Ann works at", target="A", subject="Ann", relation="employer"),
            Edit(prompt="The employer of Ann is", target="A", subject="Ann", relation="employer"),
        ),
        (capital("France", "Lyon"), capital("France", "Paris", valid_from="2027-01-01")),
        (Edit(statement="One thing.", ref="r1"), Edit(statement="Quite another.", ref="r2")),
    ],
    ids=["subject", "same target", "holds for a part", "refs"],
)
def test_both_stay(memory: EditMemory, old: Edit, new: Edit) -> None:
    memory.add(old)
    assert memory.add(new).superseded == []
    assert [r.id for r in memory] == [1, 2]


def test_inside_one_call_the_later_wins_and_both_are_in_history(memory: EditMemory) -> None:
    added = memory.add([capital("France", "Lyon"), capital("France", "Paris"), capital("France", "Lyon")])
    assert added.ids == [1, 2, 3]
    assert added.superseded == [(1, 2), (2, 3)]
    assert targets(memory) == ["Lyon"]
    assert [(v.version, v.action, v.status) for v in memory.history(2)] == [
        (1, "add", "live"),
        (2, "supersede", "superseded"),
    ]


def test_one_edit_may_supersede_several(memory: EditMemory) -> None:
    memory.add([Edit(prompt="A is", target="1", ref="x"), Edit(prompt="B is", target="2")])
    assert memory.add(Edit(prompt="B is", target="3", ref="x")).superseded == [(1, 3), (2, 3)]


# -- suspected conflicts


def test_nearly_one_statement_is_flagged_and_both_stay(memory: EditMemory) -> None:
    memory.add(Edit(statement="The chief executive of the Acme corporation is Ann Lee."))
    added = memory.add(Edit(statement="The chief executive of the Acme corporation is Bob Lee."))
    [(new, old, cosine)] = added.conflicts
    assert (new, old) == (2, 1)
    assert 0.8 < cosine < 1
    assert len(memory) == 2


def test_conflicts_inside_one_call_are_flagged_once(memory: EditMemory) -> None:
    added = memory.add(
        [
            Edit(statement="The chief executive of the Acme corporation is Ann Lee."),
            Edit(statement="The chief executive of the Acme corporation is Bob Lee."),
        ]
    )
    assert [pair[:2] for pair in added.conflicts] == [(2, 1)]


def test_other_subjects_and_superseded_edits_are_no_conflict(memory: EditMemory) -> None:
    memory.add(capital("Guinea of the northern plains", "Lyon"))
    assert memory.add(capital("Guinea of the northern plain", "Paris")).conflicts == []
    assert memory.add(capital("Guinea of the northern plains", "Nice")).conflicts == []


def test_conflicting_looks_at_targets_and_time(memory: EditMemory) -> None:
    text = "The mayor of the old free imperial city of Ulm upon the Danube"
    memory.add(
        [
            Edit(prompt=f"{text} is", target="Ann", subject="Ulm"),
            Edit(prompt=f"{text} is", target="Bob", subject="Ulm", valid_to="2020-01-01"),
            Edit(prompt=f"{text} was", target="Cid", subject="Ulm"),
            Edit(prompt=f"{text} was once", target="Cid", subject="Ulm"),
        ]
    )
    found = memory.near([text], memory.encoder.encode([text]), at="2019-01-01")[0]
    near = {n.record.id: n for n in found}
    assert conflicting(near[1], near[2])
    assert conflicting(near[3], near[1])
    assert not conflicting(near[3], near[4])


# -- update, forget


def test_update_makes_a_version(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    record = memory.update(1, target="Nice", tags=["sea"])
    assert (record.id, record.version, record.edit.target, record.edit.tags) == (1, 2, "Nice", ("sea",))
    assert record.edit.statement == "The capital of France is Nice."
    assert record.added < record.changed
    assert [v.edit.target for v in memory.history(1)] == ["Lyon", "Nice"]
    assert memory.search("The capital of France is Nice.")[0].cosine == pytest.approx(1, abs=1e-3)


def test_update_to_what_it_is_changes_nothing(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    assert memory.update(1, target="Lyon").version == 1
    assert memory.generation == 1


def test_update_can_take_anothers_place_but_not_repeat_it(memory: EditMemory) -> None:
    memory.add(
        [capital("France", "Lyon"), Edit(prompt="France's capital is", target="Paris", subject="France")]
    )
    with pytest.raises(EditError, match="edit 1 says that already"):
        memory.update(2, prompt="The capital of France is", target="Lyon")
    memory.update(2, prompt="The capital of France is")
    assert [r.id for r in memory] == [2]
    assert memory.get(1).superseded_by == 2


def test_update_refuses_what_is_wrong_and_keeps_the_edit(memory: EditMemory) -> None:
    memory.add([capital("France", "Lyon"), capital("Spain", "Vigo"), capital("Spain", "Lugo")])
    memory.forget(1)
    with pytest.raises(EditError, match="target"):
        memory.update(3, target="")
    with pytest.raises(EditError, match="unknown field 'targt'; did you mean target"):
        memory.update(3, targt="Vigo")
    with pytest.raises(MemoryError_, match="superseded by edit 3"):
        memory.update(2, target="Leon")
    with pytest.raises(MemoryError_, match="forgotten"):
        memory.update(1, target="Nice")
    assert memory.get(3).version == 1


def test_forget_keeps_history_and_revives_nothing(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add(capital("France", "Paris"))
    assert memory.forget(2).status == "forgotten"
    assert len(memory) == 0
    assert memory.get(1).status == "superseded"
    assert [v.action for v in memory.history(2)] == ["add", "forget"]
    with pytest.raises(MemoryError_, match="forgotten already"):
        memory.forget(2)
    assert memory.search("The capital of France is") == []


def test_what_was_forgotten_can_be_added_again(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.forget(1)
    assert memory.add(capital("France", "Lyon")).new == [2]


@pytest.mark.parametrize("id", [0, -1, 7, 2**70, "1", None])
def test_an_id_that_is_not_there_is_said(memory: EditMemory, id: int) -> None:
    memory.add(capital("France", "Lyon"))
    for call in (memory.get, memory.forget, memory.history, memory.update):
        with pytest.raises(MemoryError_, match="there is no edit"):
            call(id)


# -- undo


def test_undo_of_an_import_takes_all_of_it_back(memory: EditMemory) -> None:
    memory.add(capital("Spain", "Vigo"))
    memory.add([*facts(3), capital("Spain", "Lugo")])
    undone = memory.undo()
    assert (undone.id, undone.kind, undone.edits, undone.undone) == (2, "add", 5, True)
    assert targets(memory) == ["Vigo"]
    assert memory.search("The capital of Spain is Vigo.", 1)[0].record.edit.target == "Vigo"


def test_undo_of_update_and_forget(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.update(1, target="Nice")
    memory.forget(1)
    memory.undo()
    assert targets(memory) == ["Nice"]
    memory.undo()
    assert targets(memory) == ["Lyon"]
    assert [v.action for v in memory.history(1)] == ["add", "update", "forget", "undo", "undo"]


def test_undo_steps_back_until_nothing_is_left(memory: EditMemory) -> None:
    for city in ("Lyon", "Paris", "Lyon"):
        memory.add(capital("France", city))
    left = [targets(memory)]
    for _ in range(3):
        memory.undo()
        left.append(targets(memory))
    assert left == [["Lyon"], ["Paris"], ["Lyon"], []]
    with pytest.raises(MemoryError_, match="nothing to undo"):
        memory.undo()
    assert [o.kind for o in memory.operations(4)] == ["undo", "undo", "undo", "add"]
    assert [o.undoes for o in memory.operations(3)] == [1, 2, 3]


def test_after_an_undo_new_things_are_undone_first(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add(capital("Spain", "Vigo"))
    memory.undo()
    memory.add(capital("Italy", "Bari"))
    memory.undo()
    assert targets(memory) == ["Lyon"]
    memory.undo()
    assert targets(memory) == []


def test_undo_of_an_update_that_superseded_brings_the_other_back(memory: EditMemory) -> None:
    memory.add(
        [capital("France", "Lyon"), Edit(prompt="France's capital is", target="Paris", subject="France")]
    )
    memory.update(2, prompt="The capital of France is")
    memory.undo()
    assert [(r.id, r.edit.prompt) for r in memory] == [
        (1, "The capital of France is"),
        (2, "France's capital is"),
    ]
    assert memory.check() == []


# -- reading


def test_list_filters(memory: EditMemory) -> None:
    memory.add(
        [
            capital("France", "Lyon", tags=["geo", "old"], source="a", method="ice"),
            capital("Spain", "Vigo", tags=["geology"], source="b"),
            capital("Ålesund", "Oslo", tags=["geo"], source="a"),
            capital("Spain", "Lugo", source="b"),
        ]
    )
    memory.forget(1)

    def ids(**filters: object) -> list[int]:
        return [r.id for r in memory.list(**filters)]  # type: ignore[arg-type]

    assert ids() == [3, 4]
    assert ids(status="all") == [1, 2, 3, 4]
    assert ids(status="superseded") == [2]
    assert ids(tag="geo", status="all") == [1, 3]
    assert ids(source="a") == [3]
    assert ids(subject="ålesund") == [3]
    assert ids(subject="SPAIN", status="all") == [2, 4]
    assert ids(method="ice", status="forgotten") == [1]
    assert ids(status="all", limit=2, offset=1) == [2, 3]
    with pytest.raises(MemoryError_, match="unknown status 'lively'; did you mean live"):
        memory.list(status="lively")


def test_get_ref_prefers_the_live_one(memory: EditMemory) -> None:
    memory.add(
        [
            capital("France", "Lyon", ref="fr"),
            capital("France", "Paris", ref="fr"),
            capital("Spain", "Vigo", ref="es"),
        ]
    )
    assert memory.get_ref("fr").id == 2
    memory.forget(3)
    assert memory.get_ref("es").status == "forgotten"
    with pytest.raises(MemoryError_, match="no edit has the ref 'it'"):
        memory.get_ref("it")


def test_as_of_is_what_the_memory_knew_then(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.add(capital("France", "Paris"))
    memory.forget(2)
    memory.undo()
    times = [o.at for o in reversed(memory.operations())]
    known = [[r.edit.target for r in memory.as_of(at)] for at in times]
    assert known == [["Lyon"], ["Paris"], [], ["Paris"]]
    assert memory.as_of("2020-01-01") == []
    assert [r.edit.target for r in memory.as_of(datetime.now(timezone.utc))] == ["Paris"]
    with pytest.raises(EditError, match="no date"):
        memory.as_of("yesterday")


def test_times_grow_even_if_the_clock_goes_back(memory: EditMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.add(capital("France", "Lyon"))
    monkeypatch.setattr(content, "instant", lambda when: instant(when or "2001-01-01"))
    memory.add(capital("France", "Paris"))
    newer, older = memory.operations()
    assert newer.at > older.at
    assert [r.edit.target for r in memory.as_of(older.at)] == ["Lyon"]


def test_everything_is_there_after_reopening(tmp_path: Path, encoder: TrigramEncoder) -> None:
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add(facts(10))
        memory.update(3, target="Rome")
        memory.forget(4)
        before = memory.list(status="all"), memory.history(3), memory.operations(), memory.search("Town 7")
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        assert memory.list(status="all") == before[0]
        assert memory.history(3) == before[1]
        assert memory.operations() == before[2]
        assert [(n.record, n.cosine, n.named) for n in memory.search("Town 7")] == [
            (n.record, n.cosine, n.named) for n in before[3]
        ]


# -- searching


def near(memory: EditMemory, text: str, k: int = 8, at: str | None = None) -> list[tuple[str | None, bool]]:
    found = memory.near([text], memory.encoder.encode([text]), k, at)[0]
    assert [n.cosine for n in found] == sorted((n.cosine for n in found), reverse=True)
    return [(n.record.edit.target, n.named) for n in found]


def test_near_is_what_numpy_finds(memory: EditMemory, encoder: TrigramEncoder) -> None:
    edits = facts(200)
    memory.add(edits)
    queries = ["Which town is Town 17?", "capital of the land", "Town 150"]
    vectors = encoder.encode(queries)
    keys = encoder.encode([encoder.texts(edit)[0] for edit in edits]).astype(np.float16).astype(np.float32)
    for row, vector in zip(memory.near(queries, vectors, k=5), vectors, strict=True):
        cosines = keys @ vector
        assert [n.cosine for n in row] == pytest.approx(sorted(cosines, reverse=True)[:5], abs=1e-6)
        for n in row:
            assert n.cosine == pytest.approx(cosines[n.record.id - 1], abs=1e-6)
            assert n.vectors.shape == (2, encoder.dim)
            assert np.allclose(n.vectors, encoder.encode(encoder.texts(n.record.edit)), atol=1e-3)


def test_near_adds_the_edits_that_are_named(memory: EditMemory) -> None:
    memory.add(
        [*facts(50), Edit(statement="Zog lives here.", subject="Zog", subject_aliases=("Old King Zog",))]
    )
    text = "The capital of Land 00007 of nowhere, said Zog's aunt, is"
    found = memory.near([text], memory.encoder.encode([text]), k=3)[0]
    assert {n.record.edit.subject: n.named for n in found}["Zog"]
    assert len(found) == 4
    assert sum(n.named for n in found) == 1


def test_named_edits_are_capped_at_the_nearest_k(memory: EditMemory) -> None:
    memory.add(
        [Edit(prompt=f"Zog's {n}th friend is", target=f"Friend {n}", subject="Zog") for n in range(40)]
    )
    memory.add(facts(5))
    found = near(memory, "Zog's 31th friend is", k=4)
    assert found[0] == ("Friend 31", True)
    assert len(found) == 4


def test_near_honours_the_time_when_facts_hold(memory: EditMemory) -> None:
    memory.add(
        [
            Edit(prompt="Ulm's mayor is", target="Old", subject="Ulm", valid_to="2020-01-01"),
            Edit(
                prompt="Ulm's mayor is",
                target="Mid",
                subject="Ulm",
                valid_from="2020-01-01",
                valid_to="2030-01-01",
            ),
            Edit(prompt="Ulm's mayor is", target="New", subject="Ulm", valid_from="2030-01-01"),
        ]
    )
    assert near(memory, "Ulm's mayor is", at="2019-12-31T23:59:59") == [("Old", True)]
    assert near(memory, "Ulm's mayor is", at="2020-01-01") == [("Mid", True)]
    assert near(memory, "Ulm's mayor is", k=1, at="2040-06-01") == [("New", True)]


def test_search_and_near_of_an_empty_memory_find_nothing(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path, encoder=no_encoder) as memory:
        assert memory.search("anything") == []
        assert memory.near(["a", "b"], np.zeros((2, 32), np.float32)) == [[], []]
        assert not len(memory)


def test_near_refuses_vectors_of_another_length(memory: EditMemory) -> None:
    memory.add(facts(2))
    with pytest.raises(EncoderMismatch, match=r"\(1, 32\), not \(1, 33\)"):
        memory.near(["a"], np.zeros((1, 33), np.float32))


def test_changes_are_found_at_once(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    assert near(memory, "The capital of France is") == [("Lyon", True)]
    memory.update(1, target="Nice")
    assert near(memory, "The capital of France is") == [("Nice", True)]
    memory.add(capital("France", "Paris"))
    assert near(memory, "The capital of France is") == [("Paris", True)]
    memory.undo()
    assert near(memory, "The capital of France is") == [("Nice", True)]
    memory.forget(1)
    assert near(memory, "The capital of France is") == []


# -- the encoder


def test_only_what_is_new_is_encoded(tmp_path: Path, encoder: TrigramEncoder) -> None:
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add([capital("France", "Lyon"), capital("Spain", "Vigo")])
        memory.add(capital("France", "Paris"))
    with EditMemory.open(tmp_path, encoder=no_encoder) as memory:
        assert targets(memory) == ["Vigo", "Paris"]
        memory.history(1), memory.get(1), memory.stats(), memory.check()
        memory.undo()
        memory.forget(2)
        memory.add(capital("France", "Paris"))  # said before, so encoded before
        memory.update(4, tags=["x"])
        memory.near(["Paris"], encoder.encode(["Paris"]))
        assert targets(memory) == ["Paris"]


def test_another_encoder_is_refused_with_what_to_do(tmp_path: Path, encoder: TrigramEncoder) -> None:
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add(facts(3))
    other = TrigramEncoder(seed=1)
    with EditMemory.open(tmp_path, encoder=other) as memory:
        for call in (
            lambda: memory.add(capital("France", "Lyon")),
            lambda: memory.search("x"),
            lambda: memory.encoder,
        ):
            with pytest.raises(
                EncoderMismatch, match=r"trigrams-32-0.*trigrams-32-1.*memedit rebuild --reencode"
            ):
                call()
        assert len(memory) == 3
        assert memory.generation == 1


def test_rebuild_can_encode_anew(tmp_path: Path, encoder: TrigramEncoder) -> None:
    first = EditMemory.open(tmp_path, encoder=encoder)
    first.add([*facts(3), capital("France", "Lyon"), capital("France", "Paris")])
    assert len(first.search("x")) == 4
    other = TrigramEncoder(dim=48)
    with EditMemory.open(tmp_path, encoder=other) as memory:
        memory.rebuild(reencode=True)
        assert memory.search("The capital of France is Paris.", 1)[0].cosine == pytest.approx(1, abs=1e-3)
        assert memory.get_meta("encoder_fingerprint") == other.fingerprint
        assert memory.check() == []
        # a reader that was open all the time
        assert [n.record.id for n in first.near(["x"], other.encode(["x"]))[0]] == [
            n.record.id for n in memory.search("x")
        ]
        with pytest.raises(EncoderMismatch):
            first.near(["x"], encoder.encode(["x"]))
        with pytest.raises(EncoderMismatch):
            first.search("x")
    first.close()


def test_undo_passes_a_new_encoding_by(memory: EditMemory) -> None:
    memory.add(capital("France", "Lyon"))
    memory.rebuild(reencode=True)
    assert memory.undo().kind == "add"
    assert [o.kind for o in memory.operations()] == ["undo", "reencode", "add"]


def test_undo_encodes_what_a_new_encoder_never_saw(tmp_path: Path, encoder: TrigramEncoder) -> None:
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add(capital("France", "Lyon"))
        memory.add(capital("France", "Paris"))
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(dim=48)) as memory:
        memory.rebuild(reencode=True)
        memory.undo()
        assert memory.search("The capital of France is Lyon.")[0].cosine == pytest.approx(1, abs=1e-3)


def test_the_encoder_is_asked_for_once(tmp_path: Path) -> None:
    made: list[TrigramEncoder] = []

    def make() -> TrigramEncoder:
        made.append(TrigramEncoder())
        return made[-1]

    with EditMemory.open(tmp_path, encoder=make) as memory:
        assert not made
        memory.add(facts(2))
        memory.search("x")
        assert memory.encoder is made[0]
    assert len(made) == 1


def test_importing_and_reading_load_nothing_heavy(tmp_path: Path, encoder: TrigramEncoder) -> None:
    with EditMemory.open(tmp_path, encoder=encoder) as memory:
        memory.add(facts(3))
    code = (
        "import sys; from memedit.memory import EditMemory; memory = EditMemory.open(sys.argv[1]); "
        "memory.list(); memory.history(1); memory.forget(1); memory.undo(); memory.stats(); memory.close(); "
        "print([m for m in ('torch', 'faiss', 'transformers', 'sentence_transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- settings, patches, care


def test_settings_are_kept_and_what_is_the_memorys_own_is_not_touched(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path) as memory:
        assert memory.default_method == "ice"
        memory.default_method = "serac"
        memory.set_meta("false_fire_rate", "0.01")
        with pytest.raises(MemoryError_, match="encoder_dim"):
            memory.set_meta("encoder_dim", "7")
    with EditMemory.open(tmp_path) as memory:
        assert memory.default_method == "serac"
        assert memory.get_meta("false_fire_rate") == "0.01"
        assert memory.get_meta("nothing") is None


def test_patches(memory: EditMemory) -> None:
    memory.add(facts(2))
    memory.put_patch(1, "rome-abc.1", "rome", b"one")
    memory.put_patch(2, "rome-abc.1", "rome", b"two")
    memory.put_patch(1, "grace", "grace", b"three")
    assert memory.get_patch("rome-abc.1") == b"two"
    assert memory.get_patch("nothing") is None
    assert {(p["key"], p["method"], p["size"]) for p in memory.patches(1)} == {
        ("rome-abc.1", "rome", 3),
        ("grace", "grace", 5),
    }
    assert len(memory.patches()) == 3
    file = memory.path / "patches" / "grace.safetensors"
    assert file.read_bytes() == b"three"
    file.write_bytes(b"thr33")
    assert memory.get_patch("grace") is None
    assert [p for p in memory.check() if "grace is damaged" in p]
    file.unlink()
    assert memory.get_patch("grace") is None
    for key in ("../memory", "a/b", "", ".hidden", "x" * 300):
        with pytest.raises(MemoryError_, match="key"):
            memory.put_patch(1, key, "rome", b"")
    with pytest.raises(MemoryError_, match="no edit"):
        memory.put_patch(9, "k", "rome", b"")


def test_stats_are_numbers_for_json(memory: EditMemory) -> None:
    import json

    memory.add(
        [capital("France", "Lyon"), capital("France", "Paris", method="rome"), capital("Spain", "Vigo")]
    )
    memory.forget(3)
    stats = json.loads(json.dumps(memory.stats()))
    assert (stats["live"], stats["superseded"], stats["forgotten"]) == (1, 1, 1)
    assert (stats["operations"], stats["versions"], stats["generation"]) == (2, 5, 2)
    assert stats["methods"] == {"rome": 1}
    assert (stats["encoder"], stats["dim"], stats["views"]) == ("trigrams", 32, ["statement", "prompt"])


def test_check_finds_what_is_wrong_and_rebuild_mends_what_is_derived(memory: EditMemory) -> None:
    memory.add(facts(3))
    assert memory.check() == []
    with memory._store.writing() as db:
        db.execute("DELETE FROM names WHERE edit = 2")
        db.execute("DELETE FROM keys WHERE edit = 1")
        db.execute("UPDATE edits SET status = 'forgotten' WHERE id = 3")
    problems = " | ".join(memory.check())
    assert "names" in problems
    assert "keys" in problems
    assert "1 edits are not what their history says" in problems
    with memory._store.writing() as db:
        db.execute("UPDATE edits SET status = 'live' WHERE id = 3")
    memory.rebuild()
    assert memory.check() == []


def test_closed_means_closed(memory: EditMemory) -> None:
    memory.close()
    memory.close()
    for call in (lambda: memory.add(facts(1)), memory.list, lambda: len(memory)):
        with pytest.raises(MemoryError_, match="was closed"):
            call()
