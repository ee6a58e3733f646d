"""Ways of asking: the unedited base, a model behind the router, the right edit always fired, edits in the weights.

Whatever is asked, the base is asked too, in the same batches; what it said to a batch is kept for the next method.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from memedit.data.knowedit import OTHER_TOPIC
from memedit.errors import MemeditError
from memedit.evaluation.answer import DRAWN, Answer, Question
from memedit.evaluation.forced import divergence, forced
from memedit.router import Candidate, Route

if TYPE_CHECKING:
    from memedit.edited import EditedModel
    from memedit.lm import HFModel, Score
    from memedit.memory import EditMemory, Record

CLOCKS = ("adding", "preparing", "routing", "generating", "scoring", "base")


class Clock:
    """Wall-clock seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(CLOCKS, 0.0)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Row:
    """A question with the verdict on it; wanted: ids of the edits that it asks for. error: why there is no verdict."""

    question: Question
    route: Route | None = None
    wanted: frozenset[int] = field(default_factory=frozenset)
    error: str | None = None

    @property
    def fired(self) -> bool:
        """Whether an edit is used."""
        return self.route is not None and self.route.fired


class Generating(Protocol):
    """What `divergence` asks of a model."""

    def generate(self, **options: Any) -> Any: ...


class Asker(Protocol):
    """An edited model, however it was made."""

    def generate(self, rows: Sequence[Row], **options: Any) -> list[str]:
        """The new text for each row."""
        ...

    def score(self, rows: Sequence[Row], targets: Sequence[str]) -> list[Score]:
        """How it takes a target after each row's prompt."""
        ...

    def generator(self, rows: Sequence[Row]) -> Generating:
        """The model as one that is given these rows' ids."""
        ...


class Floor:
    """The unedited base, which is asked a batch once, whoever's answers stand beside its own.

    Rows with and without an edit are asked apart, as an edited model asks them: then an answer that is not the same was
    changed by an edit, and not by other padding.
    """

    def __init__(self, base: HFModel) -> None:
        self.base = base
        self._said: dict[Any, list[Any]] = {}

    def generate(self, rows: Sequence[Row], **options: Any) -> list[str]:
        """The new text for each row."""

        def ask(prompts: Sequence[str]) -> list[str]:
            return self.base.generate(list(prompts), **options)

        return self._apart(rows, [row.question.prompt for row in rows], ask, tuple(sorted(options.items())))

    def score(self, rows: Sequence[Row], targets: Sequence[str]) -> list[Score]:
        """How it takes a target after each row's prompt."""

        def ask(pairs: Sequence[tuple[str, str]]) -> list[Score]:
            return self.base.score([p for p, _ in pairs], [t for _, t in pairs])

        pairs = [(row.question.prompt, target) for row, target in zip(rows, targets, strict=True)]
        return self._apart(rows, pairs, ask, "score")

    def generator(self, rows: Sequence[Row]) -> Generating:
        """The base."""
        return self.base

    def _apart(self, rows: Sequence[Row], asked: Sequence[Any], ask: Any, how: Any) -> list[Any]:
        out: dict[int, Any] = {}
        for fired in (False, True):
            some = [i for i, row in enumerate(rows) if row.fired is fired]
            key = (how, tuple(asked[i] for i in some))
            if some and key not in self._said:
                self._said[key] = ask(key[1])
            out |= dict(zip(some, self._said.get(key, ()), strict=True))
        return [out[i] for i in range(len(rows))]


class Edited:
    """A model behind the router; it is given each row's verdict, and never an answer."""

    def __init__(self, model: EditedModel) -> None:
        self.model = model

    def generate(self, rows: Sequence[Row], **options: Any) -> list[str]:
        """The new text for each row."""
        routes = [row.route for row in rows if row.route is not None]
        return self.model.generate([row.question.prompt for row in rows], routes=routes, **options)

    def score(self, rows: Sequence[Row], targets: Sequence[str]) -> list[Score]:
        """How it takes a target after each row's prompt."""
        routes = [row.route for row in rows if row.route is not None]
        return self.model.score([row.question.prompt for row in rows], targets, routes=routes)

    def generator(self, rows: Sequence[Row]) -> Generating:
        """The edited model, with these rows' verdicts."""
        return _Given(self.model, [row.route for row in rows if row.route is not None])


class Whole:
    """A model that answers all rows alike: one with the edits in its weights."""

    def __init__(self, lm: HFModel) -> None:
        self.lm = lm

    def generate(self, rows: Sequence[Row], **options: Any) -> list[str]:
        """The new text for each row."""
        return self.lm.generate([row.question.prompt for row in rows], **options)

    def score(self, rows: Sequence[Row], targets: Sequence[str]) -> list[Score]:
        """How it takes a target after each row's prompt."""
        return self.lm.score([row.question.prompt for row in rows], targets)

    def generator(self, rows: Sequence[Row]) -> Generating:
        """The model."""
        return self.lm


@dataclass(frozen=True)
class _Given:
    """An edited model for rows whose verdicts are known."""

    model: EditedModel
    routes: list[Route]

    def generate(self, **options: Any) -> Any:
        return self.model.generate(**options, routes=self.routes)


SAMPLING = {"do_sample": True, "top_k": 5}  # ROME's (arXiv 2202.05262), of 100 tokens each


