"""Figures by matplotlib: what is drawn, as data; the same drawing as SVG for a page and as PNG for slides and papers.

The SVG takes the page's colours, light or dark, from the variables of the style sheet; its title and legend are the
page's.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Classes that get a line of their own: no more hues can be told apart by everyone.
CLASSES = 6
_DASHES = ((), (7, 3), (2, 3), (9, 3, 2, 3), (5, 2, 1, 2, 1, 2), (12, 4))
# Okabe and Ito's hues, which the colour-blind can tell apart, made fit for white ground; in a page each is a variable of
# the style sheet, with another value on dark ground.
_HUES = ("#0072b2", "#c04a00", "#00795a", "#a8497f", "#a06a00", "#3a3f9e")
_INK, _SOFT, _LINE = "#1b242c", "#5b6873", "#dde4ea"
_VARIABLES = {_INK: "ink", _SOFT: "soft", _LINE: "line"} | {hue: f"hue{i}" for i, hue in enumerate(_HUES)}

# Points of a line beyond which a screen shows no more.
_POINTS = 160
# Classes whose names and counts a matrix still has room for.
_NAMED, _COUNTED = 40, 16

_SETTINGS: Any = {
    "text.parse_math": False,  # a label is a stranger's text, and "$" no formula
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "lines.dash_capstyle": "round",
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "grid.color": _LINE,
    "svg.fonttype": "none",  # text stays text
}
_DPI = 130
# Points above the axes.
_TITLE = 18
# What a page does not want of matplotlib's SVG: its style sheet, which would hold for the whole page, identifiers that each
# figure has, fonts, edges at which markers would be cut, and the blanks.
_UNWANTED = re.compile(
    r"<metadata>.*?</metadata>|<defs>\s*<(style|clipPath).*?</defs>|<!--.*?-->"
    r"| id=\"[\w.]+_\d+\"| clip-path=\"[^\"]*\"|font-(size|family): [^;\"]*;? ?|(?<=>)\s+(?=<)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Series:
    """A line, or points with intervals from `low` to `high`; `hue` is a place in the palette, -1 the colour of text."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    hue: int = 0
    kind: str = "line"
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    strong: bool = False

    @property
    def colour(self) -> str:
        """Name of a variable of the style sheet."""
        return "ink" if self.hue < 0 else f"hue{self.hue % len(_HUES)}"

    @property
    def dash(self) -> tuple[int, ...]:
        """Lengths of strokes and gaps in pixels; none for an unbroken line. For those who see no hue."""
        return _DASHES[max(self.hue, 0) % len(_DASHES)]

    @property
    def square(self) -> bool:
        """Whether points are squares and not circles."""
        return self.hue % 2 == 1


@dataclass(frozen=True)
class Chart:
    """A diagram with two axes; `mark` is where on the x axis something was chosen, `diagonal` what all is compared with."""

    key: str
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    x_log: bool = False
    diagonal: bool = False
    mark: float | None = None
    note: str = ""
    legend: Literal["best", "lower right"] = (
        "best"  # a place of matplotlib's, which does not look at intervals
    )

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "title": self.title,
            "x": self.x_label,
            "y": self.y_label,
            "series": [
                {"name": s.name, "x": [float(v) for v in s.x], "y": [float(v) for v in s.y]}
                for s in self.series
            ],
            "mark": self.mark,
        }


class Drawing(NamedTuple):
    """A chart as SVG for a page, which has its own title and legend, and as a whole PNG file."""

    svg: Markup
    png: bytes


