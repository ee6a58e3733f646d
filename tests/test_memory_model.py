"""The memory against a model of it in plain Python: whatever is done in whatever order, they agree."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_fixtures import TrigramEncoder

from memedit.edit import Edit
from memedit.errors import EditError, MemoryError_
from memedit.memory import EditMemory, restore
from memedit.memory.content import instant

COUNTRIES = ("France", "Spain", "Mali")
CITIES = ("Lyon", "Vigo", "Gao")
REFS = (None, None, "r1", "r2")

edits = st.builds(
    lambda country, city, ref, method: Edit(
        prompt=f"The capital of {country} is", target=city, subject=country, ref=ref, method=method
    ),
    st.sampled_from(COUNTRIES),
    st.sampled_from(CITIES),
    st.sampled_from(REFS),
    st.sampled_from((None, "rome")),
)


@dataclass
class State:
    """What a memory knows: each edit's content and status, by id."""

    edits: dict[int, Edit] = field(default_factory=dict)
    status: dict[int, str] = field(default_factory=dict)

    def copy(self) -> State:
        return State(dict(self.edits), dict(self.status))

    def live(self) -> dict[int, Edit]:
        return {id: edit for id, edit in self.edits.items() if self.status[id] == "live"}


def same_matter(a: Edit, b: Edit) -> bool:
    return a.subject == b.subject or (a.ref is not None and a.ref == b.ref)


def same_content(a: Edit, b: Edit) -> bool:
    return (a.subject, a.target, a.method) == (b.subject, b.target, b.method)


class Model(RuleBasedStateMachine):
    """Rules act on both; the invariant compares them."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="memedit-model-"))
        self.encoder = TrigramEncoder(16)
        self.memory = EditMemory.open(self.folder, encoder=self.encoder)
        self.state = State()
        self.ever: dict[int, Edit] = {}
        self.before: list[State] = []  # a state per operation that still stands
        self.written = 0
        self.then: list[tuple[str, dict[int, Edit]]] = []  # moments, and what was live then

    def _change(self, state: State) -> None:
        self.before.append(self.state)
        self.state = state
        self.written += 1

    @rule(given=st.lists(edits, min_size=1, max_size=4))
    def add(self, given: list[Edit]) -> None:
        state, ids = self.state.copy(), []
        for edit in given:
            twins = [id for id, other in state.live().items() if same_content(edit, other)]
            if twins:
                ids.append(twins[0])
                continue
            id = max(self.ever, default=0) + 1
            for other, old in state.live().items():
                if same_matter(edit, old):
                    state.status[other] = "superseded"
            state.edits[id], state.status[id] = edit, "live"
            self.ever[id] = edit
            ids.append(id)
        assert self.memory.add(given).ids == ids
        if state != self.state:
            self._change(state)

    @precondition(lambda self: self.state.live())
    @rule(data=st.data(), city=st.sampled_from(CITIES), ref=st.sampled_from(REFS))
    def update(self, data: st.DataObject, city: str, ref: str | None) -> None:
        live = self.state.live()
        id = data.draw(st.sampled_from(sorted(live)))
        edit = live[id].updated(target=city, ref=ref)
        if edit == live[id]:
            self.memory.update(id, target=city, ref=ref)
            return
        if any(same_content(edit, other) for twin, other in live.items() if twin != id):
            try:
                self.memory.update(id, target=city, ref=ref)
            except EditError:
                return
            raise AssertionError("a repeated edit was taken")
        state = self.state.copy()
        for other, old in live.items():
            if other != id and same_matter(edit, old):
                state.status[other] = "superseded"
        state.edits[id] = edit
        assert self.memory.update(id, target=city, ref=ref).edit == edit
        self._change(state)

    @precondition(lambda self: self.ever)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.ever)))
        if self.state.status.get(id, "forgotten") in ("forgotten", "purged"):
            try:
                self.memory.forget(id)
            except MemoryError_:
                return
            raise AssertionError("forgotten twice")
        self.memory.forget(id)
        state = self.state.copy()
        state.status[id] = "forgotten"
        self._change(state)

    @precondition(lambda self: self.ever)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.ever)))
        if self.state.status.get(id) == "purged":
            try:
                self.memory.purge(id)
            except MemoryError_:
                return
            raise AssertionError("purged twice")
        assert self.memory.purge(id).left is None
        self.state = self.state.copy()
        self.state.edits.pop(id, None)
        self.state.status[id] = "purged"
        self.before = []  # what came before is not undone without being named
        self.written += 1

    @rule()
    def undo(self) -> None:
        if not self.before:
            try:
                self.memory.undo()
            except MemoryError_:
                return
            raise AssertionError("nothing was undone")
        self.memory.undo()
        self.state = self.before.pop()
        self.written += 1

    @rule(saved=st.booleans())
    def reopen(self, saved: bool) -> None:
        if saved:
            self.memory.save_index()
        self.memory.close()
        self.memory = EditMemory.open(self.folder, encoder=self.encoder)

    @rule()
    def rebuild(self) -> None:
        self.memory.rebuild()

    @rule()
    def compact(self) -> None:
        self.memory.compact()

    @rule()
    def remember(self) -> None:
        self.then.append((instant(None), self.state.live()))

    @precondition(lambda self: self.then)
    @rule(data=st.data())
    def know_what_was_known(self, data: st.DataObject) -> None:
        moment, live = data.draw(st.sampled_from(self.then))
        assert {record.id: record.edit for record in self.memory.as_of(moment)} == live

    @rule()
    def copy(self) -> None:
        """A backup knows the same, and so does the memory after it was restored."""
        place = self.folder / ".." / f"{self.folder.name}-copy"
        self.memory.backup(place, force=True)
        restore(place, self.folder, force=True)
        with EditMemory.open(place, encoder=self.encoder) as other:
            assert other.list(status="all") == self.memory.list(status="all")
            assert other.operations() == self.memory.operations()
        shutil.rmtree(place)

    @rule()
    def export_and_import(self) -> None:
        """What is exported and taken in by an empty memory is the same again."""
        lines = [json.dumps(record.edit.to_dict()) for record in self.memory]
        with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, encoder=self.encoder) as other:
            other.add([Edit.from_dict(json.loads(line)) for line in lines])
            assert [r.edit for r in other] == [r.edit for r in self.memory]

    @invariant()
    def both_know_the_same(self) -> None:
        live = self.state.live()
        assert {record.id: record.edit for record in self.memory} == live
        assert len(self.memory) == len(live)
        assert self.memory.generation == self.written
        for id, edit in self.state.edits.items():
            assert self.memory.get(id).status == self.state.status[id]
            assert self.memory.history(id)[-1].edit == edit or self.state.status[id] == "forgotten"

    @invariant()
    def just_the_live_ones_are_found(self) -> None:
        live = self.state.live()
        for country in COUNTRIES:
            text = f"The capital of {country} is"
            found = self.memory.near([text], self.encoder.encode([text]), k=20)[0]
            assert {n.record.id for n in found} == live.keys()
            assert {n.record.id for n in found if n.named} == {
                id for id, e in live.items() if e.subject == country
            }

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            assert self.memory.check() == []
            self.memory.close()
            shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
