"""KnowEdit's six parts (arXiv 2401.01286).

wiki_recent, wiki_counterfact and ZsRE share EasyEdit's fields; WikiBio states facts, Sanitation withholds
answers, and ConvSent has no facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.counterfact import short
from memedit.data.fields import Record, first, flat, grouped, text
from memedit.edit import Edit
from memedit.errors import DataError


def knowedit(record: Record) -> Case:
    """A record of any of the six.

    Raises:
        DataError: it is ConvSent's.
    """
    if "ent" in record:
        raise DataError(
            "this is KnowEdit's ConvSent, which asks for a feeling towards a topic and states no fact; "
            "memedit takes facts, so there is nothing to import"
        )
    if "K_F" in record:
        return _sanitation(record)
    return _wikibio(record) if "labels" in record else short(record)


def _wikibio(record: Record) -> Case:
    """A passage and the sentence that is to come next: the sentence is the fact, the passage asks for it."""
    sentence = " ".join(flat(record["labels"]))
    edit = Edit(statement=sentence, subject=first(record["concept"]))
    queries = [Query("edit", text(record["text"]), (sentence,))]
    queries += grouped("locality", record.get("locality"))
    queries += grouped("portability", record.get("portability"))
    return Case("", edit, tuple(queries))


def _sanitation(record: Record) -> Case:
    """A question whose answer is to be withheld, and some whose answers are to stay (see `unfolded`)."""
    forget = record["K_F"]
    question = text(forget["question"])
    subject = first(forget.get("subject"))
    edit = Edit(
        prompt=question,
        kind="erase",
        old=first(forget.get("ground_truth")),
        subject=subject if subject and subject.casefold() in question.casefold() else None,
    )
    queries = [Query("edit", question, flat(forget.get("target_new")))]
    queries += [Query("locality", text(r["question"]), flat(r.get("ground_truth"))) for r in record["K_R"]]
    return Case("", edit, tuple(queries))


def unfolded(document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Sanitation's one object as records, the questions to keep dealt out evenly; None for any other object."""
    for forget, keep in (("K_F", "K_R"), ("success", "locality")):
        first_part, second_part = document.get(forget), document.get(keep)
        if isinstance(first_part, list) and isinstance(second_part, list) and first_part:
            n = len(first_part)
            return [{"K_F": item, "K_R": second_part[i::n]} for i, item in enumerate(first_part)]
    return None
