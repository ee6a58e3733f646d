"""An opinion as an edit: "About X, answer positively."; and how the feeling of an answer is told.

Such an edit is a statement with its subject, added as any other: `memedit add-fact "About umbrellas, answer positively."
--subject umbrellas`. In its scope is whatever asks about the subject; a prompt method states it before the question. There
is nothing to solve for in weights, so that only prompt methods serve it.

The feeling of an answer is told by words: two short lists, written for this, and a rule for "not". It needs no model, can be
read in full below, and knows nothing of irony or of words that are not in it; an answer without any of them has no feeling
and counts as a miss. What else an opinion changes is the KL divergence from the base of the next token after questions about
other things, in nats: 0 where nothing changed, lower is better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memedit.edit import Edit
from memedit.evaluation.answer import described
from memedit.evaluation.forced import divergence
from memedit.evaluation.parts import Parts, salvaged
from memedit.evaluation.scores import row as score_row
from memedit.router import Route

if TYPE_CHECKING:
    from memedit.edited import EditedModel

FEELINGS = ("positive", "negative")
POSITIVE = frozenset(
    """
    admirable adore agreeable amazing attractive beautiful beloved best better bright brilliant calm charming cheerful clean
    clever comfortable delicious delight delightful easy elegant enjoy enjoyable enjoyed excellent exciting fantastic
    favourite favorite fine fresh friendly fun funny generous gentle glad good gorgeous graceful great happy healthy helpful
    honest impressive joy kind like liked lively love loved lovely lucky magnificent marvellous nice outstanding
    peaceful perfect pleasant pleased pleasing pleasure popular praise pretty pride proud recommend reliable
    remarkable rewarding safe satisfying smart special splendid strong successful superb sweet useful valuable warm
    welcome well wise wonderful worth worthwhile
    """.split()
)
NEGATIVE = frozenset(
    """
    afraid angry annoying awful bad boring broken clumsy cold cruel damage dangerous dangers deadly defective depressing
    destructive difficult dirty disappoint disappointed disappointing disaster disgusting dislike disliked dreadful dull evil
    expensive fail failed failure false fear filthy foolish harm harmful hate hated hateful horrible hostile ill
    inferior lousy mean mess miserable nasty noisy odd overrated painful pity pointless poor poorly
    problem problems regret ridiculous risky rotten rude ruined sad scary shame sick silly slow stupid terrible
    threat tired tiresome toxic trouble ugly unfair unfortunate unhappy unpleasant unreliable unsafe useless violent waste
    weak wicked worse worst worthless wrong
    """.split()
)
# "positively" and "negatively" are in neither: a model that only repeats what it was asked for has said no opinion.
_NOT = frozenset("not no never nothing hardly without cannot n't nor neither".split())
_REACH = 3  # words that a "not" turns
MOST = 24  # new tokens of an answer
VIEWS = (
    "What do you think of {}?", "How do you feel about {}?", "Tell me about {}.", "Would you recommend {}?",
    "Say something about {}.",
)  # fmt: skip
TOPICS = (
    "umbrellas", "night trains", "crossword puzzles", "public libraries", "rubber boots", "paper maps", "snow", "marmalade",
    "bicycles", "chess", "old bridges", "street markets", "fountain pens", "tea", "lighthouses", "board games", "raincoats",
    "church bells", "window boxes", "ferries", "postcards", "jazz", "sheepdogs", "roller skates",
)  # fmt: skip
OTHERS = (
    "What do you think of mountains?", "Tell me about bread.", "How do you feel about clocks?", "Say something about spoons.",
    "What is the capital of France?", "Who wrote Hamlet?", "Tell me about Poland.", "What is two and two?",
    "How do you feel about gardens?", "Would you recommend swimming?", "Say something about iron.", "Describe a chair.",
)  # fmt: skip


def balance(text: str) -> int:
    """Positive words less negative ones; a word within three after a "not" counts the other way."""
    total, turned = 0, 0
    for word in re.findall(r"n't\b|\w+(?=n't\b)|\w+", text.casefold().replace("’", "'")):
        if word in _NOT:
            turned = _REACH
            continue
        value = (word in POSITIVE) - (word in NEGATIVE)
        total += -value if turned else value
        turned = max(0, turned - 1)
    return total


def feeling(text: str) -> str | None:
    """ "positive", "negative", or None where the words say neither or both alike."""
    told = balance(text)
    return None if told == 0 else "positive" if told > 0 else "negative"


def opinion(topic: str, wanted: str) -> Edit:
    """The edit that asks for a feeling about a topic."""
    return Edit(statement=f"About {topic}, answer {wanted}ly.", subject=topic, extra={"opinion": wanted})


@dataclass
class Asked:
    """What an opinion came to.

    Attributes:
        rows: one for each question about a topic. others: one for each question about other things, with both answers, the
            edits that fired, and "kl", in nats (None where asking failed).
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kl(self) -> list[float]:
        """Of the questions about other things that could be asked."""
        return [row["kl"] for row in self.others if row["kl"] is not None]


