"""Mistakes of a head, and the training items nearest to them; what a page shows of any of these items.

Nearest by cosine, each input centred by its mean in training, as heads see them (without the centre, all posts of one
topic are alike); over several inputs the mean of their cosines. Of tokens, the mean of a row's tokens counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embed.thumbnails import thumbnails
from ...web.render import Card
from ..inputs import Inputs, Tokens
from ..runs import Run
from ..samples import Samples

if TYPE_CHECKING:
    from ...dups.pair_graph import DuplicateSearches
    from ...store.store import Store

# Rows of training compared at a time.
_BLOCK = 16_384


@dataclass(frozen=True)
class Item:
    """Item of a store, for display; None for what it lacks, or if the item is gone."""

    item_id: str
    text: str | None = None
    path: str | None = None
    root: str | None = None

    @property
    def file(self) -> Path | None:
        """The image's file, if the item has one; whether it is still there is not looked at."""
        return None if self.path is None or self.root is None else Path(self.root) / self.path


def read_items(store: Store, ids: Iterable[str]) -> dict[str, Item]:
    """Look up items by id; those that are gone are there with nothing but their id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = list(dict.fromkeys(ids))
    items = store.items.read(["item_id", "text", "path", "root"])
    items = items.filter(pc.is_in(items["item_id"], value_set=pa.array(wanted, pa.string())))
    found = {row["item_id"]: Item(**row) for row in items.to_pylist()}
    return {item: found.get(item, Item(item)) for item in wanted}


def item_cards(items: Mapping[str, Item], *, side: int = 256) -> dict[str, Card]:
    """Cards of items, with their pictures."""
    pictures = thumbnails([item.file for item in items.values()], side=side)
    return {
        key: Card(key, picture, alt=item.path or key, text=item.text)
        for (key, item), picture in zip(items.items(), pictures, strict=True)
    }


@dataclass(frozen=True)
class Near:
    """A training item near another.

    `cosine` is the mean of `by_input`, those that both have; `copy` lists the inputs whose content is the very same;
    `near_duplicate` tells whether a search for duplicates pairs the two, None if no search has looked.
    """

    item_id: str
    label: str
    cosine: float
    by_input: dict[str, float]
    copy: list[str]
    near_duplicate: bool | None = None


@dataclass(frozen=True)
class Scored:
    """Predictions of a run for the n rows of a split: arrays of str (n,), probabilities (n, k) in float64, k classes."""

    ids: np.ndarray
    y: np.ndarray
    predicted: np.ndarray
    proba: np.ndarray
    classes: list[str]

    @classmethod
    def of(cls, run: Run, split: str) -> Scored:
        """Read them from the run's folder."""
        import pyarrow.compute as pc

        table = run.predictions()
        table = table.filter(pc.equal(table["split"], split))
        ids, y, predicted = (
            np.array(table[name].to_pylist(), dtype=object) for name in ("item_id", "y", "predicted")
        )
        columns = [table[f"p_{label}"].to_numpy() for label in run.classes]
        proba = np.stack(columns, axis=1).astype(np.float64)
        return cls(ids, y, predicted, proba, run.classes)

    @property
    def codes(self) -> np.ndarray:
        """Place of each label among `classes`; -1 for one that the head does not know: int, shape (n,)."""
        place = {label: i for i, label in enumerate(self.classes)}
        return np.array([place.get(label, -1) for label in self.y.tolist()], np.intp)


