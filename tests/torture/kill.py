"""Writers that are killed at random moments: what was acknowledged is there, and nothing is half done."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from memory_fixtures import TrigramEncoder, capital

from memedit.memory import EditMemory

TESTS = Path(__file__).resolve().parent.parent
PURGES = hasattr(EditMemory, "purge")
FRESH = 25  # rounds on one memory, before the next begins with an empty one
_IMPORT = 40  # edits of one import
_WEIGHTS = {
    "add": 4, "import": 1, "update": 3, "forget": 2, "undo": 2, "save_index": 2, "compact": 1, "backup": 1,
    **({"purge": 1} if PURGES else {}),
}  # fmt: skip
_PATIENCE = 1.5  # seconds that are waited for the operation which is to be killed


@dataclass
class Plain:
    """A memory in plain Python.

    Attributes:
        now: (status, country, city) by id. before: what `now` was before each operation that still stands.
    """

    now: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    before: list[dict[int, tuple[str, str, str]]] = field(default_factory=list)

    def live(self) -> list[int]:
        return [id for id, (status, _, _) in self.now.items() if status == "live"]

    def left(self) -> dict[int, tuple[str, str, str]]:
        """What can be read of it."""
        return {id: row for id, row in self.now.items() if row[0] != "purged"}

    def after(self, kind: str, arguments: Any) -> Plain:
        """What it knows after an operation; ids are given in order, and only by what was done."""
        now, before = dict(self.now), [*self.before, self.now]
        if kind == "add":
            for country, city in arguments:
                for id, (status, old, was) in now.items():
                    if status == "live" and old == country:
                        now[id] = ("superseded", old, was)
                now[max(now, default=0) + 1] = ("live", country, city)
        elif kind == "update":
            id, city = arguments
            now[id] = ("live", now[id][1], city)
        elif kind == "forget":
            now[arguments] = ("forgotten", *now[arguments][1:])
        elif kind == "undo":
            now = {id: ("forgotten", *row[1:]) for id, row in now.items()} | self.before[-1]
            before = self.before[:-1]
        elif kind == "purge":
            now[arguments] = ("purged", "", "")  # its number is never given again
            before = []
        else:
            return self
        return Plain(now, before)


def choose(plain: Plain, chance: random.Random, number: int) -> tuple[str, str, Any]:
    """What to do next: its name, what it does to the memory, and with what."""
    name = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    live = plain.live()
    if name in ("add", "import"):
        count = _IMPORT if name == "import" else chance.randint(1, 3)
        known = [plain.now[id][1] for id in chance.sample(live, min(len(live), count // 4))]
        countries = known + [f"Country {number} {part}" for part in range(count - len(known))]
        return name, "add", [(country, f"City {number} {n}") for n, country in enumerate(countries)]
    if name == "undo":
        return (name, "undo", None) if plain.before else choose(plain, chance, number)
    if name in ("save_index", "compact", "backup"):
        return name, name, None
    if not live:
        return choose(plain, chance, number)
    id = chance.choice(live)
    return name, name, (id, f"City {number}") if name == "update" else id


def work(folder: str, plain: Plain, seed: int, said: Connection) -> None:
    """Change a memory for ever, and say of each step when it begins and when it is done."""
    chance = random.Random(seed)
    with EditMemory.open(folder, encoder=TrigramEncoder(16)) as memory:
        said.send(("open", "", None))
        for number in range(seed * 10_000, (seed + 1) * 10_000):
            name, kind, arguments = choose(plain, chance, number)
            said.send((name, kind, arguments))
            if kind == "add":
                memory.add([capital(country, city) for country, city in arguments])
            elif kind == "update":
                memory.update(arguments[0], target=arguments[1])
            elif kind == "backup":
                memory.backup(f"{folder} copy", force=True)
            elif arguments is not None:
                getattr(memory, kind)(arguments)
            else:
                getattr(memory, kind)()
            plain = plain.after(kind, arguments)
            said.send(("done", kind, arguments))


def state(memory: EditMemory) -> dict[int, tuple[str, str, str]]:
    return {r.id: (r.status, str(r.edit.subject), str(r.edit.target)) for r in memory.list(status="all")}


def look(folder: Path, possible: list[Plain]) -> Plain:
    """Which of the possible memories this is; its parts agree, and so do its copy and the index.

    Raises:
        AssertionError: it is none of them, or something is wrong with it.
    """
    with EditMemory.open(folder, encoder=TrigramEncoder(16)) as memory:
        found = state(memory)
        which = [plain for plain in possible if plain.left() == found]
        assert which, f"the memory is none of those it could be: {_difference(found, possible)}"
        assert memory.check() == [], memory.check()
        live = {id for id, row in found.items() if row[0] == "live"}
        assert len(memory) == len(live)
        texts = [f"The capital of {found[id][1]} is" for id in sorted(live)[-3:]]
        for near in memory.near(texts, memory.encoder.encode(texts), k=len(live) + 5):
            assert {n.record.id for n in near} == live, "the index knows other edits than the database"
    copy = Path(f"{folder} copy")
    if copy.exists():
        with EditMemory.open(copy, encoder=TrigramEncoder(16)) as memory:
            assert memory.check() == [], memory.check()
    return which[-1]


def _difference(found: dict[int, Any], possible: list[Plain]) -> str:
    wanted = possible[0].left()
    ids = [id for id in found.keys() | wanted.keys() if found.get(id) != wanted.get(id)]
    return "; ".join(f"{id}: {found.get(id)} for {wanted.get(id)}" for id in ids[:5])


def processes() -> Any:
    """New processes quickly: forked, where the system can, from one that has imported what they need and done nothing."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    context.set_forkserver_preload(["torture.crowd", "faiss"])
    return context


