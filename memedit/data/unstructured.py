"""UnKE (arXiv 2405.15349): passages as answers, with questions about single things they say.

AKEW's files (arXiv 2402.18909) have CounterFact's and MQuAKE's fields, and their passage becomes the edit's statement:
see `counterfact.rewritten`.
"""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.fields import Record, flat, text
from memedit.edit import Edit


def unke(record: Record) -> Case:
    """A question, the passage that is to answer it, and sub-questions with short answers."""
    question, passage = text(record["question"]), text(record["answer"])
    queries = [Query("edit", question, (passage,))]
    queries += [Query("paraphrase", ask, (passage,)) for ask in flat(record.get("para_question"))]
    asks, known = record.get("sub_question") or (), record.get("sub_answer") or ()
    queries += [
        Query("portability", text(ask), flat(answer), "sub_question")
        for ask, answer in zip(asks, known, strict=True)
    ]
    edit = Edit(prompt=question, target=passage)
    return Case(str(record.get("id", "")), edit, tuple(queries))
