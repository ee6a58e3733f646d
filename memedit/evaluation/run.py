"""An evaluation: jobs (data, method, way, mode) on one base, each asked in batches that are kept as they are answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memedit.errors import MemeditError
from memedit.evaluation import asking
from memedit.evaluation.answer import Answer, Question, general, questions
from memedit.evaluation.asking import Asker, Clock, Edited, Floor, Row, Whole
from memedit.evaluation.drifting import Drifting
from memedit.evaluation.record import Record, digest
from memedit.evaluation.scores import summarise
from memedit.evaluation.sets import DataSet
from memedit.evaluation.states import (
    AFTER_ALL,
    AFTER_EACH,
    Memories,
    Step,
    Weights,
    check_mode,
    filling,
    prepared,
    steps,
)
from memedit.methods import method_info

if TYPE_CHECKING:
    from memedit.drift import Standard
    from memedit.lm import HFModel

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much
NONE, ORACLE = "none", "oracle"
POOL = 2048  # questions whose verdicts are held until they are asked in batches


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        method: a method's name, "none" (the unedited base), "oracle" or "oracle:METHOD" (the right edit always fires).
        way: "routed" or "merged". mode: "all", "single", "batch:N", "sequential". fill: edits in memory at least.
    """

    data: DataSet
    method: str
    way: str = "routed"
    mode: str = "all"
    fill: int = 0

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.method != NONE:
            method_info(self.editor)
        if self.way == "merged" and self.method.partition(":")[0] == ORACLE:
            raise MemeditError("an oracle routes, and merged edits have no router: leave it out, or --merged")

    @property
    def editor(self) -> str:
        """The editing method; an oracle's is ice where none is said."""
        head, _, name = self.method.partition(":")
        return (name or "ice") if head == ORACLE else self.method

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.method} on {self.data.name}, {self.way}, {self.mode}"


@dataclass
class Options:
    """What holds for all jobs of an evaluation.

    Attributes:
        settings: of methods, by name. general: questions that no edit concerns. most: questions of each sort of a case.
        sampled: tokens of the texts that are drawn for fluency, as ROME does; 0 for none.
        teacher: also score teacher-forced. standard: what drift is measured on; None for not at all.
        opening: how a memory is opened (encoder, device). folder: of the data sets that fill memories up.
        memory: keep the memory in this folder.
    """

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    general: Sequence[str] = ()
    most: int | None = None
    max_new_tokens: int = 16
    sampled: int = 0
    batch_size: int = 32
    seed: int = 0
    teacher: bool = True
    standard: Standard | None = None
    false_fire_rate: float | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)
    folder: Any = None
    memory: str | None = None

    @property
    def generation(self) -> dict[str, Any]:
        """Greedy, so many tokens."""
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False}

    @property
    def drawing(self) -> dict[str, Any] | None:
        """How longer texts are drawn; None for not at all."""
        return (
            {**asking.SAMPLING, "max_new_tokens": self.sampled, "seed": self.seed} if self.sampled else None
        )


@dataclass
class Way:
    """A model to ask, what brings it to a step, and how its questions get their verdicts."""

    asker: Asker
    to: Callable[[Step], None]
    verdicts: Callable[[Sequence[Question]], list[Row]]
    edits: Callable[[], int]
    lm: Any = None  # what drift is measured of; None of the base
    prepare: Callable[[Sequence[int]], list[dict[str, str]]] = lambda places: []
    pooled: bool = True  # whether questions may wait until later edits are made
    failed: list[dict[str, str]] = field(default_factory=list)


