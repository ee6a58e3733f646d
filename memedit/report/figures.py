"""The figures of a run: scores per method, against the number of edits, drift, and where the time went."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from memedit.errors import DataError
from memedit.report.picking import (
    COLUMNS,
    Column,
    column,
    data_sets,
    flattering,
    label,
    reference,
    taken,
    truest,
    usual,
)
from memedit.report.reading import Run
from memedit.report.suites import low, panels
from memedit.report.units import is_share, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by colour-blind readers, too. On a page they, the ink and the grid become variables of its style sheet.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, GRID = "#222222", "#bbbbbb"
_WAYS = {
    "routed": COLOURS[0],
    "merged": COLOURS[1],
}  # else (oracle, or a fact stated in a chat) it was handed over
_MOST_SETS, _MOST_METHODS, _MOST_LINES = 6, 20, 6


class Drawn(NamedTuple):
    """A figure as the bytes of its PNG and SVG files."""

    png: bytes
    svg: bytes


def draw(runs: Sequence[Run]) -> dict[str, Drawn]:
    """The figures that the runs have numbers for, by name: scores, sizes, drift, time.

    Raises:
        DataError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("the figures of a report need matplotlib: pip install matplotlib") from None
    from memedit.report.cost_figures import drift, time

    paints: dict[str, Callable[[Figure, Sequence[Run]], bool]] = {
        "scores": _scores, "sizes": _sizes, "drift": drift, "time": time,
    }  # fmt: skip
    ink = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    style: dict[Any, Any] = {
        "svg.hashsalt": "memedit",
        "font.size": 9,
        "axes.titlesize": 10,
        "grid.color": GRID,
        **ink,
    }
    out = {}
    with matplotlib.rc_context(style):  # the same run gives the same files
        for name, paint in paints.items():
            figure = Figure(layout="constrained")
            if paint(figure, runs):
                out[name] = _saved(figure)
    return out


def _saved(figure: Figure) -> Drawn:
    import matplotlib

    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):  # letters stay letters
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Drawn(png.getvalue(), svg.getvalue())


def inline(svg: bytes, name: str, caption: str) -> str:
    """An SVG file for the middle of a page: no preamble or metadata, ids of its own, colours from the style sheet."""
    from html import escape

    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    for i, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{i})")
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    # SVG's attributes know no variables, its style does
    text = re.sub(r'(?<![\w-])(fill|stroke)="(var\([^"]+\))"', r'style="\1: \2"', text)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    wide = f' style="max-width: {float(size[1]) * 4 / 3:.0f}px"' if size else ""
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"{wide}', 1).strip()


def bare(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)


# --- scores of each method -------------------------------------------------------------------------------------


def _scores(figure: Figure, runs: Sequence[Run]) -> bool:
    best = truest(runs)
    sets = [
        name
        for name in data_sets(best)
        if any(r.data == name and taken(r, p) for r in best for p in panels(r))
    ]
    sets = sets[:_MOST_SETS]
    if not sets:
        return False
    rows = {name: _readable([r for r in best if r.data == name and r.method != "none"]) for name in sets}
    rows = {name: of for name, of in rows.items() if of}
    if not rows:
        return False
    heights = [len(of) + 1.6 for of in rows.values()]
    figure.set_size_inches(10, 0.27 * sum(heights) + 0.9)
    axes = figure.subplots(len(rows), 3, squeeze=False, sharey="row", height_ratios=heights)
    above: list[str] = []
    for across, (name, of) in zip(axes, rows.items(), strict=True):
        three = panels(of[0])
        titles = [f"{one.title if one in COLUMNS else one.name}, %{low(one)}" for one in three]
        for ax, panel, title in zip(across, three, titles, strict=True):
            _score_panel(ax, of, runs, panel)
            if titles != above:
                ax.set_title(title, loc="right")
        across[0].set_yticks(range(len(of)), [label(run, best) for run in of])
        across[0].set_ylim(len(of) - 0.4, -0.6)
        across[0].set_title(name, loc="left", fontweight="bold")
        above = titles
    handles, names = _legend()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return True


def _readable(runs: list[Run]) -> list[Run]:
    """Not more than fit: references (oracle) go first where there are too many."""
    keep = sorted(runs, key=lambda run: reference(run.method))[:_MOST_METHODS]
    return [run for run in runs if run in keep]


def _score_panel(ax: Axes, of: Sequence[Run], runs: Sequence[Run], what: Column) -> None:
    there = {taken(run, what) for run in of} - {None}
    some = False
    for y, run in enumerate(of):
        score = taken(run, what)
        if score is None or not is_share(score.score):
            continue
        some = True
        if what in COLUMNS and not usual(what, score):
            ax.text(103, y - 0.36, score.score, ha="right", va="bottom", fontsize=6.5)
        colour = "#999999" if reference(run.method) else _WAYS.get(run.way, "#999999")
        ax.barh(y, 100 * score.value, height=0.62, color=colour, alpha=0.85, lw=0)
        if score.low is not None and score.high is not None:
            ax.plot([100 * score.low, 100 * score.high], [y, y], color=INK, lw=1.2, solid_capstyle="butt")
        if score.floor is not None:
            ax.plot([100 * score.floor] * 2, [y - 0.38, y + 0.38], color=INK, lw=2.2, solid_capstyle="butt")
        kind = [f.score.value for f in flattering(run, runs, what)]
        if kind and max(kind) > score.value:
            ax.plot(100 * max(kind), y, "D", mfc="none", mec=INK, ms=5)
    ax.set_xlim(0, 104)
    ax.grid(axis="x", alpha=0.5, lw=0.6)
    bare(ax)
    if not some:
        why = "no share: see the table" if there else "not asked here"
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="#888888")


