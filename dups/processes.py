"""Worker processes for what is measured in picture files by the thousand.

Such a measurement is hundreds of short NumPy calls, which threads make one after the other: two threads took as long as one,
and twice its processor time.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ..errors import IcehouseError

T = TypeVar("T")
R = TypeVar("R")

#: Seconds of work that are worth starting processes, which takes one, or worth those that were started beforehand; and
#: tasks that tell how long each takes.
_WORTH, _WORTH_STARTED, _TELLING = 4.0, 0.2, 8

#: Contents from which on processes are started beforehand.
MANY = 5000

_MOST = 8
_AT_ONCE = 16  # tasks that a process is sent at once, at most
_AHEAD = 32  # so many sendings after the one that is asked for are done here, and held, at most
_IDLE = 60.0  # seconds after which a process without work ends

#: What those that are started beforehand load.
_MODULES = (*(f"{__package__}.{name}" for name in ("groups", "agreements", "views")), "scipy.fftpack")

_started: list[Future[None]] = []


def measured(
    measure: Callable[[T], R], tasks: Sequence[T], workers: int | None = None, *, seconds: float = 0.0
) -> Iterator[R]:
    """What a function of a module makes of each task, in their order; by `workers` processes where there is much to do.

    This process is one of them: while a result that is asked for is not there yet, it does what no other has begun.
    `seconds` is about what a task takes, if that is known: processes that are started are sent all of them at once, before
    the first result is asked for. An IcehouseError says that a process has died.
    """
    count = _count(workers)
    if _started and count > 1 and seconds * len(tasks) > _WORTH_STARTED:
        return _in_processes(measure, tasks, count)
    return _told_by_the_first(measure, tasks, count)


def _told_by_the_first(measure: Callable[[T], R], tasks: Sequence[T], count: int) -> Iterator[R]:
    spent = 0.0
    for done, task in enumerate(tasks):
        # Processes may come to be there meanwhile.
        ready = bool(_started) and all(each.done() for each in _started)
        worth, telling = (_WORTH_STARTED, 2) if ready else (_WORTH, _TELLING)
        if done >= telling and count > 1 and spent / (done - 1) * (len(tasks) - done) > worth:
            yield from _in_processes(measure, tasks[done:], count)
            return
        begun = time.perf_counter()
        made = measure(task)
        # The first one loads what all need.
        spent += time.perf_counter() - begun if done else 0.0
        yield made


def start(workers: int | None = None) -> None:
    """Start the processes beside this one while something else is done, so that little work is worth them too.

    Those of an earlier search are not counted on any more.
    """
    count = _count(workers)
    _started.clear()
    if count > 1:
        _started[:] = [_pool(count - 1).submit(_load) for _ in range(count - 1)]


def start_early(store: Path, workers: int | None = None) -> None:
    """Start processes for a search of a store while this one loads its libraries, if items came after the last search.

    Whether they are needed the search knows better, and asks for them again.
    """
    tables = store / "tables"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        items = tables / "items" / "_manifest.json"
        looked_at = [file.stat().st_mtime_ns for file in (tables / "hashes").glob("*/_manifest.json")]
        if items.stat().st_mtime_ns < max(looked_at, default=0):
            return
        if sum(int(part["rows"]) for part in json.loads(items.read_bytes())["parts"]) >= MANY:
            start(workers)


def started() -> bool:
    """Whether `start` has started any."""
    return bool(_started)


def submit(workers: int | None, function: Callable[..., R], *given: Any) -> Callable[[], R]:
    """Gives what a function of a module makes, which a process makes meanwhile where `start` has started any."""
    if not _started or _count(workers) < 2:
        return partial(function, *given)
    future = _pool(len(_started)).submit(function, *given)

    def made() -> R:
        with _alive():
            return future.result()

    return made


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one BLAS thread: others would wait for more work in a loop, and take the time of other processes."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    try:
        yield
    except BrokenExecutor as error:
        _started.clear()
        raise IcehouseError(
            "a process that measures pictures has died, perhaps for want of memory: try again with --threads 1"
        ) from error


def _load() -> None:
    for name in _MODULES:
        import_module(name)


def _count(workers: int | None) -> int:
    return min(workers or os.cpu_count() or 1, _MOST)


def _pool(count: int) -> Executor:
    """So many processes beside this one. They serve the next tasks too.

    They do not run the user's script again, as those of multiprocessing do.
    """
    from loky import get_reusable_executor

    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Memory of one measurement serves the next: pages that are given back have to be cleared again.
    alone |= dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(1 << 28))
    pool: Executor = get_reusable_executor(
        count, timeout=_IDLE, env=alone, initializer=_end_with, initargs=(os.getpid(),)
    )
    return pool


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it: were that killed, this one would wait for it for ever.

    And at once, which that one waits for: what the interpreter takes down otherwise, the system takes back anyway.
    """
    atexit.register(os._exit, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_processes(measure: Callable[[T], R], tasks: Sequence[T], count: int) -> Iterator[R]:
    parts, start = [], 0
    while start < len(tasks):
        # Few of the last ones, so that nobody waits long for another.
        stop = start + max(min(_AT_ONCE, (len(tasks) - start) // (8 * count)), 1)
        parts.append(tasks[start:stop])
        start = stop
    with _alive():
        pool = _pool(count - 1)
        return _in_order(measure, parts, [pool.submit(_each, measure, part) for part in parts])


def _in_order(
    measure: Callable[[T], R], parts: list[Sequence[T]], futures: list[Future[list[R]]]
) -> Iterator[R]:
    made: dict[int, list[R]] = {}
    free = 0  # Those before it have been begun.
    try:
        with _alive():
            for at, future in enumerate(futures):
                free = max(free, at)
                while at not in made and not future.done() and free < min(at + _AHEAD, len(parts)):
                    if futures[free].cancel():
                        made[free] = _each(measure, parts[free])
                    free += 1
                yield from made.pop(at) if at in made else future.result()
    finally:
        for future in futures:
            future.cancel()


def _each(measure: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
    return [measure(task) for task in tasks]
