"""Looks at test sets: how often rows were scored against a label, kept in the store whatever becomes of the runs.

A score on test is an honest estimate the first time. Each further head that is scored on the same rows, and compared,
makes the best of them look better than it is. So every scoring of rows is counted, by whatever command: a run and a
leaderboard say how many there were.

``STORE/looks/<digest>.json`` is about one set of rows and one label: ``label``, ``rows``, ``items`` (a digest of 16 hex
digits for each item id, in one string) and ``looks`` (by what, and how often). Sets that share a row count for each other:
rows left out for want of an input, or by ``--where``, make no new test set.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HeadError, IcehouseError
from ..store.checksums import seal, unseal
from ..store.files import publish
from ..store.lock import hold

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = ["Looks", "about_looks", "count_look", "looks_at"]

FORMAT = 1

# Hexadecimal digits of an item's digest.
_DIGITS = 16


@dataclass(frozen=True)
class Looks:
    """How often some rows, or some of them, were scored against a label.

    Attributes
    ----------
    by : dict of str to int
        What scored them ("train", "sweep", "evaluate", "shots") to how often.
    damaged : list of str
        Files of counts that could not be read, so that there may have been more.
    """

    by: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self.by.values())

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"total": self.total, "by": self.by, **({"damaged": self.damaged} if self.damaged else {})}


def count_look(store: Store, label: str, ids: Iterable[str], by: str, times: int = 1) -> Looks:
    """Count that rows were scored, and say how often they have been, this time included.

    Parameters
    ----------
    store : Store
    label : str
        Column of the labels that they were scored against.
    ids : iterable of str
        Items that were scored.
    by : str
        What scored them: "train", "sweep", "evaluate", "shots".
    times : int, default 1

    Raises
    ------
    HeadError
        If the count cannot be written.
    """
    folder = store.path / "looks"
    items = _digests(ids)
    try:
        folder.mkdir(exist_ok=True)
        with hold(folder):
            if not any(folder.glob("[!.]*")):
                for of, theirs in _earlier_looks(store):
                    _add(folder, of, theirs, {"train": 1})
            _add(folder, label, items, {by: times})
    except OSError as error:
        raise HeadError(f"cannot write to {folder}: {error.strerror or error}") from error
    return looks_at(store, label, ids, _items=items)


def looks_at(store: Store, label: str, ids: Iterable[str], *, _items: set[str] | None = None) -> Looks:
    """Say how often any of the rows `ids` was scored against `label`.

    Parameters
    ----------
    store : Store
    label : str
    ids : iterable of str
    """
    items = _digests(ids) if _items is None else _items
    by: Counter[str] = Counter()
    damaged = []
    files = sorted((store.path / "looks").glob("[!.]*"))
    if not files:  # nothing was counted yet, but runs may have been scored
        found = sum(not items.isdisjoint(theirs) for of, theirs in _earlier_looks(store) if of == label)
        return Looks({"train": found} if found else {})
    for path in files:
        try:
            known = _read(path)
        except (OSError, ValueError):  # those set aside as damaged too
            damaged.append(path.name)
            continue
        if known["label"] == label and not items.isdisjoint(known["items"]):
            by.update(known["looks"])
    return Looks(dict(by), damaged)


def about_looks(looks: Mapping[str, Any]) -> str:
    """Say in a sentence what `Looks.as_json` has."""
    total, damaged = looks["total"], looks.get("damaged")
    least = f"at least, {', '.join(damaged)} cannot be read" if damaged else ""
    if total <= 1 and not damaged:
        return "looks: these rows were scored for the first time, as far as this store knows"
    listed = ", ".join(f"{what} {n}" for what, n in sorted(looks["by"].items()))
    detail = "; ".join(part for part in (listed, least) if part)
    return f"looks: these rows, or some of them, have been scored {total} times ({detail}); the best of several flatters"


def _digests(ids: Iterable[str]) -> set[str]:
    return {
        hashlib.blake2b(str(item).encode("utf-8", "surrogatepass"), digest_size=_DIGITS // 2).hexdigest()
        for item in ids
    }


def _read(path: Path) -> dict[str, Any]:
    """Counts of one file, `items` as a set; ValueError where it is damaged."""
    value = unseal(json.loads(path.read_text(encoding="utf-8")), path.name)
    try:
        items = value["items"]
        found = {items[start : start + _DIGITS] for start in range(0, len(items), _DIGITS)}
        looks = {str(by): int(times) for by, times in value["looks"].items()}
        return {"label": str(value["label"]), "items": found, "looks": looks}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged") from error


def _add(folder: Path, label: str, items: set[str], looks: dict[str, int]) -> None:
    name = hashlib.sha256(json.dumps([label, sorted(items)]).encode()).hexdigest()[:16]
    path = folder / f"{name}.json"
    before: dict[str, int] = {}
    if path.exists():
        try:
            before = _read(path)["looks"]
        except ValueError:
            path.rename(folder / f"{name}.damaged")
    value = {
        "format": FORMAT,
        "label": label,
        "rows": len(items),
        "looks": dict(Counter(before) + Counter(looks)),
        "items": "".join(sorted(items)),
    }
    with publish(path) as temp:
        temp.write_text(json.dumps(seal(value, path.name), ensure_ascii=False) + "\n", encoding="utf-8")


def _earlier_looks(store: Store) -> Iterator[tuple[str, set[str]]]:
    """Label and rows of the test scores of runs, for a store in which no looks are kept."""
    from .runs import Run

    for path in sorted((store.path / "runs").glob("[!.]*/run.json")):
        try:
            run = Run(path.parent)
            if "test" in run.metrics:
                yield run.label, _digests(run.training_items().get("test", set()))
        except (IcehouseError, OSError, ValueError):
            continue  # a damaged run is its own affair
