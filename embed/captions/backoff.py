"""How long to wait before asking again."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["MOST_S", "parse_retry_after", "wait_s"]

#: No wait is longer than this, in seconds, whatever a server asks for.
MOST_S = 300.0


def wait_s(
    attempt: int,
    rng: random.Random,
    *,
    asked: float | None = None,
    first: float = 0.5,
    most: float = 30.0,
) -> float:
    """Seconds to wait after failure number `attempt` (from 0): doubled each time, with jitter.

    Parameters
    ----------
    attempt : int
    rng : random.Random
        Source of the jitter, between half of the wait and the whole: clients that failed together must not come back
        together.
    asked : float, optional
        What the server asked for (``Retry-After``); never less than that, up to `MOST_S`.
    first, most : float
        The first wait, and the longest one of our own.
    """
    own = min(most, first * 2.0 ** min(attempt, 30)) * rng.uniform(0.5, 1.0)
    return own if asked is None else min(max(own, asked), MOST_S)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date (RFC 9110); None where it says nothing usable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MOST_S)
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - (now or datetime.now(UTC))).total_seconds(), 0.0), MOST_S)
