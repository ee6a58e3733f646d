"""Everything in full: `make torture`, or `python tests/torture --rounds 200 --seconds 20 --inputs 2000 --seed 1`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent.parent),
]


@contextmanager
def step(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress line on a terminal, and how long it took."""
    began = time.monotonic()

    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: {done}/{total}", end="", file=sys.stderr, flush=True)

    yield tell
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="writers that are killed")
    parser.add_argument("--seconds", type=float, default=20, help="of two writers and four readers at once")
    parser.add_argument("--inputs", type=int, default=2000, help="odd inputs to each of add, import, route")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000)
    options = parser.parse_args()
    from torture import crowd, fuzz, kill

    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        place = Path(folder)
        with step(f"kill -9, {options.rounds} rounds") as tell:
            hit = kill.rounds(place, options.rounds, options.seed, tell)
        print("  killed in " + ", ".join(f"{name} {count}" for name, count in hit.most_common()))
        with step("2 writers and 4 readers"):
            written, looked = crowd.crowd(place / "crowd", options.seconds)
        print(f"  {written} operations, {looked} looks, all of them right")
        with step(f"{options.inputs} odd inputs") as tell:
            said = nonsense(fuzz, place, options.inputs, options.seed, tell)
        print("  " + ", ".join(f"{name} {count}" for name, count in sorted(said.items())))


def nonsense(fuzz, place, count, seed, tell):  # type: ignore[no-untyped-def]
    """With the shipped classifier and a tiny model."""
    from conftest import tiny_model, tiny_tokenizer
    from memory_fixtures import capital

    from memedit import EditedModel, EditMemory
    from memedit.router import Router

    with EditMemory.open(place / "fuzz") as memory:
        memory.add(capital("Spain", "Vigo"))
        edited = EditedModel.from_pretrained(tiny_model(), tokenizer=tiny_tokenizer(), memory=memory)
        router = Router(memory)
        return fuzz.fuzz(
            place,
            memory,
            count,
            seed,
            router.route,
            lambda given: edited.generate(given, max_new_tokens=2),
            tell,
        )


if __name__ == "__main__":
    main()
