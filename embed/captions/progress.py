"""Progress of a captioning run: rate and time left, a bar on a terminal or lines in a log, and the report at the end.

A run reports two things through one callback: pictures done, with a `PaceLine`, and the bytes of a model that a server is
fetching, with the server's own words. What a server says is shown, never obeyed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from ...console import one_line, say

__all__ = ["EVERY_S", "CaptionReport", "Log", "Pace", "PaceLine", "Progress", "Say", "duration", "progress"]

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
    """Progress as lines, for a file or another program: at most one every `EVERY_S` seconds, and each news once."""

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


# The report

#: Answers after which the time for the whole set is estimated.
ESTIMATE_AFTER = 5


@dataclass
class CaptionReport:
    """Outcome of one `caption_images` call.

    Of the items chosen, `distinct` pictures (with texts: pairs of picture and text); those that had a caption (`known`),
    were to be asked about (`asked`), got a caption now (`captioned`), got none (`failed`), or had failed in an earlier
    run and were left alone (`known_failures`); items without a readable picture (`without_image`). Of this run's
    captions: counts by flag (`flagged`), by how the picture had to be changed (`sent_as`), by host (`hosts`); those asked
    for a second time (`retried`), or thrown away since the model had changed (`discarded`). `questions` got an answer, of
    `tokens` in all; `concurrency` is each host's questions at once at the end.
    """

    store: str
    name: str
    model: str
    distinct: int = 0
    known: int = 0
    asked: int = 0
    captioned: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    failed: int = 0
    known_failures: int = 0
    discarded: int = 0
    without_image: int = 0
    questions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    sent_as: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    concurrency: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


class PaceLine(str):
    """What stands beside the bar, with the seconds that are left at the rate so far; None where that is not known."""

    left_s: float | None

    def __new__(cls, text: str, left_s: float | None = None) -> PaceLine:
        """Make a string that carries `left_s`."""
        line = super().__new__(cls, text)
        line.left_s = left_s
        return line


class Pace:
    """Rate, tokens a second, and the time that is left, of `total` pictures."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.tokens = 0
        self._clock = clock
        self._begun = clock()
        self._loading = 0.0

    def answered(self, tokens: int | None, load_s: float = 0.0) -> str | None:
        """Note a picture; returns the estimate for the whole set once, when it can first be made.

        Loading the model happens once, so it does not count.
        """
        self.done += 1
        self.tokens += tokens or 0
        self._loading = max(self._loading, load_s)
        if self.done != ESTIMATE_AFTER or self.total <= ESTIMATE_AFTER:
            return None
        each = 1 / self.rate
        return (
            f"the first {ESTIMATE_AFTER} took {each:.2g} s each: all {self.total:,} will take about "
            f"{duration(each * self.total)} at this rate"
        )

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, without loading."""
        return max(self._clock() - self._begun - self._loading, 1e-9)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return max(self.done, 1e-9) / self.elapsed

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers a second, all hosts together."""
        return self.tokens / self.elapsed

    def line(self, level: int) -> PaceLine:
        """What stands beside the bar: rate, tokens a second, questions at once."""
        if not self.done:
            return PaceLine("waiting for the first answer")
        rate = f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        left = max(self.total - self.done, 0) / self.rate
        return PaceLine(f"{rate}, {self.tokens_per_second:.0f} tokens/s, {level} at once", left or None)


def duration(seconds: float) -> str:
    """A time span as people say it: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
