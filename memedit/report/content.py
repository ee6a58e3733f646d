"""The report of one run file as blocks: headline, goals, tables, notes. Markdown and the page say the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from memedit.metrics import APART
from memedit.report import published, suites
from memedit.report.blocks import Block, Cell, Heading, Items, Picture, Table, Text
from memedit.report.goals import goals
from memedit.report.picking import (
    COLUMNS,
    Column,
    column,
    data_sets,
    flattering,
    forced,
    label,
    reference,
    taken,
    truest,
    usual,
)
from memedit.report.reading import Run, RunFile, number
from memedit.report.units import interval, lower_is_better, plain, shown

_ACROSS = 10  # columns of a table besides the method: more can't be read or printed
_MOST_FAILURES = 20
_METHODS_ACROSS = 6
_BY_KIND = ("success", "unchanged", "kl", "any question", "every hop")


def blocks(file: RunFile, figures: Sequence[str]) -> list[Block]:
    """The whole report; `figures` names the pictures that were drawn."""
    out: list[Block] = [Heading(f"memedit eval: {model_name(file)}", 1), *_headline(file)]
    if file.goals:
        out += [Heading("Goals"), *goals(file)]
    out += [Heading("Methods and data sets"), *_main_tables(file), *suites.tables(file, truest(file.runs))]
    out += [Picture(name, CAPTIONS[name]) for name in ("scores", "sizes") if name in figures]
    out += _true_beside_flattering(file)
    out += [Heading("By kind of query"), *_apart(file), *_by_kind(file)]
    if "drift" in figures or any(run.drift for run in file.runs):
        out += [Heading("Drift"), *_drift(file)]
        out += [Picture("drift", CAPTIONS["drift"])] if "drift" in figures else []
    if "time" in figures:
        out += [Heading("Where the time went"), Picture("time", CAPTIONS["time"])]
    out += [Heading("What failed"), *_failures(file)]
    return [*out, Heading("How this was made"), *_made(file)]


CAPTIONS = {
    "scores": "Of each method the main scores (where facts are edited: edit success, portability, locality) with the 95 % "
    "interval. Upright bar: the unedited base. Hollow diamond: the most flattering number for the same thing.",
    "sizes": "Scores against the number of edits in memory. Solid: scored after all edits; dashed: right after each.",
    "drift": "What became of other text and other questions. Dotted: the unedited base.",
    "time": "Seconds by phase, over all data sets of a method and way.",
}


def model_name(file: RunFile) -> str:
    return str(file.model.get("name") or "a model without a name")


def _headline(file: RunFile) -> list[Block]:
    """What was found, in few sentences: the best of each data set, the goals, the failures, the largest gap."""
    runs = truest(file.runs)
    asked = sum(len(run.answers) for run in file.runs)
    methods = [m for m in dict.fromkeys(run.method for run in runs) if not reference(m)]
    sets = data_sets(runs)
    lead = (
        f"{len(methods)} method{'s' * (len(methods) != 1)} on {len(sets)} data set{'s' * (len(sets) != 1)}, "
        f"{asked:,} answers. "
    )
    if file.goals:
        missed = sum(goal.get("met") is not True for goal in file.goals)
        lead += f"{len(file.goals) - missed} of {len(file.goals)} goals met, {missed} missed. "
    failed = sum(len(run.failed) for run in file.runs)
    lead += f"{failed:,} failure{'s' * (failed != 1)}." if failed else "No case failed."
    lines = [line for name in sets if (line := _best(name, [r for r in runs if r.data == name]))]
    return [Text(lead, "lead"), Items(lines)] if lines else [Text(lead, "lead")]


def _best(name: str, runs: Sequence[Run]) -> str:
    """A data set's best method by edit success (locality where that is equal), with its numbers and its floor."""
    if any(suites.suite_of(run) for run in runs):
        return suites.best(name, runs)
    what = column("success")
    able = [(s, run) for run in runs if not reference(run.method) and (s := taken(run, what))]
    if not able:
        return ""

    def rank(pair: tuple[Any, Run]) -> tuple[float, float]:
        still = taken(pair[1], column("locality"))
        return pair[0].value, still.value if still and not lower_is_better(still.score) else 0.0

    hard = [pair for pair in able if pair[1].mode != "single" and pair[1].when != "after-each"]
    _, run = max(hard or able, key=rank)
    parts = []
    for one in COLUMNS:
        score = taken(run, one)
        if score is None or one.name == "fluency":
            continue
        still = one.name in ("locality", "general")  # there the floor says nothing: the base is as the base
        floor = (
            f" (unedited {shown(score.score, score.floor)})" if score.floor is not None and not still else ""
        )
        named = "" if usual(one, score) else f" ({score.score})"
        parts.append(f"{one.title.lower()}{named} {shown(score.score, score.value)}{floor}")
    return f"{name}: {label(run, runs)}, {run.edits:,} edits, {run.protocol}: {', '.join(parts)}"


