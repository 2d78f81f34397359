from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.errors import HeadError, UsageError
from icehouse.heads.metrics import score
from sklearn import metrics as reference


def problem(n: int, k: int, seed: int, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * (y[:, None] == np.arange(k))
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if ties:
        proba = np.round(proba, 1) + 1e-3
        proba /= proba.sum(axis=1, keepdims=True)
    return np.array([f"c{i}" for i in y]), proba, np.array([f"c{i}" for i in range(k)])


@given(n=st.integers(2, 60), k=st.integers(2, 6), seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_equals_scikit_learn(n: int, k: int, seed: int, ties: bool) -> None:
    y, proba, classes = problem(n, k, seed, ties=ties)
    result = score(y, proba, classes, draws=0)
    predicted = classes[proba.argmax(axis=1)]
    assert result["accuracy"]["value"] == pytest.approx(reference.accuracy_score(y, predicted))
    for ours, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        assert result[ours]["value"] == pytest.approx(reference.f1_score(y, predicted, average=average))
    assert result["log_loss"]["value"] == pytest.approx(reference.log_loss(y, proba, labels=classes))
    each = reference.precision_recall_fscore_support(y, predicted, labels=classes, zero_division=0)
    for i, row in enumerate(result["per_class"]):
        got = (row["precision"]["value"], row["recall"]["value"], row["f1"]["value"], row["support"])
        assert got == pytest.approx(tuple(column[i] for column in each))
        positive = y == classes[i]
        if positive.any() and not positive.all():
            assert row["auroc"] == pytest.approx(reference.roc_auc_score(positive, proba[:, i]))
            assert row["average_precision"] == pytest.approx(
                reference.average_precision_score(positive, proba[:, i])
            )
        else:
            assert row["auroc"] is None
    assert result["confusion"]["matrix"] == reference.confusion_matrix(y, predicted, labels=classes).tolist()
    if set(y) == set(classes) and k > 2:
        expected = reference.roc_auc_score(y, proba, multi_class="ovr", average="macro", labels=classes)
        assert result["auroc"]["value"] == pytest.approx(expected)


def test_auroc_of_two_classes_is_the_usual_one() -> None:
    y, proba, classes = problem(80, 2, 3)
    assert score(y, proba, classes, draws=0)["auroc"]["value"] == pytest.approx(
        reference.roc_auc_score(y == "c1", proba[:, 1])
    )


def test_intervals_are_those_of_a_naive_bootstrap() -> None:
    y, proba, classes = problem(200, 3, 5)
    result = score(y, proba, classes, draws=2000)
    rng = np.random.default_rng(99)
    naive: dict[str, list[float]] = {
        "accuracy": [],
        "macro_f1": [],
        "auroc": [],
        "log_loss": [],
        "average_precision": [],
    }
    for _ in range(400):
        rows = rng.integers(0, len(y), len(y))
        again = score(y[rows], proba[rows], classes, draws=0)
        for name, values in naive.items():
            values.append(again[name]["value"])
    for name, values in naive.items():
        spread = np.std(values)
        low, high = np.quantile(values, [0.025, 0.975])
        assert result[name]["low"] == pytest.approx(low, abs=0.4 * spread), name
        assert result[name]["high"] == pytest.approx(high, abs=0.4 * spread), name
        assert result[name]["low"] < result[name]["value"] < result[name]["high"]


def test_seeded() -> None:
    y, proba, classes = problem(50, 3, 1)
    assert score(y, proba, classes, seed=4) == score(y, proba, classes, seed=4)
    assert score(y, proba, classes, seed=4) != score(y, proba, classes, seed=5)


def test_a_label_that_training_never_held_is_an_error_and_is_named() -> None:
    y = np.array(["a", "b", "b", "new"])
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    result = score(y, proba, ["a", "b"], draws=50)
    assert result["accuracy"]["value"] == 0.75
    assert result["unseen"] == {"new": 1}
    assert result["macro_f1"]["value"] == pytest.approx((1 + 0.8 + 0) / 3)
    assert result["confusion"]["labels"] == ["a", "b", "new"]
    assert result["per_class"][2]["recall"]["value"] == 0
    assert result["per_class"][2]["auroc"] is None
    # Log loss charges it a probability of zero, clipped as scikit-learn does.
    charged = [0.9, 0.8, 0.7, np.finfo(float).eps]
    assert result["log_loss"]["value"] == pytest.approx(-np.log(charged).mean())
    widened = reference.log_loss(y, np.column_stack([proba, np.zeros(4)]), labels=["a", "b", "new"])
    assert result["log_loss"]["value"] == pytest.approx(widened)


def test_undefined_scores_are_null() -> None:
    result = score(["a", "a"], np.array([[0.9, 0.1], [0.8, 0.2]]), ["a", "b"], draws=20)
    assert result["auroc"] == {"value": None, "low": None, "high": None}
    assert result["accuracy"]["value"] == 1
    none = score(["z", "z"], np.array([[0.9, 0.1], [0.8, 0.2]]), ["a", "b"], draws=20)
    assert none["log_loss"]["value"] == pytest.approx(-np.log(np.finfo(float).eps))
    assert none["accuracy"]["value"] == 0


def test_majority_baseline_is_a_constant_prediction() -> None:
    y = np.array(["a"] * 6 + ["b"] * 3 + ["c"])
    proba = np.tile([0.5, 0.3, 0.2], (10, 1))
    base = score(y, proba, ["a", "b", "c"], majority="b", draws=0)["majority"]
    constant = np.full(10, "b")
    assert base["accuracy"] == pytest.approx(0.3)
    assert base["macro_f1"] == pytest.approx(reference.f1_score(y, constant, average="macro"))
    assert score(y, proba, ["a", "b", "c"], draws=0)["majority"]["label"] == "a"
    absent = score(y, np.tile([0.5, 0.3, 0.1, 0.1], (10, 1)), ["a", "b", "c", "d"], majority="d", draws=0)[
        "majority"
    ]
    assert absent == {"label": "d", "accuracy": 0.0, "macro_f1": 0.0}


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    y, proba, classes = problem(40, 3, 2)

    def spread(result: dict[str, Any]) -> float:
        return float(result["auroc"]["high"] - result["auroc"]["low"])

    whole = score(y, proba, classes, draws=500)
    monkeypatch.setattr("icehouse.heads.metrics._BLOCK", 400)
    assert spread(score(y, proba, classes, draws=500)) == pytest.approx(spread(whole), rel=0.3)


def test_is_json() -> None:
    y, proba, classes = problem(30, 2, 7)
    text = json.dumps(score(y, proba, classes, draws=100), allow_nan=False)
    assert json.loads(text)["n"] == 30


def test_whole_numbers_as_labels() -> None:
    result = score([0, 1, 1], np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), np.array([0, 1]), draws=0)
    assert [row["label"] for row in result["per_class"]] == [0, 1]
    assert result["accuracy"]["value"] == pytest.approx(2 / 3)


def test_refuses_shapes_that_disagree() -> None:
    with pytest.raises(HeadError, match="rows × classes"):
        score(["a"], np.zeros((2, 2)), ["a", "b"])
    with pytest.raises(HeadError, match="no rows"):
        score([], np.zeros((0, 2)), ["a", "b"])


def test_how_many_resamples_there_were_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from icehouse.heads import metrics as module

    y, proba, classes = problem(60, 3, 0)
    told = score(y, proba, classes, draws=300)["intervals"]
    assert (told["draws"], told["draws_ranked"]) == (300, 300)
    monkeypatch.setattr(module, "_BUDGET", 60 * 4 * 150)
    told = score(y, proba, classes, draws=300)["intervals"]
    assert (told["draws"], told["draws_ranked"]) == (300, 150)
    for wrong in ({"seed": -1}, {"draws": -1}):
        with pytest.raises(UsageError, match="from 0 on"):
            score(y, proba, classes, **wrong)
