"""Charts as data: what is drawn, before anybody decides whether as SVG in a page or as a PNG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "CLASSES",
    "DARK",
    "DASHES",
    "LIGHT",
    "Chart",
    "Series",
    "curve_charts",
    "ranking_charts",
    "reliability_chart",
    "ticks",
]

#: Classes that get a line of their own: no more hues can be told apart by everyone.
CLASSES = 6
#: Okabe and Ito's hues, which the colour-blind can tell apart, made fit for white ground and for dark; and dashes, for
#: those who see no hue at all.
LIGHT = ("#0072b2", "#c04a00", "#00795a", "#a8497f", "#a06a00", "#3a3f9e")
DARK = ("#6cc0f2", "#ff9a5c", "#4fd0a5", "#eb9fc9", "#f0c04e", "#aab0ff")
DASHES = ((), (7, 3), (2, 3), (9, 3, 2, 3), (5, 2, 1, 2, 1, 2), (12, 4))

# Points of a line beyond which a screen shows no more.
_POINTS = 160


@dataclass(frozen=True)
class Series:
    """A line, or points with intervals.

    Attributes
    ----------
    name : str
        For the legend; plain text, possibly a stranger's.
    x, y : sequence or array of float
    hue : int
        Place in the palette; -1 for the colour of text.
    kind : {"line", "points"}
    low, high : sequence of float
        Ends of the intervals of points; empty for none.
    strong : bool
        Whether it is the one to look at.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    hue: int = 0
    kind: str = "line"
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    strong: bool = False


@dataclass(frozen=True)
class Chart:
    """A diagram with two axes.

    Attributes
    ----------
    key : str
        Name of its file.
    title, x_label, y_label : str
    series : list of Series
    x_range, y_range : tuple of float
    x_log : bool
    diagonal : bool
        Whether a line from corner to corner is what everything is compared with.
    mark : float or None
        Where on the x axis something was chosen.
    note : str
        What a reader must know.
    """

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


def ranking_charts(
    proba: np.ndarray, true: np.ndarray, names: Sequence[str], positive: str | None = None
) -> list[Chart]:
    """ROC and precision-recall curves, each class against the rest, and their mean.

    Parameters
    ----------
    proba : ndarray of float, shape (n, k)
    true : ndarray of int, shape (n,)
        Codes; what is no code of a column is a class that the head does not know.
    names : sequence of str, length k
    positive : str, optional
        Of two classes the one that is drawn; the second by default.

    Returns
    -------
    list of Chart
        Empty if no class has both positives and negatives. Of two classes only one is drawn. Of many, the
        mean and the `CLASSES` that most rows have.
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
    """Accuracy against confidence, by bins as `icehouse.heads.reports.calibration.reliability` makes them."""
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
    """What a head tried: epochs of a network, values of C along a path, whatever varies in `curve_`.

    Parameters
    ----------
    curve : sequence of dict
        `Head.curve_`.
    chosen : dict
        `Head.chosen_`, to mark it.

    Returns
    -------
    list of Chart
        One of losses and one of scores; empty if nothing was tried, or only one thing.
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


def ticks(low: float, high: float, log: bool = False, most: int = 6) -> list[tuple[float, str]]:
    """Round values between `low` and `high` with their labels."""
    if log:
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        step = max(1, math.ceil((last - first) / most))
        found = [10.0**e for e in range(first, last + 1, step)]
        return [(v, f"{v:g}") for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
    width = (high - low) / most
    if width <= 0:
        return [(low, f"{low:g}")]
    power = 10.0 ** math.floor(math.log10(width))
    step_size = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= width * (1 - 1e-9))
    start = math.ceil(low / step_size - 1e-9)
    values = [round(i * step_size, 10) for i in range(start, math.floor(high / step_size + 1e-9) + 1)]
    return [(v, f"{v:g}") for v in values]


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
    """What else differs between rows, said of this one."""
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
