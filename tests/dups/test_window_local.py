"""A window under a local measure: pairs are those of brute force over it, with views, variants, sizes and restarts."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.images import decode
from icehouse.dups import window as window_module
from icehouse.dups.agreements import StreamPictures
from icehouse.dups.hashing import VIEWS, ViewHashes, informative
from icehouse.dups.join import RowSet, pair_cosines
from icehouse.dups.local_scaling import LocalMeasure, Neighbourhoods, fit_local
from icehouse.dups.registration import Picture
from icehouse.dups.rule import Rule
from icehouse.dups.variants import texts_differ
from icehouse.dups.window import Arrival, SlidingWindow, StreamResult
from icehouse.dups.window_rules import FITTED_AT, FittedRules, Rules, beyond_doubt, settle
from icehouse.dups.window_state import load_window, save_window
from PIL import Image
from streams import judged

DIM, WIDE, RECENT = 12, 64, 40
TEXTS = (None, "", "free hugs for everybody", "closed on sunday", "free hugs for everybody here")


def planted(seed: int, n: int = 110) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and views of a loose and of a dense corner, and of copies of some of both."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, DIM))
    X[n // 2 :] += 6 * rng.standard_normal(DIM)
    views = rng.integers(0, 2**64, (n, VIEWS), dtype=np.uint64)
    of = rng.permutation(n)[: n // 3]
    near = X[of] + np.where(of < n // 2, 0.3, 0.1)[:, None] * rng.standard_normal((len(of), DIM))
    flips = np.uint64(1) << rng.integers(0, 64, (len(of), VIEWS, 5)).astype(np.uint64)
    changed = views[of] ^ np.bitwise_xor.reduce(flips, axis=2)
    return np.concatenate([X, near]), np.concatenate([views, changed])


def measure_of(seed: int, mean: np.ndarray, matrix: np.ndarray, seen: bool = True) -> LocalMeasure:
    X, views = planted(seed + 100, 130)
    units = (X - mean) @ matrix
    units = (units / np.linalg.norm(units, axis=1, keepdims=True)).astype(np.float32)
    return fit_local(units, ViewHashes(views, informative(views), 2) if seen else None, len(X))


def arrivals(seed: int, n: int) -> list[Arrival]:
    """Contents in a random order, some again, some without a vector, views or a hash."""
    X, views = planted(seed)
    rng = np.random.default_rng(seed)
    stream = []
    for k in range(n):
        c = int(rng.integers(len(X)))
        odd = np.random.default_rng(c).random()
        vector = None if odd < 0.04 else np.zeros(DIM) if odd < 0.08 else X[c]
        stream.append(
            Arrival(
                f"a{k}",
                f"{c:064x}",
                None if odd > 0.9 else int(views[c, 0]),
                vector,
                None,
                None if 0.3 < odd < 0.4 else views[c],
                None,
                TEXTS[int(rng.integers(len(TEXTS)))],
            )
        )
    return stream


@cache
def rule_of(seed: int, least: float = 5.0, seen: bool = True) -> Rule:
    rng = np.random.default_rng(seed)
    mean, root = rng.standard_normal(DIM) / 5, rng.standard_normal((DIM, DIM)) / 3 + np.eye(DIM)
    matrix = (root @ root.T).astype(np.float32)
    measure = measure_of(seed, mean, matrix.astype(float), seen)
    return Rule(2, None, mean, matrix=matrix, local=measure, evidence=least, view_bits=3)


def by_hand(stream: list[Arrival], capacity: int, rule: Rule) -> list[dict[int, Any]]:
    """What each arrival resembles, one comparison at a time, with views only of the latest arrivals."""
    measure, mean, matrix = rule.local, rule.mean, rule.matrix
    assert measure is not None
    assert mean is not None
    assert matrix is not None
    held: OrderedDict[str, Any] = OrderedDict()
    out = []
    for now, new in enumerate(stream):
        row = held[new.key]["row"] if new.key in held else _row(new, rule)
        position = held[new.key]["position"] if new.key in held else now
        texts = [new.text] if new.text else held[new.key]["texts"] if new.key in held else []
        found = {}
        for key, old in held.items():
            views = np.stack([row["views"], old["row"]["views"]])
            seen = now - old["position"] <= RECENT and now - position <= RECENT
            pair = ViewHashes(views * seen, informative(views * seen), rule.view_bits or 0)
            bits = int(pair.distance(np.array([0]), np.array([1]))[0])
            tell = None not in (row["phash"], old["row"]["phash"])
            tell = tell and informative(np.array([row["phash"], old["row"]["phash"]], np.uint64)).all()
            apart = (row["phash"] ^ old["row"]["phash"]).bit_count() if tell else 65
            cosine = evidence = None
            rows = RowSet.of(np.stack([row["Y"], old["row"]["Y"]])).measure()
            embedding = False
            if (rows.squares > 0).all():
                cosine = pair_cosines(rows, rows, np.array([0]), np.array([1]))
                both = Neighbourhoods(*np.stack([row["around"], old["row"]["around"]], axis=1))
                zero = np.array([0])
                evidence = both.evidence(zero, zero + 1, cosine, np.array([bits], np.int16), measure.quantile)
                asked = both.asked(rule.evidence or 0)
                embedding = bool(evidence[0] >= rule.evidence or cosine[0] >= asked.mean())
            flags = (key == new.key, apart <= 2 or bits <= 3, embedding)
            if any(flags):
                differs = key != new.key and texts_differ(texts, old["texts"])
                found[old["position"]] = (*flags, differs, None if evidence is None else float(evidence[0]))
        out.append(found)
        if new.key in held:
            held.move_to_end(new.key)
        else:
            if len(held) == capacity:
                held.popitem(last=False)
            held[new.key] = {"row": row, "position": now, "texts": []}
        if new.text and new.text not in held[new.key]["texts"]:
            held[new.key]["texts"].append(new.text)
    return out


def _row(new: Arrival, rule: Rule) -> dict[str, Any]:
    """A content's vector where it is compared, its neighbourhood, and its views."""
    assert rule.local is not None
    assert rule.mean is not None
    assert rule.matrix is not None
    X = np.full((1, DIM), np.nan, np.float16) if new.vector is None else new.vector[None].astype(np.float16)
    units = RowSet.of(X, rule.mean).directions(slice(None))[0] @ rule.matrix.astype(float)
    length = np.sqrt(np.square(units).sum())
    units = np.round(units / (length if length > 0 else 1), 7).astype(np.float32)
    views = np.zeros((1, VIEWS), np.uint64) if new.views is None else new.views[None]
    seen = None if rule.local.hashes is None else ViewHashes(views, informative(views), 0)
    # Products of another shape are rounded otherwise.
    made = rule.local.neighbourhoods(units, seen, block=window_module._HELD_AGAINST)
    around = np.array([made.near[0], made.spread[0], made.bits[0], made.sigma[0]])
    return {"Y": units[0].astype(np.float16), "around": around, "views": views[0], "phash": new.phash}


