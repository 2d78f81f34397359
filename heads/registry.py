"""Registry of head families, checks of their parameters, and estimates of the memory that a fit takes.

The registry knows where each family is, and what its class says of itself.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..data.images import available_memory
from ..errors import HeadError, UsageError

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


#: How classes are weighed: alike, by the inverse of their frequency, or as given.
ClassWeight: TypeAlias = Mapping[Any, float] | Literal["balanced"] | None

# What an annotation is called in a message.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "None": "none",
}
_SEVERAL = {"int": "several whole numbers", "float": "several numbers", "str": "several texts"}


class ParameterError(UsageError, TypeError, ValueError):
    """A parameter that a head does not have, or a value that it cannot take."""


def check_kinds(kind: type, params: Mapping[str, Any]) -> None:
    """Refuse parameters of another type than the annotations of ``__init__`` say, the class's own and inherited ones.

    Checked are annotations made of ``int``, ``float``, ``bool``, ``str``, ``None``, ``Sequence`` of these and ``Literal``; a
    parameter with any other annotation is its family's to check.
    """
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        for name, given in inspect.signature(vars(base)["__init__"]).parameters.items():
            parts = _union(given.annotation)
            if name not in params or not parts:
                continue
            params = {**params}
            value = params.pop(name)  # what the nearest class says of it counts
            if not any(_fits(value, part) for part in parts):
                *others, last = [words for part in parts for words in _described(part)]
                takes = f"{', '.join(others)} or {last}" if others else last
                raise ParameterError(
                    f"{name} must be {takes}, not {value!r}; its default is {given.default!r}"
                )


def _union(annotation: Any) -> list[str]:
    """Parts of an annotation, if every one of them can be checked."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    parts = [part.strip() for part in re.split(r"\|(?![^\[]*\])", text)]
    checked = r"int|float|bool|str|None|Sequence\[(int|float|str)\]|Literal\[.*\]"
    return parts if all(re.fullmatch(checked, part) for part in parts) else []


def _fits(value: Any, part: str) -> bool:
    if part.startswith("Literal"):
        return any(isinstance(value, type(known)) and value == known for known in _literals(part))
    if part.startswith("Sequence"):
        of = part[len("Sequence[") : -1]
        several = isinstance(value, (Sequence, Set, np.ndarray)) and not isinstance(value, (str, bytes))
        return several and all(_fits(one, of) for one in value)
    if isinstance(value, (bool, np.bool_)):
        return part == "bool"
    if part == "None":
        return value is None
    return isinstance(value, {"int": Integral, "float": Real, "str": str}.get(part, ()))


def _described(part: str) -> list[str]:
    if part.startswith("Literal"):
        return [repr(value) for value in _literals(part)]
    return [_SEVERAL[part[len("Sequence[") : -1]] if part.startswith("Sequence") else _WORDS[part]]


def _literals(part: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = ast.literal_eval(f"({part[len('Literal[') : -1]},)")
    return found


def parse_value(text: str) -> Any:
    """Value of a parameter as a command takes it: JSON (0.1, true, [1, 2]), none, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "none" else text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Hint that ends in a question mark, or nothing where no name is near."""
    near = get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" did you mean {near[0]!r}?" if near else ""


def grid_of(name: str, value: Any, auto: Sequence[float]) -> list[float]:
    """Values of a positive parameter that is "auto", a number or several: sorted, without repeats."""
    values: Any = auto if isinstance(value, str) and value == "auto" else value
    if isinstance(values, (int, float, np.number)):
        values = [values]
    try:
        grid = sorted({float(number) for number in values})
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be 'auto', a number or several numbers, not {value!r}") from None
    if not grid or not all(0 < number < np.inf for number in grid):
        raise ParameterError(f"{name} must be positive and finite, not {value!r}")
    return grid


def shares_of(name: str, value: Any, inputs: Sequence[str], steps: int) -> list[tuple[float, ...]]:
    """Weights of the inputs that sum to one: all ways in multiples of ``1 / steps`` for "auto", one way otherwise."""
    if isinstance(value, str) and value == "auto":
        return _simplex(len(inputs), steps)
    try:
        given = [1.0] * len(inputs) if value is None else [float(weight) for weight in value]
    except (TypeError, ValueError):
        given = []
    if len(given) != len(inputs) or not all(0 <= w < np.inf for w in given) or sum(given) <= 0:
        raise ParameterError(
            f"{name} must be 'auto', none, or one weight for each of {', '.join(inputs)}, not {value!r}"
        )
    return [tuple(weight / sum(given) for weight in given)]


def _simplex(parts: int, steps: int) -> list[tuple[float, ...]]:
    """All ways to share one among `parts` in multiples of ``1 / steps``, each part getting some; the most even first."""
    if parts == 1:
        return [(1.0,)]
    steps = max(steps, parts)

    def shares(left: int, among: int) -> Iterator[tuple[int, ...]]:
        if among == 1:
            yield (left,)
            return
        for first in range(1, left - among + 2):
            for rest in shares(left - first, among - 1):
                yield first, *rest

    ways = sorted(shares(steps, parts), key=lambda way: (sum(share * share for share in way), way))
    return [tuple(share / steps for share in way) for way in ways]


def class_weights(
    class_weight: ClassWeight, classes: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """Weight of each class: shape (k,)."""
    k = len(classes)
    if class_weight is None:
        return np.ones(k)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ParameterError(f"class_weight must be None, 'balanced' or a mapping, not {class_weight!r}")
        counts = np.bincount(y, weights=sample_weight, minlength=k)
        return counts.sum() / (k * counts)
    # JSON has only strings for keys, so a mapping that comes back from a file is looked up by those too.
    given = {str(label): float(value) for label, value in class_weight.items()}
    return np.array([given.get(str(label), 1.0) for label in classes.tolist()])


def plain(value: Any) -> Any:
    """Copy of `value` in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two parameters are alike, arrays too."""
    return a is b or (type(a) is type(b) and bool(np.all(a == b)))


# What is never asked for, and the share of the free memory that may be used.
_LITTLE, _SHARE = 1 << 29, 0.9
# Arrays of rows × classes, of 8 bytes a number, that predicting and scoring hold at a time.
_SCORED = 4


class Footprint(NamedTuple):
    """The largest arrays that a fit holds at a time, as multiples of 8 bytes: right within a factor of about two.

    `rows` and `dev` count arrays of (training, dev) rows × classes, `weights` features × classes, `pairs` classes × classes.
    """

    rows: float = 0.0
    dev: float = _SCORED
    weights: float = 0.0
    pairs: float = 0.0

    def bytes(self, rows: int, dev: int, features: int, classes: int) -> int:
        """Estimate for so many rows, features and classes; the features of the rows themselves are held three times."""
        by_class = self.rows * rows + self.dev * dev + self.weights * features + self.pairs * classes
        return int(8 * (classes * by_class + 3 * rows * features))


def scoring_bytes(rows: int, classes: int) -> int:
    """Estimate for predicting so many rows and scoring the predictions."""
    return 8 * _SCORED * rows * classes


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse `what` if the bytes it needs are more than is free; the message has both figures and the remedy."""
    if needed < _LITTLE:
        return
    free = available_memory()
    if free is not None and needed > _SHARE * free:
        raise HeadError(
            f"{what} would need about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: {remedy}"
        )
