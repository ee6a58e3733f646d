"""zsRE with MEND's fields, to which EasyEdit adds `subject` and `portability`."""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.fields import Record, answers, changed, first, flat, numbered, text
from memedit.edit import Edit

_NQ = "nq question: "  # stands before the locality questions, which were taken from Natural Questions


def zsre(record: Record) -> Case:
    """MEND's fields (arXiv 2110.11309): src is asked, alt is the new answer, answers are the true ones."""
    target = text(record["alt"])
    edit = Edit(
        prompt=record["src"],
        target=target,
        subject=record.get("subject"),
        old=changed(record.get("answers") or record.get("pred"), target),
        extra=numbered(record),
    )
    right = answers(edit)
    queries = [Query("edit", edit.prompt or "", right)]
    queries += [Query("paraphrase", p, right) for p in flat(record.get("rephrase"))]
    queries += [
        Query("locality", p.removeprefix(_NQ), flat(record.get("loc_ans"))) for p in flat(record.get("loc"))
    ]
    further = record.get("portability") or {}
    if asked := first(further.get("New Question")):
        queries.append(Query("portability", asked, flat(further.get("New Answer")), "Reasoning"))
    return Case(str(record.get("case_id", "")), edit, tuple(queries))
