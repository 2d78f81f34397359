"""The registry: which families of heads there are, and where."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ..errors import HeadError, UsageError
from .checks import did_you_mean

if TYPE_CHECKING:
    from .head import Head

__all__ = ["FAMILIES", "available", "create", "head_class"]

#: Families that come with icehouse, by name: module in this package, and class. Nothing is imported until asked for.
FAMILIES = {
    "align": "families.fusion:AlignFusion",
    "cross": "families.fusion:CrossFusion",
    "diff-attn": "families.attention:DiffAttn",
    "guided-ca": "families.attention:GuidedCA",
    "guided-ca+diff-attn": "families.attention:GuidedDiff",
    "knn": "families.knn:Knn",
    "late-fusion": "families.late_fusion:LateFusion",
    "lightgbm": "families.gbm:Gbm",
    "logreg": "families.linear:LogReg",
    "mlp": "families.fusion:MLP",
    "online": "families.online:Online",
    "svm": "families.linear:Svm",
    "tip-adapter": "families.zero_shot:TipAdapter",
    "two-token": "families.fusion:TwoTokenTransformer",
    "zero-shot": "families.zero_shot:ZeroShot",
}


def available() -> dict[str, str]:
    """Head families by name, and where each class is; nothing is imported."""
    others = {point.name: point.value for point in entry_points(group="icehouse.heads")}
    return {**others, **{name: f"{__package__}.{where}" for name, where in FAMILIES.items()}}


def head_class(family: str) -> type[Head]:
    """Class of a family.

    Raises
    ------
    UsageError
        If there is none; the message lists those that exist.
    HeadError
        If its module cannot be imported.
    """
    families = available()
    if family not in families:
        raise UsageError(
            f"no head {family!r};{did_you_mean(family, families)} known: {', '.join(sorted(families))}"
        )
    module, _, name = families[family].partition(":")
    try:
        kind: type[Head] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HeadError(f"head {family!r} cannot be loaded from {families[family]}: {error}") from error
    return kind


def create(family: str, **params: Any) -> Head:
    """Make an unfitted head.

    Parameters
    ----------
    family : str
        Name in the registry.
    **params
        Its parameters.

    Raises
    ------
    UsageError
        If there is no such family or no such parameter; the message proposes the nearest.

    Examples
    --------
    >>> create("logreg", C=0.1)
    LogReg(C=0.1)
    """
    return head_class(family)(**params)
