from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from icehouse.heads.families.linear import GRID, LogReg
from icehouse.heads.inputs import Inputs
from sklearn.linear_model import LogisticRegression

Data = Callable[..., tuple[Inputs, np.ndarray]]


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


def test_the_scale_of_an_encoder_does_not_matter(data: Data) -> None:
    X, y = data(90)
    scaled = Inputs({"image": 1000 * X["image"] + 5, "text": X["text"]})
    np.testing.assert_allclose(
        LogReg(C=1.0).fit(scaled, y).predict_proba(scaled),
        LogReg(C=1.0).fit(X, y).predict_proba(X),
        atol=1e-3,
    )


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


def test_the_path_is_that_of_fits_from_scratch(data: Data) -> None:
    X, y = data(120, noise=2.0)
    val = data(90, seed=1, noise=2.0)
    grid = [0.01, 0.1, 1.0, 10.0]
    for row in LogReg(C=grid, unit=False, select="accuracy", tol=1e-7).fit(X, y, val=val).curve_:
        proba = LogReg(C=row["C"], tol=1e-7).fit(X, y).predict_proba(val[0])
        assert row["log_loss"] == pytest.approx(-np.log(proba[np.arange(90), val[1]]).mean(), abs=1e-3)


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
