"""Plan and record of a sweep.

``STORE/sweeps/<name>/`` holds ``sweep.json`` (the data it is about), ``trials/<key>.json`` (one a trial, written whole
when the trial ends), ``winners.json`` (the runs of each family's winner) and, until then, ``heads/<key>/<seed>/``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import HeadError, UsageError, unknown_name
from ...store.files import publish, refuse_outside, seal, unseal
from ..head import Head
from ..registry import head_class
from ..samples import parse_inputs

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = [
    "SweepRecord",
    "Trial",
    "begin_record",
    "combinations",
    "list_sweeps",
    "parse_grid",
    "read_record",
    "sweep_folder",
    "trials",
    "write_record",
]


@dataclass(frozen=True)
class Trial:
    """One head on one combination of inputs, fitted once for each seed."""

    family: str
    features: dict[str, str]  # input to feature name
    # Those that differ from the family's defaults; not the family's own grid, from which the head itself chooses on dev.
    params: dict[str, Any]
    seeds: tuple[int, ...]  # one alone for a family that draws nothing

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
    """Combinations of inputs to try, as input to feature: from ``image+text,image``, or all modalities and each alone.

    UsageError if a name fits no feature, or stands for different features in two combinations.
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
    """Parameters to try, by family, from ``HEAD:NAME=VALUES``: a JSON list, or values apart by commas.

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
    """Every head on every combination of inputs with every combination of its parameters."""
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


FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SweepRecord:
    """The folder of a sweep."""

    path: Path

    @classmethod
    def open(cls, store: Store, name: str) -> SweepRecord:
        """Open a sweep that was begun; HeadError, with those there are, if there is none."""
        record = cls(sweep_folder(store, name))
        if not (record.path / "sweep.json").exists():
            known = ", ".join(list_sweeps(store))
            remedy = f"there are: {known}" if known else "start one with `icehouse sweep`"
            raise unknown_name(HeadError(f"no sweep {name!r} in {store.path}; {remedy}"))
        return record

    @classmethod
    def begin(cls, store: Store, name: str, data: Mapping[str, Any], *, fresh: bool = False) -> SweepRecord:
        """Begin a sweep, or go on with one about the same `data`; HeadError, with what differs, if it is about other data.

        `fresh` forgets what was done; the runs of earlier winners stay.
        """
        record = cls(sweep_folder(store, name))
        about = record.path / "sweep.json"
        refuse_outside(record.path)
        if fresh:
            # Not the folder: learning curves of that name lie there too.
            for left in ("trials", "heads"):
                shutil.rmtree(record.path / left, ignore_errors=True)
            for file in ("winners.json", "sweep.json"):
                (record.path / file).unlink(missing_ok=True)
        # More inputs are welcome as long as the rows stay the same.
        begin_record(about, data, f"sweep {name!r} was", "it", grows=True, name=name)
        (record.path / "trials").mkdir(exist_ok=True)
        return record

    @property
    def name(self) -> str:
        """Name it was given."""
        return self.path.name

    @property
    def data(self) -> dict[str, Any]:
        """What it is about."""
        return dict(read_record(self.path / "sweep.json")["data"])

    def trial(self, trial: Trial) -> dict[str, Any] | None:
        """What is known of a trial; None if nothing is, or it cannot be read: the sweep does it again."""
        path = self._trial(trial)
        if path.exists():
            with contextlib.suppress(HeadError):
                return read_record(path)
        return None

    def all_trials(self) -> list[dict[str, Any]]:
        """Every trial that ended and can be read, in the order of their names."""
        found = []
        for path in sorted((self.path / "trials").glob("*.json")):
            with contextlib.suppress(HeadError):
                found.append(read_record(path))
        return found

    def save_trial(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Write what became of a trial."""
        write_record(self._trial(trial), dict(result))

    def save_head(self, trial: Trial, seed: int, head: Head) -> None:
        """Keep a fitted head until the winners are known."""
        folder = self._head(trial, seed)
        refuse_outside(folder)
        shutil.rmtree(folder, ignore_errors=True)
        head.save(folder)

    def load_head(self, trial: Trial, seed: int) -> Head | None:
        """A head that was kept; None if it is gone."""
        folder = self._head(trial, seed)
        return Head.load(folder) if (folder / "head.json").exists() else None

    def drop_heads(self) -> None:
        """Remove the kept heads: those of the winners are in their runs."""
        refuse_outside(self.path)
        shutil.rmtree(self.path / "heads", ignore_errors=True)

    @property
    def winners(self) -> dict[str, Any]:
        """Family to its winning trial and the runs of it."""
        path = self.path / "winners.json"
        return read_record(path) if path.exists() else {}

    def save_winners(self, winners: Mapping[str, Any]) -> None:
        """Write who won."""
        write_record(self.path / "winners.json", dict(winners))

    def _trial(self, trial: Trial) -> Path:
        return self.path / "trials" / f"{trial.key}.json"

    def _head(self, trial: Trial, seed: int) -> Path:
        return self.path / "heads" / trial.key / str(seed)


def list_sweeps(store: Store) -> list[str]:
    """Names of the sweeps of a store."""
    return sorted(path.parent.name for path in (store.path / "sweeps").glob("*/sweep.json"))


def sweep_folder(store: Store, name: str) -> Path:
    """Folder of a sweep, there or not; its name must be one that can be a folder's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a sweep: letters, digits, '.', '_' and '-'")
    return store.path / "sweeps" / name


def begin_record(
    path: Path, data: Mapping[str, Any], what: str, them: str, *, grows: bool = False, **about: Any
) -> None:
    """Write what figures depend on, or make sure that those which are there are about the same data.

    With `grows`, more features than before are no other data, and are added.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        created = {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": f"icehouse {__version__}",
        }
        write_record(path, {"format": FORMAT, **about, **created, "data": dict(data)})
        return
    whole = read_record(path)
    before, now = dict(whole["data"]), dict(data)
    if grows:
        now["features"] = {**data["features"], **before["features"]}
        before["features"] = {**before["features"], **data["features"]}
    differs = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
    if differs:
        raise HeadError(
            f"{what} begun with other data ({', '.join(differs)} differ); "
            f"give another --name, or --fresh to begin {them} anew"
        )
    if grows:
        write_record(path, {**whole, "data": before})


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote."""
    try:
        value = unseal(json.loads(path.read_text(encoding="utf-8")), path.name)
    except (OSError, ValueError, RecursionError) as error:
        raise HeadError(f"{path} cannot be read ({error}); remove it, and the sweep does it again") from error
    return value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(seal(value, path.name), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with publish(path) as temp:
        temp.write_text(text, encoding="utf-8")
