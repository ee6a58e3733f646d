"""What `make torture` does in full, in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from memory_fixtures import TrigramEncoder, capital
from torture import crowd, fuzz, kill

from memedit.edited import EditedModel
from memedit.errors import MemeditError
from memedit.memory import EditMemory
from memedit.router import Router


def test_writers_are_killed(tmp_path: Path) -> None:
    hit = kill.rounds(tmp_path, 8, seed=3)
    assert hit.total() == 8


def test_a_loss_would_be_seen(tmp_path: Path) -> None:
    plain = kill.Plain().after("add", [("France", "Lyon"), ("Spain", "Vigo")])
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(16)) as memory:
        memory.add([capital("France", "Lyon"), capital("Spain", "Vigo")])
    assert kill.look(tmp_path, [kill.Plain(), plain]) is plain
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(16)) as memory:
        memory.forget(1)
    with pytest.raises(AssertionError, match="none of those it could be: 1: "):
        kill.look(tmp_path, [plain])


def test_a_crowd(tmp_path: Path) -> None:
    written, looked = crowd.crowd(tmp_path / "memory", seconds=2)
    assert written >= 4
    assert looked >= 4


def test_nonsense_is_refused_in_a_line(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "memory", encoder=TrigramEncoder()) as memory:
        memory.add(capital("Spain", "Vigo"))
        said = fuzz.fuzz(tmp_path, memory, 120, seed=1)
    assert {"add: taken", "add: refused", "import: taken", "import: refused", "search: refused"} <= {*said}


def test_nonsense_is_routed_and_continued(tmp_path: Path, lm: Any, classifier: Any) -> None:
    with EditMemory.open(tmp_path / "memory", encoder=classifier) as memory:
        memory.add(capital("Spain", "Vigo"))
        router = Router(memory, classifier)
        edited = EditedModel(lm(), router)
        tried = fuzz.Fuzz(memory, seed=1)
        for _ in range(20):
            tried.ask("route", router.route)
        for _ in range(10):
            tried.ask("generate", lambda given: edited.generate(given, max_new_tokens=2), longest=100)
    assert tried.wrong == []
    assert {"route: taken", "route: refused", "generate: taken", "generate: refused"} <= {*tried.count}


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    said = str(MemeditError("no such thing: 'a\nb\x1b[31m\u2028\ud800'; take another, größer"))
    assert said == r"no such thing: 'a\nb\x1b[31m\u2028\ud800'; take another, größer"
    assert len(str(MemeditError("x" * 100_000))) < 1100
