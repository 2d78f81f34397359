"""Many rows of many classes: refused with an estimate, or within it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from html_page import HtmlPage
from icehouse.errors import HeadError
from icehouse.heads import metrics
from icehouse.heads import registry as memory
from icehouse.heads.compare import compare
from icehouse.heads.registry import available, create
from icehouse.heads.trainer import prepare, train
from quick import Data, Make, quick


def little(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Pretend that so many bytes are free, and ask for however little."""
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    monkeypatch.setattr(memory, "_LITTLE", 0)


@pytest.mark.parametrize("family", sorted(available()))
def test_a_fit_that_does_not_fit_is_refused_with_an_estimate(
    family: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = quick(family)
    X, y = data(40)
    little(monkeypatch, 1000)
    with pytest.raises(
        HeadError, match=rf"{family.replace('+', '.')} on 40 rows of 3 classes would need about .* GB"
    ):
        head.fit(X, y)
    # Where that is not known nothing is refused.
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    head.fit(X, y)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(HeadError, match="predicting 40 rows of 3 classes would need"):
        head.predict_proba(X)


def test_ten_thousand_classes_of_thirty_thousand_rows() -> None:
    needed = {}
    for family in available():
        head = create(family)
        head.classes_, head.widths_ = np.arange(10_000), {"image": 1280, "text": 384}
        needed[family] = head.memory_needed(24_000, 6_000)
    # No family holds less than the probabilities of dev, but knn, which keeps two numbers a row.
    assert all(bytes_ > 8 * 6_000 * 10_000 for family, bytes_ in needed.items() if family != "knn")
    assert needed["knn"] < 2e9
    # Newton's method holds several arrays of rows x classes, the stack features for each class and input.
    assert needed["logreg"] > 12e9
    assert needed["late-fusion"] > 2 * needed["logreg"]


@pytest.mark.parametrize("family", ["logreg", "svm", "tip-adapter", "online", "knn"])
def test_estimates_hold(family: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(800) % 400
    X = (rng.normal(size=(400, 8))[y] + 0.1 * rng.normal(size=(800, 8))).astype(np.float32)
    fixed = {"logreg": {"C": 1.0, "unit": False}, "svm": {"C": 1.0, "unit": False}, "online": {"passes": 1}}
    head = create(family, **fixed.get(family, {}))
    tracemalloc.start()
    try:
        head.fit(X, y, val=(X, y))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Within a factor, beside the blocks of fixed size that are there whatever the classes.
    assert held < 2 * head.memory_needed(800, 800) + 100e6


def test_rows_that_could_not_be_scored_are_refused_before_a_fit(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(120)
    little(monkeypatch, 100)
    with pytest.raises(HeadError, match=r"scoring 30 rows of 3 classes would need about .*--where"):
        prepare(store)


def test_runs_that_could_not_be_compared_are_refused(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(120)
    run = train(store, params={"C": 1.0, "unit": False}, inputs="text")
    little(monkeypatch, 100)
    with pytest.raises(HeadError, match=r"comparing 1 runs on test would need about .* name fewer"):
        compare(store, [run], latency=False)


def test_a_confusion_matrix_of_many_classes_is_kept_as_cells(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(120)
    params = {"C": 1.0, "unit": False}
    whole = train(store, params=params, inputs="text").metrics["test"]["confusion"]
    monkeypatch.setattr(metrics, "MATRIX", 2)
    run = train(store, params=params, inputs="text")
    sparse = run.metrics["test"]["confusion"]
    assert sparse["matrix"] is None
    filled = np.zeros((3, 3), int)
    for i, j, count in sparse["cells"]:
        filled[i, j] = count
    assert filled.tolist() == whole["matrix"]
    assert filled.sum() == 30

    from icehouse.heads import report

    page = HtmlPage(report.write_report(store, run, ablation=False).read_text())
    assert "commonest of" in page.text
    for i, true in enumerate(sparse["labels"]):
        for j, said in enumerate(sparse["labels"]):
            count = int(filled[i, j])
            share = 100 * count / filled[i].sum()
            assert (f"{true} {said} {count} {share:.0f}%" in page.text) == (count > 0 and i != j)
    assert not (run.path / "figures" / "confusion.png").exists()
