"""Train a head on stored features and leave a run.

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
   not at all (`test=False`); the store counts how often the same rows were scored before (`icehouse.heads.evaluate`).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import HeadError
from .checks import check_memory, plain, scoring_bytes
from .division import Division, divide
from .evaluate import count_look, score_rows, seen_contents
from .exclusion import AUTO, Searches
from .head import Head
from .holdout import SHARE
from .metrics import DRAWS, commonest, rarer, require_positive
from .prompts import unprompted, with_prompts
from .registry import create
from .runs import Prediction, Run, prediction_table, write_run
from .samples import Missing, Samples, label_notes, load_samples, parse_inputs

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store

__all__ = [
    "Fitted",
    "Rows",
    "fit_on",
    "fit_seeds_on",
    "keep",
    "make_head",
    "prepare",
    "refit_on",
    "train",
]


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
        See `icehouse.heads.samples.parse_inputs`; None takes every modality that the store has.
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
        `icehouse.heads.exclusion.Searches.of`.
    positive : str, optional
        Class of the average precision; of two the rarer one in train by default.
    test : bool, default True
        Whether the test split is scored; without, `icehouse.heads.evaluate.evaluate` can do so later.
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
    rows = prepare(
        store,
        inputs,
        label=label,
        split_column=split_column,
        where=where,
        missing=missing,
        dups=dups,
        learns=estimator.takes_prompts != "required",
        seed=seed,
    )
    require_positive(
        positive, (rows.part("train") if len(rows.parts.train) else rows.samples).labels.tolist()
    )
    fitted = fit_on(rows, estimator)
    return keep(
        rows,
        estimator,
        fitted,
        refit=refit,
        positive=positive,
        test=test,
        draws=draws,
        seed=seed,
        started=started,
    )


@dataclass(frozen=True)
class Rows:
    """Rows that heads can learn from and be scored on: loaded, checked, divided.

    Attributes
    ----------
    store : Store
    samples : Samples
        With labels.
    parts : Division
    label, split_column, where, missing
        How they were asked for.
    seconds : float
        Time that loading took.
    searches : Searches
        For duplicates between the parts.
    seed : int
        Of the held-out part.
    required : dict of str to str
        Input to feature that every row has (any of them, where `missing` is "keep"): those that the rows were loaded by.
    """

    store: Store
    samples: Samples
    parts: Division
    label: str
    split_column: str
    where: str | None
    missing: Missing
    seconds: float
    searches: Searches = field(default_factory=lambda: Searches([]))
    seed: int = 0
    required: Mapping[str, str] = field(default_factory=dict)

    def part(self, name: Literal["train", "dev", "test"]) -> Samples:
        """The rows of one part."""
        return self.samples.take(getattr(self.parts, name))

    def select(self, names: Sequence[str]) -> Rows:
        """The same rows with some of their inputs."""
        return replace(self, samples=self.samples.select(names))


def prepare(
    store: Store,
    inputs: str | Sequence[str] | Mapping[str, str] | None = None,
    *,
    label: str = "label",
    split_column: str = "split",
    where: str | None = None,
    missing: Missing = "drop",
    dups: str | Sequence[str] | None = AUTO,
    learns: bool = True,
    seed: int = 0,
) -> Rows:
    """Load the rows of an experiment and divide them: steps 1 and 2 of the protocol.

    Parameters
    ----------
    store, inputs, label, split_column, where, missing, dups, seed
        As `train` takes them.
    learns : bool, default True
        False for a head that can do without training rows; see `divide`.
    """
    started = time.perf_counter()
    samples = load_samples(
        store,
        parse_inputs(inputs, store),
        label=label,
        where=where,
        split_column=split_column,
        missing=missing,
    )
    _require_finite(samples)
    _require_memory(samples)
    searches = Searches.of(store, samples.specs, dups)
    parts = divide(samples, searches, split_column=split_column, learns=learns, seed=seed)
    parts = replace(parts, notes=[*label_notes(label, samples.labels.tolist()), *parts.notes])
    seconds = time.perf_counter() - started
    return Rows(
        store,
        samples,
        parts,
        label,
        split_column,
        where,
        missing,
        seconds,
        searches=searches,
        seed=seed,
        required=dict(samples.features),
    )


@dataclass(frozen=True)
class Fitted:
    """A head fitted on train, its choices made on dev; and the seconds it took."""

    head: Head
    seconds: float


def fit_on(rows: Rows, estimator: Head) -> Fitted:
    """Fit a copy of `estimator` on train and let it choose on dev: step 3 of the protocol."""
    learn, dev = rows.part("train"), rows.part("dev")
    started = time.perf_counter()
    head = _prompted(rows, estimator).unfitted()
    head.progress = estimator.progress
    val = (dev.X, dev.labels) if len(dev) else None
    head.fit(learn.X, learn.labels, val=val, **_grouped(head.fit, rows, learn))
    return Fitted(head, time.perf_counter() - started)


def fit_seeds_on(rows: Rows, estimator: Head, seeds: Sequence[int]) -> dict[int, Fitted]:
    """The same with several seeds, in one program where the family can; each is said to have taken an equal share."""
    learn, dev = rows.part("train"), rows.part("dev")
    val = (dev.X, dev.labels) if len(dev) else None
    started = time.perf_counter()
    head = _prompted(rows, estimator)
    heads = head.fit_seeds(seeds, learn.X, learn.labels, val=val, **_grouped(head.fit, rows, learn))
    seconds = (time.perf_counter() - started) / len(heads)
    return {seed: Fitted(head, seconds) for seed, head in zip(seeds, heads, strict=True)}


def refit_on(rows: Rows, chosen: Head) -> Head:
    """A head with what `chosen` chose, fitted on train and dev: step 4 of the protocol."""
    both = rows.samples.take(np.concatenate([rows.parts.train, rows.parts.dev]))
    return chosen.refit(both.X, both.labels, **_grouped(chosen.fit, rows, both))


def _grouped(fit: Callable[..., Any], rows: Rows, some: Samples) -> dict[str, Any]:
    """Groups of duplicates for `fit`; nothing for a family of somebody else's whose `fit` takes none."""
    return {"groups": rows.searches.groups(some)} if "groups" in inspect.signature(fit).parameters else {}


