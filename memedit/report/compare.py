"""Two runs beside each other: every score that both hold, what got worse first, and the single answers that flipped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memedit.errors import DataError
from memedit.report.blocks import Block, Cell, Heading, Items, Table, Text
from memedit.report.content import model_name
from memedit.report.folder import check_folder, write_files
from memedit.report.goals import expected, said
from memedit.report.reading import Answer, Run, RunFile, Score, read_run, verdict
from memedit.report.units import interval, is_share, lower_is_better, shown

_DRIFT = ("perplexity", "accuracy", "changed", "kl")
_APART = "apart: the 95 % intervals of the two don't overlap."
_MOST = 200  # rows that a page shows; the JSON holds all
Pair = tuple[Run, Run]


@dataclass(frozen=True, slots=True)
class Point:
    """One score in both runs.

    Attributes:
        worse: by how much B is worse, negative where it is better: a share's difference, of other units the relative
            one. overlap: whether the 95 % intervals overlap; None where one of them is missing. edits: in memory (A, B).
    """

    data: str
    method: str
    way: str
    mode: str
    when: str
    edits: tuple[int, int]
    kind: str
    label: str
    score: str
    a: Score
    b: Score
    worse: float
    overlap: bool | None


@dataclass(frozen=True, slots=True)
class Flip:
    """One query with another verdict in B; `worse`: it was as it should be in A."""

    data: str
    method: str
    way: str
    mode: str
    when: str
    case: str
    kind: str
    label: str
    prompt: str
    expected: str
    a: str
    b: str
    worse: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Points and flips, each with what got worse first; what else differs, and the runs that only one side has."""

    a: str
    b: str
    points: tuple[Point, ...]
    flips: tuple[Flip, ...]
    asked: int
    unpaired: int
    differs: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs: the same under the same names, with counts of what got worse and better."""
        found = asdict(self)
        found["worse"] = sum(p.worse > 0 for p in self.points)
        found["better"] = sum(p.worse < 0 for p in self.points)
        return found


def compare(first: Mapping[str, Any] | Path, second: Mapping[str, Any] | Path) -> Comparison:
    """Compare two runs: scores of the same data, method, way, mode, moment, kind, label and name; answers to the same query.

    Raises:
        DataError: one is no run file, or they have no score in common.
    """
    a, b = read_run(first), read_run(second)
    if a.name == b.name and not isinstance(first, Mapping) and not isinstance(second, Mapping):
        a, b = replace(a, name=str(first)), replace(b, name=str(second))
    pairs = list(_pairs(a.runs, b.runs))
    points = [point for pair in pairs for point in _points(*pair)]
    if not points:
        raise DataError(
            f"{a.name} and {b.name} have no score in common ({_has(a)} against {_has(b)}); compare two runs of the "
            "same data and methods"
        )
    found = [_flips(*pair) for pair in pairs]
    flips = [flip for of, _, _ in found for flip in of]
    paired_a, paired_b = {id(x) for x, _ in pairs}, {id(y) for _, y in pairs}
    return Comparison(
        a=a.name,
        b=b.name,
        points=tuple(sorted(points, key=_rank)),
        flips=tuple(sorted(flips, key=lambda flip: not flip.worse)),
        asked=sum(n for _, n, _ in found),
        unpaired=sum(n for _, _, n in found),
        differs=tuple(_differs(a, b)),
        only_a=tuple(_title(run) for run in a.runs if id(run) not in paired_a),
        only_b=tuple(_title(run) for run in b.runs if id(run) not in paired_b),
    )


def _has(file: RunFile) -> str:
    return "; ".join(dict.fromkeys(f"{run.method} on {run.data}" for run in file.runs))[:200]


def _title(run: Run) -> str:
    return f"{run.method}, {run.way}, on {run.data}: {run.edits:,} edits, {run.protocol}"


def _pairs(a: Sequence[Run], b: Sequence[Run]) -> Iterator[Pair]:
    """The same run on both sides; one whose number of edits alone differs (cases failed) where it can be no other."""

    def key(run: Run) -> tuple[str, ...]:
        return (*run.key, run.mode, run.when)

    left = list(b)
    alone = []
    for run in a:
        same = next((other for other in left if (key(other), other.edits) == (key(run), run.edits)), None)
        if same is None:
            alone.append(run)
        else:
            left.remove(same)
            yield run, same
    rest = Counter(map(key, alone)), Counter(map(key, left))
    for run in alone:
        if rest[0][key(run)] == rest[1][key(run)] == 1:
            yield run, next(other for other in left if key(other) == key(run))


def _points(a: Run, b: Run) -> Iterator[Point]:
    others = {(s.kind, s.label, s.score): s for s in _scores(b)}
    for one in _scores(a):
        other = others.get((one.kind, one.label, one.score))
        if other is None:
            continue
        change = (other.value - one.value) * (1 if lower_is_better(one.score) else -1)
        if not is_share(one.score):
            change /= max(abs(one.value), abs(other.value), 1e-12)
        overlap = None
        if None not in (one.low, one.high, other.low, other.high):
            overlap = one.low <= other.high and other.low <= one.high  # type: ignore[operator]
        yield Point(
            a.data, a.method, a.way, a.mode, a.when, (a.edits, b.edits), one.kind, one.label, one.score, one, other, change,
            overlap,
        )  # fmt: skip


def _scores(run: Run) -> Iterator[Score]:
    yield from run.scores
    for name in _DRIFT:
        if name in run.drift:
            yield Score("drift", "", name, run.drift[name], None, None, run.drift.get(f"{name}_base"), 1)


def _rank(point: Point) -> tuple[int, float]:
    """Worse beyond chance first, then worse, then the same, then better."""
    if point.worse > 0:
        return (0 if point.overlap is False else 1), -point.worse
    return (2 if point.worse == 0 else 3), point.worse


def _flips(a: Run, b: Run) -> tuple[list[Flip], int, int]:
    """The flips, how many queries both sides judged, how many of either side's answers have no partner."""
    others = dict(_numbered(b))
    out, judged, met = [], 0, 0
    for key, one in _numbered(a):
        other = others.get(key)
        if other is None:
            continue
        met += 1
        before, after = verdict(one), verdict(other)
        if before is None or after is None:
            continue
        judged += 1
        if before != after:
            kind, label, case, prompt, _ = key
            where = (a.data, a.method, a.way, a.mode, a.when)
            out.append(Flip(*where, case, kind, label, prompt, expected(one), said(one), said(other), before))
    return out, judged, len(a.answers) + len(b.answers) - 2 * met