def _main_tables(file: RunFile) -> list[Block]:
    """The layout of KnowEdit's table: data sets as groups of columns, methods as rows, the paper's beside ours."""
    runs = [run for run in truest(file.runs) if suites.suite_of(run) is None]
    if not runs:
        return []
    groups = [(name, _columns([r for r in runs if r.data == name], name)) for name in data_sets(runs)]
    out: list[Block] = []
    part: list[tuple[str, list[tuple[Column, bool]]]] = []
    for name, columns in [*groups, ("", [])]:
        if part and (not columns or sum(len(c) for _, c in part) + len(columns) > _ACROSS):
            out.append(_main_table(runs, part))
            part = []
        if columns:
            part.append((name, columns))
    out.append(Text(_READING, "quiet"))
    if any(of_paper for _, columns in groups for _, of_paper in columns):
        out.append(
            Text(f"Columns named paper: {published.SOURCE}, {published.MODEL}. Read them with care:", "quiet")
        )
        of_kl = [published.KL] if any(published.locality_is_kl(name) for name, _ in groups) else []
        out.append(Items([*of_kl, *published.CAVEATS, published.LATER, published.NOT_THERE], "quiet"))
    return out


_READING = (
    "In percent, but for fluency (n-gram entropy, times 100) and kl (lower is better). The large number: all edits made "
    "when scored, free greedy generation from the prompt alone, through the router where the way is routed, which never "
    "sees an answer. Below it: the 95 % interval, the floor (the same asked of the unedited base), the teacher-forced "
    "variant. none: the unedited base. oracle: the right edit handed over, not routed."
)


def _columns(runs: Sequence[Run], name: str) -> list[tuple[Column, bool]]:
    """The columns of a data set: ours (False) and, right of it, the paper's (True)."""
    out = []
    for one in COLUMNS:
        if any(taken(run, one) for run in runs):
            out.append((one, False))
        if any(published.published(name, method, one.name) for method in published.METHODS):
            out.append((one, True))
    return out


def _main_table(runs: Sequence[Run], part: Sequence[tuple[str, list[tuple[Column, bool]]]]) -> Table:
    names = [name for name, _ in part]
    here = [run for run in runs if run.data in names]
    ours = list(dict.fromkeys((run.method, run.way) for run in here))
    beside = [m for m in published.METHODS if any(published.published(n, m, "success") for n in names)]
    lines: list[tuple[str, str]] = [*ours, *((m, "") for m in beside if m not in {m for m, _ in ours})]
    rows: list[list[Cell | str]] = []
    for method, way in lines:
        by_name = {run.data: run for run in here if (run.method, run.way) == (method, way)}
        first = next(iter(by_name.values()), None)
        head = Cell(
            method if first else published.title(method),
            tuple(
                dict.fromkeys(f"{run.way}, {run.edits:,} edits, {run.protocol}" for run in by_name.values())
            )
            if first
            else ("the paper only",),
            "quiet" if reference(method) or not first else "",
        )
        cells: list[Cell | str] = [head]
        for name, columns in part:
            for one, of_paper in columns:
                cells.append(_paper(name, method, one) if of_paper else _ours(by_name.get(name), one))
        rows.append(cells)
    heads = []
    for name, columns in part:
        own = {one.name for one, of_paper in columns if not of_paper}
        heads += [
            one.title
            if not of_paper
            else ("paper" if one.name in own else f"{one.title}, paper") + _unit(name, one)
            for one, of_paper in columns
        ]
    return Table(["method", *heads], rows, groups=[("", 1), *((name, len(c)) for name, c in part)])


def _paper(name: str, method: str, one: Column) -> Cell:
    found = published.published(name, published.paper_method(method) or "", one.name)
    return Cell(str(found) if found else "", ("KL, no %",) if found and _unit(name, one) else (), "quiet")


