"""Tests of icehouse.dups.registration and icehouse.dups.agreements."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from icehouse.data.images import oriented
from icehouse.data.sample_scenes import paint
from icehouse.data.transforms import GRADED, encode
from icehouse.dups.agreements import (
    FEWEST_PAIRS,
    LOOSE,
    STRICT,
    Agreements,
    _near_together,
    least_agreement,
)
from icehouse.dups.calibration import apply_map
from icehouse.dups.default_calibration import careful_expected, fit_calibration
from icehouse.dups.engines import JoinOptions
from icehouse.dups.hashing import VIEWS, ViewHashes, informative
from icehouse.dups.local_scaling import fit_local
from icehouse.dups.pairs import Contents, PairSearch
from icehouse.dups.registration import Picture, _turn, agreement
from icehouse.dups.results import PairWriter, RankedItems
from icehouse.dups.rule import Rule, calibrated_rule
from icehouse.dups.variants import DETAIL
from PIL import Image


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return paint(np.random.default_rng(3), "houses", long_side=480)[0].convert("RGB")


def saved(image: Image.Image, quality: int = 80) -> Picture:
    return Picture.of(Image.open(io.BytesIO(encode(image, "jpg", quality))))


def grain(seed: int) -> Image.Image:
    """A plate with one pattern that all have, and a grain of its own."""
    y, x = np.mgrid[:300, :300]
    lines = 40.0 * ((x % 60) < 4) + 25.0 * ((y % 12) < 2)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, 1, (60, 60)).astype(np.float32)).resize(
        (300, 300), Image.Resampling.BICUBIC
    )
    own = 14 * np.asarray(coarse) + rng.normal(0, 2, (300, 300))
    return Image.fromarray(np.clip(120 + lines + own, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", sorted(GRADED))
def test_copies_agree_with_their_picture(scene: Image.Image, kind: str) -> None:
    copy = saved(GRADED[kind](scene, np.random.default_rng(1)), 75)
    assert agreement(Picture.of(scene), copy) > 0.6
    assert agreement(copy, Picture.of(scene)) > 0.6


@pytest.mark.parametrize("orientation", list(Image.Transpose))
def test_turned_and_mirrored_copies_agree(scene: Image.Image, orientation: Image.Transpose) -> None:
    assert agreement(Picture.of(scene), saved(scene.transpose(orientation))) > 0.8


def test_a_squashed_copy_agrees(scene: Image.Image) -> None:
    assert agreement(Picture.of(scene), saved(scene.resize((scene.width * 7 // 10, scene.height)))) > 0.8


def test_other_pictures_do_not_agree(scene: Image.Image) -> None:
    others = [paint(np.random.default_rng(k), "lake", long_side=480)[0] for k in range(4)]
    assert max(agreement(Picture.of(scene), saved(other.convert("RGB"))) for other in others) < 0.4


def test_a_pattern_that_all_share_is_no_agreement() -> None:
    plates = [grain(k) for k in range(4)]
    same = [agreement(Picture.of(plate), saved(plate, 60)) for plate in plates]
    apart = [agreement(Picture.of(plates[0]), Picture.of(plate)) for plate in plates[1:]]
    assert min(same) > STRICT
    assert max(apart) < 0.7


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3)])
def test_of_tiny_and_flat_pictures_nothing_is_told(size: tuple[int, int], scene: Image.Image) -> None:
    small, flat = Picture.of(scene.resize(size)), Picture.of(Image.new("RGB", (200, 100), "red"))
    for one, two in ((small, Picture.of(scene)), (small, small), (flat, flat), (flat, Picture.of(scene))):
        assert agreement(one, two) < LOOSE


def test_copies_are_asked_for_more_where_others_agree_too() -> None:
    assert least_agreement(np.array([]), np.array([])) == LOOSE
    high, low = np.full(100, 9.0), np.full(300, 2.0)
    evidence = np.concatenate([high, low])
    assert least_agreement(np.concatenate([np.full(100, 0.7), np.full(300, -0.5)]), evidence) == LOOSE
    assert least_agreement(np.concatenate([high * 0.1, np.linspace(0.3, 0.8, 300)]), evidence) == STRICT


@pytest.mark.parametrize("orientation", range(8))
def test_places_of_turned_pictures_are_where_their_pixels_go(orientation: int) -> None:
    picture = np.random.default_rng(orientation).random((8, 8))
    waves = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(8) + 1) / 16) * np.sqrt(2 / 8)
    waves[0] /= np.sqrt(2)
    turned = waves.T @ oriented(waves @ picture @ waves.T)[orientation] @ waves
    turn = _turn(orientation, (8, 8))
    y, x = np.indices((8, 8)).reshape(2, -1)
    down, across = (turn[:, :2] @ [y + 0.5, x + 0.5] + turn[:, 2:] - 0.5).round().astype(int)
    assert np.allclose(turned[down, across], picture[y, x])
    corner = _turn(orientation, (30, 70)) @ [30, 70, 1]
    assert set(np.abs(corner)) <= {0, 30, 70}


def test_a_crop_of_a_turned_picture_agrees(scene: Image.Image) -> None:
    part = scene.transpose(Image.Transpose.ROTATE_90).crop((40, 60, scene.height - 30, scene.width - 50))
    assert agreement(Picture.of(scene), saved(part)) > 0.8


def test_a_picture_with_a_sticker_agrees(scene: Image.Image) -> None:
    covered = scene.copy()
    covered.paste(Image.new("RGB", (scene.width // 4, scene.height // 3), "white"))
    assert agreement(Picture.of(scene), saved(covered)) > 0.6


@given(
    st.sets(
        st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda pair: pair[0] < pair[1]), min_size=1
    )
)
def test_each_pair_is_compared_once(numbers: set[tuple[int, int]]) -> None:
    pairs = sorted((f"{a:02d}", f"{b:02d}") for a, b in numbers)
    parts = _near_together(pairs)
    assert sorted(pair for part in parts for pair in part) == pairs
    assert all(set.intersection(*map(set, part)) for part in parts)


def test_pictures_that_belong_together_are_read_one_after_the_other() -> None:
    names = [f"{k:03d}" for k in np.random.default_rng(0).permutation(200)]
    pairs = sorted(
        (min(a, b), max(a, b))
        for k in range(0, 200, 4)
        for a in names[k : k + 4]
        for b in names[k : k + 4]
        if a != b
    )
    order = [name for part in _near_together(sorted(set(pairs))) for pair in part for name in pair]
    first, last = (
        {name: k for k, name in pairs_} for pairs_ in (reversed(list(enumerate(order))), enumerate(order))
    )
    assert max(last[name] - first[name] for name in names) < 12 * 2


class Files:
    """Pictures in files, by number; how often they were asked for."""

    def __init__(self, folder: Path, images: list[Image.Image]) -> None:
        self.files = [folder / f"{k}.jpg" for k in range(len(images))]
        for file, image in zip(self.files, images, strict=True):
            file.write_bytes(encode(image, "jpg", 85))
        self.digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files]

    def sources(self, numbers: np.ndarray) -> tuple[list[str], list[str | None]]:
        chosen = numbers.tolist()
        return [self.digests[k] for k in chosen], [str(self.files[k]) for k in chosen]


def test_answers_are_those_of_the_pictures_whatever_the_order_and_kept(
    scene: Image.Image, tmp_path: Path
) -> None:
    held = Files(tmp_path, [scene, GRADED["crop_10"](scene, np.random.default_rng(0)), grain(1), grain(2)])
    i, j = np.triu_indices(4, 1)
    made = Agreements(held.sources, tmp_path / "cache" / "answers.npz", threads=2)
    found = made.of(i, j)
    pictures = [Picture.of(Image.open(file)) for file in held.files]
    low = [min((a, b), key=lambda k: held.digests[k]) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    other = [a + b - c for a, b, c in zip(i.tolist(), j.tolist(), low, strict=True)]
    brute = [agreement(pictures[a], pictures[b]) for a, b in zip(low, other, strict=True)]
    assert np.allclose(found, brute, atol=1e-3)
    assert np.array_equal(made.of(j[::-1], i[::-1]), found[::-1])
    numbers = np.array([1, 3])
    assert made.subset(numbers).of(np.array([0]), np.array([1]))[0] == found[4]
    made.keep()
    for file in held.files:
        file.unlink()
    again = Agreements(held.sources, tmp_path / "cache" / "answers.npz")
    assert np.array_equal(again.of(i, j), found)


def test_what_cannot_be_read_as_it_was_is_unknown_and_asked_again(scene: Image.Image, tmp_path: Path) -> None:
    held = Files(tmp_path, [scene, scene.resize((300, 200)), grain(1)])
    kept = held.files[1].read_bytes()
    held.files[1].write_bytes(held.files[2].read_bytes())
    held.files[2].write_bytes(b"no picture")
    file = tmp_path / "answers.npz"
    made = Agreements(held.sources, file)
    assert np.isnan(made.of(np.array([0, 0]), np.array([1, 2]))).all()
    made.keep()
    held.files[1].write_bytes(kept)
    assert Agreements(held.sources, file).of(np.array([0]), np.array([1]))[0] > 0.8
    file.write_bytes(b"PK\x03\x04 damaged")
    assert Agreements(held.sources, file).of(np.array([0]), np.array([1]))[0] > 0.8


class Told(Agreements):
    """Agreements that are known beforehand."""

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.asked = table, 0

    def of(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        self.asked += len(i)
        return self.table[i, j]

    def subset(self, numbers: np.ndarray) -> Told:
        return Told(self.table[np.ix_(numbers, numbers)])


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_those_of_brute_force_over_evidence_and_pixels(seed: int) -> None:
    """Candidates by evidence first, and of those in doubt the ones whose pictures agree: no other pair, and none missed."""
    rng = np.random.default_rng(seed)
    n, dim = 220, 16
    X, hashes = rng.standard_normal((n, dim)), rng.integers(0, 2**64, (n, VIEWS), dtype=np.uint64)
    of = rng.integers(0, n - 60, 60)
    X[n - 60 :] = X[of] + rng.uniform(0.05, 0.6, (60, 1)) * rng.standard_normal((60, dim))
    flips = np.uint64(1) << rng.integers(0, 64, (60, VIEWS, 5)).astype(np.uint64)
    hashes[n - 60 :] = hashes[of] ^ np.bitwise_xor.reduce(flips, axis=2)
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    views = ViewHashes(hashes, informative(hashes), 1)
    measure = fit_local(X, views, n)
    table = np.round(rng.choice([-1.0, 0.1, 0.5, 0.95, np.nan], (n, n)) * rng.uniform(0.8, 1, (n, n)), 4)
    table = np.triu(table) + np.triu(table, 1).T
    rule = Rule(None, None, np.zeros(dim), local=measure, evidence=5.0, suspected=1.5 if seed % 2 else 2.5)
    contents = Contents(np.zeros(n, np.uint64), np.zeros(n, bool), rule, X, np.arange(n), views)
    contents.beside, contents.agreements = measure.neighbourhoods(X, views), Told(table)
    i, j = np.triu_indices(n, 1)
    measured = contents.measure(i, j)
    strength, by_view = measured.evidence, measured.perceptual
    doubt = (strength >= rule.suspected) & (strength < 10) & ~by_view
    search = PairSearch(contents, JoinOptions(100_000, 1))
    blocks = list(search)
    found = {pair for block in blocks for pair in zip(block.i.tolist(), block.j.tolist(), strict=True)}
    agreed = table[i, j]
    least = search.stats["registered"]["least"]
    assert LOOSE <= least <= STRICT
    # What other pairs link is found if it agrees.
    linked = contents.confirmed.find(i, j)[0]
    assert linked.sum() == search.stats["registered"]["linked"]
    assert (agreed[linked] >= max(least, 0.75)).all()
    # Where unrelated pictures agree, what is in no doubt has to agree as well, but in a crowd.
    sure, looked_at = by_view | (strength >= 10), np.zeros(len(i), bool)
    if least == STRICT:
        crowd = np.bincount(np.concatenate([i[sure], j[sure]]), minlength=n)
        around = np.maximum(crowd[i], crowd[j])
        chosen = sorted(np.flatnonzero(sure & (around <= 12)), key=lambda k: (around[k], k))[: n // 2]
        looked_at[chosen] = True
    assert np.array_equal(contents.looked_at, (i * n + j)[looked_at])
    short = looked_at & (agreed > -1) & (agreed < least)
    by_view, doubt = by_view | linked, doubt & ~linked
    asked = np.where(least < 0.6, least * np.clip(2 - strength / 5, 0, 1), least)
    unsure = doubt & (strength >= 5) & ~(agreed >= asked) & (np.isnan(agreed) | (agreed >= 0.35))
    unsure |= short & (agreed >= 0.35)
    wanted = (by_view | (strength >= 10) | (doubt & (agreed >= asked)) | unsure) & ~(short & (agreed < 0.35))
    assert found == set(zip(i[wanted].tolist(), j[wanted].tolist(), strict=True))
    vague = {
        (a, b)
        for block in blocks
        for a, b, what in zip(block.i.tolist(), block.j.tolist(), block.differs.tolist(), strict=True)
        if what == DETAIL
    }
    assert vague == set(zip(i[unsure].tolist(), j[unsure].tolist(), strict=True))
    assert doubt.sum() > 20


def test_where_too_much_is_in_doubt_more_evidence_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 8))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    measure = fit_local(X, None, 200)
    monkeypatch.setattr("icehouse.dups.pairs._DOUBTS", 0.2)
    rule = Rule(None, None, np.zeros(8), local=measure, evidence=8.0, suspected=0.1)
    contents = Contents(np.zeros(200, np.uint64), np.zeros(200, bool), rule, X, np.arange(200))
    contents.beside, contents.agreements = measure.neighbourhoods(X, None), Told(np.full((200, 200), 0.0))
    search = PairSearch(contents, JoinOptions(100_000, 1))
    assert not sum(len(block) for block in search)
    assert 0 < contents.agreements.asked < 100 + 2 * FEWEST_PAIRS
    assert contents.rule.suspected > 0.1


@pytest.mark.parametrize("least", [8.0, 0.5])
def test_pairs_that_too_many_doubts_leave_out_are_written_nowhere(
    least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The join has found them by the evidence that was asked for before, and no stage finds them any more."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 8))
    X[190:] = X[:10]
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    measure = fit_local(X, None, 200)
    monkeypatch.setattr("icehouse.dups.pairs._DOUBTS", 0.02)
    rule = Rule(None, None, np.zeros(8), local=measure, evidence=least, suspected=0.1)
    contents = Contents(np.zeros(200, np.uint64), np.zeros(200, bool), rule, X, np.arange(200))
    table = np.zeros((200, 200))
    table[np.arange(10), np.arange(190, 200)] = table[np.arange(190, 200), np.arange(10)] = 0.95
    contents.beside, contents.agreements = measure.neighbourhoods(X, None), Told(table)
    search = PairSearch(contents, JoinOptions(100_000, 1))
    numbers, ids = np.arange(200), pa.array([f"{k:03d}" for k in range(200)])
    facts = np.full(200, np.nan)
    ranked = RankedItems(ids, pa.nulls(200, pa.string()), facts, facts, numbers, numbers, numbers)
    with PairWriter.to(tmp_path / "pairs.parquet", ranked) as writer:
        for found in search:
            writer.add(found)
    pairs = pq.read_table(tmp_path / "pairs.parquet")
    assert search.stats["refuted"] > 0
    assert set(pairs["kind"].to_pylist()) == {"embedding"}
    if least == 8.0:
        planted = {(f"{k:03d}", f"{k + 190:03d}") for k in range(10)}
        assert set(zip(pairs["id_a"].to_pylist(), pairs["id_b"].to_pylist(), strict=True)) <= planted


def crowded(n_pictures: int, each: int, dim: int, n: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of pictures that each have `each` copies, every one an edit of the one before; and the picture of each."""
    rng = np.random.default_rng(11)
    X, of = rng.standard_normal((n, dim)), np.arange(n)
    for picture in range(n_pictures):
        for k in range(1, each):
            row = n - 1 - picture * (each - 1) - (k - 1)
            before = picture if k == 1 else row + 1
            X[row] = X[before] + step * rng.standard_normal(dim)
            of[row] = picture
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), of


