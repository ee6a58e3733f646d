"""The memory among processes and threads: kill -9, readers beside a writer, many threads on one object."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from memory_fixtures import TrigramEncoder, capital, facts

from memedit.errors import MemoryBusy
from memedit.memory import EditMemory

TESTS = Path(__file__).parent

_WRITER = """
import sys
from memory_fixtures import TrigramEncoder, capital, facts
from memedit.memory import EditMemory
memory = EditMemory.open(sys.argv[1], encoder=TrigramEncoder())
print("ready", flush=True)
for n in range(100000):
    added = memory.add([capital(f"Country {sys.argv[2]} {n} {part}", "Lyon") for part in range(n % 3 + 1)])
    print("added", *added.ids, flush=True)
    if n % 5 == 4:
        memory.forget(added.ids[0])
        print("forgot", added.ids[0], flush=True)
    if n % 7 == 6:
        memory.update(added.ids[-1], target="Nice")
        print("updated", added.ids[-1], flush=True)
    if n % 4 == 3:
        memory.save_index()
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
        },
    )


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(7)
    live: set[int] = set()
    updated: set[int] = set()
    said = 0
    for trial in range(3):
        writer = start(_WRITER, str(tmp_path), str(trial))
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        heard = [writer.stdout.readline() for _ in range(chance.randint(5, 40))]
        time.sleep(0.005 * chance.random())  # somewhere in the middle of the next ones
        writer.kill()
        rest, _ = writer.communicate()
        for line in [*heard, *rest.splitlines(keepends=True)]:
            if not line.endswith("\n"):
                continue  # the kill came while it was said
            word, *ids = line.split()
            said += 1
            if word == "added":
                live.update(map(int, ids))
            elif word == "forgot":
                live -= {int(ids[0])}
            else:
                updated.add(int(ids[0]))
        with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
            records = {record.id: record for record in memory.list(status="all")}
            assert {id for id in live if records[id].status != "live"} <= _last_unsaid(memory)
            assert all(records[id].edit.target == "Nice" for id in updated)
            # of each trial, only the operation that was under way when the kill came may be there unsaid
            assert len(memory.operations()) - said in range(trial + 2)
            assert memory.check() == []
            named = sorted(live)[-1]
            found = memory.search(records[named].edit.statement, 3)
            assert named in {n.record.id for n in found} or named in _last_unsaid(memory)
            live = {record.id for record in memory}
    assert said >= 15


def _last_unsaid(memory: EditMemory) -> set[int]:
    """The edits of the newest operation, which may have been done and not yet said."""
    newest = memory.operations(1)[0]
    return {r.id for r in memory.list(status="all") if memory.history(r.id)[-1].operation == newest.id}


_READER = """
import sys
from memory_fixtures import TrigramEncoder
from memedit.memory import EditMemory
memory = EditMemory.open(sys.argv[1], encoder=TrigramEncoder(), readonly=True)
for text in sys.stdin:
    found = memory.search(text.strip(), 1)
    print(len(memory), memory.generation, found[0].record.edit.target if found else None, flush=True)
"""


def test_a_reader_sees_a_commit_at_its_next_query(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        memory.add(capital("Spain", "Vigo"))
        reader = start(_READER, str(tmp_path))
        assert reader.stdin
        assert reader.stdout

        def ask(text: str) -> str:
            assert reader.stdin
            assert reader.stdout
            reader.stdin.write(text + "\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        assert ask("The capital of Spain is") == "1 1 Vigo"
        memory.add([capital("France", "Lyon"), *facts(5)])
        assert ask("The capital of France is") == "7 2 Lyon"
        memory.update(2, target="Nice")
        assert ask("The capital of France is") == "7 3 Nice"
        memory.undo()
        memory.undo()
        assert ask("The capital of Spain is") == "1 5 Vigo"
        memory.forget(1)
        assert ask("The capital of Spain is") == "0 6 None"
        reader.communicate(timeout=30)


_HOLDER = """
import sys
from memedit.memory.store import Store
from pathlib import Path
store = Store(Path(sys.argv[1]))
with store.writing() as db:
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_writing_process_waits_and_then_gets_a_clear_error(tmp_path: Path) -> None:
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(), timeout=0.3) as memory:
        memory.add(capital("Spain", "Vigo"))
        holder = start(_HOLDER, str(tmp_path))
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(MemoryBusy, match="written by another process or thread"):
            memory.add(capital("France", "Lyon"))
        assert time.monotonic() - began >= 0.25
        assert memory.search("The capital of Spain is")[0].record.edit.target == "Vigo"  # readers never wait
        holder.communicate("go\n", timeout=30)
        assert memory.add(capital("France", "Lyon")).ids == [2]


def test_many_threads_share_one_memory(tmp_path: Path) -> None:
    wrong: list[object] = []
    with EditMemory.open(tmp_path, encoder=TrigramEncoder(), timeout=60) as memory:
        memory.add(facts(20))

        def write(number: int) -> None:
            for n in range(8):
                id = memory.add(capital(f"Country {number} {n}", "Lyon")).ids[0]
                if memory.get(id).edit.subject != f"Country {number} {n}":
                    wrong.append(id)
                if n % 4 == 3:
                    memory.forget(id)

        def read() -> None:
            try:
                for n in range(40):
                    found = memory.search(facts(20)[n % 20].statement, 3)
                    if found[0].record.id != n % 20 + 1:
                        wrong.append(found)
            except Exception as error:  # a thread's exception would else be lost
                wrong.append(error)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        threads += [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(memory) == 20 + 4 * 6
        assert memory.check() == []
