from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.heads.reports.calibration import calibration, reliability


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


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
    told = calibration(proba, y, draws=0)
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
    found = [calibration(*rows(150, seed=seed), draws=200)["ece"] for seed in range(30)]
    # Its error is zero, and every plain percentile interval would exclude that.
    assert sum(ece["low"] == 0.0 for ece in found) >= 27
    assert all(ece["value"] > 0 and ece["low"] <= ece["high"] for ece in found)


def test_a_head_that_is_too_sure_is() -> None:
    told = calibration(*rows(600, sharpness=4.0), draws=300)
    assert told["ece"]["low"] > 0.03
    assert told["ece"]["value"] > told["ece"]["by_chance"]["high"] > told["ece"]["by_chance"]["mean"] > 0
    assert told["temperature"] == {"value": None, "why": "there are no other rows to fit it on"}


def test_temperature_is_the_best_of_dev_and_never_sees_test() -> None:
    dev, test = rows(400, seed=1, sharpness=3.0), rows(300, seed=2, sharpness=3.0)
    told = calibration(*test, dev, draws=200)["temperature"]

    def loss(temperature: float) -> float:
        p = softmax(np.log(dev[0]) / temperature)
        return -sum(math.log(p[i, c]) for i, c in enumerate(dev[1])) / len(dev[1])

    grid = np.linspace(1.0, 6.0, 501)
    assert told["value"] == pytest.approx(grid[np.argmin([loss(t) for t in grid])], abs=0.011)
    assert told["after"]["ece"]["value"] < calibration(*test, draws=0)["ece"]["value"] / 2
    assert told["change"]["log_loss"]["high"] < 0
    shuffled = np.random.default_rng(0).permutation(test[1])
    assert calibration(test[0], shuffled, dev, draws=0)["temperature"]["value"] == told["value"]


def test_labels_that_training_never_had_are_wrong() -> None:
    proba = np.array([[0.9, 0.1], [0.2, 0.8]])
    told = calibration(proba, np.array([-1, 1]), draws=50)
    assert told["brier"]["value"] == pytest.approx((0.81 + 0.01 + 1 + 0.04 + 0.04) / 2)
    assert told["log_loss"]["value"] == pytest.approx((-math.log(0.8) - math.log(np.finfo(float).eps)) / 2)


def test_a_temperature_without_bounds_is_none() -> None:
    sure = softmax(np.eye(2)[np.arange(40) % 2])
    right, wrong = np.arange(40) % 2, 1 - np.arange(40) % 2
    assert (
        "every row of dev is right" in calibration(sure, right, (sure, right), draws=0)["temperature"]["why"]
    )
    assert "say nothing" in calibration(sure, right, (sure, wrong), draws=0)["temperature"]["why"]
    assert "too few" in calibration(sure, right, (sure[:5], right[:5]), draws=0)["temperature"]["why"]


def test_certainty_costs_much_and_breaks_nothing() -> None:
    told = calibration(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), draws=20)
    assert 10 < told["log_loss"]["value"] < 20
    assert told["ece"]["value"] == pytest.approx(0.5)
