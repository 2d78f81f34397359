"""Rates and estimates, by a clock that the test turns."""

from __future__ import annotations

import pytest
from icehouse.embed.captions.report import Pace, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


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
    assert [pace.answered(None) for _ in range(5)] == [None] * 5


def test_before_the_first_answer() -> None:
    assert Pace(3, Clock()).line(1) == "waiting for the first answer"


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
