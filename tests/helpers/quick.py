"""Heads with settings that make them quick; what they can do must not depend on these."""

from __future__ import annotations

from typing import Any

from icehouse.heads.head import Head
from icehouse.heads.registry import create

#: By family: small grids, few rounds or epochs. A family that is quick as it is needs no entry.
QUICK: dict[str, dict[str, Any]] = {
    "align": {"width": 16, "hidden": 16, "lr": 1e-2, "dropout": 0.1, "epochs": 5},
    "cross": {"width": 6, "hidden": 16, "lr": 1e-2, "dropout": 0.1, "epochs": 5},
    "diff-attn": {
        "depth": 1,
        "width": 8,
        "heads": 2,
        "lr": 1e-2,
        "dropout": 0.1,
        "epochs": 4,
        "batch_size": 32,
    },
    "guided-ca": {"width": 8, "heads": 2, "lr": 1e-2, "dropout": 0.1, "epochs": 4, "batch_size": 32},
    "guided-ca+diff-attn": {
        "width": 8,
        "heads": 2,
        "lr": 1e-2,
        "dropout": 0.1,
        "epochs": 4,
        "batch_size": 32,
    },
    "late-fusion": {"head_params": {"C": 1.0, "unit": False}},
    "lightgbm": {"num_leaves": 7, "max_rounds": 15, "patience": 5, "min_data": 5},
    "mlp": {"hidden": 32, "lr": (3e-3, 1e-2), "dropout": 0.1, "epochs": 5},
    "online": {"rate": 4.0, "penalty": 1e-4, "max_passes": 10},
    "two-token": {"width": 16, "heads": 2, "layers": 1, "lr": 1e-2, "dropout": 0.1, "epochs": 4},
}


def quick(family: str, **params: Any) -> Head:
    """An unfitted head of `family`."""
    return create(family, **{**QUICK.get(family, {}), **params})