def _let_it_work(
    heard: Connection, steps: list[Any], aim: str, chance: random.Random, lasted: dict[str, float]
) -> None:
    """Until some moment within an operation of this name; every kind is hit, also one that is over in a wink.

    Args:
        lasted: seconds that each kind took when it was last seen from beginning to end.
    """
    begun, name, until = 0.0, "", time.monotonic() + _PATIENCE
    seen = chance.random() * 3  # operations that pass first
    while time.monotonic() < until and heard.poll(until - time.monotonic()):
        steps.append(heard.recv())
        if steps[-1][0] == "done":
            lasted[name] = time.monotonic() - begun
            continue
        begun, name = time.monotonic(), steps[-1][0]
        seen -= 1
        if name == aim and seen < 0:
            time.sleep(chance.random() * lasted.get(aim, 0.01))
            return


def rounds(
    folder: Path, count: int, seed: int, tell: Callable[[int, int], None] | None = None
) -> Counter[str]:
    """Start a writer and kill it, so many times; which operations were under way when the kill came.

    Raises:
        AssertionError: something was lost, or half done; the message tells round and seed.
    """
    context = processes()
    chance = random.Random(seed)
    hit: Counter[str] = Counter()
    lasted: dict[str, float] = {}
    plain = Plain()
    for number in range(count):
        where = folder / f"memory {number // FRESH}"
        if number % FRESH == 0:
            plain = Plain()
            shutil.rmtree(folder / f"memory {number // FRESH - 1}", ignore_errors=True)
        heard, saying = context.Pipe(duplex=False)
        child = context.Process(
            target=work, args=(str(where), plain, seed * 1000 + number, saying), daemon=True
        )
        child.start()
        saying.close()
        steps = [heard.recv()]
        assert steps == [("open", "", None)]
        _let_it_work(heard, steps, list(_WEIGHTS)[number % len(_WEIGHTS)], chance, lasted)
        child.kill()
        with suppress(EOFError):
            while True:
                steps.append(heard.recv())
        child.join()
        under_way = ""
        possible = [plain]
        for name, kind, arguments in steps[1:]:
            if name == "done":
                possible = possible[-1:]
                under_way = ""
            else:
                possible = [possible[-1], possible[-1].after(kind, arguments)]
                under_way = name
        hit[under_way or "nothing"] += 1
        try:
            plain = look(where, possible)
        except Exception as error:
            raise AssertionError(
                f"round {number} of seed {seed}, killed in {under_way!r}: {error}"
            ) from error
        if tell is not None:
            tell(number + 1, count)
    return hit
