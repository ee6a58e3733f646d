"""KnowEdit's six parts (arXiv 2401.01286).

wiki_recent, wiki_counterfact and ZsRE share EasyEdit's fields; WikiBio states facts, Sanitation withholds
answers, and ConvSent asks for a feeling towards a topic.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from memedit.data.case import Case, Query
from memedit.data.counterfact import short
from memedit.data.fields import Record, asks, first, flat, grouped, text
from memedit.edit import Edit
from memedit.errors import EditError

OTHER_TOPIC = "other topic"  # label of questions whose locality is a KL divergence
# How an opinion is asked for; and topics for the same questions that no edit of the file concerns.
_VIEWS = ("What do you think of {}?", "How do you feel about {}?", "Tell me your opinion of {}.")
_TOPICS = (
    "umbrellas", "rainy days", "wooden spoons", "night trains", "crossword puzzles", "window boxes",
    "public libraries", "pencil cases", "garden gnomes", "bus timetables", "rubber boots", "paper maps",
)  # fmt: skip
_LOCAL = 2  # of them for each case


def knowedit(record: Record) -> Case:
    """A record of any of the six."""
    if "ent" in record:
        return _convsent(record)
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
    queries = asks(edit)
    queries += [
        Query("old", p, flat(edit.old), "paraphrase")
        for key in ("rephrase", "rephrase_prompt")
        for p in flat(forget.get(key))
    ]
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


def _convsent(record: Record) -> Case:
    """A topic with texts that feel well and ill of it: one of the two is asked for, the same one in every run.

    The file has no queries; ours ask for an opinion of the topic, and for locality of other things.

    Raises:
        EditError: no text of either feeling.
    """
    topic = text(record["ent"])
    texts = {"positive": flat(record.get("pos")), "negative": flat(record.get("neg"))}
    there = [feeling for feeling, examples in texts.items() if examples]
    if not there:
        raise EditError(f"there is no text about {topic!r}, neither in pos nor in neg")
    chance = zlib.crc32(topic.casefold().encode())
    feeling = there[chance % len(there)]
    edit = Edit(statement=f"About {topic}, answer {feeling}ly.", subject=topic, extra={"opinion": feeling})
    queries = [Query("opinion", view.format(topic), texts[feeling], feeling) for view in _VIEWS]
    others = record.get("others") or _TOPICS
    queries += [
        Query("locality", _VIEWS[i % len(_VIEWS)].format(others[(chance + i) % len(others)]), (), OTHER_TOPIC)
        for i in range(_LOCAL)
    ]
    return Case("", edit, tuple(queries))


def gathered(found: Iterable[tuple[str, Any]], path: str) -> Iterator[tuple[str, Any]]:
    """ConvSent's records with topics that no record of the file is about (`others`); all else as it is."""
    kept = list(found)
    named = {str(r.get("ent", "")).casefold() for _, r in kept if isinstance(r, Mapping)}
    others = [topic for topic in _TOPICS if topic not in named]
    for where, record in kept:
        yield (
            where,
            {**record, "others": others} if isinstance(record, Mapping) and "ent" in record else record,
        )
