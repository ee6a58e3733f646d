"""What routing and stating facts cost over plain generation; and what many threads make of it."""

from __future__ import annotations

import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from memedit.bench.measured import Entry, entry, invented_edits, seconds

if TYPE_CHECKING:
    from memedit.edited import EditedModel

EDITS = 10_000
OPTIONS: dict[str, Any] = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}
_THINGS = "milk rope wine seeds paint flour candles letters honey tools".split()
_OUT = [f"The best way to store {thing} for {n} days is" for n in range(2, 12) for thing in _THINGS]
THREADS = 20


def generate(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """Ratios of medians, taken turn by turn in one run: routed generation against the base's own, 32 new tokens."""
    with _edited(model, device, dtype) as edited:
        out = cycle(_OUT)
        # the first prompts of many edits, each asked once; then one edit asked in many ways
        different = (f"{e.prompt}" for e in islice(invented_edits(EDITS), 0, EDITS, 7))
        one = next(iter(invented_edits(1)))
        ways = cycle(
            f"{word} {one.prompt}" for word in ("Truly,", "Well,", "As we know,", "Indeed,", "Surely,")
        )
        kinds = [
            ("out of scope, batch 1", lambda: [next(out)], 24, 1.15, False),
            ("out of scope, batch 32", lambda: list(islice(out, 32)), 6, 1.05, False),
            ("in scope by ice, another fact each time, batch 1", lambda: [next(different)], 24, 1.4, True),
            ("in scope by ice, a recurring fact, batch 1", lambda: [next(ways)], 24, 1.2, True),
            (
                "in scope by ice, 32 different facts, batch 32",
                lambda: list(islice(different, 32)),
                6,
                1.4,
                True,
            ),
        ]
        entries = [_ratio(edited, *kind) for kind in kinds]
        entries.append(_recurring(edited, ways))
        return [*entries, _threads(edited, list(islice(out, 30)) + list(islice(different, 30)))]


@contextmanager
def _edited(model: str, device: str | None, dtype: str | None) -> Iterator[EditedModel]:
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=device) as memory:
        memory.add(invented_edits(EDITS))
        yield EditedModel.from_pretrained(model, memory=memory, device=device, dtype=dtype)


def _ratio(
    edited: EditedModel, claim: str, prompts: Callable[[], list[str]], pairs: int, limit: float, fires: bool
) -> Entry:
    """Median over pairs of (routed, plain) on the same prompts; who goes first takes turns."""
    ratios, fired, asked = [], 0, 0
    for i in range(pairs + 2):
        texts = prompts()
        fired += sum(route.fired for route in edited.route(texts))
        asked += len(texts)
        turns = [
            lambda t=texts: edited.base.generate(t, **OPTIONS),
            lambda t=texts: edited.generate(t, **OPTIONS),
        ]
        spent = {which: seconds(turns[which]) for which in (i % 2, 1 - i % 2)}
        if i >= 2:  # the first two warm up
            ratios.append(spent[1] / spent[0])
    share = f"{fired} of {asked} prompts fired"
    return entry(
        f"{claim}, 32 new tokens, against base.generate", statistics.median(ratios), "times", limit,
        f"median of {pairs} pairs; {EDITS} edits; {share}",
    )  # fmt: skip


def _recurring(edited: EditedModel, ways: Iterator[str]) -> Entry:
    """A long prefix that recurs, kept against read anew: `ike` with eight demonstrations."""
    from memedit.edited import EditedModel
    from memedit.prefix import PrefixCache
    from memedit.router import Router

    shown = EditedModel(edited.base, Router(edited.memory, method="ike"), settings={"ike": {"k": 8}})
    kept, none, ratios = edited.base.prefixes, PrefixCache(0), []
    for i in range(14):
        prompt, spent = [next(ways)], {}
        for which in (i % 2, 1 - i % 2):
            edited.base.prefixes = kept if which else none
            spent[which] = seconds(lambda p=prompt: shown.generate(p, **OPTIONS))  # type: ignore[misc]
        if i >= 2:
            ratios.append(spent[1] / spent[0])
    edited.base.prefixes = kept
    return entry(
        "a recurring prefix of eight demonstrations, its keys and values kept, against read anew, batch 1",
        statistics.median(ratios), "times", 1.0, f"median of 12 pairs; ike; {EDITS} edits",
    )  # fmt: skip


def _threads(edited: EditedModel, prompts: list[str]) -> Entry:
    """The same questions by 20 threads and one after the other; every answer must be the same."""
    expected = [edited.generate([p], **OPTIONS)[0] for p in prompts]
    alone = seconds(lambda: [edited.generate([p], **OPTIONS) for p in prompts])
    got: list[str | None] = [None] * len(prompts)
    places = iter(range(len(prompts)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                place = next(places, None)
            if place is None:
                return
            got[place] = edited.generate([prompts[place]], **OPTIONS)[0]

    def together() -> None:
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    spent = seconds(together)
    wrong = sum(a != b for a, b in zip(expected, got, strict=True))
    return entry(
        f"{THREADS} threads on one EditedModel, against one by one", spent / alone, "times", 1.5,
        f"{len(prompts)} prompts, half of them in scope; {wrong} answers lost or different",
    )  # fmt: skip
