"""Registry of head families: where each is, and what its class says of itself."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ..errors import HeadError, UsageError
from .checks import did_you_mean, plain

if TYPE_CHECKING:
    from .head import Head

#: Families that come with icehouse, by name: module in this package, and class. Nothing is imported until asked for.
FAMILIES = {
    "align": "families.fusion:AlignFusion",
    "cross": "families.fusion:CrossFusion",
    "diff-attn": "families.fusion:DiffAttn",
    "guided-ca": "families.fusion:GuidedCA",
    "guided-ca+diff-attn": "families.fusion:GuidedDiff",
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
    return {**others, **_own()}


def _own() -> dict[str, str]:
    return {name: f"{__package__}.{where}" for name, where in FAMILIES.items()}


def head_class(family: str) -> type[Head]:
    """Class of a family; `UsageError` lists the known ones, `HeadError` says that its module cannot be imported."""
    # Looking through the entry points of all installed packages takes longer than many a fit.
    known = _own() if family in FAMILIES else available()
    if family not in known:
        raise UsageError(
            f"no head {family!r};{did_you_mean(family, known)} known: {', '.join(sorted(known))}"
        )
    module, _, name = known[family].partition(":")
    try:
        kind: type[Head] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HeadError(f"head {family!r} cannot be loaded from {known[family]}: {error}") from error
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


def families() -> list[dict[str, Any]]:
    """Name, summary and inputs of each family; `error` where it cannot be imported.

    Each is a dict of ``family``, ``summary``, ``tokens``, ``missing``, ``prompts``.
    """
    rows = []
    for family in sorted(available()):
        try:
            rows.append(_row(head_class(family), family))
        except HeadError as error:
            rows.append({"family": family, "error": str(error)})
    return rows


def describe(family: str) -> dict[str, Any]:
    """One family as `families` has it, what its module says (``about``), and its ``parameters``.

    Each parameter has ``name``, ``default``, ``type`` and ``about``.
    """
    kind = head_class(family)
    documented = _parameters(kind)
    parameters = [
        {"name": name, "default": plain(default), **documented.get(name, {"type": "", "about": ""})}
        for name, default in kind.parameters().items()
    ]
    return {
        **_row(kind, family),
        "about": inspect.cleandoc(inspect.getmodule(kind).__doc__ or ""),
        "parameters": parameters,
    }


def _row(kind: type[Head], family: str) -> dict[str, Any]:
    return {
        "family": family,
        "summary": (inspect.getdoc(kind) or "").split("\n", 1)[0],
        "tokens": kind.takes_tokens,
        "missing": kind.handles_missing,
        "prompts": kind.takes_prompts,
    }


def _parameters(kind: type[Head]) -> dict[str, dict[str, str]]:
    """Type and first sentence of each parameter, from the numpydoc sections of the class and those it inherits from."""
    found: dict[str, dict[str, str]] = {}
    for base in reversed(kind.__mro__):
        lines = inspect.cleandoc(base.__doc__ or "").split("\n") if base.__doc__ else []
        if "Parameters" not in lines:
            continue
        names: list[str] = []
        for line in lines[lines.index("Parameters") + 2 :]:
            if re.fullmatch(r"-{3,}", line):
                break
            head = re.fullmatch(r"(\w+(?:, \w+)*) : (.+)", line)
            if head:
                names = head[1].split(", ")
                kind_of = re.sub(r",? default .*", "", head[2])
                found |= {name: {"type": kind_of, "about": ""} for name in names}
            elif line.startswith("    "):
                for name in names:
                    found[name]["about"] = f"{found[name]['about']} {line.strip()}".strip()
            elif line.strip():
                names = []
    for entry in found.values():
        entry["about"] = re.split(r"(?<=\.) (?=[A-Z])", entry["about"], maxsplit=1)[0]
    return found
