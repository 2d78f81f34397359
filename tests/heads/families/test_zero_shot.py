from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from icehouse.errors import UsageError
from icehouse.heads.families.zero_shot import TipAdapter, ZeroShot
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from icehouse.heads.metrics import criteria
from quick import Data

LABELS = np.array(["calm", "flood"])


def posts(
    n: int, seed: int = 0, noise: float = 0.3
) -> tuple[Inputs, np.ndarray, dict[str, dict[str, list[float]]]]:
    """Images and texts scattered around what describes their class."""
    described = np.random.default_rng(99).normal(size=(2, 2, 16))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    X = {
        name: described[i][y] + noise * (1 + 4 * i) * rng.normal(size=(n, 16))
        for i, name in enumerate(("image", "text"))
    }
    vectors = {
        name: dict(zip(LABELS.tolist(), described[i].tolist(), strict=True))
        for i, name in enumerate(("image", "text"))
    }
    return Inputs(X), LABELS[y], vectors


def test_cosines_times_a_hundred() -> None:
    X, y, vectors = posts(20)
    head = ZeroShot(class_vectors={"image": vectors["image"]}).fit({"image": X["image"]}, y)
    unit = X["image"] / np.linalg.norm(X["image"], axis=1, keepdims=True)
    classes = np.array([vectors["image"][label] for label in LABELS])
    logits = 100 * unit @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        head.predict_proba({"image": X["image"]}), expected / expected.sum(axis=1, keepdims=True)
    )
    assert head.chosen_ == {"factor": 100.0, "input_weights": [1.0]}


def test_training_rows_change_nothing() -> None:
    X, y, vectors = posts(40)
    some, others = (
        ZeroShot(class_vectors=vectors).fit(X[rows], y[rows]) for rows in (slice(0, 20), slice(20, 40))
    )
    np.testing.assert_array_equal(some.predict_proba(X), others.predict_proba(X))


def test_factor_and_weights_are_fitted_on_val() -> None:
    X, y, vectors = posts(30)
    V, v, _ = posts(300, seed=1, noise=1.0)
    head = ZeroShot(class_vectors=vectors).fit(X, y, val=(V, v))
    assert 0 < head.factor_ < 100
    image, text = head.chosen_["input_weights"]
    assert image > text
    assert head.refit(X, y).chosen_ == head.chosen_


def test_no_rows_at_all_are_enough() -> None:
    X, _, vectors = posts(30)
    head = ZeroShot(class_vectors=vectors).fit(X[[]], [])
    assert head.classes_.tolist() == ["calm", "flood"]
    assert head.predict(X).shape == (30,)
    with pytest.raises(UsageError, match="two classes at least"):
        ZeroShot(class_vectors={"x": {"calm": [1.0]}}).fit(np.zeros((0, 1)), [])


def test_a_row_is_compared_by_the_inputs_it_has() -> None:
    X, y, vectors = posts(30)
    both = ZeroShot(class_vectors=vectors).fit(X, y)
    alone = ZeroShot(class_vectors={"image": vectors["image"]}).fit({"image": X["image"]}, y)
    lacking = Inputs({"image": X["image"], "text": np.zeros((30, 16))}, {"text": np.zeros(30, bool)})
    np.testing.assert_allclose(both.predict_proba(lacking), alone.predict_proba({"image": X["image"]}))


def test_vectors_are_saved_apart(tmp_path: Path) -> None:
    X, y, vectors = posts(30)
    head = ZeroShot(class_vectors=vectors).fit(X, y)
    head.save(tmp_path)
    assert "class_vectors" not in json.loads((tmp_path / "head.json").read_text())["params"]
    again = Head.load(tmp_path)
    assert again.get_params() == head.get_params()
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    np.testing.assert_allclose(again.refit(X, y).predict_proba(X), head.predict_proba(X))


def test_without_vectors_the_mean_direction_of_a_class_is_its_description() -> None:
    X, y, _ = posts(200)
    assert ZeroShot().fit(X, y).score(*posts(100, seed=1)[:2]) > 0.95


@pytest.mark.parametrize("family", [ZeroShot, TipAdapter])
def test_vectors_that_do_not_fit_are_named(family: type[Head]) -> None:
    X, y, vectors = posts(20)
    for wrong, message in (
        ({"image": {"calm": [0.0] * 16}, "text": vectors["text"]}, "none for flood"),
        ({"image": {"calm": [0.0], "flood": [1.0]}, "text": vectors["text"]}, "of its width, 16"),
        ({"caption": vectors["text"]}, "caption"),
        (vectors["text"], "for each input|by input"),
    ):
        with pytest.raises(UsageError, match=message):
            family(class_vectors=wrong).fit(X, y)