def settled(
    X: np.ndarray, table: np.ndarray, collages: Sequence[int] = (), evidence: float | None = None
) -> tuple[PairSearch, set[tuple[int, int]]]:
    """A search by evidence with agreements that are known, and the pairs that groups are made of."""
    n = len(X)
    measure = fit_local(X[:160], None, 160)  # of one copy each
    least, suspected = measure.threshold(n, 1), measure.threshold(n, n / 2)
    if evidence is not None:
        least, suspected = evidence, evidence * suspected / least
    rule = Rule(None, None, np.zeros(X.shape[1]), local=measure, evidence=least, suspected=suspected)
    contents = Contents(np.zeros(n, np.uint64), np.zeros(n, bool), rule, X, np.arange(n))
    contents.collages[list(collages)] = True
    contents.beside, contents.agreements = measure.neighbourhoods(X, None), Told(table)
    search = PairSearch(contents, JoinOptions(100_000, 1))
    found = [contents.joined(block) for block in search]
    return search, {pair for i, j in found for pair in zip(i.tolist(), j.tolist(), strict=True)}


def test_copies_of_copies_do_not_make_agreement_look_ordinary() -> None:
    """Where most pairs in doubt are of copies, unrelated ones tell all the same, and ask for more in a set of like ones."""
    X, of = crowded(12, 6, 24, 240, 0.35)
    same = of[:, None] == of
    search, found = settled(X, np.where(same, 0.7, 0.05))
    told = search.stats["registered"]
    assert told["least"] == LOOSE
    assert told["agreeing"] > 5
    assert not [pair for pair in found if of[pair[0]] != of[pair[1]]]
    search, _ = settled(X, np.where(same, 0.7, 0.4))
    assert search.stats["registered"]["least"] == STRICT
    assert (
        not found
        or max(
            search.contents.evidence(
                *np.array(list(found)).T, search.contents.cosine(*np.array(list(found)).T), None
            )
        )
        > 0
    )


