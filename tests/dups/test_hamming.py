"""Hashes within a distance: exactly those that comparing every pair finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.dups import hashing
from icehouse.dups.hashing import HashJoin, informative, random_pairs_expected, value_pairs
from icehouse.errors import UsageError


def near_hashes(seed: int, n: int, flips: int, centres: int) -> np.ndarray:
    """Hashes around a few centres, so that many lie within a few bits and some are equal."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, centres, dtype=np.uint64)
    hashes = base[rng.integers(0, centres, n)]
    for _ in range(flips):
        flip = np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64)
        hashes = np.where(rng.random(n) < 0.6, hashes ^ flip, hashes)
    return hashes


def brute(hashes: np.ndarray, usable: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    return [
        (i, j, d)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if usable[i] and usable[j] and (d := (int(hashes[i]) ^ int(hashes[j])).bit_count()) <= radius
    ]


def joined(join: HashJoin) -> list[tuple[int, int, int]]:
    return [
        (int(i), int(j), int(d))
        for block in join
        for i, j, d in zip(block.i, block.j, block.distance, strict=True)
    ]


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 60),
    radius=st.integers(0, 12),
    flips=st.integers(0, 10),
    block=st.sampled_from([1, 7, 10_000]),
)
@settings(deadline=None, max_examples=60)
def test_all_pairs_in_order(seed: int, n: int, radius: int, flips: int, block: int) -> None:
    hashes = near_hashes(seed, n, flips, 5)
    usable = np.random.default_rng(seed).random(n) < 0.9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "_BLOCK", block)
        assert joined(HashJoin(hashes, usable, radius)) == brute(hashes, usable, radius)


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("radius", [0, 3, 6, 13])
def test_every_plan_finds_the_same_once(k: int, radius: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.unique(near_hashes(radius, 250, 9, 12))
    monkeypatch.setattr(hashing, "_plan", lambda m, r: (max(r + k, 1), k))
    monkeypatch.setattr(hashing, "_CANDIDATES", 100)
    left, right, distance, capped = value_pairs(values, radius)
    every = brute(values, np.ones(len(values), bool), radius)
    assert list(zip(left.tolist(), right.tolist(), distance.tolist(), strict=True)) == every
    assert not capped


def test_a_cap_keeps_the_first_pairs() -> None:
    values = np.unique(near_hashes(1, 200, 4, 3))
    left, right, _, capped = value_pairs(values, 6)
    assert len(left) > 500
    assert not capped
    few = value_pairs(values, 6, max_pairs=100)
    assert few[3]
    assert few[0].tolist() == left[:100].tolist()
    assert few[1].tolist() == right[:100].tolist()


def test_many_equal_hashes_stream_without_holding_all_pairs() -> None:
    n = 3000
    join = HashJoin(np.full(n, 0xB2CDCD3232CDCD30, np.uint64), np.ones(n, bool), 6)
    first = next(iter(join))
    assert first.i[0] == 0
    assert first.j[: n - 1].tolist() == list(range(1, n))
    assert len(first.i) < hashing._BLOCK + n


def test_flat_images_say_nothing() -> None:
    assert informative(np.array([0, 1 << 63, 2**64 - 1, 0xB2CDCD3232CDCD30], np.uint64)).tolist() == [
        False,
        False,
        False,
        True,
    ]


def test_expected_pairs_grow_with_the_square() -> None:
    assert random_pairs_expected(1_000_000, 6) == pytest.approx(6.8, rel=0.05)
    assert random_pairs_expected(2000, 10) == pytest.approx(4 * random_pairs_expected(1000, 10), rel=0.01)


def test_a_radius_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 20"):
        HashJoin(np.zeros(2, np.uint64), np.ones(2, bool), 40)
