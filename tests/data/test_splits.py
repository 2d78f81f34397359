from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.splits import canonical_split, stratified_split
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
    with pytest.raises(UsageError, match="1 labels for 2 ids"):
        stratified_split(["a", "b"], ["x"])
    with pytest.raises(UsageError, match="3 groups for 2 ids"):
        stratified_split(["a", "b"], groups=[1, 2, 3])


def test_arrays_are_taken_too() -> None:
    result = stratified_split(np.array(IDS), np.array(LABELS))
    assert result.tolist() == stratified_split(IDS, LABELS).tolist()


def test_canonical_names() -> None:
    names = [
        "train",
        "Training",
        "val",
        "VALID",
        "validation",
        "dev",
        "test",
        "Testing",
        "test_unseen",
        "fold 3",
    ]
    assert [canonical_split(name) for name in names] == [
        *("train", "train", "dev", "dev", "dev", "dev", "test", "test", "test_unseen", "fold 3")
    ]
