"""Watching lines: repeats, gates, heads; bad lines cost only themselves; what was seen outlives a restart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from icehouse.errors import HeadError, LockedError, UsageError
from icehouse.serve.watch.commands import Settings
from icehouse.serve.watch.status import read_status
from icehouse.serve.watch.worker import Watch, open_watch
from PIL import Image

Run = Callable[..., list[dict[str, Any]]]
Posts = Callable[..., dict[str, Any]]


def test_repeats_then_gates_then_heads(run_lines: Run, posts: Posts) -> None:
    severe, none, off = posts(), posts(bright=False), posts(about=False)
    again = {**posts(), "image_path": severe["image_path"]}
    told = run_lines([severe, none, off, again])
    assert [(line["id"], line["decision"], line["stage"]) for line in told] == [
        (severe["id"], "classified", "heads"),
        (none["id"], "classified", "heads"),
        (off["id"], "irrelevant", "relevancy"),
        (again["id"], "repeat", "repeats"),
    ]
    assert told[0]["runs"]["relevancy"]["predicted"] == "informative"
    assert told[0]["runs"]["damage"]["predicted"] == "severe"
    assert told[1]["runs"]["damage"]["predicted"] == "none"
    # The heads behind a gate are not asked about what it stops.
    assert list(told[2]["runs"]) == ["relevancy"]
    assert told[2]["runs"]["relevancy"]["passes"] is False
    assert told[3]["repeat_of"]["id"] == severe["id"]
    assert told[3]["repeat_of"]["kind"] == "exact"
    assert told[3]["runs"] == {}
    assert {"read", "decode", "embed", "repeats", "relevancy", "damage", "total"} <= told[0]["ms"].keys()
    assert "damage" not in told[2]["ms"]


def test_gates_as_they_are_given(run_lines: Run, posts: Posts) -> None:
    off = posts(about=False)
    assert run_lines([off], automatic=False)[0]["decision"] == "classified"
    only = run_lines([off, posts()], gates=("relevancy=not_informative",), state=None, name="g1")
    assert [line["decision"] for line in only] == ["classified", "irrelevant"]
    sure = run_lines([posts()], gates=("relevancy=informative@1.0",), name="g2")
    assert sure[0]["decision"] == "irrelevant"
    with pytest.raises(UsageError, match="has no class 'flood'"):
        run_lines([off], gates=("relevancy=flood",))
    with pytest.raises(UsageError, match="RUN=CLASS"):
        run_lines([off], gates=("relevancy",))


def test_a_bad_line_costs_only_itself(run_lines: Run, posts: Posts) -> None:
    bad = [
        (b"not json", "not JSON"),
        (b"[1, 2]", "a JSON list"),
        (b"7", "a JSON number"),
        (b'{"id": "a"}', "nothing to judge"),
        (b'{"id": {"a": 1}, "text": "x"}', "id is a object"),
        (b'{"id": 1.5, "text": "x"}', "id is a number, not a text or a whole number"),
        (b'{"id": 1e400, "text": "x"}', "whole number"),
        (b'{"id": "' + b"u" * 501 + b'", "text": "x"}', "id has 501 characters; at most 500"),
        (b'{"id": "a", "label": "' + b"u" * 501 + b'"}', "label has 501 characters"),
        (b'{"id": "a", "text": 5}', "text is a number"),
        (b'{"id": "a", "text": "\\ud800"}', "surrogates"),
        (b'{"id": "a", "image_path": "a\\u0000b"}', "NUL"),
        (b'{"id": "a", "text": "x", "coordinates": [200, 0]}', "nowhere on Earth"),
        (b'{"id": "a", "text": "x", "hashtags": 5}', "hashtags"),
        (b'{"id": "a", "image_base64": "???"}', "not base64"),
        (b"[" * 100_000, "JSON"),
        (b'{"id": ' + b"9" * 10_000 + b"}", "not JSON|Exceeds"),
        (b"\xff\xfe{}", "not UTF-8|not JSON"),
        (b'{"id": "a", "image_path": "/nowhere/at/all.png"}', "all.png"),
    ]
    # A good line before each bad one, and after the last.
    lines = [line for wrong, _ in bad for line in (posts(), wrong)]
    told = run_lines([*lines, posts()])
    assert [entry["decision"] for entry in told] == ["classified", "error"] * len(bad) + ["classified"]
    for entry, (_, what) in zip(told[1::2], bad, strict=True):
        assert re.search(what, entry["error"])
        assert "\n" not in entry["error"]


def test_bad_lines_go_elsewhere(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    told = run_lines([posts(), b"not json"], errors=str(tmp_path / "bad.jsonl"))
    assert [entry["decision"] for entry in told] == ["classified"]
    (bad,) = (json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines())
    assert (bad["id"], bad["message"]) == ("#1", "not json")


def test_a_damaged_picture_leaves_the_text(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    post = {**posts(), "image_path": str(tmp_path / "bad.png")}
    (told,) = run_lines([post], automatic=False)
    assert told["decision"] == "classified"
    assert told["runs"]["relevancy"]["predicted"] == "informative"
    assert "error" in told["runs"]["damage"]
    assert told["error"]


def test_a_picture_that_nobody_has_seen_is_no_repeat(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    first = {**posts(), "text": "fire"}
    bad = [{**posts(), "text": "fire", "image_path": str(tmp_path / "bad.png")} for _ in range(2)]
    bare = {**posts(), "text": "fire"}
    del bare["image_path"]
    for repeats in ("image", "post"):
        told = run_lines([first, *bad], repeats=repeats, automatic=False, name=repeats)
        assert [line["decision"] for line in told] == ["classified"] * 3
        assert all("SVG" in line["error"] for line in told[1:])
    told = run_lines([first, bare, *bad], repeats="text", automatic=False, name="text")
    assert [line["decision"] for line in told] == ["classified", "repeat", "repeat", "repeat"]
    stopped = run_lines([{**bad[0], "text": "lunch cake"}], name="gate")
    assert (stopped[0]["decision"], "SVG" in stopped[0]["error"]) == ("irrelevant", True)


def test_ids_of_lines_without_one_go_on_after_a_restart(run_lines: Run, posts: Posts) -> None:
    without = [{key: value for key, value in posts().items() if key != "id"} for _ in range(3)]
    assert [line["id"] for line in run_lines(without[:2])] == ["#0", "#1"]
    assert [line["id"] for line in run_lines(without[2:])] == ["#2"]


def test_the_window_outlives_a_restart_and_a_post_is_no_repeat_of_itself(
    run_lines: Run, posts: Posts
) -> None:
    first = posts()
    again = {**posts(), "image_path": first["image_path"]}
    assert run_lines([first])[0]["decision"] == "classified"
    told = run_lines([again, first])
    assert [line["decision"] for line in told] == ["repeat", "classified"]
    assert told[0]["repeat_of"]["id"] == first["id"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("image", ["classified", "repeat", "classified"]),
        ("text", ["classified", "classified", "repeat"]),
        ("post", ["classified", "classified", "classified"]),
        ("off", ["classified", "classified", "classified"]),
    ],
)
def test_what_is_repeated_in_a_repeat(run_lines: Run, posts: Posts, part: str, expected: list[str]) -> None:
    first, other = posts(), posts()
    same_picture = {**posts(), "text": "storm storm storm", "image_path": first["image_path"]}
    same_text = {**other, "text": first["text"]}
    told = run_lines([first, same_picture, same_text], repeats=part)
    assert [line["decision"] for line in told] == expected


def test_a_recompressed_picture_is_a_repeat(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    first = posts()
    Image.open(first["image_path"]).save(tmp_path / "again.jpg", quality=80)
    told = run_lines([first, {**posts(), "image_path": str(tmp_path / "again.jpg")}])
    assert told[1]["decision"] == "repeat"
    assert told[1]["repeat_of"]["kind"] in ("perceptual", "embedding")


def test_a_variant_goes_on_to_the_heads(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    first = posts(text="storm flood water roof rescue")
    Image.open(first["image_path"]).save(tmp_path / "again.jpg", quality=80)
    again = str(tmp_path / "again.jpg")
    other = posts(text="holiday cake for all my friends", image_path=again)
    same = posts(text="storm flood water roof rescue today", image_path=again, id="same")
    told = run_lines([first, other, same])
    assert [line["decision"] for line in told] == ["classified", "irrelevant", "repeat"]
    assert told[0]["variant_of"] is None
    variant = told[1]["variant_of"]
    assert (variant["id"], variant["kind"], variant["differs"]) == (first["id"], "variant", "text")
    assert told[1]["repeat_of"] is None
    assert told[1]["runs"]["relevancy"]["predicted"] == "not_informative"
    # The picture of `again` is there byte by byte: an exact copy is a repeat whatever its text.
    assert told[2]["repeat_of"]["kind"] == "exact"
    # Without texts the pictures decide; of two parts of a post that must both be repeated one may be a variant.
    told = run_lines([{**other, "id": "late"}], repeats="post", state=tmp_path / "other")
    assert [line["decision"] for line in told] == ["irrelevant"]


def test_a_turned_picture_is_a_repeat(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    first = posts()
    turned = Image.open(first["image_path"]).transpose(Image.Transpose.ROTATE_270)
    turned.save(tmp_path / "turned.png")
    told = run_lines([first, {**first, "id": "turned", "image_path": str(tmp_path / "turned.png")}])
    assert told[1]["decision"] == "repeat"
    assert told[1]["repeat_of"]["orientation"] == "rotate_90"


def test_many_copies_at_once_are_encoded_once(run_lines: Run, posts: Posts) -> None:
    first = posts()
    told = run_lines([first, *({**first, "id": f"c{i}"} for i in range(200))])
    assert [line["decision"] for line in told] == ["classified", *["repeat"] * 200]


def test_what_is_wrong_is_told_before_anything_is_read(run_lines: Run) -> None:
    with pytest.raises(HeadError, match="'weather' is no run"):
        run_lines([], runs=("weather",))
    with pytest.raises(UsageError, match="no run to ask"):
        run_lines([], runs=())
    with pytest.raises(UsageError, match="posts come from"):
        run_lines([], source="ftp://a/b")
    with pytest.raises(UsageError, match="decisions go to"):
        run_lines([], outs=("ftp://a/b",))
    with pytest.raises(UsageError, match="--repeats"):
        run_lines([], repeats="sound")


def test_two_of_one_name_do_not_write_over_each_other(run_lines: Run, home: Path, tmp_path: Path) -> None:
    first = Settings(
        runs=("damage",), store=home / "store", state=tmp_path / "state", source=os.devnull, drift=False
    )
    with open_watch(first), ThreadPoolExecutor(1) as other, pytest.raises(LockedError, match="another name"):
        other.submit(run_lines, []).result()


def test_the_status_says_what_was_done(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    run_lines([posts(), posts(about=False), b"x"])
    run_lines([posts()])
    told = read_status(tmp_path / "state" / "status.json")
    assert told is not None
    assert told["counts"] == {"classified": 2, "irrelevant": 1, "error": 1}
    assert told["stages"] == {"heads": 2, "relevancy": 1, "read": 1}
    assert told["classes"]["damage"] == {"severe": 2}
    assert told["runs"]["relevancy"]["gate"] == ["not_informative"]
    assert told["alive"] is False
    assert told["window"]["images"] == 3
    (tmp_path / "state" / "status.json").write_text("{")
    assert read_status(tmp_path / "state" / "status.json") is None


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [
        ("redis", {"source": "redis://localhost/posts"}, "watch"),
        ("psycopg", {"outs": ("postgresql://localhost/x",)}, "watch"),
        ("confluent_kafka", {"source": "kafka://localhost:9092/posts"}, "kafka"),
        ("watchfiles", {"source": "."}, "watch"),
        ("py3langid", {"collect": "rules.toml"}, "watch"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    run_lines: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, options: Any, extra: str
) -> None:
    from icehouse.serve import watch

    find = watch.find_spec
    monkeypatch.setattr(watch, "find_spec", lambda name: None if name == module else find(name))
    if "collect" in options:
        options = {"collect": tmp_path / "rules.toml"}
        options["collect"].write_text('[[collection]]\nname="a"\nlanguages=["en"]')
    with pytest.raises(
        UsageError, match=rf'{module}, which is not installed: pip install "icehouse\[{extra}\]"'
    ):
        run_lines([], **options)


def test_lines_of_statistics(run_lines: Run, posts: Posts, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand among the decisions, and have no id."""
    write = Watch._write

    def told(self: Watch, decisions: Any) -> None:
        write(self, decisions)
        self._tell_stats()

    monkeypatch.setattr(Watch, "_write", told)
    lines = run_lines([posts(), posts(about=False)])
    stats = [line["stats"] for line in lines if "stats" in line]
    assert [line["decision"] for line in lines if "stats" not in line] == ["classified", "irrelevant"]
    assert stats[-1]["counts"] == {"classified": 1, "irrelevant": 1}
    assert stats[-1]["ms"]["embed"]["p95"] > 0
    assert stats[-1]["classes"]["relevancy"] == {"informative": 1, "not_informative": 1}


def test_drift_of_a_stream(run_lines: Run, posts: Posts, tmp_path: Path) -> None:
    """Pictures as in training are like them; those of one kind alone are another mixture."""
    both = [posts(bright=number % 2 == 0) for number in range(56)]
    run_lines(both, runs=("damage",), drift=True)
    same = read_status(tmp_path / "state" / "status.json")
    run_lines(
        [posts(text="quite other words") for _ in range(56)],
        runs=("damage",),
        drift=True,
        state=tmp_path / "b",
    )
    other = read_status(tmp_path / "b" / "status.json")
    assert same is not None
    assert other is not None
    assert same["drift"]["inputs"] >= 50
    assert other["drift"]["drifted"] is True
    assert other["drift"]["auroc"] > same["drift"]["auroc"]
