"""What a sweep tries: heads, combinations of inputs, parameters, seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..registry import head_class
from ..samples import parse_inputs

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = ["Trial", "combinations", "parse_grid", "trials"]


@dataclass(frozen=True)
class Trial:
    """One head on one combination of inputs, fitted once for each seed.

    Attributes
    ----------
    family : str
    features : dict of str to str
        Input to feature name.
    params : dict
        Parameters that differ from the family's defaults; a family's own grid is no part of them, since the
        head itself chooses from it on dev.
    seeds : tuple of int
        One alone for a family that draws nothing.
    """

    family: str
    features: dict[str, str]
    params: dict[str, Any]
    seeds: tuple[int, ...]

    @property
    def inputs(self) -> str:
        """Names of the inputs, as a user writes them."""
        return "+".join(self.features)

    @property
    def key(self) -> str:
        """Name that stays the same from one session to the next, whatever else is in the sweep."""
        about = json.dumps([self.family, self.features, self.params], sort_keys=True)
        digest = hashlib.sha256(about.encode()).hexdigest()[:8]
        safe = "".join(c if c.isalnum() else "-" for c in f"{self.family}-{self.inputs}")
        return f"{safe[:60]}-{digest}"

    def __str__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.family} on {self.inputs}" + (f" ({params})" if params else "")


def combinations(inputs: str | Iterable[str] | None, store: Store) -> list[dict[str, str]]:
    """Combinations of inputs to try.

    Parameters
    ----------
    inputs : str, iterable of str, or None
        Such as ``image+text,image,text``: combinations apart by commas, inputs of one by plus signs, each as
        `icehouse.heads.samples.parse_inputs` takes it. None takes all modalities of the store together, and
        then each alone.
    store : Store

    Returns
    -------
    list of dict of str to str
        Input to feature name; none twice.

    Raises
    ------
    UsageError
        If a name fits no feature, or one name stands for different features in two combinations.
    """
    if inputs is None:
        whole = parse_inputs(None, store)
        found = [whole, *({name: feature} for name, feature in whole.items() if len(whole) > 1)]
    else:
        pieces = inputs.split(",") if isinstance(inputs, str) else list(inputs)
        found = [parse_inputs(piece, store) for piece in pieces if piece.strip()]
        if not found:
            raise UsageError("--inputs names nothing; write combinations such as image+text,image,text")
    features: dict[str, str] = {}
    for name, feature in itertools.chain.from_iterable(one.items() for one in found):
        if features.setdefault(name, feature) != feature:
            raise UsageError(
                f"input {name!r} is {features[name]} in one combination and {feature} in another; "
                f"name one of them: other={feature}"
            )
    return list({frozenset(one.items()): one for one in found}.values())


def parse_grid(given: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Parameters to try, from ``HEAD:NAME=VALUES``: a JSON list, or values apart by commas.

    Returns
    -------
    dict
        Family to parameter to values.

    Raises
    ------
    UsageError
        If one is not of that form, or names a parameter that the family does not have.

    Examples
    --------
    >>> parse_grid(["logreg:C=0.1,1", "logreg:unit=[true]"])
    {'logreg': {'C': [0.1, 1], 'unit': [True]}}
    """
    grid: dict[str, dict[str, list[Any]]] = {}
    for text in given:
        family, colon, rest = text.partition(":")
        name, equals, values = rest.partition("=")
        if not (colon and equals and family and name and values):
            raise UsageError(f"--grid takes HEAD:NAME=VALUES, such as logreg:C=0.1,1,10, not {text!r}")
        head_class(family).__new__(head_class(family), **{name: None})
        grid.setdefault(family, {})[name] = _values(values)
    return grid


def _values(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return [_value(piece.strip()) for piece in text.split(",")]
    return value if isinstance(value, list) else [value]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "none" else text


def trials(
    heads: Sequence[str],
    inputs: Sequence[Mapping[str, str]],
    seeds: Sequence[int],
    grid: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> list[Trial]:
    """Every head on every combination of inputs with every combination of its parameters.

    Parameters
    ----------
    heads : sequence of str
        Families.
    inputs : sequence of mapping
        From `combinations`.
    seeds : sequence of int
    grid : mapping, optional
        From `parse_grid`.

    Raises
    ------
    UsageError
        If there is no such family, or the grid names one that is not tried.
    """
    grid = grid or {}
    for family in grid:
        if family not in heads:
            raise UsageError(f"the grid is for {family!r}, which is not among the heads {', '.join(heads)}")
    made = []
    for family in dict.fromkeys(heads):
        own = grid.get(family, {})
        drawn = tuple(seeds) if head_class(family).stochastic else tuple(seeds[:1])
        for features in inputs:
            for values in itertools.product(*own.values()):
                made.append(Trial(family, dict(features), dict(zip(own, values, strict=True)), drawn))
    return made