def told(verdicts: list[StreamResult]) -> list[dict[int, Any]]:
    return [
        {m.position: (m.exact, m.perceptual, m.embedding, m.variant, m.evidence) for m in v.matches}
        for v in verdicts
    ]


@pytest.fixture(autouse=True)
def few_are_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "RECENT", RECENT)


def matched(found: list[dict[int, Any]], wanted: list[dict[int, Any]]) -> int:
    """See that pairs, stages and variants are the same, and evidence to within rounding; how many pairs there are."""
    count = 0
    for one, other in zip(found, wanted, strict=True):
        assert {k: v[:4] for k, v in one.items()} == {k: v[:4] for k, v in other.items()}
        for k, values in one.items():
            assert values[4] == pytest.approx(other[k][4], abs=1e-6)
            count += 1
    return count


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 4),
    capacity=st.sampled_from([3, 30, 200]),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    seen=st.booleans(),
)
def test_pairs_are_those_of_brute_force(seed: int, capacity: int, sizes: list[int], seen: bool) -> None:
    rule = rule_of(seed, seen=seen)
    stream = arrivals(seed, 90)
    window = SlidingWindow(capacity, rule=rule, dim=DIM)
    assert matched(told(judged(window, stream, sizes)), by_hand(stream, capacity, rule)) > (
        5 if capacity > 3 else 0
    )


