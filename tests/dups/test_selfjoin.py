"""The join finds what scoring every pair finds: to the pair, to the bit, whatever it is made of and by."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.dups import join as join_module
from icehouse.dups import window as window_module
from icehouse.dups.join import (
    Asked,
    NumpyTiles,
    Plan,
    RowSet,
    TorchTiles,
    choose_tiles,
    cross_join,
    pair_cosines,
    self_join,
)
from icehouse.dups.window import Coordinates
from icehouse.errors import UsageError


def brute_force(X, Y, threshold, mean=None):
    """Every pair scored in float64, one by one; i < j where Y is None."""
    left = RowSet.of(X, mean).measure()
    right = left if Y is None else RowSet.of(Y, mean).measure()
    usable = np.outer(left.squares > 0, right.squares > 0)
    i, j = np.nonzero(np.triu(usable, 1) if Y is None else usable)
    cosine = pair_cosines(left, right, i, j)
    keep = cosine >= (threshold.of(i, j) if isinstance(threshold, Asked) else threshold)
    return i[keep], j[keep], cosine[keep]


def assert_same(block, expected):
    for got, want in zip((block.i, block.j, block.cosine), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def engine(name, rows=512, columns=2048):
    if name == "numpy":
        return NumpyTiles(rows, columns)
    return TorchTiles("cpu", name, rows, columns)


def spectral(n, dim, seed=0, copies=0.1):
    """Rows with a decaying spectrum, of which a share is near another row."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim)) / np.sqrt(np.arange(dim) + 4)
    near = rng.choice(n, (2, int(copies * n)))
    noise = rng.standard_normal((near.shape[1], dim)) / np.sqrt(np.arange(dim) + 4)
    X[near[0]] = X[near[1]] + rng.uniform(0, 0.6, (near.shape[1], 1)) * noise
    return (X @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]).astype(np.float16)


@st.composite
def cases(draw):
    """Few distinct values, so that copies, multiples, zeros and ties abound, and NaN, infinities and huge contrasts."""
    dim = draw(st.integers(1, 6))
    values = st.sampled_from([0.0, 0.0, 1.0, 1.0, -1.0, 2.0, 0.5, 3.0, 1e-3, 6e4, 6e-8, np.nan, np.inf])
    rows = st.lists(st.lists(values, min_size=dim, max_size=dim), max_size=14)
    kind = draw(st.sampled_from([np.float16, np.float32]))
    X, Y = (np.array(draw(rows), kind).reshape(-1, dim) for _ in range(2))
    scores = brute_force(X, None, -1)[2]
    ties = st.sampled_from(sorted({float(s) for s in scores if s > 0} | {0.5}))
    threshold = draw(st.one_of(ties, st.sampled_from([1e-6, 0.3, 0.5, 0.9, 0.95, 1.0])))
    lead = draw(st.integers(0, dim))
    middle = draw(st.integers(lead, dim))
    axes = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 9))).standard_normal((dim, dim)))[0]
    plan = Plan(lead, middle, None, draw(st.sampled_from([None, axes[:, :middle]])))
    return X, Y, threshold, plan, draw(st.integers(1, 5)), draw(st.integers(1, 6))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpy", "bfloat16", "float32"])
@given(case=cases(), threads=st.integers(1, 3))
@settings(deadline=None, max_examples=120)
def test_adversarial_rows_give_the_pairs_of_brute_force(name, case, threads):
    X, Y, threshold, plan, rows, columns = case
    tiles = engine(name if threshold >= 0.05 else "numpy", rows, columns)
    options = {"threads": threads, "plan": plan, "tiles": tiles}
    assert_same(self_join(X, threshold, **options).collect(), brute_force(X, None, threshold))
    assert_same(cross_join(X, Y, threshold, **options).collect(), brute_force(X, Y, threshold))


@st.composite
def asking(draw, X, Y):
    """A threshold for each row; some are such that a pair has exactly what its two rows ask for."""
    scores = [float(s) for s in brute_force(X, None, -1)[2]]
    values = st.sampled_from([*scores, 0.0, 0.3, 0.5, 0.9, 1.0, 1.5, -0.5, -1.0, 3.0, -3.0])
    return Asked(*(np.array([draw(values) for _ in rows], np.float64) for rows in (X, Y)))


