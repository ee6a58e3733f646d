"""The figures of what editing costs: drift of everything else, and where the time went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from memedit.report.figures import COLOURS, INK, Point, bare, line_legend, lines, series
from memedit.report.picking import data_sets, label, reference
from memedit.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 14
_DRIFT = (
    ("perplexity", "Perplexity of running text", 1.0),
    ("accuracy", "Right answers to other questions, %", 100.0),
    ("kl", "KL to the base", 1.0),
)


def drift(figure: Figure, runs: Sequence[Run]) -> bool:
    seen = [run for run in runs if run.drift and not reference(run.method)]
    panels = [p for p in _DRIFT if any(p[0] in run.drift for run in seen)]
    if not panels:
        return False
    most = max(data_sets(seen), key=lambda name: len(series([r for r in seen if r.data == name])))
    of = series([r for r in seen if r.data == most])
    figure.set_size_inches(3.3 * len(panels) + 0.6, 3.5 if of else 0.27 * min(len(seen), _MOST_BARS) + 1.2)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=not of)[0]
    names = list(dict.fromkeys(name for name, _ in of))
    shown_runs = _last(seen)[:_MOST_BARS]
    for ax, (key, title, times) in zip(axes, panels, strict=True):
        ax.set_title(title)
        if of:
            lines(ax, of, names, partial(_level, key=key, times=times))
            ax.set_xlabel("edits when measured")
        else:
            for y, run in enumerate(shown_runs):
                colour = COLOURS[1] if run.way == "merged" else COLOURS[0]
                ax.barh(y, times * run.drift.get(key, 0.0), height=0.62, color=colour, alpha=0.85, lw=0)
            ax.grid(axis="x", alpha=0.5, lw=0.6)
            bare(ax)
        _base_line(
            ax, [run.drift[f"{key}_base"] * times for run in seen if f"{key}_base" in run.drift], bool(of)
        )
        values = [run.drift[key] for run in seen if key in run.drift]
        if key == "perplexity" and min(values) > 0 and max(values) > 20 * min(values):
            _log_values(ax, bool(of))
    if of:
        figure.suptitle(most, fontweight="bold", fontsize=10)
        line_legend(figure, names, any(when == "after-each" for _, when in of))
    else:
        axes[0].set_yticks(
            range(len(shown_runs)), [f"{r.method}, {r.way}: {r.data}, {r.edits:,}" for r in shown_runs]
        )
        axes[0].invert_yaxis()
    return True


def _log_values(ax: Axes, upright: bool) -> None:
    """A logarithmic axis of values with plain numbers at it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = ax.yaxis if upright else ax.xaxis
    (ax.set_yscale if upright else ax.set_xscale)("log")
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if 1 <= value < 1e5 else f"{value:.0e}")
    )
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,), numticks=8))
    axis.set_minor_locator(NullLocator())


def _level(run: Run, key: str, times: float) -> Point | None:
    return (times * run.drift[key], None, None) if key in run.drift else None


def _last(runs: Sequence[Run]) -> list[Run]:
    """For each data set, method and way the measurement with the most edits, after all of them."""
    best: dict[tuple[str, str, str], Run] = {}
    for run in sorted(runs, key=lambda r: (r.when != "after-each", r.edits)):
        best[run.key] = run
    return list(best.values())


def _base_line(ax: Axes, values: Sequence[float], flat: bool) -> None:
    if values:
        (ax.axhline if flat else ax.axvline)(values[0], color=INK, lw=1.1, ls=":")


_PHASES = ("adding", "preparing", "routing", "generating", "scoring", "base")  # base: the floor's answers


def time(figure: Figure, runs: Sequence[Run]) -> bool:
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for run in runs:
        for phase, seconds in run.seconds.items():
            if seconds > 0:
                known = phase if phase in _PHASES else "other"
                spent[label(run, runs)][known] += seconds
    if not spent:
        return False
    names = sorted(spent, key=lambda name: -sum(spent[name].values()))[:_MOST_BARS]
    phases = [p for p in _PHASES if any(p in spent[name] for name in names)]
    phases += ["other"] if any("other" in spent[name] for name in names) else []
    figure.set_size_inches(9, 0.3 * len(names) + 1.3)
    ax = figure.subplots()
    start = [0.0] * len(names)
    for i, phase in enumerate(phases):
        widths = [spent[name].get(phase, 0.0) for name in names]
        ax.barh(
            range(len(names)),
            widths,
            left=start,
            height=0.62,
            color=(*COLOURS, "#999999")[i],
            alpha=0.9,
            lw=0,
            label=phase,
        )
        start = [a + b for a, b in zip(start, widths, strict=True)]
    for y, total in enumerate(start):
        ax.annotate(
            f" {total:,.0f} s" if total >= 10 else f" {total:.1f} s", (total, y), va="center", fontsize=8
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1 * max(start))
    ax.set_xlabel("seconds")
    ax.grid(axis="x", alpha=0.5, lw=0.6)
    bare(ax)
    figure.legend(loc="outside lower center", ncols=len(phases), frameon=False)
    return True
