"""TAXI (arXiv 2404.15004): a thing becomes one of another category, and takes on its properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.fields import Record, filled, named, text
from memedit.edit import Edit
from memedit.errors import EditError

_MEMBER = "category_membership"


def taxi(record: Record) -> Case:
    """An edit with the rows that ask about it (`unfolded`).

    Forward rows ask for a property: it changes with the category (portability), or both have it (locality).
    Reverse rows give the property and ask for the thing; the paper lets models choose among a few, since others have
    the property too.
    """
    rows = record["rows"]
    subject, target = text(rows[0]["subj"]), text(rows[0]["entity"])
    prompt, old = f"a {subject} is a kind of", rows[0].get("orig_entity")
    queries = []
    for row in rows:
        if not row.get("query_fwd"):  # the file of edits alone asks nothing
            continue
        property_ = str(row.get("property") or "")
        asked = _cut(text(row["query_fwd"]), subject, "<answer>")
        if property_ == _MEMBER:
            prompt = asked
            queries.append(Query("edit", asked, (target,), property_))
        elif row.get("answer_changed", True):
            queries.append(Query("portability", asked, (str(row["answer_fwd"]),), property_))
            if "<answer>" in (turned := str(row.get("query_rev") or "")) and turned.endswith(
                ("<subj>", "<subj>.")
            ):
                given = turned.replace("<answer>", str(row["answer_fwd"]))
                queries.append(Query("reversal", _cut(given, "", "<subj>"), (subject,), property_))
        else:
            queries.append(Query("locality", asked, (str(row["answer_fwd"]),), property_))
    if not any(q.kind == "edit" for q in queries):
        queries.insert(0, Query("edit", prompt, (target,), _MEMBER))
    edit = Edit(prompt=prompt, target=target, subject=named(subject, prompt), old=old)
    return Case(text(record["taxi_edit"]), edit, tuple(queries))


def _cut(form: str, subject: str, blank: str) -> str:
    """A form with its subject, up to the blank, which has to stand at its end.

    Raises:
        EditError: the answer stands elsewhere.
    """
    asked, _, rest = form.partition(blank)
    if rest.strip(" ."):
        raise EditError(f"the answer does not stand at the end of {form!r}")
    return filled(asked.replace("<subj>", subject), subject).strip()


def unfolded(document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The file's columns as one record for each edit; None for any other object."""
    columns = {k: v for k, v in document.items() if isinstance(v, Mapping)}
    if not {"edit", "subj", "entity"} <= columns.keys():
        return None
    out: dict[str, list[dict[str, Any]]] = {}
    for row, edit in columns["edit"].items():
        out.setdefault(str(edit), []).append({name: column.get(row) for name, column in columns.items()})
    return [{"taxi_edit": edit, "rows": rows} for edit, rows in out.items()]
