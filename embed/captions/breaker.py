"""When to stop hoping: no host of a run is of any use any more.

Each host is judged by itself, so that it does not matter whether all fail in the same way: one that is down and one that has
been busy for ever end a run together.
"""

from __future__ import annotations

from collections.abc import Sequence

from .hosts import Host

__all__ = ["BUSY_FACTOR", "Breaker"]

#: A host that is there but has no time gets so many times the patience of one that is not there.
BUSY_FACTOR = 10


class Breaker:
    """Tells whether waiting has become hopeless.

    Parameters
    ----------
    patience : float
        Seconds that a host may be down, with no other at work.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience

    def verdict(self, hosts: Sequence[Host], now: float) -> str | None:
        """Why the run should end, in one line; None while a host may still answer.

        Parameters
        ----------
        hosts : sequence of Host
            Expelled ones do not count.
        now : float
            On the clock of the hosts' times.
        """
        left = [host for host in hosts if host.expelled is None]
        down = [host for host in left if _over(host.down_since, now, self.patience)]
        idle = [host for host in left if _over(host.idle_since, now, BUSY_FACTOR * self.patience)]
        if not left or any(host not in down and host not in idle for host in left):
            return None
        whys = "; ".join(dict.fromkeys(host.why for host in left))
        if len(down) == len(left):
            return f"no host has answered for {self.patience:g} s: {whys}"
        if not down:
            return f"no host has had time for {BUSY_FACTOR * self.patience:g} s: {whys}"
        return f"no host has answered for {self.patience:g} s, or had time for {BUSY_FACTOR * self.patience:g} s: {whys}"


def _over(since: float | None, now: float, limit: float) -> bool:
    return since is not None and now - since >= limit
