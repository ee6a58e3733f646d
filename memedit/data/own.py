"""memedit's own lines: an edit's fields, and lists of queries that tell what it concerns."""

from __future__ import annotations

from typing import Any

from memedit.data.case import Case, Query, QueryKind
from memedit.data.fields import Record, answers
from memedit.edit import STATUSES, Edit
from memedit.errors import EditError

# Kinds of queries, and the keys that hold them.
_QUERIES: dict[QueryKind, tuple[str, ...]] = {
    "paraphrase": ("paraphrases", "in_scope"),
    "ripple": ("ripple",),
    "locality": ("locality", "out_of_scope"),
}
SCOPE_KEYS = ("in_scope", "ripple", "out_of_scope")


def own(record: Record) -> Case:
    """An edit's fields; further keys that are lists of texts by these names are read as queries.

    `paraphrases` and `in_scope` ask for the fact, `ripple` needs it on the way (its answer is not known), `locality`
    and `out_of_scope` must stay as they are.
    """
    status = record.get("status")
    if status in ("superseded", "forgotten"):
        raise EditError(f"this edit was {status} when it was exported; only live ones are taken")
    fields = {k: v for k, v in record.items() if k != "status" or v not in STATUSES}
    edit = Edit.from_dict(fields)
    right = answers(edit)
    queries = [Query("edit", edit.prompt, right)] if edit.prompt else []
    for kind, keys in _QUERIES.items():
        given = [text for key in keys for text in _texts(edit.extra.get(key))]
        queries += [Query(kind, text, right if kind == "paraphrase" else ()) for text in given]
    return Case(str(edit.ref or ""), edit, tuple(queries))


def _texts(value: Any) -> list[str]:
    """A further key may be anything: only lists of texts are prompts."""
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
