"""How much of the machine a network's arithmetic is worth: threads, and the precision of products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ["limited_threads", "products_in"]

# Operations of one step below which a second thread costs more in waiting than it does in work.
_WORTH_THREADS = 5e7


@contextmanager
def limited_threads(work: float) -> Iterator[None]:
    """One thread where a step is of few operations; as many as PyTorch has otherwise."""
    before = torch.get_num_threads()
    if work < _WORTH_THREADS and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def products_in(precision: Literal["auto", "float32"]) -> Iterator[None]:
    """Matrix products of float32 by way of bfloat16, summed in float32, on CPUs with instructions for it.

    Elsewhere, and with "float32", nothing changes.
    """
    backend: Any = torch.backends.mkldnn
    products = backend.matmul
    before = products.fp32_precision
    if precision == "auto":
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
