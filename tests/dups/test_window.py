"""A window of recent contents says what comparing with each of them says, whatever the batches, restarts and axes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.dups import window as window_module
from icehouse.dups.hashing import informative
from icehouse.dups.join import RowSet, pair_cosines
from icehouse.dups.rule import Rule
from icehouse.dups.window import Arrival, SlidingWindow, StreamResult
from icehouse.dups.window_state import load_window, save_window
from icehouse.errors import CorruptError, SpaceError, StoreError, UsageError
from streams import judged

DIM = 8
RULE = Rule(hamming=6, cosine=0.9)


def arrivals(n: int, seed: int = 0, *, dim: int = DIM, contents: int | None = None) -> list[Arrival]:
    """Some near by hash, some by vector, some copies, some without one or the other, some vectors without a direction."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((6, dim))
    hashes = rng.integers(0, 2**63, 6, dtype=np.uint64)
    made: dict[int, Arrival] = {}
    stream = []
    for k in range(n):
        c = int(rng.integers(contents or 2 * n))
        if c not in made:
            flips = sum(1 << int(bit) for bit in set(rng.integers(0, 64, rng.integers(0, 6)).tolist()))
            phash = int(hashes[rng.integers(6)]) ^ flips if rng.random() < 0.7 else None
            vector: np.ndarray | None = centres[rng.integers(6)] + 0.2 * rng.standard_normal(dim)
            odd = rng.random()
            if odd < 0.05:
                vector = None
            elif odd < 0.1:
                vector = np.zeros(dim)
            elif odd < 0.13:
                vector = np.full(dim, np.nan)
            elif odd < 0.16:
                phash = (0, 1, 2**64 - 1)[rng.integers(3)]
            made[c] = Arrival("", f"{c:064x}", phash, vector)
        same = made[c]
        stream.append(Arrival(f"a{k}", same.key, same.phash, same.vector))
    return stream


def by_hand(stream: list[Arrival], capacity: int, rule: Rule, dtype: str = "float16") -> list[dict[str, Any]]:
    """For each arrival: position of each content held that it resembles, and by what; one comparison at a time."""
    held: OrderedDict[str, tuple[int, Arrival]] = OrderedDict()
    out = []
    for now, new in enumerate(stream):
        found = {}
        for key, (position, old) in held.items():
            bits = None if None in (new.phash, old.phash) else (new.phash ^ old.phash).bit_count()
            cosine = None
            if new.vector is not None and old.vector is not None:
                rows = RowSet.of(np.stack([new.vector, old.vector]).astype(dtype), rule.mean).measure()
                if (rows.squares > 0).all():
                    cosine = float(pair_cosines(rows, rows, np.array([0]), np.array([1]))[0])
            tell = bits is not None and informative(np.array([new.phash, old.phash], np.uint64)).all()
            flags = (
                key == new.key,
                bool(tell and rule.hamming is not None and bits <= rule.hamming),
                cosine is not None and rule.cosine is not None and cosine >= rule.cosine,
            )
            if any(flags):
                found[position] = (*flags, bits, cosine)
        out.append(found)
        if new.key in held:
            held.move_to_end(new.key)
        else:
            if len(held) == capacity:
                held.popitem(last=False)
            held[new.key] = (now, new)
    return out


def told(verdicts: list[StreamResult]) -> list[dict[int, Any]]:
    return [
        {m.position: (m.exact, m.perceptual, m.embedding, m.hamming, m.cosine) for m in v.matches}
        for v in verdicts
    ]


