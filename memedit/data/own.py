"""memedit's own lines: an edit's fields, and queries that tell what it concerns; or several edits with their queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memedit.data.case import KINDS, Case, Query, QueryKind
from memedit.data.fields import Record, answers, asks, flat
from memedit.edit import STATUSES, Edit
from memedit.errors import EditError, unknown

# Kinds of queries, and the keys that hold lists of them.
_QUERIES: dict[QueryKind, tuple[str, ...]] = {
    "paraphrase": ("paraphrases", "in_scope"),
    "ripple": ("ripple",),
    "locality": ("locality", "out_of_scope"),
}
SCOPE_KEYS = ("in_scope", "ripple", "out_of_scope")


def own(record: Record) -> Case:
    """An edit's fields; further keys that are lists of texts by these names are read as queries.

    `paraphrases` and `in_scope` ask for the fact, `ripple` needs it on the way (its answer is not known), `locality`
    and `out_of_scope` must stay as they are. `queries` holds objects with `kind`, `prompt`, and where there are any
    `answers`, `label` and `of`. A record with `edits`, a list of such fields, is a case of several.

    Raises:
        EditError: an edit or a query that can't be taken.
    """
    if "edits" in record:
        return _several(record)
    edit = _edit(record)
    right = answers(edit)
    erased = edit.kind == "erase"
    queries = asks(edit)
    for kind, keys in _QUERIES.items():
        given = [text for key in keys for text in _texts(edit.extra.get(key))]
        if kind == "paraphrase" and erased:
            queries += [Query("old", text, flat(edit.old), "paraphrase") for text in given]
        else:
            queries += [Query(kind, text, right if kind == "paraphrase" else ()) for text in given]
    queries += _queries(edit.extra.get("queries"), (edit,))
    return Case(str(edit.ref or ""), edit, tuple(queries))


def _several(record: Record) -> Case:
    """A case of several edits, made in their order; of each its own prompt is asked, unless a later one takes it back."""
    given = record["edits"]
    if not isinstance(given, list) or not given or not all(isinstance(one, Mapping) for one in given):
        raise EditError("edits must be a list of objects, each with prompt and target, or statement")
    edits = tuple(_edit(one) for one in given)
    last = {edit.prompt: place for place, edit in enumerate(edits)}
    queries = [
        Query(q.kind, q.prompt, q.answers, q.label, place)
        for place, edit in enumerate(edits)
        if last[edit.prompt] == place
        for q in asks(edit)
    ]
    queries += _queries(record.get("queries"), edits)
    return Case(str(record.get("id") or ""), edits[0], tuple(queries), edits[1:])


def _edit(record: Record) -> Edit:
    status = record.get("status")
    if status in ("superseded", "forgotten"):
        raise EditError(f"this edit was {status} when it was exported; only live ones are taken")
    return Edit.from_dict({k: v for k, v in record.items() if k != "status" or v not in STATUSES})


def _queries(given: Any, edits: Sequence[Edit]) -> list[Query]:
    """The objects of `queries`; of a key of that name that holds something else, none: a further key may be anything.

    Raises:
        EditError: an object that is no query.
    """
    if not isinstance(given, list) or not all(isinstance(one, Mapping) and "prompt" in one for one in given):
        return []
    return [_query(one, f"query {number}", edits) for number, one in enumerate(given, 1)]


def _query(given: Record, which: str, edits: Sequence[Edit]) -> Query:
    """One of them. Without answers, it has its edit's; `of` counts from nought.

    Raises:
        EditError: no such kind, no prompt, answers that are no texts, no such edit.
    """
    kind, prompt, of = given.get("kind", "paraphrase"), given["prompt"], given.get("of", 0)
    if kind not in KINDS:
        raise EditError(f"{which}: {unknown('kind', str(kind), KINDS)}")
    if not isinstance(prompt, str) or not prompt.strip():
        raise EditError(f"{which} has no prompt")
    if of is not None and not (isinstance(of, int) and not isinstance(of, bool) and 0 <= of < len(edits)):
        raise EditError(f"{which} is of the edit {of!r}; the case has {len(edits)}, counted from 0")
    said = given.get("answers", given.get("answer"))
    try:
        right = flat(said)
    except TypeError as error:
        raise EditError(f"{which}: answers must be texts ({error})") from None
    if said is None and of is not None and kind in ("edit", "paraphrase", "old"):
        right = flat(edits[of].old) if kind == "old" else answers(edits[of])
    return Query(kind, prompt, right, str(given.get("label") or ""), of)


def _texts(value: Any) -> list[str]:
    """A further key may be anything: only lists of texts are prompts."""
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
