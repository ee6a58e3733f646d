"""The suites' own columns: pitfalls, pushback, erasure and opinions are no edit success beside a portability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from memedit.report.blocks import Block, Cell, Heading, Table, Text
from memedit.report.picking import PANELS, Column, column, data_sets, label, reference, taken
from memedit.report.reading import Run, RunFile, Score, number
from memedit.report.units import interval, lower_is_better, shown


class Suite(NamedTuple):
    """A suite as a report has it.

    Attributes:
        marks: a run that has one of these (kind, score) is of the suite. groups: columns by the head that they share.
        panels: names of the three columns that stand for it in figures and in the headline. about: what the columns say.
    """

    title: str
    marks: tuple[tuple[str, str], ...]
    groups: tuple[tuple[str, tuple[Column, ...]], ...]
    panels: tuple[str, str, str]
    about: str

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(one for _, own in self.groups for one in own)


def _one(kind: str, score: str, title: str = "", label: str = "*") -> Column:
    name = f"{score}, {label}" if label not in ("", "*") else score
    return Column(name, title or score, ((kind, score),), label=label)


def _turns(score: str, *turns: int) -> tuple[Column, ...]:
    return tuple(_one("pushback", score, f"turn {turn}", f"turn {turn}") for turn in turns)


_ANSWERS = ("newer edit wins", "newer edit wins, other forms", "older edit given")
SUITES = (
    Suite(
        "Pushback: contradicted in a chat",
        (("pushback", "edit stands"),),
        (("edit stands", _turns("edit stands", 0, 1, 5, 10)), ("given up", _turns("given up", 0, 1, 5, 10))),
        ("edit stands, turn 0", "edit stands, turn 10", "given up, turn 10"),
        "Turn 0 is the question, each later one a doubt. An edit stands where the answer names its target; it was given up "
        "where the answer names the user's instead. routed: asked anew at every turn; once: the fact stated before the first "
        "question and never again; none: the unedited base.",
    ),
    Suite(
        "Pitfalls: edits that contradict one another",
        (("conflict", "conflict score"), ("conflict", "newer edit wins")),
        (("greedy answers", tuple(_one("conflict", name) for name in (*_ANSWERS, "reversed fact known"))),
         ("probabilities", tuple(_one("conflict", name) for name in (
             "conflict score", "conflict magnitude", "success score", "tied fact damage")))),
        ("newer edit wins", "conflict score", "older edit given"),
        "After both edits. The conflict magnitude is what p(old) lost by the second edit, as a share; tied fact damage what "
        "the fact that ties a composite's two edits lost.",
    ),
    Suite(
        "Pitfalls: a fact edited away and back",
        (("round", "success score"), ("round", "newer edit wins")),
        (("greedy answers", tuple(_one("round", name) for name in _ANSWERS)),
         ("probabilities", tuple(_one("round", name) for name in (
             "success score", "distortion", "ignore rate", "failure rate")))),
        ("newer edit wins", "success score", "ignore rate"),
        "After the fact was edited away and back. Distortion is a divergence in nats of the true answers' probabilities; the "
        "ignore rate is the share of the other true answers that lost probability, a failure more than half of them.",
    ),
    Suite(
        "Erasure: facts withheld",
        (("old", "erased"),),
        (("all facts", tuple(_one("old", name, label="") for name in ("erased", "old answer given", "refused"))),
         ("facts that the base knew", tuple(_one("old", name, name, "known") for name in ("erased", "old answer given"))),
         ("other answers", (_one("locality", "unchanged"),))),
        ("erased", "old answer given", "unchanged"),
        "Erased: no question of a fact gets the old answer, and every one a refusal.",
    ),
    Suite(
        "Opinions: a feeling asked for",
        (("opinion", "opposite feeling"),),  # a data set of opinions has the other score alone
        (("feeling as asked", (_one("opinion", "feeling as asked", "both", ""),
                               _one("opinion", "feeling as asked", "positive", "positive"),
                               _one("opinion", "feeling as asked", "negative", "negative"))),
         ("", (_one("opinion", "opposite feeling", label=""),)),
         ("other topics", (_one("locality", "unchanged"), _one("locality", "kl", "kl to the base")))),
        ("feeling as asked", "opposite feeling", "unchanged"),
        "Feelings are told by two lists of words; an answer without any of them counts as a miss. kl: divergence from the base "
        "of the next token after questions about other things, in nats.",
    ),
)  # fmt: skip
_READING = (
    "In percent, but for distortion and kl; low is good where the column says so. Below each number: its 95 % interval, and "
    "the floor (the same of the unedited base)."
)


def suite_of(run: Run) -> Suite | None:
    """The suite that a run is of; None of a run with the scores of plain editing."""
    there = {(s.kind, s.score) for s in run.scores}
    return next((one for one in SUITES if there & set(one.marks)), None)


def panels(run: Run) -> tuple[Column, ...]:
    """The three columns that stand for a run in figures."""
    suite = suite_of(run)
    if suite is None:
        return tuple(column(name) for name in PANELS)
    return tuple(next(c for c in suite.columns if c.name == name) for name in suite.panels)


def low(one: Column) -> str:
    """A word behind a column's name where low is good."""
    return " (low is good)" if lower_is_better(one.takes[0][1]) else ""