@pytest.fixture
def small_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small window find axes as a large one does, with two bounds."""
    monkeypatch.setattr(window_module, "_REFIT_SIZES", (100, 300))
    monkeypatch.setattr(window_module, "pays", lambda *_: True)
    monkeypatch.setattr(
        window_module,
        "choose_plan",
        lambda latest, *_: window_module.Plan(2, 4, None, _some_axes(latest.dim, 4)),
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_rule_with_a_matrix(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((DIM, DIM)).astype(np.float32)
    rule = Rule(6, 0.9, np.full(DIM, 0.1), matrix=matrix @ matrix.T)
    stream = arrivals(120, 9, contents=100)
    verdicts = judged(SlidingWindow(60, rule=rule, dim=DIM, dtype=dtype), stream, [1])
    assert judged(SlidingWindow(60, rule=rule, dim=DIM, dtype=dtype), stream, [33, 2]) == verdicts
    assert {v.kind for v in verdicts} == {"new", "exact", "perceptual", "embedding"}
    # The cosine is that of the vectors after the map.
    compared = 0
    for verdict in verdicts:
        for match in verdict.matches:
            if match.cosine is not None and not match.exact:
                pair = np.stack([stream[p].vector for p in (verdict.position, match.position)])  # type: ignore[index,misc]
                a, b = (pair.astype(dtype).astype(float) - rule.mean) @ rule.matrix
                assert match.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=2e-3)
                compared += 1
    assert compared > 10
    half = SlidingWindow(60, rule=rule, dim=DIM, dtype=dtype)
    first = judged(half, stream[:70], [9])
    save_window(half, tmp_path / "w")
    after, _ = load_window(tmp_path / "w", rule=rule, capacity=60)
    assert first + judged(after, stream[70:], [9]) == verdicts


def test_bounds_that_tell_nothing_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the spectrum is flat and the threshold low, products of whole vectors are cheaper."""
    monkeypatch.setattr(window_module, "_REFIT_SIZES", (128, 300))
    monkeypatch.setattr(
        window_module,
        "choose_plan",
        lambda latest, *_: window_module.Plan(1, 1, None, _some_axes(latest.dim, 1)),
    )
    rng = np.random.default_rng(0)
    window = SlidingWindow(200, rule=Rule(None, 0.5), dim=32)
    window.remember([Arrival(str(k), str(k), None, rng.standard_normal(32)) for k in range(190)])
    assert window._plan.lead == 32


def _some_axes(dim: int, count: int) -> np.ndarray:
    return np.ascontiguousarray(
        np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0][:, :count]
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    capacity=st.sampled_from([1, 2, 7, 30, 200]),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32"]),
    centred=st.booleans(),
)
def test_verdicts_are_those_of_comparing_with_everything(
    seed: int, capacity: int, sizes: list[int], dtype: str, centred: bool
) -> None:
    mean = np.random.default_rng(seed).standard_normal(DIM) / 4 if centred else None
    rule = Rule(6, 0.9, mean)
    stream = arrivals(90, seed, contents=70)
    window = SlidingWindow(capacity, rule=rule, dim=DIM, dtype=dtype)
    verdicts = judged(window, stream, sizes)
    assert told(verdicts) == by_hand(stream, capacity, rule, dtype)
    assert [v.position for v in verdicts] == list(range(90))
    assert len(window) == min(capacity, len({a.key for a in stream}))


@pytest.mark.slow
def test_nor_do_axes_change_them(small_axes: None) -> None:
    stream = arrivals(700, 3, contents=600)
    window = SlidingWindow(400, rule=RULE, dim=DIM)
    assert told(judged(window, stream, [64, 1, 9])) == by_hand(stream, 400, RULE)
    assert window._plan.lead == 4


@pytest.mark.slow
def test_a_drifted_window_learns_anew(small_axes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "_TOO_MANY", 0)
    window = SlidingWindow(150, rule=RULE, dim=DIM)
    stream = arrivals(500, 4, contents=450)
    assert told(judged(window, stream, [10])) == by_hand(stream, 150, RULE)
    assert window._fitted_at >= 300


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    cut=st.integers(0, 90),
    capacity=st.sampled_from([1, 5, 40, 200]),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_a_restart_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int, capacity: int, dtype: str
) -> None:
    path = tmp_path_factory.mktemp("state") / "window"
    stream = arrivals(90, seed, contents=60)
    whole = SlidingWindow(capacity, rule=RULE, dim=DIM, dtype=dtype)
    before = SlidingWindow(capacity, rule=RULE, dim=DIM, dtype=dtype)
    expected = judged(whole, stream, [13])
    first = judged(before, stream[:cut], [7])
    save_window(before, path, space={"fingerprint": "f"}, notes={"n": 1})
    after, notes = load_window(path, rule=RULE, capacity=capacity, space={"fingerprint": "f"})
    assert first + judged(after, stream[cut:], [11]) == expected
    assert notes == {"n": 1}
    assert (after.count, len(after)) == (whole.count, len(whole))


def test_what_is_not_read_has_not_arrived() -> None:
    stream = arrivals(40, contents=30)
    window = SlidingWindow(100, rule=RULE, dim=DIM)
    verdicts = window.judge(stream)
    got = [next(verdicts) for _ in range(17)]
    verdicts.close()
    assert window.count == 17
    assert told(got + list(window.judge(stream[17:]))) == by_hand(stream, 100, RULE)


