"""Scheduler: how fast it asks, how long it waits, and how a run ends; on clocks that the tests turn."""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import random
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.apis import MAX_WAIT_S, Api, UnreachableError
from icehouse.embed.captions.caption_table import Job
from icehouse.embed.captions.scheduler import (
    BUSY_FACTOR,
    AdaptiveConcurrency,
    Scheduler,
    ServerState,
    backoff_s,
    circuit_breaker,
)
from icehouse.errors import CaptionError, ImageError, LockedError


class Nobody:
    """A server that is never asked itself: its questions are answered by the worker."""

    url = "http://host:1"


def server(concurrency: int | None = 1, **standing: Any) -> ServerState:
    return ServerState(cast(Api, Nobody()), AdaptiveConcurrency(concurrency), **standing)


class Worker:
    """A worker that has nothing to do, but for the parts that are given."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)

    def prepare(self, job: Job) -> bytes:
        return b""

    async def ask(self, job: Job, picture: bytes, server: ServerState) -> None:
        await asyncio.sleep(0)

    async def verify(self, server: ServerState) -> None:
        await asyncio.sleep(0)

    async def probe(self, server: ServerState) -> None:
        await asyncio.sleep(0)

    def done(self, job: Job, result: object) -> None:
        pass

    def failed(self, job: Job, error: Exception) -> None:
        pass


async def some_time() -> None:
    await asyncio.sleep(60)


def run(
    servers: list[ServerState], n: int, patience: float = 1.0, beside: Any = some_time, **parts: Any
) -> None:
    """Run `n` jobs to their end."""
    clock = {"clock": parts.pop("clock")} if "clock" in parts else {}
    jobs = [Job(f"{i:064x}", f"{i:064x}", None, None, f"{i}", None, None) for i in range(n)]

    async def main() -> None:
        scheduler = Scheduler(servers, Worker(**parts), patience=patience, **clock)
        await asyncio.wait_for(scheduler.run(jobs, beside), 60)

    asyncio.run(main())


# Concurrency, on servers that are simulated with a clock of their own


def simulate(
    slots: int, answers: int, *, spread: float = 0.0, **options: Any
) -> tuple[AdaptiveConcurrency, float]:
    """Answers of a server that works on `slots` questions at once, a second each; returns also the time taken."""
    concurrency = AdaptiveConcurrency(**options)
    rng = random.Random(3)
    now, served = 0.0, 0
    free = [0.0] * slots
    under_way: list[float] = []
    while served < answers:
        while len(under_way) < concurrency.level:
            end = max(now, heapq.heappop(free)) + rng.uniform(1 - spread, 1 + spread)
            heapq.heappush(free, end)
            heapq.heappush(under_way, end)
        now = heapq.heappop(under_way)
        served += 1
        concurrency.answered(now, busy=True)
    return concurrency, now


@pytest.mark.parametrize("slots", [2, 4, 8, 16])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_slots_are_filled_and_not_flooded(slots: int, spread: float) -> None:
    concurrency, seconds = simulate(slots, 150 * slots, spread=spread)
    assert slots <= concurrency.level <= 2 * slots
    assert seconds < 150 * 1.3


@pytest.mark.parametrize(
    ("slots", "options", "level"), [(1, {}, 1), (64, {"ceiling": 8}, 8), (8, {"fixed": 3}, 3)]
)
def test_levels_that_stay(slots: int, options: dict[str, int], level: int) -> None:
    concurrency, _ = simulate(slots, 1000, **options)
    assert concurrency.level == level
    if "fixed" in options:
        concurrency.back_off()
        assert concurrency.level == level


def test_backing_off_halves_and_waits() -> None:
    concurrency, _ = simulate(8, 800)
    before = concurrency.level
    concurrency.back_off()
    for i in range(8):
        concurrency.answered(float(i), busy=True)
    assert concurrency.level == before // 2


def test_failed_attempts_come_ever_less_often() -> None:
    concurrency = AdaptiveConcurrency()
    levels = []
    for i in range(3000):
        concurrency.answered(float(i), busy=True)  # a second each, whatever the level: nothing is gained
        levels.append(concurrency.level)
    raised = [i for i in range(1, len(levels)) if levels[i] > levels[i - 1]]
    gaps = [b - a for a, b in itertools.pairwise(raised)]
    assert len(raised) > 3
    assert gaps == sorted(gaps)
    assert gaps[-1] > 4 * gaps[0]


def test_half_load_measures_nothing() -> None:
    concurrency = AdaptiveConcurrency()
    for i in range(100):
        concurrency.answered(i / 1000, busy=False)
    assert concurrency.level == 1


class Clock:
    """Seconds that pass when all who can wait do."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleeping: list[tuple[float, int, asyncio.Event]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._numbers), awake))
        await awake.wait()

    async def run(self, waiting: Callable[[int], bool]) -> None:
        """Go on to the next moment whenever everybody waits for it: `waiting` is told how many sleep."""
        while True:
            await asyncio.sleep(0.0005)
            if self._sleeping and waiting(len(self._sleeping)):
                self.now = self._sleeping[0][0]
                while self._sleeping and self._sleeping[0][0] == self.now:
                    heapq.heappop(self._sleeping)[2].set()


