"""Heads, classifiers on frozen features: the `Head` contract, families, training, runs."""

from __future__ import annotations

from typing import Any

__all__ = ["Head", "Inputs", "Run", "available", "create", "evaluate_run", "list_runs", "train"]

# Resolved on first use, so that importing a room for its commands costs nothing.
_LAZY = {
    "Head": ("head", "Head"),
    "Inputs": ("inputs", "Inputs"),
    "Run": ("runs", "Run"),
    "available": ("registry", "available"),
    "create": ("registry", "create"),
    "evaluate_run": ("trainer", "evaluate"),
    "list_runs": ("runs", "list_runs"),
    "train": ("trainer", "train"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(import_module(f".{module}", __name__), attribute)
    raise AttributeError(f"module 'icehouse.heads' has no attribute {name!r}")
