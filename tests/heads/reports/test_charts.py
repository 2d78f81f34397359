from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from icehouse.heads.metrics import score
from icehouse.heads.reports.charts import (
    Chart,
    Series,
    curve_charts,
    ranking_charts,
    reliability_chart,
    ticks,
)
from icehouse.heads.reports.figures import write_chart, write_matrix
from icehouse.heads.reports.svg import chart_html, matrix_html
from PIL import Image

HOSTILE = ["<script>alert(1)</script>", "$\\frac{1}{", "_hidden", "火災 🔥", "two\nlines", "\u202egpj.exe"]


def drawn(k: int = 4, n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, k, n)
    proba = np.round(rng.dirichlet(np.ones(k), n) + 0.8 * np.eye(k)[y], 1)
    return proba / proba.sum(axis=1, keepdims=True), y


def test_areas_under_the_curves_are_the_scores() -> None:
    proba, y = drawn()
    told = score([f"c{c}" for c in y], proba, [f"c{c}" for c in range(4)], draws=0)
    roc, pr = ranking_charts(proba, y, [f"c{c}" for c in range(4)])
    for row, one, two in zip(told["per_class"], roc.series, pr.series, strict=False):
        assert np.trapezoid(one.y, one.x) == pytest.approx(row["auroc"])
        area = sum((b - a) * p for a, b, p in zip(two.x, two.x[1:], two.y[1:], strict=False))
        assert area == pytest.approx(row["average_precision"])
    assert [s.name for s in roc.series] == ["c0", "c1", "c2", "c3", "mean of all classes"]
    assert np.trapezoid(roc.series[-1].y, roc.series[-1].x) == pytest.approx(told["auroc"]["value"], abs=0.01)


def test_two_classes_have_one_curve_and_one_class_none() -> None:
    proba, y = drawn(2)
    assert [len(chart.series) for chart in ranking_charts(proba, y, ["a", "b"])] == [1, 1]
    assert ranking_charts(proba, np.zeros(len(y), int), ["a", "b"]) == []


def test_of_many_classes_the_commonest_are_drawn() -> None:
    proba, y = drawn(12, 300)
    roc, _ = ranking_charts(proba, y, [str(c) for c in range(12)])
    assert len(roc.series) == 7
    assert "12 classes" in roc.note


def test_curves_of_what_a_head_tried() -> None:
    path = [
        {"C": c, "unit": unit, "log_loss": 1 / c, "accuracy": 0.5, "macro_f1": 0.4, "iterations": 3}
        for unit in (False, True)
        for c in (0.01, 1.0, 100.0)
    ]
    loss, scores = curve_charts(path, {"C": 1.0, "unit": False})
    assert (loss.x_label, loss.x_log, loss.mark) == ("C", True, 1.0)
    assert [s.name for s in loss.series] == ["log loss on dev, unit false", "log loss on dev, unit true"]
    assert len(scores.series) == 4
    epochs = [{"lr": 0.1, "best": 2, "log_loss": 0.5}] + [
        {"epoch": e, "lr": 0.1, "loss": 1 / e, "log_loss": 1.1 / e, "accuracy": None, "macro_f1": 0.5}
        for e in (1, 2, 3)
    ]
    loss, scores = curve_charts(epochs, {"lr": 0.1, "stop": 2})
    assert [s.name for s in loss.series] == ["loss on train", "log loss on dev"]
    assert list(loss.series[0].x) == [1.0, 2.0, 3.0]
    assert (loss.mark, [s.name for s in scores.series]) == (2.0, ["macro-F1 on dev"])
    many = [{"k": k, "t": t, "log_loss": k + t, "accuracy": 0.1} for k in (1, 2, 3) for t in range(9)]
    assert list(curve_charts(many, {"k": 2})[0].series[0].y) == [1.0, 2.0, 3.0]
    for nothing in ([], [{"num_leaves": 7, "log_loss": 0.1}], [{"C": 1.0, "log_loss": 0.1}]):
        assert curve_charts(nothing, {}) == []


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.33, 0.341), (-5.0, 1e6), (2.0, 2.0)])
def test_ticks_lie_within(span: tuple[float, float]) -> None:
    found = [value for value, _ in ticks(*span)]
    assert 1 <= len(found) <= 12
    assert all(span[0] - 1e-6 <= value <= span[1] + 1e-6 for value in found)


def charts() -> list[Chart]:
    proba, y = drawn(len(HOSTILE))
    bins = [{"confidence": 0.5, "accuracy": 0.6, "low": 0.3, "high": 0.9}]
    log = Chart(
        "log", "C", "C", "loss", [Series(HOSTILE[1], [0.01, 100], [1, 2])], (0.01, 100), (1, 2), x_log=True
    )
    return [*ranking_charts(proba, y, HOSTILE), reliability_chart(bins, bins), log]


def test_charts_are_well_formed_whatever_labels_say() -> None:
    for chart in charts():
        root = ET.fromstring(chart_html(chart).replace("&nbsp;", " "))
        tags = {element.tag for element in root.iter()}
        assert tags <= {
            "figure",
            "figcaption",
            "svg",
            "line",
            "text",
            "path",
            "rect",
            "circle",
            "ul",
            "li",
            "bdi",
            "p",
        }
        assert "nan" not in ET.tostring(root, "unicode")


@pytest.mark.slow
def test_figures_are_written_whatever_labels_say(tmp_path: Path) -> None:
    for chart in charts():
        with Image.open(write_chart(tmp_path / f"{chart.key}.png", chart)) as image:
            assert min(image.size) > 400
    matrix = np.arange(36).reshape(6, 6).tolist()
    with Image.open(write_matrix(tmp_path / "confusion.png", HOSTILE, matrix)) as image:
        assert min(image.size) > 300


def test_a_large_matrix_becomes_its_commonest_confusions() -> None:
    assert matrix_html(["a", "b"], [[3, 1], [0, 2]]).count("<td") == 4
    matrix = np.eye(50, dtype=int) * 5
    matrix[3, 7] = 4
    listed = matrix_html([f"class {i}" for i in range(50)], matrix.tolist())
    assert listed.count("<td") == 4
    assert "class 7" in listed
