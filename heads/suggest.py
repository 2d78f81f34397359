"""Which unlabelled items to label next: those a head is unsure of, spread over the space, none like another.

See `icehouse.heads.picking` for how they are picked. Not suggested are items that resemble a labelled one or one already
suggested (copies, and near-duplicates where a search for duplicates found them), and those of dev and test splits: labels
for items that a head was unsure of would make these splits unlike the data they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.splits import canonical_split
from ..errors import HeadError, UsageError
from .alike import Alike
from .checks import did_you_mean
from .evaluate import load_run_samples
from .picking import By, Picks, pick, places, uncertainty
from .runs import Prediction, Run, list_runs
from .samples import Samples, load_samples, parse_inputs
from .seen import AUTO, Searches

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = ["Suggestions", "suggest"]

_BY = ("margin", "entropy", "least-confidence")


@dataclass(frozen=True)
class Suggestions:
    """Items to label.

    Attributes
    ----------
    table : pyarrow.Table
        item_id, path, text, uncertainty (0 to 1) and predicted (null without a run), why; the first is the best.
    about : dict
        ``run`` and ``by`` (None without a run), ``features``, ``label``, ``unlabelled`` (items to choose from),
        ``labelled``, ``like_labelled`` (items that were passed over because they resemble a labelled one), ``held_out``
        (items of dev and test splits, passed over too), ``searches``, ``closest`` (largest cosine between two of the
        suggestions), ``notes``.
    """

    table: pa.Table
    about: dict[str, Any]


def suggest(
    store: Store,
    n: int = 50,
    *,
    run: Run | str | None = AUTO,
    by: By = "margin",
    inputs: str | Sequence[str] | Mapping[str, str] | None = None,
    label: str | None = None,
    pool: str | None = None,
    where: str | None = None,
    split_column: str = "split",
    dups: str | Sequence[str] | None = AUTO,
    seed: int = 0,
) -> Suggestions:
    """Suggest items to label.

    Parameters
    ----------
    store : Store
    n : int, default 50
    run : Run, str or None, default "auto"
        Whose uncertainty counts: a run, its id or "latest". "auto" takes the latest if there is one and no `inputs` are
        given. None goes by coverage alone: items that stand for many that no label is near.
    by : {"margin", "entropy", "least-confidence"}, default "margin"
    inputs : str, sequence or mapping, optional
        Without a run, the features that tell where items stand; see `icehouse.heads.samples.parse_inputs`.
    label : str, optional
        Column of labels, by default the run's, or "label". An item without a value there is unlabelled; if there is no such
        column, all are.
    pool : str, optional
        ``column=value``: these items are to choose from instead, whether or not they have a label.
    where : str, optional
        SQL condition that items to choose from must meet.
    split_column : str, default "split"
    dups : str, sequence of str, or None, default "auto"
        Searches for duplicates; see `icehouse.heads.seen.Searches.of`.
    seed : int, default 0
        Matters only for more than several thousand items to choose from.

    Raises
    ------
    HeadError
        If there is nothing to choose from, or no such run.
    UsageError
        If there is no such column or feature.
    SpaceError
        If the store's features are not those of the run.
    """
    if n < 1:
        raise UsageError(f"at least one item has to be suggested, not {n}")
    if by not in _BY:
        raise UsageError(f"no uncertainty {by!r};{did_you_mean(by, _BY)} there are: {', '.join(_BY)}")
    found = _run(store, run, inputs)
    samples = (
        load_samples(store, parse_inputs(inputs, store)) if found is None else load_run_samples(store, found)
    )
    # Sorted, so that the order in which items came into the store plays no part.
    samples = samples.take(np.argsort(samples.ids.astype(str), kind="stable"))
    _require_finite(samples)
    searches = Searches.of(store, samples.specs, dups)
    items = _Items(
        store, samples, label, label or (found.label if found else "label"), pool, where, split_column
    )
    everyone = Alike(items.ids, items.content, searches)
    for row in np.flatnonzero(items.labelled).tolist():
        everyone.take(row)
    # Of all items, those that have the features.
    rows = np.searchsorted(items.ids.astype(str), samples.ids.astype(str))
    alike, choose, labelled = everyone.among(rows), items.choose[rows], items.labelled[rows]
    like_labelled = choose & alike.taken()
    candidates = np.flatnonzero(choose & ~like_labelled)
    held_out = int(items.held_out[rows].sum())
    if not len(candidates):
        raise HeadError(_nothing(items.label, int(like_labelled.sum()), held_out))

    prediction = None if found is None else found.predict_features(samples.X[candidates])
    weight = None
    if prediction is not None:
        weight = np.zeros(len(samples))
        weight[candidates] = uncertainty(prediction.proba, by)
    picks = pick(
        places(samples.X),
        candidates,
        n,
        alike=alike,
        weight=weight,
        labelled=np.flatnonzero(labelled),
        seed=seed,
    )
    notes = list(items.notes)
    if len(picks.rows) < n:
        notes.append(
            f"{len(picks.rows)} of {n}: the other {len(candidates) - len(picks.rows)} items resemble one that is suggested"
            if len(candidates) > len(picks.rows)
            else f"{len(picks.rows)} of {n}: there are no more unlabelled items"
        )
    if alike.names and not alike.covered[candidates].all():
        notes.append(
            f"{int((~alike.covered[candidates]).sum())} items are unknown to the search {', '.join(alike.names)}; "
            "run `icehouse dups find` again to cover them"
        )
    about = {
        "run": None if found is None else found.run_id,
        "by": None if found is None else by,
        "features": samples.features,
        "label": items.label,
        "unlabelled": len(candidates),
        "labelled": int(items.labelled.sum()),
        "like_labelled": int(like_labelled.sum()),
        "held_out": held_out,
        "searches": alike.names,
        "closest": picks.closest,
        "notes": notes,
    }
    table = _table(items.table.take(pa.array(rows[picks.rows])), picks, candidates, weight, prediction, by)
    return Suggestions(table, about)


class _Items:
    """All items in the order of their ids: who is labelled, and who is to choose from.

    Attributes
    ----------
    table : pyarrow.Table
    ids : ndarray of str
    content : dict of str to ndarray of object
        Content hashes, for the keys of the features.
    labelled, choose, held_out : ndarray of bool
        Those with a label (and not in the pool); those to choose from; those that would be, were they not in a dev or test
        split.
    """

    def __init__(
        self,
        store: Store,
        samples: Samples,
        given: str | None,
        label: str,
        pool: str | None,
        where: str | None,
        split_column: str,
    ) -> None:
        there = store.items.snapshot().schema.names
        column, value = _pool(pool)
        for name in (given, split_column, column):
            if name is not None and name not in there:
                hint = did_you_mean(name, there)
                raise UsageError(f"no column {name!r} in items;{hint} there are: {', '.join(there)}")
        self.label = label
        self.notes = [] if label in there else [f"no item has a {label!r} yet"]
        keys = list(dict.fromkeys(str(spec["key"]) for spec in samples.specs.values()))
        wanted = [name for name in (label, split_column, column) if name is not None and name in there]
        table = store.items.read(list(dict.fromkeys(["item_id", "path", "text", *keys, *wanted])))
        ids = np.array(table["item_id"].to_pylist(), object)
        order = np.argsort(ids.astype(str), kind="stable")
        self.table, self.ids = table.take(pa.array(order)), ids[order]
        self.content = {key: np.array(self.table[key].to_pylist(), object) for key in keys}

        n = len(ids)
        labelled = np.zeros(n, bool) if label not in there else _mask(pc.is_valid(self.table[label]))
        splits = [
            None if s is None else canonical_split(str(s)) for s in self.table[split_column].to_pylist()
        ]
        if column is None:
            self.choose = ~labelled
            self.held_out = self.choose & np.array([split in ("dev", "test") for split in splits], bool)
            self.choose &= ~self.held_out
        else:
            values = splits if column == split_column else self.table[column].to_pylist()
            asked = canonical_split(value) if column == split_column else value
            self.choose = np.array([one == asked for one in values], bool)
            self.held_out = np.zeros(n, bool)
            if not self.choose.any():
                raise UsageError(f"no item has {column} = {value!r} to choose from")
        self.labelled = labelled & ~self.choose
        if where is not None:
            from ..store.sql import select_items

            meets = _mask(pc.is_in(self.table["item_id"], value_set=select_items(store, where)))
            self.choose &= meets
            self.held_out &= meets


def _table(
    items: pa.Table,
    picks: Picks,
    candidates: np.ndarray,
    weight: np.ndarray | None,
    prediction: Prediction | None,
    by: By,
) -> pa.Table:
    """The table of `Suggestions`, from the rows of `items` that were picked."""
    n = len(picks.rows)
    sure = pa.nulls(n, pa.float64()) if weight is None else pa.array(weight[picks.rows])
    predicted: list[str | None] = [None] * n
    why = []
    for place, row in enumerate(picks.rows.tolist()):
        said = []
        if prediction is not None and weight is not None:
            of = int(np.searchsorted(candidates, row))
            proba = prediction.proba[of]
            first, second = np.argsort(-proba, kind="stable")[:2].tolist()
            names = prediction.classes
            predicted[place] = str(names[first])
            said.append(
                f"{names[first]} {proba[first]:.2f} or {names[second]} {proba[second]:.2f} ({by} {weight[row]:.2f})"
            )
        count = int(picks.stands_for[place])
        said.append(f"stands for {count} item{'' if count == 1 else 's'}")
        if np.isfinite(picks.labelled[place]):
            said.append(f"nearest label at cosine {picks.labelled[place]:.2f}")
        why.append("; ".join(said))
    return pa.table(
        {
            "item_id": items["item_id"],
            "path": items["path"],
            "text": items["text"],
            "uncertainty": sure,
            "predicted": pa.array(predicted, pa.string()),
            "why": pa.array(why, pa.string()),
        }
    )


def _run(store: Store, run: Run | str | None, inputs: Any) -> Run | None:
    """The run whose uncertainty counts."""
    if run is None or isinstance(run, Run):
        found = run
    elif run == AUTO:
        return None if inputs is not None or not list_runs(store, []) else Run.load(store, "latest")
    else:
        found = Run.load(store, run)
    if found is not None and inputs is not None:
        raise UsageError(
            f"run {found.run_id} has inputs of its own ({', '.join(found.features.values())}): give no others"
        )
    return found


def _pool(pool: str | None) -> tuple[str | None, str]:
    if pool is None:
        return None, ""
    column, equals, value = pool.partition("=")
    if not equals or not column.strip():
        raise UsageError(f"--pool takes column=value, such as split=pool, not {pool!r}")
    return column.strip(), value.strip()


def _require_finite(samples: Samples) -> None:
    for name, rows in samples.X.bad_rows().items():
        raise HeadError(
            f"{samples.features[name]} has NaN or infinity for {len(rows)} items, "
            f"first {samples.ids[rows[0]]!r}: embed them again"
        )


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy(), bool)


def _nothing(label: str, alike: int, held_out: int) -> str:
    if alike:
        return (
            f"all {alike} items to choose from resemble a labelled one: labels for them would say nothing new"
        )
    held = f" but {held_out} of dev and test splits" if held_out else ""
    return (
        f"no item with these features is without a {label!r}{held}; --pool column=value chooses from others"
    )