class Evaluation:
    """Makes the runs of jobs, one after the other, on one base.

    Example:
        >>> evaluation = Evaluation(base, Record(None, {}), Options())              # doctest: +SKIP
        >>> runs = evaluation.run([Job(load("known.jsonl"), "ice")])                # doctest: +SKIP
    """

    def __init__(
        self, base: HFModel, record: Record, options: Options, progress: Progress | None = None
    ) -> None:
        self.base, self.record, self.options = base, record, options
        self.floor = Floor(base)
        self.progress = progress or (lambda what, done, total: None)
        self.done = self.total = 0
        self._drift = Drifting(base, options.standard) if options.standard else None

    def run(
        self, jobs: Sequence[Job], finished: Callable[[dict[str, Any]], None] | None = None
    ) -> list[dict[str, Any]]:
        """The runs of a run file: one for each job, of a sequential one two.

        Args:
            finished: is shown each run as it is made.
        """
        self.total, out = sum(self._count(job) for job in jobs), []
        for number, job in enumerate(jobs):
            for run in self._job(number, job):
                out.append(run)
                if finished:
                    finished(run)
        return out

    def _count(self, job: Job) -> int:
        own = len(questions(job.data.cases, most=self.options.most, drawn=self.options.sampled > 0))
        return own * (2 if job.mode == "sequential" else 1) + len(self.options.general)

    def _job(self, number: int, job: Job) -> list[dict[str, Any]]:
        key = f"{number}/{job.title}"
        kept = self.record.get(key)
        if kept is None:
            with _opened(self, number, job) as way:
                kept = self.record.put(key, _Running(self, number, job, way).all())
        else:
            self.more(job, self._count(job))
        return [self._run(number, job, about) for about in kept["runs"]]

    def more(self, job: Job, count: int) -> None:
        """So many questions were answered."""
        self.done += count
        self.progress(job.title, self.done, self.total)

    def _run(self, number: int, job: Job, about: dict[str, Any]) -> dict[str, Any]:
        """A run as the run file has it, from what was kept of it."""
        placed: dict[int, dict[str, Any]] = {}
        seconds = dict(about["seconds"])
        for batch in range(about["batches"]):
            entry = self.record.get(f"{number}/{about['when']}/{batch}") or {}
            placed |= dict(zip(entry["at"], entry["answers"], strict=True))
            seconds = {name: spent + entry["seconds"].get(name, 0.0) for name, spent in seconds.items()}
        rows = [placed[at] for at in sorted(placed)]
        answers = [Answer.from_dict(row) for row in rows]
        failed = about["failed"] + [{"case": a.case, "error": a.error} for a in answers if a.error]
        return {
            "data": job.data.name, "method": job.method, "settings": dict(self.options.settings.get(job.editor, {})),
            "way": job.way, "mode": job.mode, "when": about["when"], "edits_in_memory": about["edits"],
            "seconds": {name: round(spent, 3) for name, spent in seconds.items()},
            "cases_per_second": round(len(job.data.cases) / max(1e-9, sum(seconds.values())), 3),
            "scores": summarise(answers, seed=self.options.seed), "drift": about["drift"],
            "failed": list({one["case"]: one for one in reversed(failed)}.values())[::-1], "answers": rows,
        }  # fmt: skip

    def drift_of(self, lm: Any) -> dict[str, Any] | None:
        """What else an edited model changes, where that is asked for."""
        return None if self._drift is None or lm is None else self._drift(lm)


class _Running:
    """One job under way: its steps, and the questions that wait to be asked in batches."""

    def __init__(self, evaluation: Evaluation, number: int, job: Job, way: Way) -> None:
        self.evaluation, self.number, self.job, self.way = evaluation, number, job, way
        self.options, self.record = evaluation.options, evaluation.record
        self.cases = job.data.cases
        self.clocks = {when: Clock() for when in (AFTER_EACH, AFTER_ALL)}
        self.batches = dict.fromkeys(self.clocks, 0)
        self.asked = dict.fromkeys(self.clocks, 0)
        self.edits = dict.fromkeys(self.clocks, 0)
        self.waiting: list[tuple[int, Row]] = []

    def all(self) -> dict[str, Any]:
        """Every step; what is to be kept of the job, beside its batches."""
        plan, way, failed = list(steps(self.job.mode, len(self.cases))), self.way, []
        asks = [step for step in plan if step.when == AFTER_ALL]
        for n, step in enumerate(plan):
            clock = self.clocks[step.when]
            with clock("adding"):
                way.to(step)
            with clock("preparing"):
                failed += way.prepare(step.add)
            self.edits[step.when] = max(self.edits[step.when], way.edits())
            some = [self.cases[place] for place in step.ask]
            own = questions(some, step.ask.start, self.options.most, self.options.sampled > 0)
            if step.when == AFTER_ALL:
                own += general(self.options.general[asks.index(step) :: len(asks)])
            with clock("routing"):
                rows = way.verdicts(own)
            self.waiting += enumerate(rows, self.asked[step.when])
            self.asked[step.when] += len(rows)
            last = n + 1 == len(plan) or plan[n + 1].when != step.when
            if last or not way.pooled or len(self.waiting) >= POOL:
                self._ask(step.when)
        drift = self.evaluation.drift_of(way.lm) if self.job.mode in ("all", "sequential") else None
        return {
            "runs": [
                self._about(when, [*failed, *way.failed], drift) for when in self.clocks if self.batches[when]
            ]
        }

    def _about(self, when: str, failed: list[dict[str, str]], drift: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "when": when, "batches": self.batches[when], "edits": self.edits[when], "failed": failed,
            "drift": drift if when == AFTER_ALL else None,
            "seconds": {k: v if k in ("adding", "preparing", "routing") else 0.0 for k, v in self.clocks[when].seconds.items()},
        }  # fmt: skip

    def _ask(self, when: str) -> None:
        """Answer what waits: like rows together (an edit or none, then length), a batch at a time."""
        order = sorted(self.waiting, key=lambda one: (one[1].fired, len(one[1].question.prompt), one[0]))
        self.waiting = []
        size = self.options.batch_size
        for start in range(0, len(order), size):
            some = order[start : start + size]
            key = f"{self.number}/{when}/{self.batches[when]}"
            self.batches[when] += 1
            prompts = digest([f"{at} {row.fired} {row.question.prompt}" for at, row in some])
            kept = self.record.get(key)
            if kept is None or kept["prompts"] != prompts:
                self.record.put(key, {"prompts": prompts, **self._answered(some)})
            self.evaluation.more(self.job, len(some))

    def _answered(self, some: Sequence[tuple[int, Row]]) -> dict[str, Any]:
        clock = Clock()
        answers = asking.ask(
            self.way.asker, self.evaluation.floor, [row for _, row in some], self.options.generation, clock,
            self.options.teacher, self.options.drawing,
        )  # fmt: skip
        return {
            "at": [at for at, _ in some],
            "seconds": clock.seconds,
            "answers": [a.to_dict() for a in answers],
        }