def test_tip_adapter_is_the_papers_formula() -> None:
    X, y, vectors = posts(24, noise=1.0)
    X, y = Inputs({"image": X["image"]}), np.sort(y)
    y[:12], y[12:] = "calm", "flood"  # equal shots, as in the paper
    V = posts(10, seed=1)[0]["image"]
    head = TipAdapter(
        class_vectors={"image": vectors["image"]}, alpha=3.0, beta=5.5, factor=20.0, centre=False
    ).fit(X, y)
    keys, rows = (A / np.linalg.norm(A, axis=1, keepdims=True) for A in (X["image"], V))
    logits = np.zeros((10, 2))
    for i in range(10):
        for c, label in enumerate(LABELS):
            described = np.array(vectors["image"][label])
            logits[i, c] = 20 * rows[i] @ described / np.linalg.norm(described)
            for j in np.flatnonzero(y == label):
                logits[i, c] += 3 * np.exp(-5.5 * (1 - rows[i] @ keys[j])) / 12
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba({"image": V}), expected, atol=1e-6)


def test_the_cache_helps_a_poor_description() -> None:
    X, y, vectors = posts(200, noise=0.8)
    V, v, _ = posts(300, seed=1, noise=0.8)
    W, w, _ = posts(300, seed=2, noise=0.8)
    rng = np.random.default_rng(0)
    poor = {
        name: {label: (np.array(vector) + 2 * rng.normal(size=16)).tolist() for label, vector in of.items()}
        for name, of in vectors.items()
    }
    zero, tip = (family(class_vectors=poor).fit(X, y, val=(V, v)) for family in (ZeroShot, TipAdapter))
    codes = np.searchsorted(LABELS, w)
    assert (
        criteria(codes, tip.predict_proba(W))["log_loss"]
        < criteria(codes, zero.predict_proba(W))["log_loss"] - 0.05
    )


def test_the_cache_is_bounded_and_keeps_every_class(data: Data) -> None:
    X, y = data(300)
    y = np.where(np.arange(300) == 7, 9, y % 2)
    head = TipAdapter(cache=50).fit(X, y, val=(X, y))
    assert len(head.codes_) <= 51
    assert set(head.codes_.tolist()) == {0, 1, 2}
    assert len(TipAdapter().fit(X, y, val=(X, y)).codes_) == 300


def test_alpha_and_beta_are_the_best_on_val(data: Data) -> None:
    X, y = data(120, noise=3.0)
    V, v = data(120, seed=1, noise=3.0)
    head = TipAdapter().fit(X, y, val=(V, v))
    best = min(head.curve_, key=lambda row: row["log_loss"])
    assert head.chosen_ == {name: best[name] for name in ("beta", "alpha", "factor", "centre")}
    chosen = -np.log(head.predict_proba(V)[np.arange(120), v]).mean()
    for alpha in (head.alpha_ / 2, head.alpha_ * 2):
        other = TipAdapter(**{**head.chosen_, "alpha": alpha}).fit(X, y)
        assert -np.log(other.predict_proba(V)[np.arange(120), v]).mean() > chosen


def test_tip_adapter_weighs_classes_by_their_frequency(data: Data) -> None:
    X, y = data(300, k=2)
    rare = (y == 0) | (np.arange(300) % 10 == 1)
    X, y = X[rare], y[rare]
    settings = {"alpha": 10.0, "beta": 5.5, "centre": False}
    plain, even = (TipAdapter(**settings, class_weight=weight).fit(X, y) for weight in (None, "balanced"))
    odds = [np.divide(*head.predict_proba(X).T[::-1]) for head in (plain, even)]
    shift = np.log(odds[1]) - np.log(odds[0])
    np.testing.assert_allclose(shift, np.log((y == 0).sum() / (y == 1).sum()))
    chosen = TipAdapter(class_weight={1: 9.0}).fit(X, y)
    assert (chosen.predict(X) == 1).sum() >= (TipAdapter().fit(X, y).predict(X) == 1).sum()
    with pytest.raises(UsageError, match="above zero"):
        TipAdapter(class_weight={1: 0.0}).fit(X, y)