@pytest.mark.parametrize("sizes", [[1], [9], [6, 3]])
def test_what_leaves_and_comes_again_in_one_batch_is_seen(sizes: list[int]) -> None:
    views = np.random.default_rng(0).integers(0, 2**64, (9, VIEWS), dtype=np.uint64)
    views[8] = views[0] ^ np.uint64(1)
    capacity, names = RECENT + 1, [*range(RECENT + 1), "b", "c", 0, "near 0"]
    seen = dict(zip([0, "b", "c", "near 0"], views[[0, 6, 7, 8]], strict=True))
    others = np.random.default_rng(1).integers(0, 2**64, (len(names), VIEWS), dtype=np.uint64)
    stream = [
        Arrival(f"a{k}", str(name), None, None, None, seen.get(name, others[k]), None)
        for k, name in enumerate(names)
    ]
    window = SlidingWindow(capacity, rule=Rule(2, None, view_bits=3))
    for start in range(0, capacity, 10):
        judged(window, stream[start : min(start + 10, capacity)], [10])
    *_, last = judged(window, stream[capacity:], sizes)
    assert [match.id for match in last.matches] == [f"a{capacity + 2}"]


@pytest.mark.slow
def test_nor_do_axes_or_restarts_change_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(window_module, "_REFIT_SIZES", (70, 90))
    monkeypatch.setattr(window_module, "pays", lambda *_: True)
    axes = np.ascontiguousarray(np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0][:, :6])
    monkeypatch.setattr(window_module, "choose_plan", lambda *_: window_module.Plan(3, 6, None, axes))
    rule, stream = rule_of(7), arrivals(7, 180)
    wanted = by_hand(stream, 100, rule)
    whole = SlidingWindow(100, rule=rule, dim=DIM)
    everything = judged(whole, stream, [13, 64])
    assert whole._plan.lead == 6
    matched(told(everything), wanted)
    for cut in (5, 90, 150):
        half = SlidingWindow(100, rule=rule, dim=DIM)
        first = judged(half, stream[:cut], [17])
        save_window(half, tmp_path / "w")
        # Another measure of the same numbers, as a restart reads it.
        after, _ = load_window(tmp_path / "w", rule=rule, capacity=100)
        assert first + judged(after, stream[cut:], [9]) == everything
    # Under another rule what is held is held against its reference.
    other = rule_of(8)
    changed, _ = load_window(tmp_path / "w", rule=other, capacity=100)
    fresh = SlidingWindow(100, rule=other, dim=DIM)
    fresh.remember(stream[:150])
    # The neighbours of what is no longer recent are told without its views.
    numbers = [fresh._around[:, fresh._slots[key]] for key in changed._slots]
    again = [changed._around[:, changed._slots[key]] for key in changed._slots]
    recent = changed.recent.holds(changed._serials[list(changed._slots.values())], changed.count)
    assert np.array_equal(np.array(numbers)[recent], np.array(again)[recent])


@pytest.mark.parametrize("known", [False, True])
def test_a_window_goes_by_other_rules_as_if_it_always_had(known: bool) -> None:
    rule, stream = rule_of(7), arrivals(7, 120)
    always, later = (SlidingWindow(100, rule=each, dim=DIM) for each in (rule, Rule()))
    for window in (always, later):
        window.remember(stream[:90])
    later.go_by(Rules(rule), None, always._around[:, : len(always)].copy() if known else None)
    assert later.compare(stream[90:]) == always.compare(stream[90:])


class ByTens(Rules):
    """More is asked for with every ten contents."""

    def at(self, window: SlidingWindow) -> Rule:
        return Rule(
            2, None, self.rule.mean, matrix=self.rule.matrix, local=self.rule.local, view_bits=3,
            evidence=1.0 + len(window) // 10,
        )  # fmt: skip

    def until(self, held: int) -> int:
        return held // 10 * 10 + 10


def test_a_rule_changes_at_its_size_whatever_the_batches() -> None:
    base, stream = rule_of(3), arrivals(3, 150)
    runs = [judged(SlidingWindow(200, rule=ByTens(base), dim=DIM), stream, s) for s in ([1], [64], [7, 30])]
    assert runs[0] == runs[1] == runs[2]
    for verdict in runs[0]:
        for match in verdict.matches:
            if match.embedding and not match.exact:
                assert match.evidence is not None
    fixed = judged(SlidingWindow(200, rule=base, dim=DIM), stream, [64])
    assert sum(len(v.matches) for v in fixed) != sum(len(v.matches) for v in runs[0])