def test_what_stands_out_beyond_doubt_must_agree_where_unrelated_pictures_do() -> None:
    """Neighbouring wafers stand out as much as copies do."""
    X, of = crowded(24, 2, 24, 240, 0.01)
    copies = {(int(k), row) for row, k in enumerate(of) if k != row}
    like = {pair for pair in copies if pair[0] % 2}
    table = np.where(of[:, None] == of, 0.95, 0.05)
    for i, j in like:
        table[i, j] = table[j, i] = 0.2
    search, found = settled(X, table, evidence=4.0)
    assert search.stats["registered"]["least"] < STRICT
    assert found >= copies
    search, found = settled(X, np.where(table == 0.05, 0.4, table), evidence=4.0)
    assert search.stats["registered"]["least"] == STRICT
    assert found & copies == copies - like
    # Of a crowd, such as frames of a film, none is asked.
    X, of = crowded(2, 16, 24, 240, 0.003)
    search, found = settled(X, np.where(of[:, None] == of, 0.2, 0.4), evidence=4.0)
    assert search.stats["registered"]["least"] == STRICT
    assert {(int(k), row) for row, k in enumerate(of) if k != row} <= found


def test_what_others_link_is_a_pair_if_it_agrees() -> None:
    X, of = crowded(10, 8, 24, 230, 0.8)
    same = of[:, None] == of
    every = {(int(k), row) for row, k in enumerate(of) if k != row}
    linked, agreeing = settled(X, np.where(same, 0.9, 0.02))
    unlinked, alone = settled(X, np.where(same, 0.6, 0.02))
    assert linked.stats["registered"]["linked"] > 10
    assert unlinked.stats["registered"]["linked"] == 0
    assert every <= agreeing
    assert len(every & alone) < 60
    assert not [pair for pair in agreeing if of[pair[0]] != of[pair[1]]]