# -- the ways


@contextmanager
def _opened(evaluation: Evaluation, number: int, job: Job) -> Iterator[Way]:
    """The model of a job, before any step."""
    if job.method == NONE:
        yield Way(evaluation.floor, lambda step: None, lambda some: [Row(q) for q in some], lambda: 0)
    elif job.way == "merged":
        yield _merged(evaluation, job)
    else:
        with _routed(evaluation, number, job) as way:
            yield way


def _merged(evaluation: Evaluation, job: Job) -> Way:
    from memedit.merging import Merged
    from memedit.methods import load_method

    settings = evaluation.options.settings.get(job.editor, {})
    weights = Weights(lambda: Merged(evaluation.base, load_method(job.editor, **settings)))
    whole = Whole(weights.lm)

    def to(step: Step) -> None:
        weights.to(
            step,
            job.data.cases,
            lambda done, total: evaluation.progress(f"merging, {job.title}", done, total),
        )
        whole.lm = weights.lm

    return Way(
        whole, to, lambda some: [Row(q) for q in some], lambda: weights.merged.edits, _Now(lambda: weights.lm),
        pooled=False, failed=weights.failed,
    )  # fmt: skip


class _Now:
    """A model that is looked up at each call, since a new step may bring another."""

    def __init__(self, lm: Callable[[], Any]) -> None:
        self._lm = lm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm(), name)


@contextmanager
def _routed(evaluation: Evaluation, number: int, job: Job) -> Iterator[Way]:
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    o, name = evaluation.options, job.editor
    # One memory for all methods on the same data; where edits are taken back and made again, one for this job.
    place = evaluation.record.folder / f"memory-{job.data.name}-{job.data.sha256[:8]}-{job.fill}"
    if job.mode != "all":
        place = place.with_name(f"memory-{number}")
        if place.exists():
            shutil.rmtree(place)
    with EditMemory.open(o.memory or place, **o.opening) as memory:
        prompts = [*o.general, *(q.prompt for c in job.data.cases for q in c.queries)]
        more = filling(job.data.cases, prompts, job.fill, o.folder, o.seed) if job.fill else []

        def bar(done: int, total: int) -> None:
            evaluation.progress(f"encoding, {job.data.name}", done, total)

        state = Memories(memory, more, bar)
        model = EditedModel.from_pretrained(
            evaluation.base,
            memory=memory,
            method=name,
            false_fire_rate=o.false_fire_rate,
            settings=o.settings,
        )

        def prepare(places: Sequence[int]) -> list[dict[str, str]]:
            own = o.settings.get(name, {})
            return prepared(memory, evaluation.base, model, name, own, job.data.cases, state.ids, places)

        def verdicts(some: Sequence[Question]) -> list[Row]:
            if job.method.partition(":")[0] == ORACLE:
                routes = [asking.right_route(memory, q, state.ids.get(q.place, ()), name) for q in some]
                return [_row(state, q, route) for q, route in zip(some, routes, strict=True)]
            return [
                row for start in range(0, len(some), o.batch_size)
                for row in _routes(model, state, some[start : start + o.batch_size])
            ]  # fmt: skip

        yield Way(
            Edited(model), lambda step: state.to(step, job.data.cases, bar), verdicts, lambda: len(memory), model,
            prepare, pooled=method_info(name).handed != "lookup",
        )  # fmt: skip


def _routes(model: Any, state: Memories, some: Sequence[Question]) -> list[Row]:
    """The router's verdicts, from the questions alone; where that fails, one by one."""
    try:
        routes = model.route([q.prompt for q in some])
    except Exception as error:
        if len(some) > 1:
            return [row for q in some for row in _routes(model, state, [q])]
        return [Row(some[0], error=asking.said(error))]
    return [_row(state, q, route) for q, route in zip(some, routes, strict=True)]


def _row(state: Memories, question: Question, route: Any) -> Row:
    ids = state.ids.get(question.place)
    return Row(question, route, asking.wanted(state.memory, question, ids) if ids else frozenset())