def draw(chart: Chart) -> Drawing:
    """Draw a chart."""
    reference: Any = {"color": _SOFT, "linewidth": 1, "linestyle": (0, (3, 4)), "clip_on": False}
    with _figure(chart.key, (6.2, 4.7)) as figure:
        ax = figure.add_axes((0.14, 0.13, 0.82, 0.79))
        ax.set_xlabel(chart.x_label, labelpad=8)
        ax.set_ylabel(chart.y_label)
        ax.yaxis.set_label_coords(-0.125, 0.5)  # as far as a phone's page, with larger ticks, needs
        if chart.x_log:
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(xlim=_wide(chart.x_range), ylim=_wide(chart.y_range))
        ax.grid(visible=True, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(bottom=False, left=False)
        if chart.diagonal:
            ax.plot([0, 1], [0, 1], **reference)
        if chart.mark is not None and chart.x_range[0] <= chart.mark <= chart.x_range[1]:
            ax.axvline(chart.mark, **reference)
            end = ax.transAxes.inverted().transform(ax.transData.transform((chart.mark, 0)))[0] > 0.5
            ax.annotate(
                f"chosen: {chart.mark:g}",
                (chart.mark, 1),
                (-5 if end else 5, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if end else "left",
                va="top",
                color=_SOFT,
            )
        for series in chart.series:
            _plot(ax, series)
        picture = _svg(figure)
        ax.set_title(chart.title, loc="left", fontsize=11, fontweight="bold")
        ax.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=8.5, loc=chart.legend)
        return Drawing(picture, _png(figure))


def confusion_png(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> bytes:
    """Draw a confusion matrix: shares of the true class as shade, counts as numbers."""
    counts = np.asarray(matrix, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(labels)
    side = float(np.clip(2.8 + 0.55 * k, 4.2, 12.0))
    with _figure("confusion", (side, side)) as figure:
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
            ink = "white" if shares[i, j] > 0.55 else _INK
            ax.text(j, i, f"{int(counts[i, j]):,}", ha="center", va="center", color=ink, fontsize=9)
        return _png(figure, bbox_inches="tight", pad_inches=0.15)


def ranking_charts(
    proba: np.ndarray, true: np.ndarray, names: Sequence[str], positive: str | None = None
) -> list[Chart]:
    """ROC and precision-recall curves, each class against the rest, and their mean.

    `proba` is (n, k), `true` holds codes; what is no code of a column is a class that the head does not know. Of two
    classes only `positive`, else the second, is drawn; of many, the mean and the `CLASSES` that most rows have. Empty
    if no class has both positives and negatives.
    """
    n, k = proba.shape
    counts = np.array([(true == c).sum() for c in range(k)])
    defined = [c for c in range(k) if 0 < counts[c] < n]
    if k == 2:
        drawn = names.index(positive) if positive in names else 1
        defined = [c for c in defined if c == drawn]
    if not defined:
        return []
    grid = np.linspace(0, 1, 201)
    shown = sorted(sorted(defined, key=lambda c: -counts[c])[:CLASSES])
    roc, pr = {}, {}
    # Sums over the classes, of which not all curves are held: there may be thousands.
    mean_roc, mean_pr = np.zeros(len(grid)), np.zeros(len(grid))
    for c in defined:
        recall, false, precision = _thresholds(proba[:, c], true == c)
        if c in shown:
            roc[c], pr[c] = (false, recall), (recall, precision)
        mean_roc += np.interp(grid, false, recall) / len(defined)
        # Precision at a recall is the best at any threshold that reaches it: what the macro curve can be averaged over.
        mean_pr += _at_recall(grid, recall, precision) / len(defined)
    lines: dict[str, list[Series]] = {"roc": [], "pr": []}
    for hue, c in enumerate(shown):
        lines["roc"].append(Series(names[c], *_thin(*roc[c]), hue=hue))
        lines["pr"].append(Series(names[c], *_thin(*pr[c]), hue=hue))
    if len(defined) > 1:
        mean_roc[0] = 0.0
        lines["roc"].append(Series("mean of all classes", grid, mean_roc, hue=-1, strong=True))
        lines["pr"].append(Series("mean of all classes", grid, mean_pr, hue=-1, strong=True))
    left = len(defined) - len(shown)
    note = (
        f"The mean is over {len(defined)} classes; the {len(shown)} with most rows are drawn." if left else ""
    )
    return [
        Chart(
            "roc", "ROC", "false positive rate", "true positive rate", lines["roc"], diagonal=True, note=note
        ),
        Chart("precision_recall", "Precision and recall", "recall", "precision", lines["pr"], note=note),
    ]


def reliability_chart(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]] = ()) -> Chart:
    """Accuracy against confidence, by bins as `icehouse.heads.metrics.reliability` makes them."""
    series = []
    for name, bins, hue in (("as the head says", before, 0), ("with the temperature of dev", after, 1)):
        if bins:
            column = {key: [row[key] for row in bins] for key in ("confidence", "accuracy", "low", "high")}
            series.append(
                Series(
                    name,
                    column["confidence"],
                    column["accuracy"],
                    hue=hue,
                    kind="points",
                    low=column["low"],
                    high=column["high"],
                    strong=hue == 0,
                )
            )
    return Chart(
        "reliability",
        "Reliability",
        "confidence: mean probability of the predicted class",
        "accuracy",
        series,
        diagonal=True,
    )


# What a head may try, and what it says of each try; the rest of a row's numbers are its parameters.
_SCORES = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro-F1"}
_AXES = ("epoch", "passes", "C", "stack_C", "k", "beta", "factor")
_PER_SIDE = {"log_loss": "loss", "accuracy": "score", "macro_f1": "score"}


def curve_charts(curve: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> list[Chart]:
    """Losses and scores of what a head tried (`Head.curve_`): epochs of a network, or values of a parameter.

    What was `chosen` (`Head.chosen_`) is marked. Empty if nothing was tried, or only one thing.
    """
    epochs = [row for row in curve if "epoch" in row]
    rows = epochs or [row for row in curve if any(name in row for name in _SCORES)]
    axis = next((name for name in _AXES if len({row.get(name) for row in rows} - {None}) > 1), None)
    if axis is None:
        return []
    rows = [row for row in rows if isinstance(row.get(axis), (int, float))]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault("" if epochs else _setting(row, axis, rows), []).append(row)
    best: Any = chosen.get("stop" if epochs else axis)
    values = [float(row[axis]) for row in rows]
    log = min(values) > 0 and max(values) / min(values) > 50
    note = ""
    if len(groups) > CLASSES // 2:
        note = f"Of {len(groups)} settings, the one with the least log loss at each {axis}."
        groups = {"": _envelope(rows, axis)}
    charts = []
    for kind, key in (("loss", "curve_loss"), ("score", "curve_score")):
        series: list[Series] = []
        for number, (setting, held) in enumerate(groups.items()):
            held = sorted(held, key=lambda row: float(row[axis]))
            lines = {name: f"{title} on dev" for name, title in _SCORES.items() if _PER_SIDE[name] == kind}
            if kind == "loss":
                lines = {"loss": "loss on train", **lines} if epochs else lines
            for place, (name, title) in enumerate(lines.items()):
                points = [(float(row[axis]), float(row[name])) for row in held if _number(row.get(name))]
                if points:
                    x, y = zip(*points, strict=True)
                    hue = number * (2 if kind == "score" or epochs else 1) + place
                    series.append(Series(f"{title}{setting}", x, y, hue=hue, strong=name != "loss"))
        if series:
            everything = np.concatenate([np.asarray(s.y, np.float64) for s in series])
            margin = 0.06 * max(float(np.ptp(everything)), 1e-3)
            low, high = float(everything.min()) - margin, float(everything.max()) + margin
            title = "Learning curve" if epochs else f"Choice of {axis}"
            label = "log loss" if kind == "loss" else "score on dev"
            charts.append(
                Chart(
                    key,
                    f"{title}: {label}",
                    axis,
                    label,
                    series,
                    x_range=(min(values), max(values)),
                    y_range=(max(low, 0.0), high if kind == "loss" else min(high, 1.0)),
                    x_log=log,
                    mark=float(best) if _number(best) else None,
                    note=note,
                )
            )
    return charts


def _thresholds(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, false positive rate and precision at each distinct threshold, from the highest, with the corner before it."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(positive[order])[ends].astype(np.float64)
    false = np.cumsum(~positive[order])[ends].astype(np.float64)
    precision = hits / (hits + false)
    return (
        np.append(0.0, hits / hits[-1]),
        np.append(0.0, false / false[-1]),
        np.append(precision[0], precision),
    )


def _at_recall(grid: np.ndarray, recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return best[np.searchsorted(recall, grid, side="left").clip(max=len(recall) - 1)]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= _POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, _POINTS).astype(int))
    return x[kept], y[kept]


def _setting(row: dict[str, Any], axis: str, rows: Sequence[dict[str, Any]]) -> str:
    """Description of a row by the settings that differ between rows."""
    told = []
    for name, value in row.items():
        if name in (axis, "iterations", "rounds", "loss", *_SCORES) or not isinstance(
            value, (int, float, str)
        ):
            continue
        if len({str(other.get(name)) for other in rows}) > 1:
            told.append(f"{name} {str(value).lower() if isinstance(value, bool) else value}")
    return f", {', '.join(told)}" if told else ""


def _envelope(rows: Sequence[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """The best row at each value of the axis."""
    best: dict[float, dict[str, Any]] = {}
    for row in rows:
        at = float(row[axis])
        if at not in best or row.get("log_loss", 0.0) < best[at].get("log_loss", 0.0):
            best[at] = row
    return list(best.values())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def _figure(key: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure to draw into, alike whenever it is drawn; `key` tells its SVG's identifiers from others in the page."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS | {"svg.hashsalt": key}), warnings.catch_warnings():
        # A script that the font has not is drawn as boxes; the page, which has the browser's fonts, shows it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        figure = Figure(figsize=size, dpi=_DPI)
        FigureCanvasAgg(figure)
        yield figure


def _png(figure: Figure, **how: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": "icehouse"}, **how)
    return file.getvalue()


def _svg(figure: Figure) -> Markup:
    """An SVG element with the variables of the page's style sheet for colours, and the page's font."""
    from markupsafe import Markup

    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub("<[^>]*>", _tag, _UNWANTED.sub("", text)).strip()
    width, height = 72 * figure.get_size_inches()
    # Of our own words and numbers alone. Without the place of the title.
    view = f"0 {_TITLE} {width:.1f} {height - _TITLE:.1f}"
    return Markup(f'<svg class="plot" viewBox="{view}" aria-hidden="true">{text}')


def _tag(match: re.Match[str]) -> str:
    tag = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", match[0])
    for colour, name in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag.replace("xlink:href", "href").replace(" \n", " ").replace("\n", " ")


def _plot(ax: Axes, series: Series) -> None:
    colour = _INK if series.hue < 0 else _HUES[series.hue % len(_HUES)]
    how: Any = {
        "color": colour,
        "linestyle": (0, tuple(length / 2 for length in series.dash)) if series.dash else "-",
        "linewidth": 2.4 if series.strong else 1.5,
        "label": _plain(series.name, 40),
        "clip_on": False,
    }
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    if series.kind == "points":
        how |= {"linewidth": 1.4, "marker": "s" if series.square else "o"}
        if len(series.low):
            ax.vlines(x, series.low, series.high, colors=colour, linewidth=1.4, alpha=0.65, clip_on=False)
    ax.plot(x, y, **how)


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
