"""A memory of the schema of the first version opens as it was left: `memory_schema1.db.gz`, made by that version."""

from __future__ import annotations

import gzip
from pathlib import Path

from memory_fixtures import TrigramEncoder, capital

from memedit.memory import EditMemory

FIRST = Path(__file__).parent / "memory_schema1.db.gz"


def test_a_memory_of_the_first_schema_opens_with_all_that_it_held(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(gzip.decompress(FIRST.read_bytes()))
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(dim=8)) as memory:
        assert memory.check() == []
        said = {r.id: (r.status, r.version, r.edit.statement) for r in memory.list(status="all")}
        assert said == {
            1: ("superseded", 2, "The capital of France is Lyon."),
            2: ("live", 2, "The capital of Spain is Seville."),
            3: ("live", 3, "The head of Acme is Ann."),
            4: ("live", 1, "The capital of France is Paris."),
            5: ("live", 1, "The head of Acme is Bo."),
        }
        first = memory.get_ref("fr").edit
        assert (first.tags, first.subject_aliases) == (("city",), ("the Hexagon",))
        assert [o.kind for o in memory.operations()] == ["undo", "forget", "update", "add", "add"]
        assert memory.search("The capital of Spain is", 1)[0].record.id == 2
        assert memory.add(capital("Italy", "Turin")).ids == [6]
        assert memory.check() == []
