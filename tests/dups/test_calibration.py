"""A threshold that follows from the number of false pairs one bears, and survives duplicates among its negatives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.dups.calibration import (
    MIN_COSINE,
    Calibration,
    Covariance,
    HashRule,
    TailFit,
    _fit_pareto,
    apply_map,
    fit_bits,
    fit_map,
    fit_tail,
    largest_cosines,
    tail_size,
)
from icehouse.dups.local_scaling import fit_local
from icehouse.errors import CorruptError, StoreError, UsageError
from icehouse.store.store import Store


def unrelated(n: int = 400, dim: int = 24, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cosines(rows: np.ndarray) -> np.ndarray:
    return (rows.astype(np.float64) @ rows.T)[np.triu_indices(len(rows), 1)]


@pytest.fixture(scope="module")
def tail() -> TailFit:
    values = cosines(unrelated())
    return fit_tail(values, len(values))


@given(
    n=st.integers(2, 10**7),
    more=st.integers(0, 10**7),
    expected=st.floats(1e-3, 1e4),
    factor=st.floats(1, 100),
)
@settings(deadline=None, max_examples=200)
def test_more_contents_never_lower_it_and_more_false_pairs_never_raise_it(
    tail: TailFit, n: int, more: int, expected: float, factor: float
) -> None:
    cosine = tail.threshold(n, expected)
    assert MIN_COSINE <= cosine <= 1
    assert tail.threshold(n + more, expected) >= cosine
    assert tail.threshold(n, expected * factor) <= cosine


def test_of_all_pairs_no_more_are_above_it_than_asked(tail: TailFit) -> None:
    values = cosines(unrelated())
    for expected in (1, 10, 100):
        assert (values >= tail.threshold(400, expected)).sum() <= expected


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_holds_for_a_set_fifty_times_the_pairs_it_was_fitted_to(tail: TailFit, seed: int) -> None:
    values, threshold = cosines(unrelated(2800, seed=seed)), tail.threshold(2800, 20)
    # Extrapolated on the careful side, and not beyond reason.
    assert (values >= threshold).sum() <= 30
    assert threshold < values.max() + 0.1


def test_the_fit_agrees_with_its_own_threshold(tail: TailFit) -> None:
    for n in (10_000, 1_000_000):
        assert tail.expected(n, tail.threshold(n, 5)) == pytest.approx(5, rel=1e-6)
    assert tail.expected(1000, tail.start - 0.1) == float("inf")
    assert tail.expected(1000, 1.0) == 0


@pytest.mark.parametrize("share", [1e-4, 5e-4])
def test_duplicates_among_the_negatives_do_not_drag_it_up(tail: TailFit, share: float) -> None:
    values = cosines(unrelated())
    hidden = np.random.default_rng(0).uniform(0.93, 1, round(share * len(values)))
    mixed = fit_tail(np.concatenate([values, hidden]), len(values) + len(hidden))
    assert mixed.suspects == len(hidden)
    assert mixed.threshold(400) < tail.threshold(400) + 0.06
    assert mixed.threshold(400) < hidden.min()


def test_sets_of_hardly_anything(tail: TailFit) -> None:
    assert tail.threshold(0) == tail.threshold(1) == MIN_COSINE
    assert tail.threshold(2) <= tail.threshold(3)
    for n in (1, 2, 3):
        values = cosines(unrelated(n))
        with pytest.raises(UsageError, match=f"too few pairs to calibrate by: {len(values)} "):
            fit_tail(values, len(values))


def test_all_alike_is_said(tail: TailFit) -> None:
    with pytest.raises(UsageError, match="equally alike"):
        fit_tail(np.ones(500), 500)
    with pytest.raises(UsageError, match="above 0"):
        tail.threshold(10, 0)


def test_nan_cosines_are_left_out(tail: TailFit) -> None:
    values = cosines(unrelated())
    assert fit_tail(np.append(values, [np.nan] * 9), len(values)) == tail


def test_constant_rows_and_nan_rows_have_no_direction() -> None:
    rows = unrelated(30)
    rows[3] = np.nan
    rows[5] = 0
    mean, matrix = fit_map(rows, 0.4)
    assert np.isfinite(mean).all()
    assert matrix is not None
    units = apply_map(rows, mean, matrix)
    assert not units[3].any()
    assert np.linalg.norm(np.delete(units, 3, axis=0), axis=1) == pytest.approx(1, abs=1e-5)
    same = np.full((20, 4), 0.3, np.float32)
    mean, matrix = fit_map(same, 0.4)
    assert not apply_map(same, mean, matrix).any()
    with pytest.raises(UsageError, match="usable"):
        fit_map(np.full((3, 4), np.nan, np.float32), 0.4)


def test_whitening_takes_away_what_all_share() -> None:
    rng = np.random.default_rng(0)
    # Three loud directions that say what kind of scene it is, and quiet ones that say which.
    loud = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 40)) * 4
    rows = (loud + rng.standard_normal((300, 40)) + 7).astype(np.float32)
    copies = rows + 0.2 * rng.standard_normal(rows.shape).astype(np.float32)
    gaps = []
    for shrinkage in (1.0, 0.1):
        mean, matrix = fit_map(rows, shrinkage)
        a, b = apply_map(rows, mean, matrix), apply_map(copies, mean, matrix)
        gaps.append(np.quantile((a * b).sum(axis=1), 0.05) - cosines(a).max())
    assert gaps[0] < 0.02 < 0.2 < gaps[1]


@pytest.mark.parametrize(("n", "dim"), [(12, 40), (200, 8)])
def test_the_map_is_the_inverse_square_root_of_the_shrunk_covariance(n: int, dim: int) -> None:
    rows = np.random.default_rng(1).standard_normal((n, dim)).astype(np.float32) * np.arange(1, dim + 1)
    _, matrix = fit_map(rows, 0.3)
    assert matrix is not None
    centred = rows.astype(np.float64) - rows.mean(axis=0)
    covariance = centred.T @ centred / n
    shrunk = 0.7 * covariance / (np.trace(covariance) / dim) + 0.3 * np.eye(dim)
    assert matrix @ shrunk @ matrix == pytest.approx(np.eye(dim), abs=1e-3)


@pytest.mark.parametrize(("n", "dim"), [(12, 40), (30, 30), (200, 8), (2, 5)])
@pytest.mark.parametrize("copies", [1, 7])
def test_a_map_that_has_seen_some_copies_more_need_not_be_made(n: int, dim: int, copies: int) -> None:
    rng = np.random.default_rng(n)
    rows = (rng.standard_normal((n, dim)) * np.arange(1, dim + 1) + 5).astype(np.float32)
    contents = rows[rng.integers(0, n, copies)]
    made = (contents + rng.standard_normal((copies, dim))).astype(np.float32)
    for shrinkage in (0.4, 0.05):
        mean, matrix = fit_map(np.concatenate([rows, made]), shrinkage)
        wanted = (apply_map(contents, mean, matrix) * apply_map(made, mean, matrix)).sum(axis=1)
        assert Covariance.of(rows).cosines_with(contents, made, shrinkage) == pytest.approx(wanted, abs=2e-5)


def test_a_copy_without_a_direction_tells_nothing_of_the_others() -> None:
    rows = unrelated(30, 12)
    contents, made = rows[:4].copy(), rows[4:8].copy()
    fitted = Covariance.of(rows)
    without = fitted.cosines_with(contents[[0, 2]], made[[0, 2]], 0.4)
    made[1], made[3] = np.nan, np.inf
    assert fitted.cosines_with(contents, made, 0.4) == pytest.approx([without[0], 0, without[1], 0], abs=1e-9)
    # All rows are one, and so are the copies: no row differs from the mean.
    same = np.full((20, 4), 0.3, np.float32)
    assert not Covariance.of(same).cosines_with(same[:3], same[:3], 0.4).any()


@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("shape", [0.0, 0.05, 0.3])
def test_a_tail_is_fitted_as_by_every_logarithm(shape: float, truncated: bool) -> None:
    uniform = np.random.default_rng(0).uniform(size=3000)
    excess = np.sort(-np.log(uniform) if not shape else (uniform**-shape - 1) / shape)[::-1] * 0.07
    limit = float(excess[0])
    best = (-np.inf, 0.0, 0.0)
    for tried in np.linspace(0, 0.1, 11).tolist():
        for scale in (limit * np.geomspace(0.01, 5, 241)).tolist():
            if tried:
                log = -(1 + 1 / tried) * np.log1p(tried * excess / scale).sum()
                seen = 1 - (1 + tried * limit / scale) ** (-1 / tried)
            else:
                log, seen = -excess.sum() / scale, 1 - np.exp(-limit / scale)
            log -= len(excess) * (np.log(scale) + (np.log(seen) if truncated else 0))
            best = max(best, (log, tried, scale))
    assert _fit_pareto(excess, limit, truncated=truncated)[:2] == pytest.approx(best[1:], rel=1e-12)


def test_a_row_is_mapped_alike_wherever_it_stands() -> None:
    rows = unrelated(700, 30)
    mean, matrix = fit_map(rows, 0.4)
    order = np.random.default_rng(0).permutation(700)
    assert np.array_equal(apply_map(rows, mean, matrix)[order], apply_map(rows[order], mean, matrix))


@given(n=st.integers(2, 60), keep=st.integers(1, 300), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_largest_cosines_are_the_largest(n: int, keep: int, seed: int) -> None:
    rows = unrelated(n, 6, seed)
    i, j, found = largest_cosines(rows, keep)
    assert (i < j).all()
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == len(i) == min(keep, n * (n - 1) // 2)
    assert found == pytest.approx(np.sort(cosines(rows))[::-1][:keep], abs=1e-6)


def made(tail: TailFit, matrix: bool = True) -> Calibration:
    mean, wide = fit_map(unrelated(), 0.4 if matrix else 1.0)
    return Calibration(
        "toy/image/pooled",
        "f" * 16,
        mean,
        wide,
        tail,
        400,
        {"cosine": 0.5},
        (0.1, 0.9, 0.95),
        {"whole": (-6.5, 0.25)},
        tail if matrix else None,
    )


@pytest.mark.parametrize("matrix", [True, False])
def test_it_is_read_as_it_was_written(tmp_path: Path, tail: TailFit, matrix: bool) -> None:
    store = Store.create(tmp_path / "s")
    saved = made(tail, matrix)
    saved.save(store)
    read = Calibration.open(store, "toy/image/pooled")
    assert (read.tail, read.report, read.rows, read.fingerprint) == (saved.tail, saved.report, 400, "f" * 16)
    assert np.array_equal(read.mean, saved.mean)
    assert (read.matrix is None) == (saved.matrix is None) == (not matrix)
    assert read.matrix is None or np.array_equal(read.matrix, saved.matrix)
    assert read.copies == saved.copies == (0.1, 0.9, 0.95)
    assert read.bits == saved.bits == {"whole": (-6.5, 0.25)}
    assert read.agreement == saved.agreement == (tail if matrix else None)
    assert read.threshold(5000, 2) == saved.threshold(5000, 2)


def test_what_is_missing_or_damaged_is_said(tmp_path: Path, tail: TailFit) -> None:
    store = Store.create(tmp_path / "s")
    with pytest.raises(StoreError, match="icehouse dups calibrate"):
        Calibration.open(store, "toy/image/pooled")
    folder = made(tail).save(store)
    (folder / "matrix.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CorruptError, match="damaged"):
        Calibration.open(store, "toy/image/pooled")
    (folder / "matrix.npy").unlink()
    with pytest.raises(CorruptError, match="incomplete"):
        Calibration.open(store, "toy/image/pooled")
    about = json.loads((folder / "calibration.json").read_text())
    (folder / "calibration.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        Calibration.open(store, "toy/image/pooled")


def test_a_set_that_outgrew_its_map_is_told(tail: TailFit) -> None:
    calibration = made(tail)
    assert not calibration.grown(470)
    assert not calibration.grown(10**6)  # 400 rows are plenty for 24 dimensions
    wide = Calibration("a", "b", np.zeros(1280), None, tail, 400)
    assert wide.grown(500)


def test_the_threshold_keeps_its_distance_from_strangers_and_loses_no_copy(tail: TailFit) -> None:
    def chosen(*copies: float) -> float:
        return replace(made(tail), copies=copies).threshold(400, 1)

    bare = tail.threshold(400, 1)
    assert chosen() == bare
    assert chosen(bare - 0.1) == bare  # a copy that is lost anyhow moves nothing
    assert chosen(bare - 0.1, bare + 0.3, bare + 0.4) == pytest.approx(bare + 0.1)
    assert chosen(bare, bare + 0.3) == bare
    copies = np.sort(np.random.default_rng(0).uniform(-0.2, 1, 50))
    calibration = replace(made(tail), copies=tuple(copies.tolist()))
    allowed = [calibration.threshold(400, e) for e in (0.1, 1, 10, 100, 10_000)]
    assert allowed == sorted(allowed, reverse=True)
    for cosine, e in zip(allowed, (0.1, 1, 10, 100, 10_000), strict=True):
        assert cosine >= tail.threshold(400, e)
        assert (copies >= cosine).sum() == (copies >= tail.threshold(400, e)).sum()


def test_where_strangers_have_near_hashes_all_views_are_asked(tail: TailFit) -> None:
    far, near = {"whole": (-9.0, 0.2), "views": (-9.0, 0.2)}, {"whole": (-2.0, 0.2), "views": (-2.0, 0.2)}
    for bits, agreement, viewed, expected in (
        (far, tail, True, HashRule(6, 6, tail.threshold(500, 1))),
        (far, None, True, HashRule(6, 6, None)),
        (near, tail, True, HashRule(-1, -1, tail.threshold(500, 1))),
        (near, tail, False, HashRule(0, -1, None)),
        (near, None, True, HashRule(0, -1, None)),
    ):
        calibration = replace(made(tail), bits=bits, agreement=agreement)
        assert calibration.hashes(500, 6, 1, viewed) == expected
    # More false pairs that are allowed never make for fewer that are found.
    calibration = replace(made(tail), bits=near, agreement=tail)
    rules = [calibration.hashes(500, 6, e) for e in (0.01, 1, 10, 1000, 100_000)]
    assert [rule.whole for rule in rules] == sorted(rule.whole for rule in rules)
    agreements = [rule.agreement for rule in rules if rule.agreement is not None]
    assert len(agreements) == 5
    assert agreements == sorted(agreements, reverse=True)


def test_a_tail_is_never_larger_than_its_pairs() -> None:
    assert tail_size(10) == 40
    assert tail_size(10_000) == 200
    assert tail_size(10**9) == 20_000


def test_hashes_of_lookalikes_get_fewer_bits() -> None:
    rng = np.random.default_rng(0)
    radii = []
    for deviation in (4, 8, 14):
        distances = np.clip(np.round(rng.normal(32, deviation, 100_000) / 2) * 2, 0, 64)
        start, slope = fit_bits(distances) or (0.0, 0.0)
        assert -start / slope == pytest.approx(32, abs=3)
        made = Calibration(
            "a", "b", np.zeros(3), None, TailFit(1, 0.1, 0.1, 0, 1, ()), 9, bits={"whole": (start, slope)}
        )
        assert made.radius("whole", 20_000, 6, 1) <= made.radius("whole", 500, 6, 1)
        assert made.radius("whole", 500, 6, 0.1) <= made.radius("whole", 500, 6, 100)
        assert made.radius("views", 500, 6) == 6
        radii.append(made.radius("whole", 500, 6))
    assert radii[0] == 6
    assert radii[2] == -1
    assert radii == sorted(radii, reverse=True)
    assert fit_bits(np.zeros(20)) is None
    # Unrelated pictures with equal hashes: none counts, however the rest lies.
    far = np.full(1000, 32)
    for share in (1.0, 0.2, 0.06):
        equal = np.where(np.arange(1000) < 1000 * share, 0, far)
        fitted = fit_bits(equal)
        assert fitted is not None
        made = Calibration(
            "a", "b", np.zeros(3), None, TailFit(1, 0.1, 0.1, 0, 1, ()), 9, bits={"whole": fitted}
        )
        assert made.radius("whole", 500, 6, 1) == -1
    assert fit_bits(far) is None
    # A few that lie apart from all others are copies that nothing else has found.
    usual = np.clip(np.round(rng.normal(32, 4, 20_000) / 2) * 2, 12, 64)
    assert fit_bits(np.append(usual, np.repeat([0, 2, 4], 200))) == fit_bits(usual)


@pytest.mark.parametrize(
    ("recompressed", "reformatted", "share"), [(1.0, 0.85, ""), (0.9, 0.88, "89%"), (0.2, 0.4, "30%")]
)
def test_recall_of_plain_saving_is_warned_of_below_nine_tenths(
    tail: TailFit, recompressed: float, reformatted: float, share: str
) -> None:
    rows = [
        {"transform": "recompress", "copies": 20, "cascade": recompressed},
        {"transform": "format", "copies": 20, "cascade": reformatted},
        {"transform": "crop_20", "copies": 500, "cascade": 0.0},
    ]
    told = replace(made(tail), report={"transforms": rows}).weakness()
    assert (share in told and "will be missed" in told) if share else told == ""
    units = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)
    local = fit_local(units / np.linalg.norm(units, axis=1, keepdims=True), None, 120)
    told = replace(made(tail), report={"transforms": rows}, local=local).weakness()
    assert ("not counted here" in told) == bool(share)
