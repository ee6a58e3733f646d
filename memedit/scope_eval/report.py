"""The table in Markdown, the figures, and the JSON of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.errors import DataError
from memedit.scope_eval.cases import KINDS, NEAR
from memedit.scope_eval.run import Scored, overall
from memedit.scope_eval.scores import Asked, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (*KINDS[:8], "ripple_found", *KINDS[8:])
TITLES = {
    "own": "own prompt", "other_claim": "other claim", "same_subject": "same subject", "ripple_found": "ripple found",
    "hit_at_1": "hits at 1 %", "hit_at_same": "hits at equal", "calibration_error": "ECE",
}  # fmt: skip
NOTE = (
    "In percent. own prompt, paraphrase, alias, claim: hits, the right edit fired and before all others. neighbour, "
    "same subject, other claim, general, maths: false fires, any edit fired. ripple: an edit fired as if it had been "
    "asked for directly; ripple found: its own edit fired as a ripple. balanced: mean of hits and of 1 - false fires "
    "of near queries (general ones where a set has no near ones). hits at 1 %: at the threshold at which 1 % of the "
    "same out-of-scope queries fire; hits at equal: at the first row's own share of false fires. Judges marked * have "
    "the threshold that is best on these very queries, which flatters them."
)
TOGETHER = ("edits", "judge", "hits", "false fires, near", "general", "balanced", "ECE")
FIGURES = ("precision-recall", "sizes", "reliability")


def percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def columns(scored: Sequence[Scored]) -> list[str]:
    """The scores that occur, in the order of the table."""
    there = {kind for s in scored for kind in s.row["rates"]}
    if not any(s.row["rates"].get("ripple_found") for s in scored):
        there.discard("ripple_found")
    return [c for c in COLUMNS if c in there]


def cells(one: Scored, kinds: Sequence[str]) -> list[str]:
    """A row of the table, without set and size."""
    row = one.row
    shares = [percent(row["rates"].get(kind)) for kind in kinds]
    rest = [percent(row[k]) for k in ("balanced", "auroc", "hit_at_1", "hit_at_same", "calibration_error")]
    return [one.judge + ("" if row["own_threshold"] else " *"), *shares, *rest, f"{one.threshold:.3f}"]


def header(kinds: Sequence[str]) -> list[str]:
    names = [
        "judge",
        *kinds,
        "balanced",
        "AUROC",
        "hit_at_1",
        "hit_at_same",
        "calibration_error",
        "threshold",
    ]
    return [TITLES.get(name, name) for name in names]


def markdown(scored: Sequence[Scored], setting: Mapping[str, Any], goals: Sequence[Mapping[str, Any]]) -> str:
    """The whole report as text."""
    kinds = columns(scored)
    lines = [
        "# Scope scores",
        "",
        *(f"- {key.replace('_', ' ')}: {_said(value)}" for key, value in setting.items()),
        "",
    ]
    if goals:
        lines += ["## Goals", "", _line(["goal", "measured", "limit", "met"]), _line(["---"] * 4)]
        lines += [_line(goal_cells(goal)) for goal in goals]
        lines.append("")
    lines += ["## All sets together, each counting once", "", _line(TOGETHER), _line(["---"] * len(TOGETHER))]
    lines += [_line(row) for row in together(scored)]
    lines += ["", "## Set by set", ""]
    for name in dict.fromkeys(s.set for s in scored):
        of = [s for s in scored if s.set == name]
        queries = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in of[0].row["queries"].items())
        lines += [
            f"### {name}",
            "",
            f"Queries: {queries}.",
            "",
            _line(["edits", *header(kinds)]),
            _line(["---"] * (len(kinds) + 8)),
        ]
        lines += [_line([f"{s.row['edits']:,.0f}", *cells(s, kinds)]) for s in of]
        lines.append("")
    figures = [f"![{name}]({name}.png)" for name in FIGURES]
    return "\n".join([*lines, NOTE, "", *figures, ""])


def goal_cells(goal: Mapping[str, Any]) -> list[str]:
    """A goal in four cells: what, measured, limit, whether it is met."""
    limit = f"{'>=' if goal['at_least'] else '<='} {percent(goal['limit'])}"
    return [goal["claim"], percent(goal["value"]), limit, "yes" if goal["met"] else "**no**"]


def together(scored: Sequence[Scored]) -> list[list[str]]:
    """A row of TOGETHER for each size and judge: means over the sets."""
    out = []
    for row in overall(scored):
        of = [s for s in scored if (s.judge, s.size) == (row["judge"], row["size"])]
        values = (
            _mean(of, "hits"),
            _mean(of, "near"),
            row["rates"].get("general"),
            row["balanced"],
            row.get("calibration_error"),
        )
        out.append([f"{row['size']:,}", row["judge"], *map(percent, values)])
    return out


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def shares(one: Scored) -> dict[str, float]:
    """A set's share of hits, and of false fires near and general."""
    asked = one.asked
    general = np.isin(asked.kind, ("general",))
    fired = asked.score >= one.threshold
    near = np.isin(asked.kind, NEAR)
    out = {"hits": (fired & asked.right)[asked.inside], "near": fired[near], "general": fired[general]}
    return {key: float(values.mean()) if len(values) else math.nan for key, values in out.items()}


