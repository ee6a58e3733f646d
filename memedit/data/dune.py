"""DUNE (arXiv 2311.16087): edits in free text, and questions that need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.fields import Record, text
from memedit.edit import Edit


def dune(record: Record) -> Case:
    """An edit with its questions (`unfolded`); they may need an inference, so they are portability, not paraphrase.

    A question without an answer (arithmetic's stands in the edit, behind "=") tells of the scope alone.
    """
    statement = text(record["dune_edit"])
    known = _result(statement)
    queries = []
    for given in record["test_inputs"]:
        asked, answers = (given, known) if isinstance(given, str) else (given[0], _texts(given[1:]) or known)
        queries.append(Query("portability" if answers else "ripple", text(asked).strip(), answers))
    return Case("", Edit(statement=statement), tuple(queries))


def unfolded(document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The file's two lists as records; None for any other object. An edit that stands several times is one record."""
    edits, asks = document.get("edits"), document.get("test_inputs")
    if not (isinstance(edits, list) and isinstance(asks, list) and len(edits) == len(asks)):
        return None
    out: dict[str, list[Any]] = {}
    for edit, some in zip(edits, asks, strict=True):
        out.setdefault(str(edit), []).extend(_several(some, bool(_result(str(edit)))))
    return [{"dune_edit": edit, "test_inputs": some} for edit, some in out.items()]


def _several(asks: Any, calculated: bool) -> list[Any]:
    """The questions of one edit: [text, answer] is one, [[text, answer], ...] several; of a calculation they are texts."""
    if isinstance(asks, str):
        return [asks]
    pair = not calculated and len(asks) == 2 and isinstance(asks[0], str)
    return [asks] if pair else list(asks)


def _result(statement: str) -> tuple[str, ...]:
    """What stands behind "=" in a calculation."""
    result = statement.rpartition("=")[2].strip() if "=" in statement else ""
    return (result,) if result.replace(",", "").replace(".", "").lstrip("-").isdigit() else ()


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(v).strip() for v in values if isinstance(v, (str, int, float)) and str(v).strip())
