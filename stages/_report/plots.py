"""Figures as SVG text inside the page, in the page's own colours.

Matplotlib draws with placeholder colours, which become CSS variables, so one drawing serves light, dark and print.
Each figure is drawn twice, wide and narrow; the style sheet shows the one that fits.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLORS = {
    "ink": "#010101", "muted": "#020202", "rule": "#030303", "paper": "#040404",
    "series-1": "#110101", "series-2": "#110202", "series-3": "#110303", "series-4": "#110404",
    "series-5": "#110505", "series-6": "#110606",
}  # fmt: skip
"""CSS variable -> the placeholder that stands for it while matplotlib draws."""

STYLE = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left",
    "axes.edgecolor": COLORS["muted"], "axes.labelcolor": COLORS["muted"], "axes.titlecolor": COLORS["ink"],
    "xtick.color": COLORS["muted"], "ytick.color": COLORS["muted"], "text.color": COLORS["ink"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": COLORS["rule"], "grid.linewidth": 0.6,
    "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False, "axes.axisbelow": True,
}  # fmt: skip

SMOOTHED_FROM = 40
"""Curves with this many points get a running mean beside the raw values."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """A training run: the rows of its metrics.jsonl, and (step, loss) wherever it measured validation loss."""

    rows: Rows
    validation: Sequence[tuple[int, float]] = ()


def training_figure(curves: Mapping[str, Curve]) -> Markup:
    """Loss and learning rate over steps, one line a training run, validation losses as rings."""

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for index, (name, curve) in enumerate(curves.items()):
            _plot_loss(top, name, curve.rows, _series(index))
            _plot_rings(top, curve.validation, _series(index))
            _plot(bottom, curve.rows, "learning_rate", color=_series(index), linewidth=1.4)
        measured = any(curve.validation for curve in curves.values())
        top.set_title("training loss (line) and validation loss (rings)" if measured else "training loss")
        bottom.set_title("learning rate")
        bottom.set_xlabel("step")
        bottom.set_ylim(bottom=0)
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1:
            top.legend()

    return _responsive("training", paint, height=3.6)


def strip_figure(name: str, values: Mapping[str, Sequence[float]], label: str) -> Markup:
    """One dot a matrix, one row a group. `values`: group ("q_proj") -> values of its matrices, in layer order."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, points in enumerate(values.values()):
            axes.plot(points, [row] * len(points), "o", markersize=4.5, alpha=0.45, color=_series(0), markeredgewidth=0)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))

    return _responsive(name, paint, height=0.75 + 0.24 * len(values))


def _series(index: int) -> str:
    return COLORS[f"series-{index % 6 + 1}"]


def _plot_loss(axes: Axes, name: str, rows: Rows, color: str) -> None:
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    if len(losses) < SMOOTHED_FROM:
        _plot(axes, rows, "loss", color=color, linewidth=1.6, label=name)
        return
    _plot(axes, rows, "loss", color=color, linewidth=0.8, alpha=0.35)
    steps = [row["step"] for row in rows if row.get("loss") is not None]
    axes.plot(steps, _running_mean(losses, len(losses) // 20), color=color, linewidth=1.8, label=name)


def _plot_rings(axes: Axes, points: Sequence[tuple[int, float]], color: str) -> None:
    x, y = [x for x, _ in points], [y for _, y in points]
    axes.plot(x, y, "o", markersize=6, color=color, markerfacecolor="none", markeredgewidth=1.4)


def _plot(axes: Axes, rows: Rows, key: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    axes.plot([x for x, _ in points], [y for _, y in points], **style)


def _running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean over the neighbours up to `reach` away on both sides, fewer at the ends."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _responsive(name: str, paint: Callable[[Figure], None], height: float) -> Markup:
    drawings = [_svg(f"{name}-{kind}", paint, width, height, kind) for kind, width in (("wide", 7.6), ("narrow", 3.7))]
    return Markup("").join(drawings)


def _svg(name: str, paint: Callable[[Figure], None], width: float, height: float, kind: str) -> Markup:
    """One drawing of width x height inches. The salt makes its ids its own and equal from run to run."""
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(_themed(buffer.getvalue(), kind))


def _themed(svg: str, kind: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', f'class="plot {kind}" ', svg, count=1)
    for variable, placeholder in COLORS.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return svg