@pytest.mark.parametrize("name", ["numpy", "bfloat16", "float32"])
@given(data=st.data(), case=cases(), threads=st.integers(1, 2))
@settings(deadline=None, max_examples=25)
def test_rows_that_ask_for_cosines_of_their_own_get_the_pairs_of_brute_force(name, data, case, threads):
    X, Y, _, plan, rows, columns = case
    asked = data.draw(asking(X, Y))
    options = {"threads": threads, "plan": plan, "tiles": engine(name, rows, columns)}
    within = Asked(asked.left, asked.left)
    assert_same(self_join(X, asked.left, **options).collect(), brute_force(X, None, within))
    assert_same(cross_join(X, Y, asked, **options).collect(), brute_force(X, Y, asked))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_chosen_plan_serves_rows_that_ask_for_cosines_of_their_own(seed, monkeypatch):
    monkeypatch.setattr(join_module, "_PLAN_FROM", -20.0 * 48**3)
    X = spectral(400, 48, seed)
    asked = np.random.default_rng(seed).uniform(0.7, 1.0, len(X))
    join = self_join(X, asked, threads=2)
    assert_same(join.collect(), brute_force(X, None, Asked(asked, asked)))
    assert join.stats.explained is not None
    assert join.stats.after_lead < join.stats.comparisons
    assert 0 < join.stats.pairs < len(self_join(X, 0.7).collect())


def test_thresholds_that_are_not_one_a_row_are_refused():
    X = spectral(10, 4)
    for asked in (np.full(9, 0.5), np.full(10, np.nan), np.full(10, 4.0)):
        with pytest.raises(UsageError, match="10 rows need as many thresholds"):
            self_join(X, asked)


@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=15)
def test_chosen_plan_gives_the_pairs_of_brute_force(seed, threshold):
    X = spectral(300, 48, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join_module, "_PLAN_FROM", -20.0 * 48**3)
        join = self_join(X, threshold, threads=2, device="numpy")
        assert_same(join.collect(), brute_force(X, None, threshold))
    assert join.stats.explained is not None
    assert join.stats.pairs == len(brute_force(X, None, threshold)[0]) > 0


def test_definition_agrees_with_a_plain_matrix_product():
    X = spectral(400, 32)
    U = X.astype(np.float64)
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    products = U @ U.T
    assert np.abs(products - 0.9)[np.triu_indices(400, 1)].min() > 1e-12  # no tie that rounding could decide
    i, j = np.nonzero(np.triu(products >= 0.9, 1))
    block = self_join(X, 0.9).collect()
    np.testing.assert_array_equal(np.stack([block.i, block.j]), np.stack([i, j]))
    np.testing.assert_allclose(block.cosine, products[i, j], atol=1e-12)


@pytest.mark.slow
def test_bounds_leave_little_to_score(monkeypatch):
    monkeypatch.setattr(join_module, "_PLAN_FROM", -20.0 * 128**3)
    X = spectral(3000, 128, copies=0.02)
    join = self_join(X, 0.95, device="numpy")
    assert_same(join.collect(), brute_force(X, None, 0.95))
    stats = join.stats
    assert stats.lead < stats.dim
    assert stats.comparisons == 3000 * 2999 // 2
    assert stats.pairs <= stats.after_middle <= stats.after_lead < 0.01 * stats.comparisons
    assert 0.2 < stats.explained < 1


def test_white_noise_falls_back_to_whole_vectors(monkeypatch):
    monkeypatch.setattr(join_module, "_PLAN_FROM", -20.0 * 64**3)
    X = np.random.default_rng(0).standard_normal((1500, 64)).astype(np.float32)
    join = self_join(X, 0.5, device="numpy")
    assert_same(join.collect(), brute_force(X, None, 0.5))
    assert join.stats.lead == join.stats.dim


@pytest.mark.parametrize("name", ["numpy", "bfloat16", "float32"])
def test_engine_threads_and_tiles_change_nothing(name):
    X = spectral(500, 40)
    axes = np.linalg.eigh((X.T @ X).astype(np.float64))[1][:, ::-1][:, :20].copy()
    expected = brute_force(X, None, 0.85)
    assert len(expected[0]) > 20
    for threads, rows, columns in ((1, 512, 2048), (3, 64, 100), (2, 7, 33)):
        plan = Plan(7, 20, None, axes)
        join = self_join(X, 0.85, threads=threads, plan=plan, tiles=engine(name, rows, columns))
        assert_same(join.collect(), expected)
        assert join.stats.comparisons == 500 * 499 // 2


