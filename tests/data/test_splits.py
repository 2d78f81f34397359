from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.splits import canonical_split, folds, grouped_split, held_out, stratified_split
from icehouse.errors import UsageError

IDS = [f"post-{i}" for i in range(200)]
LABELS = ["a"] * 150 + ["b"] * 40 + ["c"] * 10


def test_each_class_keeps_the_ratios() -> None:
    result = stratified_split(IDS, LABELS)
    counted = Counter(zip(LABELS, result.tolist(), strict=True))
    assert [counted["a", s] for s in ("train", "dev", "test")] == [120, 15, 15]
    assert [counted["b", s] for s in ("train", "dev", "test")] == [32, 4, 4]
    assert [counted["c", s] for s in ("train", "dev", "test")] == [8, 1, 1]


def test_the_result_is_pinned() -> None:
    # A published split must come out again on any machine and in any later version.
    expected = ["train", "train", "dev", "train", "train", "train", "train", "train", "test", "train"]
    assert stratified_split(list("abcdefghij"), seed=0).tolist() == expected


def test_another_seed_is_another_split() -> None:
    assert (stratified_split(IDS, LABELS, seed=1) != stratified_split(IDS, LABELS, seed=2)).any()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["x", "y", None]), st.one_of(st.none(), st.integers(0, 6))),
        min_size=1,
        max_size=60,
    ),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_order_never_matters_and_groups_never_part(
    rows: list[tuple[str | None, int | None]], seed: int, data: st.DataObject
) -> None:
    ids = [f"é{i}" for i in range(len(rows))]
    labels = [label for label, _ in rows]
    groups = [group for _, group in rows]
    result = stratified_split(ids, labels, seed=seed, groups=groups)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = stratified_split(
        [ids[i] for i in order], [labels[i] for i in order], seed=seed, groups=[groups[i] for i in order]
    )
    assert shuffled.tolist() == result[list(order)].tolist()
    for group in set(groups) - {None}:
        assert len({result[i] for i in range(len(rows)) if groups[i] == group}) == 1


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "dev": 1, "test": 1}),
        (4, {"train": 2, "dev": 1, "test": 1}),
        (20, {"train": 16, "dev": 2, "test": 2}),
    ],
)
def test_tiny_classes(n: int, expected: dict[str, int]) -> None:
    result = stratified_split([str(i) for i in range(n)], ["rare"] * n)
    assert Counter(result.tolist()) == expected


def test_large_groups_do_not_break_the_shares() -> None:
    groups = [i // 10 for i in range(200)]
    result = stratified_split(IDS, groups=groups)
    assert Counter(result.tolist()) == {"train": 160, "dev": 20, "test": 20}


def test_zero_share_gets_nothing() -> None:
    result = stratified_split(IDS, ratios={"train": 0.5, "dev": 0.0, "test": 0.5})
    assert Counter(result.tolist()) == {"train": 100, "test": 100}


def test_nothing_to_split() -> None:
    assert stratified_split([]).shape == (0,)
    assert stratified_split(["a"]).dtype.kind == "U"


@pytest.mark.parametrize(
    "ratios", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}, {"train": 80, "test": 20}]
)
def test_bad_ratios(ratios: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="not shares of 1"):
        stratified_split(IDS, ratios=ratios)


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="'a' is there 2 times"):
        stratified_split(["a", "b", "a"])
    with pytest.raises(UsageError, match="1 label for 2 ids"):
        stratified_split(["a", "b"], ["x"])
    with pytest.raises(UsageError, match="3 groups for 2 ids"):
        stratified_split(["a", "b"], groups=[1, 2, 3])


def test_arrays_are_taken_too() -> None:
    result = stratified_split(np.array(IDS), np.array(LABELS))
    assert result.tolist() == stratified_split(IDS, LABELS).tolist()


def test_canonical_names() -> None:
    for name in ("train", "Training", "val", "VALID", "validation", "dev", "test", "Testing"):
        assert canonical_split(name) == {"tr": "train", "te": "test"}.get(name[:2].lower(), "dev")
    assert [canonical_split(name) for name in ("test_unseen", "fold 3")] == ["test_unseen", "fold 3"]


