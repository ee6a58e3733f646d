"""PokeMQA's data for its scope detector (arXiv 2312.15194): a statement, and questions that it answers."""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.fields import Record, flat, named, shared, text
from memedit.edit import Edit


def pokemqa(record: Record) -> Case:
    """A statement; its subject is the name that it shares with all its questions, which have no answers in the file."""
    statement, questions = text(record["edit"]), flat(record["questions"])
    edit = Edit(statement=statement, subject=named(shared(statement, questions), statement))
    return Case("", edit, tuple(Query("paraphrase", ask) for ask in questions))
