"""Memory that fitting, predicting and scoring need, estimated before they begin: many rows times many classes do not fit.

An estimate counts the largest arrays that are held at a time, whose sizes are known beforehand. It is right within a factor
of about two, and never asks for what is less than half a gigabyte.
"""

from __future__ import annotations

from typing import NamedTuple

from ..data.images import available_memory
from ..errors import HeadError

__all__ = ["Footprint", "check_memory", "scoring_bytes"]

# What is never asked for, and the share of the free memory that may be used.
_LITTLE, _SHARE = 1 << 29, 0.9
# Arrays of rows × classes, of 8 bytes a number, that predicting and scoring hold at a time.
_SCORED = 4


class Footprint(NamedTuple):
    """Arrays that a fit holds at a time, as multiples of 8 bytes.

    Attributes
    ----------
    rows : float
        Of training rows × classes.
    dev : float
        Of dev rows × classes.
    weights : float
        Of features × classes.
    pairs : float
        Of classes × classes.
    """

    rows: float = 0.0
    dev: float = _SCORED
    weights: float = 0.0
    pairs: float = 0.0

    def bytes(self, rows: int, dev: int, features: int, classes: int) -> int:
        """Estimate for so many rows, features and classes; the features of the rows themselves are held three times."""
        by_class = self.rows * rows + self.dev * dev + self.weights * features + self.pairs * classes
        return int(8 * (classes * by_class + 3 * rows * features))


def scoring_bytes(rows: int, classes: int) -> int:
    """Estimate for predicting so many rows and scoring the predictions."""
    return 8 * _SCORED * rows * classes


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what does not fit into the memory that is free.

    Parameters
    ----------
    needed : int
        Bytes.
    what : str
        What needs them, for the message.
    remedy : str
        What to do instead.

    Raises
    ------
    HeadError
        If it does not fit; the message has the estimate and what is free.
    """
    if needed < _LITTLE:
        return
    free = available_memory()
    if free is not None and needed > _SHARE * free:
        raise HeadError(
            f"{what} would need about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: {remedy}"
        )
