"""What all benches share: invented edits, an entry for a claim, the clock, the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

from memedit.edit import Edit

Entry = dict[str, Any]

_FIRST = (
    "Ada Ben Cleo Dov Esi Finn Gita Hugo Ines Jarl Kofi Lena Mira Nils Oona Pavel Quinn Rosa Sven Tala Uma Viktor "
    "Wanda Xenia Yusuf Zora"
).split()
_LAST = (
    "Abara Brandt Castel Dorn Ekstrom Falk Grieg Haldane Ibsen Juhl Kranz Lunde Moreau Novak Orsini Petrov Quist "
    "Rask Sorel Tamm Ueda Varga Wilde Yilmaz Zeman"
).split()
RELATIONS = (
    ("The birthplace of {} is", "Oslo Lima Accra Turin Kyoto Quito Bergen Porto Lagos Minsk".split()),
    ("{} works for", "Northwind Acme Globex Initech Umbra Soylent Hooli Vandelay Stark Wonka".split()),
    ("The mother tongue of {} is", "French Dutch Tamil Welsh Hindi Czech Thai Zulu Greek Irish".split()),
    ("{} plays the", "oboe harp cello flute piano viola tuba banjo lute organ".split()),
)


def invented_edits(n: int) -> Iterator[Edit]:
    """n edits about invented people, no two alike; the same ones each time."""
    for i in range(n):
        prompt, targets = RELATIONS[i % len(RELATIONS)]
        j = i // len(RELATIONS)
        subject = f"{_FIRST[j % len(_FIRST)]} {_LAST[j // len(_FIRST) % len(_LAST)]}"
        rest = j // (len(_FIRST) * len(_LAST))
        if rest:  # no name may be part of another's
            middle = _FIRST[(rest - 1) % len(_FIRST)] + "bert" * ((rest - 1) // len(_FIRST))
            subject = subject.replace(" ", f" {middle} ")
        yield Edit(prompt=prompt.format(subject), target=targets[(i * 7 + j) % len(targets)], subject=subject)


def machine() -> str:
    """What the numbers were taken on."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores{gpu}; {versions}; {time.strftime('%Y-%m-%d')}"


def entry(claim: str, value: float, unit: str, limit: float, detail: str, at_least: bool = False) -> Entry:
    """One claim with what was measured; `limit` is the most that it may be, or with `at_least` the least."""
    return {
        "claim": claim,
        "value": value,
        "unit": unit,
        "limit": f"{'>=' if at_least else '<='} {limit:g} {unit}",
        "met": value >= limit if at_least else value <= limit,
        "detail": detail,
    }


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