def test_what_is_only_compared_is_compared_with_what_is_held_alone() -> None:
    stream = arrivals(90, 5, contents=60)
    window = SlidingWindow(40, rule=RULE, dim=DIM)
    window.remember(stream[:40])
    asked = [*stream[30:], *stream[30:]]
    together, alone = window.compare(asked), [window.compare([arrival])[0] for arrival in asked]
    assert together == alone
    assert together[: len(asked) // 2] == together[len(asked) // 2 :], "no arrival is a match of another"
    assert (window.count, any(result.matches for result in together)) == (40, True)


def test_two_batches_at_once_are_refused() -> None:
    stream = arrivals(6)
    window = SlidingWindow(10, rule=RULE, dim=DIM)
    one, two = window.judge(stream[:3]), window.judge(stream[3:])
    next(one)
    next(two)
    with pytest.raises(UsageError, match="other arrivals"):
        next(one)


def test_a_copy_needs_no_vector() -> None:
    stream = arrivals(60, 5, contents=20)
    bare = {a.key for a in stream[:10]}
    cheap = [*stream[:10], *(Arrival(a.id, a.key) if a.key in bare else a for a in stream[10:])]
    runs = [told(judged(SlidingWindow(50, rule=RULE, dim=DIM), run, [30])) for run in (stream, cheap)]
    assert runs[0] == runs[1]


def test_a_copy_makes_its_content_the_most_recent() -> None:
    window = SlidingWindow(2, rule=Rule(), dim=None)
    kinds = [v.kind for v in window.judge([Arrival(str(k), key) for k, key in enumerate("abacab")])]
    assert kinds == ["new", "new", "exact", "new", "exact", "new"]
    (again,) = window.judge([Arrival("z", "a")])
    assert (again.match.id, again.match.position, again.match.age) == ("0", 0, 6)  # type: ignore[union-attr]


def test_the_best_match_comes_first() -> None:
    base = np.array([1.0, 0, 0])
    window = SlidingWindow(10, rule=Rule(6, 0.9), dim=3)
    half = int("01" * 32, 2)
    window.remember(
        [
            Arrival("by vector", "1", None, base),
            Arrival("two bits", "2", half ^ 3, np.array([0, 1.0, 0])),
            Arrival("one bit", "3", half ^ 1, np.array([0, 0, 1.0])),
            Arrival("one bit, later", "4", half ^ 2, np.array([0, 0, 1.0])),
            Arrival("same", "5", half, base),
        ]
    )
    (verdict,) = window.judge([Arrival("q", "5")])
    assert [m.id for m in verdict.matches] == ["same", "one bit", "one bit, later", "two bits", "by vector"]
    assert [m.kind for m in verdict.matches] == ["exact", *["perceptual"] * 3, "embedding"]
    assert verdict.kind == "exact"


def test_where_all_resemble_all_the_most_recent_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "MAX_MATCHES", 5)
    same = [Arrival(str(k), str(k), None, np.array([1.0, k / 1000])) for k in range(40)]
    window = SlidingWindow(30, rule=Rule(None, 0.9), dim=2)
    last = list(window.judge(same))[-1]
    assert last.capped
    assert sorted(m.position for m in last.matches) == [34, 35, 36, 37, 38]
    assert [v.capped for v in SlidingWindow(30, rule=Rule(None, 0.9), dim=2).judge(same[:7])] == [
        False
    ] * 6 + [True]


def test_hashes_alone_and_vectors_alone() -> None:
    stream = arrivals(80, 6, contents=60)
    for rule, dim in ((Rule(6), None), (Rule(None, 0.9), DIM), (Rule(6), DIM)):
        bare = [Arrival(a.id, a.key, a.phash, a.vector if dim else None) for a in stream]
        window = SlidingWindow(50, rule=rule, dim=dim)
        assert told(judged(window, bare, [9])) == by_hand(bare, 50, rule)


def test_a_smaller_window_keeps_the_most_recent(tmp_path: Path) -> None:
    stream = arrivals(60, 7, contents=10**9)
    small, large = (SlidingWindow(size, rule=RULE, dim=DIM) for size in (10, 50))
    judged(small, stream[:40], [8])
    judged(large, stream[:40], [8])
    save_window(large, tmp_path / "w")
    shrunk, _ = load_window(tmp_path / "w", rule=RULE, capacity=10)
    assert told(judged(shrunk, stream[40:], [6])) == told(judged(small, stream[40:], [6]))


