"""ConflictEdit and RoundEdit (arXiv 2310.02129): edits that contradict one another on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.fields import Record, filled, flat, text
from memedit.edit import Edit

_FORMS = ("conflict_prompts.json", "round_prompts.json")


def fact(record: Record, target: str = "new_object", old: str = "object", **more: Any) -> Edit:
    """One of the file's edits; `target` and `old` name the fields that hold the answers."""
    subject = text(record["subject"]["label"])
    relation = record["relation"]
    return Edit(
        prompt=filled(relation["prompt"], subject),
        target=text(record[target]["label"]),
        subject=subject,
        old=text(record[old]["label"]),
        relation=relation.get("id"),
        extra=more,
    )


def pitfall(record: Record) -> Case:
    """A case of either; its later edit is the one that has to stand."""
    return _conflict(record) if "edits" in record else _round(record)


def _conflict(record: Record) -> Case:
    """Two edits that can't both be true: of one fact (coverage), of a fact and its reverse, of a fact that a rule gives.

    Of a composite, the answer before the second edit is what the first one implies (`true_object`).
    """
    first, second = record["edits"]
    kind = text(record["type"])
    edits = fact(first), fact(second, old="true_object" if second.get("true_object") else "object")
    target = (edits[1].target or "",)
    queries = [
        Query("edit", edits[1].prompt or "", target, kind, 1),
        *_paraphrases(record, second, target, kind, 1),
    ]
    if kind == "reverse":
        subject = second["new_object"]["label"]
        there = first["relation"]["prompt"]
        queries.append(
            Query("reversal", filled(there, subject), (second["subject"]["label"],), kind, 1)
        )  # fmt: skip
        queries.append(Query("old", edits[0].prompt or "", (edits[0].target or "",), kind, 0))
    elif kind == "composite":
        queries.append(Query("edit", edits[0].prompt or "", (edits[0].target or "",), "first", 0))
    else:
        queries.append(Query("old", edits[1].prompt or "", (edits[0].target or "",), kind, 1))
    tied = [record["triples"][i] for i in record.get("prerequisites") or ()]
    queries += [
        Query(
            "locality",
            filled(t["relation"]["prompt"], t["subject"]["label"]),
            (t["object"]["label"],),
            "tied",
        )
        for t in tied
    ]
    return Case("", edits[0], tuple(queries), edits[1:])


def _round(record: Record) -> Case:
    """A fact is edited, then edited back: the first answer has to come again, and what else was true stay true.

    The other true answers stand in the first edit's `extra` as `true_objects`; the file does not say whether it is
    the easy or the hard one but by its name.
    """
    edit = record["edit"]
    also = [one["label"] for one in record["true_objects"]]
    edits = fact(edit, true_objects=also), fact(edit, target="object", old="new_object")
    kind, target = f"round {record['level']}" if record.get("level") else "round", (edits[1].target or "",)
    queries = [
        Query("edit", edits[1].prompt or "", target, kind, 1),
        *_paraphrases(record, edit, target, kind, 1),
        Query("old", edits[1].prompt or "", (edits[0].target or "",), kind, 1),
    ]
    return Case("", edits[0], tuple(queries), edits[1:])


def _paraphrases(record: Record, edit: Record, answers: tuple[str, ...], label: str, of: int) -> list[Query]:
    """The relation's question, and of its other forms the first two."""
    subject, relation = edit["subject"]["label"], edit["relation"]
    forms = (relation.get("query"), *(record.get("forms") or {}).get(relation.get("id"), ())[:2])
    asks = [filled(form, subject).strip() for form in forms if form]
    return [Query("paraphrase", ask, answers, label, of) for ask in dict.fromkeys(asks)]


def gathered(found: Iterable[tuple[str, Any]], path: str) -> Iterator[tuple[str, Any]]:
    """The records with what stands beside them: the relations' other forms, and whether this is the easy or the hard file."""
    folder, forms = Path(path).parent, {}
    for name in _FORMS:
        try:
            given = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        forms.update({key: flat(value) for key, value in given.items()})
    stem = Path(path).name.split(".")[0]
    level = {"level": stem} if stem in ("easy", "hard") else {}
    for where, record in found:
        yield where, {**record, **level, "forms": forms} if isinstance(record, dict) else record
