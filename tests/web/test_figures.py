from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from icehouse.heads.metrics import score
from icehouse.web.figures import (
    Chart,
    Series,
    confusion_png,
    curve_charts,
    draw,
    ranking_charts,
    reliability_chart,
)
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


def charts() -> list[Chart]:
    proba, y = drawn(len(HOSTILE))
    bins = [{"confidence": 0.5, "accuracy": 0.6, "low": 0.3, "high": 0.9}]
    log = Chart(
        "log", "C", "C", "loss", [Series(HOSTILE[1], [0.01, 100], [1, 2])], (0.01, 100), (1, 2), x_log=True
    )
    return [*ranking_charts(proba, y, HOSTILE), reliability_chart(bins, bins), log]


@pytest.mark.slow
def test_drawings_fit_into_any_page_whatever_labels_say() -> None:
    ids: list[str] = []
    for chart in charts():
        drawing = draw(chart)
        assert draw(chart) == drawing
        root = ET.fromstring(drawing.svg)
        assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "text", "defs", "use"}
        assert not re.search(r"nan|#[0-9a-f]{6}|font-|<!--", drawing.svg), (
            "a place or a colour that the page has not"
        )
        texts = {text for text in root.itertext() if text.strip()}
        assert not texts & set(HOSTILE)
        assert {chart.x_label, chart.y_label} <= texts
        ids += [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        with Image.open(io.BytesIO(drawing.png)) as image:
            assert min(image.size) > 400
    assert ids
    assert len(ids) == len(set(ids))


def test_ticks_of_a_logarithmic_axis_are_plain_numbers() -> None:
    assert {">0.01<", ">1<", ">100<"} <= set(re.findall(r">[\d.]+<", draw(charts()[-1]).svg))


def test_a_confusion_matrix_is_drawn_whatever_labels_say() -> None:
    matrix = np.arange(36).reshape(6, 6).tolist()
    with Image.open(io.BytesIO(confusion_png(HOSTILE, matrix))) as image:
        assert min(image.size) > 300