def _legend() -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    parts = {
        "routed": Patch(color=COLOURS[0], alpha=0.85), "merged": Patch(color=COLOURS[1], alpha=0.85),
        "right edit handed over": Patch(color="#999999", alpha=0.85), "95 % interval": Line2D([], [], color=INK, lw=1.2),
        "unedited base": Line2D([], [], color=INK, lw=0, marker="|", ms=9, mew=2.2),
        "most flattering": Line2D([], [], color=INK, lw=0, marker="D", mfc="none", ms=5),
    }  # fmt: skip
    return list(parts.values()), list(parts)


# --- against the number of edits -------------------------------------------------------------------------------

Series = dict[tuple[str, str], list[Run]]  # (method and way, when) -> runs by number of edits


def series(runs: Sequence[Run]) -> Series:
    """Runs of a method and way by number of edits: those seen at two sizes or more, the most sizes first, six at most."""
    by: Series = defaultdict(list)
    for run in runs:
        if run.mode != "single" and run.method != "none" and run.edits:
            by[f"{run.method}, {run.way}" if not reference(run.method) else run.method, run.when].append(run)
    long = {
        key: sorted(of, key=lambda r: r.edits) for key, of in by.items() if len({r.edits for r in of}) > 1
    }
    names = list(dict.fromkeys(name for name, _ in sorted(long, key=lambda key: -len(long[key]))))[
        :_MOST_LINES
    ]
    return {key: of for key, of in long.items() if key[0] in names}


def _sizes(figure: Figure, runs: Sequence[Run]) -> bool:
    kinds = ("success", "generalisation", "portability", "locality")
    by_set = {name: series([r for r in runs if r.data == name and r.scores]) for name in data_sets(runs)}  # type: ignore[misc]
    by_set = dict([(name, of) for name, of in by_set.items() if of][:3])
    if not by_set:
        return False
    used = [
        p
        for p in kinds
        if any(taken(r, column(p)) for of in by_set.values() for rs in of.values() for r in rs)
    ]
    figure.set_size_inches(2.9 * len(used) + 0.6, 2.5 * len(by_set) + 0.9)
    axes = figure.subplots(len(by_set), len(used), squeeze=False, sharex="row")
    names = list(dict.fromkeys(name for of in by_set.values() for name, _ in of))[:_MOST_LINES]
    for across, (data, of) in zip(axes, by_set.items(), strict=True):
        for ax, panel in zip(across, used, strict=True):
            lines(ax, of, names, partial(_point, panel=panel))
            ax.set_ylim(-3, 104)
            if ax in axes[0]:
                ax.set_title(f"{column(panel).title}, %")
        across[0].set_ylabel(data, fontweight="bold")
    for ax in axes[-1]:
        ax.set_xlabel("edits when scored")
    line_legend(figure, names, any(when == "after-each" for of in by_set.values() for _, when in of))
    return True


Point = tuple[float, float | None, float | None]


def _point(run: Run, panel: str) -> Point | None:
    """A run's score in a panel with its interval, in percent."""
    score = taken(run, column(panel))
    if score is None or not is_share(score.score):
        return None
    times = scale(score.score)
    low, high = (None if v is None else times * v for v in (score.low, score.high))
    return times * score.value, low, high


def lines(ax: Axes, of: Series, names: Sequence[str], point: Callable[[Run], Point | None]) -> None:
    marks = "os^Dvp"
    sizes = set()
    for (name, when), runs in of.items():
        found = [(run.edits, p) for run in runs if (p := point(run))]
        if name not in names or not found:
            continue
        i = names.index(name)
        x, y = [n for n, _ in found], [p[0] for _, p in found]
        sizes |= set(x)
        dashed = when == "after-each"
        ax.plot(
            x,
            y,
            "--" if dashed else "-",
            marker=marks[i],
            ms=4,
            lw=1.5,
            color=COLOURS[i],
            mfc="none" if dashed else None,
        )
        bands = [(n, p[1], p[2]) for n, p in found if p[1] is not None and p[2] is not None]
        if bands and not dashed:
            at, low, high = zip(*bands, strict=True)
            ax.fill_between(at, low, high, color=COLOURS[i], alpha=0.15, lw=0)
    _log_sizes(ax, sorted(sizes))
    ax.grid(alpha=0.5, lw=0.6)
    bare(ax)


def _log_sizes(ax: Axes, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    apart: list[int] = []
    for n in sizes:  # a label needs room: none within a factor of three of the last
        if not apart or n >= 3 * apart[-1]:
            apart.append(n)
    ax.set_xticks(apart, [f"{n:,}" for n in apart])
    ax.xaxis.set_minor_locator(NullLocator())


def line_legend(figure: Figure, names: Sequence[str], dashed: bool) -> None:
    from matplotlib.lines import Line2D

    marks = "os^Dvp"
    handles = [Line2D([], [], color=COLOURS[i], marker=marks[i], ms=4, lw=1.5) for i in range(len(names))]
    texts = list(names)
    if dashed:
        handles.append(Line2D([], [], color=INK, ls="--", lw=1.2))
        texts.append("scored right after each")
    figure.legend(handles, texts, loc="outside lower center", ncols=min(4, len(texts)), frameon=False)
