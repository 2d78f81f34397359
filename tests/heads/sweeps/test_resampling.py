from __future__ import annotations

import numpy as np
import pytest
from icehouse.heads.sweeps.resampling import SCORES, Resampling
from sklearn.metrics import accuracy_score, f1_score


def by_sklearn(name: str, y: np.ndarray, predicted: np.ndarray) -> float:
    if name == "accuracy":
        return float(accuracy_score(y, predicted))
    return float(f1_score(y, predicted, average=name.removesuffix("_f1"), zero_division=0))


@pytest.mark.parametrize("score", SCORES)
def test_values_are_those_of_scikit_learn(score: str) -> None:
    rng = np.random.default_rng(0)
    y, predicted = rng.choice(list("abcd"), 60), rng.choice(list("abce"), 60)
    assert Resampling(y, score, draws=3).value([predicted]) == pytest.approx(by_sklearn(score, y, predicted))


@pytest.mark.parametrize("score", SCORES)
def test_every_draw_is_the_score_of_its_rows(score: str) -> None:
    rng = np.random.default_rng(1)
    y, predicted = rng.choice(list("abc"), 25), rng.choice(list("abc"), 25)
    resampling = Resampling(y, score, draws=40, seed=5)
    counts = np.concatenate(list(resampling._blocks())).astype(int)
    expected = [by_sklearn(score, np.repeat(y, row), np.repeat(predicted, row)) for row in counts]
    np.testing.assert_allclose(resampling.sample([predicted]), expected, atol=1e-6)


def test_a_head_is_as_good_as_itself() -> None:
    y = np.array(list("aabbccdd") * 4)
    predicted = np.roll(y, 1)
    difference = Resampling(y, "macro_f1").difference([predicted], [predicted])
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_a_better_head_is_told_from_luck() -> None:
    rng = np.random.default_rng(2)
    y = rng.choice(list("ab"), 400)
    good = np.where(rng.random(400) < 0.9, y, "a")
    poor = np.where(rng.random(400) < 0.3, y, "a")
    resampling = Resampling(y, "accuracy")
    better = resampling.difference([good], [poor])
    assert better.low > 0
    # No resample is on the other side; 2,000 of them show no more than 2 / 2,001.
    assert better.p == pytest.approx(2 / 2001)
    worse = resampling.difference([poor], [good])
    assert worse.value == pytest.approx(-better.value)
    assert worse.high < 0
    luck = resampling.difference([good], [np.where(rng.random(400) < 0.005, "b", good)])
    assert luck.low <= 0 <= luck.high
    assert luck.p > 0.05


def test_many_rows_are_drawn_in_blocks_that_are_not_kept() -> None:
    y = np.array(["a", "b"] * 20_000)
    resampling = Resampling(y, "accuracy", draws=500)
    sizes = [counts.shape for counts in resampling._blocks()]
    assert sizes == [(200, 40_000), (200, 40_000), (100, 40_000)]
    assert not any(
        isinstance(value, np.ndarray) and value.size > 40_000 for value in vars(resampling).values()
    )
    always, other = resampling.samples([[np.full(len(y), "a")], [np.full(len(y), "b")]])
    assert len(always) == 500
    low, high = resampling.interval(always)
    assert 0.49 < low < 0.5 < high < 0.51
    # Every pass sees the same draws, together or alone, and so does every head.
    np.testing.assert_array_equal(resampling.sample([np.full(len(y), "a")]), always)
    np.testing.assert_allclose(always + other, 1, atol=1e-6)


def test_several_heads_and_seeds_are_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    y = rng.choice(list("abc"), 50)
    first, second, third = (rng.choice(list("abcd"), 50) for _ in range(3))
    resampling = Resampling(y, "macro_f1", draws=30)
    together = resampling.samples([[first, second], [third]])
    alone = [Resampling(y, "macro_f1", draws=30).sample([one]) for one in (first, second, third)]
    np.testing.assert_allclose(together, [(alone[0] + alone[1]) / 2, alone[2]], atol=1e-6)
