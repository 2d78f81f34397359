"""Evaluation of heads on rows, and the test-set log: how often the same test rows were scored."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.splits import canonical_split
from ..dups.pair_graph import AUTO, DuplicateSearches, Overlap
from ..errors import HeadError, IcehouseError, UsageError
from ..store.files import hold, publish, seal, unseal
from .metrics import DRAWS, METRICS, majority_class, score
from .runs import Prediction, Run, prediction_table, write_folder, write_json
from .samples import Samples, load_samples

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store

# A score on test is an honest estimate the first time. Each further head that is scored on the same rows, and compared,
# makes the best of them look better than it is. So every scoring of rows is counted, by whatever command: a run and a
# leaderboard say how many there were.
#
# ``STORE/looks/<digest>.json`` is about one set of rows and one label: ``label``, ``rows``, ``items`` (a digest of 16 hex
# digits for each item id, in one string) and ``looks`` (by what, and how often). Sets that share a row count for each other:
# rows left out for want of an input, or by ``--where``, make no new test set.


FORMAT = 1

# Hexadecimal digits of an item's digest.
_DIGITS = 16


@dataclass(frozen=True)
class ScoringCount:
    """Count of scorings of some rows against a label, by command, and log files that could not be read."""

    by: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)  # so that there may have been more

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self.by.values())

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"total": self.total, "by": self.by, **({"damaged": self.damaged} if self.damaged else {})}


def log_scoring(store: Store, label: str, ids: Iterable[str], by: str, times: int = 1) -> ScoringCount:
    """Log that rows were scored by a command ("train", "sweep", "evaluate", "shots"), and return their count so far."""
    folder = store.path / "looks"
    items = _item_digests(ids)
    try:
        folder.mkdir(exist_ok=True)
        with hold(folder):
            if not any(folder.glob("[!.]*")):
                for of, theirs in _scorings_by_runs(store):
                    _add(folder, of, theirs, {"train": 1})
            _add(folder, label, items, {by: times})
    except OSError as error:
        raise HeadError(f"cannot write to {folder}: {error.strerror or error}") from error
    return scoring_count(store, label, ids, _items=items)


def scoring_count(
    store: Store, label: str, ids: Iterable[str], *, _items: set[str] | None = None
) -> ScoringCount:
    """Count of scorings of any of the rows `ids` against `label`."""
    items = _item_digests(ids) if _items is None else _items
    by: Counter[str] = Counter()
    damaged = []
    files = sorted((store.path / "looks").glob("[!.]*"))
    if not files:  # nothing was counted yet, but runs may have been scored
        found = sum(not items.isdisjoint(theirs) for of, theirs in _scorings_by_runs(store) if of == label)
        return ScoringCount({"train": found} if found else {})
    for path in files:
        try:
            known = _read(path)
        except (OSError, ValueError):  # those set aside as damaged too
            damaged.append(path.name)
            continue
        if known["label"] == label and not items.isdisjoint(known["items"]):
            by.update(known["looks"])
    return ScoringCount(dict(by), damaged)


def scoring_text(looks: Mapping[str, Any]) -> str:
    """Say in a sentence what `ScoringCount.as_json` has."""
    total, damaged = looks["total"], looks.get("damaged")
    least = f"at least, {', '.join(damaged)} cannot be read" if damaged else ""
    if total <= 1 and not damaged:
        return "looks: these rows were scored for the first time, as far as this store knows"
    listed = ", ".join(f"{what} {n}" for what, n in sorted(looks["by"].items()))
    detail = "; ".join(part for part in (listed, least) if part)
    return f"looks: these rows, or some of them, have been scored {total} times ({detail}); the best of several flatters"


def _item_digests(ids: Iterable[str]) -> set[str]:
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


def _scorings_by_runs(store: Store) -> Iterator[tuple[str, set[str]]]:
    """Label and rows of the test scores of runs, for a store in which no looks are kept."""
    from .runs import Run

    for path in sorted((store.path / "runs").glob("[!.]*/run.json")):
        try:
            run = Run(path.parent)
            if "test" in run.metrics:
                yield run.label, _item_digests(run.training_items().get("test", set()))
        except (IcehouseError, OSError, ValueError):
            continue  # a damaged run is its own affair


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run on some rows (`score_rows`, ``in_training``, ``looks``), and the folder that holds them."""

    metrics: dict[str, Any]
    path: Path


