"""PEAK (arXiv 2401.17623): a further answer is added where several are true already."""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.fields import Record, answers, filled, flat, numbered, text
from memedit.edit import Edit
from memedit.subjects import find


def peak(record: Record) -> Case:
    """One record: an inserted fact, paraphrases, and facts about others.

    What was true stays true, so the edit has no old answer; its `postive_list` and `negtive_list` (so spelt) are for
    scores on probabilities and are not read. Neighbours that name the subject ask what is edited, and are left out.
    """
    rewrite = record["requested_rewrite"]
    subject = text(rewrite["subject"])
    edit = Edit(
        prompt=filled(rewrite["prompt"], subject),
        target=text(rewrite["target_new"]["str"]),
        subject=subject,
        relation=rewrite.get("relation_id"),
        kind="insert",
        extra=numbered(record),
    )
    right = answers(edit)
    queries = [Query("edit", edit.prompt or "", right)]
    queries += [Query("paraphrase", ask, right) for ask in flat(record["para_add_prompts"])]
    queries += [
        Query("locality", text(ask), flat(answer))
        for ask, answer in record.get("neighborhood_prompts") or ()
        if not find(subject, ask).share
    ]
    return Case(str(record.get("case_id", "")), edit, tuple(queries))
