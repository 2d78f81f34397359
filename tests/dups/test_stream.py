"""A stream's verdicts: in order, at once, the same however they are asked for, and across restarts."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icehouse.dups import stream as pipeline_module
from icehouse.dups.calibration import Calibration, TailFit, fit_map
from icehouse.dups.rule import Rule
from icehouse.dups.stream import DuplicateStream, StreamResult
from icehouse.embed import extract
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SpaceError, UsageError
from icehouse.store.store import Store
from PIL import Image
from streams import COSINE, make_photos
from streams import make_stream as make
from toys import ToyEncoder, make_pictures, picture


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_photos(tmp_path_factory.mktemp("photos"))


def test_all_ways_of_asking_agree(photos: list[Path]) -> None:
    one, many = make(), make()
    verdicts = [one.judge(path) for path in photos]
    assert list(many.judge_many(photos)) == verdicts
    assert list(make(workers=1, batch_size=3).judge_many(photos, latency=0)) == verdicts
    assert list(make(workers=4, batch_size=50).judge_many(iter(photos), latency=0.01)) == verdicts
    assert [v.id for v in verdicts] == [str(path) for path in photos]
    assert one.counts == many.counts
    assert one.counts["error"] == 3
    assert one.counts["exact"] >= 8
    assert one.counts["perceptual"] + one.counts["embedding"] >= 4


def test_errors_are_told_in_their_place(photos: list[Path]) -> None:
    told = {Path(v.id).name: v for v in make().judge_many(photos)}
    assert told["nowhere.png"].error == "No such file or directory"
    assert "markup" in str(told["page.jpg"].error)
    assert told["empty.png"].error == "the file is empty"
    assert (told["empty.png"].kind, told["empty.png"].position) == ("error", None)
    positions = [v.position for v in told.values() if v.position is not None]
    assert len(positions) == len(set(positions))


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cut=st.integers(0, 43), window=st.sampled_from([1, 4, 20, 100]), size=st.integers(1, 9))
def test_a_restart_changes_nothing(
    photos: list[Path], tmp_path_factory: pytest.TempPathFactory, cut: int, window: int, size: int
) -> None:
    state = tmp_path_factory.mktemp("state") / "window"
    expected = list(make(window=window).judge_many(photos))
    with make(window=window, state=state, batch_size=size) as first:
        verdicts = list(first.judge_many(photos[:cut]))
    with make(window=window, state=state, batch_size=size) as second:
        verdicts += list(second.judge_many(photos[cut:]))
    assert verdicts == expected
    assert sum(second.counts.values()) == len(photos)


def test_what_is_known_is_neither_decoded_nor_encoded(photos: list[Path]) -> None:
    encoder = ToyEncoder(batch_size=4)
    sound = [path for path in photos if path.suffix == ".png" and path.name[0] in "0c"]
    stream = make(encoder)
    list(stream.judge_many(sound))
    encoded = sum(encoder.batches)
    assert encoded == len({path.read_bytes() for path in sound}) < len(sound)
    assert {v.kind for v in stream.judge_many(sound)} == {"exact"}
    assert sum(encoder.batches) == encoded


def test_what_was_forgotten_meanwhile_is_read_again(tmp_path: Path) -> None:
    a, b = make_pictures(tmp_path, 2)
    for order in ([a, b] * 6, [a, a, b, b, a, b, b, a]):
        encoder = ToyEncoder(batch_size=20)
        verdicts = list(make(encoder, window=1).judge_many(order))
        alone = make(window=1)
        assert verdicts == [alone.judge(path) for path in order]


def test_a_slow_stream_is_answered_at_once(tmp_path: Path) -> None:
    """The second picture comes only once the first was judged: who waited for a batch would wait for ever."""
    paths = make_pictures(tmp_path, 4)
    judged = threading.Semaphore(0)
    waited = []

    def slowly() -> Iterator[Path]:
        for path in paths:
            yield path
            waited.append(judged.acquire(timeout=600))

    for verdict in make(ToyEncoder(batch_size=32)).judge_many(slowly(), latency=0):
        assert verdict.kind == "new"
        judged.release()
    assert waited == [True] * 4


def test_full_batches_while_more_is_coming(tmp_path: Path) -> None:
    encoder = ToyEncoder(batch_size=4)
    list(make(encoder).judge_many(make_pictures(tmp_path, 18)))
    assert encoder.batches == [4, 4, 4, 4, 2]


def test_one_that_cannot_be_encoded_costs_only_itself(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path, 7)
    pixels = np.asarray(Image.open(paths[3])).copy()
    pixels[:24, :24] = 7
    Image.fromarray(pixels).save(paths[3])
    stream = make(ToyEncoder(batch_size=4, poison=7))
    verdicts = list(stream.judge_many([*paths, paths[3], paths[0]]))
    assert [v.kind for v in verdicts] == ["new"] * 3 + ["error"] + ["new"] * 3 + ["error", "exact"]
    assert verdicts[3].error == "cannot be encoded: the model choked"


def test_vectors_that_do_not_fit(tmp_path: Path) -> None:
    class Huge(ToyEncoder):
        def encode_images(self, pixels: np.ndarray, outputs: Any) -> Any:
            return {name: X * np.float32(1e9) for name, X in super().encode_images(pixels, outputs).items()}  # type: ignore[operator]

    assert "beyond float16" in str(make(Huge()).judge(make_pictures(tmp_path, 1)[0]).error)


def test_stopping_loses_nothing_and_keeps_nothing_more(photos: list[Path], tmp_path: Path) -> None:
    expected = list(make().judge_many(photos))
    stream, got = make(state=tmp_path / "s"), []
    for verdict in stream.judge_many(photos):
        got.append(verdict)
        if len(got) == 13:
            stream.stop()
    assert got == expected[:13]
    assert list(stream.judge_many(photos)) == []
    stream.save()
    assert got + list(make(state=tmp_path / "s").judge_many(photos[13:])) == expected


def test_a_reader_who_leaves_has_seen_what_is_remembered(photos: list[Path]) -> None:
    stream = make()
    verdicts = stream.judge_many(photos)
    got = [next(verdicts) for _ in range(7)]
    verdicts.close()  # type: ignore[attr-defined]
    assert got + list(stream.judge_many(photos[7:])) == list(make().judge_many(photos))


def test_an_iterable_that_fails_fails_after_what_it_gave(photos: list[Path]) -> None:
    def broken() -> Iterator[Path]:
        yield from photos[:6]
        raise OSError("the camera is gone")

    got: list[StreamResult] = []
    with pytest.raises(OSError, match="camera"):
        got.extend(make().judge_many(broken()))
    assert len(got) == 6


def test_it_saves_by_itself_now_and_then(photos: list[Path], tmp_path: Path) -> None:
    stream = make(state=tmp_path / "s", save_every=0, batch_size=4)
    for count, _ in enumerate(stream.judge_many(photos), 1):
        if count == 20:
            break
    again = make(state=tmp_path / "s")
    assert 0 < sum(again.counts.values()) < 20


def test_paths_bytes_pictures_and_mappings(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    stream = make()
    things = [path, path.read_bytes(), {"id": 7, "path": str(path)}, {"bytes": path.read_bytes()}]
    verdicts = [stream.judge(thing) for thing in things]
    assert [v.kind for v in verdicts] == ["new", "exact", "exact", "exact"]
    assert [v.id for v in verdicts] == [str(path), "#1", "7", "#3"]
    loaded = Image.open(path)
    from_memory = [stream.judge(loaded), stream.judge({"id": "m", "image": loaded.copy()})]
    assert [v.kind for v in from_memory] == ["perceptual", "exact"]
    assert from_memory[0].match is not None
    assert (from_memory[0].match.hamming, from_memory[0].match.embedding) == (0, True)


def test_pictures_that_differ_in_their_palette_alone_are_two() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    one = Image.fromarray(colours, "P")
    one.putpalette(bytes(range(256)) * 3)
    other = one.copy()
    other.putpalette(bytes(reversed(range(256))) * 3)
    stream = make()
    assert [stream.judge(image).kind for image in (one, other, one.copy())][::2] == ["new", "exact"]
    assert stream.window.count == 3
    assert len(stream.window) == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "YCbCr"])
def test_pictures_of_any_mode(mode: str) -> None:
    drawn = picture(1).convert("L") if mode in ("I;16", "F") else picture(1)
    assert make().judge(drawn.convert(mode)).kind == "new"


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({}, "no path, bytes or image"),
        ({"path": 3}, "path is a int"),
        ({"image": "a.jpg"}, "image is a str"),
        (None, "NoneType is no path"),
        ([1], "list is no path"),
    ],
)
def test_what_cannot_be_judged(thing: Any, message: str) -> None:
    stream = make()
    assert message in str(stream.judge(thing).error)
    assert stream.window.count == 0


def test_texts() -> None:
    stream = DuplicateStream(ToyEncoder(), modality="text", rule=0.95, hamming=6, window=10)
    texts = ["flood in the old town", "lunch", "RT @x: Flood in the old town", "lunch", {"id": "q"}]
    verdicts = list(stream.judge_many(texts))
    assert [v.kind for v in verdicts] == ["new", "new", "embedding", "exact", "error"]
    assert [v.id for v in verdicts] == ["#0", "#1", "#2", "#3", "q"]
    assert verdicts[2].match is not None
    assert (verdicts[2].match.id, verdicts[2].match.hamming) == ("#0", None)


def test_hashes_only(photos: list[Path]) -> None:
    stream = DuplicateStream(None, hamming=6, window=50)
    kinds = {v.kind for v in stream.judge_many(photos)}
    assert kinds == {"new", "exact", "perceptual", "error"}
    with pytest.raises(UsageError, match="without an encoder"):
        DuplicateStream(None, rule=0.9)


def test_with_the_encoder_and_the_rule_of_a_store(photos: list[Path], tmp_path: Path) -> None:
    embed_sources([photos[0].parent], tmp_path / "store", encoder=ToyEncoder())
    encoder = ToyEncoder(batch_size=5)
    options: dict[str, Any] = {"encoder": encoder, "window": 100, "state": tmp_path / "s"}
    with DuplicateStream.from_store(tmp_path / "store", rule=Rule(cosine=COSINE), **options) as stream:
        verdicts = list(stream.judge_many(photos))
    assert verdicts == list(make().judge_many(photos))
    # A state goes on without the store, as long as the vectors are the same ones.
    assert make(state=tmp_path / "s").window.count == stream.window.count
    with pytest.raises(SpaceError, match="toy:a/image/pooled"):
        make(ToyEncoder("b"), state=tmp_path / "s")
    with pytest.raises(SpaceError, match="no vectors"):
        DuplicateStream(None, state=tmp_path / "s")
    with pytest.raises(SpaceError):
        DuplicateStream.from_store(tmp_path / "store", **{**options, "encoder": ToyEncoder("b")})


def test_with_the_calibration_of_a_store(photos: list[Path], tmp_path: Path) -> None:
    embed_sources([photos[0].parent], tmp_path / "store", encoder=ToyEncoder())
    store = Store.open(tmp_path / "store")
    feature = "toy-a/image/pooled"
    X = store.vectors(feature).X
    mean, matrix = fit_map(X, 0.5)
    tail = TailFit(1000, 0.5, 0.02, -0.1, 0.1, (0.7, 0.6))
    fingerprint = store.feature_table(feature).spec["fingerprint"]
    made = Calibration(feature, fingerprint, mean, matrix, tail, len(X), bits={"whole": (-4.0, 0.3)})
    with pytest.raises(UsageError, match="no calibration"):
        DuplicateStream.from_store(store, encoder=ToyEncoder(), expected_false_pairs=2)
    made.save(store)
    options: dict[str, Any] = {"encoder": ToyEncoder(batch_size=5), "window": 60}
    stream = DuplicateStream.from_store(store, hamming=4, **options)
    rule = Rule(4, tail.threshold(60), mean, "as it was saved", matrix)
    plain = make(rule=rule, hamming=4, window=60)
    assert list(stream.judge_many(photos)) == list(plain.judge_many(photos))
    assert stream.rule.cosine == tail.threshold(60)
    assert any("and hashes within 4 bits in toy-a/image/pooled" in note for note in stream.notes)
    assert (
        DuplicateStream.from_store(store, **options).rule.hamming
        == made.hashes(60, 6, viewed=True).whole
        == 2
    )
    assert DuplicateStream.from_store(store, hamming=None, **options).rule.hamming is None
    looser = DuplicateStream.from_store(store, expected_false_pairs=50, **options)
    assert looser.rule.cosine == tail.threshold(60, 50) < tail.threshold(60)
    assert DuplicateStream.from_store(store, rule=0.9, **options).rule.cosine == 0.9
    with pytest.raises(UsageError, match="not both"):
        DuplicateStream.from_store(store, rule=0.9, expected_false_pairs=1, **options)
    replace(made, fingerprint="0" * 16).save(store)
    stale = DuplicateStream.from_store(store, **options)
    assert (stale.rule.source, stale.rule.hamming, stale.rule.cosine) == ("default", 2, 0.999)
    assert "fingerprint" in stale.notes[0]


def test_a_store_tells_what_its_contents_look_like(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 215, width=48, height=36)
    embed_sources([tmp_path / "pictures"], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    store, options = Store.open(tmp_path / "s"), {"feature": "toy-a/image/joint", "window": 400}
    stream = DuplicateStream.from_store(store, encoder=ToyEncoder(), **options)
    assert stream.rule.local is not None
    assert stream.rule.local.hashes is not None
    assert stream.rule.evidence is not None
    assert any("the neighbours that contents of" in note for note in stream.notes)
    # What is allowed grows with what is held: fewer pairs of fewer contents can be false.
    assert stream.window.rules.until(0) == 256
    kept = sorted((store.path / "cache" / "unseen").rglob("*.npz"))
    assert kept
    written = [path.stat().st_mtime_ns for path in kept]
    Image.open(paths[3]).save(tmp_path / "again.jpg", quality=90)
    verdicts = list(stream.judge_many([*paths[:20], tmp_path / "again.jpg"]))
    assert verdicts[-1].match is not None
    assert verdicts[-1].match.id == str(paths[3])
    assert verdicts[-1].match.evidence is not None
    again = DuplicateStream.from_store(store, encoder=ToyEncoder(), **options)
    assert list(again.judge_many([*paths[:20], tmp_path / "again.jpg"])) == verdicts
    assert [path.stat().st_mtime_ns for path in kept] == written
    # Without views nothing is looked for in parts of pictures.
    plain = DuplicateStream.from_store(store, encoder=ToyEncoder(), views=False, **options)
    assert not plain.viewed
    assert plain.window.rule.view_bits == -1


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[str]], dict[str, int | None], threading.Event]:
    """Trials of decoding that allow 64 pixels: what each was given, how each content was decoded, and when there was one."""
    tried: list[list[str]] = []
    decoded: dict[str, int | None] = {}
    happened = threading.Event()

    def choose(encoder: Any, works: Any, output: str) -> int:
        tried.append([work.item_id for work in works])
        happened.set()
        return 64

    def decode(
        data: bytes, *, shortest: int | None = None, hashed: bool = False, turned: bool = False
    ) -> Any:
        key = hashlib.sha256(data).hexdigest()
        assert decoded.setdefault(key, shortest) == shortest
        return real(data, shortest=shortest, hashed=hashed, turned=turned)

    real = extract.decode
    monkeypatch.setattr(pipeline_module, "choose_shortest", choose)
    monkeypatch.setattr(extract, "decode", decode)
    return tried, decoded, happened


def test_decoding_shrinks_where_a_trial_allows_it(tmp_path: Path, trials: Any) -> None:
    tried, decoded, _ = trials
    paths = [*make_pictures(tmp_path, 3), *make_pictures(tmp_path / "big", 9, width=160, height=128)]
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    with make(state=tmp_path / "s") as stream:
        list(stream.judge_many(paths))
    assert tried == [[str(path) for path in paths[3:9]]]
    # The sixth that is large enough decides, for itself and for what follows it.
    assert [decoded[key] for key in keys] == [None] * 8 + [64] * 4
    # Whole pictures that were asked for are whole whatever the state says, and leave it as it is.
    decoded.clear()
    with make(state=tmp_path / "s", shrink=False, window=1) as whole:
        list(whole.judge_many(paths))
    assert set(decoded.values()) == {None}
    decoded.clear()
    list(make(state=tmp_path / "s", window=1).judge_many(paths))
    assert set(decoded.values()) == {64}
    assert len(tried) == 1


@pytest.mark.slow
def test_neither_threads_nor_restarts_change_how_far(tmp_path: Path, trials: Any, monkeypatch: Any) -> None:
    tried, decoded, happened = trials
    paths = make_pictures(tmp_path / "big", 12, width=160, height=128)
    stream = make()
    alone = [stream.judge(path) for path in paths]
    expected = dict(decoded)
    assert sorted(map(str, expected.values())) == ["64"] * 7 + ["None"] * 5
    # The first one is still being read when the trial ends.
    happened.clear()
    read = pipeline_module.read_file

    def slowly(path: Path) -> Any:
        if path == paths[0] and threading.current_thread().name.startswith("icehouse-read"):
            assert happened.wait(60)
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "read_file", slowly)
        assert list(make(workers=2, batch_size=50).judge_many(paths)) == alone
    for cut in range(len(paths) + 1):
        state = tmp_path / f"state-{cut}"
        with make(state=state) as first:
            read_ahead = first.judge_many(paths)
            verdicts = [next(read_ahead) for _ in range(cut)]
            read_ahead.close()  # type: ignore[attr-defined]
        assert verdicts + list(make(state=state).judge_many(paths[cut:])) == alone
    assert decoded == expected
    assert all(sample == [str(path) for path in paths[:6]] for sample in tried)


def test_a_trial_that_fails_leaves_pictures_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(*_: Any) -> int:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pipeline_module, "choose_shortest", choose)
    paths = make_pictures(tmp_path, 8, width=160, height=128)
    assert [v.kind for v in make().judge_many(paths)] == ["new"] * 8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.jpg")
    (path,) = make_pictures(tmp_path, 1)
    assert [v.error for v in make().judge_many([tmp_path / "cat.jpg", path])] == ["not a regular file", None]


def test_what_was_read_does_not_wait_for_what_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file can be read only once the first was judged."""
    paths = make_pictures(tmp_path, 3)
    judged, read = threading.Event(), pipeline_module.read_file
    waited = []

    def slowly(path: Path) -> Any:
        if path == paths[1]:
            waited.append(judged.wait(60))
        return read(path)

    monkeypatch.setattr(pipeline_module, "read_file", slowly)
    for verdict in make(workers=2, shrink=False).judge_many(paths, latency=0):
        assert verdict.kind == "new"
        judged.set()
    assert waited == [True]
