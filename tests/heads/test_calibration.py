"""Calibration: fitted factors are found again, and what is said of a head's probabilities is true."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.heads.inputs import softmax
from icehouse.heads.metrics import measure_calibration, platt, reliability, temperature


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
