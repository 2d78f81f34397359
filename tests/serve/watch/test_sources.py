"""A watched folder, endless lines, and a graceful end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from icehouse.serve.watch.commands import Settings
from icehouse.serve.watch.sources import MAX_BYTES, Folder, Lines, parse
from icehouse.serve.watch.worker import open_watch

Posts = Callable[..., dict[str, Any]]
WORKER = Path(__file__).parents[2] / "helpers" / "watch_worker.py"


def until(said: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not said() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said()


@pytest.mark.slow
def test_a_folder_whose_files_come_in_parts(posts: Posts, tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    pictures = [Path(posts()["image_path"]) for _ in range(4)]
    inbox, journal = tmp_path / "inbox", tmp_path / "journal"
    inbox.mkdir()
    shutil.copy(pictures[0], inbox / "there.png")
    (inbox / "there.txt").write_text("storm flood")
    (inbox / "notes.md").write_text("no picture")
    source = Folder(inbox, journal, settle=1.0)
    seen: list[Any] = []

    def read() -> None:
        for message in source:
            seen.append(message)
            source.done([message.token])

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    until(lambda: len(seen) == 1)
    post = parse(seen[0])
    assert (post.id, post.text, post.image_path) == ("there.png", "storm flood", "there.png")
    # One is written slowly, one under another name first.
    data, begun = pictures[1].read_bytes(), time.monotonic()
    with (inbox / "slow.png").open("wb") as file:
        for start in range(0, len(data), max(len(data) // 6, 1)):
            file.write(data[start : start + max(len(data) // 6, 1)])
            file.flush()
            time.sleep(0.1)
    in_time = time.monotonic() - begun < 1.0
    shutil.copy(pictures[2], inbox / "x.png.part")
    (inbox / "x.png.part").rename(inbox / "x.png")
    (inbox / "sub").mkdir()
    shutil.copy(pictures[3], inbox / "sub" / "deep.png")
    until(lambda: {one.default_id for one in seen} == {"there.png", "slow.png", "x.png", "sub/deep.png"})
    until(lambda: len(data) in [one.token[1] for one in seen if one.default_id == "slow.png"])
    if in_time:  # else it stood still for so long that it could be taken for whole
        assert len(seen) == 4
    source.stop()
    thread.join(timeout=10)
    # A restart goes on with what is not done; what was changed is another picture.
    shutil.copy(pictures[0], inbox / "new.png")
    time.sleep(0.02)
    shutil.copy(pictures[3], inbox / "slow.png")
    again = Folder(inbox, journal, settle=0.2)
    names = set()
    for message in again:
        names.add(message.default_id)
        if len(names) == 2:
            again.stop()
    assert names == {"new.png", "slow.png"}


def test_pictures_that_come_with_their_folder_are_seen(posts: Posts, tmp_path: Path) -> None:
    """A folder that is made and filled at once is full before anybody can watch it."""
    pytest.importorskip("watchfiles")
    pictures = [Path(posts()["image_path"]) for _ in range(12)]
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    source = Folder(inbox, None, settle=0.2)
    seen: list[str] = []

    def read() -> None:
        seen.extend(message.default_id for message in source)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    time.sleep(0.5)
    wanted = set()
    for number, picture in enumerate(pictures):
        deep = inbox / f"day{number}" / "phone"
        deep.mkdir(parents=True)
        shutil.copy(picture, deep / "a.png")
        wanted.add(f"day{number}/phone/a.png")
        time.sleep(0.05 * (number % 3))
    until(lambda: wanted <= set(seen))
    source.stop()
    thread.join(timeout=10)
    assert sorted(seen) == sorted(wanted)


def test_a_name_that_is_no_text_costs_only_its_file(posts: Posts, tmp_path: Path) -> None:
    """It ended the watch, and what came after it was never seen."""
    pytest.importorskip("watchfiles")
    picture = Path(posts()["image_path"]).read_bytes()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    source = Folder(inbox, None, settle=0.2)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(source), daemon=True)
    try:
        thread.start()
        time.sleep(0.5)
        for name in (b"first.png", b"caf\xe9.png", b"last.png"):
            try:
                (Path(os.fsdecode(os.fsencode(inbox) + b"/" + name))).write_bytes(picture)
            except OSError:
                pytest.skip("this file system takes no such name")
            time.sleep(0.3)
        until(lambda: len(seen) == 3)
    finally:
        source.stop()
        thread.join(timeout=10)
    told = {one.default_id: parse(one).error for one in seen}
    assert told.pop("first.png") is told.pop("last.png") is None
    assert list(told.values()) == ["its name is no UTF-8: rename it"]


def test_a_line_without_end_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": "a", "text": "x"}\n')
        for _ in range(MAX_BYTES // (1 << 20) + 2):
            file.write(b"x" * (1 << 20))
        file.write(b'\r\n\n{"id": "b", "text": "y"}')
    messages = list(Lines(str(path)))
    assert [len(message.data) < 1000 for message in messages] == [True] * 3
    found = [parse(message) for message in messages]
    assert [post.id for post in found] == ["a", "#1", "b"]
    assert "more than" in str(found[1].error)


@pytest.mark.slow
def test_lines_are_answered_while_the_pipe_stays_open_and_sigterm_ends_well(
    home: Path, posts: Posts, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        str(WORKER),
        "watch",
        "-s",
        str(home / "store"),
        "--state",
        str(tmp_path / "s"),
    ]
    command += [
        "--run",
        "relevancy",
        "--run",
        "damage",
        "--window",
        "100",
        "--threshold",
        "0.999999",
        "--no-drift",
    ]
    # Without a buffer, whose lines `communicate` would not see.
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert running.stdin
    assert running.stdout
    try:
        for _ in range(2):
            post = posts()
            running.stdin.write(json.dumps(post).encode() + b"\n")
            running.stdin.flush()
            told = json.loads(running.stdout.readline())
            assert (told["id"], told["decision"]) == (post["id"], "classified")
        last = [posts() for _ in range(20)]
        running.stdin.write(b"".join(json.dumps(post).encode() + b"\n" for post in last))
        running.stdin.flush()
        first = running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    # What was read is answered; the state is written.
    answered = [json.loads(line)["id"] for line in [first, *out.splitlines()]]
    assert answered == [post["id"] for post in last][: len(answered)]
    assert running.returncode == 128 + signal.SIGTERM
    assert b"classified" in err.splitlines()[-1]
    assert (tmp_path / "s" / "images.window").exists()
    status = json.loads((tmp_path / "s" / "status.json").read_text())
    assert (status["state"], status["counts"]) == ("stopped", {"classified": 2 + len(answered)})


@pytest.mark.slow
def test_a_reader_that_is_slow_stops_the_reading(home: Path, tmp_path: Path) -> None:
    """What is read and not written stays bounded, however much there is to read."""
    given = tmp_path / "in.jsonl"
    given.write_text("".join(json.dumps({"id": str(i), "text": f"storm {i}"}) + "\n" for i in range(3000)))
    read: list[int] = []
    settings = Settings(
        runs=("relevancy",), store=home / "store", state=tmp_path / "state", source=str(given), outs=(os.devnull,),
        window=100, drift=False,
    )  # fmt: skip
    with open_watch(settings) as watch:
        gate = threading.Event()
        write = watch.sinks[0].write

        def slow(decisions: Any) -> None:
            gate.wait(20)
            write(decisions)

        watch.sinks[0].write = slow  # type: ignore[method-assign]
        source = watch.source
        message = source._message  # type: ignore[attr-defined]

        def counted(line: bytes, too_long: bool) -> Any:
            read.append(1)
            return message(line, too_long)

        source._message = counted  # type: ignore[attr-defined]
        thread = threading.Thread(target=watch.run)
        thread.start()
        until(lambda: len(read) > 0)
        time.sleep(0.5)
        assert len(read) <= 300
        gate.set()
        thread.join(timeout=60)
        assert watch.status.counts.total() == len(read) == 3000