def _prompted(rows: Rows, estimator: Head) -> Head:
    """`estimator` with the vectors of its class prompts, if it takes some."""
    labels = sorted(set(rows.samples.labels.tolist()))
    return with_prompts(estimator, rows.store, rows.samples.specs, labels)


def keep(
    rows: Rows,
    estimator: Head,
    fitted: Fitted,
    *,
    refit: bool | None = None,
    positive: str | None = None,
    test: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    started: datetime | None = None,
) -> Run:
    """Score a fitted head on dev, fit its choice again where that is due, score it on test, and leave a run.

    Parameters
    ----------
    rows : Rows
    estimator : Head
        Unfitted, with the parameters as they were given.
    fitted : Fitted
    refit, positive, test, draws, seed
        As `train` takes them.
    about : mapping, optional
        What else ``run.json`` should say, such as the sweep that it belongs to.
    started : datetime, optional
        When training began; as long ago as the fit took if None.
    """
    started = started or datetime.now(UTC) - timedelta(seconds=fitted.seconds)
    store, samples, parts, searches = rows.store, rows.samples, rows.parts, rows.searches
    learn, dev, held = (rows.part(name) for name in ("train", "dev", "test"))
    majority = commonest(learn.labels.tolist())
    asked = positive is not None
    if positive is None and len(fitted.head.classes_) == 2:
        positive = rarer(learn.labels)
    begun = time.perf_counter()

    metrics: dict[str, Any] = {}
    tables: list[pa.Table] = []

    def scored(name: str, by: Head, rows: Samples, seen: Mapping[str, set[str]]) -> None:
        prediction = Prediction(by.classes_, by.predict_proba(rows.X))
        # Test is judged against dev too, whether or not the head learned from it: it was chosen there.
        known = {"train": learn.ids, **({"dev": dev.ids} if name == "test" and len(dev) else {})}
        near = searches.near(rows, known)
        metrics[name] = score_rows(
            prediction,
            rows,
            seen,
            near=near,
            majority=majority,
            positive=positive,
            asked=asked,
            groups=searches.groups(rows),
            draws=draws,
        )
        split = np.full(len(rows), name, object)
        tables.append(prediction_table(rows.ids, prediction, split=split, y=rows.labels))

    chosen = fitted.head
    seen = seen_contents(learn)
    if len(dev):
        scored("dev", chosen, dev, seen)
        seen = {name: seen[name] | hashes for name, hashes in seen_contents(dev).items()}
    kept, refit_seconds = chosen, 0.0
    refitted = len(dev) > 0 and (not parts.dev_is_split if refit is None else refit)
    if refitted:
        again = time.perf_counter()
        kept = refit_on(rows, chosen)
        refit_seconds = time.perf_counter() - again
    if len(held) and test:
        scored("test", kept, held, seen)
        by = "sweep" if "sweep" in (about or {}) else "train"
        about = {**(about or {}), "looks": count_look(store, rows.label, held.ids, by).as_json()}

    notes = [*parts.notes, *unprompted(type(chosen), estimator.get_params(), samples.specs)]
    notes += dict.fromkeys([*chosen.notes_, *kept.notes_])
    if len(held) and not test:
        notes.append(f"the {len(held)} test rows were not scored (--no-test); `icehouse evaluate` does so")
    protocol = _protocol(parts, chosen, kept, refitted, len(learn), len(dev), len(held), notes)
    metrics |= {"chosen": chosen.chosen_, "curve": chosen.curve_, "protocol": protocol}
    record = {
        "head": {"family": kept.family, "params": plain(estimator.get_params()), "chosen": chosen.chosen_},
        "label": rows.label,
        "classes": [str(c) for c in kept.classes_.tolist()],
        "majority": majority,
        "positive": positive,
        "positive_given": asked,
        "inputs": {
            name: {
                "feature": feature,
                "fingerprint": samples.specs[name].get("fingerprint"),
                "spec": _slim(samples.specs[name]),
            }
            for name, feature in samples.features.items()
        },
        "data": {
            "split_column": rows.split_column,
            "where": rows.where,
            "missing": rows.missing,
            "held_out_seed": rows.seed,
            "required": dict(rows.required),
            "left_out": samples.left_out,
            "dups": [found.name for found in searches.found] if searches.named else AUTO,
            "items": {"version": store.items.snapshot().version, "digest": store.items.snapshot().digest},
        },
        "protocol": protocol,
        "seed": seed,
        "seconds": {
            "load": round(rows.seconds, 3),
            "fit": round(fitted.seconds + refit_seconds, 3),
            "score": round(time.perf_counter() - begun - refit_seconds, 3),
        },
        **(about or {}),
    }
    predictions, training = _stacked(tables, kept), _roles(learn, dev, held)
    return write_run(store, kept, record, metrics, predictions, training, started)