class TrainingRows:
    """The labelled training rows of a run, ready to be searched for neighbours."""

    def __init__(self, train: Samples) -> None:
        self.train = train
        self._means: dict[str, np.ndarray] = {}  # of each input over the rows that have it
        self._units: dict[str, np.ndarray] = {}
        for name in train.X.names:
            rows = _vectors(train.X, name)
            present = train.X.present(name)
            mean = rows[present].mean(axis=0) if present.any() else np.zeros(rows.shape[1], np.float32)
            self._means[name] = mean
            self._units[name] = _units(rows - mean, present)

    def nearest(self, samples: Samples, k: int = 5) -> list[list[Near]]:
        """The `k` nearest training rows of each row, best first; a row is no neighbour of itself."""
        queries = {
            name: _units(_vectors(samples.X, name) - mean, samples.X.present(name))
            for name, mean in self._means.items()
        }
        found = []
        for row, item in enumerate(samples.ids.tolist()):
            cosines = {name: _product(self._units[name], unit[row]) for name, unit in queries.items()}
            stacked = np.stack(list(cosines.values()))
            there = np.isfinite(stacked)
            total = np.where(there, stacked, 0).sum(axis=0)
            mean = np.divide(
                total, there.sum(axis=0), out=np.full(len(total), -np.inf), where=there.any(axis=0)
            )
            mean[self.train.ids == item] = -np.inf
            best = np.argsort(-mean, kind="stable")[:k]
            found.append(
                [self._near(samples, row, int(i), mean, cosines) for i in best if np.isfinite(mean[i])]
            )
        return found

    def _near(
        self, samples: Samples, row: int, i: int, mean: np.ndarray, cosines: Mapping[str, np.ndarray]
    ) -> Near:
        train = self.train
        copy = [
            name
            for name, column in samples.content.items()
            if column[row] is not None and column[row] == train.content[name][i]
        ]
        by_input = {name: float(c[i]) for name, c in cosines.items() if np.isfinite(c[i])}
        return Near(str(train.ids[i]), str(train.labels[i]), float(mean[i]), by_input, copy)


def neighbours(
    known: TrainingRows, samples: Samples, searches: DuplicateSearches, k: int = 5
) -> dict[str, list[Near]]:
    """Nearest training items of each of a few rows, by its id, with those marked that a search for duplicates pairs."""
    marked: dict[str, list[Near]] = {}
    for row, (item, near) in enumerate(zip(samples.ids.tolist(), known.nearest(samples, k), strict=True)):
        if searches.found:
            asked = samples.take(np.array([row]))
            told = [searches.near(asked, {"train": [one.item_id]}) for one in near]
            near = [
                replace(one, near_duplicate=None if pair is None else bool(pair.rows[0]))
                for one, pair in zip(near, told, strict=True)
            ]
        marked[item] = near
    return marked


def mistakes(scored: Scored, most: int = 12) -> list[dict[str, Any]]:
    """The rows that were predicted wrongly with the greatest probability, surest first, as JSON values."""
    wrong = np.flatnonzero(scored.predicted != scored.y)
    sure = scored.proba[wrong].max(axis=1, initial=0.0)
    order = sorted(range(len(wrong)), key=lambda i: (-sure[i], scored.ids[wrong[i]]))
    return [_verdict(scored, int(wrong[i])) for i in order[:most]]


def pick_rows(scored: Scored, wrong: int = 4, right: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """A few rows to show neighbours of: the surest mistakes, then right ones, drawn, of as many classes as can be."""
    good = np.flatnonzero(scored.predicted == scored.y)
    order = np.random.default_rng(seed).permutation(good).tolist()
    drawn: list[int] = []
    for fresh in (True, False):
        for i in order:
            known = {scored.y[j] for j in drawn}
            if len(drawn) < right and i not in drawn and (not fresh or scored.y[i] not in known):
                drawn.append(i)
    return [*mistakes(scored, wrong), *(_verdict(scored, i) for i in drawn)]


def rows_of(samples: Samples, ids: Sequence[str]) -> Samples:
    """The rows of some items, in the order of `ids`; those that are not there are left out."""
    place = {item: row for row, item in enumerate(samples.ids.tolist())}
    return samples.take(np.array([place[item] for item in ids if item in place], np.intp))


def _verdict(scored: Scored, row: int) -> dict[str, Any]:
    proba = dict(zip(scored.classes, scored.proba[row].tolist(), strict=True))
    predicted, true = str(scored.predicted[row]), str(scored.y[row])
    return {
        "item_id": str(scored.ids[row]),
        "true": true,
        "predicted": predicted,
        "probability": proba[predicted],
        "probability_of_true": proba.get(true, 0.0),
    }


def _vectors(X: Inputs, name: str) -> np.ndarray:
    """One vector a row: float32, (n, d)."""
    array: Any = X[name]
    return array.means() if isinstance(array, Tokens) else np.asarray(array, np.float32)


def _units(rows: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rows of unit length; NaN where there is no row or no direction."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = (lengths[:, 0] > 0) & present
    units = np.divide(rows, lengths, out=np.full_like(rows, np.nan), where=lengths > 0)
    units[~usable] = np.nan
    return units


def _product(units: np.ndarray, query: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [units[start : start + _BLOCK] @ query for start in range(0, max(len(units), 1), _BLOCK)]
    )