@pytest.mark.parametrize("name", ["numpy", "bfloat16", "float32"])
@pytest.mark.parametrize("height", [64, 63])
def test_tile_lists_every_entry_that_reaches_the_floor(name, height):
    tiles, rng = engine(name), np.random.default_rng(0)
    V = rng.standard_normal((height + 200, 33)).astype(np.float32)
    V /= np.linalg.norm(V, axis=1, keepdims=True)
    V[-3:] = V[:3]
    loaded = tiles.load(V)
    rows, columns = slice(0, height), slice(height, height + 200)
    products = (V[rows].astype(np.float64) @ V[columns].astype(np.float64).T).ravel()
    for value in (0.9, 0.4, 0.05):  # from a few to nearly half of all
        floor = tiles.floor(value - tiles.slack(loaded, loaded))
        found = set(tiles.scan(loaded, rows, loaded, columns, floor, tiles.scratch()).tolist())
        assert found >= set(np.flatnonzero(products >= value).tolist())
        assert all(products[k] >= value - 2 * tiles.slack(loaded, loaded) - 0.004 for k in found)


def test_equal_rows_all_match_at_exactly_one():
    X = np.tile(np.float32([0.1, -0.7, 0.3]), (60, 1))
    block = self_join(X, 1.0, plan=Plan(1, 2), tiles=NumpyTiles(8, 16)).collect()
    assert len(block) == 60 * 59 // 2
    assert set(block.cosine) == {1.0}


def test_crowded_stripes_are_cut_and_tiles_multiplied(monkeypatch):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal(16) + 0.1 * rng.standard_normal((400, 16))).astype(np.float16)
    X[::7] = rng.standard_normal((58, 16))
    expected = brute_force(X, None, 0.98)
    assert 0.2 < len(expected[0]) / (400 * 399 / 2) < 0.9
    monkeypatch.setattr(join_module, "_GATHER", 16)
    for limit in (10**9, 3000, 50):
        monkeypatch.setattr(join_module, "_TOO_MANY", limit)
        for plan in (Plan(4, 4), Plan(4, 8), Plan(16, 16)):
            join = self_join(X, 0.98, threads=2, plan=plan, tiles=NumpyTiles(64, 128))
            assert_same(join.collect(), expected)
            assert join.stats.comparisons == 400 * 399 // 2


@pytest.mark.parametrize(
    ("cap", "capped"), [(1, True), (100, True), (1225, False), (1224, True), (5000, False)]
)
def test_cap_keeps_the_first_pairs_and_says_so(cap, capped):
    X = np.ones((50, 4), np.float16)
    everything = self_join(X, 0.9).collect()
    join = self_join(X, 0.9, max_pairs=cap, tiles=NumpyTiles(7, 11))
    block = join.collect()
    assert join.stats.capped is capped
    assert join.stats.pairs == len(block) == min(cap, 1225)
    assert_same(block, (everything.i[:cap], everything.j[:cap], everything.cosine[:cap]))


def test_cap_reached_at_the_end_of_a_stripe_is_reported_only_if_more_follow():
    X = np.eye(8, dtype=np.float32)[[0, 0, 1, 2, 3, 4, 5, 5]]
    for cap, capped in ((1, True), (2, False)):
        join = self_join(X, 0.9, max_pairs=cap, tiles=NumpyTiles(2, 2))
        blocks = list(join)
        assert all(len(block) for block in blocks)
        assert (sum(map(len, blocks)), join.stats.capped) == (cap, capped)


def test_unusable_rows_match_nothing_and_are_named():
    X = np.ones((6, 3), np.float32)
    X[1], X[3, 0], X[4, 2] = 0, np.nan, np.inf
    join = self_join(X, 0.01)
    assert [(int(i), int(j)) for block in join for i, j in zip(block.i, block.j, strict=True)] == [
        (0, 2),
        (0, 5),
        (2, 5),
    ]
    assert join.left.unusable.tolist() == [1, 3, 4]
    assert join.stats.unusable == 3
    crossed = cross_join(X, X[:2].copy(), 0.01)
    assert crossed.collect().i.tolist() == [0, 2, 5]
    assert crossed.stats.unusable == 4


