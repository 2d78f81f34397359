from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.heads.holdout import groups_of, held_out


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


def test_groups_join_through_any_column() -> None:
    image = np.array(["1", "1", "2", None, None], object)
    text = np.array(["x", "y", "y", "z", None], object)
    groups = groups_of([image, text])
    assert groups[0] == groups[1] == groups[2]
    assert len({groups[0], groups[3], groups[4]}) == 3
