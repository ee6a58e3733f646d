"""Heat maps of what was located, as PNG or SVG by the file's ending."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from memedit.locate.neurons import Neurons
    from memedit.locate.sweep import Swept
    from memedit.locate.tracing import Traced

ENDINGS = (".png", ".svg")
_COLOURS = {"hidden": "Purples", "mlp": "Greens", "attention": "Reds"}
_TITLES = {"hidden": "hidden state", "mlp": "MLP, {} layer{}", "attention": "attention, {} layer{}"}


def check(path: str | Path) -> None:
    """Refuse a picture that can't be drawn, before the work is done.

    Raises:
        DataError: another ending than .png or .svg, or matplotlib is missing.
    """
    from importlib.util import find_spec

    if Path(path).suffix.lower() not in ENDINGS:
        raise DataError(f"{path}: a picture is a .png or an .svg; name such a file")
    if find_spec("matplotlib") is None:
        raise DataError("a picture needs matplotlib: pip install matplotlib, or leave --figure out")


def draw(
    path: str | Path,
    traced: Traced | None,
    neurons: Neurons | None,
    swept: tuple[str, list[Swept]] | None = None,
) -> None:
    """A panel for each kind of state, one for knowledge neurons, one for a sweep; whatever there is.

    Args:
        swept: the method's name, and its layers.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "memedit"  # the same results give the same file
    kinds = list(traced.effects) if traced is not None else []
    widths = [3.4] * len(kinds) + [2.4] * (neurons is not None) + [3.2] * (swept is not None)
    rows = len(traced.labels) if traced is not None else 8
    labels = 0.085 * max((len(label) for label in traced.labels), default=0) if traced is not None else 0.0
    figure: Figure = Figure(
        figsize=(sum(widths) + labels + 0.4, 1.7 + 0.24 * max(rows, 6)), layout="constrained"
    )
    panels = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for i, kind in enumerate(kinds):
        assert traced is not None
        _heat(figure, panels[i], traced, kind, first=i == 0)
    if neurons is not None:
        _bars(panels[len(kinds)], neurons)
    if swept is not None:
        _lines(panels[-1], *swept)
    if traced is not None:
        name = f"{traced.prompt} → {traced.answer}" if traced.answer else f"mean of {traced.prompt}"
        figure.suptitle(
            f"{name}\nprobability: clean {traced.clean:.3g}, subject corrupted {traced.corrupted:.3g}",
            fontsize=10,
        )
    more: dict[str, Any] = (
        {"metadata": {"Date": None}} if str(path).lower().endswith(".svg") else {"dpi": 120}
    )
    target = Path(path)
    beside = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        figure.savefig(beside, **more)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _heat(figure: Figure, panel: Axes, traced: Traced, kind: str, first: bool) -> None:
    effects = traced.effects[kind].T
    top = max(float(effects[effects == effects].max()), 1e-9)
    image = panel.imshow(
        effects, aspect="auto", cmap=_COLOURS[kind], vmin=0, vmax=top, interpolation="nearest"
    )
    panel.set_title(_TITLES[kind].format(traced.window, "" if traced.window == 1 else "s"), fontsize=10)
    panel.set_xlabel("layer restored")
    panel.set_xticks(range(0, effects.shape[1], max(1, effects.shape[1] // 8)))
    panel.set_yticks(range(len(traced.labels)))
    named = bool(traced.answer)
    marks = [
        f"{label.strip() or '␣'}{'*' if named and i in traced.inside else ''}"
        for i, label in enumerate(traced.labels)
    ]
    panel.set_yticklabels(marks if first else [])
    bar = figure.colorbar(image, ax=panel, shrink=0.85)
    bar.ax.tick_params(labelsize=8)
    bar.ax.set_title("effect", fontsize=8)


def _bars(panel: Axes, neurons: Neurons) -> None:
    panel.barh(range(len(neurons.counts)), neurons.counts, color="C0")
    panel.invert_yaxis()
    panel.set_title("knowledge neurons", fontsize=10)
    panel.set(xlabel="how many", ylabel="layer")
    panel.set_yticks(range(0, len(neurons.counts), max(1, len(neurons.counts) // 12)))


def _lines(panel: Axes, name: str, swept: list[Swept]) -> None:
    layers = [one.layer for one in swept]
    for field, label in (("es", "es"), ("gen", "gen"), ("neighbours", "neighbours unchanged")):
        values = [getattr(one, field) for one in swept]
        if any(value is not None for value in values):
            panel.plot(
                layers,
                [float("nan") if v is None else 100 * v for v in values],
                "o-",
                label=label,
                markersize=4,
            )
    panel.set_title(f"edited by {name}", fontsize=10)
    panel.set(xlabel="layer", ylabel="%", ylim=(-4, 104))
    panel.set_xticks(layers if len(layers) <= 12 else layers[:: len(layers) // 8])
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
