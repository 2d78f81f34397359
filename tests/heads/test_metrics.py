"""Scores are scikit-learn's; fitted calibration is found again, and what is said of a head's probabilities is true."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.errors import HeadError, UsageError
from icehouse.heads.inputs import softmax
from icehouse.heads.metrics import (
    METRICS,
    interval_text,
    measure_calibration,
    platt,
    ranking,
    reliability,
    score,
    temperature,
    title,
)
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
@settings(max_examples=40, deadline=None)
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
    if len(set(y)) == k == 2:
        expected = reference.roc_auc_score(y == "c1", proba[:, 1])
        assert result["auroc"]["value"] == pytest.approx(expected)
    elif set(y) == set(classes):
        expected = reference.roc_auc_score(y, proba, multi_class="ovr", average="macro", labels=classes)
        assert result["auroc"]["value"] == pytest.approx(expected)


def test_intervals_are_near_those_of_a_naive_bootstrap_where_rows_are_many() -> None:
    y, proba, classes = problem(400, 3, 5)
    result = score(y, proba, classes)
    rng = np.random.default_rng(99)
    naive: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(400):
        rows = rng.integers(0, len(y), len(y))
        again = score(y[rows], proba[rows], classes, draws=0)
        for name, values in naive.items():
            values.append(again[name]["value"])
    for name, values in naive.items():
        spread = np.std(values)
        low, high = np.quantile(values, [0.025, 0.975])
        assert result[name]["low"] == pytest.approx(low, abs=0.5 * spread), name
        assert result[name]["high"] == pytest.approx(high, abs=0.5 * spread), name
        assert result[name]["low"] < result[name]["value"] < result[name]["high"]


def test_influences_are_those_of_leaving_a_row_out() -> None:
    y, proba, _ = problem(40, 2, 8, ties=True)
    positive, n = y == "c1", len(y)
    scores = proba[:, 1]
    area, of_area, average, of_average = ranking(scores, positive)
    assert area == pytest.approx(reference.roc_auc_score(positive, scores))
    assert average == pytest.approx(reference.average_precision_score(positive, scores))
    without = np.array([ranking(np.delete(scores, i), np.delete(positive, i))[::2] for i in range(n)])
    # The infinitesimal jackknife: what a row adds is about (n - 1)/n of what leaving it out takes away.
    for influence, left in ((of_area, area - without[:, 0]), (of_average, average - without[:, 1])):
        assert influence.sum() == pytest.approx(0, abs=1e-9)
        assert np.corrcoef(influence, left)[0, 1] > 0.97
        assert np.std(influence) == pytest.approx(np.std(left), rel=0.15)


def test_intervals_are_rounded_outwards() -> None:
    y = np.array(["a"] * 30 + ["b"] * 10)
    right = np.where(y[:, None] == np.array(["a", "b"]), 0.999, 0.001)
    for proba in (right, 1 - right):
        scores = score(y, proba, ["a", "b"])
        for name in ("accuracy", "macro_f1", "weighted_f1", "auroc", "average_precision"):
            low, high = scores[name]["low"], scores[name]["high"]
            assert high - low > 0.05, name
            shown = interval_text(low, high, name).split("–")
            assert shown[0] != shown[1]
    assert interval_text(0.99996, 1.0, "accuracy") == "99.9–100.0"
    assert interval_text(0.0, 0.00004, "accuracy") == "0.0–0.1"


def test_shares_have_wilsons_interval() -> None:
    y = np.array(["a"] * 10)
    proba = np.array([[0.9, 0.1]] * 9 + [[0.1, 0.9]])
    told = score(y, proba, ["a", "b"])
    # Brown, Cai and DasGupta (2001): 9 of 10 gives 0.596 to 0.982.
    assert (told["accuracy"]["low"], told["accuracy"]["high"]) == pytest.approx((0.5958, 0.9821), abs=2e-4)
    assert told["per_class"][0]["recall"] == told["accuracy"]
    # Of a class that nothing is known of, everything is possible.
    assert told["per_class"][1]["recall"] == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_coverage_of_few_and_rare_rows() -> None:
    rng = np.random.default_rng(0)
    cells = np.array([[0.90, 0.01], [0.02, 0.07]])
    f1 = 2 * 0.07 / (0.07 * 2 + 0.03)
    truth = {"accuracy": 0.97, "macro_f1": (2 * 0.9 / 1.83 + f1) / 2, "f1": f1}
    held = dict.fromkeys(truth, 0)
    for _ in range(200):
        true, said = np.divmod(rng.choice(4, p=cells.ravel(), size=30), 2)
        proba = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
        told = score(true, proba, [0, 1])
        told["f1"] = told["per_class"][1]["f1"]
        for name, value in truth.items():
            held[name] += told[name]["low"] <= value <= told[name]["high"]
    assert min(held.values()) >= 184  # a percentile bootstrap holds 60% of them


def test_duplicates_are_no_independent_evidence() -> None:
    y, proba, classes = problem(150, 2, 4)
    single = score(y, proba, classes)
    groups = np.repeat(np.arange(150), 4)
    four = score(np.repeat(y, 4), np.repeat(proba, 4, axis=0), classes, groups=groups)
    naive = score(np.repeat(y, 4), np.repeat(proba, 4, axis=0), classes)
    assert four["intervals"]["groups"] == 150
    for name in METRICS:
        width = {
            key: told[name]["high"] - told[name]["low"]
            for key, told in (("1", single), ("4", four), ("n", naive))
        }
        assert four[name]["value"] == pytest.approx(single[name]["value"])
        assert width["4"] == pytest.approx(width["1"], rel=0.1), name
        assert width["n"] < 0.65 * width["4"], name
    # As many rows, each its own group: no different.
    assert score(y, proba, classes, groups=np.arange(150)) == single
    with pytest.raises(HeadError, match="3 groups for 150 rows"):
        score(y, proba, classes, groups=np.arange(3))


def test_average_precision_is_that_of_the_positive_class() -> None:
    y, proba, classes = problem(90, 2, 2)
    y[:40] = "c0"
    rare = score(y, proba, classes)
    count = (y == "c1").sum()
    assert rare["positive"] == {"label": "c1", "given": False, "rows": count, "prevalence": count / len(y)}
    expected = {c: reference.average_precision_score(y == c, proba[:, i]) for i, c in enumerate(classes)}
    assert rare["average_precision"]["value"] == pytest.approx(expected["c1"])
    assert rare["majority"]["average_precision"] == pytest.approx((y == "c1").mean())
    other = score(y, proba, classes, positive="c0")
    assert other["average_precision"]["value"] == pytest.approx(expected["c0"])
    assert other["positive"]["given"] is True
    assert title("average_precision", other) == "average precision of 'c0'"
    y3, proba3, three = problem(90, 3, 2)
    told = score(y3, proba3, three)
    each = [reference.average_precision_score(y3 == c, proba3[:, i]) for i, c in enumerate(three)]
    assert told["positive"] is None
    assert told["average_precision"]["value"] == pytest.approx(np.mean(each))
    assert score(y3, proba3, three, positive="c2")["average_precision"]["value"] == pytest.approx(each[2])
    with pytest.raises(UsageError, match="no class 'c9'"):
        score(y3, proba3, three, positive="c9")


def test_what_a_reader_has_to_know_is_noted() -> None:
    y = np.array(["neg"] * 85 + ["pos"] * 15)
    proba = np.stack([np.linspace(0.6, 0.9, 100), np.linspace(0.4, 0.1, 100)], axis=1)
    told = score(y, proba, ["neg", "pos"])
    assert told["one_class"] == "neg"
    assert any("every row was given 'neg'" in note for note in told["notes"])
    assert any("85% of the rows are 'neg'" in note for note in told["notes"])
    few = score(y[70:], proba[70:], ["neg", "pos"])
    assert few["notes"] == told["notes"][:1]
    assert any("only 29 rows" in note for note in score(y[71:], proba[71:], ["neg", "pos"])["notes"])
    grouped = score(y, proba, ["neg", "pos"], groups=np.arange(100) // 5)["notes"]
    assert any("100 rows are 20 groups" in note for note in grouped)
    assert score(y[:50], proba[:50], ["neg", "pos"])["one_class"] is None


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
    assert (absent["label"], absent["accuracy"], absent["macro_f1"]) == ("d", 0.0, 0.0)
    assert absent["auroc"] == 0.5


@given(
    n=st.integers(1, 30),
    k=st.integers(2, 6),
    seed=st.integers(0, 10_000),
    sure=st.booleans(),
    grouped=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_interval_holds_its_value_and_none_is_a_point(
    n: int, k: int, seed: int, sure: bool, grouped: bool
) -> None:
    y, proba, classes = problem(n, k, seed)
    if sure:
        proba = np.where(y[:, None] == classes, 1.0, 0.0)
    groups = np.random.default_rng(seed).integers(0, n, n) if grouped else None
    told = score(y, proba, classes, groups=groups)
    json.dumps(told, allow_nan=False)
    for name in METRICS:
        value, low, high = told[name]["value"], told[name]["low"], told[name]["high"]
        if value is not None:
            assert low <= value <= high
            assert high - low > 1e-3 or name == "log_loss"
    for row in told["per_class"]:
        for name in ("precision", "recall", "f1"):
            assert row[name]["low"] <= row[name]["value"] + 1e-12
            assert row[name]["value"] <= row[name]["high"] + 1e-12


def test_a_mean_loss_ends_where_the_worst_rows_would_be() -> None:
    y, sure = ["a", "b"] * 15, np.tile([0.996, 0.004], (30, 1))
    sure[1::2] = sure[1::2, ::-1]
    told = score(y, sure, ["a", "b"])["log_loss"]
    # The share of 30 rows that may be wrong though none was, times what each would cost.
    assert told["high"] < 0.13 * -np.log(0.004)
    assert told["low"] < told["value"] < told["high"]


def test_many_classes_of_a_row_or_two_are_covered() -> None:
    rng, held, k = np.random.default_rng(0), [], 20
    for _ in range(300):
        y = rng.integers(0, k, 30)
        given = np.where(rng.random(30) < 0.7, y, (y + rng.integers(1, k, 30)) % k)
        told = score(y, np.eye(k)[given], np.arange(k), only="macro_f1")["macro_f1"]
        held.append(told["low"] <= 0.7 <= told["high"])  # the F1 of every class in the population
    assert np.mean(held) > 0.91


def test_whole_numbers_are_labels_and_nothing_is_drawn() -> None:
    result = score([0, 1, 1], np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), np.array([0, 1]), draws=0)
    assert [row["label"] for row in result["per_class"]] == [0, 1]
    assert result["accuracy"]["value"] == pytest.approx(2 / 3)
    y, proba, classes = problem(50, 3, 1)
    assert score(y, proba, classes, draws=7) == score(y, proba, classes)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((["a"], np.zeros((2, 2)), ["a", "b"]), {}, HeadError, "rows × classes"),
        (([], np.zeros((0, 2)), ["a", "b"]), {}, HeadError, "no rows"),
        (problem(60, 3, 0), {"draws": -1}, UsageError, "from 0 on"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    arguments: Any, options: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        score(*arguments, **options)


def drawn(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 2
    return logits, np.array([rng.choice(3, p=p) for p in softmax(logits)])


@pytest.mark.parametrize("wrong", [0.1, 1.0, 25.0])
def test_temperature_undoes_a_wrong_scale(wrong: float) -> None:
    logits, y = drawn()
    assert temperature(logits / wrong, y) == pytest.approx(wrong, rel=0.1)


def test_temperature_beside_logits_that_are_there() -> None:
    logits, y = drawn()
    part = np.random.default_rng(1).normal(size=logits.shape)
    assert temperature((logits - part) / 5, y, base=part) == pytest.approx(5, rel=0.1)


def test_temperature_ends_at_its_bounds() -> None:
    scores, y = np.eye(3), np.arange(3)
    assert temperature(scores, y, high=50.0) == 50.0
    assert temperature(-scores, y, low=0.01) == 0.01


def test_platt_finds_the_sigmoid() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=8000)
    y = (rng.random(8000) < 1 / (1 + np.exp(-(3 * scores - 1)))).astype(int)
    ((slope, offset),) = platt(scores[:, None], y[:, None] == 1)
    assert slope == pytest.approx(3, rel=0.1)
    assert offset == pytest.approx(-1, abs=0.15)


def test_platt_weighs_rows() -> None:
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=50), rng.integers(0, 2, 50)
    weight = rng.integers(1, 4, 50)
    twice = np.repeat(np.arange(50), weight)
    columns, positive = scores[:, None] * [1, -1], np.stack([y == 1, y == 0], axis=1)
    weighed = platt(columns, positive, weight.astype(float))
    np.testing.assert_allclose(weighed, platt(columns[twice], positive[twice]), rtol=1e-4)
    np.testing.assert_allclose(
        weighed[:1], platt(columns[:, :1], positive[:, :1], weight.astype(float)), rtol=1e-6
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), min_size=1, max_size=30))
def test_platt_always_gives_numbers(rows: list[tuple[float, bool]]) -> None:
    scores, y = np.array([score for score, _ in rows]), np.array([int(label) for _, label in rows])
    ((slope, offset),) = platt(scores[:, None], y[:, None] == 1)
    assert np.isfinite([slope, offset]).all()
    assert slope >= 0


def test_scores_that_point_the_wrong_way_become_flat() -> None:
    ((slope, offset),) = platt(
        np.array([[1.0], [2.0], [-1.0], [-2.0]]), np.array([[False], [False], [True], [True]])
    )
    assert (slope, offset) == (0.0, 0.0)


def rows(n: int, k: int = 3, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels drawn from them; sharpened afterwards, so that 1 is calibrated."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, k))
    p = softmax(logits)
    y = np.array([rng.choice(k, p=row) for row in p])
    return softmax(sharpness * logits), y


def slow_ece(proba: np.ndarray, y: np.ndarray, bins: list[dict[str, float]]) -> float:
    total = 0.0
    for one in bins:
        inside = [i for i in range(len(y)) if one["from"] <= max(proba[i]) <= one["to"]]
        right = sum(int(np.argmax(proba[i])) == y[i] for i in inside) / len(inside)
        said = sum(max(proba[i]) for i in inside) / len(inside)
        total += len(inside) / len(y) * abs(right - said)
    return total


@settings(max_examples=25, deadline=None)
@given(n=st.integers(5, 120), k=st.integers(2, 4), seed=st.integers(0, 99), coarse=st.booleans())
def test_error_and_bins_are_those_of_a_loop(n: int, k: int, seed: int, coarse: bool) -> None:
    proba, y = rows(n, k, seed, 2.0)
    if coarse:  # ties, as trees and neighbours have them
        proba = np.round(proba, 1)
    told = measure_calibration(proba, y, draws=0)
    assert told["ece"]["value"] == pytest.approx(slow_ece(proba, y, told["bins"]))
    assert sum(row["rows"] for row in told["bins"]) == n
    edges = [(row["from"], row["to"]) for row in told["bins"]]
    assert all(a[1] < b[0] for a, b in pairwise(edges))
    brier = sum(sum((proba[i][c] - (c == y[i])) ** 2 for c in range(k)) for i in range(n)) / n
    assert told["brier"]["value"] == pytest.approx(brier)


def test_bins_hold_equally_many_rows() -> None:
    confidence = np.linspace(0.4, 1.0, 200)
    assert [row["rows"] for row in reliability(confidence, confidence > 0.5)] == [20] * 10


def test_a_calibrated_head_is_not_accused() -> None:
    found = [measure_calibration(*rows(150, seed=seed), draws=200)["ece"] for seed in range(30)]
    # Its error is zero, and every plain percentile interval would exclude that.
    assert sum(ece["low"] == 0.0 for ece in found) >= 27
    assert all(ece["value"] > 0 and ece["low"] <= ece["high"] for ece in found)


def test_a_head_that_is_too_sure_is() -> None:
    told = measure_calibration(*rows(600, sharpness=4.0), draws=300)
    assert told["ece"]["low"] > 0.03
    assert told["ece"]["value"] > told["ece"]["by_chance"]["high"] > told["ece"]["by_chance"]["mean"] > 0
    assert told["temperature"] == {"value": None, "why": "there are no other rows to fit it on"}


def test_temperature_is_the_best_of_dev_and_never_sees_test() -> None:
    dev, test = rows(400, seed=1, sharpness=3.0), rows(300, seed=2, sharpness=3.0)
    told = measure_calibration(*test, dev, draws=200)["temperature"]

    def loss(temperature: float) -> float:
        p = softmax(np.log(dev[0]) / temperature)
        return -sum(math.log(p[i, c]) for i, c in enumerate(dev[1])) / len(dev[1])

    grid = np.linspace(1.0, 6.0, 501)
    assert told["value"] == pytest.approx(grid[np.argmin([loss(t) for t in grid])], abs=0.011)
    assert told["after"]["ece"]["value"] < measure_calibration(*test, draws=0)["ece"]["value"] / 2
    assert told["change"]["log_loss"]["high"] < 0
    shuffled = np.random.default_rng(0).permutation(test[1])
    assert measure_calibration(test[0], shuffled, dev, draws=0)["temperature"]["value"] == told["value"]


def test_labels_that_training_never_had_are_wrong() -> None:
    proba = np.array([[0.9, 0.1], [0.2, 0.8]])
    told = measure_calibration(proba, np.array([-1, 1]), draws=50)
    assert told["brier"]["value"] == pytest.approx((0.81 + 0.01 + 1 + 0.04 + 0.04) / 2)
    assert told["log_loss"]["value"] == pytest.approx((-math.log(0.8) - math.log(np.finfo(float).eps)) / 2)


def test_a_temperature_without_bounds_is_none() -> None:
    sure = softmax(np.eye(2)[np.arange(40) % 2])
    right, wrong = np.arange(40) % 2, 1 - np.arange(40) % 2
    assert (
        "every row of dev is right"
        in measure_calibration(sure, right, (sure, right), draws=0)["temperature"]["why"]
    )
    assert "say nothing" in measure_calibration(sure, right, (sure, wrong), draws=0)["temperature"]["why"]
    assert "too few" in measure_calibration(sure, right, (sure[:5], right[:5]), draws=0)["temperature"]["why"]


def test_certainty_costs_much_and_breaks_nothing() -> None:
    told = measure_calibration(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), draws=20)
    assert 10 < told["log_loss"]["value"] < 20
    assert told["ece"]["value"] == pytest.approx(0.5)