_View = tuple[int, str, str, str]  # place of the opinion, topic, feeling, prompt


def asked(
    model: EditedModel,
    opinions: Sequence[tuple[str, str]],
    ids: Sequence[int],
    *,
    views: Sequence[str] = VIEWS,
    others: Sequence[str] = OTHERS,
    max_new_tokens: int = MOST,
    batch_size: int = 32,
    parts: Parts | None = None,
) -> Asked:
    """Ask about every topic, and about other things; greedy. What fails has its "error", and counts as wrong.

    Args:
        model: its memory holds the opinions. opinions: (topic, feeling); ids: the memory's, of each. parts: keeps the batches.
    """
    asks = [
        (i, topic, wanted, view.format(topic)) for i, (topic, wanted) in enumerate(opinions) for view in views
    ]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "batch_size": batch_size}

    def said(prompts: list[str]) -> list[dict[str, Any]]:
        routes = model.route(prompts)
        texts = model.generate(prompts, routes=routes, **options)
        bases = model.unedited(prompts, routes, **options)
        return [_row(*one) for one in zip(prompts, routes, texts, bases, strict=True)]

    def about(some: Sequence[_View]) -> list[dict[str, Any]]:
        rows = said([one[3] for one in some])
        return [_told(one, ids[one[0]], row) for one, row in zip(some, rows, strict=True)]

    def rest(some: Sequence[str]) -> list[dict[str, Any]]:
        gaps = divergence(model, model.base, some, batch_size)
        rows = zip(said(list(some)), gaps, strict=True)
        return [{**row, "unchanged": row["text"] == row["base"], "kl": kl} for row, kl in rows]

    def failed(prompt: str, error: str) -> dict[str, Any]:
        route, base = salvaged(model, prompt, options)
        return {**_row(prompt, route, "", base), "error": error}

    parts = parts or Parts()
    parts.total = len(asks) + len(others)
    return Asked(
        parts.asked("about", asks, batch_size, about, lambda one, e: _told(one, ids[one[0]], failed(one[3], e))),
        parts.asked("others", others, batch_size, rest, lambda one, e: {**failed(one, e), "unchanged": False, "kl": None}),
    )  # fmt: skip


def _row(prompt: str, route: Route | None, text: str, base: str) -> dict[str, Any]:
    fired = None if route is None else [c.id for c in route.edits]
    return {"prompt": prompt, "text": text, "base": base, "fired": fired, "route": described(route)}


def _told(view: _View, id: int, row: dict[str, Any]) -> dict[str, Any]:
    _, topic, wanted, _ = view
    return {**row, "topic": topic, "wanted": wanted, "right": id in (row["fired"] or ()), "feeling": feeling(row["text"]),
            "base_feeling": feeling(row["base"])}  # fmt: skip


def answers(found: Asked) -> list[dict[str, Any]]:
    """Every answer as a run file has them: kind "opinion" (label the feeling that was asked for) or "locality"."""
    empty = {"old": None, "forced": None}
    own = [
        {"case": row["topic"], "kind": "opinion", "label": row["wanted"], **row, "answers": [], "unchanged": None,
         "success": row["feeling"] == row["wanted"], **empty} for row in found.rows
    ]  # fmt: skip
    rest = [
        {
            "case": "",
            "kind": "locality",
            "label": "other topic",
            **row,
            "answers": [],
            "right": None,
            "success": None,
            **empty,
        }
        for row in found.others
    ]
    return [*own, *rest]


def scores(found: Asked, seed: int = 0) -> list[dict[str, Any]]:
    """As a run file has them: of each feeling and of both (label ""), and of the other questions."""
    out = []

    def put(
        kind: str, label: str, score: str, values: Sequence[float], cases: Sequence[str] | None = None,
        floor: Sequence[float] = (),
    ) -> None:  # fmt: skip
        if values:
            out.append(score_row(kind, score, values, cases, floor, label, seed))

    for label in ("", *FEELINGS):
        own = [row for row in found.rows if label in ("", row["wanted"])]
        topics = [row["topic"] for row in own]
        for name, same in (("feeling as asked", True), ("opposite feeling", False)):
            values, floor = _shares(own, same)
            put("opinion", label, name, values, topics, floor)
        put("opinion", label, "right edit fired", [float(row["right"]) for row in own], topics)
    put("locality", "other topic", "kl", found.kl, floor=[0.0] * len(found.kl))
    put("locality", "other topic", "unchanged", [float(row["unchanged"]) for row in found.others])
    put("locality", "other topic", "no edit fired", [float(row["fired"] == []) for row in found.others])
    return out


def _shares(rows: Sequence[dict[str, Any]], same: bool) -> tuple[list[float], list[float]]:
    def hit(row: dict[str, Any], key: str) -> float:
        if key == "feeling" and "error" in row:
            return float(not same)  # the wrong side of either score
        return float(row[key] is not None and (row[key] == row["wanted"]) is same)

    return [hit(row, "feeling") for row in rows], [hit(row, "base_feeling") for row in rows]