def flat(seed: int, n: int) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, WIDE)) + 3
    of = rng.integers(0, n, n)
    again = rng.random(n) < 0.15
    X[again] = X[of[again]] + 0.02 * rng.standard_normal((int(again.sum()), WIDE))
    return [Arrival(f"a{k}", f"{k:064x}", None, X[k]) for k in range(n)]


def test_a_stream_calibrates_itself_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    stream = flat(1, 420)

    def rules() -> FittedRules:
        return FittedRules("toy/image/pooled", "f", 1000, hamming=None)

    whole = SlidingWindow(1000, rule=rules(), dim=WIDE)
    assert (whole.rule.cosine, whole.rule.hamming) == (0.999, None)
    expected = judged(whole, stream, [64])
    assert whole.rule.local is not None
    assert whole.rule.local.rows == max(size for size in FITTED_AT if size <= 420)
    assert judged(SlidingWindow(1000, rule=rules(), dim=WIDE), stream, [1, 50]) == expected
    late = [v for v in expected if v.position is not None and v.position > 100]
    assert sum(v.kind == "embedding" for v in late) > 20
    for cut in (10, 40, 250):
        half = SlidingWindow(1000, rule=rules(), dim=WIDE)
        first = judged(half, stream[:cut], [31])
        save_window(half, tmp_path / "w")
        after, _ = load_window(tmp_path / "w", rule=rules(), capacity=1000)
        assert first + judged(after, stream[cut:], [31]) == expected


def test_variants_are_told_and_kept_after_duplicates() -> None:
    views = np.random.default_rng(0).integers(0, 2**64, VIEWS, dtype=np.uint64)

    def came(name: str, text: str | None, key: str | None = None) -> Arrival:
        return Arrival(name, key or name, int(views[0]), None, None, views, None, text)

    stream = [
        came("a", "when the code compiles"),
        came("b", "my face on monday mornings"),
        came("c", None),
        came("again", "when the code compiles at last", "b"),  # a copy: the picture is the same file
        came("d", "when the code compiles"),
    ]
    window = SlidingWindow(10, rule=Rule(hamming=6))
    verdicts = list(window.judge(stream))
    assert [v.kind for v in verdicts] == ["new", "variant", "perceptual", "exact", "perceptual"]
    variant = verdicts[1].match
    assert variant is not None
    assert (variant.id, variant.differs, variant.perceptual) == ("a", "text", True)
    # Of all texts that a content came with, one that agrees is enough.
    assert {m.id: m.kind for m in verdicts[4].matches} == dict.fromkeys("abc", "perceptual")
    assert [m.kind for m in verdicts[3].matches] == ["exact", "perceptual", "perceptual"]
    dropped = list(SlidingWindow(10, rule=Rule(hamming=6), variants="drop").judge(stream))
    assert [v.kind for v in dropped] == ["new", "perceptual", "perceptual", "exact", "perceptual"]
    assert dropped[1].match is not None
    assert dropped[1].match.differs == "text"


