"""Worker processes for what is measured in picture files by the thousand.

Such a measurement is hundreds of short NumPy calls, which threads make one after the other: two threads took as long as one,
and twice its processor time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from ..errors import IcehouseError

T = TypeVar("T")
R = TypeVar("R")

#: Seconds of work that are worth starting processes, which takes most of one; and tasks that tell how long each takes.
_WORTH, _TELLING = 4.0, 8

_MOST = 8
_AT_ONCE = 16  # tasks that a process is sent at once


def measured(measure: Callable[[T], R], tasks: Sequence[T], workers: int | None = None) -> Iterator[R]:
    """What a function of a module makes of each task, in their order; in `workers` processes where there is much to do.

    An IcehouseError says that a process has died.
    """
    count = min(workers or os.cpu_count() or 1, _MOST)
    spent = 0.0
    for done, task in enumerate(tasks):
        if count > 1 and done >= _TELLING and spent / done * (len(tasks) - done) > _WORTH:
            yield from _in_processes(measure, tasks[done:], count)
            return
        begun = time.perf_counter()
        made = measure(task)
        spent += time.perf_counter() - begun
        yield made


def _in_processes(measure: Callable[[T], R], tasks: Sequence[T], count: int) -> Iterator[R]:
    from joblib import Parallel, delayed

    # Its processes do not run the user's script again, as those of multiprocessing do, and are used again for the next.
    pool = Parallel(count, backend="loky", return_as="generator", batch_size=_AT_ONCE, max_nbytes=None)
    try:
        yield from pool(delayed(measure)(task) for task in tasks)
    except BrokenExecutor as error:
        raise IcehouseError(
            "a process that measures pictures has died, perhaps for want of memory: try again with --threads 1"
        ) from error
