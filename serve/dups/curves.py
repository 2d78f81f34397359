"""ROC and precision-recall curves of a calibration, as numbers and as plain pictures drawn with Pillow."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Curves", "write_curves"]

_SIZE, _LEFT, _TOP, _RIGHT, _BOTTOM = (960, 640), 110, 70, 40, 90
_INK, _GRID, _LINE, _MARK = (40, 40, 40), (224, 224, 224), (24, 90, 160), (200, 60, 30)
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
    mark = f"cosine {curves.chosen:.3f}"
    # A rate of nothing has no place on a logarithmic axis: such points sit at its left end.
    floor = 10.0 ** np.floor(np.log10(max(curves.false_rate[curves.false_rate > 0].min(initial=1e-6), 1e-12)))
    rate = np.log10(np.maximum(curves.false_rate, floor))
    low = int(np.log10(floor))
    _draw(
        folder / "roc.png", f"Copies found against unrelated pairs: {subject}",
        "share of unrelated pairs taken for copies", "recall", rate, curves.recall,
        [(float(k), f"1e{k}" if k else "1") for k in range(low, 1)], (rate[at], curves.recall[at], mark),
    )  # fmt: skip
    tenths = [(k / 10, f"{k / 10:g}") for k in range(0, 11, 2)]
    _draw(
        folder / "precision-recall.png", f"Precision against recall: {subject}", "recall", "precision",
        curves.recall, curves.precision, tenths, (curves.recall[at], curves.precision[at], mark),
    )  # fmt: skip


def _draw(
    path: Path,
    title: str,
    across: str,
    up: str,
    x: np.ndarray,
    y: np.ndarray,
    ticks: Sequence[tuple[float, str]],
    mark: tuple[float, float, str],
) -> None:
    """One line in a frame: `x` along its ticks, `y` from 0 to 1."""
    image = Image.new("RGB", _SIZE, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(16), ImageFont.load_default(20)
    first, last = ticks[0][0], ticks[-1][0]
    width, height = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM
    place: Callable[[float, float], tuple[float, float]] = lambda a, b: (  # noqa: E731 (shorter than a function here)
        _LEFT + width * (min(max(a, first), last) - first) / (last - first),
        _TOP + height * (1 - min(max(b, 0.0), 1.0)),
    )
    for value, label in ticks:
        foot, head = place(value, 0), place(value, 1)
        draw.line([foot, head], _GRID)
        draw.text((foot[0], foot[1] + 8), label, _INK, small, anchor="ma")
    for k in range(0, 11, 2):
        left, right = place(first, k / 10), place(last, k / 10)
        draw.line([left, right], _GRID)
        draw.text((left[0] - 10, left[1]), f"{k / 10:g}", _INK, small, anchor="rm")
    draw.rectangle([place(first, 1), place(last, 0)], outline=_INK)
    draw.line([place(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)], _LINE, 3, joint="curve")
    px, py = place(mark[0], mark[1])
    draw.ellipse([px - 6, py - 6, px + 6, py + 6], _MARK)
    on_left = px > _LEFT + width / 2
    below = py < _TOP + height / 2
    draw.text(
        (px - 12 if on_left else px + 12, py + 14 if below else py - 14), mark[2], _MARK, small,
        anchor="r" + ("a" if below else "s") if on_left else "l" + ("a" if below else "s"),
    )  # fmt: skip
    draw.text((_LEFT, _TOP - 16), title, _INK, large, anchor="ls")
    draw.text((_LEFT + width / 2, _SIZE[1] - 22), across, _INK, small, anchor="ms")
    label = Image.new("RGB", (200, 24), (255, 255, 255))
    ImageDraw.Draw(label).text((100, 12), up, _INK, small, anchor="mm")
    image.paste(label.rotate(90, expand=True), (14, _TOP + height // 2 - 100))
    image.save(path, "PNG")