def make_head(head: str | Head, params: Mapping[str, Any] | None = None, seed: int = 0) -> Head:
    """An unfitted head of a family, or like `head`; `seed` counts unless `params` give one."""
    given = dict(params or {})
    if isinstance(head, Head):
        return head.unfitted(**given)
    estimator = create(head, **given)
    if "seed" in estimator.parameters() and "seed" not in given:
        estimator.set_params(seed=seed)
    return estimator


def _require_finite(samples: Samples) -> None:
    """Name the item whose features cannot be learned from, where a head could only give its row."""
    for name, rows in samples.X.bad_rows().items():
        raise HeadError(
            f"{samples.features[name]} has NaN or infinity for {len(rows)} items, "
            f"first {samples.ids[rows[0]]!r}: embed them again"
        )


def _require_memory(samples: Samples) -> None:
    """Refuse rows whose predictions could not be scored, before anything is fitted to them."""
    k, split = len(set(samples.labels.tolist())), samples.split
    scored = max(int((split == name).sum()) for name in ("dev", "test"))
    check_memory(
        scoring_bytes(scored, k),
        f"scoring {scored:,} rows of {k:,} classes",
        "leave rare classes out, or take fewer rows (--where)",
    )


def _protocol(
    parts: Division,
    chosen: Head,
    kept: Head,
    refitted: bool,
    n_train: int,
    n_dev: int,
    n_test: int,
    notes: Sequence[str],
) -> dict[str, Any]:
    if not n_dev:
        where = None
    elif parts.dev_is_split:
        where = "the dev split"
    else:
        where = f"{SHARE:.0%} of train, held out by class, duplicates together"
    return {
        "chosen_on": where,
        "chosen": chosen.chosen_,
        "refit": refitted,
        "trained_on": n_train + n_dev if refitted else n_train,
        "rows": {"train": n_train, "dev": n_dev, "test": n_test},
        "notes": notes,
    }


def _slim(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the probe's vectors, which only a writer needs."""
    return {name: value for name, value in spec.items() if name != "probe"}


def _stacked(tables: Sequence[pa.Table], head: Head) -> pa.Table:
    import pyarrow as pa

    if tables:
        return pa.concat_tables(tables)
    nothing = Prediction(head.classes_, np.zeros((0, len(head.classes_))))
    return prediction_table([], nothing, split=[], y=[])


def _roles(learn: Samples, dev: Samples, test: Samples) -> pa.Table:
    import pyarrow as pa

    parts = {"train": learn, "dev": dev, "test": test}
    ids = [item for rows in parts.values() for item in rows.ids.tolist()]
    roles = [name for name, rows in parts.items() for _ in range(len(rows))]
    return pa.table({"item_id": pa.array(ids, pa.string()), "role": pa.array(roles, pa.string())})
