from __future__ import annotations

import numpy as np
import pytest
from icehouse.heads.families.linear import Logistic, Loss, SquaredHinge, path
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression


def rows(n: int = 80, d: int = 6, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose deviations differ a hundredfold, classes, weights."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    Z = (rng.normal(size=(n, d)) + y[:, None]) * np.logspace(-1, 1, d)
    return Z - Z.mean(axis=0), y, rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("d", [5, 120])
def test_every_step_of_the_path_is_scikit_learns_optimum(k: int, d: int) -> None:
    Z, y, weight = rows(80, d, k)
    grid = [1e-3, 1e-2, 0.1, 1.0]
    for fit in path(Z, y, k, weight, grid, tol=1e-9):
        theirs = LogisticRegression(C=fit.C, tol=1e-10, max_iter=20_000).fit(Z, y, sample_weight=weight)
        np.testing.assert_allclose(fit.coef, theirs.coef_, atol=2e-5)
        np.testing.assert_allclose(
            fit.intercept - fit.intercept.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-4
        )


@pytest.mark.parametrize("loss", [Logistic, SquaredHinge])
@pytest.mark.parametrize("k", [2, 3])
def test_slopes_are_those_of_the_value(loss: type[Loss], k: int) -> None:
    _, y, weight = rows(12, 3, k)
    share = weight / weight.sum()
    shape = (12, loss(y, k, share).columns)
    logits = np.random.default_rng(1).normal(size=shape)
    assert check_grad(
        lambda x: loss(y, k, share).at(x.reshape(shape))[0],
        lambda x: loss(y, k, share).at(x.reshape(shape))[1].ravel(),
        logits.ravel(),
    ) == pytest.approx(0, abs=1e-6)
    here = loss(y, k, share)
    change = np.random.default_rng(2).normal(size=shape)
    here.at(logits)
    curved = here.curved(change)
    first = np.eye(shape[1])[0]
    rows_alone = [here.curved(np.outer(np.arange(12) == row, first).astype(float))[row] for row in range(12)]
    np.testing.assert_allclose(here.curvature()[:, 0], np.sum(rows_alone, axis=0), atol=1e-12)
    step = 1e-6
    ahead, behind = (loss(y, k, share).at(logits + sign * step * change)[1] for sign in (1, -1))
    np.testing.assert_allclose(curved, (ahead - behind) / (2 * step), atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_squared_hinge_is_minimised(k: int) -> None:
    from scipy.optimize import minimize

    Z, y, weight = rows(60, 4, k)
    (fit,) = path(Z, y, k, weight, [0.3], SquaredHinge, tol=1e-10)
    for column, positive in enumerate([y == 1] if k == 2 else [y == c for c in range(k)]):
        sign = np.where(positive, 1, -1)

        def value(theta: np.ndarray, sign: np.ndarray = sign) -> float:
            short = np.maximum(1 - sign * (Z @ theta[:-1] + theta[-1]), 0)
            return float(0.3 * (weight * short**2).sum() + theta[:-1] @ theta[:-1] / 2)

        theirs = minimize(value, np.zeros(5), method="BFGS", options={"gtol": 1e-7}).x
        np.testing.assert_allclose(np.r_[fit.coef[column], fit.intercept[column]], theirs, atol=1e-4)


def test_float32_converges_as_far_as_it_can() -> None:
    Z, y, weight = rows(200, 30)
    exact = list(path(Z, y, 3, weight, [0.1, 100.0], tol=1e-9))
    rough = list(path(Z.astype(np.float32), y, 3, weight, [0.1, 100.0], tol=1e-12))
    for a, b in zip(exact, rough, strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-4)
        assert b.iterations < 200


def test_separable_rows_and_a_weak_penalty_end() -> None:
    Z, y = np.array([[-1.0], [1.0]]), np.array([0, 1])
    *_, fit = path(Z, y, 2, np.ones(2), np.logspace(-6, 5, 45))
    assert np.isfinite(fit.coef).all()
    assert fit.coef[0, 0] > 3


def test_features_too_wide_to_rotate_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from icehouse.heads.families import linear

    Z, y, weight = rows(80, 12)
    rotated = list(path(Z, y, 3, weight, [0.1, 1.0], tol=1e-9))
    monkeypatch.setattr(linear, "_ROTATE", 4)
    for a, b in zip(rotated, path(Z, y, 3, weight, [0.1, 1.0], tol=1e-9), strict=True):
        np.testing.assert_allclose(a.coef, b.coef, atol=1e-6)


def test_features_that_are_all_zero_leave_the_intercept() -> None:
    y = np.arange(30) % 3 % 2
    (fit,) = path(np.zeros((30, 4)), y, 2, np.ones(30), [1.0], tol=1e-9)
    np.testing.assert_allclose(fit.coef, 0)
    assert fit.intercept[0] == pytest.approx(np.log(1 / 2), abs=1e-6)
    (wide,) = path(np.zeros((3, 4)), np.array([0, 1, 1]), 2, np.ones(3), [1.0], tol=1e-9)
    assert wide.intercept[0] == pytest.approx(np.log(2), abs=1e-6)
