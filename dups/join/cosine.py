"""What a cosine is here, to the last bit: the definition that every engine of the join answers to.

A cosine is computed in float64 from the vectors as they are stored, a row at a time, by a sum whose order depends on the
dimension alone. So it does not depend on tiles, threads, devices, or which other rows there are; a vector has a cosine of
exactly 1 with its copy, and ties at a threshold are decided alike everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...errors import UsageError

__all__ = ["RowSet", "pair_cosines"]

#: Pairs scored at once: two blocks of 512 dimensions in float64 that stay in a core's L2 cache.
_PAIRS = 128

#: A row whose distance from the mean is this share of the mean's length holds rounding and nothing else.
_NOISE = 1e-6


@dataclass(frozen=True)
class RowSet:
    """Rows to be compared, left where they are: in memory or mapped from disk."""

    X: np.ndarray  # float16 or float32 (n, d)
    #: float64 (d,), optional: Subtracted from each row before its direction is taken
    mean: np.ndarray | None = None
    #: float64 (n,): Squared length of each row, after centring; 0 where a row has no direction
    squares: np.ndarray = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, X: np.ndarray, mean: np.ndarray | None = None) -> RowSet:
        """Check `X` (n, d) and `mean` (d,); the lengths are not yet measured."""
        if X.ndim != 2 or X.dtype not in (np.float16, np.float32):
            raise UsageError(f"vectors must be (rows, dim) of float16 or float32, not {X.shape} of {X.dtype}")
        if mean is not None:
            mean = np.asarray(mean, np.float64)
            if mean.shape != (X.shape[1],) or not np.isfinite(mean).all():
                raise UsageError(
                    f"the mean must be {X.shape[1]} finite numbers, as the vectors have dimensions"
                )
        return cls(X, mean, np.zeros(len(X)))

    def __len__(self) -> int:
        return len(self.X)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.X.shape[1]

    @property
    def unusable(self) -> np.ndarray:
        """Numbers of the rows without a direction, which match nothing: all zeros, NaN or infinite values."""
        return np.flatnonzero(self.squares == 0)

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """Get `rows` in float64, centred; shape (m, d)."""
        block = self.X[rows].astype(np.float64)
        if self.mean is not None:
            block -= self.mean
        return block

    def directions(
        self, rows: np.ndarray | slice, axes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Get `rows` scaled to unit length, float64 (m, d), and their squared lengths (m,); unusable rows are all 0.

        With `axes` (d, k), get their coordinates along these instead, (m, k).
        """
        with np.errstate(invalid="ignore", over="ignore"):
            block = self.take(rows)
            squares = _row_dots(block, block)
        least = 0.0 if self.mean is None else _NOISE**2 * float(self.mean @ self.mean)
        unusable = ~(np.isfinite(squares) & (squares > least))
        block[unusable] = 0
        squares[unusable] = 0
        if axes is not None:
            block = block @ axes
        block /= np.sqrt(np.where(unusable, 1, squares))[:, None]
        return block, squares

    def measure(self) -> RowSet:
        """Fill in `squares`, a block of rows at a time."""
        for start in range(0, len(self), 4096):
            rows = slice(start, start + 4096)
            self.squares[rows] = self.directions(rows)[1]
        return self


def pair_cosines(left: RowSet, right: RowSet, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Compute the cosine of row ``i[k]`` of `left` with row ``j[k]`` of `right`, for each k.

    Both must have been measured, and no pair may name an unusable row.
    """
    dots = np.empty(len(i))
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        dots[part] = _row_dots(left.take(i[part]), right.take(j[part]))
    # sqrt(s * s) is s in IEEE arithmetic, so that equal rows give 1; sqrt(s) * sqrt(s) would not.
    return np.minimum(dots / np.sqrt(left.squares[i] * right.squares[j]), 1.0)


def _row_dots(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    # Not by BLAS, whose order of summation may depend on where in memory a row lies.
    return np.multiply(A, B).sum(axis=1)
