"""Nonsense in: one sentence out, of the errors that are meant for people, and never a half-written memory."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memedit.data import read_edits
from memedit.edit import Edit
from memedit.errors import MemeditError
from memedit.memory import EditMemory

_ODD = (
    "", " ", "\0", "\n", "\r\n", "\t", "\x1b[31m", "\x7f", "\u200b", "\u202e", "\u2066", "\ufeff", "\ufffd", "\ud800",
    "\udfff", "\U0010ffff", "é", "e\u0301", "ß", "İ", "שלום", "مرحبا", "日本", "👩‍👩‍👧", "🇫🇷", "%s", "{}", "{0}", "\\",
    '"', "'", "--", ";", "DROP TABLE edits", "<|im_start|>", "[INST]", "</s>", "New Fact: ", "System:", "Fact:", "a" * 5000,
    "\u0301" * 300, "is", "The capital of", "France", "Lyon", "1", "0.5", "NaN", "null", "\x1f", "\u2028",
)  # fmt: skip
_FIELDS = (
    "prompt", "target", "subject", "old", "statement", "relation", "subject_aliases", "aliases", "target_aliases",
    "method", "kind", "source", "author", "tags", "valid_from", "valid_to", "ref", "extra", "status", "case_id",
    "requested_rewrite", "target_new", "paraphrases", "locality", "constructor",
)  # fmt: skip


def text(chance: random.Random) -> str:
    """Some odd pieces, and sometimes any code points at all."""
    pieces = [chance.choice(_ODD) for _ in range(chance.randint(0, 6))]
    if chance.random() < 0.3:
        pieces += [chr(chance.randrange(0x110000)) for _ in range(chance.randint(1, 20))]
    return chance.choice(("", " ")).join(pieces)


def value(chance: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can say, and some things that it can't."""
    kind = chance.randrange(12 if depth < 3 else 8)
    if kind < 4:
        return text(chance)
    if kind < 8:
        return chance.choice(
            (None, True, False, 0, -1, 2**70, 1.5, float("nan"), float("inf"), b"bytes", object)
        )
    if kind < 10:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return {text(chance): value(chance, depth + 1) for _ in range(chance.randint(0, 4))}


def record(chance: random.Random) -> Any:
    """Something like an edit: mostly right fields with odd values."""
    if chance.random() < 0.15:
        return value(chance)
    found: dict[Any, Any] = {}
    if chance.random() < 0.7:
        found = {
            "prompt": "The capital of France is",
            "target": f"City {chance.randrange(50)}",
            "subject": "France",
        }
    for _ in range(chance.randint(0, 4)):
        found[chance.choice(_FIELDS)] = value(chance) if chance.random() < 0.5 else text(chance)
    return found


class Fuzz:
    """Counts what came of it, and remembers what should never have.

    Args:
        memory: what is fuzzed. allowed: the errors that may come.
    """

    def __init__(self, memory: EditMemory, seed: int) -> None:
        self.memory, self.chance = memory, random.Random(seed)
        self.count: Counter[str] = Counter()
        self.wrong: list[str] = []

    def call(self, what: str, given: Any, do: Callable[[], Any]) -> None:
        """One try: it works, or says why not in a line, and then nothing has changed."""
        before = self.memory.generation
        try:
            do()
            self.count[f"{what}: taken"] += 1
            return
        except (MemeditError, TypeError) as error:
            said = str(error)
            if not said or "\n" in said or len(said) > 1500:
                self.wrong.append(f"{what} said {said[:200]!r} of {given!r:.300}")
            self.count[f"{what}: refused"] += 1
        except Exception as error:
            self.wrong.append(f"{what} raised {type(error).__name__}: {str(error)[:200]} of {given!r:.300}")
        if self.memory.generation != before:
            self.wrong.append(f"{what} failed and changed the memory, given {given!r:.300}")

    def add(self) -> None:
        given = [record(self.chance) for _ in range(self.chance.randint(1, 3))]
        if self.chance.random() < 0.1:
            self.call("add", given, lambda: self.memory.add(given))  # as they are: no edits at all
        else:
            self.call("add", given, lambda: self.memory.add([Edit.from_dict(one) for one in given]))

    def change(self) -> None:
        """update, forget, history, search, list, as_of and the rest with odd arguments."""
        odd = value(self.chance)
        id = self.chance.choice([1, 2, odd])
        name, field = self.chance.choice(("update", "forget", "get", "history", "as_of", "list", "get_ref", "search",
                                          "set_meta", "put_patch")), self.chance.choice(_FIELDS)  # fmt: skip
        if name == "update":
            self.call(name, (id, field, odd), lambda: self.memory.update(id, **{field: odd}))
        elif name == "list":
            self.call(name, odd, lambda: self.memory.list(subject=odd, tag=odd))
        elif name in ("set_meta",):
            self.call(name, odd, lambda: self.memory.set_meta(odd, odd))
        elif name == "put_patch":
            self.call(name, odd, lambda: self.memory.put_patch(1, odd, "rome", odd))
        else:
            self.call(name, odd, lambda: getattr(self.memory, name)(odd))

    def read(self, file: Path) -> None:
        """A file to import: JSON lines, a JSON document, or bytes of any kind."""
        kind = self.chance.randrange(4)
        rows = [record(self.chance) for _ in range(self.chance.randint(1, 4))]
        written = (
            json.dumps(rows, default=str)
            if kind == 0
            else "\n".join(json.dumps(r, default=str) for r in rows)
        )
        data = written.encode("utf-8", "surrogatepass")
        if kind == 2:
            data = text(self.chance).encode("utf-8", "surrogatepass")
        elif kind == 3:
            place = self.chance.randrange(len(data) + 1)
            data = data[:place] + self.chance.randbytes(3) + data[place + self.chance.randint(0, 9) :]
        file.write_bytes(data)

        def take() -> None:
            edits, bad = read_edits(str(file))
            for problem in bad:
                assert "\n" not in str(problem), problem
            if edits:
                self.memory.add(edits)

        self.call("import", data[:300], take)

    def ask(self, what: str, do: Callable[[Any], Any], longest: int = 10_000) -> None:
        """`do` a text, some texts, or anything."""
        given: Any = [text(self.chance)[:longest] for _ in range(self.chance.randint(0, 3))]
        if self.chance.random() < 0.2:
            given = value(self.chance)
            given = given[:longest] if isinstance(given, str) else given
        self.call(what, given, lambda: do(given))


def fuzz(
    folder: Path,
    memory: EditMemory,
    count: int,
    seed: int,
    route: Callable[[Any], Any] | None = None,
    generate: Callable[[Any], Any] | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Counter[str]:
    """So many inputs to each of add, the rest of the memory, import, route and generate.

    Raises:
        AssertionError: another error came, or not in one line, or the memory was changed by what failed.
    """
    tried = Fuzz(memory, seed)
    for number in range(count):
        tried.add()
        tried.change()
        tried.read(folder / "input.jsonl")
        if route is not None:
            tried.ask("route", route)
        if generate is not None:
            tried.ask("generate", generate, longest=200)  # characters: a tiny model's context is short
        assert tried.wrong == [], f"input {number} of seed {seed}: {tried.wrong[0]}"
        if tell is not None:
            tell(number + 1, count)
    assert memory.check() == [], memory.check()
    return tried.count