ROWS = st.lists(
    st.tuples(st.sampled_from(["x", "y", "z", None]), st.one_of(st.none(), st.integers(0, 25))),
    min_size=1,
    max_size=90,
)


def split_or_refuse(
    ids: list[str], groups: list[int | None], labels: list[str | None], **how: int
) -> list[str] | None:
    try:
        return grouped_split(ids, groups, labels, **how).tolist()
    except UsageError:  # no group is small enough
        return None


@settings(deadline=None, max_examples=80)
@given(rows=ROWS, seed=st.integers(0, 5), data=st.data())
def test_groups_never_part_whatever_the_order(
    rows: list[tuple[str | None, int | None]], seed: int, data: st.DataObject
) -> None:
    ids = [f"é{i}" for i in range(len(rows))]
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    result = split_or_refuse(ids, groups, labels, seed=seed)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = split_or_refuse(*([values[i] for i in order] for values in (ids, groups, labels)), seed=seed)
    assert shuffled == (None if result is None else [result[i] for i in order])
    if result is not None:
        for group in set(groups) - {None}:
            assert len({result[i] for i in range(len(rows)) if groups[i] == group}) == 1


@settings(deadline=None, max_examples=80)
@given(rows=ROWS, seed=st.integers(0, 5))
def test_shares_are_as_near_as_groups_permit(rows: list[tuple[str | None, int | None]], seed: int) -> None:
    ids = [str(i) for i in range(len(rows))]
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    result = split_or_refuse(ids, groups, labels, seed=seed)
    sizes = [*Counter(group for group in groups if group is not None).values(), *[1] * groups.count(None)]
    room = max(1, -(-len(rows) // 10))
    slack = max((size for size in sizes if size <= room), default=0) + len(set(labels))
    if result is None:
        assert max(sizes) > 1
        return
    counted = Counter(result)
    for split in ("dev", "test"):
        assert counted[split] <= 0.1 * len(rows) + slack
        if max(sizes) <= room:
            assert counted[split] >= 0.1 * len(rows) - slack
    if len(sizes) >= 3:
        assert min(counted[split] for split in ("train", "dev", "test")) >= 1


def test_classes_stay_in_proportion_though_groups_mix_them() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    labels = rng.choice(["a", "b", "c"], n, p=[0.7, 0.25, 0.05])
    groups = rng.integers(0, 1200, n).tolist()
    result = grouped_split([str(i) for i in range(n)], groups, labels.tolist())
    for label in "abc":
        of = Counter(result[labels == label].tolist())
        assert abs(of["test"] / (labels == label).sum() - 0.1) < 0.01
        assert abs(of["dev"] / (labels == label).sum() - 0.1) < 0.01


@pytest.mark.parametrize("ratios", [{"train": 0.8, "dev": 0.1, "test": 0.1}, {"train": 0.5, "test": 0.5}])
def test_a_group_larger_than_a_split_goes_to_train(ratios: dict[str, float]) -> None:
    groups = [0] * 60 + [None] * 40
    result = grouped_split(IDS[:100], groups, ratios=ratios)
    assert set(result[:60].tolist()) == {"train"}
    assert Counter(result.tolist())["test"] == (10 if ratios["test"] == 0.1 else 40)


def test_rare_classes_reach_every_split() -> None:
    labels = ["common"] * 190 + ["rare"] * 3 + ["rarer"] * 2 + ["rarest"] + ["common"] * 4
    groups = [i // 2 if i < 100 else None for i in range(200)]
    result = grouped_split(IDS, groups, labels)
    of = {name: Counter(result[np.array(labels) == name].tolist()) for name in ("rare", "rarer", "rarest")}
    assert of["rare"] == {"train": 1, "dev": 1, "test": 1}
    assert of["rarer"] == {"train": 1, "test": 1}
    assert of["rarest"] == {"train": 1}


def test_no_group_small_enough_is_said() -> None:
    with pytest.raises(UsageError, match=r"'test', which is to have 2 items: the smallest .* has 5"):
        grouped_split(IDS[:20], [i // 5 for i in range(20)], ratios={"train": 0.9, "test": 0.1})
    # With fewer groups than splits there is nothing to share out.
    assert set(grouped_split(IDS[:20], [0] * 20).tolist()) == {"train"}


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
