"""memedit's own lines."""

from __future__ import annotations

from typing import Any

from memedit.data.case import Case, Query
from memedit.data.fields import Record, answers
from memedit.edit import STATUSES, Edit
from memedit.errors import EditError


def own(record: Record) -> Case:
    """An edit's fields; of further keys, lists named `paraphrases` and `locality` are read as prompts too."""
    status = record.get("status")
    if status in ("superseded", "forgotten"):
        raise EditError(f"this edit was {status} when it was exported; only live ones are taken")
    fields = {k: v for k, v in record.items() if k != "status" or v not in STATUSES}
    edit = Edit.from_dict(fields)
    right = answers(edit)
    queries = [Query("edit", edit.prompt, right)] if edit.prompt else []
    queries += [Query("paraphrase", p, right) for p in _texts(edit.extra.get("paraphrases"))]
    queries += [Query("locality", p) for p in _texts(edit.extra.get("locality"))]
    return Case(str(edit.ref or ""), edit, tuple(queries))


def _texts(value: Any) -> list[str]:
    """A further key may be anything: only lists of texts are prompts."""
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