def _mean(scored: Sequence[Scored], side: str) -> float:
    values = [v for v in (shares(s)[side] for s in scored) if not math.isnan(v)]
    return sum(values) / len(values) if values else math.nan


def plain_json(value: Any) -> Any:
    """The same without NaN and infinities, which JSON has not: they become null."""
    if isinstance(value, Mapping):
        return {key: plain_json(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- figures


def draw(scored: Sequence[Scored], folder: Path) -> list[Path]:
    """Three figures as PNG and SVG: precision against recall, hits and false fires against size, reliability.

    Raises:
        DataError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("figures need matplotlib: pip install matplotlib, or leave --report out") from None
    matplotlib.rcParams["svg.hashsalt"] = "memedit"  # the same results give the same file
    made: list[Path] = []
    for name, paint in zip(FIGURES, (_precision_recall, _sizes, _reliability), strict=True):
        figure: Figure = Figure(layout="constrained")
        paint(figure, scored)
        for kind, more in (("png", {"dpi": 110}), ("svg", {"metadata": {"Date": None}})):
            made.append(folder / f"{name}.{kind}")
            figure.savefig(made[-1], **more)
    return made


def _judges(scored: Sequence[Scored]) -> list[str]:
    return list(dict.fromkeys(s.judge for s in scored))


def _standard(scored: Sequence[Scored]) -> int:
    """The size that one-size figures are drawn at: 1 000, or the nearest there is."""
    return min({s.size for s in scored}, key=lambda size: abs(math.log(size / 1_000)))


def _precision_recall(figure: Figure, scored: Sequence[Scored]) -> None:
    size = _standard(scored)
    sets = list(dict.fromkeys(s.set for s in scored))
    across = min(5, len(sets))
    down = math.ceil(len(sets) / across)
    figure.set_size_inches(3.1 * across, 2.7 * down + 0.9)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for panel, name in zip(axes.flat, sets, strict=False):
        for i, judge in enumerate(_judges(scored)):
            one = next(s for s in scored if (s.set, s.size, s.judge) == (name, size, judge))
            _pr_line(panel, one, f"C{i}")
        panel.set_title(name, fontsize=10)
        panel.grid(alpha=0.3)
    for panel in list(axes.flat)[len(sets) :]:
        panel.set_axis_off()
    for panel in list(axes.flat)[max(len(sets) - across, 0) : len(sets)]:
        panel.set_xlabel("recall: hits (%)")
    figure.supylabel("precision: right among all that fires (%)")
    figure.suptitle(f"Precision and recall, {size:,} edits in memory (dot: at the threshold used)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _pr_line(panel: Axes, one: Scored, colour: str) -> None:
    points = np.array(one.row["curve"] or [[0.0, 0.0, 0.0]])
    panel.plot(100 * points[:, 0], 100 * points[:, 1], color=colour, label=one.judge)
    asked = one.asked
    fired = (asked.score >= one.threshold) & (asked.kind != "ripple")
    hits = (fired & asked.inside & asked.right).sum()
    if fired.any():
        panel.plot(100 * hits / asked.inside.sum(), 100 * hits / fired.sum(), "o", color=colour)
    panel.set(xlim=(50, 100.7), ylim=(50, 100.7))


def _sizes(figure: Figure, scored: Sequence[Scored]) -> None:
    figure.set_size_inches(13, 4.6)
    sizes = sorted({s.size for s in scored})
    panels = figure.subplots(1, 4)
    for panel, (key, title) in zip(
        panels,
        (
            ("balanced", "balanced"),
            ("hits", "hits"),
            ("near", "false fires, near"),
            ("general", "false fires, general"),
        ),
        strict=True,
    ):
        for i, judge in enumerate(_judges(scored)):
            rows = {n: [s for s in scored if (s.judge, s.size) == (judge, n)] for n in sizes}
            values = [
                _mean(of, key) if key != "balanced" else float(np.nanmean([s.row["balanced"] for s in of]))
                for of in rows.values()
            ]
            panel.plot(sizes, 100 * np.array(values), "o-", color=f"C{i}", label=judge)
        panel.set(xscale="log", xlabel="edits in memory", title=f"{title} (%)")
        panel.grid(alpha=0.3)
    for panel in panels[2:]:
        panel.set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(
        "Against memory size, mean of all sets; baselines with their best threshold at each set and size"
    )


def _reliability(figure: Figure, scored: Sequence[Scored]) -> None:
    own = [s for s in scored if s.row["own_threshold"]]
    sizes = sorted({s.size for s in own})
    figure.set_size_inches(5.4, 5)
    panel = figure.subplots()
    panel.plot([0, 100], [0, 100], color="grey", linewidth=0.8)
    for i, (judge, size) in enumerate((judge, size) for judge in _judges(own) for size in sizes):
        parts = [s.asked for s in own if (s.judge, s.size) == (judge, size)]
        found = np.array(reliability(Asked.joined(parts)) or [(0.0, 0.0, 0)]) if parts else np.zeros((1, 3))
        panel.plot(
            100 * found[:, 0],
            100 * found[:, 1],
            "o-",
            color=f"C{i}",
            markersize=4,
            label=f"{judge}, {size:,} edits",
        )
    panel.set(
        xlabel="probability of the top candidate (%)",
        ylabel="share that was in scope (%)",
        title="Reliability, all sets",
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
