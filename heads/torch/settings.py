"""What a torch head's parameters ask the trainer for: configurations, and a plan that they share."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import ParameterError
from .head import GRIDS
from .training import Configuration, Plan

if TYPE_CHECKING:
    from .head import TorchHead

__all__ = ["configurations_of", "grids_of", "plan_of"]

_RANGES = {
    "lr": " above zero",
    "weight_decay": " not below zero",
    "dropout": " in [0, 1)",
    "modality_dropout": " in [0, 1)",
}
_CHOICES = {
    "schedule": ("cosine", "plateau", "constant"),
    "optimizer": ("adamw", "sgd"),
    "metric": ("log_loss", "macro_f1", "accuracy"),
    "precision": ("auto", "float32"),
}


def grids_of(head: TorchHead) -> dict[str, list[float]]:
    """Values of each parameter that may have several.

    Raises
    ------
    ParameterError
        If one is no number, or out of its range.
    """
    grids = {}
    for name in GRIDS:
        given: Any = getattr(head, name)
        try:
            values = [float(v) for v in np.atleast_1d(np.asarray(given, np.float64)).tolist()]
        except (TypeError, ValueError):
            values = []
        top = 1.0 if "dropout" in name else math.inf
        if not values or not all(0 <= v < top for v in values) or (name == "lr" and 0.0 in values):
            raise ParameterError(f"{name} must be a number or several numbers{_RANGES[name]}, not {given!r}")
        grids[name] = list(dict.fromkeys(values))
    return grids


def configurations_of(head: TorchHead) -> list[Configuration]:
    """Every combination of them, with the head's seed."""
    grids = grids_of(head)
    return [
        Configuration(**dict(zip(grids, values, strict=True)), seed=int(head.seed))
        for values in product(*grids.values())
    ]


def plan_of(head: TorchHead, n: int) -> Plan:
    """How to train on about `n` rows.

    Raises
    ------
    ParameterError
        If a parameter is none that can be meant.
    """
    for name, known in _CHOICES.items():
        if getattr(head, name) not in known:
            raise ParameterError(f"{name} must be one of {', '.join(known)}, not {getattr(head, name)!r}")
    for name in ("epochs", "batch_size", "stop", "patience"):
        value: Any = getattr(head, name)
        if name == "batch_size" and value == "auto":
            continue
        if (value is None and name in ("epochs", "batch_size")) or (value is not None and value < 1):
            raise ParameterError(f"{name} must be a whole number from 1 on, not {value!r}")
    if not 0 <= head.label_smoothing < 1:
        raise ParameterError(f"label_smoothing must be in [0, 1), not {head.label_smoothing!r}")
    if not 0 <= head.momentum < 1:
        raise ParameterError(f"momentum must be in [0, 1), not {head.momentum!r}")
    if head.warmup < 0:
        raise ParameterError(f"warmup must not be negative, not {head.warmup!r}")
    return Plan(
        epochs=head.epochs,
        batch_size=_batch_size(n) if head.batch_size == "auto" else head.batch_size,
        patience=head.patience,
        stop=head.stop,
        warmup=head.warmup,
        schedule=head.schedule,
        drops=tuple(head.drops),
        optimizer=head.optimizer,
        momentum=head.momentum,
        label_smoothing=head.label_smoothing,
        metric=head.metric,
        precision=head.precision,
    )


def _batch_size(n: int) -> int:
    return min(128, max(16, 2 ** int(math.log2(n / 16)))) if n >= 16 else 16