def test_a_collage_is_linked_to_nothing() -> None:
    X, of = crowded(10, 8, 24, 230, 0.8)
    search, _ = settled(X, np.where(of[:, None] == of, 0.9, 0.02), collages=range(160, 195))
    ends = np.divmod(search.contents.confirmed.codes, 230)
    assert len(ends[0])
    assert not np.isin(ends, np.arange(160, 195)).any()


@pytest.mark.parametrize("by_hand", [False, True])
def test_equal_hashes_of_look_alikes_are_looked_at(by_hand: bool, tmp_path: Path) -> None:
    """Where a calibration found near hashes by chance, pairs by hash whose vectors say nothing have to agree, too."""
    rng = np.random.default_rng(4)
    n, dim = 240, 16
    X, hashes = rng.standard_normal((n, dim)), rng.integers(1, 2**64, n, dtype=np.uint64)
    hashes[40:80] = hashes[:40]  # pairs k, k + 40; of the first ten the vectors are alike as well
    X[40:50] = X[:10] + 0.01 * rng.standard_normal((10, dim))
    hashes[200:220] = hashes[200]  # a crowd, of which there are too many to look at
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    measure = fit_local(X, None, n)
    table = np.tile(np.array([0.95, 0.4, 0.1, -1.0, np.nan])[np.arange(n) % 5], (n, 1))
    rule = Rule(
        3, None, np.zeros(dim), local=measure, evidence=6.0, suspected=3.0, view_bits=None if by_hand else -1
    )
    contents = Contents(hashes, np.ones(n, bool), rule, X, np.arange(n))
    contents.beside, contents.agreements = measure.neighbourhoods(X, None), Told(table)
    search = PairSearch(contents, JoinOptions(100_000, 1))
    found = [block.take(np.flatnonzero(block.perceptual | block.embedding)) for block in search]
    told = {
        (int(a), int(b)): int(d)
        for block in found
        for a, b, d in zip(block.i, block.j, block.differs, strict=True)
    }
    evidence = contents.evidence(
        np.arange(40), np.arange(40, 80), contents.cosine(np.arange(40), np.arange(40, 80)), None
    )
    assert (evidence[:10] >= 6).all()
    looked_at = {(k, k + 40) for k in range(40) if not by_hand and evidence[k] < 6}
    if search.stats["registered"]["least"] == STRICT:
        looked_at |= {(k, k + 40) for k in range(40) if evidence[k] >= 6}
    assert set(zip(*(side.tolist() for side in np.divmod(contents.looked_at, n)), strict=True)) == looked_at
    for k in range(40):
        pair = (k, k + 40)
        unlike, vague = (pair in looked_at and k % 5 == place for place in (2, 1))
        assert (pair in told) != unlike
        assert told.get(pair, 0) == (DETAIL if vague else 0)
    assert {(a, b) for a, b in told if a >= 200} == {
        (a, b) for a in range(200, 220) for b in range(a + 1, 220)
    }
    # Of a part of the contents the same pairs are looked at.
    part = np.arange(0, n, 2)
    i, j = np.divmod(contents.subset(part, tmp_path / "vectors.npy").looked_at, len(part))
    assert {(2 * a, 2 * b) for a, b in zip(i.tolist(), j.tolist(), strict=True)} == {
        pair for pair in looked_at if pair[0] % 2 == 0
    }


