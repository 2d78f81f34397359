"""Question scheduler: one task group that spreads questions over servers, and decides what follows from each failure.

A question is asked three times in all and of every server before it is given up. A server that fails is verified again
before it gets more, and one that fails again and again must first answer a plain test picture. The `circuit_breaker` ends
a run that could only waste time. All of it runs in one event loop; pictures are prepared in two threads.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from ...errors import CaptionError, IcehouseError, ImageError
from .apis import (
    MAX_WAIT_S,
    Api,
    BusyError,
    MissingModelError,
    RejectedError,
    ServerError,
    SetupError,
    UnreachableError,
)
from .caption_table import Job

#: A question is given up after so many failures that may be its own.
TRIES = 3

#: After so many given up in a row, with no answer between them, a picture that is known to be good decides.
STREAK = 5

#: Threads that read and resize pictures.
READERS = 2

#: A server that is there but has no time gets so many times the patience of one that is not there.
BUSY_FACTOR = 10

#: Seconds before a question is asked again the first time, doubled each further time, and the longest such wait.
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

_GRACE_S = 30.0
_HEAD_START_S = 0.005


# Waiting


def backoff_s(attempt: int, *, asked: float | None = None, longest: float | None = None) -> float:
    """Seconds to wait after failure number `attempt` (from 0): doubled each time, with jitter, and never less than `asked`.

    The jitter is between half of the wait and the whole: clients that failed together must not come back together.
    """
    longest = LONGEST_WAIT_S if longest is None else min(longest, LONGEST_WAIT_S)
    own = min(longest, FIRST_WAIT_S * 2.0 ** min(attempt, 30)) * random.uniform(0.5, 1.0)
    return own if asked is None else min(max(own, asked), MAX_WAIT_S)


def wait_with_backoff(state: RetryCallState, longest: float | None = None) -> float:
    """`backoff_s` as tenacity takes it, with what a `ServerError` asked for."""
    error = state.outcome.exception() if state.outcome else None
    return backoff_s(state.attempt_number - 1, asked=getattr(error, "retry_after", None), longest=longest)


def may_pass(error: BaseException) -> bool:
    """Whether asking the same server again may help."""
    return isinstance(error, ServerError) and not isinstance(error, (RejectedError, SetupError))


class AdaptiveConcurrency:
    """Adaptive concurrency of one server: one question at first, more while the rate rises.

    Hill climbing with hysteresis. The rate of answers is measured at the present level; twice as many are tried; if the rate
    does not grow by `gain`, the level falls back and stays for a while, each time longer. A server that works on one
    question at a time is soon left alone with one. `fixed` keeps one level; `ceiling` is never passed.
    """

    def __init__(self, fixed: int | None = None, *, ceiling: int = 64, gain: float = 0.15) -> None:
        self.fixed = fixed
        self.ceiling = ceiling
        self.gain = gain
        self.level = fixed or 1
        self._below: tuple[int, float] | None = None  # the level that is to be beaten, and its rate
        self._hold = 0  # answers to let pass before anything is tried again
        self._patience = 1  # how long the next hold is, in units of `_HOLD`
        self._restart()

    def _restart(self) -> None:
        """Forget the measurement in hand; the first answers at a level were asked for at another."""
        self._settling = self.level
        self._count = 0
        self._since: float | None = None

    def answered(self, now: float, *, busy: bool) -> None:
        """Note an answer; one that came while not all places of the level were taken (`busy`) measures nothing."""
        if self.fixed is not None:
            return
        if self._hold:
            self._hold -= 1
            if not self._hold:
                self._restart()
            return
        if not busy:
            self._restart()
            return
        if self._settling:
            self._settling -= 1
            if not self._settling:
                self._since = now
            return
        self._count += 1
        if self._count >= max(_WINDOW, 3 * self.level) and self._since is not None:
            self._decide(self._count / max(now - self._since, 1e-9))

    def back_off(self) -> None:
        """Halve the level, and try no more for a while: the server is too busy, or an answer timed out."""
        if self.fixed is None:
            self.level = max(1, self.level // 2)
            self._fall()

    def _decide(self, rate: float) -> None:
        if self._below is not None and rate < self._below[1] * (1 + self.gain):
            self.level = self._below[0]
            self._fall()
            return
        if self._below is not None:
            self._patience = 1
        if self.level >= self.ceiling:
            self._fall()
            return
        self._below = (self.level, rate)
        self.level = min(2 * self.level, self.ceiling)
        self._restart()

    def _fall(self) -> None:
        self._below = None
        self._hold = _HOLD * self.level * self._patience
        self._patience = min(2 * self._patience, 64)
        self._restart()


_WINDOW = 6
_HOLD = 32


# Servers


@dataclass
class ServerState:
    """Standing of one server in a run.

    It is *verified* once its model's digest was found to be the right one, until something goes wrong with it: what comes
    back may be another model. It is *excluded* where only a person can help, and *suspect* after so many unusable answers
    in a row (`failures`) that it must answer a plain test picture first. `refusals` counts questions in a row that brought
    nothing but that it is busy, or no connection, since `refusing_since`; `reason` is the last thing that went wrong.
    """

    api: Api
    concurrency: AdaptiveConcurrency = field(default_factory=AdaptiveConcurrency)
    verified: bool = False
    excluded: Exception | None = None
    under_way: int = 0
    rest_until: float = 0.0
    down_since: float | None = None
    refusals: int = 0
    refusing_since: float | None = None
    reason: str = ""
    failures: int = 0
    suspect: bool = False

    @property
    def url(self) -> str:
        """Address, fit to be shown."""
        return self.api.url

    def gave_answer(self) -> None:
        """Note that a question was answered."""
        self.refusals, self.refusing_since = 0, None
        self.failures, self.suspect = 0, False

    def refused(self, now: float, wait: float) -> None:
        """Note that a question was not taken, and let the server rest for `wait` seconds."""
        # Questions that were under way together fail together, and are one failure.
        self.refusals += now >= self.rest_until
        self.refusing_since = now if self.refusing_since is None else self.refusing_since
        self.rest_until = max(self.rest_until, now + wait)

    def free(self, now: float) -> bool:
        """Whether it may get a question."""
        return self.verified and self.under_way < self.concurrency.level and now >= self.rest_until


def circuit_breaker(servers: Sequence[ServerState], now: float, patience: float) -> str | None:
    """Why the run should end, in one line: every server is down or busy for longer than `patience` allows; else None.

    Each is judged by itself, so one that is down and one that has been busy for ever end a run together. Excluded ones do
    not count.
    """
    left = [server for server in servers if server.excluded is None]
    down = [server for server in left if _longer(server.down_since, now, patience)]
    busy = [server for server in left if _longer(server.refusing_since, now, BUSY_FACTOR * patience)]
    if not left or any(server not in down and server not in busy for server in left):
        return None
    reasons = "; ".join(dict.fromkeys(server.reason for server in left))
    if len(down) == len(left):
        return f"no host has answered for {patience:g} s: {reasons}"
    if not down:
        return f"no host has had time for {BUSY_FACTOR * patience:g} s: {reasons}"
    return f"no host has answered for {patience:g} s, or had time for {BUSY_FACTOR * patience:g} s: {reasons}"


def _longer(since: float | None, now: float, limit: float) -> bool:
    return since is not None and now - since >= limit


# The scheduler


class Worker(Protocol):
    """Interface of the work that a `Scheduler` runs."""

    def prepare(self, job: Job) -> bytes:
        """Make the picture to send, in a thread; an `ImageError` is a failure of that job alone."""

    async def ask(self, job: Job, picture: bytes, server: ServerState) -> Any:
        """Ask about a picture; raises `ServerError`."""

    async def verify(self, server: ServerState) -> None:
        """Find out who answers; raises `ServerError`, or an `IcehouseError` where it is another model than wanted."""

    async def probe(self, server: ServerState) -> None:
        """Ask about a picture that nothing is wrong with; raises `ServerError`."""

    def done(self, job: Job, result: Any) -> None:
        """Take the result of a job."""

    def failed(self, job: Job, error: Exception) -> None:
        """Take note that a job is given up."""


class Scheduler:
    """Runs a worker's jobs on servers; `say` takes remarks for people, `clock` measures rates and outages."""

    def __init__(
        self,
        servers: Sequence[ServerState],
        worker: Worker,
        *,
        patience: float,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.servers = list(servers)
        self.worker = worker
        self.patience = patience
        self.say = say
        self.clock = clock
        self._jobs: Sequence[Job] = ()
        self._left = 0
        self._ready: deque[tuple[Job, bytes]] = deque()
        self._preparing = 0
        self._withheld: list[tuple[Job, Exception]] = []
        self._probing = False
        self._stopping = False
        self._asking: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()

    async def run(self, jobs: Sequence[Job], *beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the jobs, and what is to be done `beside` them as long as that takes.

        Raises `CaptionError` if no server is left or picture after picture fails, `SpaceError` if a server turned out to be
        another model and none is left. If cancelled, it waits for the answers under way.
        """
        self._jobs, self._left = jobs, len(jobs)
        if not jobs:
            return
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="icehouse-picture")
        try:
            async with asyncio.TaskGroup() as self._group:
                tasks = [self._group.create_task(self._serve(server)) for server in self.servers]
                tasks.append(self._group.create_task(self._feed(pool)))
                tasks += [self._group.create_task(work()) for work in beside]
                try:
                    await self._finished.wait()
                except asyncio.CancelledError:
                    await self._finish_questions(tasks)
                    raise
                finally:
                    for task in (*tasks, *self._asking):
                        task.cancel()
            self._release()
        except BaseExceptionGroup as errors:
            # Whatever failed first ended the run; the others were in its way.
            raise errors.exceptions[0] from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _finish_questions(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Send no more questions, and wait for the answers under way, unless a failure has cancelled them already."""
        self._stopping = True
        for task in tasks:
            task.cancel()
        under_way = [task for task in self._asking if not task.done() and not task.cancelling()]
        if under_way:
            self.say(f"finishing {len(under_way)} answers under way; Ctrl-C again leaves at once")
            await asyncio.wait(under_way, timeout=_GRACE_S)

    def reverify(self, server: ServerState) -> None:
        """Verify a server again before it gets another question."""
        server.verified = False
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _notify_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._notify)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    # Pictures

    async def _feed(self, pool: ThreadPoolExecutor) -> None:
        """Prepare pictures a few ahead of what the servers can take."""
        for job in self._jobs:
            await self._until(self._hungry)
            self._preparing += 1
            self._group.create_task(self._prepare(job, pool))

    def _hungry(self) -> bool:
        ahead = 2 + 2 * sum(server.concurrency.level for server in self.servers)
        fresh = sum(not job.faults for job, _ in self._ready)
        return fresh + self._preparing < ahead

    async def _prepare(self, job: Job, pool: ThreadPoolExecutor) -> None:
        try:
            picture = await asyncio.get_running_loop().run_in_executor(pool, self.worker.prepare, job)
        except (ImageError, OSError, ValueError, MemoryError) as error:
            self.worker.failed(job, error)
            self._finish()
        else:
            self._ready.append((job, picture))
        finally:
            self._preparing -= 1
            self._notify()

    # Servers

    async def _serve(self, server: ServerState) -> None:
        """Keep a server busy until it is excluded."""

        def has_work() -> bool:
            return not server.verified or (server.free(self.clock()) and self._next_for(server) is not None)

        while server.verified or await self._verify(server):
            await self._until(has_work)
            taken = self._take(server) if server.verified else None
            if taken is not None:
                server.under_way += 1
                task = self._group.create_task(self._ask(server, *taken))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

    async def _verify(self, server: ServerState) -> bool:
        """Wait until a server answers, and see that its model is the one wanted; False where it is excluded."""
        attempt = 0
        while server.excluded is None:
            try:
                await self.worker.verify(server)
                if server.suspect:
                    await self._clear(server)
            except SetupError as error:
                self._exclude(server, CaptionError(str(error)))
            except IcehouseError as error:
                self._exclude(server, error)
            except ServerError as error:
                if server.down_since is None:
                    server.down_since = self.clock()
                    self.say(f"{server.url} is left out until it answers again: {error}")
                server.reason = str(error)
                self._check_circuit()
                self._notify()
                await asyncio.sleep(backoff_s(attempt, longest=min(10.0, self.patience / 4)))
                attempt += 1
            else:
                if server.down_since is not None:
                    self.say(f"{server.url} answers again")
                server.verified, server.down_since = True, None
                self._notify()
                return True
        return False

    async def _clear(self, server: ServerState) -> None:
        """Have a suspect server answer a plain test picture."""
        try:
            await self.worker.probe(server)
        except ServerError:
            # The pictures are not to blame: what this server failed at is as if it had never been asked.
            for job in self._jobs:
                del job.faults[server.url]
            raise
        server.suspect, server.failures = False, 0

    def _exclude(self, server: ServerState, error: Exception) -> None:
        if server.excluded is not None:
            return  # by another of the questions that were under way
        server.verified, server.excluded = False, error
        if all(other.excluded is not None for other in self.servers):
            raise error
        self.say(f"{server.url} is left out: {error}")
        self._check_circuit()

    def _check_circuit(self) -> None:
        reason = circuit_breaker(self.servers, self.clock(), self.patience)
        if reason is not None:
            raise CaptionError(reason)

    def _in_play(self, but: ServerState | None = None) -> list[ServerState]:
        """Servers that may still answer: not excluded, and not down for longer than the patience."""
        now = self.clock()
        return [
            server
            for server in self.servers
            if server is not but
            and server.excluded is None
            and not _longer(server.down_since, now, self.patience)
        ]

    # Questions

    async def _ask(self, server: ServerState, job: Job, picture: bytes) -> None:
        """Ask, and go on with the next question at once as long as the server may have one."""
        following: tuple[Job, bytes] | None = (job, picture)
        try:
            while following is not None:
                await self._ask_one(server, *following)
                following = self._following(server)
                if following is not None:
                    # The others are woken when this question is on its way: pictures are prepared while the server works.
                    self._notify_in(_HEAD_START_S)
        finally:
            server.under_way -= 1
            self._notify()

    async def _ask_one(self, server: ServerState, job: Job, picture: bytes) -> None:
        try:
            result = await self.worker.ask(job, picture, server)
        except (BusyError, UnreachableError) as error:
            self._ready.appendleft((job, picture))
            self._let_rest(server, error)
        except SetupError as error:
            self._ready.appendleft((job, picture))
            server.reason = str(error)
            if isinstance(error, MissingModelError) and (server.refusals == 0 or not server.verified):
                # Verifying it again, once, tells whether it is to be left out, or has the model fetched.
                server.verified = False
                server.refused(self.clock(), 0.0)
            else:
                self._exclude(server, CaptionError(str(error)))
        except ServerError as error:
            await self._count_failure(server, job, picture, error)
        else:
            server.gave_answer()
            server.concurrency.answered(self.clock(), busy=server.under_way >= server.concurrency.level)
            self._release()
            self.worker.done(job, result)
            self._finish()

    def _following(self, server: ServerState) -> tuple[Job, bytes] | None:
        """The next question for a server that has just been through one; None where it shall have fewer, or none."""
        held = server.under_way > server.concurrency.level or self.clock() < server.rest_until
        if not server.verified or held or self._stopping:
            return None
        return self._take(server)

    def _next_for(self, server: ServerState) -> int | None:
        """Place of the first question a server may have: not one that it failed at and another has yet to try."""
        others = self._in_play(but=server)
        for place, (job, _) in enumerate(self._ready):
            if not job.faults[server.url] or all(job.faults[other.url] for other in others):
                return place
        return None

    def _take(self, server: ServerState) -> tuple[Job, bytes] | None:
        place = self._next_for(server)
        if place is None:
            return None
        taken = self._ready[place]
        del self._ready[place]
        return taken

    def _let_rest(self, server: ServerState, error: ServerError) -> None:
        """Send a server nothing for a while."""
        now = self.clock()
        server.reason = str(error)
        wait = backoff_s(server.refusals, asked=error.retry_after)
        if isinstance(error, UnreachableError):
            server.verified = False
        elif now >= server.rest_until:
            # Of a burst of refusals only the first says anything new about the level.
            server.concurrency.back_off()
        server.refused(now, wait)
        self._notify_in(wait + 0.001)
        self._check_circuit()

    async def _count_failure(self, server: ServerState, job: Job, picture: bytes, error: ServerError) -> None:
        """Ask again after an answer that cannot be used, or give the question up where nobody is left to ask."""
        refused = isinstance(error, RejectedError)
        server.reason = str(error)
        if not refused:
            server.verified = False
            server.concurrency.back_off()
        job.faults[server.url] += TRIES if refused else 1
        server.failures += 1
        playing = self._in_play()
        if server.failures >= STREAK and len(playing) > 1:
            server.suspect, server.verified = True, False
        elif job.faults.total() >= TRIES and all(job.faults[one.url] for one in playing):
            await self._give_up(server, job, error)
            return
        wait = 0.0 if refused else backoff_s(job.faults.total() - 1, asked=error.retry_after)
        asyncio.get_running_loop().call_later(wait, self._again, job, picture)

    def _again(self, job: Job, picture: bytes) -> None:
        self._ready.append((job, picture))
        self._notify()

    async def _give_up(self, server: ServerState, job: Job, error: Exception) -> None:
        """Note a failure, but put it on record only once another picture got its answer: else the server is to blame."""
        self._withheld.append((job, error))
        if len(self._withheld) >= STREAK and not self._probing:
            self._probing = True
            try:
                await self._find_fault(server)
            finally:
                self._probing = False
        self._finish()

    async def _find_fault(self, server: ServerState) -> None:
        """Tell bad pictures from a bad server, by a picture that is known to be good.

        Without this, a store whose first pictures are all bad would stop every run at the same ones.
        """
        job, error = self._withheld[-1]
        streak = (
            f"{len(self._withheld)} pictures in a row got no answer, the last of them {job.item_id}: {error}"
        )
        retrying = AsyncRetrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_with_backoff,
            retry=retry_if_exception(may_pass),
            before_sleep=lambda _: self.reverify(server),
            reraise=True,
        )
        try:
            await retrying(self.worker.probe, server)
        except ServerError as trouble:
            raise CaptionError(
                f"{streak}; nor did a plain test picture ({trouble}), so this is the server or what it is asked, not the "
                "pictures: look at its log, at --option and the prompt"
            ) from None
        self.say(f"{streak}; a plain test picture gets one, so these are recorded as failures")
        self._release()

    def _release(self) -> None:
        withheld, self._withheld = self._withheld, []
        for job, error in withheld:
            self.worker.failed(job, error)

    def _finish(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._finished.set()


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end from ordinary code, also where an event loop is running already, as in a notebook.

    An interrupt cancels it, and is raised once it has cleaned up; a second one does not wait for that.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main)
        return
    _run_in_thread(main)


def _run_in_thread(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(main)
    with ThreadPoolExecutor(1, thread_name_prefix="icehouse-captions") as pool:
        done = pool.submit(loop.run_until_complete, task)
        done.add_done_callback(lambda _: loop.close())
        try:
            done.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            raise