def _unit(name: str, one: Column) -> str:
    """What the paper's number is, where it is of another kind than the column's."""
    return " (KL, low is good)" if one.name == "locality" and published.locality_is_kl(name) else ""


def _ours(run: Run | None, one: Column) -> Cell | str:
    score = taken(run, one) if run else None
    if run is None or score is None:
        return ""
    notes = [interval(score)]
    if not usual(one, score):
        notes.append(_OTHER_NAMES.get(score.score, score.score))
    if score.floor is not None:
        notes.append(f"floor {shown(score.score, score.floor)}")
    easy = forced(run, one)
    if easy is not None:
        notes.append(f"forced {shown(easy.score, easy.value)}")
    single = run.find("multi-hop", "success") if score.score == "any question" else None
    if single is not None:
        notes.append(f"per question {shown(single.score, single.value)}")
    return Cell(shown(score.score, score.value), tuple(filter(None, notes)))


_OTHER_NAMES = {"any question": "any question of a case (mh)"}


def _true_beside_flattering(file: RunFile) -> list[Block]:
    """Where the file knows a kinder number for the same thing: both, the largest gap first."""
    runs = truest(file.runs)
    found = []
    for run in runs:
        if reference(run.method) or suites.suite_of(run) is not None:
            continue
        for one in COLUMNS[:4]:
            for true, how, score in flattering(run, file.runs, one):
                gap = (score.value - true.value) * (-1 if lower_is_better(true.score) else 1)
                found.append((gap, run, one, true, how, score))
    if not found:
        return []
    found.sort(key=lambda row: -row[0])
    rows: list[list[Cell | str]] = [
        [
            run.data, label(run, runs), one.title.lower(), Cell(shown(true.score, true.value), (interval(true),)),
            how, Cell(shown(score.score, score.value), (interval(score),)), f"{100 * gap:+.1f}",
        ]
        for gap, run, one, true, how, score in found
    ]  # fmt: skip
    head = ["data", "method", "score", "true", "scored kindly", "says", "gap"]
    title = f"All {len(rows)} pairs, the largest gap first"
    table = Table(head, rows, left=3, folded=len(rows) > 12, title=title)
    gap, run, one, true, how, score = found[0]
    largest = (
        f"The largest gap: {one.title.lower()} of {label(run, runs)} on {run.data} is {shown(true.score, true.value)} "
        f"({run.protocol}), and would be {shown(score.score, score.value)} {_HOW.get(how, how)}."
    )
    return [Heading("True beside flattering"), Text(largest), table]


_HOW = {
    "teacher-forced": "if teacher-forced",
    "right after each edit": "if scored right after each edit",
    "each edit alone": "if each edit were alone",
    "handed its own edit": "if every query were handed its own edit",
}


def _apart(file: RunFile) -> list[Block]:
    """Which labels stand by themselves, where there are any."""
    there = sorted({s.label for run in file.runs for s in run.scores} & APART)
    if not there:
        return []
    return [Text(f"{' and '.join(there)}: {_APART}")]


_APART = (
    "CounterFact's own rephrasings, which were made from prompts for long texts and are mostly no paraphrases. They are "
    "asked and listed, and counted in no score of paraphrases, no goal, no column of the tables above."
)


def _by_kind(file: RunFile) -> list[Block]:
    """For each data set the main score of every kind and label of query, methods side by side; the others folded."""
    runs = truest(file.runs)
    out: list[Block] = []
    for name in data_sets(runs):
        here = [run for run in runs if run.data == name and run.method != "none"]
        found = list(dict.fromkeys((s.kind, s.label, s.score) for run in here for s in run.scores))
        kinds = list(dict.fromkeys(kind for kind, _, _ in found))
        known = {kind for kind, _, score in found if score in _BY_KIND}
        main = [line for line in found if line[2] in _BY_KIND or line[0] not in known]
        rest = [line for line in found if line not in main]
        out += [Heading(name, 3)] if found else []
        for lines, title in ((main, ""), (rest, f"All other scores of {name}")):
            # kind by kind, all labels together first, else as in the file
            ordered = sorted(lines, key=lambda line: (kinds.index(line[0]), line[2], line[1] != ""))
            for at in range(0, len(here), _METHODS_ACROSS) if lines else ():
                part = here[at : at + _METHODS_ACROSS]
                out.append(_kind_table(part, [label(run, here) for run in part], ordered, title))
    return out


