"""What a captioning run reports, while it goes on and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["CaptionReport", "Pace", "PaceLine", "duration"]

#: Answers after which the time for the whole set is estimated.
ESTIMATE_AFTER = 5


@dataclass
class CaptionReport:
    """Outcome of one `caption_images` call.

    Attributes
    ----------
    distinct : int
        Distinct pictures of the items chosen (with texts: pairs of picture and text).
    known : int
        Those that had a caption before.
    asked, captioned : int
        Those that were to be asked in this run, and those that got a caption.
    flagged : dict
        Flag -> captions of this run that carry it; see `icehouse.embed.captions.answers.FLAGS`.
    retried : int
        Captions of this run whose first answer was flagged, so that a second was asked for.
    failed, known_failures : int
        Pictures that got no answer now; those that failed in an earlier run and were left alone.
    discarded : int
        Answers thrown away because the model had changed meanwhile.
    without_image : int
        Items without a readable picture.
    questions : int
        Questions sent that got an answer, second ones included.
    concurrency : dict
        Host -> questions at once at the end.
    hosts : dict
        Host -> captions of it that were kept.
    tokens : int
    sent_as : dict
        "enlarged", "padded", "in strips" -> captions of pictures that had to be changed so to be sent.
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

    def take(self, todo: Plan) -> None:
        """Take over the counts of a plan."""
        self.distinct, self.known, self.known_failures = todo.distinct, todo.done, todo.failed
        self.asked, self.without_image = len(todo.jobs), todo.without_image

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


class PaceLine(str):
    """What stands beside the bar, and how long it will be there; what else comes the same way is no `PaceLine`.

    Attributes
    ----------
    left_s : float or None
        Seconds until all is done, at the rate so far; None before the first answer and after the last.
    """

    left_s: float | None

    def __new__(cls, text: str, left_s: float | None = None) -> PaceLine:
        """Make a string that carries `left_s`."""
        line = super().__new__(cls, text)
        line.left_s = left_s
        return line


class Pace:
    """Rate, tokens a second, and the time that is left.

    Parameters
    ----------
    total : int
        Pictures to be done.
    clock : callable, optional
        Seconds.
    """

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
