from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from icehouse.heads.families.knn import Knn
from icehouse.heads.inputs import Inputs
from quick import Data
from sklearn.neighbors import KNeighborsClassifier


@pytest.mark.parametrize("k", [1, 4, 9])
def test_equals_scikit_learns_cosine_neighbours(data: Data, k: int) -> None:
    X, y = data(120, noise=2.0)
    V, _ = data(40, seed=1, noise=2.0)
    head = Knn(k=k, temperature=0.3, centre=False, prior=1e-9).fit(X["image"], y)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp(-distance / 0.3))
    theirs.fit(X["image"].astype(np.float64), y)
    np.testing.assert_allclose(
        head.predict_proba(V["image"]), theirs.predict_proba(V["image"].astype(np.float64)), atol=1e-5
    )


def test_inputs_are_weighed(data: Data) -> None:
    X, y = data(120)
    V, _ = data(30, seed=1)
    settings = {"k": 5, "temperature": 0.1, "centre": False}
    both = Knn(**settings, input_weights=[1.0, 0.0]).fit(X, y).predict_proba(V)
    np.testing.assert_allclose(both, Knn(**settings).fit(X["image"], y).predict_proba(V["image"]), atol=1e-9)


def test_the_input_that_tells_is_given_the_weight() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = {"image": rng.normal(size=(200, 6)), "text": rng.normal(size=(200, 6)) + 2 * y[:, None]}
    head = Knn().fit(X, y)
    image, text = head.chosen_["input_weights"]
    assert text > image


def test_centring_is_chosen_where_all_features_point_one_way() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(300) % 2
    X = rng.normal(size=(300, 8)) * 0.1 + 50
    X[:, 0] += 0.4 * y
    assert Knn().fit(X, y).chosen_["centre"] is True


def test_copies_at_the_border_all_count() -> None:
    X = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    proba = Knn(k=2, temperature=1.0, centre=False, prior=1e-9).fit(X, [0, 1, 1, 0]).predict_proba([[1.0, 0]])
    np.testing.assert_allclose(proba, [[1 / 3, 2 / 3]], atol=1e-6)


def test_a_row_that_lacks_an_input_is_compared_by_the_other(data: Data) -> None:
    X, y = data(60)
    head = Knn(k=5, temperature=0.1, centre=False, input_weights=None).fit(X, y)
    alone = Knn(k=5, temperature=0.1, centre=False).fit(X["image"], y)
    lacking = Inputs({"image": X["image"], "text": np.zeros_like(X["text"])}, {"text": np.zeros(60, bool)})
    np.testing.assert_allclose(head.predict_proba(lacking), alone.predict_proba(X["image"]), atol=1e-9)


def test_classes_can_be_weighed_up(data: Data) -> None:
    X, y = data(120, k=2, noise=4.0)
    plain, heavy = (Knn(k=20, temperature=0.5, class_weight=w).fit(X, y) for w in (None, {1: 5.0}))
    assert (heavy.predict(X) == 1).sum() > (plain.predict(X) == 1).sum()


def test_memory_does_not_grow_with_the_bank_times_the_rows() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 4)).astype(np.float32)
    head = Knn(k=5, temperature=0.1, centre=False).fit(X, np.arange(20_000) % 2)
    tracemalloc.start()
    try:
        head.predict_proba(X[:1024])
        # All similarities at once would be 164 MB, and their copies.
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_however_few_rows_fit_at_a_time(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    from icehouse.heads.families import knn

    X, y = data(90, noise=2.0)
    V, v = data(50, seed=1, noise=2.0)
    whole = Knn().fit(X, y, val=(V, v))
    monkeypatch.setattr(knn, "_HELD", 200)
    parts = Knn().fit(X, y, val=(V, v))
    assert parts.chosen_ == whole.chosen_
    np.testing.assert_allclose(parts.predict_proba(V), whole.predict_proba(V), atol=1e-12)


def test_memory_of_a_choice_does_not_grow_with_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    from icehouse.heads.families import knn

    monkeypatch.setattr(knn, "_HELD", 100_000)
    rng = np.random.default_rng(0)
    X, V = rng.normal(size=(2, 400, 4)).astype(np.float32)
    y = np.arange(400) % 200
    tracemalloc.start()
    try:
        Knn(centre=False).fit(X, y, val=(V, y))
        # Probabilities of all 40 settings at once would be 26 MB.
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
