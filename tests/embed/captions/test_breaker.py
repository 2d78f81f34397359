"""When a run gives up hoping, on a clock that the test turns."""

from __future__ import annotations

from typing import Any, cast

import pytest
from icehouse.embed.captions.api import Api
from icehouse.embed.captions.breaker import BUSY_FACTOR, Breaker
from icehouse.embed.captions.hosts import Host


def host(**standing: Any) -> Host:
    return Host(cast(Api, None), **standing)


DOWN = {"down_since": 0.0, "why": "a does not answer"}
BUSY = {"idle_since": 0.0, "why": "b is busy"}


@pytest.mark.parametrize(
    ("standings", "at", "words"),
    [
        ([DOWN], 60, "no host has answered for 60 s: a does not answer"),
        ([DOWN, DOWN], 60, "no host has answered for 60 s: a does not answer"),
        ([DOWN, {**DOWN, "down_since": 30.0}], 90, "no host has answered for 60 s: a does not answer"),
        ([BUSY], 600, "no host has had time for 600 s: b is busy"),
        (
            [DOWN, BUSY],
            600,
            "no host has answered for 60 s, or had time for 600 s: a does not answer; b is busy",
        ),
        (
            [DOWN, {"expelled": ValueError("another model")}],
            60,
            "no host has answered for 60 s: a does not answer",
        ),
        # One that goes up and down, and takes no question in between.
        ([{**BUSY, "down_since": 590.0}], 600, "no host has had time for 600 s: b is busy"),
    ],
)
def test_it_ends_when_every_host_is_hopeless_and_not_before(
    standings: list[dict[str, Any]], at: float, words: str
) -> None:
    breaker = Breaker(60)
    hosts = [host(**standing) for standing in standings]
    assert breaker.verdict(hosts, at - 0.1) is None
    assert breaker.verdict(hosts, at) == words


@pytest.mark.parametrize("other", [{}, {"down_since": 1e6}, {"idle_since": 1e6}])
def test_one_host_that_may_answer_is_enough(other: dict[str, Any]) -> None:
    breaker = Breaker(60)
    assert breaker.verdict([host(**DOWN), host(**BUSY), host(**other)], 1e6) is None


def test_nobody_left_is_for_whoever_left_them_out() -> None:
    assert Breaker(60).verdict([host(expelled=ValueError())], 1e6) is None


def test_an_answer_begins_the_count_anew() -> None:
    it = host()
    it.gave_nothing(0.0, 5.0)
    it.gave_nothing(1.0, 5.0)  # under way together with the first
    assert (it.idles, it.idle_since, it.rest_until) == (1, 0.0, 6.0)
    it.gave_nothing(7.0, 5.0)
    assert (it.idles, it.idle_since) == (2, 0.0)
    assert Breaker(1).verdict([it], float(BUSY_FACTOR)) is not None
    it.gave_answer()
    assert (it.idles, it.idle_since) == (0, None)