def _numbered(run: Run) -> Iterator[tuple[tuple[str, str, str, str, int], Answer]]:
    """Answers by kind, label, case and prompt, and a number where one query stands more than once."""
    seen: Counter[tuple[str, ...]] = Counter()
    for answer in run.answers:
        kind, label, case, prompt = (str(answer.get(k) or "") for k in ("kind", "label", "case", "prompt"))
        seen[kind, label, case, prompt] += 1
        yield (kind, label, case, prompt, seen[kind, label, case, prompt]), answer


def _differs(a: RunFile, b: RunFile) -> Iterator[str]:
    """What else is not the same, so that a change need not come from the methods."""
    if a.model != b.model:
        yield f"model: {model_name(a)} ({a.model.get('digest', '?')}) against {model_name(b)} ({b.model.get('digest', '?')})"
    for key in ("memedit", "decoding", "seed", "machine"):
        if a.about.get(key) != b.about.get(key):
            yield f"{key}: {a.about.get(key)} against {b.about.get(key)}"
    hashes = {str(one.get("name")): one.get("sha256") for one in b.data}
    for one in a.data:
        name = str(one.get("name"))
        if name in hashes and hashes[name] != one.get("sha256"):
            yield f"data {name}: not the same file"
    for x, y in _pairs(a.runs, b.runs):
        if x.settings != y.settings:
            yield f"settings of {x.method} on {x.data}"
        if x.edits != y.edits:
            yield f"edits in memory of {x.method}, {x.way}, on {x.data}: {x.edits:,} against {y.edits:,}"


