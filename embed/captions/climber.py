"""How many questions a server gets at once: one to begin with, and more only while that pays.

Hill climbing with hysteresis. The rate of answers is measured at the present level; twice as many are tried; if the rate
does not grow by a clear margin, the level falls back to where it was and stays there for a while, each time longer. A
server that works on one question at a time (Ollama with ``OLLAMA_NUM_PARALLEL=1``) is soon left alone with one.
"""

from __future__ import annotations

__all__ = ["Climber"]


class Climber:
    """The level of concurrency of one server.

    Parameters
    ----------
    fixed : int, optional
        Stay at this level.
    ceiling : int, default 64
        Never go beyond.
    gain : float, default 0.15
        How much the rate must grow, relative to that of the level below, for a level to be kept.

    Attributes
    ----------
    level : int
        Questions that may be under way now.
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
        """Note an answer.

        Parameters
        ----------
        now : float
            Seconds on any clock that only goes forward.
        busy : bool
            Whether all places of the level were taken when it came; an answer at half load measures nothing.
        """
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
        """The server said that it is too busy, or an answer timed out: halve the level, and try no more for a while."""
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
