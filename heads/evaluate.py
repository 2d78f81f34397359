"""Evaluation of a run on other rows of a store, and its predictions for items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.splits import canonical_split
from ..dups.pair_graph import AUTO, DuplicateSearches, contents_of
from ..errors import HeadError, UsageError, count_of
from .metrics import DRAWS
from .runs import Run, log_scoring, prediction_table, write_folder, write_json
from .trainer import score_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run on some rows (`score_rows`, ``in_training``, ``looks``), and the folder that holds them."""

    metrics: dict[str, Any]
    path: Path


def evaluate(
    store: Store,
    run: Run | str,
    *,
    split: str | Iterable[str] | None = "test",
    where: str | None = None,
    label: str | None = None,
    split_column: str | None = None,
    dups: str | Sequence[str] | None = AUTO,
    positive: str | None = None,
    draws: int = DRAWS,
) -> Evaluation:
    """Score a run on rows of a store; leave predictions and scores in the run's ``evaluations/``.

    `split` is a name, several, or None for all labelled items; what is not given is the run's own. SpaceError if the store's
    features are of another space, HeadError if no row is left or the labels are those of another task.
    """
    run = run if isinstance(run, Run) else Run.load(store, run)
    label = label or run.label
    samples = run.samples(store, label=label, where=where, split_column=split_column)
    splits = (
        None
        if split is None
        else [canonical_split(s) for s in ([split] if isinstance(split, str) else split)]
    )
    if splits is not None:
        there = sorted({s for s in samples.split.tolist() if s is not None})
        for name in splits:
            if name not in there:
                listed = ", ".join(there) or "none"
                raise UsageError(
                    f"no labelled item is in split {name!r}; there are: {listed} (--split all takes every item)"
                )
        samples = samples.take(np.isin(samples.split.astype(str), splits))
    _check_task(run, label, samples.labels)
    searches = DuplicateSearches.of(store, samples.specs, dups)
    prediction = run.predict_features(samples.X)

    roles = run.training_items()
    near = searches.near(samples, {name: roles[name] for name in ("train", "dev") if name in roles})
    trained = roles.get("train", set()) | roles.get("dev", set())
    content = contents_of(store, {str(spec["key"]) for spec in samples.specs.values()})
    hashes = {
        name: {content[str(spec["key"])].get(item) for item in trained} - {None}
        for name, spec in samples.specs.items()
    }
    metrics = score_rows(
        prediction,
        samples,
        hashes,
        near=near,
        majority=run.majority,
        positive=run.positive if positive is None else positive,
        positive_given=positive is not None or bool(run.record.get("positive_given")),
        groups=searches.groups(samples),
        draws=draws,
    )
    metrics["in_training"] = sum(item in trained for item in samples.ids.tolist())
    metrics["looks"] = log_scoring(store, label, samples.ids, "evaluate")
    metrics["of"] = {"split": splits, "where": where, "label": label, "left_out": samples.left_out}
    table = prediction_table(samples.ids, prediction, split=samples.split, y=samples.labels)

    def write(folder: Path) -> None:
        from pyarrow import parquet

        parquet.write_table(table, folder / "predictions.parquet")
        write_json(folder / "metrics.json", metrics)

    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{'-'.join(splits) if splits else 'all'}"
    return Evaluation(metrics, write_folder(run.path / "evaluations", _safe(stem), write))


def predict_items(store: Store, run: Run | str, *, where: str | None = None) -> pa.Table:
    """Predictions for a store's items, labelled or not: item_id, predicted, and ``p_<class>`` for each class."""
    run = run if isinstance(run, Run) else Run.load(store, run)
    samples = run.samples(store, where=where)
    return run.predict_features(samples.X).to_arrow(samples.ids)


def _check_task(run: Run, label: str, y: np.ndarray) -> None:
    """Refuse labels of another task: none that the run knows, or of another column less than half of the rows."""
    known = np.isin(y, run.classes)
    if known.any() and (label == run.label or known.mean() >= 0.5):
        return
    theirs, ours = (_listed(names) for names in (sorted(set(y.tolist())), run.classes))
    raise HeadError(
        f"the column {label!r} is about another task than run {run.run_id} learned from {run.label!r}: of "
        f"{count_of(len(y), 'row')} "
        f"{count_of(int(known.sum()), 'has', 'have')} a label that it knows; it knows {ours}, and they have "
        f"{theirs}: give --label a column "
        "with the same classes, or train a run on this one"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _safe(name: str) -> str:
    """`name` as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80]