def ask(
    asker: Asker, floor: Floor, rows: Sequence[Row], options: Mapping[str, Any], clock: Clock, teacher: bool = True,
    drawn: Mapping[str, Any] | None = None,
) -> list[Answer]:  # fmt: skip
    """One batch. Where it fails, its rows are asked one by one, and those that fail again have the error as their answer.

    Args:
        options: of generation. teacher: also score teacher-forced. drawn: options of longer texts that are drawn from
            both models after each edit's own prompt; None for none.
    """
    broken = [row for row in rows if row.error]
    if broken:
        others = [row for row in rows if not row.error]
        answers = iter(ask(asker, floor, others, options, clock, teacher, drawn) if others else ())
        return [_failed(floor, row, options, row.error) if row.error else next(answers) for row in rows]
    try:
        with clock("base"):
            bases = floor.generate(rows, **options)
        if asker is floor:
            texts = bases
        else:
            with clock("generating"):
                texts = asker.generate(rows, **options)
        found = [None] * len(rows) if not teacher else _forced(asker, floor, rows, clock)
        texts_drawn = _drawn(asker, floor, rows, drawn, clock) if drawn else {}
        gaps = _gaps(asker, floor, rows, clock)
    except Exception as error:  # whatever a method stumbles on is its failure, to be counted; the run goes on
        if len(rows) > 1:
            return [a for row in rows for a in ask(asker, floor, [row], options, clock, teacher, drawn)]
        return [_failed(floor, rows[0], options, said(error))]
    return [
        replace(
            Answer.of(row.question, text, base, row.route, row.wanted),
            forced=one,
            sampled=texts_drawn.get(i),
            kl=gaps.get(i),
        )
        for i, (row, text, base, one) in enumerate(zip(rows, texts, bases, found, strict=True))
    ]


def _drawn(
    asker: Asker, floor: Floor, rows: Sequence[Row], options: Mapping[str, Any], clock: Clock
) -> dict[int, tuple[str, str]]:
    """Texts drawn from the base and from the edited model, by place of the row."""
    places = [i for i, row in enumerate(rows) if row.question.kind in ("edit", DRAWN)]
    some = [rows[i] for i in places]
    if not some:
        return {}
    with clock("base"):
        bases = floor.generate(some, **options)
    with clock("generating"):
        texts = bases if asker is floor else asker.generate(some, **options)
    return dict(zip(places, zip(bases, texts, strict=True), strict=True))


def _gaps(asker: Asker, floor: Floor, rows: Sequence[Row], clock: Clock) -> dict[int, float]:
    """KL(base || edited) of the next token by place of the row, where a data set's locality is that."""
    places = [i for i, row in enumerate(rows) if row.question.label == OTHER_TOPIC]
    if not places:
        return {}
    some = [rows[i] for i in places]
    with clock("scoring"):
        prompts = [row.question.prompt for row in some]
        return dict(
            zip(places, divergence(asker.generator(some), floor.base, prompts, len(some)), strict=True)
        )


def _forced(asker: Asker, floor: Floor, rows: Sequence[Row], clock: Clock) -> list[Any]:
    def scorer(one: Asker, what: str) -> Any:
        def score(prompts: Sequence[str], texts: Sequence[str], places: Sequence[int]) -> list[Score]:
            with clock(what):
                return one.score([rows[i] for i in places], texts)

        return score

    edited = scorer(asker, "base" if asker is floor else "scoring")
    return forced([row.question for row in rows], edited, scorer(floor, "base"))


def _failed(floor: Floor, row: Row, options: Mapping[str, Any], error: str) -> Answer:
    try:
        (base,) = floor.generate([row], **options)
    except MemeditError:
        base = ""  # a prompt that is too long for any model of this base
    return Answer.of(row.question, "", base, row.route, row.wanted, error)


def said(error: BaseException) -> str:
    """An error in one line; one that was not meant for people with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MemeditError) else f"{type(error).__name__}: {text}"


# -- the right edit, always


def newest(memory: EditMemory, id: int) -> Record:
    """An edit, or what took its place."""
    record = memory.get(id)
    while record.status == "superseded" and record.superseded_by:
        record = memory.get(record.superseded_by)
    return record


def wanted(memory: EditMemory, question: Question, ids: Sequence[int]) -> frozenset[int]:
    """The edit that a question asks for, as an id of the memory; nothing where it asks for none in particular.

    Args:
        ids: of the edits of its case.
    """
    if question.of is None or question.kind in ("locality", "unrelated", "portability"):
        return frozenset()
    return frozenset({newest(memory, ids[question.of]).id})


def right_route(memory: EditMemory, question: Question, ids: Sequence[int], method: str) -> Route:
    """The verdict of an oracle: in scope the edit that is asked for fires, or all of the case's; out of scope none."""
    if not question.in_scope or not ids:
        return Route(question.prompt, (), (), 1.0, None)
    which = list(ids) if question.of is None else [ids[question.of]]
    found = {record.id: record for record in (newest(memory, id) for id in which)}
    kind = "direct" if question.kind in ("edit", "paraphrase", "old", "opinion") else "ripple"
    edits = tuple(
        Candidate(id, found[id].edit, kind, 1.0, 1.0, True, "the right edit, given") for id in sorted(found)
    )
    return Route(question.prompt, edits, edits, 1.0, method)