def test_the_level_rises_while_that_pays() -> None:
    """Four places that take as long as they take, on a clock that only the test turns."""
    clock = Clock()
    it = server(None)
    slots = asyncio.Semaphore(4)
    at_once: list[int] = []
    done: list[Job] = []

    async def ask(job: Job, picture: bytes, server: ServerState) -> None:
        at_once.append(server.under_way)
        async with slots:
            await clock.sleep(1.0)

    def waiting(asleep: int) -> bool:
        full = it.under_way >= it.concurrency.level or it.under_way == 300 - len(done)
        return full and asleep == min(4, it.under_way)

    async def beside() -> None:
        await clock.run(waiting)

    run([it], 300, ask=ask, clock=clock, beside=beside, done=lambda job, result: done.append(job))
    assert 4 <= it.concurrency.level <= 8
    assert max(at_once) == 8
    # One at a time it would be 300 seconds, and four at a time throughout 75.
    assert clock.now < 110


# Waits


@given(st.integers(0, 10_000), st.none() | st.floats(0, 1e9))
@settings(deadline=None, max_examples=100)
def test_waits_grow_within_bounds(attempt: int, asked: float | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icehouse.embed.captions.scheduler.LONGEST_WAIT_S", 30.0)
        wait = backoff_s(attempt, asked=asked)
    assert 0 < wait <= MAX_WAIT_S
    if asked is not None:
        assert wait >= min(asked, MAX_WAIT_S)
    else:
        assert min(30, 0.5 * 2 ** min(attempt, 6)) / 2 <= wait <= 30


DOWN = {"down_since": 0.0, "reason": "a does not answer"}
BUSY = {"refusing_since": 0.0, "reason": "b is busy"}


@pytest.mark.parametrize(
    ("standings", "at", "words"),
    [
        ([DOWN], 60, "no host has answered for 60 s: a does not answer"),
        ([DOWN, {**DOWN, "down_since": 30.0}], 90, "no host has answered for 60 s: a does not answer"),
        ([BUSY], 600, "no host has had time for 600 s: b is busy"),
        (
            [DOWN, BUSY],
            600,
            "no host has answered for 60 s, or had time for 600 s: a does not answer; b is busy",
        ),
        ([DOWN, {"excluded": ValueError()}], 60, "no host has answered for 60 s: a does not answer"),
        # One that goes up and down, and takes no question in between.
        ([{**BUSY, "down_since": 590.0}], 600, "no host has had time for 600 s: b is busy"),
    ],
)
def test_the_circuit_breaks_when_every_host_is_hopeless_and_not_before(
    standings: list[dict[str, Any]], at: float, words: str
) -> None:
    servers = [server(**standing) for standing in standings]
    assert circuit_breaker(servers, at - 0.1, 60) is None
    assert circuit_breaker(servers, at, 60) == words


@pytest.mark.parametrize("other", [{}, {"down_since": 1e6}, {"refusing_since": 1e6}])
def test_one_host_that_may_answer_is_enough(other: dict[str, Any]) -> None:
    assert circuit_breaker([server(**DOWN), server(**BUSY), server(**other)], 1e6, 60) is None
    # That nobody is left is for whoever left them out.
    assert circuit_breaker([server(excluded=ValueError())], 1e6, 60) is None


def test_an_answer_begins_the_count_anew() -> None:
    it = server()
    it.refused(0.0, 5.0)
    it.refused(1.0, 5.0)  # under way together with the first
    assert (it.refusals, it.refusing_since, it.rest_until) == (1, 0.0, 6.0)
    it.refused(7.0, 5.0)
    assert (it.refusals, it.refusing_since) == (2, 0.0)
    assert circuit_breaker([it], float(BUSY_FACTOR), 1) is not None
    it.gave_answer()
    assert (it.refusals, it.refusing_since) == (0, None)


# Ends


@pytest.mark.parametrize("ticks", range(12))
def test_a_run_that_ends_at_any_moment_leaves_no_coroutine_behind(ticks: int) -> None:
    # The first question fails after some turns of the loop, whatever the others are about to do just then.
    async def ask(job: Job, picture: bytes, server: ServerState) -> None:
        if job.item_id == "0":
            for _ in range(ticks):
                await asyncio.sleep(0)
            raise ZeroDivisionError
        await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(20):
            with pytest.raises(ZeroDivisionError):
                run([server(2), server(3)], 12, ask=ask)
        gc.collect()
    # Other tests' sockets may be collected here too.
    assert not [str(it.message) for it in seen if issubclass(it.category, RuntimeWarning)]


def test_a_failure_that_cannot_be_noted_ends_the_run() -> None:
    def prepare(job: Job) -> bytes:
        raise ImageError("not an image")

    def failed(job: Job, error: Exception) -> None:
        raise LockedError("another writer")

    with pytest.raises(LockedError, match="another writer"):
        run([server()], 3, prepare=prepare, failed=failed)


def test_a_host_that_answers_to_its_name_only_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says who it is, and takes no question: between two attempts there is a wait, and some time there is an end."""
    monkeypatch.setattr("icehouse.embed.captions.scheduler.LONGEST_WAIT_S", 0.02)
    asked = 0

    async def ask(job: Job, picture: bytes, server: ServerState) -> None:
        nonlocal asked
        asked += 1
        raise UnreachableError("http://host:1 does not answer (connection refused)")

    with pytest.raises(CaptionError, match=r"no host has had time for 0\.5 s: http://host:1 does not answer"):
        run([server()], 2, 0.05, ask=ask)
    # Each wait is 0.01 to 0.02 s, and the end comes after 0.5 s.
    assert 1 < asked <= 52