def test_a_calibrated_search_finds_what_the_default_one_does() -> None:
    """A calibration that has measured copies asks for more evidence, and what it then doubts is settled by pixels."""
    rng = np.random.default_rng(5)
    n, dim = 220, 16
    X = rng.standard_normal((n, dim))
    of = rng.permutation(n - 60)[:60]
    X[n - 60 :] = X[of] + rng.uniform(0.05, 0.6, (60, 1)) * rng.standard_normal((60, dim))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    planted = set(zip(of.tolist(), range(n - 60, n), strict=True))
    table = np.full((n, n), 0.1)
    for i, j in planted:
        table[i, j] = 0.95
    fitted = fit_calibration("f", "p", X, np.arange(n), None, None)
    assert fitted.local is not None
    least = fitted.local.threshold(n, careful_expected(n))
    found = []
    for made, expected in ((fitted, careful_expected(n)), (replace(fitted, evidence=(2 * least,)), 1.0)):
        rule, _ = calibrated_rule(made, n, expected, None, viewed=False)
        mapped = apply_map(X, made.mean, made.matrix)
        plain = replace(rule, mean=np.zeros(dim), matrix=None)
        contents = Contents(np.zeros(n, np.uint64), np.zeros(n, bool), plain, mapped, np.arange(n))
        contents.beside, contents.agreements = fitted.local.neighbourhoods(mapped, None), Told(table)
        search = PairSearch(contents, JoinOptions(100_000, 1))
        blocks = list(search)
        assert search.stats["registered"]["agreeing"] > 0
        found.append({pair for one in blocks for pair in zip(one.i.tolist(), one.j.tolist(), strict=True)})
    default, calibrated = found
    assert len(default & planted) > 10
    assert default & planted <= calibrated
    assert len(calibrated - planted) <= len(default - planted)