def test_mean_is_subtracted_before_directions_are_taken():
    X = spectral(300, 32) + np.float16(0.5)
    mean = X.mean(axis=0, dtype=np.float64)
    expected = brute_force(X, None, 0.85, mean)
    assert 0 < len(expected[0]) < 1000 < len(brute_force(X, None, 0.85)[0])
    assert_same(self_join(X, 0.85, mean=mean).collect(), expected)
    assert_same(cross_join(X, X[:50], 0.85, mean=mean).collect(), brute_force(X, X[:50], 0.85, mean))
    assert self_join(np.ones((9, 32), np.float16), 0.5, mean=np.ones(32)).collect().i.tolist() == []
    # What is left of equal rows by a mean that is off in its last digits has no direction.
    rest = self_join(np.full((9, 32), 0.1, np.float32), 0.5, mean=np.full(32, 0.1))
    assert len(rest.collect()) == 0
    assert rest.stats.unusable == 9


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 1), (3, 0)])
def test_smallest_sets(shape):
    X = np.ones(shape, np.float16)
    join = self_join(X, 1.0)
    assert len(join.collect()) == (1 if shape == (2, 1) else 0)
    assert join.stats.comparisons == shape[0] * (shape[0] - 1) // 2
    assert len(cross_join(X, X[:0], 0.5).collect()) == 0
    assert len(cross_join(X[:0], X, 0.5).collect()) == 0


def test_rows_mapped_from_disk(tmp_path):
    X = spectral(200, 16)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(self_join(mapped, 0.9).collect(), brute_force(X, None, 0.9))


def test_progress_rises_to_all_comparisons():
    X, seen = spectral(200, 16), []
    self_join(
        X, 0.9, progress=lambda done, total: seen.append((done, total)), tiles=NumpyTiles(16, 64)
    ).collect()
    assert {total for _, total in seen} == {200 * 199 // 2}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1]


def test_reader_that_stops_leaves_nothing_running():
    from threadpoolctl import threadpool_info

    limits = [pool["num_threads"] for pool in threadpool_info()]
    join = iter(self_join(np.ones((400, 8), np.float16), 0.9, tiles=NumpyTiles(4, 16), threads=2))
    assert len(next(join))
    join.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("icehouse-join")]
    assert [pool["num_threads"] for pool in threadpool_info()] == limits


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(UsageError, match="threshold"):
        self_join(np.ones((2, 2), np.float16), threshold)


def test_wrong_usage_is_named():
    X = np.ones((3, 2), np.float16)
    for problem, options in (
        ("cap", {"max_pairs": 0}),
        ("threads", {"threads": 0}),
        ("device", {"device": "abacus"}),
        ("mean", {"mean": np.ones(3)}),
        ("mean", {"mean": np.array([np.nan, 1])}),
    ):
        with pytest.raises(UsageError, match=problem):
            self_join(X, 0.9, **options)
    with pytest.raises(UsageError, match="float16 or float32"):
        self_join(X.astype(np.int32), 0.9)
    with pytest.raises(UsageError, match="float16 or float32"):
        self_join(X[0], 0.9)
    with pytest.raises(UsageError, match="2 and of 3"):
        cross_join(X, np.ones((3, 3), np.float16), 0.9)
    with pytest.raises(UsageError, match="no device"):
        choose_tiles("cuda:99", 1, 1)
    join = self_join(X, 0.9)
    join.collect()
    with pytest.raises(UsageError, match="once"):
        iter(join)


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("floor", [0.3, 1.0, 1e-4])
def test_rows_that_are_replaced_one_by_one_lose_no_product(
    halved: bool, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(window_module, "has_bfloat16", lambda: halved)
    rng = np.random.default_rng(1)
    held = Coordinates(9000, 24, floor)
    assert held.data.itemsize == (2 if halved and floor > 0.25 else 4)
    rows, left = (rng.standard_normal((n, 24)).astype(np.float32) for n in (8500, 5))
    rows, left = (V / np.linalg.norm(V, axis=1, keepdims=True) * np.float32(1.5) for V in (rows, left))
    rows[::50] = left[0]
    held[:8500] = rows
    held[7] = rows[7] = left[1]
    products = left.astype(np.float64) @ rows.T.astype(np.float64)
    floor = float(np.quantile(products, 0.99)) if floor == 1.0 else floor
    found = set(zip(*(part.tolist() for part in held.reaching(left, floor, 2.26, 8500)), strict=True))
    assert set(zip(*(part.tolist() for part in np.nonzero(products >= floor)), strict=True)) <= found
    assert found <= set(zip(*(part.tolist() for part in np.nonzero(products >= floor - 0.05)), strict=True))
    # What is read back is stored as it was.
    again = held[:8500]
    held[:8500] = again
    assert np.array_equal(held[:8500], again)
    assert np.abs(again - rows).max() <= (1.5 * 2**-8 if held.data.itemsize == 2 else 0)
