"""`icehouse dups stream`: lines in, lines out, whatever the lines, the pipes and the signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from icehouse.cli import app
from icehouse.dups import stream as stream_module
from icehouse.errors import EncoderError
from streams import COSINE, make_photos
from streams import make_stream as make
from toys import ToyEncoder, make_pictures
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: Any) -> ToyEncoder:
        if not name.startswith("toy:"):
            raise EncoderError(f"no encoder {name!r}")
        return ToyEncoder(name.removeprefix("toy:"), batch_size=5)

    monkeypatch.setattr(stream_module, "load_named", load)


def command(*arguments: str, lines: str) -> tuple[list[dict[str, Any]], str]:
    result = CliRunner().invoke(app, ["dups", "stream", *arguments], input=lines)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_the_place_to_go_on_counts_every_line(photos: list[Path], tmp_path: Path, toys: None) -> None:
    """Whatever cannot be read, and what is blank, moves the place: fed from there, nothing is judged twice or left out."""
    lines = [str(path) for path in photos[:8]]
    lines[2:2] = ["/no/such/file", "", "{broken"]
    lines[6:6] = ["   "]
    options = ("--encoder", "toy:a", "-t", str(COSINE))
    whole, _ = command(*options, lines="\n".join(lines))
    for cut in range(1, len(lines)):
        state = tmp_path / f"{cut}.state"
        first, _ = command(*options, "--state", str(state), lines="\n".join(lines[:cut]))
        place = first[-1]["line"] + 1
        more, said = command(*options, "--state", str(state), lines="\n".join(lines[place:]))
        assert f"going on after {place} {'line' if place == 1 else 'lines'}" in said
        assert [{**told, "matches": None} for told in first + more] == [
            {**told, "matches": None} for told in whole
        ]
    assert [told["line"] for told in whole] == [k for k, line in enumerate(lines) if line.strip()]
    assert "2 of them could not be read" in said
    assert whole[-1]["position"] == 7


def test_the_command(photos: list[Path], tmp_path: Path, toys: None) -> None:
    lines = [
        str(path) if k % 2 else json.dumps({"id": k, "path": str(path)}) for k, path in enumerate(photos)
    ]
    lines[5:5] = ["{broken", '{"id": "x", "bytes": "AAAA", "image": 1}']
    lines += ['{"a":' * 100_000, "\ufeff" + lines[0]]
    options = ("--encoder", "toy:a", "-t", str(COSINE), "--state", str(tmp_path / "s"), "--all-matches", "2")
    told, said = command(*options, lines="\n".join(lines[:20]) + "\n\n")
    more, said_later = command(*options, lines="\n".join(lines[20:]))
    told += more
    assert len(told) == len(lines)
    assert (told[5]["id"], told[5]["verdict"]) == ("#5", "error")
    assert "not JSON" in told[5]["error"]
    assert told[6]["error"] == "no path, bytes or image"
    # A line that no parser gets through stops nothing, and is counted on after a restart.
    assert (told[-2]["id"], told[-2]["verdict"]) == (f"#{len(lines) - 2}", "error")
    assert (told.pop()["verdict"], told.pop()["match"]) == ("exact", None)
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
    assert "no calibration" not in said


def test_without_a_threshold_it_says_what_it_goes_by(toys: None) -> None:
    _, said = command("--encoder", "toy:a", lines="")
    assert "no calibration: what unrelated contents look like is told from those that come" in said
    _, said = command("--encoder", "toy:a", "--threshold", "0.9", lines="")
    assert "note:" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-embedding", "--encoder", "mini"),
        ("--no-embedding", "-t", "0.9"),
        ("--encoder", "mini", "--feature", "mini/image/pooled"),
        ("--no-embedding", "--window", "0"),
        ("--no-embedding", "--latency", "-1"),
        ("--no-embedding", "--latency", "nan"),
        ("--no-embedding", "--save-every", "nan"),
        ("--no-embedding", "--window", "100000000000000"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_ends_are_told(closed: str) -> None:
    run = ["sh", "-c", f'exec "$0" -m icehouse dups stream --no-embedding {closed}', sys.executable]
    result = subprocess.run(run, capture_output=True, text=True, timeout=600)
    assert result.returncode == 2
    assert "is closed" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_state_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file" / "state", tmp_path):
        result = CliRunner().invoke(
            app, ["dups", "stream", "--no-embedding", "--state", str(state)], input=f"{tmp_path}/a.jpg\n"
        )
        assert result.exit_code == 1
        assert result.stdout == ""
        assert str(state) in result.stderr


@pytest.mark.slow
def test_names_that_are_not_text(tmp_path: Path) -> None:
    child = Child()
    child.process.stdin.buffer.write(b"caf\xe9.jpg\n")  # type: ignore[union-attr]
    child.process.stdin.buffer.flush()  # type: ignore[union-attr]
    told = json.loads(child.process.stdout.readline())  # type: ignore[union-attr]
    assert os.fsencode(told["id"]) == b"caf\xe9.jpg"
    assert child.end()[0] == 0
