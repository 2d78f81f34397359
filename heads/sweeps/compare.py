"""-"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import CorruptError, HeadError, SpaceError, UsageError
from ...store.files import check_sums
from ..checks import check_memory, scoring_bytes
from ..evaluate import ScoringCount, load_run_samples, scoring_count
from ..exclusion import AUTO, Searches, contents_of
from ..metrics import METRICS, majority_class, majority_note, minority_class, require_positive, score, title
from ..runs import Run, list_runs
from .dev_scores import dev_scores
from .record import SweepRecord
from .resampling import Difference, Predicted, Resampling

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = ["Apart", "Entry", "Leaderboard", "Score", "compare", "find_runs", "rows_apart"]

# A row is out if any run's training or dev part holds a copy of it (the same content of an input of that run), or a
# near-duplicate where a search for duplicates has looked. What resembles what is asked of the store as it is now,
# so a search
# that was made after the runs counts.


@dataclass(frozen=True)
class Apart:
    """Test rows without a duplicate in training."""

    rows: np.ndarray
    kind: Literal["near-duplicates", "copies"]
    searches: list[str]
    complete: bool
    groups: np.ndarray


def rows_apart(
    store: Store, runs: Sequence[Run], ids: Sequence[str], dups: str | Sequence[str] | None = AUTO
) -> Apart:
    """Find the rows that resemble nothing that any of the runs learned from or was chosen on.

    A row is out if any run's training or dev part holds a copy of it (the same content of an input of that run), or a
    near-duplicate where a search for duplicates has looked: as the store is now, so a search made after the runs counts.
    """
    specs: dict[str, dict[str, Any]] = {
        run.features[name]: spec for run in runs for name, spec in run.specs.items()
    }
    searches = Searches.of(store, specs, dups)
    content = contents_of(store, {str(spec["key"]) for spec in specs.values()})
    rows = np.array(list(ids), object)
    alike = np.zeros(len(rows), bool)
    names: dict[str, None] = {}
    complete = True
    done: set[tuple[frozenset[str], frozenset[str]]] = set()
    for run in runs:
        roles = run.training_items()
        parts: dict[str, set[str]] = {name: roles[name] for name in ("train", "dev") if name in roles}
        keys = frozenset(str(spec["key"]) for spec in run.specs.values())
        learned: frozenset[str] = frozenset().union(*parts.values())
        if (keys, learned) in done:
            continue
        done.add((keys, learned))
        for key in keys & content.keys():
            of = content[key]
            hashes = {of.get(item) for item in learned} - {None}
            alike |= np.fromiter((of.get(item) in hashes for item in rows.tolist()), bool, len(rows))
        near = searches.among(rows, keys, parts)
        if near is not None:
            alike |= near.rows
            names |= dict.fromkeys(search["name"] for search in near.about["searches"])
            complete &= bool(near.about["complete"])
    contents = [np.array([of.get(item) for item in rows.tolist()], object) for of in content.values()]
    return Apart(
        np.flatnonzero(~alike),
        "near-duplicates" if names else "copies",
        list(names),
        complete,
        searches.groups_among(rows, contents, list(content)),
    )


# Predictions of one row that the latency is the median of, after some to warm up.
_TIMED, _WARM = 30, 3


# What is always told of a group, beside the metric of the leaderboard.
_TOLD = ("macro_f1", "accuracy")


@dataclass(frozen=True)
class Score:
    """A score on some rows, as a mean over the seeds, with its interval over the rows."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Entry:
    """A head on some inputs, over its seeds."""

    runs: list[Run]
    dev: float | None
    test: float
    spread: float | None
    low: float
    high: float
    behind: Difference | None
    apart: Score | None
    seconds: float
    size: int
    latency: float | None
    groups: dict[str, tuple[dict[str, Score], int]]
    one_class: str | None = None

    @property
    def family(self) -> str:
        """Family of the head."""
        return self.runs[0].family

    @property
    def inputs(self) -> str:
        """Names of the inputs."""
        return "+".join(self.runs[0].features)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters as they were given, where they differ from the defaults."""
        return _params(self.runs[0])

    @property
    def refit(self) -> bool:
        """Whether the choice was fitted again with the dev rows."""
        return bool(self.runs[0].record["protocol"]["refit"])

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "head": self.family,
            "inputs": self.runs[0].features,
            "params": self.params,
            "refit": self.refit,
            "runs": [run.run_id for run in self.runs],
            "dev": self.dev,
            "test": {"value": self.test, "low": self.low, "high": self.high, "spread": self.spread},
            "behind_leader": None if self.behind is None else vars(self.behind),
            "without_duplicates": None if self.apart is None else vars(self.apart),
            "fit_seconds": self.seconds,
            "one_class": self.one_class,
            "head_bytes": self.size,
            "row_latency_seconds": self.latency,
            "groups": {
                name: {"rows": n, **{metric: vars(score) for metric, score in scores.items()}}
                for name, (scores, n) in self.groups.items()
            },
        }


@dataclass(frozen=True)
class Leaderboard:
    """Entries, the leader first, then by their score on dev."""

    entries: list[Entry]
    metric: str
    rows: int
    left_out: int
    majority: float | None
    majority_label: str
    positive: str | None
    apart: Apart
    looks: ScoringCount
    notes: list[str]
    dev_comparable: bool = True

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "metric": self.metric,
            "dev_comparable": self.dev_comparable,
            "rows": self.rows,
            "left_out": self.left_out,
            "majority": self.majority,
            "majority_label": self.majority_label,
            "positive": self.positive,
            "without_duplicates": {
                "kind": self.apart.kind,
                "rows": len(self.apart.rows),
                "searches": self.apart.searches,
                "complete": self.apart.complete,
            },
            "looks": self.looks.as_json(),
            "notes": self.notes,
            "leaderboard": [entry.as_json() for entry in self.entries],
        }


def find_runs(
    store: Store, runs: Sequence[str] = (), *, sweep: str | None = None, damaged: list[str] | None = None
) -> list[Run]:
    """Runs to compare: those named, else the winners of a sweep, else all of the store.

    What is wrong with runs that cannot be read goes to `damaged`, in one line each; a run that was named must be there.
    """
    if runs:
        return [Run.load(store, run) for run in runs]
    if sweep is not None:
        record = SweepRecord.open(store, sweep)
        ids = [run for winner in record.winners.values() for run in winner["runs"].values()]
        if not ids:
            raise HeadError(
                f"sweep {sweep!r} has no winners yet; run `icehouse sweep --name {sweep}` to its end"
            )
        found = []
        for run in ids:
            try:
                found.append(Run.load(store, run))
            except HeadError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
        return found
    found = list_runs(store, damaged)
    if not found:
        raise HeadError(f"no runs in {store.path} to compare; train some with `icehouse sweep`")
    return found


def compare(
    store: Store,
    runs: Sequence[Run],
    *,
    metric: str = "macro_f1",
    group_by: str | None = None,
    dups: str | Sequence[str] | None = AUTO,
    positive: str | None = None,
    draws: int = 2000,
    seed: int = 0,
    latency: bool = True,
) -> Leaderboard:
    """Compare runs on the test rows that they share.

    Parameters
    ----------
    store : Store
    runs : sequence of Run
        All of one label. Those without scores on test are left out with a note, and so are all but the last of several that
        differ in nothing.
    metric : str, default "macro_f1"
        What ranks them, on dev, and is compared on test: a key of `icehouse.heads.metrics.METRICS`.
    group_by : str, optional
        Column of `items`: scores are also given for each of its values.
    dups : str, sequence of str, or None, default "auto"
        Searches for duplicates that tell which rows are like training, and which are groups; see
        `icehouse.heads.exclusion.Searches.of`.
    positive : str, optional
        Class of the average precision; by default the runs', or the rarer one of two.
    draws, seed
        Of the bootstrap.
    latency : bool, default True
        Measure how long one row takes.

    Returns
    -------
    Leaderboard

    Raises
    ------
    UsageError
        If there is no such metric or column.
    HeadError
        If the runs have different labels, no test scores, or no test row in common.
    """
    if metric not in METRICS:
        raise UsageError(f"no metric {metric!r} to compare by; there are: {', '.join(METRICS)}")
    runs, damaged = _whole(runs)
    if damaged and not runs:
        raise HeadError(damaged[0])
    tested = [run for run in runs if "test" in run.metrics]
    if not tested:
        raise HeadError("none of these runs has test scores: a leaderboard needs a test split")
    labels = Counter(run.label for run in tested)
    if len(labels) > 1:
        listed = ", ".join(f"{label!r} ({n})" for label, n in labels.items())
        raise HeadError(f"these runs learned different labels: {listed}; name runs of one of them")
    check_memory(
        sum(scoring_bytes(run.metrics["test"]["n"], len(run.classes)) // 2 for run in tested),
        f"comparing {len(tested)} runs on test",
        "name fewer of them",
    )
    tables = {run.run_id: _test_rows(run) for run in tested}
    shared = set.intersection(*(set(places) for places, _, _ in tables.values()))
    every = set.union(*(set(places) for places, _, _ in tables.values()))
    if not shared:
        raise HeadError("these runs share no test row: compare runs on the same splits")
    ids = sorted(shared)
    said = {}
    for run in tested:
        places, labels_of, predicted_of = tables[run.run_id]
        at = np.array([places[item] for item in ids])
        if run is tested[0]:
            y = labels_of[at]
        if (labels_of[at] != y).any():
            raise HeadError(f"run {run.run_id} was scored against other labels; train it again")
        said[run.run_id] = predicted_of[at]
    apart = rows_apart(store, tested, ids, dups)
    positive = _positive(tested, y, positive)
    resampling = Resampling(y, metric, groups=apart.groups, draws=draws, seed=seed, positive=positive)
    groups = {} if group_by is None else _groups(store, group_by, ids)

    entries, notes = _entries(tested)
    if len(tested) < len(runs):
        untested = [run.run_id for run in runs if "test" not in run.metrics]
        notes.insert(
            0, f"{_counted(untested)} no scores on test, and cannot be compared: {', '.join(untested)}"
        )
    notes[:0] = damaged
    predicted = [[said[run.run_id] for run in one] for one in entries]
    if np.isnan(resampling.value(predicted[0])):
        raise HeadError(
            f"{title(metric)} is not defined on these {len(ids)} test rows: they hold one class only"
        )
    dev = dev_scores(entries, metric, lambda run, name: _dev(run, name, positive), positive)
    notes += dev.notes
    sign = 1 if METRICS[metric] else -1
    ranked = dev.values if dev.comparable else [resampling.value(one) for one in predicted]
    order = sorted(
        range(len(entries)),
        key=lambda e: (
            ranked[e] is None,
            -sign * (ranked[e] or 0.0),
            np.inf if dev.losses[e] is None else dev.losses[e],
        ),
    )
    entries, devs = [entries[e] for e in order], [dev.values[e] for e in order]
    predicted = [predicted[e] for e in order]
    sampled = resampling.samples(predicted)

    def scored(rows: np.ndarray, by: str) -> list[Score | None]:
        """Every entry on some of the rows; None where the score is not defined on them."""
        part = Resampling(y[rows], by, groups=apart.groups[rows], positive=positive)
        told = [part.told([one[rows] for one in head]) for head in predicted]
        return [None if np.isnan(one[0]) else Score(*one, len(rows)) for one in told]

    notes += _about_apart(apart, len(ids))
    without = scored(apart.rows, metric) if len(apart.rows) else [None] * len(entries)
    by_group = {
        name: {by: scored(rows, by) for by in dict.fromkeys((metric, *_TOLD))}
        for name, rows in groups.items()
    }
    made = []
    for e, (members, own) in enumerate(zip(entries, predicted, strict=True)):
        singles = [resampling.value([one]) for one in own]
        value, low, high = resampling.told(own)
        behind = resampling.between(value - resampling.value(predicted[0]), sampled[e] - sampled[0])
        given = {label for one in own for label in np.unique(one.labels).tolist()}
        made.append(
            Entry(
                runs=members,
                dev=devs[e],
                test=value,
                spread=float(np.std(singles, ddof=1)) if len(singles) > 1 else None,
                low=low,
                high=high,
                behind=None if e == 0 else behind,
                apart=without[e],
                seconds=float(np.mean([run.record["seconds"]["fit"] for run in members])),
                size=sum(
                    path.stat().st_size for path in (members[0].path / "head").rglob("*") if path.is_file()
                ),
                latency=_latency(store, members[0], ids[0]) if latency else None,
                groups={
                    name: ({by: s for by, scores in found.items() if (s := scores[e])}, len(groups[name]))
                    for name, found in by_group.items()
                },
                one_class=given.pop() if len(given) == 1 and len(set(y.tolist())) > 1 else None,
            )
        )
    notes += majority_note(Counter(y.tolist()), metric)
    notes += [
        f"{entry.family} on {entry.inputs} gave every row {entry.one_class!r}: by predicted classes it knows no more than "
        "the majority does"
        for entry in made
        if entry.one_class is not None
    ]
    known = [run.majority for run in tested if run.majority is not None]
    label = str(majority_class(known or y.tolist()))
    majority = _majority(y, metric, positive, label)
    looks = scoring_count(store, tested[0].label, ids)
    left = len(every) - len(ids)
    return Leaderboard(
        made, metric, len(ids), left, majority, label, positive, apart, looks, notes, dev.comparable
    )


def _entries(runs: Sequence[Run]) -> tuple[list[list[Run]], list[str]]:
    """Runs that differ in nothing but their seed; of one seed the last, and a note of the others."""
    found: dict[str, dict[int, Run]] = {}
    repeated: dict[str, str] = {}
    for run in runs:
        prints = {name: given.get("fingerprint") for name, given in run.record["inputs"].items()}
        refit = run.record["protocol"]["refit"]
        # Which rows were held out follows from the seed, as weights do.
        data = {name: value for name, value in run.record["data"].items() if name != "held_out_seed"}
        about = [run.family, run.features, prints, _params(run), data, refit]
        of_seed = found.setdefault(json.dumps(about, sort_keys=True), {})
        before = of_seed.get(run.record["seed"])
        if before is not None and before.run_id != run.run_id:
            repeated[before.run_id] = run.run_id
        of_seed[run.record["seed"]] = run
    notes = []
    if repeated:
        listed = ", ".join(f"{old} by {new}" for old, new in repeated.items())
        notes.append(f"of runs that differ in nothing the last is shown: {listed}")
    return [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in found.values()], notes


def _whole(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs whose files are what was written, and what is wrong with the others."""
    whole, damaged = [], []
    for run in runs:
        try:
            _test_rows(run)
            run.training_items()
            check_sums(run.path / "head")
            whole.append(run)
        except (HeadError, CorruptError) as error:
            damaged.append(f"left out: {error}")
    return whole, damaged


