"""EREN's files (arXiv 2403.17431): statements as edits, natural questions in their scope and near it; FEVER's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.fields import Record, flat, text
from memedit.edit import Edit
from memedit.errors import EditError


def eren(record: Record) -> Case:
    """A record of CounterFact-Hard, FEVER or Hotpot: one statement, or several that a question needs together.

    The files give some near questions more true answers than there are questions; such answers are left out,
    since nobody can tell which belongs to which.
    """
    statements = flat(record["edit_statement"])
    if not statements:
        raise EditError("the case has no edit_statement")
    subject = record.get("subject_name")
    edits = [Edit(statement=one, subject=subject if len(statements) == 1 else None) for one in statements]
    several = len(edits) > 1
    queries = [
        Query(
            "multi-hop" if several else "paraphrase",
            text(asked),
            flat(answer),
            str(record.get("type") or ""),
            None if several else 0,
        )
        for asked, answer in record["edit_scope"]
    ]
    known = record.get("unrelated_true_ans") or {}
    for label, asks in (record.get("unrelated") or {}).items():
        queries += _near(label, asks, known.get(label) if isinstance(known, Mapping) else None)
    return Case(str(record.get("id", "")), edits[0], tuple(queries), tuple(edits[1:]))


def _near(label: str, asks: Sequence[Any], known: Any) -> list[Query]:
    """Questions that must stay as they are: texts, or (text, answer)."""
    pairs = [(ask, None) if isinstance(ask, str) else (ask[0], ask[1]) for ask in asks]
    if isinstance(known, list) and len(known) == len(pairs):
        pairs = [(ask, answer) for (ask, _), answer in zip(pairs, known, strict=True)]
    return [Query("locality", text(ask), flat(answer), label) for ask, answer in pairs]


def claims(record: Record) -> Case:
    """FEVER as MEND and KILT have it: a claim whose verdict is turned, with rephrased claims."""
    claim, target = text(record["input"]), flat(record["alternatives"])
    if not target:
        raise EditError("the claim has no alternative verdict to edit in")
    old = flat([output.get("answer") for output in record["output"]])
    edit = Edit(prompt=claim, target=target[0], old=old[0] if old else None)
    asks = flat(record.get("filtered_rephrases")) or flat(record.get("rephrases"))
    queries = [Query("edit", claim, target[:1]), *(Query("paraphrase", ask, target[:1]) for ask in asks)]
    return Case(str(record.get("id", "")), edit, tuple(queries))
