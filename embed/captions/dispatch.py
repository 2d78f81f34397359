"""Questions spread over hosts, and what is done when something goes wrong.

One task for each host hands it questions up to its level; faults decide what follows. A question that was not heard or came
at a bad time is asked again, elsewhere if another host is free; one that brings no answer three times, nor any from another
host, is given up, so that a picture that crashes the model costs its neighbours nothing. A host that fails is identified
again before it gets more; one that fails again and again, beside others, must first answer a plain test picture, and what
it failed at until then does not count. Two breakers end a run that could only waste time: no host is of use any more, or
picture after picture gets no answer and a picture that is known to be good gets none either.

Everything here runs in one thread, in an event loop; pictures are prepared in two others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ...errors import CaptionError, IcehouseError, ImageError
from .api import (
    BrokenError,
    BusyError,
    DeniedError,
    FaultError,
    GoneError,
    Identity,
    MissingError,
    RejectedError,
)
from .backoff import wait_s
from .breaker import Breaker
from .hosts import Host
from .plan import Job

__all__ = ["Dispatcher"]

#: A question is given up after so many faults that may be its own.
TRIES = 3

#: After so many given up in a row, with no answer between them, a picture that is known to be good decides.
STREAK = 5

#: Threads that read and resize pictures.
READERS = 2

_GRACE_S = 30.0
_HEAD_START_S = 0.005


class Dispatcher:
    """Runs jobs on hosts.

    Parameters
    ----------
    hosts : sequence of Host
    prepare : callable
        Job -> the picture to send; called in a thread. Its `ImageError` is a failure of that job alone.
    work : callable
        (job, picture, host) -> coroutine of the result; raises faults.
    identify : callable
        Host -> coroutine of its `Identity`; raises faults.
    check : callable
        Takes a host and its `Identity`; raises an `IcehouseError` where it is not the one these answers belong to.
    probe : callable
        Host -> coroutine that asks about a picture known to be good; raises faults.
    done : callable
        (job, result): a job is done.
    failed : callable
        (job, error): a job is given up.
    say : callable
        Takes a remark for people.
    patience : float
        Seconds to go on trying when no host answers.
    clock : callable, optional
        Seconds; rates and outages are measured by it.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        prepare: Callable[[Job], bytes],
        work: Callable[[Job, bytes, Host], Awaitable[Any]],
        identify: Callable[[Host], Awaitable[Identity]],
        check: Callable[[Host, Identity], None],
        probe: Callable[[Host], Awaitable[None]],
        done: Callable[[Job, Any], None],
        failed: Callable[[Job, Exception], None],
        say: Callable[[str], None],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hosts = list(hosts)
        self.prepare = prepare
        self.work = work
        self.identify = identify
        self.check = check
        self.probe = probe
        self.done = done
        self.failed = failed
        self.say = say
        self.patience = patience
        self.clock = clock
        self.breaker = Breaker(patience)
        self.rng = random.Random(0)
        self._ready: deque[tuple[Job, bytes]] = deque()
        self._preparing = 0
        self._left = 0
        self._jobs: Sequence[Job] = ()
        self._withheld: list[tuple[Job, Exception]] = []
        self._probing = False
        self._asking: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._over: asyncio.Future[None] | None = None

    async def run(self, jobs: Sequence[Job], beside: Callable[[], Awaitable[None]]) -> None:
        """Do the jobs, and `beside` as long as that takes.

        Raises
        ------
        CaptionError
            If no host is left, or picture after picture fails.
        SpaceError
            If a host turned out to be another model, and none is left.
        asyncio.CancelledError
            If cancelled: answers under way were waited for.
        """
        self._jobs = jobs
        self._left = len(jobs)
        if not jobs:
            return
        self._over = asyncio.get_running_loop().create_future()
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="icehouse-picture")
        tasks = [asyncio.create_task(self._guard(partial(self._serve, host))) for host in self.hosts]
        tasks += [asyncio.create_task(self._guard(job)) for job in (partial(self._feed, jobs, pool), beside)]
        try:
            await self._over
            self._release()
        except asyncio.CancelledError:
            await self._stop(tasks)
            if self._asking:
                self.say(f"finishing {len(self._asking)} answers under way; Ctrl-C again leaves at once")
                await asyncio.wait(self._asking, timeout=_GRACE_S)
            raise
        finally:
            await self._stop([*tasks, *self._asking])
            pool.shutdown(wait=False, cancel_futures=True)

    def distrust(self, host: Host) -> None:
        """Identify a host again before it gets another question."""
        host.trusted = False
        self._notify_soon()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let an exception of a background task end the run.

        Takes a function: a task cancelled before it began would leave a coroutine that nobody awaits.
        """
        try:
            await work()
        except Exception as error:
            self._end(error)

    def _end(self, error: Exception | None = None) -> None:
        assert self._over is not None
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    async def _stop(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _notify_soon(self, delay: float = 0.0) -> None:
        asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        _background.add(task)
        task.add_done_callback(_background.discard)

    # Pictures

    async def _feed(self, jobs: Sequence[Job], pool: ThreadPoolExecutor) -> None:
        """Prepare pictures a few ahead of what the hosts can take."""
        loop = asyncio.get_running_loop()
        for job in jobs:
            async with self._changed:
                await self._changed.wait_for(self._hungry)
            self._preparing += 1
            future = loop.run_in_executor(pool, self.prepare, job)
            future.add_done_callback(partial(self._prepared, job))

    def _hungry(self) -> bool:
        ahead = 2 + 2 * sum(host.climber.level for host in self.hosts)
        fresh = sum(not job.faults for job, _ in self._ready)
        return fresh + self._preparing < ahead

    def _prepared(self, job: Job, future: asyncio.Future[bytes]) -> None:
        self._preparing -= 1
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._ready.append((job, future.result()))
        elif isinstance(error, (ImageError, OSError, ValueError, MemoryError)):
            # Nobody awaits this callback: what it raises would be logged, and the run would wait for this picture for ever.
            try:
                self.failed(job, error)
            except Exception as trouble:
                self._end(trouble)
            self._finish()
        else:
            self._end(error if isinstance(error, Exception) else CaptionError(str(error)))
        self._notify_soon()

    # Hosts

    async def _serve(self, host: Host) -> None:
        """Keep a host busy until it is expelled or cancelled."""
        while True:
            if not host.trusted and not await self._identify(host):
                return
            async with self._changed:
                await self._changed.wait_for(
                    lambda: not host.trusted or (host.free(self.clock()) and self._next_for(host) is not None)
                )
            if host.expelled is not None:
                return
            taken = self._take(host) if host.trusted else None
            if taken is not None:
                job, picture = taken
                host.under_way += 1
                task = asyncio.create_task(self._guard(partial(self._ask, host, job, picture)))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

    async def _identify(self, host: Host) -> bool:
        """Wait for a host to answer, and hold its model against the one wanted; False if it is expelled."""
        attempt = 0
        while host.expelled is None:
            try:
                identity = await self.identify(host)
                self.check(host, identity)
                if host.suspect:
                    await self._acquit(host)
            except DeniedError as fault:
                self._expel(host, CaptionError(str(fault)))
            except IcehouseError as error:
                self._expel(host, error)
            except FaultError as fault:
                now = self.clock()
                if host.down_since is None:
                    host.down_since = now
                    self.say(f"{host.url} is left out until it answers again: {fault}")
                host.why = str(fault)
                self._judge(now)
                self._notify_soon()
                await asyncio.sleep(wait_s(attempt, self.rng, most=min(10.0, self.patience / 4)))
                attempt += 1
            else:
                if host.down_since is not None:
                    self.say(f"{host.url} answers again")
                host.trusted, host.down_since = True, None
                await self._notify()
                return True
        return False

    async def _acquit(self, host: Host) -> None:
        """Have a host that failed again and again answer a plain test picture; raises the fault if it does not."""
        try:
            await self.probe(host)
        except FaultError:
            # The pictures are not to blame: what this host failed at is as if it had never been asked.
            for job in self._jobs:
                del job.faults[host.url]
            raise
        host.suspect, host.broken = False, 0

    def _expel(self, host: Host, error: Exception) -> None:
        if host.expelled is not None:
            return  # by another of the questions that were under way
        host.trusted, host.expelled = False, error
        left = [other for other in self.hosts if other.expelled is None]
        if left:
            self.say(f"{host.url} is left out: {error}")
            self._judge(self.clock())
        else:
            self._end(error)

    def _judge(self, now: float) -> None:
        """End the run where no host is of any use any more."""
        verdict = self.breaker.verdict(self.hosts, now)
        if verdict is not None:
            self._end(CaptionError(verdict))

    # Questions

    async def _ask(self, host: Host, job: Job, picture: bytes) -> None:
        """Ask, and go on with the next question at once as long as the host may have one."""
        following: tuple[Job, bytes] | None = (job, picture)
        try:
            while following is not None:
                await self._ask_one(host, *following)
                following = self._following(host)
                if following is not None:
                    # The others are woken when this question is on its way: pictures are prepared while the server works.
                    self._notify_soon(_HEAD_START_S)
        finally:
            host.under_way -= 1
            self._notify_soon()

    async def _ask_one(self, host: Host, job: Job, picture: bytes) -> None:
        try:
            result = await self.work(job, picture, host)
        except FaultError as fault:
            error = self._faulted(host, job, picture, fault)
            if error is not None:
                await self._give_up(host, job, error)
        else:
            host.gave_answer()
            host.climber.answered(self.clock(), busy=host.under_way >= host.climber.level)
            self._release()
            self.done(job, result)
            self._finish()

    def _following(self, host: Host) -> tuple[Job, bytes] | None:
        """The next question for a host that has just been through one; None where it shall have fewer at once, or none."""
        held = host.under_way > host.climber.level or self.clock() < host.rest_until
        if not host.trusted or held or self._over is None or self._over.done():
            return None
        return self._take(host)

    def _next_for(self, host: Host) -> int | None:
        """Place of the first question that this host may have: not one that it failed at and another has yet to try."""
        others = self._in_play(but=host)
        for place, (job, _) in enumerate(self._ready):
            if not job.faults[host.url] or all(job.faults[other.url] for other in others):
                return place
        return None

    def _take(self, host: Host) -> tuple[Job, bytes] | None:
        place = self._next_for(host)
        if place is None:
            return None
        taken = self._ready[place]
        del self._ready[place]
        return taken

    def _in_play(self, but: Host | None = None) -> list[Host]:
        """Hosts that may still answer: a person is not needed, and they have not been down for longer than the patience."""
        now = self.clock()
        return [
            host
            for host in self.hosts
            if host is not but
            and host.expelled is None
            and (host.down_since is None or now - host.down_since < self.patience)
        ]

    def _faulted(self, host: Host, job: Job, picture: bytes, fault: FaultError) -> FaultError | None:
        """Decide what becomes of a question that got no answer, and of the host; returns the fault if it is given up."""
        now = self.clock()
        host.why = str(fault)
        if isinstance(fault, (BusyError, GoneError)):
            wait = wait_s(host.idles, self.rng, asked=fault.retry_after)
            # Of a burst of refusals only the first says anything new about the level.
            if isinstance(fault, BusyError) and now >= host.rest_until:
                host.climber.back_off()
            elif isinstance(fault, GoneError):
                host.trusted = False
            host.gave_nothing(now, wait)
            asyncio.get_running_loop().call_later(wait + 0.001, self._notify_soon)
            self._ready.appendleft((job, picture))
            self._judge(now)
        elif isinstance(fault, MissingError) and (host.idles == 0 or not host.trusted):
            # Identifying it again, once, tells whether it is to be left out, or has the model fetched.
            host.trusted = False
            host.gave_nothing(now, 0.0)
            self._ready.appendleft((job, picture))
        elif isinstance(fault, DeniedError):
            self._expel(host, CaptionError(str(fault)))
            self._ready.appendleft((job, picture))
        elif isinstance(fault, (BrokenError, RejectedError)):
            return self._failed_at(host, job, picture, fault)
        else:
            return fault
        return None

    def _failed_at(self, host: Host, job: Job, picture: bytes, fault: FaultError) -> FaultError | None:
        """Count a question that got no usable answer; returns the fault if nobody is left to ask."""
        refused = isinstance(fault, RejectedError)
        if not refused:
            host.trusted = False
            host.climber.back_off()
        job.faults[host.url] += TRIES if refused else 1
        host.broken += 1
        playing = self._in_play()
        if host.broken >= STREAK and len(playing) > 1:
            host.suspect, host.trusted = True, False
        elif job.faults.total() >= TRIES and all(job.faults[one.url] for one in playing):
            return fault
        wait = 0.0 if refused else wait_s(job.faults.total() - 1, self.rng, asked=fault.retry_after)
        asyncio.get_running_loop().call_later(wait, self._again, job, picture)
        return None

    def _again(self, job: Job, picture: bytes) -> None:
        self._ready.append((job, picture))
        self._notify_soon()

    async def _give_up(self, host: Host, job: Job, error: Exception) -> None:
        """Note a failure, but put it on record only once another picture got its answer: else the host is to blame."""
        self._withheld.append((job, error))
        if len(self._withheld) >= STREAK and not self._probing:
            self._probing = True
            try:
                await self._find_fault(host)
            finally:
                self._probing = False
        self._finish()

    async def _find_fault(self, host: Host) -> None:
        """Pictures or server: ask about a picture that is known to be good.

        Without this, a store whose first pictures are all bad would stop every run at the same ones.
        """
        job, error = self._withheld[-1]
        streak = (
            f"{len(self._withheld)} pictures in a row got no answer, the last of them {job.item_id}: {error}"
        )
        for attempt in range(TRIES):
            try:
                await self.probe(host)
            except FaultError as fault:
                host.trusted = False
                trouble = fault
                if isinstance(fault, (RejectedError, DeniedError)):
                    break
                await asyncio.sleep(wait_s(attempt, self.rng, asked=fault.retry_after))
            else:
                self.say(f"{streak}; a plain test picture gets one, so these are recorded as failures")
                self._release()
                return
        self._end(
            CaptionError(
                f"{streak}; nor did a plain test picture ({trouble}), so this is the server or what it is asked, not the "
                "pictures: look at its log, at --option and the prompt"
            )
        )

    def _release(self) -> None:
        withheld, self._withheld = self._withheld, []
        for job, error in withheld:
            self.failed(job, error)

    def _finish(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._end()


_background: set[asyncio.Task[None]] = set()