def test_a_window_goes_on_with_another_threshold(tmp_path: Path) -> None:
    stream = arrivals(60, 8, contents=50)
    window = SlidingWindow(50, rule=Rule(6, 0.99), dim=DIM)
    judged(window, stream[:40], [8])
    save_window(window, tmp_path / "w")
    other, _ = load_window(tmp_path / "w", rule=RULE, capacity=50)
    assert told(judged(other, stream[40:], [8])) == by_hand(stream, 50, RULE)[40:]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    window = SlidingWindow(50, rule=RULE, dim=DIM)
    window.remember(arrivals(40))
    save_window(window, tmp_path / "w", space={"fingerprint": "aaaa"})
    return tmp_path / "w"


def load(path: Path) -> SlidingWindow:
    return load_window(path, rule=RULE, capacity=50)[0]


def test_another_space_is_refused(saved: Path) -> None:
    with pytest.raises(SpaceError, match=r"fingerprint aaaa\), not .*fingerprint bbbb"):
        load_window(saved, rule=RULE, capacity=50, space={"fingerprint": "bbbb"})
    with pytest.raises(SpaceError, match="not no vectors"):
        load_window(saved, rule=RULE, capacity=50, space={"fingerprint": None})


def test_damage_is_noticed_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    sound = load(saved)
    for at in rng.integers(0, len(whole), 150):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            again = load(saved)
        except (CorruptError, StoreError):
            continue
        # A byte that nobody reads may be anything; what was read is what was saved.
        assert again._slots == sound._slots
        assert np.array_equal(again._X, sound._X, equal_nan=True)
        assert np.array_equal(again._hashes, sound._hashes)
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(CorruptError, match="move it away"):
            load(saved)


def test_other_files_are_no_windows(saved: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(StoreError, match="no state of a stream"):
        load(tmp_path / "other")
    with pytest.raises(StoreError, match="No such file"):
        load(tmp_path / "none")


def test_names_that_are_not_text_are_kept(tmp_path: Path) -> None:
    names = ["a", "caf\udce9.jpg", "\ud800", "d", "ü"]
    window = SlidingWindow(5, rule=RULE, dim=DIM)
    window.remember([Arrival(name, name, None, np.ones(DIM)) for name in "01234"])
    window._ids[:] = names
    save_window(window, tmp_path / "w")
    for capacity in (2, 4, 5, 9):
        again, _ = load_window(tmp_path / "w", rule=RULE, capacity=capacity)
        assert again._ids[: len(again)] == names[-capacity:]
    assert pq.read_table(tmp_path / "w")["id"].to_pylist() == ["a", "caf?.jpg", "?", "d", "ü"]


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_stays_one(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    save_window(SlidingWindow(5, rule=RULE, dim=DIM), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(load(saved)) == 0


def test_anything_can_read_a_window(saved: Path) -> None:
    rows = pq.read_table(saved)
    assert rows.column_names == [
        "id",
        "path",
        "sha256",
        "position",
        "phash",
        "turned",
        "texts",
        "views",
        "thumb",
        "vector",
        "around",
    ]
    assert len(rows) == len(load(saved))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_kill_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from icehouse.dups.rule import Rule
from icehouse.dups.window import SlidingWindow
from icehouse.dups.window_state import save_window
from icehouse.dups.window import Arrival
window = SlidingWindow(3000, rule=Rule(None, 0.9), dim=64)
k = 0
while True:
    window.remember([Arrival(str(k + i), str(k + i), None, np.full(64, k)) for i in range(500)])
    k += 500
    save_window(window, Path(sys.argv[1]))
    print(k, flush=True)
"""
    path, rng = tmp_path / "window", np.random.default_rng(0)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        reported = [500, *(int(line) for line in child.communicate()[0].split())]
        window = load_window(path, rule=Rule(None, 0.9), capacity=3000)[0]
        assert window.count in (reported[-1], reported[-1] + 500)
    save_window(window, path)
    assert [p.name for p in tmp_path.iterdir()] == ["window"], "what killed processes left is cleared away"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, "at least 1"),
        ({"capacity": 10**15}, "no memory"),
        ({"rule": Rule(21)}, "between 0 and 20"),
        ({"rule": Rule(None, 1.5), "dim": 4}, "at most 1"),
        ({"rule": Rule(None, 0.9)}, "needs vectors"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SlidingWindow(**{"rule": Rule(6), **arguments})


def test_a_vector_of_another_length() -> None:
    with pytest.raises(UsageError, match="a vector of"):
        list(SlidingWindow(5, rule=RULE, dim=DIM).judge([Arrival("a", "a", None, np.zeros(3))]))
