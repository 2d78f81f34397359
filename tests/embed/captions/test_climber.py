"""Concurrency follows what pays, on servers that are simulated with a clock of their own."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from icehouse.embed.captions.climber import Climber


def simulate(
    slots: int, answers: int, *, climber: Climber | None = None, spread: float = 0.0, speed: float = 1.0
) -> tuple[Climber, float]:
    """Answers of a server that works on `slots` questions at once, a second each; returns the climber and the time taken."""
    climber = climber or Climber()
    rng = random.Random(3)
    now, served = 0.0, 0
    free = [0.0] * slots
    under_way: list[float] = []
    while served < answers:
        while len(under_way) < climber.level:
            start = max(now, heapq.heappop(free))
            end = start + speed * rng.uniform(1 - spread, 1 + spread)
            heapq.heappush(free, end)
            heapq.heappush(under_way, end)
        now = heapq.heappop(under_way)
        served += 1
        climber.answered(now, busy=True)
    return climber, now


def test_one_slot_is_left_with_one_question() -> None:
    climber, _ = simulate(1, 400)
    assert climber.level == 1


@pytest.mark.parametrize("slots", [2, 4, 8, 16])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_slots_are_filled_and_not_flooded(slots: int, spread: float) -> None:
    climber, seconds = simulate(slots, 150 * slots, spread=spread)
    assert slots <= climber.level <= 2 * slots
    assert seconds < 150 * 1.3


def test_the_ceiling_holds() -> None:
    climber, _ = simulate(64, 2000, climber=Climber(ceiling=8))
    assert climber.level == 8


def test_fixed_stays() -> None:
    climber, _ = simulate(8, 200, climber=Climber(3))
    climber.back_off()
    assert climber.level == 3


def test_backing_off_halves_and_waits() -> None:
    climber, _ = simulate(8, 800)
    before = climber.level
    climber.back_off()
    assert climber.level == before // 2
    for i in range(8):
        climber.answered(float(i), busy=True)
    assert climber.level == before // 2


def test_failed_attempts_come_ever_less_often() -> None:
    climber = Climber()
    levels = []
    for i in range(3000):
        climber.answered(float(i), busy=True)  # a second each, whatever the level: nothing is gained
        levels.append(climber.level)
    raised = [i for i in range(1, len(levels)) if levels[i] > levels[i - 1]]
    gaps = [b - a for a, b in itertools.pairwise(raised)]
    assert len(raised) > 3
    assert gaps == sorted(gaps)
    assert gaps[-1] > 4 * gaps[0]


def test_half_load_measures_nothing() -> None:
    climber = Climber()
    for i in range(100):
        climber.answered(i / 1000, busy=False)
    assert climber.level == 1
