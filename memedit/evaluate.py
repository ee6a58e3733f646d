"""Evaluation that tells the truth: all edits in memory, every query through the router, free generation.

The router is given the query alone, never an answer; the unedited floor is printed beside every score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from memedit.data import Case
from memedit.metrics import bootstrap, contains, exact, starts_with

if TYPE_CHECKING:
    from memedit.edited import EditedModel
    from memedit.lm import LM

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """One query, asked of the edited model and of its base.

    Attributes:
        kind: the query's; "unrelated" for general questions. fired: ids of the edits used; None of a model with the edits
            in its weights, which has no router. right: whether an edit of the case itself was among them (None out of scope).
    """

    kind: str
    case: str
    prompt: str
    answers: tuple[str, ...]
    base: str
    text: str
    fired: tuple[int, ...] | None
    right: bool | None

    @property
    def unchanged(self) -> bool:
        """Whether the output is the base's, token for token (compared as text of the same tokenizer)."""
        return self.text == self.base


def ask_all(
    edited: EditedModel,
    cases: Sequence[Case],
    ids: Sequence[Sequence[int]],
    unrelated: Sequence[str] = (),
    *,
    max_new_tokens: int = 16,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Answer]:
    """Ask every query of the cases, and the unrelated questions, of the edited model and of its base.

    Args:
        cases: their edits are in the memory already. ids: the memory's ids of each case's edits.
        progress: called with (done, all).

    Returns:
        One `Answer` per query: the cases' in order, then the unrelated ones.
    """
    asked = _asked(cases, ids, unrelated)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][2]))  # like lengths together: less padding
    out: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prompts = [asked[i][2] for i in rows]
        routes = edited.route(prompts)
        texts = edited.generate(prompts, routes=routes, max_new_tokens=max_new_tokens, do_sample=False)
        bases = edited.unedited(prompts, routes, max_new_tokens=max_new_tokens, do_sample=False)
        for i, text, base, route in zip(rows, texts, bases, routes, strict=True):
            kind, case, prompt, answers, own = asked[i]
            used = tuple(c.id for c in route.edits)
            right = (own in used) if kind in ("edit", "paraphrase") else None
            out[i] = Answer(kind, case, prompt, answers, base, text, used, right)
        if progress:
            progress(len(out), len(asked))
    return [out[i] for i in range(len(asked))]


def ask_merged(
    lm: LM,
    base: LM,
    cases: Sequence[Case],
    unrelated: Sequence[str] = (),
    *,
    max_new_tokens: int = 16,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Answer]:
    """As `ask_all`, of a model with the edits in its weights, and of the base it was made from."""
    asked = _asked(cases, [[-1] * len(c.edits) for c in cases], unrelated)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][2]))
    out: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prompts = [asked[i][2] for i in rows]
        both = [m.generate(prompts, max_new_tokens=max_new_tokens, do_sample=False) for m in (lm, base)]
        for i, text, before in zip(rows, *both, strict=True):
            kind, case, prompt, answers, _ = asked[i]
            out[i] = Answer(kind, case, prompt, answers, before, text, None, None)
        if progress:
            progress(len(out), len(asked))
    return [out[i] for i in range(len(asked))]


def _asked(
    cases: Sequence[Case], ids: Sequence[Sequence[int]], unrelated: Sequence[str]
) -> list[tuple[str, str, str, tuple[str, ...], int]]:
    """All that is asked: kind, case, prompt, answers, id of the edit that it is about (-1: of none)."""
    asked = [
        (q.kind, c.id, q.prompt, q.answers, -1 if q.of is None else own[q.of])
        for c, own in zip(cases, ids, strict=True)
        for q in c.queries
        if q.kind != "ripple"
    ]
    return [*asked, *(("unrelated", "", prompt, (), -1) for prompt in unrelated)]


def summarise(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One entry per score: name, kind, value, low, high (95 %), floor (the unedited base's), n."""
    rows = []
    for kind in ("edit", "paraphrase", "portability", "multi-hop", "hop"):
        of_kind = [a for a in answers if a.kind == kind]
        for name, judge in (("success", starts_with), ("exact", exact), ("contains", contains)):
            rows.append(
                _row(
                    kind,
                    name,
                    [judge(a.text, a.answers) for a in of_kind],
                    [judge(a.base, a.answers) for a in of_kind],
                )
            )
        rows.append(_row(kind, "right edit fired", [a.right for a in of_kind if a.right is not None]))
    for kind in ("locality", "unrelated"):
        of_kind = [a for a in answers if a.kind == kind]
        rows.append(_row(kind, "output unchanged", [a.unchanged for a in of_kind]))
        rows.append(_row(kind, "no edit fired", [not a.fired for a in of_kind if a.fired is not None]))
    return [row for row in rows if row["n"]]


def _row(kind: str, name: str, values: list[bool], floor: list[bool] | None = None) -> dict[str, Any]:
    mean, low, high = bootstrap(values)
    floor_mean = sum(floor) / len(floor) if floor else None
    return {
        "kind": kind,
        "score": name,
        "value": mean,
        "low": low,
        "high": high,
        "floor": floor_mean,
        "n": len(values),
    }


def as_rows(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Every single answer as plain JSON types, so that any number can be recomputed."""
    return [asdict(answer) for answer in answers]
