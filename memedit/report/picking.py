"""Which run and which score stand for a method: the true number, and the flattering ones beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memedit.report.published import locality_is_kl
from memedit.report.reading import Run, Score

_MODES = ("single", "batch", "sequential", "all")  # from the kindest to the hardest
FEW = 10


class Column(NamedTuple):
    """A column of a table: (kind, score) pairs, the first that a run has is taken.

    Attributes:
        forced: its easy variant. label: of the score; "" of all labels together, "*" whatever it is.
    """

    name: str
    title: str
    takes: tuple[tuple[str, str], ...]
    forced: tuple[str, str] | None = None
    label: str = ""


COLUMNS = (
    Column(
        "success",
        "Edit success",
        (("edit", "success"), ("old", "refused"), ("old", "success"), ("opinion", "feeling as asked")),
        ("edit", "success_tf"),
    ),
    Column("generalisation", "Paraphrases", (("paraphrase", "success"),), ("paraphrase", "success_tf")),
    Column(
        "portability",
        "Portability",
        (("portability", "success"), ("ripple", "success"), ("multi-hop", "any question"), ("multi-hop", "success")),
        ("portability", "success_tf"),
    ),
    Column("locality", "Locality", (("locality", "unchanged"), ("*", "kl")), ("locality", "unchanged_tf")),
    Column("general", "General", (("unrelated", "unchanged"), ("general", "unchanged"))),
    Column("fluency", "Fluency", (("*", "sampled fluency"), ("*", "fluency"))),
)  # fmt: skip
PANELS = ("success", "portability", "locality")


def column(name: str) -> Column:
    return next(c for c in COLUMNS if c.name == name)


def taken(run: Run, what: Column) -> Score | None:
    """The run's score for a column, the true one: free generation, all labels together."""
    takes = what.takes
    if what.name == "locality" and locality_is_kl(run.data):
        takes = (("*", "kl"), *takes)
    found = (s for kind, score in takes if (s := run.find(kind, score, "*" if score == "kl" else what.label)))
    # Most answers are too short for an entropy; that of a few long ones would speak for none.
    return next((s for s in found if what.name != "fluency" or s.n >= FEW), None)


def forced(run: Run, what: Column) -> Score | None:
    """The teacher-forced variant of the same."""
    return run.find(*what.forced) if what.forced else None


def usual(what: Column, score: Score) -> bool:
    """Whether the score is the column's first choice, so that its name need not be said."""
    return (score.kind, score.score) == what.takes[0] or what.takes[0] == ("*", score.score)


def reference(method: str) -> bool:
    """Whether a method is no method: the unedited base, or the right edit handed over."""
    return method == "none" or method.partition(":")[0] == "oracle"


def oracle_of(method: str) -> str | None:
    """The method by which an oracle answers, ice where it names none; None of what is no oracle."""
    head, _, name = method.partition(":")
    return (name or "ice") if head == "oracle" else None


def _hardness(run: Run) -> tuple[bool, int, int]:
    mode = run.mode.partition(":")[0]
    return run.when != "after-each", _MODES.index(mode) if mode in _MODES else len(_MODES), run.edits


def truest(runs: Iterable[Run]) -> list[Run]:
    """For each data set, method and way the hardest run: after all, all at once, most edits. The floor first, oracles last."""
    best: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        if run.scores and (run.key not in best or _hardness(run) > _hardness(best[run.key])):
            best[run.key] = run
    return sorted(best.values(), key=lambda r: (r.method != "none", r.method.startswith("oracle")))


def data_sets(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(run.data for run in runs))


def label(run: Run, others: Sequence[Run]) -> str:
    """A method's name, with the way where the runs know more than one."""
    ways = {r.way for r in others if not reference(r.method)}
    return run.method if len(ways) < 2 or reference(run.method) else f"{run.method}, {run.way}"


class Flattery(NamedTuple):
    """A kinder way to score the same thing, and what it says."""

    true: Score
    how: str
    score: Score


def flattering(run: Run, runs: Sequence[Run], what: Column) -> list[Flattery]:
    """The kinder numbers that the file holds for a run's score in a column."""
    true = taken(run, what)
    if true is None:
        return []
    out = []
    easy = forced(run, what)
    if easy is not None:
        out.append(Flattery(true, "teacher-forced", easy))
    for other in runs:
        if other.data != run.data or other is run:
            continue
        score = taken(other, what)
        if score is None or score.score != true.score:
            continue
        if other.key == run.key and other.when == "after-each":
            out.append(Flattery(true, "right after each edit", score))
        elif other.key == run.key and other.mode == "single":
            out.append(Flattery(true, "each edit alone", score))
        elif oracle_of(other.method) == run.method and other.edits == run.edits:
            out.append(Flattery(true, "handed its own edit", score))
    return out
