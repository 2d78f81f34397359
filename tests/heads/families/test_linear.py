"""Linear heads: the path of C against scikit-learn and liblinear, the choice, calibration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from icehouse.heads.families.linear import GRID, Logistic, LogReg, Loss, SquaredHinge, Svm, path
from icehouse.heads.inputs import Inputs
from quick import Data
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC


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


def standardised(X: Inputs) -> np.ndarray:
    """Each input centred, and divided by the root mean square length of its rows."""
    parts = []
    for name in X.names:
        centred = X[name].astype(np.float64) - X[name].astype(np.float64).mean(axis=0)
        parts.append(centred / np.sqrt((centred**2).sum(axis=1).mean()))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_equals_scikit_learn_on_the_standardised_inputs(data: Data, k: int, class_weight: str | None) -> None:
    X, y = data(90, k=k)
    X = Inputs({name: array.astype(np.float64) for name, array in X.items()})
    y = np.where(np.arange(90) % 7 == 0, 0, y)  # not balanced
    ours = LogReg(C=0.7, class_weight=class_weight, tol=1e-8).fit(X, y)
    theirs = LogisticRegression(C=0.7, class_weight=class_weight, tol=1e-10, max_iter=10_000)
    theirs.fit(standardised(X), y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(standardised(X)), atol=1e-5)


def test_features_scaled_one_by_one(data: Data) -> None:
    X, y = data(90)
    uneven = Inputs({"image": X["image"] * 10.0 ** np.linspace(-1, 1, 8), "text": X["text"]})
    even = LogReg(C=1.0, scale="feature", tol=1e-8)
    np.testing.assert_allclose(
        even.fit(uneven, y).predict_proba(uneven), even.fit(X, y).predict_proba(X), atol=1e-3
    )
    z = (X["text"] - X["text"].mean(axis=0)) / X["text"].std(axis=0) / np.sqrt(5)
    theirs = LogisticRegression(C=1.0, tol=1e-8).fit(z, y)
    ours = even.fit(X["text"], y)
    np.testing.assert_allclose(ours.predict_proba(X["text"]), theirs.predict_proba(z), atol=1e-3)


def test_weights_fold_back_to_the_raw_features(data: Data) -> None:
    X, y = data(90)
    head = LogReg(C=1.0).fit(X, y)
    logits = np.concatenate([X["image"], X["text"]], axis=1) @ head.coef_.T + head.intercept_
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X), proba, atol=1e-6)


def test_c_is_the_best_on_the_rows_to_choose_on(data: Data) -> None:
    X, y = data(60, noise=3.0)
    val = data(200, seed=1, noise=3.0)
    head = LogReg(unit=False).fit(X, y, val=val)
    tried = {row["C"]: row for row in head.curve_}
    assert head.chosen_["C"] == min(tried, key=lambda C: tried[C]["log_loss"])
    # The head that is kept is the one that was chosen.
    alone = LogReg(C=head.chosen_["C"]).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-3)
    assert tried[head.chosen_["C"]]["accuracy"] == head.score(*val)


def test_the_path_stops_when_it_gets_worse(data: Data) -> None:
    rng = np.random.default_rng(0)
    X, y = data(60)
    curve = LogReg(unit=False).fit(X, rng.permutation(y), val=(X, rng.permutation(y))).curve_
    assert 4 <= len(curve) < len(GRID)
    best = min(row["log_loss"] for row in curve)
    assert [row["log_loss"] for row in curve].index(best) == len(curve) - 4


def test_without_rows_to_choose_on_a_part_is_held_out_and_everything_learned(data: Data) -> None:
    X, y = data(90, noise=2.0)
    head = LogReg().fit(X, y)
    assert head.curve_
    np.testing.assert_allclose(head.predict_proba(X), LogReg(**head.chosen_).fit(X, y).predict_proba(X))


def directions(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows whose class is in their direction and whose length is noise; the directions; the classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    towards = rng.normal(0, 1, (n, 6)) + 1.2 * (2 * y[:, None] - 1)
    return towards * np.exp(rng.normal(0, 1.5, (n, 1))), towards, y


def test_unit_length_is_chosen_where_lengths_are_noise() -> None:
    X, _, y = directions(300, 0)
    V, _, w = directions(300, 1)
    head = LogReg().fit(X, y, val=(V, w))
    assert head.chosen_["unit"] is True
    assert head.score(V, w) >= LogReg(unit=False).fit(X, y, val=(V, w)).score(V, w)
    np.testing.assert_allclose(head.predict_proba(5 * V), head.predict_proba(V), atol=1e-12)


def test_unit_length_is_not_chosen_where_lengths_tell() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = rng.normal(1, 0.3, (200, 4)) * (1 + 2 * y[:, None])
    assert LogReg().fit(X, y, val=(X[::2], y[::2])).chosen_["unit"] is False


def test_rows_of_zeros_have_no_length_to_divide_by() -> None:
    X, _, y = directions(60, 2)
    X[:3] = 0
    assert np.isfinite(LogReg(C=1.0, unit=True).fit(X, y).predict_proba(X)).all()


def test_class_weights_help_the_rare_class(data: Data) -> None:
    X, y = data(600, k=2, noise=2.5)
    rare = (y == 0) | (np.arange(600) % 20 == 1)
    X, y = X[rare], y[rare]
    plain, balanced = LogReg(C=0.1).fit(X, y), LogReg(C=0.1, class_weight="balanced").fit(X, y)
    assert (balanced.predict(X) == 1).sum() > (plain.predict(X) == 1).sum()
    weighted = LogReg(C=0.1, class_weight={1: 10.0, 0: 1.0}).fit(X, y)
    assert (weighted.predict(X) == 1).sum() > (plain.predict(X) == 1).sum()


def test_a_missing_input_counts_as_average(data: Data) -> None:
    X, y = data(90)
    head = LogReg(C=1.0).fit(X, y)
    lacking = Inputs({"image": X["image"], "text": np.zeros_like(X["text"])}, {"text": np.zeros(90, bool)})
    average = Inputs({"image": X["image"], "text": np.tile(X["text"].mean(axis=0), (90, 1))})
    np.testing.assert_allclose(head.predict_proba(lacking), head.predict_proba(average), atol=1e-6)


def test_not_converging_shows_in_the_curve(data: Data) -> None:
    head = LogReg(max_iter=2).fit(*data(60), val=data(30, seed=1))
    assert max(row["iterations"] for row in head.curve_) == 2


def test_predicting_needs_no_scikit_learn(data: Data, tmp_path: Path) -> None:
    X, y = data(30)
    LogReg(C=1.0).fit(X, y).save(tmp_path)
    code = (
        "import sys, numpy as np\n"
        "from icehouse.heads.head import Head\n"
        f"head = Head.load({str(tmp_path)!r})\n"
        "head.predict({'image': np.zeros((2, 8)), 'text': np.zeros((2, 5))})\n"
        "print(*(name for name in ('sklearn', 'scipy', 'torch') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("k", [2, 3])
def test_margins_are_those_of_liblinear(data: Data, k: int) -> None:
    X, y = data(150, k=k, noise=2.0)
    head = Svm(C=0.5, unit=False, tol=1e-8).fit(X, y, val=(X, y))
    centred = {name: X[name].astype(np.float64) - X[name].mean(axis=0) for name in X.names}
    Z = np.concatenate([part / np.sqrt((part**2).sum(axis=1).mean()) for part in centred.values()], axis=1)
    # liblinear penalises the intercept; a large scale makes that negligible.
    theirs = LinearSVC(C=0.5, tol=1e-8, max_iter=10_000, intercept_scaling=100.0, dual=False).fit(Z, y)
    margins = theirs.decision_function(Z).reshape(len(y), -1)
    ours = np.concatenate([X[name] for name in X.names], axis=1) @ head.coef_.T + head.intercept_
    np.testing.assert_allclose(ours, margins, atol=5e-3)


def test_probabilities_are_calibrated(data: Data) -> None:
    X, y = data(600, k=2, noise=4.0)
    V, v = data(2000, k=2, seed=1, noise=4.0)
    proba = Svm(C=1.0).fit(X, y, val=data(600, k=2, seed=2, noise=4.0)).predict_proba(V)[:, 1]
    for low in (0.1, 0.3, 0.5, 0.7):
        within = (proba >= low) & (proba < low + 0.2)
        assert v[within].mean() == pytest.approx(low + 0.1, abs=0.1)


def test_calibration_is_fitted_on_rows_the_weights_never_saw(data: Data) -> None:
    X, _ = data(100)
    noise = np.random.default_rng(0).integers(0, 2, 100)
    held = Svm(C=100.0, unit=False).fit(X, noise)
    # Memorised noise: what was held out says that the margins mean nothing.
    assert held.predict_proba(X).max() < 0.85
