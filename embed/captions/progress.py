"""What a captioning run shows while it goes on: a bar on a terminal, a line now and then where a log is kept.

A run reports two things through one callback: pictures done, with a `PaceLine`, and the bytes of a model that a server is
fetching, with the server's own words. What a server says is shown, never obeyed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from ...console import one_line, say
from .report import PaceLine, duration

__all__ = ["EVERY_S", "Progress", "Say", "progress"]

Progress: TypeAlias = Callable[[int, int, str], None]
Say: TypeAlias = Callable[[str], None]

#: Least seconds between two lines of a log.
EVERY_S = 30.0


@contextmanager
def progress() -> Iterator[tuple[Progress, Say]]:
    """Where a run reports how far it is, and where it makes its remarks; both end on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        log = Log(lambda line: say(one_line(line)))
        yield log.progress, log.remark
        return
    with _bar(console) as shown:
        yield shown


class Log:
    """Progress as lines, for a file or another program: at most one every `EVERY_S` seconds, and each news once.

    Parameters
    ----------
    write : callable
        Takes a line.
    clock : callable, optional
        Seconds.
    """

    def __init__(self, write: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last = clock()
        self._pulled: set[str] = set()

    def remark(self, remark: str) -> None:
        """Write what matters to whoever reads the log: the estimate, hosts that come and go."""
        self._write(remark)

    def progress(self, done: int, total: int, what: str) -> None:
        """Write how far it is, if it is time to."""
        if isinstance(what, PaceLine):
            if self._due():
                left = "" if what.left_s is None else f", about {duration(what.left_s)} left"
                self._write(f"{done:,} of {total:,}: {what}{left}")
        elif what not in self._pulled or self._due():
            # Several hosts may be pulling at once: what one of them has said before is not news.
            self._pulled.add(what)
            self._write(f"pulling: {what}{_bytes(done, total, ', ')}")

    def _due(self) -> bool:
        now = self._clock()
        if now - self._last < EVERY_S:
            return False
        self._last = now
        return True


@contextmanager
def _bar(console: Any) -> Iterator[tuple[Progress, Say]]:
    """A bar with count, rate and time left: of the bytes while a model is fetched, then of the pictures."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[pace]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]
    with Bar(*columns, console=console, transient=True, speed_estimate_period=300) as bar:
        captioning = bar.add_task("captioning", total=None, count="", pace="")
        pulling = bar.add_task("pulling", total=None, count="", pace="", visible=False)

        def update(done: int, total: int, what: str) -> None:
            asking = isinstance(what, PaceLine)
            bar.update(captioning, visible=asking)
            bar.update(pulling, visible=not asking)
            bar.update(
                captioning if asking else pulling,
                completed=done,
                total=total or None,
                count=f"{done}/{total}" if asking else _bytes(done, total),
                pace=one_line(what),
            )

        def remark(text: str) -> None:
            bar.console.print(one_line(text), highlight=False, markup=False)

        yield update, remark


def _bytes(done: int, total: int, before: str = "") -> str:
    """How much of a file has come: "0.8 of 4,733.4 MB"; nothing where the server does not tell."""
    return f"{before}{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total else ""
