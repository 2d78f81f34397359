"""Groups: what each way promises, whatever the order of pairs, and the order of preference that they follow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.splits import groups_of
from icehouse.dups.groups import GROUPINGS, columns_for, group_pairs, grouping, preference
from icehouse.errors import UsageError

graphs = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60)
    )
)


def edges(pairs: set[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    proper = sorted((min(p), max(p)) for p in pairs if p[0] != p[1])
    return np.array([p[0] for p in proper], np.int64), np.array([p[1] for p in proper], np.int64)


def members(keeper: np.ndarray) -> dict[int, list[int]]:
    return {int(k): np.flatnonzero(keeper == k).tolist() for k in np.unique(keeper)}


def test_groups_join_through_any_column() -> None:
    image = np.array(["1", "1", "2", None, None], object)
    text = np.array(["x", "y", "y", "z", None], object)
    groups = groups_of([image, text])
    codes = groups_of([np.array([4, 4, 7, -1, -1]), text])
    assert codes.tolist() == groups.tolist()
    assert groups[0] == groups[1] == groups[2]
    assert len({groups[0], groups[3], groups[4]}) == 3


@pytest.mark.parametrize("method", GROUPINGS)
@given(graph=graphs, cut=st.integers(1, 9))
@settings(deadline=None, max_examples=80)
def test_groups_keep_their_promise(method: str, graph: tuple[int, set[tuple[int, int]]], cut: int) -> None:
    n, pairs = graph
    i, j = edges(pairs)
    near = {(a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True)}
    keeper = group_pairs(n, i, j, method)
    groups = members(keeper)
    for leader, rows in groups.items():
        assert leader == min(rows)
        if method == "star":
            assert all((leader, row) in near for row in rows if row != leader)
        if method == "cliques":
            assert all((a, b) in near for a in rows for b in rows if a < b)
    if method == "star":
        assert not any((a, b) in near for a in groups for b in groups)
    if method == "components":
        assert all(keeper[a] == keeper[b] for a, b in near)
        for rows in groups.values():
            seen, todo = {rows[0]}, [rows[0]]
            while todo:
                a = todo.pop()
                fresh = {b for b in rows if (min(a, b), max(a, b)) in near} - seen
                seen |= fresh
                todo += fresh
            assert seen == set(rows)
    # Fed in pieces, as the join gives them, it is the same.
    i, j = (np.unique(np.stack([i, j]), axis=1)) if len(i) else (i, j)
    piecewise = grouping(method, n)
    for start in range(0, len(i), cut):
        piecewise.add(i[start : start + cut], j[start : start + cut])
    assert piecewise.keepers().tolist() == keeper.tolist()


@pytest.mark.parametrize("method", GROUPINGS)
@given(graph=graphs, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_the_order_of_pairs_does_not_matter(
    method: str, graph: tuple[int, set[tuple[int, int]]], seed: int
) -> None:
    n, pairs = graph
    i, j = edges(pairs)
    rng = np.random.default_rng(seed)
    order, swap = rng.permutation(len(i)), rng.random(len(i)) < 0.5
    a, b = np.where(swap, j, i)[order], np.where(swap, i, j)[order]
    assert group_pairs(n, a, b, method).tolist() == group_pairs(n, i, j, method).tolist()


def test_a_chain_stays_whole_only_as_a_component() -> None:
    i = np.arange(9)
    assert len(members(group_pairs(10, i, i + 1, "components"))) == 1
    assert len(members(group_pairs(10, i, i + 1, "star"))) == 5
    assert len(members(group_pairs(10, i, i + 1, "cliques"))) == 5


def test_an_unknown_grouping_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="star, components, cliques"):
        group_pairs(1, np.empty(0), np.empty(0), "louvain")


def items(**columns: Any) -> pa.Table:
    n = len(columns["item_id"])
    types = {
        "text": pa.string(), "width": pa.int32(), "height": pa.int32(), "format": pa.string(),
        "bytes": pa.int64(), "mtime_ns": pa.int64(), "added": pa.timestamp("us", tz="UTC"),
    }  # fmt: skip
    given_ = {name: pa.array(columns.pop(name, [None] * n), kind) for name, kind in types.items()}
    return pa.table({**given_, **columns})


PICTURES = {
    "item_id": ["small", "large", "bloated", "shot", "none"],
    "width": [100, 200, 400, 200, None],
    "height": [100, 200, 400, 200, None],
    "format": ["PNG", "JPEG", "JPEG", "PNG", None],
    "bytes": [9_000, 12_000, 9_000, 50_000, None],
    "mtime_ns": [5, 4, 3, 4, None],
    "added": [datetime(2026, 1, d, tzinfo=UTC) for d in (1, 2, 3, 1, 5)],
    "likes": ["10", "9", None, "100", "2"],
    "who": ["b", "a", "a", None, "c"],
}


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("largest", ["bloated", "shot", "large", "small", "none"]),
        ("best", ["shot", "large", "bloated", "small", "none"]),
        ("oldest", ["bloated", "shot", "large", "small", "none"]),
        ("likes", ["none", "large", "small", "shot", "bloated"]),
        ("likes:desc", ["shot", "small", "large", "none", "bloated"]),
        ("who", ["bloated", "large", "small", "none", "shot"]),
    ],
)
@pytest.mark.parametrize("shift", range(3))
def test_policies(policy: str, order: list[str], shift: int) -> None:
    turned = {name: values[shift:] + values[:shift] for name, values in PICTURES.items()}
    table = items(**turned)
    assert set(columns_for(policy)) <= set(table.column_names)
    assert [turned["item_id"][row] for row in preference(table, policy)] == order


def test_what_is_margin_does_not_count_for_the_best() -> None:
    framed = {
        "item_id": ["framed", "plain", "other"],
        "width": [120, 100, 90],
        "height": [100] * 3,
        "format": ["PNG"] * 3,
    }
    table = items(**framed)
    assert preference(table, "best").tolist() == [0, 1, 2]
    inside = np.array([0.8, np.nan, 1.0])
    assert preference(table, "best", inside).tolist()[0] == 1
    assert preference(table, "largest", inside).tolist() == [0, 1, 2]
    # Unless what is within the frame is clearly more.
    large = items(**{**framed, "width": [300, 100, 90]})
    assert preference(large, "best", inside).tolist()[0] == 0


@pytest.mark.parametrize("noise", [0.97, 0.99, 1.0, 1.01, 1.03])
@pytest.mark.parametrize("side", [90, 150, 300, 1000])
def test_how_well_a_margin_is_seen_does_not_decide(noise: float, side: int) -> None:
    """Of one picture and its framed copies the picture; how much of them is within was measured with some error."""
    pixels = [side, round(side * 1.1), round(side * 1.3)]
    table = items(item_id=["plain", "thin", "thick"], width=pixels, height=pixels, format=["PNG"] * 3)
    inside = np.array([1.0, (side / pixels[1]) ** 2 * noise, (side / pixels[2]) ** 2 / noise])
    assert preference(table, "best", np.minimum(inside, 0.99) * [1 / 0.99, 1, 1]).tolist()[0] == 0


def test_of_texts_the_longest_is_the_largest_and_the_id_decides_last() -> None:
    table = items(item_id=["b", "a", "c"], text=["same", "same", "longer text"])
    assert preference(table, "largest").tolist() == [2, 1, 0]
    assert preference(table, "best").tolist() == [2, 1, 0]


def test_ids_of_posts_and_times_are_told_apart_to_the_last_digit() -> None:
    posts = [str(2**62 + k) for k in (3, 1, 2)]
    table = items(item_id=["c", "b", "a"], post=posts, mtime_ns=[10**18 + k for k in (3, 1, 2)])
    for column in ("post", "mtime_ns"):
        assert preference(table, column).tolist() == [1, 2, 0]
        assert preference(table, f"{column}:desc").tolist() == [0, 2, 1]
    odd = items(item_id=["a", "b", "c"], score=["nan", "-1.5", "2"], flag=pa.array([None, True, False]))
    assert preference(odd, "score").tolist() == [1, 2, 0]
    assert preference(odd, "score:desc").tolist() == [2, 1, 0]
    assert preference(odd, "flag").tolist() == [2, 1, 0]


def test_no_such_column() -> None:
    with pytest.raises(UsageError, match="'nothing'"):
        preference(items(item_id=["a"]), "nothing")
