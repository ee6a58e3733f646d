"""A disk without room: one sentence, nothing lost, and all works again once there is room.

A limit on the size of files stands for the disk: the system refuses the write in the middle, as a full one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

_CHILD = """
import contextlib, json, os, resource, sys
from pathlib import Path
from memory_fixtures import TrigramEncoder, capital, facts
from memedit.cli import main
from memedit.errors import MemeditError
from memedit.memory import EditMemory, restore

folder = Path(sys.argv[1])
said = {}

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def tried(what, do):
    try:
        do()
        said[what] = "done"
    except MemeditError as error:
        said[what] = str(error)

def export(file):
    try:
        with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
            main(["export", str(file), "--memory", str(folder / "memory")], standalone_mode=False)
    except SystemExit as stop:
        assert stop.code == 1
        raise MemeditError("export failed")

memory = EditMemory.open(folder / "memory", encoder=TrigramEncoder(64))
memory.add(facts(250))
memory.backup(folder / "copy")
big = capital("Spain", "Vigo", extra={"note": "x" * 60_000})
before = memory.list(), memory.generation
calls = {
    "add": lambda: memory.add(big),
    "import": lambda: memory.add([capital(f"Country {n}", "Lyon") for n in range(3000)]),
    "update": lambda: memory.update(1, extra={"note": "x" * 60_000}),
    "index": memory.save_index,
    "patch": lambda: memory.put_patch(1, "key", "rome", b"x" * 60_000),
    "backup": lambda: memory.backup(folder / "copy", force=True),
    "restore": lambda: restore(folder / "copy", folder / "restored"),
    "compact": memory.compact,
    "export": lambda: export(folder / "facts.jsonl"),
}
room(40_000)  # SQLite needs 32 KiB to share memory between processes
for what, do in calls.items():
    tried(what, do)
assert (memory.list(), memory.generation) == before
assert memory.check() == [], memory.check()
with EditMemory.open(folder / "copy", encoder=TrigramEncoder(64)) as copy:
    assert len(copy) == 250
left = sorted(p.name for p in folder.iterdir())
room(resource.RLIM_INFINITY)
again = dict(said)
said.clear()
for what, do in calls.items():
    tried(what, do)
assert len(memory) == 3251
assert memory.check() == [], memory.check()
print(json.dumps([again, said, left]))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits on files are a matter of POSIX")
def test_without_room_nothing_is_lost(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    full, after, left = json.loads(done.stdout.splitlines()[-1])
    for what, said in full.items():
        assert said != "done", what
        assert "\n" not in said
    for what in ("add", "import", "update", "compact"):
        assert "nothing was changed" in full[what]
    assert "the edits themselves are safe" in full["index"]
    assert "what was there is as it was" in full["backup"]
    assert left == ["copy", "memory"]
    assert set(after.values()) == {"done"}
