"""What comes to a window of recent contents, and what it says of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Arrival", "Match", "Verdict"]


@dataclass(frozen=True)
class Arrival:
    """What comes: `id` for people, `key` (sha256) for its content, its hash, and its vector (dim,).

    `vector` and `phash` may be left out where `Recent.knows` the key, or an earlier arrival of the same batch has it.
    """

    id: str
    key: str
    phash: int | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True)
class Match:
    """A content of the window that an arrival resembles.

    Attributes
    ----------
    id : str
        Of the arrival that brought the content.
    position : int
        Of that arrival in the stream, from 0.
    age : int
        How many arrivals ago that was.
    exact, perceptual, embedding : bool
        Which stages find it.
    hamming : int or None
        Bits in which the hashes differ; None where one is missing.
    cosine : float or None
        None where a vector is missing or has no direction.
    """

    id: str
    position: int
    age: int
    exact: bool
    perceptual: bool
    embedding: bool
    hamming: int | None
    cosine: float | None

    @property
    def kind(self) -> str:
        """Strongest evidence: "exact", "perceptual" or "embedding"."""
        return "exact" if self.exact else "perceptual" if self.perceptual else "embedding"


@dataclass(frozen=True)
class Verdict:
    """What became of an arrival.

    Attributes
    ----------
    id : str
    position : int or None
        In the stream, from 0; None where it could not be judged.
    matches : tuple of Match
        Best first: exact, then perceptual by fewest bits, then by highest cosine; of equals the oldest.
    capped : bool
        Whether more resemble it than a stage looks for (256): `matches` are then the best of the most recent.
    error : str or None
        Why it could not be judged.
    """

    id: str
    position: int | None
    matches: tuple[Match, ...] = ()
    capped: bool = False
    error: str | None = None

    @property
    def match(self) -> Match | None:
        """Best match."""
        return self.matches[0] if self.matches else None

    @property
    def kind(self) -> str:
        """Tell in one word: "new", "exact", "perceptual", "embedding", or "error"."""
        if self.error is not None:
            return "error"
        return self.matches[0].kind if self.matches else "new"
