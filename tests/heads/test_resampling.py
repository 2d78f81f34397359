from __future__ import annotations

import numpy as np
import pytest
from icehouse.heads.compare import Resampling
from icehouse.heads.metrics import SCORES, Predicted
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score


def by_sklearn(name: str, y: np.ndarray, predicted: np.ndarray) -> float:
    if name == "accuracy":
        return float(accuracy_score(y, predicted))
    return float(f1_score(y, predicted, average=name.removesuffix("_f1"), zero_division=0))


def predicted(y: np.ndarray, apart: float, rng: np.random.Generator) -> Predicted:
    logits = rng.normal(size=len(y)) + apart * (y == "b") - apart / 2
    proba = 1 / (1 + np.exp(-apart * logits))
    return Predicted(
        np.where(proba > 0.5, "b", "a"), np.array(["a", "b"]), np.stack([1 - proba, proba], axis=1)
    )


@pytest.mark.parametrize("score", SCORES)
def test_values_are_those_of_scikit_learn(score: str) -> None:
    rng = np.random.default_rng(0)
    y, predicted = rng.choice(list("abcd"), 60), rng.choice(list("abce"), 60)
    assert Resampling(y, score, draws=3).value([predicted]) == pytest.approx(by_sklearn(score, y, predicted))


@pytest.mark.parametrize("score", SCORES)
def test_every_draw_is_the_score_of_weighted_rows(score: str) -> None:
    rng = np.random.default_rng(1)
    y, predicted = rng.choice(list("abc"), 12), rng.choice(list("abc"), 12)
    resampling = Resampling(y, score, draws=40, seed=5)
    weights = np.concatenate(list(resampling.weights()))
    assert weights.mean(axis=1) == pytest.approx(np.ones(40))
    expected = [
        accuracy_score(y, predicted, sample_weight=row)
        if score == "accuracy"
        else f1_score(y, predicted, labels=list("abc"), average=score.removesuffix("_f1"), sample_weight=row)
        for row in weights
    ]
    np.testing.assert_allclose(resampling.sample([predicted]), expected, atol=1e-5)


@pytest.mark.parametrize("score", ["auroc", "average_precision", "log_loss"])
def test_scores_of_probabilities_are_compared_by_their_influence(score: str) -> None:
    rng = np.random.default_rng(4)
    y = rng.choice(["a", "b"], 300, p=[0.7, 0.3])
    good, poor = (predicted(y, apart, rng) for apart in (2.0, 1.0))
    resampling = Resampling(y, score, draws=1000)
    known = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    if score in known:
        assert resampling.value([good]) == pytest.approx(known[score](y == "b", good.proba[:, 1]))
    samples = resampling.sample([good])
    weights = np.concatenate(list(resampling.weights()))[:200]
    if score in known:
        exact = [known[score](y == "b", good.proba[:, 1], sample_weight=row) for row in weights]
        assert np.corrcoef(samples[:200], exact)[0, 1] > 0.98
        assert np.std(exact) == pytest.approx(np.std(samples[:200]), rel=0.1)
    difference = resampling.difference([good], [poor])
    better = difference.value > 0 if score != "log_loss" else difference.value < 0
    assert better
    assert difference.p < 0.05
    value, low, high = resampling.with_interval([good, poor])
    assert low < value < high
    with pytest.raises(TypeError, match="needs probabilities"):
        resampling.value([good.labels])


def test_a_score_without_both_sides_is_not_defined() -> None:
    y = np.full(20, "a")
    one = predicted(y, 1.0, np.random.default_rng(0))
    assert np.isnan(Resampling(y, "auroc").value([one]))
    assert all(np.isnan(Resampling(y, "auroc").with_interval([one])))


def test_duplicates_get_one_weight() -> None:
    rng = np.random.default_rng(5)
    y = rng.choice(list("ab"), 60)
    first, second = (np.where(rng.random(60) < share, y, "a") for share in (0.9, 0.6))
    groups = np.repeat(np.arange(60), 5)
    rows = [np.repeat(array, 5) for array in (first, second)]
    single = Resampling(y, "macro_f1").difference([first], [second])
    five = Resampling(np.repeat(y, 5), "macro_f1", groups=groups).difference([rows[0]], [rows[1]])
    naive = Resampling(np.repeat(y, 5), "macro_f1").difference([rows[0]], [rows[1]])
    assert five.value == pytest.approx(single.value)
    assert five.high - five.low == pytest.approx(single.high - single.low, rel=0.1)
    assert naive.high - naive.low < 0.6 * (five.high - five.low)


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


@pytest.mark.slow
def test_many_rows_are_drawn_in_blocks_that_are_not_kept() -> None:
    y = np.array(["a", "b"] * 20_000)
    resampling = Resampling(y, "accuracy", draws=500)
    sizes = [counts.shape for counts in resampling.weights()]
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
