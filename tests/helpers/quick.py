"""Heads with settings that make them quick; what they can do must not depend on these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import create
from icehouse.store.store import Store

#: The fixtures `data` and `make_store` of `tests/heads`.
Data: TypeAlias = Callable[..., tuple[Inputs, np.ndarray]]
Make: TypeAlias = Callable[..., Store]

_ATTENTION = {"width": 8, "heads": 2, "lr": 1e-2, "dropout": 0.1, "epochs": 3, "batch_size": 32}

#: By family: small grids, few rounds or epochs. A family that is quick as it is needs no entry.
QUICK: dict[str, dict[str, Any]] = {
    "align": {"width": 16, "hidden": 16, "lr": 1e-2, "dropout": 0.1, "epochs": 3},
    "cross": {"width": 6, "hidden": 16, "lr": 1e-2, "dropout": 0.1, "epochs": 3},
    "diff-attn": _ATTENTION,
    "guided-ca": _ATTENTION,
    "guided-ca+diff-attn": _ATTENTION,
    "late-fusion": {"head_params": {"C": 1.0, "unit": False}},
    "lightgbm": {"num_leaves": 7, "max_rounds": 10, "patience": 5, "min_data": 5},
    "mlp": {"hidden": 32, "lr": (3e-3, 1e-2), "dropout": 0.1, "epochs": 3},
    "online": {"rate": 4.0, "penalty": 1e-4, "max_passes": 10},
    "two-token": {"width": 16, "heads": 2, "layers": 1, "lr": 1e-2, "dropout": 0.1, "epochs": 3},
}


def quick(family: str, **params: Any) -> Head:
    """An unfitted head of `family`."""
    return create(family, **{**QUICK.get(family, {}), **params})
