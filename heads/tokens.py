"""Token states as an input of a head: padded in memory, or ranges of what a store keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..store.tokens import pad_tokens

__all__ = ["StoredTokens", "Tokens", "concatenate_tokens"]

# Numbers that are looked at together where all rows are passed over.
_BLOCK = 2**23


class Tokens:
    """Token states of some rows.

    Parameters
    ----------
    values : ndarray of float, shape (n, t, d)
    mask : ndarray of bool, shape (n, t)
        True where a token is real; what lies under False is zero and must not matter.
    """

    def __init__(self, values: np.ndarray, mask: np.ndarray) -> None:
        self._values = values
        self._mask = mask

    @property
    def values(self) -> np.ndarray:
        """All of them, padded: (n, t, d)."""
        return self._values

    @property
    def mask(self) -> np.ndarray:
        """True where a token is real: (n, t)."""
        return self._mask

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, tokens, width."""
        return self.values.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tokens:
        return Tokens(self.values[rows], self.mask[rows])

    def take(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values (m, t', d) and mask (m, t') of some rows, no further than the longest of them; t' is at least 1."""
        mask = self.mask[rows]
        used = np.flatnonzero(mask.any(axis=0))
        length = int(used[-1]) + 1 if len(used) else 1
        return self.values[rows, :length], mask[:, :length]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """All rows in order, some at a time: which, their values and their mask."""
        step = max(1, _BLOCK // max(1, self.shape[1] * self.shape[2]))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, *self.take(rows)

    def means(self) -> np.ndarray:
        """Mean of each row's real tokens, zero where there are none: float32, (n, d)."""
        found = np.zeros((len(self), self.shape[2]), np.float32)
        for rows, values, mask in self.blocks():
            share = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
            found[rows] = np.einsum("ntd,nt->nd", values, share.astype(np.float32))
        return found

    def bad_rows(self) -> np.ndarray:
        """Rows with NaN or infinity: int, (m,)."""
        bad = [
            rows.start + np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
            for rows, values, _ in self.blocks()
        ]
        return np.concatenate(bad) if bad else np.empty(0, np.intp)


class StoredTokens(Tokens):
    """Token states that lie one after the other, as a store keeps them; rows are gathered when they are asked for.

    Parameters
    ----------
    states : ndarray of float, shape (tokens, d)
        Possibly mapped from disk.
    starts, lengths : ndarray of int64, shape (n,)
        The range of each row; a row of length 0 has no tokens.
    longest : int, optional
        t of `shape`; by default the longest of these rows. Parts of an array keep that of the whole.
    """

    def __init__(
        self, states: np.ndarray, starts: np.ndarray, lengths: np.ndarray, longest: int | None = None
    ) -> None:
        self.states = states
        self.starts = starts
        self.lengths = lengths
        self.longest = int(max(lengths.max(initial=1), 1)) if longest is None else longest

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, tokens, width."""
        return len(self.starts), self.longest, self.states.shape[1]

    @property
    def values(self) -> np.ndarray:
        """All of it, padded, as float32: (n, t, d). Large; `take` and `blocks` give a part."""
        return pad_tokens(self.states, self.starts, self.lengths, self.longest)[0]

    @property
    def mask(self) -> np.ndarray:
        """True where a token is real: (n, t)."""
        mask: np.ndarray = np.arange(self.longest) < self.lengths[:, None]
        return mask

    def __getitem__(self, rows: Any) -> StoredTokens:
        return StoredTokens(self.states, self.starts[rows], self.lengths[rows], self.longest)

    def take(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values (m, t', d), float32, and mask (m, t') of some rows, no further than the longest of them."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        return pad_tokens(self.states, starts, lengths, int(lengths.max(initial=1)) or 1)

    def __repr__(self) -> str:
        return f"StoredTokens({'×'.join(map(str, self.shape))})"


def concatenate_tokens(parts: Sequence[Tokens]) -> Tokens:
    """Rows of `parts` one under the other; ranges of the same states stay ranges."""
    first = parts[0]
    stored = [part for part in parts if isinstance(part, StoredTokens)]
    if (
        isinstance(first, StoredTokens)
        and all(part.states is first.states for part in stored)
        and len(stored) == len(parts)
    ):
        return StoredTokens(
            first.states,
            np.concatenate([part.starts for part in stored]),
            np.concatenate([part.lengths for part in stored]),
            max(part.longest for part in stored),
        )
    longest = max(part.shape[1] for part in parts)
    padded = [_padded(part, longest) for part in parts]
    return Tokens(np.concatenate([p.values for p in padded]), np.concatenate([p.mask for p in padded]))


def _padded(tokens: Tokens, length: int) -> Tokens:
    more = length - tokens.shape[1]
    return Tokens(
        np.pad(tokens.values, ((0, 0), (0, more), (0, 0))), np.pad(tokens.mask, ((0, 0), (0, more)))
    )
