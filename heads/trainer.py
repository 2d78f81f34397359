"""Training of a head on stored features (split, fit, choose, refit, score, leave a run), and evaluation of runs.

The protocol, the same for every head:

1. Rows are the items that have a label and every input. Their split is `train`, `dev` ("val" and "validation"
   too) or `test`; rows of other splits, or of none where others have one, take no part.
2. Where there is no dev split, a fifth of train is held out in its place: stratified by class, and with duplicates
   (items that share a picture or a text, or that a search for duplicates holds together) on one side, since a
   copy on both sides would reward memory.
   Where there are no splits at all, everything is train, and there is no test.
3. The head learns on train and makes its choices (C, epochs) on dev.
4. What was held out in step 2 goes back: the choice is fitted again on all of train. A dev *split* stays out
   by default, because published results train on train alone; `refit=True` adds it, `refit=False` never
   refits.
5. Dev scores come from the head of step 3, which never learned from dev but was chosen there: they flatter a
   little, and are called dev everywhere. Test is scored once a run, at the very end, by the head that is kept, or
   not at all (`test=False`); the store counts how often the same rows were scored before (`icehouse.heads.runs`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..data.splits import HELD_OUT, canonical_split, held_out
from ..dups.pair_graph import AUTO, DuplicateSearches, Overlap, contents_of
from ..errors import HeadError, UsageError, count_of
from .head import Head
from .inputs import Missing, Samples, label_notes, load_samples, parse_inputs
from .metrics import DRAWS, METRICS, majority_class, minority_class, require_positive, score
from .registry import check_memory, create, plain, scoring_bytes
from .runs import Prediction, Run, log_scoring, prediction_table, write_folder, write_json, write_run

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store


def train(
    store: Store,
    head: str | Head = "logreg",
    *,
    params: Mapping[str, Any] | None = None,
    inputs: str | Sequence[str] | Mapping[str, str] | None = None,
    label: str = "label",
    split_column: str = "split",
    where: str | None = None,
    missing: Missing = "drop",
    refit: bool | None = None,
    dups: str | Sequence[str] | None = AUTO,
    positive: str | None = None,
    test: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Run:
    """Train a head by the protocol above and leave a run in the store.

    Parameters
    ----------
    store : Store
    head : str or Head, default "logreg"
        A family's name, or an unfitted head, which is not changed.
    params : mapping, optional
        The head's parameters.
    inputs : str, sequence, mapping or None
        See `icehouse.heads.inputs.parse_inputs`; None takes every modality that the store has.
    label : str, default "label"
        Column of `items` with the labels.
    split_column : str, default "split"
        Column of `items` with the splits.
    where : str, optional
        SQL condition over the columns of `items`.
    missing : {"drop", "keep"}, default "drop"
        Whether items that lack an input are left out, or kept for a head that can take them.
    refit : bool, optional
        Whether the choice is fitted again with the dev rows; None does so only where they were held out of
        train.
    dups : str, sequence of str, or None, default "auto"
        Searches for duplicates, to score the rows without a near-duplicate in training by themselves too; see
        `icehouse.dups.pair_graph.DuplicateSearches.of`.
    positive : str, optional
        Class of the average precision; of two the rarer one in train by default.
    test : bool, default True
        Whether the test split is scored; without, `icehouse.heads.trainer.evaluate` can do so later.
    draws : int, default 1000
        0 leaves the intervals of scores out, which are in closed form and need no resamples.
    seed : int, default 0
        Of the held-out part, and the head if it has a parameter `seed` that `params` does not
        give.
    progress : callable, optional
        See `icehouse.heads.head.Head.progress`.

    Returns
    -------
    Run

    Raises
    ------
    HeadError
        If a column does not exist, there is nothing to learn from, or fewer than two classes.
    UsageError
        If there is no such head, parameter or feature.
    """
    started = datetime.now(UTC)
    estimator = make_head(head, params, seed)
    estimator.progress = progress
    selection = Selection(label, split_column, where, missing, dups, seed)
    rows = prepare(store, inputs, selection, learns=estimator.takes_prompts != "required")
    known = rows.part("train") if len(rows.parts.train) else rows.samples
    require_positive(positive, known.labels.tolist())
    settings = RunSettings(refit, positive, test, draws, seed)
    return save_run(rows, estimator, fit_on(rows, estimator), settings, started=started)


@dataclass(frozen=True)
class Selection:
    """Rows of an experiment, and how they are split; see `train` for each."""

    label: str = "label"
    split_column: str = "split"
    where: str | None = None
    missing: Missing = "drop"
    dups: str | Sequence[str] | None = AUTO
    seed: int = 0  # of the held-out part


@dataclass(frozen=True)
class RunSettings:
    """Settings of refitting, scoring and saving a head; see `train` for each."""

    refit: bool | None = None
    positive: str | None = None
    test: bool = True
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True)
class Splits:
    """Row numbers of train, dev and test."""

    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    dev_is_split: bool  # else dev was held out of train, or is empty
    notes: list[str] = field(default_factory=list)  # what a reader of the scores has to know


@dataclass(frozen=True)
class Rows:
    """Rows that heads can learn from and be scored on: loaded, checked, split."""

    store: Store
    samples: Samples  # with labels
    parts: Splits
    selection: Selection
    seconds: float  # that loading took
    # For duplicates between the parts.
    searches: DuplicateSearches = field(default_factory=lambda: DuplicateSearches([]))
    # Input to feature that every row has (any of them, where `missing` is "keep"): those the rows were loaded by.
    required: Mapping[str, str] = field(default_factory=dict)

    def part(self, name: Literal["train", "dev", "test"]) -> Samples:
        """The rows of one part."""
        return self.samples.take(getattr(self.parts, name))

    def select(self, names: Sequence[str]) -> Rows:
        """The same rows with some of their inputs."""
        return replace(self, samples=self.samples.select(names))

    def digest(self, *parts: np.ndarray) -> str:
        """Digest of the ids and labels of the rows in each part."""
        found = hashlib.sha256()
        for part in parts:
            for row in part.tolist():
                found.update(f"{self.samples.ids[row]}\0{self.samples.labels[row]}\0".encode())
            found.update(b"\1")
        return found.hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """Description of the rows that figures depend on, for the records of sweeps and learning curves."""
        samples, chosen = self.samples, self.selection
        return {
            "features": {
                name: {"feature": feature, "fingerprint": samples.specs[name].get("fingerprint")}
                for name, feature in samples.features.items()
            },
            "label": chosen.label,
            "split_column": chosen.split_column,
            "where": chosen.where,
            "missing": chosen.missing,
        }


def prepare(
    store: Store,
    inputs: str | Sequence[str] | Mapping[str, str] | None = None,
    selection: Selection | None = None,
    *,
    learns: bool = True,
) -> Rows:
    """Load the rows of an experiment and split them: steps 1 and 2; `learns` is as `assign_splits` takes it."""
    started = time.perf_counter()
    chosen = selection or Selection()
    samples = load_samples(
        store,
        parse_inputs(inputs, store),
        label=chosen.label,
        where=chosen.where,
        split_column=chosen.split_column,
        missing=chosen.missing,
    )
    samples.require_finite()
    # Rows whose predictions could not be scored are refused before anything is fitted to them.
    k = len(set(samples.labels.tolist()))
    scored = max(int((samples.split == name).sum()) for name in ("dev", "test"))
    check_memory(
        scoring_bytes(scored, k),
        f"scoring {scored:,} rows of {k:,} classes",
        "leave rare classes out, or take fewer rows (--where)",
    )
    searches = DuplicateSearches.of(store, samples.specs, chosen.dups)
    parts = assign_splits(
        samples, searches, split_column=chosen.split_column, learns=learns, seed=chosen.seed
    )
    parts = replace(parts, notes=[*label_notes(chosen.label, samples.labels.tolist()), *parts.notes])
    seconds = time.perf_counter() - started
    return Rows(store, samples, parts, chosen, seconds, searches, dict(samples.features))


def assign_splits(
    samples: Samples,
    searches: DuplicateSearches | None = None,
    *,
    split_column: str = "split",
    learns: bool = True,
    seed: int = 0,
) -> Splits:
    """Assign every row to train, dev or test: steps 1 and 2 of the protocol.

    `learns=False` is for a head that can do without training rows (`zero-shot`): where there is no train split, nothing is
    held out, and without any splits every row is test. HeadError if there are splits, none is `train`, and the head learns.
    """
    y, split = samples.labels, samples.split
    notes: list[str] = []
    have = Counter(s for s in split.tolist() if s is not None)
    everything = np.arange(len(samples))
    learn, dev, test = (np.flatnonzero(split == name) for name in ("train", "dev", "test"))
    if not learns and "train" not in have:
        notes.append(
            "there is no train split, and this head needs none: its classes are the labels there are"
        )
        return Splits(everything[:0], dev, test if have else everything, True, notes)
    if have and "train" not in have:
        listed = ", ".join(f"{name} ({n})" for name, n in sorted(have.items()))
        raise HeadError(f"no labelled item is in split 'train'; the column {split_column!r} has {listed}")
    if not have:
        learn = everything
        notes.append(f"the column {split_column!r} names no splits: every row is train")
    elif outside := len(samples) - len(learn) - len(dev) - len(test):
        notes.append(
            f"{count_of(outside, 'labelled item')} in none of train, dev, test: without part in this run"
        )
    if not len(test):
        notes.append(
            "no test split: the scores are on dev, where the head was chosen, and flatter it a little"
        )
    dev_is_split = len(dev) > 0
    if not dev_is_split:
        groups = (searches or DuplicateSearches([])).groups(samples.take(learn))
        part = held_out(y[learn], ids=samples.ids[learn], groups=groups, seed=seed)
        if part is None:
            notes.append(
                "train is too small to hold out a dev part: nothing was chosen, and there are no dev scores"
            )
        else:
            learn, dev = learn[~part], learn[part]
    unseen = sorted(set(y[np.concatenate([dev, test])].tolist()) - set(y[learn].tolist()))
    if unseen:
        notes.append(f"train never has {', '.join(map(repr, unseen))}: rows with that label count as errors")
    for name, missing in samples.left_out.items():
        if missing:
            notes.append(f"{count_of(missing, 'labelled item')} without {samples.features[name]}")
    if samples.vanished:
        from ..store.sql import left_out_note

        notes.append(left_out_note(samples.vanished))
    return Splits(learn, dev, test, dev_is_split, notes)


@dataclass(frozen=True)
class Fitted:
    """A head fitted on train, its choices made on dev; and the seconds it took."""

    head: Head
    seconds: float


def fit_on(rows: Rows, estimator: Head) -> Fitted:
    """Fit a copy of `estimator` on train and let it choose on dev: step 3 of the protocol."""
    learn, dev = rows.part("train"), rows.part("dev")
    started = time.perf_counter()
    head = _with_class_vectors(rows, estimator).unfitted()
    head.progress = estimator.progress
    val = (dev.X, dev.labels) if len(dev) else None
    head.fit(learn.X, learn.labels, val=val, groups=rows.searches.groups(learn))
    return Fitted(head, time.perf_counter() - started)


def fit_seeds_on(rows: Rows, estimator: Head, seeds: Sequence[int]) -> dict[int, Fitted]:
    """The same with several seeds, in one program where the family can; each is said to have taken an equal share."""
    learn, dev = rows.part("train"), rows.part("dev")
    val = (dev.X, dev.labels) if len(dev) else None
    started = time.perf_counter()
    head = _with_class_vectors(rows, estimator)
    heads = head.fit_seeds(seeds, learn.X, learn.labels, val=val, groups=rows.searches.groups(learn))
    seconds = (time.perf_counter() - started) / len(heads)
    return {seed: Fitted(head, seconds) for seed, head in zip(seeds, heads, strict=True)}


def refit_on(rows: Rows, chosen: Head) -> Head:
    """A head with what `chosen` chose, fitted on train and dev: step 4 of the protocol."""
    both = rows.samples.take(np.concatenate([rows.parts.train, rows.parts.dev]))
    return chosen.refit(both.X, both.labels, groups=rows.searches.groups(both))


def _with_class_vectors(rows: Rows, estimator: Head) -> Head:
    if estimator.takes_prompts == "never":
        return estimator
    from .families.zero_shot import with_prompts

    labels = sorted(set(rows.samples.labels.tolist()))
    return with_prompts(estimator, rows.store, rows.samples.specs, labels)


def save_run(
    rows: Rows,
    estimator: Head,
    fitted: Fitted,
    settings: RunSettings | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    started: datetime | None = None,
) -> Run:
    """Score a fitted head on dev, refit it where that is due, score it on test, and write the run: steps 4 and 5.

    `estimator` has the parameters as they were given. `about` is added to ``run.json``, such as the sweep that the run
    belongs to; training began at `started`, or as long ago as the fit took.
    """
    settings = settings or RunSettings()
    started = started or datetime.now(UTC) - timedelta(seconds=fitted.seconds)
    store, samples, parts, searches = rows.store, rows.samples, rows.parts, rows.searches
    learn, dev, held = (rows.part(name) for name in ("train", "dev", "test"))
    majority, positive = majority_class(learn.labels.tolist()), settings.positive
    if positive is None and len(fitted.head.classes_) == 2:
        positive = minority_class(learn.labels)
    begun = time.perf_counter()

    metrics: dict[str, Any] = {}
    tables: list[pa.Table] = []

    def scored(name: str, by: Head, rows: Samples, known: Mapping[str, Samples]) -> None:
        prediction = Prediction(by.classes_, by.predict_proba(rows.X))
        metrics[name] = score_rows(
            prediction,
            rows,
            content_hashes(*known.values()),
            near=searches.near(rows, {name: part.ids for name, part in known.items()}),
            majority=majority,
            positive=positive,
            positive_given=settings.positive is not None,
            groups=searches.groups(rows),
            draws=settings.draws,
        )
        split = np.full(len(rows), name, object)
        tables.append(prediction_table(rows.ids, prediction, split=split, y=rows.labels))

    chosen = kept = fitted.head
    if len(dev):
        scored("dev", chosen, dev, {"train": learn})
    refit_seconds = 0.0
    refitted = len(dev) > 0 and (not parts.dev_is_split if settings.refit is None else settings.refit)
    if refitted:
        again = time.perf_counter()
        kept = refit_on(rows, chosen)
        refit_seconds = time.perf_counter() - again
    if len(held) and settings.test:
        # Judged against dev too, whether or not the head learned from it: it was chosen there.
        scored("test", kept, held, {"train": learn, **({"dev": dev} if len(dev) else {})})
        by = "sweep" if "sweep" in (about or {}) else "train"
        about = {
            **(about or {}),
            "looks": log_scoring(store, rows.selection.label, held.ids, by),
        }

    notes = [*parts.notes]
    if chosen.takes_prompts != "never":
        from .families.zero_shot import prompt_notes

        notes += prompt_notes(type(chosen), estimator.get_params(), samples.specs)
    notes += dict.fromkeys([*chosen.notes_, *kept.notes_])
    if len(held) and not settings.test:
        notes.append(
            f"{count_of(len(held), 'test row was', 'test rows were')} not scored (--no-test); `icehouse evaluate` does so"
        )
    held_out_of = f"{HELD_OUT:.0%} of train, held out by class, duplicates together"
    protocol = {
        "chosen_on": None if not len(dev) else "the dev split" if parts.dev_is_split else held_out_of,
        "chosen": chosen.chosen_,
        "refit": refitted,
        "trained_on": len(learn) + len(dev) if refitted else len(learn),
        "rows": {"train": len(learn), "dev": len(dev), "test": len(held)},
        "notes": notes,
    }
    metrics |= {"chosen": chosen.chosen_, "curve": chosen.curve_, "protocol": protocol}
    record = {
        "head": {"family": kept.family, "params": plain(estimator.get_params()), "chosen": chosen.chosen_},
        "label": rows.selection.label,
        "classes": [str(c) for c in kept.classes_.tolist()],
        "majority": majority,
        "positive": positive,
        "positive_given": settings.positive is not None,
        "inputs": {
            name: {
                "feature": feature,
                "fingerprint": samples.specs[name].get("fingerprint"),
                # Without the probe's vectors, which only a writer needs.
                "spec": {key: value for key, value in samples.specs[name].items() if key != "probe"},
            }
            for name, feature in samples.features.items()
        },
        "data": {
            "split_column": rows.selection.split_column,
            "where": rows.selection.where,
            "missing": rows.selection.missing,
            "held_out_seed": rows.selection.seed,
            "required": dict(rows.required),
            "left_out": samples.left_out,
            "dups": [found.name for found in searches.found] if searches.named else AUTO,
            "items": {"version": store.items.snapshot().version, "digest": store.items.snapshot().digest},
        },
        "protocol": protocol,
        "seed": settings.seed,
        "seconds": {
            "load": round(rows.seconds, 3),
            "fit": round(fitted.seconds + refit_seconds, 3),
            "score": round(time.perf_counter() - begun - refit_seconds, 3),
        },
        **(about or {}),
    }
    training = _roles({"train": learn, "dev": dev, "test": held})
    return write_run(store, kept, record, metrics, _stacked(tables, kept), training, started)


def score_rows(
    prediction: Prediction,
    samples: Samples,
    training_hashes: Mapping[str, set[str | None]],
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


def content_hashes(*several: Samples) -> dict[str, set[str | None]]:
    """Content hashes of the rows by input, those of several sets of rows together."""
    found: dict[str, set[str | None]] = {}
    for samples in several:
        for name, column in samples.content.items():
            found.setdefault(name, set()).update(value for value in column if value is not None)
    return found


def make_head(head: str | Head, params: Mapping[str, Any] | None = None, seed: int = 0) -> Head:
    """An unfitted head of a family, or like `head`; `seed` counts unless `params` give one."""
    given = dict(params or {})
    if isinstance(head, Head):
        return head.unfitted(**given)
    estimator = create(head, **given)
    if "seed" in estimator.parameters() and "seed" not in given:
        estimator.set_params(seed=seed)
    return estimator


def _stacked(tables: Sequence[pa.Table], head: Head) -> pa.Table:
    import pyarrow as pa

    if tables:
        return pa.concat_tables(tables)
    nothing = Prediction(head.classes_, np.zeros((0, len(head.classes_))))
    return prediction_table([], nothing, split=[], y=[])


def _roles(parts: Mapping[str, Samples]) -> pa.Table:
    import pyarrow as pa

    ids = [item for rows in parts.values() for item in rows.ids.tolist()]
    roles = [name for name, rows in parts.items() for _ in range(len(rows))]
    return pa.table({"item_id": pa.array(ids, pa.string()), "role": pa.array(roles, pa.string())})


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