def _counted(runs: Sequence[str]) -> str:
    return "1 run has" if len(runs) == 1 else f"{len(runs)} runs have"


def _about_apart(apart: Apart, rows: int) -> list[str]:
    """What to say of the rows that are like nothing in training."""
    notes = []
    if not len(apart.rows):
        what = "a near-duplicate" if apart.searches else "a copy"
        notes.append(f"every one of the {rows} rows has {what} in training: there is no score without")
    if not apart.complete:
        notes.append(
            f"the search {', '.join(apart.searches)} did not look at every row and all of training, or stopped at its cap: "
            "run `icehouse dups find` again to cover them"
        )
    return notes


def _params(run: Run) -> dict[str, Any]:
    from ..registry import head_class

    try:
        defaults = head_class(run.family).parameters()
    except (UsageError, HeadError):
        defaults = {}
    given = run.record["head"]["params"]
    return {
        name: value
        for name, value in given.items()
        if name != "seed" and json.dumps(value) != json.dumps(_json(defaults.get(name)))
    }


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _test_rows(run: Run) -> tuple[dict[str, int], np.ndarray, Predicted]:
    """Place of each test item among the rows, their labels, and what was predicted."""
    import pyarrow.compute as pc

    table = run.predictions()
    table = table.filter(pc.equal(table["split"], "test"))
    places = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    labels, said = (np.array(table[name].to_pylist(), str) for name in ("y", "predicted"))
    proba = np.stack([table[f"p_{label}"].to_numpy().astype(np.float64) for label in run.classes], axis=1)
    return places, labels, Predicted(said, np.array(run.classes), proba)


