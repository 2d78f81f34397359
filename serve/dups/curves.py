"""ROC and precision-recall curves of a calibration, as numbers and as pictures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...web.figures import Chart, Series, draw

__all__ = ["Curves", "write_curves"]

_POINTS = 400


@dataclass(frozen=True)
class Curves:
    """Recall and false pairs at each of some cosines, ascending; all arrays have the shape (m,).

    Attributes
    ----------
    cosine : ndarray
    recall : ndarray
        Of the changed copies.
    false_rate : ndarray
        Share of the unrelated pairs.
    false_pairs : ndarray
        To be expected among all pairs of the set.
    precision : ndarray
        If the set held as many true pairs as there were copies.
    chosen : float
        The threshold.
    """

    cosine: np.ndarray
    recall: np.ndarray
    false_rate: np.ndarray
    false_pairs: np.ndarray
    precision: np.ndarray
    chosen: float

    @classmethod
    def of(
        cls, positives: np.ndarray, top: np.ndarray, random: np.ndarray, pairs: int, n: int, chosen: float
    ) -> Curves:
        """Count, at cosines from the least to the largest seen.

        Parameters
        ----------
        positives : ndarray
            Cosines of copies with their contents.
        top : ndarray
            The largest cosines of `pairs` unrelated pairs.
        random : ndarray
            Cosines of random pairs, for what lies below these.
        pairs, n : int
            Pairs judged; contents of the set.
        chosen : float
        """
        low = float(min(positives.min(), np.quantile(random, 0.01)))
        cosine = np.unique(np.append(np.linspace(low, 1.0, _POINTS), chosen))
        recall = _share(positives, cosine)
        rate = np.where(cosine >= top.min(), _share(top, cosine) * len(top) / pairs, _share(random, cosine))
        false = rate * n * (n - 1) / 2
        right = recall * len(positives)
        precision = np.where(right + false > 0, right / np.maximum(right + false, 1e-300), 1.0)
        return cls(cosine, recall, rate, false, precision, chosen)


def _share(values: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Share of `values` that are at least each of `least`."""
    return 1 - np.searchsorted(np.sort(values), least, side="left") / len(values)


def write_curves(folder: Path, curves: Curves, subject: str) -> None:
    """Write ``curves.csv``, ``roc.png`` and ``precision-recall.png``."""
    names = ("cosine", "recall", "false_rate", "false_pairs", "precision")
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(getattr(curves, name).tolist() for name in names), strict=True))
    at = int(np.argmin(np.abs(curves.cosine - curves.chosen)))
    recall, precision = curves.recall[at], curves.precision[at]
    # A rate of nothing has no place on a logarithmic axis: such points sit at its left end.
    floor = 10.0 ** np.floor(np.log10(max(curves.false_rate[curves.false_rate > 0].min(initial=1e-6), 1e-12)))
    rate = np.maximum(curves.false_rate, floor)
    chosen = f"chosen: cosine {curves.chosen:.3f}"
    roc = Chart(
        key="roc",
        title=f"ROC: {subject}",
        x_label="share of unrelated pairs taken for copies",
        y_label="recall",
        series=[
            Series("all cosines", rate, curves.recall, strong=True),
            Series(chosen, [rate[at]], [recall], hue=1, kind="points"),
        ],
        x_range=(float(floor), 1.0),
        x_log=True,
    )
    precision_recall = Chart(
        key="precision-recall",
        title=f"Precision, recall: {subject}",
        x_label="recall",
        y_label="precision",
        series=[
            Series("all cosines", curves.recall, curves.precision, strong=True),
            Series(chosen, [recall], [precision], hue=1, kind="points"),
        ],
    )
    for chart in (roc, precision_recall):
        (folder / f"{chart.key}.png").write_bytes(draw(chart).png)
