"""Active learning: which unlabelled items to label next, as a batch.

Not suggested are items that resemble a labelled one or one already suggested (copies, and near-duplicates where a search
for duplicates found them), and those of dev and test splits: labels for items that a head was unsure of would make these
splits unlike the data they stand for.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.splits import canonical_split
from ..dups.pair_graph import AUTO, DuplicateExclusion, DuplicateSearches
from ..errors import HeadError, UsageError, count_of
from .inputs import Inputs, Samples, directions, load_samples, parse_inputs
from .registry import did_you_mean
from .runs import Prediction, Run, list_runs

if TYPE_CHECKING:
    from ..store.store import Store

# Facility location: the score of a batch B, beside the labelled items L, is
#
#     sum over candidates j of  u_j ** 2 * max over i in B and L of max(cosine(i, j), 0),   u the uncertainty.
#
# Each pick is the one that adds most, which is within 1 - 1/e of the best batch (Nemhauser, Wolsey, Fisher 1978; as active
# learning, Wei, Iyer, Bilmes 2015, "Submodularity in data subset selection and active learning"). Such a pick stands in the
# middle of uncertain items, not at their rim as those of farthest-first and k-means++ do (k-center, BADGE), and takes away
# the reason for another beside it. Without a head all u are one, and the batch covers what no label covers yet.

#: Measures of uncertainty.
By: TypeAlias = Literal["margin", "entropy", "least-confidence"]

# Most candidates that may be picked, and most that a batch is to stand for: their cosines are held at once.
_PICKABLE, _WANTING = 8000, 4000
# Rows compared at a time.
_ROWS = 4096


@dataclass(frozen=True)
class Batch:
    """A selected batch."""

    rows: np.ndarray  # (n,) in the order of selection: the first few are a good smaller batch
    # (n,) candidates with no nearer item in the batch or among the labelled ones (an estimate where there are many).
    stands_for: np.ndarray
    labelled: np.ndarray  # (n,) cosine to the nearest labelled item; NaN if none is
    closest: float | None  # largest cosine between two of them; None for fewer than two


def uncertainty(proba: np.ndarray, by: By) -> np.ndarray:
    """Uncertainty of each row from 0 to 1 (n,): margin of the two likeliest classes, entropy, or lack of confidence."""
    k = proba.shape[1]
    if by == "entropy":
        found: np.ndarray = -(proba * np.log(np.maximum(proba, 1e-300))).sum(axis=1) / np.log(k)
    else:
        best = np.sort(np.partition(proba, k - 2, axis=1)[:, -2:], axis=1)
        found = 1 - (best[:, 1] - best[:, 0]) if by == "margin" else (1 - best[:, 1]) * k / (k - 1)
    return found.clip(0, 1)


def unit_rows(X: Inputs) -> np.ndarray:
    """Unit vector of each row (float32): all inputs side by side, centred, of equal length; tokens as their mean."""
    parts = []
    for name in X.names:
        vectors = X.means(name).astype(np.float64)
        present = X.present(name)
        mean = vectors[present].mean(axis=0) if present.any() else 0.0
        parts.append(directions(vectors - mean) * present[:, None])
    return directions(np.concatenate(parts, axis=1)).astype(np.float32)


def select_batch(
    at: np.ndarray,
    candidates: np.ndarray,
    n: int,
    *,
    exclusion: DuplicateExclusion,
    weight: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    cap: float = 0.95,
    seed: int = 0,
) -> Batch:
    """Select up to `n` of the `candidates` (row numbers, ascending), greedily.

    `at` (m, d) comes from `unit_rows`, in an order that means nothing; `weight` (m,) is each row's uncertainty. What
    `exclusion` excludes, and what resembles a pick, is not picked, nor are two that no search compared nearer than the
    cosine `cap`.
    """
    free = candidates[~exclusion.excluded(candidates)]
    u = np.ones(len(at)) if weight is None else weight
    labelled = np.zeros(0, np.intp) if labelled is None else labelled
    rng = np.random.default_rng(seed)
    wanting = free if len(free) <= _WANTING else np.sort(rng.choice(free, _WANTING, replace=False))
    # The surer half is only stood for: the middle of a cloud is worth a label where the head is unsure of it.
    most = min(_PICKABLE, len(free) if weight is None else max(10 * n, len(free) // 2))
    if len(free) > most:
        shuffled = rng.permutation(free)
        # Stable: among equals, and without a head all are, chance decides.
        free = np.sort(shuffled[np.argsort(-u[shuffled], kind="stable")[:most]])
    wants = (u[wanting] ** 2).astype(np.float32)
    near = np.maximum(at[free] @ at[wanting].T, 0)
    covered = np.zeros(len(wanting), np.float32)
    for start in range(0, len(labelled), _ROWS):
        covered = np.maximum(covered, (at[labelled[start : start + _ROWS]] @ at[wanting].T).max(axis=0))

    def gain(i: int) -> float:
        return float(np.maximum(near[i] - covered, 0) @ wants)

    # What a pick adds only shrinks as others are picked: an old value is a bound, and few have to be renewed.
    heap = [(-gain(i), -float(u[row]), i, 0) for i, row in enumerate(free.tolist())]
    heapq.heapify(heap)
    picked: list[int] = []
    while heap and len(picked) < n:
        _, sure, i, stamp = heapq.heappop(heap)
        row = int(free[i])
        if exclusion.excluded(free[[i]])[0] or _too_near(at, row, picked, exclusion, cap):
            continue
        if stamp < len(picked):
            heapq.heappush(heap, (-gain(i), sure, i, len(picked)))
            continue
        picked.append(row)
        exclusion.mark(row)
        covered = np.maximum(covered, near[i])
    return _described(at, np.array(picked, np.intp), wanting, labelled, len(candidates))


def _too_near(at: np.ndarray, row: int, picked: list[int], exclusion: DuplicateExclusion, cap: float) -> bool:
    """Whether a pick that no search has compared with `row` stands too near to it."""
    others = np.array(picked, np.intp)
    if exclusion.covered[row]:
        others = others[~exclusion.covered[others]]
    return bool(len(others) and (at[others] @ at[row]).max() >= cap)


def _described(
    at: np.ndarray, rows: np.ndarray, wanting: np.ndarray, labelled: np.ndarray, total: int
) -> Batch:
    """Batch of the chosen rows: the items each stands for, and its nearest labelled item."""
    nothing = np.full(len(rows), np.nan)
    if not len(rows):
        return Batch(rows, np.zeros(0, np.int64), nothing, None)
    near = at[wanting] @ at[rows].T
    by_label = np.full(len(wanting), -np.inf)
    to_label = nothing if not len(labelled) else np.full(len(rows), -np.inf)
    for start in range(0, len(labelled), _ROWS):
        some = at[labelled[start : start + _ROWS]]
        by_label = np.maximum(by_label, (some @ at[wanting].T).max(axis=0))
        to_label = np.maximum(to_label, (some @ at[rows].T).max(axis=0))
    own = np.flatnonzero(near.max(axis=1) > by_label)
    counts = np.bincount(near[own].argmax(axis=1), minlength=len(rows))
    between = at[rows] @ at[rows].T
    np.fill_diagonal(between, -1)
    closest = float(between.max()) if len(rows) > 1 else None
    scale = total / max(len(wanting), 1)
    return Batch(rows, np.maximum(np.rint(counts * scale), 1).astype(np.int64), to_label, closest)


@dataclass(frozen=True)
class Suggestions:
    """Items to label, the best first, and (`about`) how they were chosen."""

    # item_id, path, text, uncertainty (0 to 1) and predicted (null without a run), why.
    table: pa.Table
    # `run` and `by` (None without a run), `features`, `label`, `unlabelled` (items to choose from), `labelled`,
    # `like_labelled` and `held_out` (items passed over: duplicates of a labelled one; those of dev and test splits),
    # `searches`, `closest` (largest cosine between two suggestions), `notes`.
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
    """Suggest `n` items to label.

    `run` is a run, its id or "latest" whose uncertainty counts, measured `by` margin, entropy or least confidence;
    "auto" takes the latest if there is one and no `inputs` are given, None goes by coverage alone: items that stand
    for many that no label is near. `inputs` are then the features that tell where items stand. `label` is by default
    the run's column, or "label": an item without a value there is unlabelled. `pool` (``column=value``) names other
    items to choose from, labelled or not, and `where` a condition that these must meet. `seed` matters only for more
    than several thousand items. HeadError if there is nothing to choose from, or no such run; UsageError if there is
    no such column or feature; SpaceError if the store's features are not those of the run.
    """
    if n < 1:
        raise UsageError(f"at least one item has to be suggested, not {n}")
    if by not in (known := get_args(By)):
        raise UsageError(f"no uncertainty {by!r};{did_you_mean(by, known)} there are: {', '.join(known)}")
    found = _run(store, run, inputs)
    samples = load_samples(store, parse_inputs(inputs, store)) if found is None else found.samples(store)
    # Sorted, so that the order in which items came into the store plays no part.
    samples = samples.take(np.argsort(samples.ids.astype(str), kind="stable"))
    samples.require_finite()
    searches = DuplicateSearches.of(store, samples.specs, dups)
    items = _ItemPool(
        store, samples, label, label or (found.label if found else "label"), pool, where, split_column
    )
    every_item = DuplicateExclusion(items.ids, items.content, searches)
    for row in np.flatnonzero(items.labelled).tolist():
        every_item.mark(row)
    # Of all items, those that have the features.
    rows = np.searchsorted(items.ids.astype(str), samples.ids.astype(str))
    exclusion, choose, labelled = every_item.subset(rows), items.choose[rows], items.labelled[rows]
    like_labelled = choose & exclusion.excluded()
    candidates = np.flatnonzero(choose & ~like_labelled)
    held_out = int(items.held_out[rows].sum())
    if not len(candidates):
        raise HeadError(_why_nothing(items.label, int(like_labelled.sum()), held_out))

    prediction = None if found is None else found.predict_features(samples.X[candidates])
    weight = None
    if prediction is not None:
        weight = np.zeros(len(samples))
        weight[candidates] = uncertainty(prediction.proba, by)
    batch = select_batch(
        unit_rows(samples.X),
        candidates,
        n,
        exclusion=exclusion,
        weight=weight,
        labelled=np.flatnonzero(labelled),
        seed=seed,
    )
    notes = list(items.notes)
    if len(batch.rows) < n:
        notes.append(
            f"{len(batch.rows)} of {n}: "
            f"{count_of(len(candidates) - len(batch.rows), 'other item resembles', 'other items resemble')} "
            "one that is suggested"
            if len(candidates) > len(batch.rows)
            else f"{len(batch.rows)} of {n}: there are no more unlabelled items"
        )
    if exclusion.names and not exclusion.covered[candidates].all():
        notes.append(
            f"{count_of(int((~exclusion.covered[candidates]).sum()), 'item is', 'items are')} unknown to "
            f"the search {', '.join(exclusion.names)}; "
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
        "searches": exclusion.names,
        "closest": batch.closest,
        "notes": notes,
    }
    table = _table(items.table.take(pa.array(rows[batch.rows])), batch, candidates, weight, prediction, by)
    return Suggestions(table, about)


class _ItemPool:
    """All items in the order of their ids: which are labelled, and which may be chosen."""

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
    batch: Batch,
    candidates: np.ndarray,
    weight: np.ndarray | None,
    prediction: Prediction | None,
    by: By,
) -> pa.Table:
    """The table of `Suggestions`, from the rows of `items` that were picked."""
    n = len(batch.rows)
    sure = pa.nulls(n, pa.float64()) if weight is None else pa.array(weight[batch.rows])
    predicted: list[str | None] = [None] * n
    why = []
    for place, row in enumerate(batch.rows.tolist()):
        reasons = []
        if prediction is not None and weight is not None:
            of = int(np.searchsorted(candidates, row))
            proba = prediction.proba[of]
            first, second = np.argsort(-proba, kind="stable")[:2].tolist()
            names = prediction.classes
            predicted[place] = str(names[first])
            reasons.append(
                f"{names[first]} {proba[first]:.2f} or {names[second]} {proba[second]:.2f} ({by} {weight[row]:.2f})"
            )
        count = int(batch.stands_for[place])
        reasons.append(f"stands for {count} item{'' if count == 1 else 's'}")
        if np.isfinite(batch.labelled[place]):
            reasons.append(f"nearest label at cosine {batch.labelled[place]:.2f}")
        why.append("; ".join(reasons))
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


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy(), bool)


def _why_nothing(label: str, similar: int, held_out: int) -> str:
    if similar:
        return (
            f"{count_of(similar, 'item')} to choose from, and none that does not resemble a labelled one: more "
            "labels would say nothing new"
        )
    held = f" but {held_out} of dev and test splits" if held_out else ""
    return (
        f"no item with these features is without a {label!r}{held}; --pool column=value chooses from others"
    )
