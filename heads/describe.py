"""What there is to know of each family of heads, taken from its class: for `icehouse heads`."""

from __future__ import annotations

import inspect
import re
from typing import Any

from ..errors import HeadError
from .checks import plain
from .head import Head
from .registry import available, head_class

__all__ = ["describe", "families"]


def families() -> list[dict[str, Any]]:
    """Each family of the registry: name, summary, and what inputs it takes; `error` where it cannot be imported.

    Returns
    -------
    list of dict
        ``family``, ``summary``, ``tokens``, ``missing``, ``prompts``, by name.
    """
    rows = []
    for family in sorted(available()):
        try:
            rows.append(_row(head_class(family), family))
        except HeadError as error:
            rows.append({"family": family, "error": str(error)})
    return rows


def describe(family: str) -> dict[str, Any]:
    """One family with its parameters.

    Returns
    -------
    dict
        As `families` has it, and ``about`` (what its module says) and ``parameters``: a list of ``name``, ``default``,
        ``type`` and ``about``.

    Raises
    ------
    UsageError
        If there is no such family.
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
