"""When an edit takes another's place, when two may contradict each other, by which names one is found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import accumulate

from memedit.edit import MAX_ALIASES, Edit
from memedit.errors import EditError
from memedit.memory.records import Array, Near, Record
from memedit.subjects import COMMON, words

SUSPECT = 0.8  # cosine of two statements from which they are suspected to say different things of one matter
ASKED = 0.9  # cosine of what two edits of one subject ask, from which it is suspected to be one question
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


def says_the_same(new: Edit, old: Edit) -> bool:
    """Whether an edit that supersedes another only says it again: one target, or both withhold."""
    return _folded(new.target) == _folded(old.target) and (new.kind == "erase") == (old.kind == "erase")


def inheriting(new: Edit, replaced: Iterable[Edit]) -> Edit:
    """The edit with the names that it would else lose with those whose place it takes.

    Aliases of the subject come from those about the same subject, aliases of the target from those that have
    the same target too. To be rid of an alias, `update` the edit.
    """
    subject, target = list(new.subject_aliases), list(new.target_aliases)
    for old in replaced:
        if new.subject and _folded(old.subject) == _folded(new.subject):
            subject += old.subject_aliases
            target += old.target_aliases if says_the_same(new, old) else ()
    changes = {
        name: tuple(dict.fromkeys(given))[:MAX_ALIASES]
        for name, given in (("subject_aliases", subject), ("target_aliases", target))
        if len(dict.fromkeys(given)) > len(getattr(new, name))
    }
    try:
        return new.updated(**changes) if changes else new
    except EditError:  # an alias from before a rule became stricter stays behind
        return new


def replayable(live: Sequence[Record], beside: Mapping[int, Collection[int]] | None = None) -> list[Record]:
    """Live edits in an order in which they can be added anew and all stay.

    That is their own order, unless an edit was changed after a later one came: where adding that one after it
    would supersede it, it goes to after that one.

    Args:
        beside: by id, those that stay beside an edit and don't supersede it.
    """
    beside = beside or {}
    sharing: dict[str, list[int]] = {}
    for place, record in enumerate(live):
        for key in record.edit.keys:
            sharing.setdefault(key, []).append(place)
    waits: dict[int, set[int]] = {}  # a place -> the places that go before it
    for places in sharing.values():
        for one in places:
            threats = {
                other
                for other in places
                if other != one
                and live[other].id not in beside.get(live[one].id, ())
                and supersedes(live[other].edit, live[one].edit)
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


def suspicious(new: Edit, old: Edit, cosine: float, asked: float = 0.0) -> bool:
    """Whether two live edits may contradict each other.

    They may when their statements are nearly one (cosine >= `SUSPECT`, or alike but for how they end) and they
    share a name of their subjects or one has no subject; or when they share a name and ask nearly the same
    (cosine >= `ASKED`). And their targets differ where both have one, and there is a time at which both hold.

    Args:
        cosine: of the statements. asked: of what they are the answers to.
    """
    if not _overlap(new, old) or (new.target and old.target and _folded(new.target) == _folded(old.target)):
        return False
    ours, theirs = name_keys(new), name_keys(old)
    if ours and theirs and not ours & theirs:
        return False
    nearly_one = cosine >= SUSPECT or _end_differently(new.statement, old.statement)
    return nearly_one or bool(ours and theirs and new.prompt and old.prompt and asked >= ASKED)


def cosines(ours: Array, theirs: Array) -> tuple[float, float]:
    """Of two edits' vectors (views, dim): the cosine of their statements, and of what they ask (0 without that view)."""
    products = (ours[:2] * theirs[:2]).sum(-1)
    return float(products[0]), float(products[1]) if len(products) > 1 else 0.0


def conflicting(one: Near, other: Near) -> bool:
    """Whether two edits near to one query may contradict each other; then the newer is to win.

    The same rule that flags them when they are added, or one of the keys by which edits supersede; but never
    where it was decided that both stay.
    """
    a, b = one.record.edit, other.record.edit
    if other.record.id in one.beside:
        return False
    if set(a.keys) & set(b.keys) and _folded(a.target) != _folded(b.target):
        return True
    return suspicious(a, b, *cosines(one.vectors, other.vectors))


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


def places_in(text: str) -> dict[str, tuple[int, int]]:
    """As `named_in`, each with the characters at which it stands last."""
    parts = words(text)
    return {
        run: (parts[start].start, parts[start + n].end)
        for start in range(len(parts))
        for n, run in enumerate(accumulate(w.folded for w in parts[start : start + NAME_WORDS]))
    }


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
