from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import create
from icehouse.heads.selection import folds, held_out, same_rows
from quick import quick

Data = Callable[..., tuple[Inputs, np.ndarray]]


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    group_size=st.integers(1, 4),
    seed=st.integers(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_every_class_stays_in_training_and_groups_stay_whole(
    counts: list[int], group_size: int, seed: int
) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    groups = np.arange(len(y)) // group_size
    part = held_out(y, groups=groups, seed=seed)
    if part is None:
        return
    assert set(y[~part]) == set(y)
    assert not set(groups[part]) & set(groups[~part])
    assert part.any()


def test_a_fifth_of_each_class() -> None:
    y = np.repeat(["a", "b"], [100, 50])
    part = held_out(y)
    assert part is not None
    assert (y[part] == "a").sum() == 20
    assert (y[part] == "b").sum() == 10


def test_does_not_depend_on_the_order_of_the_rows() -> None:
    y = np.repeat(["a", "b"], [60, 30])
    ids = np.array([f"i{i}" for i in range(90)])
    order = np.random.default_rng(0).permutation(90)
    first, second = held_out(y, ids=ids), held_out(y[order], ids=ids[order])
    assert first is not None
    assert second is not None
    assert set(ids[first]) == set(ids[order][second])
    other = held_out(y, ids=ids, seed=1)
    assert other is not None
    assert set(ids[first]) != set(ids[other])


def test_nothing_to_hold_out() -> None:
    assert held_out(np.array(["a", "b"])) is None


def test_folds_keep_groups_whole_and_classes_in_proportion() -> None:
    y, groups = np.repeat(["a", "a", "b", "b"], 30), np.arange(120) // 3
    fold = folds(y, 5, groups=groups, seed=1)
    for group in range(40):
        assert len(set(fold[groups == group])) == 1
    assert all((fold[y == label] == number).sum() == 12 for label in "ab" for number in range(5))
    # The same whatever the groups are called.
    np.testing.assert_array_equal(folds(y, 5, groups=1000 - 7 * groups, seed=1), fold)


def test_rows_with_equal_features_are_one_group() -> None:
    X = Inputs({"a": np.array([[1.0], [1.0], [1.0], [2.0]]), "b": np.array([[0.0], [0.0], [3.0], [0.0]])})
    assert same_rows(X).tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize("family", ["svm", "tip-adapter", "late-fusion", "online", "align", "logreg"])
def test_a_class_that_dev_lacks_is_not_lost(family: str, data: Data) -> None:
    X, y = data(160, k=4, noise=0.5)
    V, v = data(80, k=4, seed=1, noise=0.5)
    T, t = data(200, k=4, seed=2, noise=0.5)
    head = quick(family)
    whole = quick(family).fit(X, y, val=(V, v))
    assert whole.notes_ == []
    head.fit(X, y, val=(V[v != 3], v[v != 3]))
    assert ["dev has no row of 3" in note for note in head.notes_] == [True]
    of_it = t == 3
    assert (head.predict(T)[of_it] == 3).mean() >= (whole.predict(T)[of_it] == 3).mean() - 0.15
    assert head.score(T, t) > 0.8
    assert {name: getattr(head, name) for name in head.parameters()} == quick(family).get_params()


def test_a_class_with_one_row_that_dev_lacks_is_told(data: Data) -> None:
    X, y = data(160, k=4, noise=0.5)
    V, v = data(80, k=4, seed=1, noise=0.5)
    once = np.r_[np.flatnonzero(y != 3), np.flatnonzero(y == 3)[:1]]
    head = create("svm").fit(X[once], y[once], val=(V[v != 3], v[v != 3]))
    assert "too few to hold one out" in head.notes_[0]
    T, t = data(200, k=4, seed=2, noise=0.5)
    said = head.predict_proba(T)[:, 3]
    assert said[t == 3].min() > said[t == 0].max()  # not flat: its sigmoid is that of the others