def score_rows(
    prediction: Prediction,
    samples: Samples,
    training_hashes: Mapping[str, set[str]],
    *,
    near: Overlap | None = None,
    majority: str | None = None,
    positive: str | None = None,
    positive_given: bool = True,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Score rows, and score again those without a copy, and without a near-duplicate, in training.

    `training_hashes` has the content hashes of training by input, `near` the rows with a near-duplicate there, `majority`
    the commonest label of training (the baseline), `positive_given` whether somebody named the class `positive`. Returns
    what `score` does, with ``without_copies`` and ``without_near_duplicates``.
    """

    def scores(rows: np.ndarray) -> dict[str, Any]:
        return score(
            samples.labels[rows],
            prediction.proba[rows],
            prediction.classes,
            majority=majority,
            positive=positive,
            groups=None if groups is None else groups[rows],
            draws=draws,
        )

    majority = majority_class(samples.labels.tolist()) if majority is None else majority
    result = scores(np.arange(len(samples)))
    if result["positive"] is not None:
        result["positive"]["given"] = positive is not None and positive_given
    copy = np.zeros(len(samples), bool)
    for name, column in samples.content.items():
        hashes = training_hashes.get(name, set())
        copy |= np.fromiter((value is not None and value in hashes for value in column), bool, len(column))
    without: dict[str, Any] = {"copies": int(copy.sum())}
    if copy.any() and not copy.all():
        others = scores(np.flatnonzero(~copy))
        without |= {"n": others["n"], **{name: others[name] for name in METRICS}}
    result["without_copies"] = without
    if near is not None:
        duplicate = copy | near.rows
        rest = np.flatnonzero(~duplicate)
        result["without_near_duplicates"] = {
            "near_duplicates": int(duplicate.sum()),
            "n": len(rest),
            **near.about,
            **(scores(rest) if 0 < len(rest) < len(samples) else {}),
        }
    return result


def content_hashes(*several: Samples) -> dict[str, set[str]]:
    """Content hashes of the rows by input, those of several sets of rows together."""
    found: dict[str, set[str]] = {}
    for samples in several:
        for name, column in samples.content.items():
            found.setdefault(name, set()).update(value for value in column if value is not None)
    return found


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
    samples = load_run_samples(store, run, label=label, where=where, split_column=split_column)
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
    metrics = score_rows(
        prediction,
        samples,
        _stored_hashes(store, samples, trained),
        near=near,
        majority=run.majority,
        positive=run.positive if positive is None else positive,
        positive_given=positive is not None or bool(run.record.get("positive_given")),
        groups=searches.groups(samples),
        draws=draws,
    )
    metrics["in_training"] = sum(item in trained for item in samples.ids.tolist())
    metrics["looks"] = log_scoring(store, label, samples.ids, "evaluate").as_json()
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
    samples = load_run_samples(store, run, where=where)
    return run.predict_features(samples.X).to_arrow(samples.ids)


def load_run_samples(
    store: Store,
    run: Run,
    *,
    label: str | None = None,
    where: str | None = None,
    split_column: str | None = None,
) -> Samples:
    """Rows of the run's features, once their spaces are known to be its own."""
    for name, feature in run.features.items():
        if feature not in store.feature_names():
            known = ", ".join(store.feature_names()) or "none"
            raise HeadError(
                f"run {run.run_id} needs {feature} for its input {name!r}; this store has: {known}"
            )
    run.check_space({name: store.feature_table(feature).spec for name, feature in run.features.items()})
    data = run.record["data"]
    return load_samples(
        store,
        run.features,
        label=label,
        where=where,
        split_column=split_column or (data["split_column"] if label is not None else "split"),
        missing=data["missing"],
    )


def _check_task(run: Run, label: str, y: np.ndarray) -> None:
    """Refuse labels of another task: none that the run knows, or of another column less than half of the rows."""
    known = np.isin(y, run.classes)
    if known.any() and (label == run.label or known.mean() >= 0.5):
        return
    theirs, ours = (_listed(names) for names in (sorted(set(y.tolist())), run.classes))
    raise HeadError(
        f"the column {label!r} is about another task than run {run.run_id} learned from {run.label!r}: of {len(y)} rows "
        f"{int(known.sum())} have a label that it knows; it knows {ours}, and they have {theirs}: give --label a column "
        "with the same classes, or train a run on this one"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _stored_hashes(store: Store, samples: Samples, ids: set[str]) -> dict[str, set[str]]:
    """Content hashes of the items `ids`, by input, as the store has them now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = {name: str(spec["key"]) for name, spec in samples.specs.items()}
    items = store.items.read(list(dict.fromkeys(["item_id", *keys.values()])))
    items = items.filter(pc.is_in(items["item_id"], value_set=pa.array(sorted(ids), pa.string())))
    return {name: set(items[key].drop_null().to_pylist()) for name, key in keys.items()}


def _safe(name: str) -> str:
    """`name` as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80]
