"""`Question`: what is asked of a model. `Answer`: what it said, with everything that the scores need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from memedit.data import Case
from memedit.metrics import contains, starts_with
from memedit.router import Route

OUT = ("locality", "unrelated")  # what must stay as it is
UNASKED = ("ripple",)  # it tells of the scope alone
DRAWN = "generation"  # beginnings of texts, which have no right answer: asked where fluency is

Forced = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One query of one case, or a general question (kind "unrelated", of no case).

    Attributes:
        place: of its case among the cases; -1 of none. case, kind, label, prompt, answers: see `memedit.data.Query`.
        old: the answer before the edit that is asked for, where known. new: that edit's target.
        of: that edit's place in the case; None where it is none in particular.
    """

    place: int
    case: str
    kind: str
    label: str
    prompt: str
    answers: tuple[str, ...] = ()
    old: str | None = None
    new: str | None = None
    of: int | None = None

    @property
    def in_scope(self) -> bool:
        """Whether an edit concerns it."""
        return self.kind not in OUT


@dataclass(slots=True)
class Answer:
    """One question, asked of an edited model and of its base; as JSON by `to_dict`.

    Attributes:
        base: what the unedited base says. fired: ids of the edits used; None of a model without a router.
        right: whether the edit that is asked for was among them; None where none in particular is.
        route: the verdict in plain types. success: whether `text` is right; None where nothing can tell.
        unchanged: out of scope, whether the output is the base's, token for token (as text of one tokenizer).
        forced: what was found teacher-forced (see `forced.py`). sampled: longer texts, drawn: the base's and the edited
            model's. kl: KL(base || edited) of the next token, in nats, where locality is that.
        error: why nothing was said, then `text` is empty.
    """

    case: str
    kind: str
    label: str
    prompt: str
    answers: tuple[str, ...]
    old: str | None
    base: str
    text: str
    fired: tuple[int, ...] | None
    right: bool | None
    route: dict[str, Any] | None = None
    success: bool | None = None
    unchanged: bool | None = None
    forced: Forced | None = None
    sampled: tuple[str, str] | None = None
    kl: float | None = None
    error: str | None = None

    @classmethod
    def of(
        cls, question: Question, text: str, base: str, route: Route | None, wanted: frozenset[int], error: str | None = None
    ) -> Answer:  # fmt: skip
        """What was said, judged.

        Args:
            wanted: ids of the edits that are asked for; empty where it is none in particular.
        """
        q, fired = question, None if route is None else tuple(c.id for c in route.edits)
        return cls(
            q.case, q.kind, q.label, q.prompt, q.answers, q.old, base, text, fired,
            bool(wanted & set(fired)) if wanted and fired is not None else None, described(route),
            judged(q, text) if error is None else (None if judged(q, "") is None else False),
            (text == base and error is None) if not q.in_scope else None, error=error,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain JSON types; an error, drawn texts and a divergence only where there are any."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out["answers"] = list(self.answers)
        out["fired"] = None if self.fired is None else list(self.fired)
        for name in ("error", "sampled", "kl"):
            if out[name] is None:
                del out[name]
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Answer:
        """The reverse of `to_dict`; further keys are passed over."""
        known = {f.name for f in fields(cls)}
        given = {k: v for k, v in data.items() if k in known}
        given["answers"] = tuple(data["answers"])
        given["fired"] = None if data["fired"] is None else tuple(data["fired"])
        given["sampled"] = tuple(data["sampled"]) if data.get("sampled") else None
        return cls(**given)


def judged(question: Question | Answer, text: str) -> bool | None:
    """Whether a text is a right answer to an in-scope question; None where nothing can tell.

    What asks for an old answer that was taken back (kind "old") is right where that is not in the text.
    """
    if question.kind == "old":
        gone = [a for a in (question.old, *question.answers) if a]
        return not contains(text, gone) if gone else None
    if question.kind in (*OUT, "opinion") or not question.answers:
        return None
    return starts_with(text, question.answers)


def described(route: Route | None) -> dict[str, Any] | None:
    """A verdict in plain types: how sure, against which threshold, and why."""
    if route is None:
        return None
    kinds = {c.kind for c in route.edits}
    best = max(route.edits or route.nearest, key=lambda c: c.probability, default=None)
    return {
        "probability": round(best.probability if best else 0.0, 6),
        "threshold": round(route.threshold, 6),
        "class": "out" if not kinds else "direct" if "direct" in kinds else "ripple",
        "method": route.method,
        "why": best.reason if best else "no edit is near",
    }


def questions(
    cases: Sequence[Case], first: int = 0, most: int | None = None, drawn: bool = False
) -> list[Question]:
    """All that is asked of the cases, in order.

    Args:
        first: the place of the first of them. most: of each kind and label of a case at most so many. drawn: also
            beginnings of texts, whose fluency alone can be told.
    """
    out = []
    for place, case in enumerate(cases, first):
        met: dict[tuple[str, str], int] = {}
        for q in case.queries:
            sort = (q.kind, q.label)
            met[sort] = met.get(sort, 0) + 1
            if (
                q.kind in UNASKED
                or (q.kind == DRAWN and not drawn)
                or not q.prompt.strip()
                or (most is not None and met[sort] > most)
            ):
                continue
            edit = case.edits[q.of] if q.of is not None else None
            old, new = (edit.old, edit.target) if edit else (None, None)
            out.append(Question(place, case.id, q.kind, q.label, q.prompt, q.answers, old, new, q.of))
    return out


def general(prompts: Sequence[str]) -> list[Question]:
    """Questions that no edit concerns."""
    return [Question(-1, "", "unrelated", "", prompt) for prompt in prompts]
