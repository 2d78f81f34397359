"""How a run ends."""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from icehouse.embed.captions import dispatch
from icehouse.embed.captions.api import Answer, Api, BusyError, GoneError, Identity, Question
from icehouse.embed.captions.climber import Climber
from icehouse.embed.captions.dispatch import Dispatcher
from icehouse.embed.captions.hosts import Host
from icehouse.embed.captions.plan import Job
from icehouse.errors import CaptionError, ImageError, LockedError


class Silent(Api):
    """A host that is there; its questions are answered by the dispatcher's `work`."""

    url, model = "http://host:1", "llava:7b"

    async def identify(self) -> Identity:
        return Identity("llava:7b", None, "test")

    async def ask(self, question: Question) -> Answer:
        raise AssertionError("questions go to `work`")

    async def close(self) -> None:
        pass


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


@pytest.mark.parametrize("ticks", range(12))
def test_a_run_that_ends_at_any_moment_leaves_no_coroutine_behind(ticks: int) -> None:
    # The first question fails after some turns of the loop, whatever the others are about to do just then.
    jobs = [Job(f"{n:064x}", f"{n:064x}", None, None, f"{n}", None, None) for n in range(12)]

    async def work(job: Job, picture: bytes, host: Host) -> None:
        if job is jobs[0]:
            for _ in range(ticks):
                await asyncio.sleep(0)
            raise ZeroDivisionError
        await asyncio.sleep(0)

    async def main() -> None:
        hosts = [Host(Silent(), Climber(level)) for level in (2, 3)]
        dispatcher = Dispatcher(
            hosts,
            prepare=lambda job: b"",
            work=work,
            identify=lambda host: host.api.identify(),
            check=lambda host, identity: None,
            probe=lambda host: asyncio.sleep(0),
            done=lambda job, result: None,
            failed=lambda job, error: None,
            say=lambda remark: None,
            patience=1.0,
        )

        async def beside() -> None:
            await asyncio.sleep(60)

        await dispatcher.run(jobs, beside)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(20):
            with pytest.raises(ZeroDivisionError):
                asyncio.run(main())
        gc.collect()
    # Other tests' sockets may be collected here too.
    assert not [str(it.message) for it in seen if issubclass(it.category, RuntimeWarning)]


def make(hosts: list[Host], patience: float = 1.0, **given: Any) -> Dispatcher:
    """A dispatcher whose parts do nothing, but for those that are given."""
    parts: dict[str, Any] = {
        "prepare": lambda job: b"",
        "work": lambda job, picture, host: asyncio.sleep(0),
        "identify": lambda host: host.api.identify(),
        "check": lambda host, identity: None,
        "probe": lambda host: asyncio.sleep(0),
        "done": lambda job, result: None,
        "failed": lambda job, error: None,
        "say": lambda remark: None,
    }
    return Dispatcher(hosts, patience=patience, **(parts | given))


def run(dispatcher: Dispatcher, jobs: list[Job]) -> None:
    async def beside() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        await asyncio.wait_for(dispatcher.run(jobs, beside), 20)

    asyncio.run(main())


def some_jobs(n: int) -> list[Job]:
    return [Job(f"{i:064x}", f"{i:064x}", None, None, f"{i}", None, None) for i in range(n)]


def test_a_failure_that_cannot_be_noted_ends_the_run() -> None:
    def prepare(job: Job) -> bytes:
        raise ImageError("not an image")

    def failed(job: Job, error: Exception) -> None:
        raise LockedError("another writer")

    with pytest.raises(LockedError, match="another writer"):
        run(make([Host(Silent(), Climber(1))], prepare=prepare, failed=failed), some_jobs(3))


def test_a_host_that_answers_to_its_name_only_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says who it is, and takes no question: between two attempts there is a wait, and some time there is an end."""
    waits = []

    def wait(attempt: int, rng: object, **_: object) -> float:
        waits.append(attempt)
        return 0.01

    monkeypatch.setattr(dispatch, "wait_s", wait)
    asked = 0

    async def work(job: Job, picture: bytes, host: Host) -> None:
        nonlocal asked
        asked += 1
        raise GoneError("http://host:1 does not answer (connection refused)")

    with pytest.raises(CaptionError, match=r"no host has had time for 0\.5 s: http://host:1 does not answer"):
        run(make([Host(Silent(), Climber(1))], 0.05, work=work), some_jobs(2))
    assert waits == list(range(asked))


def test_one_down_and_one_busy_end_the_run() -> None:
    down, busy = Host(Silent(), Climber(1)), Host(Silent(), Climber(1))

    async def identify(host: Host) -> Identity:
        if host is down:
            raise GoneError("a does not answer")
        return await host.api.identify()

    async def work(job: Job, picture: bytes, host: Host) -> None:
        raise BusyError("b is busy")

    with pytest.raises(CaptionError, match="a does not answer; b is busy"):
        run(make([down, busy], 0.02, identify=identify, work=work), some_jobs(2))


def test_the_level_rises_while_that_pays() -> None:
    """Four places that take as long as they take, on a clock that only the test turns."""
    clock = Clock()
    host = Host(Silent(), Climber())
    slots = asyncio.Semaphore(4)
    at_once: list[int] = []

    async def work(job: Job, picture: bytes, host: Host) -> None:
        at_once.append(host.under_way)
        async with slots:
            await clock.sleep(1.0)

    done: list[Job] = []
    dispatcher = make([host], work=work, clock=clock, done=lambda job, result: done.append(job))

    def waiting(asleep: int) -> bool:
        full = host.under_way >= host.climber.level or host.under_way == 300 - len(done)
        return full and asleep == min(4, host.under_way)

    async def beside() -> None:
        await clock.run(waiting)

    async def main() -> None:
        await asyncio.wait_for(dispatcher.run(some_jobs(300), beside), 60)

    asyncio.run(main())
    assert 4 <= host.climber.level <= 8
    assert max(at_once) == 8
    # One at a time it would be 300 seconds, and four at a time throughout 75.
    assert clock.now < 110
