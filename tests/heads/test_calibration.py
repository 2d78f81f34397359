from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.heads.calibration import platt, temperature
from icehouse.heads.vectors import softmax


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
