"""The scores of an evaluation on a terminal: a line for each score, a column for each method, the unedited base first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memedit.cli._group import console, counted, print_table
from memedit.metrics import APART

_WIDE = 5  # runs beside one another

# Kind, score, what people read. What flatters stands right under what it flatters.
_LINES = (
    ("edit", "success", "edit success (es)"),
    ("edit", "success_tf", "  teacher-forced"),
    ("edit", "right edit fired", "  right edit fired"),
    ("paraphrase", "success", "paraphrases (gen)"),
    ("paraphrase", "success_tf", "  teacher-forced"),
    ("paraphrase", "right edit fired", "  right edit fired"),
    ("portability", "success", "portability (port)"),
    ("portability", "success_tf", "  teacher-forced"),
    ("multi-hop", "success", "several hops"),
    ("multi-hop", "success_tf", "  teacher-forced"),
    ("multi-hop", "any question", "  any question of a case (mh)"),
    ("hop", "success", "single hops"),
    ("hop", "every hop", "  every hop of a case"),
    ("reversal", "success", "reversed"),
    ("reversal", "success_tf", "  teacher-forced"),
    ("old", "success", "old answer gone"),
    ("old", "refused", "  refused"),
    ("edit", "refused", "refused"),
    ("locality", "unchanged", "locality: unchanged (loc)"),
    ("locality", "unchanged_tf", "  teacher-forced"),
    ("locality", "no edit fired", "  no edit fired"),
    ("unrelated", "unchanged", "general: unchanged"),
    ("unrelated", "no edit fired", "  no edit fired"),
    ("edit", "efficacy", "efficacy: P(new) > P(old)"),
    ("paraphrase", "paraphrase score", "paraphrase score"),
    ("locality", "neighbourhood score", "neighbourhood score"),
    ("edit", "S", "S, their harmonic mean"),
    ("edit", "fluency", "fluency (bits)"),
    ("edit", "sampled fluency", "  of longer texts, drawn"),
)
_BY_LABEL = ("success", "unchanged")
_WORDS = {"after-all": "after all", "after-each": "after each\n(flatters)"}


def show_run_file(document: Mapping[str, Any], details: bool = False) -> None:
    """Tables of a run file, by data set; with details every score with its interval."""
    for data in document["data"]:
        runs = [run for run in document["runs"] if run["data"] == data["name"]]
        for start in range(0, len(runs), _WIDE):
            _table(document, data, runs[start : start + _WIDE])
    show_failures(document["runs"])
    show_goals(document)
    if details:
        _details(document["runs"])


def _table(document: Mapping[str, Any], data: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    model, decoding = document["model"], document["decoding"]
    edits = sorted({run["edits_in_memory"] for run in runs})
    held = " or ".join(f"{n:,}" for n in edits)
    left = (
        f", {counted(data['left_out'], 'case')} left out (repeated, contradictory or unusable)"
        if data["left_out"]
        else ""
    )
    if data.get("questions_left_out"):
        left += f", {counted(data['questions_left_out'], 'locality question')} left out (another edit's own prompt)"
    console().print(
        f"{data['name']}: {counted(data['cases'], 'case')}, {held} edit{'' if edits == [1] else 's'} made when scored{left}; "
        f"model {model['name']}, greedy, {decoding['max_new_tokens']} new tokens, seed {document['seed']}"
    )
    found = [{(s["kind"], s["score"], s["label"]): s for s in run["scores"]} for run in runs]
    rows = []
    for kind, score, words in _LINES:
        labels = (
            sorted({k[2] for one in found for k in one if k[:2] == (kind, score)})
            if score in _BY_LABEL
            else [""]
        )
        for label in labels:
            cells = [one.get((kind, score, label)) for one in found]
            if any(cells):
                rows.append([_words(words, label), *_cells(cells, score)])
    columns = ["score, % ± 95 %", "unedited#", *(f"{_title(run)}#" for run in runs), "n#"]
    _drift(runs, rows)
    rows.append(["cases a second", "", *(f"{run['cases_per_second']:.2f}" for run in runs), ""])
    print_table(columns, rows)


def _words(words: str, label: str) -> str:
    """A line's first column; a label that counts in no score of all labels together stands out."""
    if label in APART:
        return f"{label}: mostly no paraphrases"
    return f"    {label}" if label else words


def _title(run: Mapping[str, Any]) -> str:
    mode = "" if run["mode"] == "all" else f"\n{run['mode']}\n{_WORDS[run['when']]}"
    return f"{run['method']}\n{run['way']}{mode}"


def _cells(cells: Sequence[Mapping[str, Any] | None], score: str) -> list[str]:
    unit = 1 if score.endswith("fluency") else 100
    floor = next((c["floor"] for c in cells if c and c["floor"] is not None), None)
    shown = [
        f"{unit * c['value']:.1f} ±{unit * max(c['high'] - c['value'], c['value'] - c['low']):.1f}"
        if c
        else ""
        for c in cells
    ]
    n = next(c["n"] for c in cells if c)
    return ["" if floor is None else f"{unit * floor:.1f}", *shown, f"{n:,}"]


def _drift(runs: Sequence[Mapping[str, Any]], rows: list[list[str]]) -> None:
    """What else changed, where that was measured."""
    for key, words, form in (
        ("perplexity", "perplexity of running text", "{:.2f}"),
        ("accuracy", "shipped questions answered", "{:.3f}"),
        ("changed", "  their outputs changed", "{:.3f}"),
        ("kl", "KL to the base, next token", "{:.2g}"),
    ):
        found = [run["drift"] for run in runs]
        if any(found):
            base = next((d[f"{key}_base"] for d in found if d and f"{key}_base" in d), None)
            shown = [form.format(d[key]) if d and key in d else "" for d in found]
            rows.append([words, "" if base is None else form.format(base), *shown, ""])


def show_goals(document: Mapping[str, Any]) -> None:
    """How many goals were met, and each miss."""
    goals = document["goals"]
    missed = [goal for goal in goals if not goal["met"]]
    if goals:
        console().print(f"{len(goals) - len(missed)} of {counted(len(goals), 'goal')} met")
    for goal in missed:
        console().print(
            f"missed, {goal['what']}: {100 * goal['value']:.1f} % of {100 * goal['goal']:.1f} %", markup=False
        )


def show_failures(runs: Sequence[Mapping[str, Any]]) -> None:
    """How many cases failed in each run, and the first of them."""
    for run in runs:
        if run["failed"]:
            first = run["failed"][0]
            console().print(
                f"{run['method']} on {run['data']} failed on {counted(len(run['failed']), 'case')}, counted as wrong; "
                f"case {first['case'] or '(none)'}: {first['error']}",
                markup=False,
            )


def _details(runs: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [run["data"], run["method"], run["way"], run["when"], s["kind"], s["label"], s["score"], f"{s['value']:.4f}",
         f"{s['low']:.4f} to {s['high']:.4f}", "" if s["floor"] is None else f"{s['floor']:.4f}", s["n"]]
        for run in runs for s in run["scores"]
    ]  # fmt: skip
    columns = [
        "data",
        "method",
        "way",
        "when",
        "query",
        "label",
        "score",
        "value#",
        "95 % interval",
        "unedited#",
    ]
    print_table([*columns, "n#"], rows)
