"""The points of `memedit bench drift` as a table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.errors import DataError

if TYPE_CHECKING:
    from memedit.bench.drift import Point

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # told apart by colour-blind readers, too
_PANELS = (
    ("es", "edit success, %", 100.0),
    ("neighbours", "neighbours unchanged, %", 100.0),
    ("perplexity", "perplexity of running text", 1.0),
    ("accuracy", "right answers to other questions, %", 100.0),
)
_STYLE = {"merged": ("-", "o"), "routed": ("--", "s")}


def table(points: Sequence[Point], standard: str, sample: int) -> str:
    """A Markdown table, a row for each point."""
    lines = [
        f"Sequential edits; up to {sample} of those made are asked about, evenly from first to last; {standard}; greedy.",
        "",
        "| method | | edits | es | gen | neighbours | perplexity | right answers | refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for p in sorted(points, key=lambda p: (p.how != "base", p.method, p.how, p.edits)):
        shares = [_percent(value) for value in (p.es, p.gen, p.neighbours)]
        cells = [
            p.method or "(base)",
            p.how if p.method else "",
            f"{p.edits:,}",
            *shares,
            _number(p.perplexity),
        ]
        lines.append("| " + " | ".join([*cells, _percent(p.accuracy), str(p.refused or "")]) + " |")
    return "\n".join(lines) + "\n"


def write_figures(points: Sequence[Point], folder: Path) -> None:
    """drift.png and drift.svg: four panels over the number of edits; merged solid, routed dashed, the base dotted.

    Raises:
        DataError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            "the points are kept; figures need matplotlib: pip install matplotlib, then run this again"
        ) from error
    matplotlib.rcParams["svg.hashsalt"] = "memedit"  # the same results give the same file
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    names = list(dict.fromkeys(p.method for p in points if p.method))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    base = next((p for p in points if p.how == "base"), None)
    axes = figure.subplots(2, 2).flatten()
    for ax, (score, label, scale) in zip(axes, _PANELS, strict=True):
        for name in names:
            for how, (line, mark) in _STYLE.items():
                own = sorted((p for p in points if (p.method, p.how) == (name, how)), key=lambda p: p.edits)
                pairs = [(p.edits, scale * value) for p in own if (value := getattr(p, score)) is not None]
                if pairs:
                    x, y = zip(*pairs, strict=True)
                    ax.plot(
                        x,
                        y,
                        line,
                        marker=mark,
                        ms=4,
                        lw=1.6,
                        color=colours[name],
                        alpha=0.9,
                        label=f"{name}, {how}",
                    )
        start = (
            scale * getattr(base, score) if base is not None and getattr(base, score) is not None else None
        )
        _dress(ax, score, label, start, sorted({p.edits for p in points if p.method}))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(5, max(1, len(names))), frameon=False
    )
    for kind in ("png", "svg"):
        about: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(folder / f"drift.{kind}", dpi=150, metadata=about)


def _dress(ax: Any, score: str, label: str, base: float | None, counts: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    ax.set_xscale("log")
    ax.set_xticks(counts, [f"{n:,}" for n in counts])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("sequential edits")
    ax.set_ylabel(label)
    if score == "perplexity":
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if value < 1e5 else f"{value:.0e}")
        ax.yaxis.set_major_formatter(plain)
        ax.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
    else:
        ax.set_ylim(-3, 106)
    if base is not None:
        ax.axhline(base, color="0.4", lw=1, ls=":")
        ax.annotate(
            "base",
            (0.99, base),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color="0.4",
            fontsize=8,
        )
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


def _number(value: float) -> str:
    if value < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