def blocks(found: Comparison) -> list[Block]:
    """The comparison as blocks: in a few words, the points, the flips, what has no partner."""
    worse = [p for p in found.points if p.worse > 0]
    beyond = sum(p.overlap is False for p in worse)
    better = sum(p.worse < 0 for p in found.points)
    down = sum(flip.worse for flip in found.flips)
    lead = (
        f"{len(worse)} of {len(found.points)} scores got worse in {found.b}, {beyond} of them beyond their 95 % "
        f"intervals; {better} got better. Of {found.asked:,} answers {down:,} went from pass to miss and "
        f"{len(found.flips) - down:,} from miss to pass."
    )
    out: list[Block] = [Heading(f"{found.a} against {found.b}", 1), Text(lead, "lead")]
    out.append(Text(f"A is {found.a}, B is {found.b}; change: B less A. {_APART}", "quiet"))
    if found.differs:
        out += [Text("The two also differ in:"), Items(found.differs)]
    out += [Heading("Scores, what got worse first"), *_most(_point_table(found), "scores")]
    out += [Heading("Answers that flipped, pass to miss first"), *_most(_flip_table(found), "flips")]
    for name, only in ((found.a, found.only_a), (found.b, found.only_b)):
        if only:
            out += [Heading(f"Only in {name}"), Items(only)]
    if found.unpaired:
        out.append(Text(f"{found.unpaired:,} answers have no partner on the other side.", "quiet"))
    return out


def _most(table: Table, noun: str) -> list[Block]:
    if not table.rows:
        return [Text("None.")]
    more = len(table.rows) - _MOST
    if more <= 0:
        return [table]
    cut = Table(table.head, table.rows[:_MOST], left=table.left)
    return [cut, Text(f"{more:,} more {noun} are in compare.json.", "quiet")]


def change(point: Point) -> str:
    """B less A as printed, in points for shares and in percent of A's for other units."""
    if is_share(point.score):
        return f"{100 * (point.b.value - point.a.value):+.1f}"
    return f"{100 * (point.b.value - point.a.value) / max(abs(point.a.value), 1e-12):+.0f} %"


def beyond(point: Point) -> str:
    """In a word whether the change is more than the intervals leave open."""
    return {None: "", True: "overlap", False: "apart"}[point.overlap]


def _point_table(found: Comparison) -> Table:
    rows: list[list[Cell | str]] = []
    for p in found.points:
        tone = (
            "bad"
            if p.worse > 0 and p.overlap is False
            else "good"
            if p.worse < 0 and p.overlap is False
            else ""
        )
        name = f"{p.kind}: {p.label}" if p.label else p.kind
        what = Cell(f"{name}, {p.score}", (f"{p.mode}, {p.when}, {p.edits[0]:,} edits",))
        sides = (Cell(shown(p.score, s.value), tuple(filter(None, [interval(s)]))) for s in (p.a, p.b))
        rows.append([p.data, f"{p.method}, {p.way}", what, *sides, Cell(change(p), (), tone), beyond(p)])
    return Table(["data", "method", "score", "A", "B", "change", "intervals"], rows, left=3)


def _flip_table(found: Comparison) -> Table:
    rows: list[list[Cell | str]] = []
    for f in found.flips:
        where = f"{f.data}, {f.method}, {f.way}, {f.kind}{f': {f.label}' if f.label else ''}, case {f.case}"
        turn = Cell("pass to miss", (), "bad") if f.worse else Cell("miss to pass", (), "good")
        rows.append([turn, Cell(f.prompt, (where,)), f.expected, f.a, f.b])
    return Table(["", "query", "expected", "A's answer", "B's answer"], rows, left=5)


def write_comparison(found: Comparison, folder: Path) -> list[Path]:
    """Write compare.html, compare.md and compare.json into a folder.

    Raises:
        DataError: the folder can't be written; then nothing is.
    """
    from memedit.report.markdown import markdown
    from memedit.report.page import page

    check_folder(folder, figures=False)
    content = blocks(found)
    whole = json.dumps(found.as_json(), indent=1)
    return write_files(
        folder,
        {"compare.html": page(content, {}), "compare.md": markdown(content), "compare.json": whole + "\n"},
    )
