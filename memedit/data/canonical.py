"""Canonical examples (arXiv 2402.06155): what is to be said after a prefix, asked again in longer texts, with near ones.

The facts stand in one file, the longer texts and the near ones in files beside it, which are read with it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.fields import Record, named, text
from memedit.edit import Edit
from memedit.errors import EditError
from memedit.subjects import find

# The file of facts: what asks for them again, what is near, and the field that tells whose they are.
_BESIDE = {
    "country_capital_fixed": ("country_capital_clear_eval", "country_capital_hard_neg", "country"),
    "company_ceo_train": ("company_ceo_eval_clear", "company_ceo_hard_neg_eval_clear", "company"),
    "temporal_train": ("temporal_eval_clear", "temporal_hard_neg_eval_clear", "entity_url"),
}


def fact(record: Record) -> Edit:
    """The edit of a row: its suffix after its prefix."""
    subject = record.get("country") or record.get("company")
    prefix = text(record["prefix"]).strip()
    return Edit(prompt=prefix, target=text(record["suffix"]).strip(), subject=named(subject, prefix))


def canonical(record: Record) -> Case:
    """A row of the files of facts: capitals, heads of companies, what is new of somebody or something.

    Raises:
        EditError: a row of a file of another sort; the sentence says which.
    """
    if "suffix1" in record or "target" in record:
        raise EditError("this row asks for balance between two words, not for a fact; the files of facts are "
                        + ", ".join(_BESIDE))  # fmt: skip
    if "other_city" in record:
        raise EditError("this row is a hard negative and holds no fact; read country_capital_fixed beside it")
    edit = fact(record)
    queries = [Query("edit", edit.prompt or "", (edit.target or "",))]
    for row in record.get("again", ()):
        queries.append(Query("paraphrase", text(row["prefix"]).strip(), (text(row["suffix"]).strip(),)))
    for row in record.get("near", ()):
        queries.append(
            Query("locality", text(row["prefix"]).strip(), (text(row["suffix"]).strip(),), "hard_neg")
        )
    return Case("", edit, tuple(queries))


def gathered(found: Iterable[tuple[str, Any]], path: str) -> Iterator[tuple[str, Any]]:
    """The rows with the longer texts (`again`) and the near ones (`near`) of the files beside this one.

    Near texts about a company ask for its head as well, so a company gets none; near ones about a country count
    when they name it and not its capital.
    """
    name, _, rest = Path(path).name.rpartition("-")
    if name not in _BESIDE:
        yield from found
        return
    again, near, key = _BESIDE[name]
    longer, close = (_rows(Path(path).with_name(f"{file}-{rest}"), key) for file in (again, near))
    for where, record in found:
        if not isinstance(record, dict) or key not in record:
            yield where, record
            continue
        subject = record[key]
        rows = close[subject] if key != "company" else []
        if key == "country":
            rows = [
                r
                for r in rows
                if find(subject, r["prefix"]).share == 1 and not find("capital", r["prefix"]).share
            ]
        yield where, {**record, "again": longer[subject], "near": rows}


def _rows(path: Path, key: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a file by their field; none where there is no such file."""
    out: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError:
        return out
    for line in filter(None, lines):
        row = json.loads(line)
        out[row[key]].append(row)
    return out