def test_words_in_thumbnails_make_variants_among_the_latest() -> None:
    views = np.random.default_rng(0).integers(0, 2**64, VIEWS, dtype=np.uint64)
    rng = np.random.default_rng(3)
    ground = np.kron(rng.integers(60, 190, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    pictures = []
    for seed in (1, 2):
        lines = np.random.default_rng(seed).random((14, 56)) < 0.5
        picture = ground.copy()
        picture[46:60, 4:60][lines] = 255
        pictures.append(picture)
    stream = [
        Arrival("a", "a", int(views[0]), None, None, views, pictures[0]),
        Arrival("b", "b", int(views[0]), None, None, views, pictures[1]),
        Arrival("c", "c", int(views[0]), None, None, views, pictures[0]),
    ]
    window = SlidingWindow(200, rule=Rule(hamming=6))
    verdicts = list(window.judge(stream))
    assert [v.kind for v in verdicts] == ["new", "variant", "perceptual"]
    assert verdicts[1].match is not None
    assert verdicts[1].match.differs == "picture"
    assert [m.differs for m in verdicts[2].matches] == [None, "picture"]
    # What came too long ago has no thumbnail any more, and hashes decide.
    window.remember([Arrival(str(k), str(k)) for k in range(RECENT)])
    assert [
        v.kind for v in window.judge([Arrival("d", "d", int(views[0]), None, None, views, pictures[1])])
    ] == ["perceptual"]


class Doubted(Rules):
    """A cosine that proves nothing by itself."""

    registers = True


def photographs(folder: Path) -> dict[str, bytes]:
    """Two surfaces of one kind, and a smaller copy of the first with other levels."""
    rng = np.random.default_rng(3)
    made = {}
    for name in ("one", "two"):
        grain = sum(
            np.asarray(
                Image.fromarray(rng.uniform(0, 255, (size, size)).astype(np.float32)).resize((320, 320))
            )
            for size in (10, 40, 160)
        )
        pixels = (40 + grain / 765 * 170).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        if name == "one":
            Image.fromarray((pixels * 0.8 + 20).astype(np.uint8)).resize((250, 250)).save(
                folder / "copy.jpg", quality=80
            )
    for file in sorted(folder.iterdir()):
        made[file.name] = file.read_bytes()
    return made


def seen(name: str, data: bytes, path: Path | None, grey: bool = False) -> Arrival:
    pixels = Picture.of(decode(data).image).grey if grey else None
    return Arrival(
        name,
        hashlib.sha256(data).hexdigest(),
        vector=np.ones(DIM) + 0.01 * np.arange(DIM) * len(name),
        path=None if path is None else str(path / name),
        grey=pixels,
    )


@pytest.mark.parametrize("grey", [False, True])
def test_pictures_that_vectors_take_for_one_are_settled_by_their_pixels(tmp_path: Path, grey: bool) -> None:
    (tmp_path / "in").mkdir()
    files = photographs(tmp_path / "in")
    stream = [
        seen(name, files[name], None if grey else tmp_path / "in", grey)
        for name in ("one.png", "two.png", "copy.jpg")
    ]
    rules = Doubted(Rule(None, 0.9))
    window = SlidingWindow(9, rule=rules, dim=DIM, pictures=StreamPictures())
    one, two, copy = window.judge(stream)
    assert (one.kind, two.kind, copy.kind) == ("new", "new", "embedding")
    assert copy.match is not None
    assert [match.id for match in copy.matches] == ["one.png"]
    # Without pixels the cosine takes all three for one picture.
    alone = SlidingWindow(9, rule=Rule(None, 0.9), dim=DIM, pictures=StreamPictures())
    assert [result.kind for result in alone.judge(stream)] == ["new", "embedding", "embedding"]


def test_what_cannot_be_registered_is_a_variant_after_a_restart_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = photographs(tmp_path / "in")
    rules = Doubted(Rule(None, 0.9))
    window = SlidingWindow(9, rule=rules, dim=DIM, variants="drop", pictures=StreamPictures())
    stream = [seen(name, files[name], tmp_path / "in") for name in ("one.png", "two.png", "copy.jpg")]
    list(window.judge(stream[:2]))
    save_window(window, tmp_path / "state")
    assert window.pictures is not None
    assert len(window.pictures.record) == 1
    again, _ = load_window(
        tmp_path / "state", rule=rules, capacity=9, variants="drop", pictures=StreamPictures()
    )
    assert again.pictures is not None
    assert list(again.pictures.record) == list(window.pictures.record)
    assert again.compare(stream[2:]) == window.compare(stream[2:])
    assert again.compare(stream[2:])[0].kind == "embedding"
    # Another picture lies where the first one was: it is not taken for it.
    (tmp_path / "in" / "one.png").write_bytes(files["two.png"])
    (tmp_path / "in" / "two.png").unlink()
    fresh, _ = load_window(
        tmp_path / "state", rule=rules, capacity=9, variants="drop", pictures=StreamPictures()
    )
    (told,) = fresh.compare(stream[2:])
    assert told.kind == "variant"
    assert {match.differs for match in told.matches} == {"detail"}


def test_evidence_beyond_doubt_needs_no_pixels_and_few_pairs_of_one_arrival_are_registered() -> None:
    class Counted(StreamPictures):
        asked = 0

        def agreement(self, one: Any, two: Any, evidence: float) -> float:
            self.asked += 1
            return float(two[0])

    pictures, rule = Counted(), Rule(4, evidence=3.0)
    evidence = np.array([6.0, 5.0, 3.5, 3.2, 2.9, 2.0, 1.0, np.nan])
    by_hash = np.arange(8) >= 6
    others = [(str(value), None) for value in (0.0, 0.9, 0.1, 0.5, 0.9, 0.9, 0.9, 0.9)]
    doubted = np.flatnonzero(~beyond_doubt(rule, evidence, by_hash, ~by_hash))
    held, vague = np.ones(8, bool), np.zeros(8, bool)
    held[doubted], vague[doubted] = settle(
        pictures, rule, ("", None), [others[k] for k in doubted], evidence[doubted], by_hash[doubted],
        np.zeros(len(doubted), bool),
    )  # fmt: skip
    assert pictures.asked == 4
    assert held.tolist() == [True, True, False, True, True, True, True, True]
    # Half of the detail agrees; the one after the fourth cannot be told; the last two have near hashes.
    assert np.flatnonzero(vague).tolist() == [3, 5]


def test_what_is_only_suspected_is_a_match_by_its_pixels_or_nothing() -> None:
    class Told(StreamPictures):
        def agreement(self, one: Any, two: Any, evidence: float) -> float:
            return float(two[0])

    def settled(agreed: list[float], suspected: list[bool], *, strict: bool = False) -> list[list[int]]:
        others = [(str(value), None) for value in agreed]
        evidence, none = np.full(len(agreed), 2.0), np.zeros(len(agreed), bool)
        found = settle(
            Told(),
            Rule(4, evidence=3.0),
            ("", None),
            others,
            evidence,
            none,
            np.array(suspected),
            strict=strict,
        )
        return [np.flatnonzero(told).tolist() for told in found]

    # One suspect is looked at, after those that are a pair by themselves; the others are none, and no variants.
    assert settled([0.9, 0.9, 0.9], [True, False, True]) == [[0, 1], []]
    assert settled([0.5, 0.6], [True, False]) == [[], []]
    # Among memes of one template copies agree as nothing else does.
    assert settled([0.8, 0.9], [False, False]) == [[0, 1], []]
    assert settled([0.8, 0.9], [False, False], strict=True) == [[0, 1], [0]]


def test_hashes_that_are_near_where_vectors_are_not_are_not_believed() -> None:
    """Flags and drawings: equal but for their colours, which neither hashes nor grey pixels see."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, DIM)).astype(np.float32)
    seen = rng.integers(1 << 40, 1 << 63, 60).astype(np.uint64)
    for shared, crowded in ((60, False), (4, True)):
        rules = FittedRules("mini/image/pooled", "", 500)
        window = SlidingWindow(500, rule=rules, dim=DIM)
        window.remember(
            [
                Arrival(f"{k}", f"{k}", int(seen[k % shared]), row.astype(np.float16))
                for k, row in enumerate(X)
            ]
        )
        assert rules.crowded == crowded
        assert bool(rules.warnings) == crowded
        again = FittedRules("mini/image/pooled", "", 500)
        again.restore(rules.saved())
        assert (again.crowded, replace(again.at(window), suspected=None)) == (crowded, window.rule)
        # Near, and of an unrelated vector.
        (told,) = window.compare([Arrival("x", "x", int(seen[0]), -X[0].astype(np.float16))])
        assert told.kind == ("new" if crowded else "perceptual")


def test_a_rule_without_neighbourhoods_asks_for_pixels_unless_hash_and_cosine_agree() -> None:
    by_hash, by_cosine = np.array([True, True, False]), np.array([True, False, True])
    nothing = np.full(3, np.nan)
    assert beyond_doubt(Rule(4, 0.9), nothing, by_hash, by_cosine).tolist() == [True, False, False]
    assert beyond_doubt(Rule(4, evidence=3.0), nothing, by_hash, by_cosine).tolist() == [False] * 3
