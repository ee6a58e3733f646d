"""What a scope classifier learns from: an edit, queries that ask for it, queries that only look so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from memedit.edit import Edit
from memedit.errors import EditError

# swapped: a question of another row's relation, put to this subject; now and then the relations turn out the same.
KINDS = ("own", "paraphrase", "alias", "claim", "neighbour", "same_subject", "swapped", "ripple", "general")
IN_SCOPE = frozenset({"own", "paraphrase", "alias", "claim"})


@dataclass(frozen=True)
class Query:
    """What is asked, and how it stands to its edit: one of KINDS; and which relation it asks for, if that is another."""

    text: str
    kind: str
    asks: str = ""


@dataclass(frozen=True)
class Case:
    """An edit with queries of all kinds; `source` names the data set, `relation` what the edit is about."""

    edit: Edit
    queries: tuple[Query, ...]
    source: str
    relation: str = ""
    about: str = ""  # the subject, also where the edit is not told it


def make(source: str, queries: Iterable[Query], relation: str = "", **edit: Any) -> Case | None:
    """A case, or None where the edit can't be taken or no query is left."""
    kept = tuple(q for q in dict.fromkeys(queries) if q.text and q.text.strip())
    try:
        return Case(Edit(**edit), kept, source, relation) if kept else None
    except EditError:
        return None


def chance(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
