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
    answered : int
        Answers it gave in this run.
    down_since : float or None
        When it stopped answering, on the run's clock.
    busy_since : float or None
        Since when it has said nothing but that it is busy.
    why : str
        Last thing that went wrong.
    """

    api: Api
    climber: Climber = field(default_factory=Climber)
    trusted: bool = False
    expelled: Exception | None = None
    under_way: int = 0
    answered: int = 0
    busies: int = 0
    rest_until: float = 0.0
    down_since: float | None = None
    busy_since: float | None = None
    why: str = ""

    @property
    def url(self) -> str:
        """Address, fit to be shown."""
        return self.api.url

    def free(self, now: float) -> bool:
        """Whether it may get a question."""
        return self.trusted and self.under_way < self.climber.level and now >= self.rest_until
