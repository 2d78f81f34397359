"""What a run shows while it goes on, on a terminal and in a log; rates and estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from caption_stores import Lab
from icehouse.embed.captions.captioner import EVERY_S, Log, Pace, PaceLine, duration, progress
from ollama_server import OllamaServer
from rich.console import Console


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """A terminal; function: what has been written to it."""
    path = tmp_path / "screen"
    with path.open("w") as file:
        terminal = Console(file=file, force_terminal=True, width=140)
        monkeypatch.setattr("rich.console.Console", lambda **_: terminal)

        def shown() -> str:
            file.flush()
            return path.read_text()

        yield shown


def test_a_terminal_shows_rate_and_estimate(lab: Lab, screen: Callable[[], str]) -> None:
    with progress() as (tell, remark):
        lab.caption(lab.store(7), progress=tell, say=remark)
    for told in ("captioning", "7/7", "tokens/s", "all 7 will take about"):
        assert told in screen()
    assert "pulling" not in screen()


def test_a_terminal_shows_a_pull_in_megabytes(
    lab: Lab, server: OllamaServer, screen: Callable[[], str]
) -> None:
    with progress() as (tell, _):
        tell(2_500_000_000, 4_733_363_377, "pulling [bold]8934\x1b[2J")
        assert "captioning" not in screen().partition("pulling")[2]
    assert "2,500.0 of 4,733.4 MB" in screen()
    # Shown as it was sent, and not obeyed.
    assert "pulling [bold]8934\N{REPLACEMENT CHARACTER}[2J" in screen()
    server.pullable, server.models = {"llava:7b": "d" * 64}, {}
    with progress() as (tell, remark):
        lab.caption(lab.store(2), pull=True, progress=tell, say=remark)
    assert "2/2" in screen()


def test_a_log_has_a_line_now_and_then() -> None:
    clock, lines = Clock(), []
    log = Log(lines.append, clock)
    log.progress(0, 100, PaceLine("waiting for the first answer"))
    for done in range(1, 101):
        clock.now += 2.0
        log.progress(done, 100, PaceLine("0.5/s", (100 - done) * 2.0 or None))
    assert lines[0] == "15 of 100: 0.5/s, about 3 min left"
    assert lines[-1] == "90 of 100: 0.5/s, about 20 s left"
    assert len(lines) == 200 / EVERY_S // 1


def test_a_log_tells_each_step_of_a_pull_once() -> None:
    clock, lines = Clock(), []
    log = Log(lines.append, clock)
    for done in range(0, 4_000_000_000, 1_000_000):
        clock.now += 1 / 64
        # Two hosts pull at once.
        log.progress(done, 4_000_000_000, "pulling 8934")
        log.progress(0, 0, "verifying")
    assert lines == [
        "pulling: pulling 8934, 0.0 of 4,000.0 MB",
        "pulling: verifying",
        "pulling: pulling 8934, 1,919.0 of 4,000.0 MB",
        "pulling: pulling 8934, 3,839.0 of 4,000.0 MB",
    ]


def test_the_estimate_comes_once_and_leaves_loading_out() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    said = []
    for i in range(10):
        clock.now += 32.0 if i == 0 else 2.0
        said.append(pace.answered(7, 30.0 if i == 0 else 0.0))
    assert said[:4] == [None] * 4
    assert said[4] == "the first 5 took 2 s each: all 100 will take about 3 min at this rate"
    assert said[5:] == [None] * 5
    assert pace.rate == pytest.approx(0.5)
    assert pace.tokens_per_second == pytest.approx(3.5)
    assert pace.line(2) == "2.0 s each, 4 tokens/s, 2 at once"


def test_a_small_set_needs_no_estimate() -> None:
    pace = Pace(5, Clock())
    assert pace.line(1) == "waiting for the first answer"
    assert [pace.answered(None) for _ in range(5)] == [None] * 5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5000, "83 min"),
        (12_000, "3 h 20 min"),
        (400_000, "4 d 15 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