def _kind_table(
    runs: Sequence[Run], names: Sequence[str], lines: Sequence[tuple[str, str, str]], title: str
) -> Table:
    """A row for each (kind, label, score), a column for each run; folded where it has a title."""
    rows: list[list[Cell | str]] = []
    for kind, text, score in lines:
        cells = [run.find(kind, score, text) for run in runs]
        floor = next((s.floor for s in cells if s and s.floor is not None), None)
        asked = max((s.n for s in cells if s), default=0)
        shares = (Cell(shown(score, s.value), tuple(filter(None, [interval(s)]))) if s else "" for s in cells)
        name = f"{kind}: {text}" if text else kind
        rows.append([name, score, f"{asked:,}", shown(score, floor), *shares])
    return Table(["kind", "score", "n", "floor", *names], rows, left=2, folded=bool(title), title=title)


def _drift(file: RunFile) -> list[Block]:
    rows: list[list[Cell | str]] = []
    for run in sorted((r for r in file.runs if r.drift), key=lambda r: (r.method, r.way, r.edits)):
        d = run.drift
        cells = [plain(d[k]) if k in d else "" for k in ("perplexity", "perplexity_base")]
        cells += [f"{100 * d[k]:.1f}" if k in d else "" for k in ("accuracy", "accuracy_base")]
        cells += [f"{100 * d['changed']:.1f}" if "changed" in d else "", plain(d["kl"]) if "kl" in d else ""]
        rows.append([run.data, label(run, file.runs), f"{run.edits:,}", *cells])
    if not rows:
        return []
    head = ["data", "method", "edits", "perplexity", "base's", "right answers, %", "base's", "outputs changed, %",
            "KL to the base"]  # fmt: skip
    return [Table(head, rows, left=2, folded=len(rows) > 14, title=f"All {len(rows)} measurements of drift")]


def _failures(file: RunFile) -> list[Block]:
    rows = [
        [run.data, label(run, file.runs), str(one.get("case", "?")), str(one.get("error", "?"))]
        for run in file.runs
        for one in run.failed
    ]
    if not rows:
        return [Text("Nothing: every case was edited, asked and scored.")]
    more = len(rows) - _MOST_FAILURES
    out: list[Block] = [
        Text(
            f"{len(rows):,} failures, counted in each run; a failed case counts as wrong, and is left out where no "
            "number says that (magnitudes, fluency, kl)."
        ),
        Table(["data", "method", "case", "error"], rows[:_MOST_FAILURES], left=4),
    ]
    return [*out, Text(f"{more:,} more are in the run file.", "quiet")] if more > 0 else out


def _made(file: RunFile) -> list[Block]:
    about = dict(file.about)
    decoding = about.pop("decoding", None)
    items = [f"{key}: {value}" for key, value in about.items()]
    if isinstance(decoding, Mapping):
        items.append("decoding: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in decoding.items()))
    items.append(
        "model: " + ", ".join(f"{k} {v:,}" if isinstance(v, int) else str(v) for k, v in file.model.items())
    )
    items += [f"data {one.get('name')}: {said}" for one in file.data if (said := _of_data(one))]
    rates = [f"{label(r, file.runs)} on {r.data} {r.rate:.1f}" for r in truest(file.runs) if r.rate]
    if rates:
        items.append(f"cases per second: {'; '.join(rates)}")
    return [Items(items)]


def _of_data(one: Mapping[str, Any]) -> str:
    """What the run file tells of a data set; what it does not hold is left out."""
    counts = [f"{one[key]:,} {key}" for key in ("cases", "edits") if isinstance(one.get(key), int)]
    out = number(one.get("left_out"))
    counts += [f"{out:.0f} left out (repeated, contradictory or unusable)"] if out else []
    source = [str(one[key]) for key in ("format", "file") if one.get(key)]
    source += [f"sha256 {str(one['sha256'])[:16]}"] if one.get("sha256") else []
    return "; ".join(filter(None, (", ".join(counts), ", ".join(source))))


def scores_csv(file: RunFile) -> str:
    """Every score of every run as CSV (shares of 1, units as they are), a header first."""
    head = "data method way mode when edits kind label score value low high floor n".split()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for r in file.runs:
        for s in r.scores:
            numbers = ("" if v is None else repr(v) for v in (s.value, s.low, s.high, s.floor))
            writer.writerow(
                [r.data, r.method, r.way, r.mode, r.when, r.edits, s.kind, s.label, s.score, *numbers, s.n]
            )
    return out.getvalue()
