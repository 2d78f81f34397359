"""A server in the hands of a run: whether it is trusted, how much it gets, when it rests."""

from __future__ import annotations

from dataclasses import dataclass, field

from .api import Api
from .climber import Climber

__all__ = ["Host"]


@dataclass
class Host:
    """One server and its standing.

    A host is *trusted* once its model's digest was found to be the right one, until something goes wrong with it: then it
    gets no question before it has been identified again, since what comes back may be another model. It is *expelled*
    where only a person can help.

    Attributes
    ----------
    under_way : int
        Questions it is working on.
    down_since : float or None
        When it stopped answering, on the run's clock.
    idle_since : float or None
        Since when questions have brought nothing but that it is busy, or no connection.
    idles : int
        How many in a row.
    why : str
        Last thing that went wrong.
    broken : int
        Unusable answers in a row.
    suspect : bool
        So many that it must answer a plain test picture before it gets another question.
    """

    api: Api
    climber: Climber = field(default_factory=Climber)
    trusted: bool = False
    expelled: Exception | None = None
    under_way: int = 0
    idles: int = 0
    rest_until: float = 0.0
    down_since: float | None = None
    idle_since: float | None = None
    why: str = ""
    broken: int = 0
    suspect: bool = False

    @property
    def url(self) -> str:
        """Address, fit to be shown."""
        return self.api.url

    def gave_answer(self) -> None:
        """Note that a question was answered."""
        self.idles, self.idle_since = 0, None
        self.broken, self.suspect = 0, False

    def gave_nothing(self, now: float, wait: float) -> None:
        """Note that a question was not taken, and let the host rest for `wait` seconds."""
        # Questions that were under way together fail together, and are one failure.
        self.idles += now >= self.rest_until
        self.idle_since = now if self.idle_since is None else self.idle_since
        self.rest_until = max(self.rest_until, now + wait)

    def free(self, now: float) -> bool:
        """Whether it may get a question."""
        return self.trusted and self.under_way < self.climber.level and now >= self.rest_until
