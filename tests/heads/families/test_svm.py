from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from icehouse.heads.families.linear import Svm
from icehouse.heads.inputs import Inputs
from sklearn.svm import LinearSVC

Data = Callable[..., tuple[Inputs, np.ndarray]]


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


def test_refitting_learns_from_all_rows(data: Data) -> None:
    X, y = data(90, noise=2.0)
    head = Svm().fit(X, y)
    again = head.refit(X, y)
    np.testing.assert_allclose(again.coef_, head.coef_, atol=1e-3)