def _dev(run: Run, metric: str, positive: str | None) -> float | None:
    if "dev" not in run.metrics:
        return None
    dev = run.metrics["dev"]
    if metric == "average_precision" and positive is not None:
        # Earlier versions took the mean of both classes.
        return next((row[metric] for row in dev["per_class"] if str(row["label"]) == positive), None)
    value: float | None = dev[metric]["value"]
    return value


def _positive(runs: Sequence[Run], y: np.ndarray, given: str | None) -> str | None:
    """Class of the average precision: as given, as the runs have it, or the rarer one of two."""
    if given is not None:
        require_positive(given, {label for run in runs for label in run.classes})
        return given
    theirs = {run.positive for run in runs}
    if len(theirs) == 1 and None not in theirs:
        return theirs.pop()
    return minority_class(y) if all(len(run.classes) == 2 for run in runs) else None


def _majority(y: np.ndarray, metric: str, positive: str | None, label: str) -> float | None:
    """Score of always giving `label`; of ranking by chance for AUROC and average precision."""
    classes = np.unique(y)
    proba = np.tile([(y == label).mean() for label in classes], (len(y), 1))
    known = positive if positive in classes else None
    base = score(y, proba, classes, majority=label, positive=known, draws=0)["majority"]
    value: float | None = base.get(metric)
    return value


def _groups(store: Store, column: str, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Value of `column` to the numbers of its rows, the commonest first."""
    names = store.items.snapshot().schema.names
    if column not in names:
        raise UsageError(f"no column {column!r} in items to group by; there are: {', '.join(names)}")
    items = store.items.read(["item_id", column])
    value = dict(zip(items["item_id"].to_pylist(), items[column].to_pylist(), strict=True))
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(ids):
        rows.setdefault("(none)" if value.get(item) is None else str(value[item]), []).append(row)
    ordered = sorted(rows.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return {name: np.array(found) for name, found in ordered}


def _latency(store: Store, run: Run, item: str) -> float | None:
    """Median time of predicting one row, in seconds; None where the store no longer has the run's features."""
    try:
        quoted = item.replace("'", "''")
        row = load_run_samples(store, run, where=f"item_id = '{quoted}' and (missing or true)").X
        run.head.predict_proba(row)
    except (HeadError, UsageError, SpaceError):
        return None
    times = []
    for _ in range(_WARM + _TIMED):
        begun = time.perf_counter()
        run.head.predict_proba(row)
        times.append(time.perf_counter() - begun)
    return float(np.median(times[_WARM:]))
