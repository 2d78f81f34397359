"""The same charts as PNG files, for slides and papers: white ground, labelled axes, colours for the colour-blind too."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .charts import DASHES, LIGHT, Chart, Series, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["write_chart", "write_matrix"]

_DPI = 130
# Classes whose names and counts a matrix still has room for.
_NAMED, _COUNTED = 40, 16
# Without the mathematics of labels: a label is a stranger's text, and "$" no formula.
_SETTINGS: Any = {
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6873",
    "axes.labelcolor": "#1b242c",
    "xtick.color": "#5b6873",
    "ytick.color": "#5b6873",
    "grid.color": "#dde4ea",
}


def write_chart(path: Path, chart: Chart) -> Path:
    """Draw a chart into a PNG file."""

    def draw(figure: Figure) -> None:
        ax = figure.add_axes((0.12, 0.13, 0.84, 0.79))
        ax.grid(visible=True, linewidth=0.8)
        ax.set_axisbelow(True)
        if chart.diagonal:
            ax.plot([0, 1], [0, 1], color="#5b6873", linewidth=1, linestyle=(0, (3, 4)))
        if chart.mark is not None:
            ax.axvline(chart.mark, color="#5b6873", linewidth=1, linestyle=(0, (3, 4)))
        for series in chart.series:
            _draw(ax, series)
        if chart.x_log:
            ax.set_xscale("log")
            places = ticks(*chart.x_range, log=True)
            ax.set_xticks([value for value, _ in places], [name for _, name in places])
            ax.minorticks_off()
        ax.set(
            xlabel=chart.x_label, ylabel=chart.y_label, xlim=_wide(chart.x_range), ylim=_wide(chart.y_range)
        )
        ax.set_title(chart.title, loc="left", fontsize=11, fontweight="bold")
        ax.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=8.5, loc="best")

    return _write(path, (6.2, 4.7), draw)


def write_matrix(path: Path, labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Path:
    """Draw a confusion matrix into a PNG file: shares of the true class as shade, counts as numbers."""
    counts = np.asarray(matrix, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(labels)
    side = float(np.clip(2.8 + 0.55 * k, 4.2, 12.0))

    def draw(figure: Figure) -> None:
        ax = figure.add_axes((0.27, 0.06, 0.69, 0.69))
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [_plain(label, 22) for label in labels] if k <= _NAMED else []
        ax.set_xticks(
            np.arange(len(names)), names, rotation=40 if k > 3 else 0, ha="left" if k > 3 else "center"
        )
        ax.set_yticks(np.arange(len(names)), names)
        ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        ax.spines[:].set_visible(False)
        ax.set(xlabel="predicted", ylabel="true")
        ax.xaxis.set_label_position("top")
        for i, j in np.argwhere(counts > 0) if k <= _COUNTED else ():
            ink = "white" if shares[i, j] > 0.55 else "#1b242c"
            ax.text(j, i, f"{int(counts[i, j]):,}", ha="center", va="center", color=ink, fontsize=9)

    return _write(path, (side, side), draw, bbox_inches="tight", pad_inches=0.15)


def _write(path: Path, size: tuple[float, float], draw: Any, **how: Any) -> Path:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # A script that the font has not is drawn as boxes; the page, which has the browser's fonts, shows it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        figure = Figure(figsize=size, dpi=_DPI)
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(path, format="png", metadata={"Software": "icehouse"}, **how)
    return path


def _draw(ax: Axes, series: Series) -> None:
    colour = "#1b242c" if series.hue < 0 else LIGHT[series.hue % len(LIGHT)]
    dash = DASHES[max(series.hue, 0) % len(DASHES)]
    style: Any = (0, tuple(d / 2 for d in dash)) if dash and series.hue >= 0 else "-"
    name, width = _plain(series.name, 40), 2.4 if series.strong else 1.5
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    if series.kind == "line":
        ax.plot(x, y, color=colour, linestyle=style, linewidth=width, label=name)
        return
    spans = (
        [np.maximum(y - series.low, 0), np.maximum(np.asarray(series.high) - y, 0)]
        if len(series.low)
        else None
    )
    marker = "s" if series.hue % 2 else "o"
    ax.errorbar(
        x, y, yerr=spans, color=colour, linestyle=style, marker=marker, linewidth=1.4, capsize=2, label=name
    )


def _plain(text: str, limit: int) -> str:
    """A label in one line, cut; matplotlib leaves names that begin with "_" out of legends."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return " " + text if text.startswith("_") else text


def _wide(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if (low, high) == (0.0, 1.0):
        return -0.01, 1.01
    return (low, high) if high > low else (low - 0.5, high + 0.5)