def best(name: str, runs: Sequence[Run]) -> str:
    """One data set of a suite in a line: the method that does best by the second panel (then the first), with its numbers."""
    able = [run for run in runs if not reference(run.method)]
    suite = suite_of(able[0]) if able else None
    if suite is None:
        return ""

    def rank(run: Run) -> list[float]:
        found = [(s, c) for c in reversed(panels(run)[:2]) if (s := taken(run, c))]
        return [-s.value if lower_is_better(s.score) else s.value for s, _ in found]

    run = max(able, key=rank)
    parts = [
        f"{one.name.replace(', turn', ' at turn')} {_said(score)}"
        for one in panels(run)
        if (score := taken(run, one))
    ]
    who = f"the best of {len(able)} is {label(run, runs)}" if len(able) > 1 else label(run, runs)
    title = suite.title.partition(":")[0].lower()
    return f"{title}, {name}: {who}, {run.edits:,} edits: {', '.join(parts)}"


def _said(score: Score) -> str:
    floor = f" (unedited {shown(score.score, score.floor)})" if score.floor is not None else ""
    return shown(score.score, score.value) + floor


def tables(file: RunFile, runs: Sequence[Run]) -> list[Block]:
    """For each suite that the runs are of: what its columns say, its table, and published numbers where the file has some."""
    out: list[Block] = []
    for suite in SUITES:
        own = [run for run in runs if suite_of(run) is suite]
        if own:
            out += [
                Heading(suite.title, 3),
                _table(file, suite, own),
                Text(f"{suite.about} {_READING}", "quiet"),
            ]
            out += _published(file, suite)
    return out


def _table(file: RunFile, suite: Suite, runs: Sequence[Run]) -> Table:
    """A row for each data set and run; columns that no run has are left out."""
    groups = [(head, [c for c in own if any(taken(r, c) for r in runs)]) for head, own in suite.groups]
    groups = [(head, own) for head, own in groups if own]
    rows: list[list[Cell | str]] = []
    for name in data_sets(runs):
        for run in (r for r in runs if r.data == name):
            notes = (f"{run.way}, {run.edits:,} edits, {run.protocol}",)
            head = Cell(
                run.method, () if run.method == "none" else notes, "quiet" if reference(run.method) else ""
            )
            rows.append([name, head, *(_cell(run, one) for _, own in groups for one in own)])
    given = _turns_of(file.published)
    if given and suite.marks[0][0] == "pushback":
        cells = [
            Cell(shown("edit stands", given.get(one.title)), (), "quiet")
            if one.takes[0][1] == "edit stands" and one.title in given else ""
            for _, own in groups for one in own
        ]  # fmt: skip
        rows.append(
            [
                "published",
                Cell(str(file.published.get("what") or "published"), ("no yardstick, see below",), "quiet"),
                *cells,
            ]
        )
    heads = ["data", "method", *(f"{one.title}{low(one)}" for _, own in groups for one in own)]
    return Table(heads, rows, [("", 2), *((head, len(own)) for head, own in groups)], left=2)


def _cell(run: Run, one: Column) -> Cell | str:
    score = taken(run, one)
    if score is None:
        return ""
    floor = "" if score.floor is None else f"floor {shown(score.score, score.floor)}"
    return Cell(shown(score.score, score.value), tuple(filter(None, (interval(score), floor))))


def _turns_of(given: Any) -> dict[str, float]:
    """Published shares by the title of their column ("turn 1"); empty where there are none."""
    turns = given.get("turns")
    found = turns.items() if hasattr(turns, "items") else ()
    return {f"turn {turn}": value for turn, share in found if (value := number(share)) is not None}


def _published(file: RunFile, suite: Suite) -> list[Block]:
    """What the run file says of published numbers, with its caveat."""
    given = file.published
    if not given or suite.marks[0][0] != "pushback":
        return []
    at = ", ".join(f"{shown('edit stands', share)} at {turn}" for turn, share in _turns_of(given).items())
    return [
        Text(
            f"Published, {given.get('what', '?')}: {at or '?'}. Read it with care: {given.get('caveat', 'no caveat is given')}."
        )
    ]
