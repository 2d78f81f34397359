"""Scores as readers see them: names, percentages, intervals. No NumPy, so that commands start at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["METRICS", "interval_text", "intervals_text", "title", "value_text"]

#: Scores of a whole set of rows, and whether more is better.
METRICS = {
    "macro_f1": True,
    "accuracy": True,
    "weighted_f1": True,
    "auroc": True,
    "average_precision": True,
    "log_loss": False,
}
_TITLES = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "log_loss": "log loss",
}


def title(name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """A score's name for readers; with `metrics` it says of which class the average precision is."""
    chosen = (metrics or {}).get("positive")
    told = _TITLES.get(name, name)
    return f"{told} of {str(chosen['label'])!r}" if chosen and name == "average_precision" else told


def value_text(value: float | None, name: str, digits: int = 1) -> str:
    """A score as readers see it: in percent, but for log loss; nothing for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if name == "log_loss" else f"{100 * value:.{digits}f}"


def interval_text(low: float | None, high: float | None, name: str, joint: str = "–") -> str:
    """An interval as readers see it, rounded outwards, so that it never looks like a point."""
    if low is None or high is None:
        return ""
    scale, digits = (1, 3) if name == "log_loss" else (100, 1)
    step = 10**digits
    ends = math.floor(low * scale * step + 1e-9) / step, math.ceil(high * scale * step - 1e-9) / step
    return joint.join(f"{end:.{digits}f}" for end in ends)


def intervals_text(metrics: Mapping[str, Any]) -> str:
    """How the intervals of some scores were made."""
    about = metrics["intervals"]
    if "groups" not in about:  # by an earlier version
        return f"bootstrap over the rows, {about['draws']:,} draws"
    if about["groups"] < metrics["n"]:
        return f"in closed form, over {about['groups']:,} groups of duplicates"
    return "in closed form, over the rows"
