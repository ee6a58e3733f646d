"""Writers and readers in processes of their own on one memory: no reader ever sees an error or half an operation."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from memory_fixtures import TrigramEncoder, capital

from memedit.memory import EditMemory
from torture import kill

_TOGETHER = 3  # edits that are always written as one operation
_GROUPS = 4  # of such edits, for each writer


def _group(writer: int, group: int, city: str) -> list[Any]:
    return [
        capital(f"Country {writer} {group} {part}", city, tags=[f"{writer}-{group}"])
        for part in range(_TOGETHER)
    ]


def write(folder: str, writer: int, seconds: float, start: Any, said: Connection) -> None:
    """Say the same of all edits of a group, over and over; reports (steps, what each group was last told, ids)."""
    last: dict[str, tuple[str, list[int]]] = {}
    step = 0
    with EditMemory.open(folder, encoder=TrigramEncoder(16), timeout=60) as memory:
        start.wait()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            group, city = step % _GROUPS, f"City {step}"
            last[f"{writer}-{group}"] = city, memory.add(_group(writer, group, city)).ids
            if step % 40 == 39:
                memory.save_index()
            if step % 100 == 99:
                memory.compact()
            step += 1
    said.send((step, last))


def read(folder: str, seconds: float, start: Any, said: Connection) -> None:
    """Look at everything there is to look at; reports (looks, what was wrong)."""
    wrong: list[str] = []
    looks = generation = 0
    try:
        with EditMemory.open(folder, encoder=TrigramEncoder(16), readonly=True) as memory:
            start.wait()
            until = time.monotonic() + seconds
            while time.monotonic() < until and not wrong:
                before, generation = generation, memory.generation
                if generation < before:
                    wrong.append(f"the generation went from {before} to {generation}")
                groups: dict[str, list[str]] = {}
                records = memory.list()
                for record in records:
                    groups.setdefault(record.edit.tags[0], []).append(str(record.edit.target))
                wrong += [f"{tag} was half written: {cities}" for tag, cities in groups.items()
                          if len(cities) != _TOGETHER or len(set(cities)) != 1]  # fmt: skip
                if records:
                    text = str(records[looks % len(records)].edit.prompt)
                    near = [n for n in memory.search(text, 40) if n.record.edit.prompt == text]
                    if len(near) != 1:
                        wrong.append(f"{len(near)} live edits were found for {text!r}")
                looks += 1
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    said.send((looks, wrong))


def crowd(folder: Path, seconds: float, writers: int = 2, readers: int = 4) -> tuple[int, int]:
    """Let them at it; how often was written and looked.

    Raises:
        AssertionError: somebody saw something wrong, or something acknowledged is missing.
    """
    context = kill.processes()
    with EditMemory.open(folder, encoder=TrigramEncoder(16)) as memory:
        for writer in range(writers):
            memory.add([edit for group in range(_GROUPS) for edit in _group(writer, group, "City")])
    start = context.Barrier(writers + readers)
    ends, children = [], []
    for number in range(writers + readers):
        heard, saying = context.Pipe(duplex=False)
        target, more = (write, (number,)) if number < writers else (read, ())
        children.append(
            context.Process(target=target, args=(str(folder), *more, seconds, start, saying), daemon=True)
        )
        ends.append(heard)
        children[-1].start()
        saying.close()
    reports = [end.recv() for end in ends]
    for child in children:
        child.join()
    looks = 0
    for count, wrong in reports[writers:]:
        assert wrong == [], wrong[0]
        looks += count
    with EditMemory.open(folder, encoder=TrigramEncoder(16)) as memory:
        assert memory.check() == []
        for _, last in reports[:writers]:
            for tag, (city, ids) in last.items():
                assert [(r.id, r.edit.target) for r in memory.list(tag=tag)] == [(id, city) for id in ids]
        operations = memory.operations()
        assert len(operations) == writers + sum(count for count, _ in reports[:writers])
        ids = [operation.id for operation in operations]
        assert ids == sorted(ids, reverse=True)
        times = [operation.at for operation in operations]
        assert times == sorted(set(times), reverse=True)
    return sum(count for count, _ in reports[:writers]), looks
