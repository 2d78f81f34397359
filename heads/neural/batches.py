"""Rows of features as batches of tensors.

Vectors that fit are kept as one float32 tensor on the device. Tokens, and vectors that do not fit, stay where
they are (memory-mapped, float16): each batch is gathered and cast by itself, so features larger than memory can
be learned from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch

from ..inputs import Inputs, Tokens

__all__ = ["Batch", "Rows", "blocks", "statistics"]

#: Tensors of inputs (n, t, d) and masks (n, t), by name.
Batch: TypeAlias = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]

# Bytes up to which all vectors of an input are kept on the device as float32.
_RESIDENT = 4 * 2**30
# Numbers of one input that are gathered at a time where all rows are passed over.
_BLOCK = 2**23
# Rows from which the centre and scale of tokens are estimated.
_SAMPLE = 4096


class Rows:
    """Inputs, ready to be taken in batches.

    Parameters
    ----------
    X : Inputs
    device : str or torch.device, default "cpu"
    dtype : torch.dtype, default float32
    """

    def __init__(
        self, X: Inputs, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.X, self.device, self.dtype = X, torch.device(device), dtype
        self.present = {name: torch.from_numpy(X.present(name).copy()).to(self.device) for name in X.names}
        self.resident = {
            name: self._tensor(array)[:, None]
            for name, array in X.items()
            if not isinstance(array, Tokens) and array.size * dtype.itemsize <= _RESIDENT
        }

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray | slice) -> Batch:
        """Some rows, in the order of `rows`.

        An array of shape (m, n) gives tensors with m in front: a batch for each of m models.
        """
        if isinstance(rows, np.ndarray) and rows.ndim > 1:
            inputs, masks = self.take(rows.reshape(-1))
            shape = rows.shape
            return (
                {name: x.view(*shape, *x.shape[1:]) for name, x in inputs.items()},
                {name: mask.view(*shape, mask.shape[1]) for name, mask in masks.items()},
            )
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.device)
        inputs, masks = {}, {}
        for name, array in self.X.items():
            here = self.present[name][index]
            if name in self.resident:
                inputs[name], masks[name] = self.resident[name][index], here[:, None]
            elif isinstance(array, Tokens):
                values, mask = array.take(rows)
                inputs[name] = self._tensor(values)
                masks[name] = torch.from_numpy(mask.copy()).to(self.device) & here[:, None]
            else:
                inputs[name], masks[name] = self._tensor(array[rows])[:, None], here[:, None]
        return inputs, masks

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        # Cast before it is copied to the device, and never a view of an array that may be read-only.
        return torch.tensor(array, dtype=self.dtype, device=self.device)


def blocks(X: Inputs, rows: int) -> Iterator[slice]:
    """All rows in order, at most `rows` at a time, and fewer where tokens would fill the memory."""
    widest = max(int(np.prod(array.shape[1:])) for _, array in X.items())
    step = max(1, min(rows, _BLOCK // widest))
    return (slice(start, start + step) for start in range(0, len(X), step))


def statistics(X: Inputs, weight: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """Centre (d,) and scale of each input, over the rows that have it.

    A centred input is multiplied by its scale, which brings the mean square of its entries to one.
    """
    found = {}
    for name, array in X.items():
        rows: Any = np.flatnonzero(X.present(name))
        if isinstance(array, Tokens) or len(rows) * array.shape[1] > _BLOCK * 16:
            rows = rows[:: max(1, len(rows) // _SAMPLE)]
        total, first, second = 0.0, np.zeros(array.shape[-1]), np.zeros(array.shape[-1])
        step = max(1, _BLOCK // int(np.prod(array.shape[1:])))
        # Squares are taken about the first block's mean: about zero they would lose all digits of features
        # that lie far from it.
        about: np.ndarray | None = None
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            if isinstance(array, Tokens):
                values, mask = array.take(some)
                values = np.asarray(values, np.float32)[mask].astype(np.float64)
                share = np.repeat(weight[some], mask.sum(axis=1))
            else:
                values, share = np.asarray(array[some], np.float64), weight[some]
            if about is None:
                about = values.mean(axis=0) if len(values) else first.copy()
            values -= about
            total += share.sum()
            first += share @ values
            second += share @ np.square(values)
        if total == 0 or about is None:
            found[name] = (first, 1.0)
            continue
        mean = first / total
        spread = float(np.sqrt(np.mean(second / total - mean**2).clip(min=0)))
        found[name] = (about + mean, 1 / spread if spread > 1e-12 else 1.0)
    return found
