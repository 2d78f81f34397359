"""A stream's verdicts: in order, at once, the same however they are asked for, and across restarts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import EncoderError, SpaceError, UsageError
from icehouse.serve.dups import stream as stream_module
from icehouse.serve.dups.stream import DuplicateStream, Verdict
from icehouse.store.dups.calibration import Calibration, Tail, fit_map
from icehouse.store.dups.cascade import Rule
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, make_pictures, picture
from typer.testing import CliRunner

COSINE = 0.999


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """24 pictures; 8 of them again as JPEG, 4 as they are, two files that are no pictures, and one that is not there."""
    folder = tmp_path_factory.mktemp("photos")
    paths = make_pictures(folder, 24)
    again = []
    for k in range(0, 24, 3):
        path = folder / f"again-{k}.jpg"
        Image.open(paths[k]).save(path, quality=88)
        again.append(path)
    copies = [Path(shutil.copy(paths[k], folder / f"copy-{k}.png")) for k in (1, 2, 5, 9)]
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>")
    odd = [folder / "empty.png", folder / "page.jpg", folder / "nowhere.png"]
    everything = [*paths, *again, *copies, *odd, *copies]
    order = np.random.default_rng(0).permutation(len(everything))
    return [everything[k] for k in order]


def make(encoder: ToyEncoder | None = None, **options: Any) -> DuplicateStream:
    return DuplicateStream(encoder or ToyEncoder(batch_size=5), **{"rule": COSINE, "window": 100, **options})


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


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            waited.append(judged.acquire(timeout=60))

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

    got: list[Verdict] = []
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
    assert stream.window.seen == 0


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
    assert make(state=tmp_path / "s").window.seen == stream.window.seen
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
    tail = Tail(1000, 0.5, 0.02, -0.1, 0.1, (0.7, 0.6))
    fingerprint = store.feature_table(feature).spec["fingerprint"]
    made = Calibration(feature, fingerprint, mean, matrix, tail, len(X))
    with pytest.raises(UsageError, match="no calibration"):
        DuplicateStream.from_store(store, encoder=ToyEncoder(), expected_false_pairs=2)
    made.save(store)
    options: dict[str, Any] = {"encoder": ToyEncoder(batch_size=5), "window": 60}
    stream = DuplicateStream.from_store(store, hamming=4, **options)
    rule = Rule(4, tail.threshold(60), mean, "as it was saved", matrix)
    plain = make(rule=rule, hamming=4, window=60)
    assert list(stream.judge_many(photos)) == list(plain.judge_many(photos))
    assert stream.rule.cosine == tail.threshold(60)
    assert any("by the calibration" in note for note in stream.notes)
    looser = DuplicateStream.from_store(store, expected_false_pairs=50, **options)
    assert looser.rule.cosine == tail.threshold(60, 50) < tail.threshold(60)
    assert DuplicateStream.from_store(store, rule=0.9, **options).rule.cosine == 0.9
    with pytest.raises(UsageError, match="not both"):
        DuplicateStream.from_store(store, rule=0.9, expected_false_pairs=1, **options)
    replace(made, fingerprint="0" * 16).save(store)
    stale = DuplicateStream.from_store(store, **options)
    assert stale.rule.source == "default"
    assert "fingerprint" in stale.notes[0]


def test_decoding_shrinks_where_a_trial_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [*make_pictures(tmp_path, 3), *make_pictures(tmp_path / "big", 9, width=160, height=128)]
    tried: list[list[str]] = []

    def choose(encoder: Any, works: Any, output: str) -> int:
        tried.append([work.item_id for work in works])
        return 64

    monkeypatch.setattr(stream_module, "choose_shortest", choose)
    with make(state=tmp_path / "s") as stream:
        list(stream.judge_many(paths))
    assert tried == [[str(path) for path in paths[3:9]]]
    again = make(state=tmp_path / "s")
    list(again.judge_many(paths))
    assert len(tried) == 1
    assert again._reader.shortest == 64
    list(make(shrink=False).judge_many(paths))
    assert len(tried) == 1


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: Any) -> ToyEncoder:
        if not name.startswith("toy:"):
            raise EncoderError(f"no encoder {name!r}")
        return ToyEncoder(name.removeprefix("toy:"), batch_size=5)

    monkeypatch.setattr(stream_module, "load_encoder", load)


def command(*arguments: str, lines: str) -> tuple[list[dict[str, Any]], str]:
    result = CliRunner().invoke(app, ["dups", "stream", *arguments], input=lines)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_the_command(photos: list[Path], tmp_path: Path, toys: None) -> None:
    lines = [
        str(path) if k % 2 else json.dumps({"id": k, "path": str(path)}) for k, path in enumerate(photos)
    ]
    lines[5:5] = ["{broken", '{"id": "x", "bytes": "AAAA", "image": 1}']
    options = ("--encoder", "toy:a", "-t", str(COSINE), "--state", str(tmp_path / "s"), "--all-matches", "2")
    told, said = command(*options, lines="\n".join(lines[:20]) + "\n\n")
    more, said_later = command(*options, lines="\n".join(lines[20:]))
    told += more
    assert len(told) == len(lines)
    assert (told[5]["id"], told[5]["verdict"]) == ("#5", "error")
    assert "not JSON" in told[5]["error"]
    assert told[6]["error"] == "no path, bytes or image"
    kinds = [line["verdict"] for k, line in enumerate(told) if k not in (5, 6)]
    verdicts = list(make().judge_many(photos))
    assert kinds == [v.kind for v in verdicts]
    assert [line["id"] for line in told[7:10]] == [str(photos[5]), "6", str(photos[7])]
    assert len({tuple(line) for line in told}) == 1
    for line in told:
        assert len(line["matches"]) <= 2
        if line["match"] is not None:
            assert line["matches"][0]["id"] == line["match"]
            assert line["position"] - line["match_position"] == line["age"]
    assert "20 images in" in said
    assert "going on after" in said_later
    assert "guess" not in said


def test_without_a_threshold_it_says_that_it_guesses(toys: None) -> None:
    _, said = command("--encoder", "toy:a", lines="")
    assert "0.95 is a guess" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-embedding", "--encoder", "mini"),
        ("--no-embedding", "-t", "0.9"),
        ("--encoder", "mini", "--feature", "mini/image/pooled"),
        ("--no-embedding", "--window", "0"),
        ("--no-embedding", "--latency", "-1"),
        ("--no-embedding", "--hamming", "33"),
    ],
)
def test_options_that_make_no_sense(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["dups", "stream", *arguments], input="")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


class Child:
    """The command in a process of its own, with pipes."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "icehouse", "dups", "stream", "--no-embedding", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.watch = threading.Timer(120, self.process.kill)
        self.watch.start()

    def ask(self, path: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate()
        self.watch.cancel()
        return self.process.returncode, said


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_what_was_told(tmp_path: Path, number: int, status: int) -> None:
    paths = make_pictures(tmp_path / "p", 3)
    child = Child("--state", str(tmp_path / "s"))
    assert [child.ask(path)["verdict"] for path in paths] == ["new"] * 3
    child.process.send_signal(number)
    code, said = child.end()
    assert code == status
    assert "state saved" in said
    assert "Traceback" not in said
    again = Child("--state", str(tmp_path / "s"))
    answer = again.ask(paths[1])
    assert (answer["verdict"], answer["age"], answer["position"]) == ("exact", 2, 3)
    assert again.end()[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_broken_pipe_is_no_error(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "p", 3)
    child = Child("--state", str(tmp_path / "s"))
    child.ask(paths[0])
    assert child.process.stdout is not None
    assert child.process.stdin is not None
    child.process.stdout.close()
    child.process.stdin.write("".join(f"{path}\n" for path in paths))
    child.process.stdin.close()
    assert child.process.stderr is not None
    said = child.process.stderr.read()
    assert child.process.wait() == 0
    child.watch.cancel()
    assert "Traceback" not in said
    assert "Exception" not in said
    assert "state saved" in said


def test_names_that_are_not_text(tmp_path: Path) -> None:
    child = Child()
    child.process.stdin.buffer.write(b"caf\xe9.jpg\n")  # type: ignore[union-attr]
    child.process.stdin.buffer.flush()  # type: ignore[union-attr]
    told = json.loads(child.process.stdout.readline())  # type: ignore[union-attr]
    assert os.fsencode(told["id"]) == b"caf\xe9.jpg"
    assert child.end()[0] == 0
