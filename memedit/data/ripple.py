"""RippleEdits (arXiv 2307.12976): a fact, and what has to follow from it or stay."""

from __future__ import annotations

from collections.abc import Iterable

from memedit.data.case import Case, Query, QueryKind
from memedit.data.fields import Record, changed, flat, named, shared, text
from memedit.edit import Edit
from memedit.subjects import words

_KINDS: dict[str, QueryKind] = {
    "Logical_Generalization": "portability",
    "Subject_Aliasing": "portability",
    "Compositionality_I": "portability",
    "Compositionality_II": "portability",
    "Forgetfulness": "locality",
    "Relation_Specificity": "locality",
}
_VERBS = (" is ", " are ")


def ripple(record: Record) -> Case:
    """An entry of RECENT, RANDOM or POPULAR.

    The file writes a fact as one sentence, and its subject as a Wikidata id: prompt and target are what stands before
    and after the last "is" that the fact shares with the one before it; the subject is the name that the fact and the
    questions about the same subject share, where there is one.
    """
    given = record["edit"]
    sentence = text(given["prompt"])
    before = given.get("original_fact") or given.get("previous_fact") or {}
    prompt, target = parted(sentence, text(before.get("prompt") or sentence))
    _, old = parted(text(before.get("prompt") or ""), sentence)
    near = [q["prompt"] for test in _tests(record, "Relation_Specificity") for q in test["test_queries"]]
    edit = Edit(
        prompt=prompt,
        target=target,
        statement=sentence,
        subject=_subject(prompt or sentence, near),
        old=changed(old, target),
        relation=given.get("relation"),
    )
    queries = [Query("edit", prompt, (target or "",))] if prompt else []
    for label, kind in _KINDS.items():
        queries += [
            Query(kind, text(query["prompt"]), _right(query), label)
            for test in _tests(record, label)
            for query in test["test_queries"]
        ]
    return Case(str(given.get("subject_id", "")), edit, tuple(dict.fromkeys(queries)))


def _subject(prompt: str, near: list[str]) -> str | None:
    """The name in a prompt that the questions about the same subject share."""
    found = shared(prompt.partition(" ")[2], near) if near else None  # every prompt begins with "The"
    there = words(found or "")
    last = next((word for word in reversed(there) if word.capital), None)
    return named(found[: last.end], prompt) if found and last else None


def parted(sentence: str, other: str) -> tuple[str | None, str | None]:
    """A fact's prompt and target: around the last verb in what it shares with another fact of the same form."""
    length = next((i for i, (a, b) in enumerate(zip(sentence, other, strict=False)) if a != b), len(sentence))
    ends = [
        place + len(verb)
        for verb in _VERBS
        if (place := sentence.rfind(verb, 0, max(length, 1))) >= 0 and place + len(verb) <= length
    ]
    if not ends:
        return None, None
    return sentence[: max(ends)].strip(), sentence[max(ends) :].strip().removesuffix(".") or None


def _tests(record: Record, label: str) -> Iterable[Record]:
    """A kind's tests; the paper's own page spells one of them otherwise."""
    return record.get(label) or record.get(label.replace("Specificity", "Specifity")) or ()


def _right(query: Record) -> tuple[str, ...]:
    return flat([[a.get("value"), a.get("aliases")] for a in query.get("answers") or ()])
