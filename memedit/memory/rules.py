"""When an edit takes another's place, when two may contradict each other, by which names one is found."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import accumulate

from memedit.edit import Edit
from memedit.memory.records import Near, Record
from memedit.subjects import COMMON, words

SUSPECT = 0.8  # cosine of two statements from which they are suspected to say different things of one matter
ALIKE = 0.5  # cosine below which two statements are not even looked at
NAME_WORDS = 8  # words of a name that are looked at; longer names are found by their beginning


def supersedes(new: Edit, old: Edit) -> bool:
    """Whether `new`, coming after `old`, takes its place.

    It does when both have one ref; or when both have one prompt, or one subject and relation with different
    targets, and the new fact holds whenever the old one does. (Where it holds for a part of that time only,
    both stay, and the newest that is valid wins when routed.)
    """
    shared = {key.partition("\x1f")[0] for key in set(new.keys) & set(old.keys)}
    if "ref" in shared:
        return True
    if not _covers(new, old):
        return False
    return "prompt" in shared or ("relation" in shared and _folded(new.target) != _folded(old.target))


def replayable(live: Sequence[Record]) -> list[Record]:
    """Live edits in an order in which they can be added anew and all stay.

    That is their own order, unless an edit was changed after a later one came: where adding that one after it
    would supersede it, it goes to after that one.
    """
    sharing: dict[str, list[int]] = {}
    for place, record in enumerate(live):
        for key in record.edit.keys:
            sharing.setdefault(key, []).append(place)
    waits: dict[int, set[int]] = {}  # a place -> the places that go before it
    for places in sharing.values():
        for one in places:
            threats = {
                other for other in places if other != one and supersedes(live[other].edit, live[one].edit)
            }
            waits.setdefault(one, set()).update(threats)
    frees: dict[int, list[int]] = {}
    for one, others in waits.items():
        for other in others:
            frees.setdefault(other, []).append(one)
    ready = [place for place in range(len(live)) if not waits.get(place)]
    out = []
    while ready:
        out.append(place := heappop(ready))
        for one in frees.get(place, ()):
            waits[one].discard(place)
            if not waits[one]:
                heappush(ready, one)
    left = set(range(len(live))).difference(out)  # any two that would supersede each other
    return [live[place] for place in (*out, *sorted(left))]


def suspicious(new: Edit, old: Edit, cosine: float) -> bool:
    """Whether two live edits may contradict each other.

    They may when their statements are nearly one (cosine >= `SUSPECT`, or alike but for how they end), they
    share a name of their subjects or one has no subject, their targets differ where both have one, and there
    is a time at which both hold.
    """
    if not _overlap(new, old) or (cosine < SUSPECT and not _end_differently(new.statement, old.statement)):
        return False
    if new.target and old.target and _folded(new.target) == _folded(old.target):
        return False
    ours, theirs = name_keys(new), name_keys(old)
    return not ours or not theirs or bool(ours & theirs)


def conflicting(one: Near, other: Near) -> bool:
    """Whether two edits near to one query may contradict each other; then the newer is to win.

    The same rule that flags them when they are added, or one of the keys by which edits supersede.
    """
    a, b = one.record.edit, other.record.edit
    if set(a.keys) & set(b.keys) and _folded(a.target) != _folded(b.target):
        return True
    return suspicious(a, b, float(one.vectors[0] @ other.vectors[0]))


def name_keys(edit: Edit) -> frozenset[str]:
    """The edit's subject and aliases in the form in which `named_in` looks for them.

    Written together and folded, so that case, accents, punctuation, spaces and a possessive don't count; also
    without a leading article, unless what is left is a word of every second question ("The Who").
    """
    keys = set()
    for name in edit.names:
        parts = [word.folded for word in words(name)]
        keys.add("".join(parts[:NAME_WORDS]))
        if parts[1:] and parts[0] in ("the", "a", "an") and not (len(parts) == 2 and parts[1] in COMMON):
            keys.add("".join(parts[1 : NAME_WORDS + 1]))
    return frozenset(keys - {""})


def named_in(text: str) -> set[str]:
    """Every run of one to `NAME_WORDS` words of a text, in the form of `name_keys`."""
    parts = [word.folded for word in words(text)]
    return {run for start in range(len(parts)) for run in accumulate(parts[start : start + NAME_WORDS])}


def _end_differently(one: str, other: str) -> bool:
    """Whether two sentences share their first words, more than half of each: "The head of Acme is Ann", "... Bo"."""
    a, b = _folded(one).split(), _folded(other).split()
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return 2 * shared > max(len(a), len(b))


def _folded(text: str | None) -> str:
    return " ".join((text or "").casefold().split())


def _covers(new: Edit, old: Edit) -> bool:
    """Whether `new` holds at every moment at which `old` does."""
    begins = new.valid_from is None or (old.valid_from is not None and new.valid_from <= old.valid_from)
    ends = new.valid_to is None or (old.valid_to is not None and new.valid_to >= old.valid_to)
    return begins and ends


def _overlap(a: Edit, b: Edit) -> bool:
    """Whether there is a moment at which both hold."""
    return not (
        (a.valid_to is not None and b.valid_from is not None and a.valid_to <= b.valid_from)
        or (b.valid_to is not None and a.valid_from is not None and b.valid_to <= a.valid_from)
    )
