"""Comparison of runs on the same test rows: paired differences by resampling, and the leaderboard.

Runs of one head on the same features with the same parameters and the same protocol, of different seeds, are one entry. The
leader is the best on dev, on common rows and seeds, because whoever picks the best on test has looked. Every other entry is
compared with it by a paired bootstrap over the test rows that all entries share; every other figure is about those rows, or
about the same part of them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..dups.pair_graph import AUTO, DuplicateSearches, ItemRows, contents_of
from ..errors import CorruptError, HeadError, IcehouseError, SpaceError, UsageError, count_of
from ..store.files import check_sums
from .intervals import LEVEL
from .metrics import (
    METRICS,
    SCORES,
    Predicted,
    influence_of,
    majority_class,
    majority_note,
    minority_class,
    require_positive,
    score,
    title,
)
from .registry import check_memory, head_class, scoring_bytes
from .runs import Run, Scored, list_runs, scoring_count
from .sweep import SweepRecord

if TYPE_CHECKING:
    from ..store.store import Store

# Paired differences between runs, by resampling the rows:
#
# - **Classes are fixed.** A mean runs over the same classes in every draw: those that occur among the true or predicted
#   labels of all rows, whether the draw holds them or not.
# - **By groups.** Rows of one group, duplicates of one another, are drawn together: they are no independent evidence.
# - F1 needs nothing but weighted counts, which are products of matrices. AUROC, average precision, accuracy and log
#   loss go by their influence functions; for AUROC that is DeLong's test.
# - Draws are made block by block, from the seed and alike every time, and never held all at once: 2,000 draws of
#   100,000 rows are 800 MB.
#
# A score by itself has its interval in closed form (`icehouse.heads.intervals`).

# Rows times draws held at once: 64 MB as they are drawn, half of that as they are kept.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Difference:
    """Paired difference between two heads' scores, with its interval and p-value."""

    value: float
    low: float
    high: float
    # Two-sided: twice (k + 1) / (draws + 1) for the k draws on the other side of zero, at most 1; never 0, since `draws`
    # resamples cannot show less (Davison and Hinkley 1997, 4.11).
    p: float


#: Predicted labels alone are enough for `SCORES`.
PredictedOrLabels: TypeAlias = Predicted | np.ndarray


class Resampling:
    """Resampled scores of several heads on the same rows; `score` is a key of `icehouse.heads.metrics.METRICS`."""

    def __init__(
        self,
        y: Sequence[Any] | np.ndarray,
        score: str,
        *,
        draws: int = 2000,
        seed: int = 0,
        groups: np.ndarray | None = None,
        positive: str | None = None,
    ) -> None:
        self.y = np.asarray(y).astype(str)
        self.score, self.draws, self.seed = score, draws, seed
        self.positive = positive
        self._groups = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        self._numbers: dict[str, int] = {}
        self._true = self._coded(self.y)
        self._kept: np.ndarray | None = None

    def value(self, predicted: Sequence[PredictedOrLabels]) -> float:
        """Mean score of several predictions (one a seed) on the rows as they are; NaN where it is not defined."""
        once = np.ones((1, len(self.y)), np.float32)
        return float(np.mean([self._scores(once, self._prepared(one))[0] for one in predicted]))

    def with_interval(self, predicted: Sequence[PredictedOrLabels]) -> tuple[float, float, float]:
        """The same with its interval: value, low, high; of several predictions the mean of the intervals.

        Errors of several seeds on the same rows go together, and do not cancel.
        """
        found = []
        for one in predicted:
            if not isinstance(one, Predicted):
                labels = np.asarray(one).astype(str)
                classes = np.unique(np.concatenate([labels, self.y]))
                one = Predicted(labels, classes, (labels[:, None] == classes).astype(np.float64))
            scores = score(
                self.y,
                one.proba,
                one.classes,
                positive=self.positive if self.score == "average_precision" else None,
                groups=self._groups,
                only=self.score,
            )[self.score]
            ends = (scores["value"], scores["low"], scores["high"])
            found.append([np.nan if end is None else end for end in ends])
        value, low, high = np.mean(found, axis=0).tolist()
        return value, low, high

    def samples(self, heads: Iterable[Sequence[PredictedOrLabels]]) -> np.ndarray:
        """Score of every draw, for several heads: shape (heads, draws). All heads see the same draws."""
        ready = [[self._prepared(one) for one in predicted] for predicted in heads]
        parts = [
            np.stack([np.mean([self._scores(weights, one) for one in head], axis=0) for head in ready])
            for weights in self.weights()
        ]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(ready), 0))

    def sample(self, predicted: Sequence[PredictedOrLabels]) -> np.ndarray:
        """The same for one head: shape (draws,)."""
        return np.asarray(self.samples([predicted])[0])

    def interval(self, sample: np.ndarray) -> tuple[float, float]:
        """Percentile interval of a sample."""
        low, high = np.quantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def difference(
        self, first: Sequence[PredictedOrLabels], second: Sequence[PredictedOrLabels]
    ) -> Difference:
        """`first` minus `second`, on the same draws."""
        one, other = self.samples([first, second])
        return self.between(self.value(first) - self.value(second), one - other)

    def between(self, value: float, sample: np.ndarray) -> Difference:
        """A difference, from its value and what it is in every draw."""
        low, high = self.interval(sample)
        k = min(int((sample <= 0).sum()), int((sample >= 0).sum()))
        p = min(1.0, 2 * (k + 1) / (len(sample) + 1))
        return Difference(value, low, high, p)

    def weights(self) -> Iterator[np.ndarray]:
        """Weight of each row in each draw, of mean one, float32 (some draws, n): always the same draws."""
        n = len(self.y)
        if self._kept is not None:
            yield self._kept
            return
        rng = np.random.default_rng(self.seed)
        count = n if self._groups is None else int(self._groups.max()) + 1
        block = max(1, _BLOCK // max(n, 1))
        for start in range(0, self.draws, block):
            size = min(block, self.draws - start)
            weights = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)
            if self._groups is not None:
                weights = weights[:, self._groups]
            weights *= n / weights.sum(axis=1, keepdims=True)
            if size == self.draws:
                self._kept = weights  # one block is little enough to keep
            yield weights

    def _coded(self, labels: np.ndarray) -> np.ndarray:
        """Labels as numbers, the same for all predictions: int32, (n,)."""
        known, place = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in known.tolist()]
        return np.array(numbers, np.int32)[place.reshape(-1)]

    def _prepared(self, one: PredictedOrLabels) -> np.ndarray | tuple[float, np.ndarray]:
        """Predicted labels as numbers, or a value with what each row adds to it where the score is linear in weights."""
        if self.score in SCORES:
            coded = self._coded(one.labels if isinstance(one, Predicted) else one)
            if self.score != "accuracy":
                return coded
            right = (coded == self._true).astype(np.float64)
            return float(right.mean()), (right - right.mean()) / len(right)
        if not isinstance(one, Predicted):
            raise TypeError(f"{self.score} needs probabilities, not labels alone")
        return influence_of(self.score, self.y, one.proba, one.classes, self.positive)

    def _scores(self, weights: np.ndarray, ready: np.ndarray | tuple[float, np.ndarray]) -> np.ndarray:
        """Score of each draw: `weights` (draws, n) says how much of each row it holds."""
        if isinstance(ready, tuple):
            value, influence = ready
            return np.asarray(value + weights @ influence.astype(np.float32))
        classes = np.unique(np.concatenate([self._true, ready]))
        true = self._true[:, None] == classes
        guess = ready[:, None] == classes
        support = weights @ true.astype(np.float32)
        found = weights @ guess.astype(np.float32)
        hits = weights @ (true & guess).astype(np.float32)
        f1 = 2 * hits / np.maximum(support + found, 1e-6)
        if self.score == "weighted_f1":
            return np.asarray((f1 * support).sum(axis=1) / support.sum(axis=1))
        return np.asarray(f1.mean(axis=1))


# Predictions of one row that the latency is the median of, after some to warm up.
_TIMED, _WARM = 30, 3
# Scores of a group beside the metric of the leaderboard.
_GROUP_SCORES = ("macro_f1", "accuracy")


@dataclass(frozen=True)
class Deduplicated:
    """Test rows without a duplicate in training."""

    rows: np.ndarray  # their numbers; may be none, or all
    kind: Literal["near-duplicates", "copies"]  # copies alone where no search has looked
    searches: list[str]  # names of the searches that tell near-duplicates
    complete: bool  # whether these looked at all rows and all of training, without stopping at their cap
    # (n,) group of each of all rows: duplicates of one another, by the content of any run's input or by these searches.
    groups: np.ndarray


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
    family: str
    inputs: str  # names, joined by +
    params: dict[str, Any]  # as they were given, where they differ from the defaults
    refit: bool  # whether the choice was fitted again with the dev rows
    dev: float | None  # mean score on dev, where the choice was made, on common rows and seeds
    test: float  # mean over the seeds on the shared test rows
    spread: float | None  # standard deviation of it; None for one seed
    low: float  # interval of `test` over the rows
    high: float
    behind: Difference | None  # this minus the leader; None for the leader itself
    deduplicated: Score | None  # on the rows of `Leaderboard.deduplicated`; None where there is none
    seconds: float  # mean time of a fit
    size: int  # bytes of the saved head
    latency: float | None  # seconds for one row, the median
    # Value of the grouping column to its scores by name and its rows; a score that is not defined on them is left out.
    groups: dict[str, tuple[dict[str, Score], int]]
    one_class: str | None = None  # the label that every seed gave every row

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "head": self.family,
            "inputs": self.runs[0].features,
            "params": self.params,
            "refit": self.refit,
            "runs": [run.run_id for run in self.runs],
            "dev": self.dev,
            "test": {"value": self.test, "low": self.low, "high": self.high, "spread": self.spread},
            "behind_leader": None if self.behind is None else vars(self.behind),
            "without_duplicates": None if self.deduplicated is None else vars(self.deduplicated),
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
    rows: int  # test rows that all entries share
    left_out: int  # test rows that some entry lacks
    # Score of always giving `majority_label`, or of ranking by chance; None for log loss.
    majority: float | None
    majority_label: str  # commonest in training; where the runs were trained on other rows, that of most runs
    positive: str | None  # class whose average precision is meant
    deduplicated: Deduplicated
    looks: dict[str, Any]  # how often these rows have been scored so far, by any run of the store
    notes: list[str]  # what a reader has to know, such as runs that are not shown
    # Whether the dev scores are of common rows; if not, the order is that of test.
    dev_comparable: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "metric": self.metric,
            "dev_comparable": self.dev_comparable,
            "rows": self.rows,
            "left_out": self.left_out,
            "majority": self.majority,
            "majority_label": self.majority_label,
            "positive": self.positive,
            "without_duplicates": {
                "kind": self.deduplicated.kind,
                "rows": len(self.deduplicated.rows),
                "searches": self.deduplicated.searches,
                "complete": self.deduplicated.complete,
            },
            "looks": self.looks,
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
    if sweep is None:
        found = list_runs(store, damaged)
        if not found:
            raise HeadError(f"no runs in {store.path} to compare; train some with `icehouse sweep`")
        return found
    record = SweepRecord.open(store, sweep)
    ids = [run for winner in record.winners.values() for run in winner["runs"].values()]
    if not ids:
        raise HeadError(f"sweep {sweep!r} has no winners yet; run `icehouse sweep --name {sweep}` to its end")
    found = []
    for run in ids:
        try:
            found.append(Run.load(store, run))
        except HeadError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
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
    """Compare runs, all of one label, on the test rows that they share.

    Those without scores on test are left out with a note, and so are all but the last of several that differ in
    nothing. `metric` ranks them on dev and is compared on test; with `group_by`, a column of `items`, scores are also
    given for each of its values. `dups` are the searches that tell which rows are like training, and which are
    groups; `positive` is by default the runs', or the rarer one of two. UsageError if there is no such metric or
    column; HeadError if the runs have different labels, no test scores, or no test row in common.
    """
    if metric not in METRICS:
        raise UsageError(f"no metric {metric!r} to compare by; there are: {', '.join(METRICS)}")
    runs, notes = _whole(runs)
    if notes and not runs:
        raise HeadError(notes[0])
    tested = [run for run in runs if "test" in run.metrics]
    if not tested:
        raise HeadError("none of these runs has test scores: a leaderboard needs a test split")
    if untested := [run.run_id for run in runs if run not in tested]:
        counted = count_of(len(untested), "run has", "runs have")
        notes.append(f"{counted} no scores on test, and cannot be compared: {', '.join(untested)}")
    labels = Counter(run.label for run in tested)
    if len(labels) > 1:
        listed = ", ".join(f"{label!r} ({n})" for label, n in labels.items())
        raise HeadError(f"these runs learned different labels: {listed}; name runs of one of them")
    check_memory(
        sum(scoring_bytes(run.metrics["test"]["n"], len(run.classes)) // 2 for run in tested),
        f"comparing {len(tested)} runs on test",
        "name fewer of them",
    )
    tables = {run.run_id: run.scored("test") for run in tested}
    known_ids = [set(table.ids.tolist()) for table in tables.values()]
    ids, every = sorted(set.intersection(*known_ids)), set.union(*known_ids)
    if not ids:
        raise HeadError("these runs share no test row: compare runs on the same splits")
    tables = {run_id: table.of(ids) for run_id, table in tables.items()}
    y = tables[tested[0].run_id].y
    for run_id, table in tables.items():
        if (table.y != y).any():
            raise HeadError(f"run {run_id} was scored against other labels; train it again")
    deduplicated = _deduplicate(store, tested, ids, dups)
    positive = _positive(tested, y, positive)
    resampling = Resampling(y, metric, groups=deduplicated.groups, draws=draws, seed=seed, positive=positive)
    groups = {} if group_by is None else _groups(store, group_by, ids)

    entries, repeated = _entries(tested)
    notes += repeated
    predicted = [[tables[run.run_id].predicted for run in one] for one in entries]
    if np.isnan(resampling.value(predicted[0])):
        raise HeadError(
            f"{title(metric)} is not defined on {count_of(len(ids), 'test row')} of one class only"
        )
    dev = _dev_scores(entries, metric, positive)
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
    predicted = [predicted[e] for e in order]
    sampled = resampling.samples(predicted)

    def scored(rows: np.ndarray, by: str) -> list[Score | None]:
        """Every entry on some of the rows; None where the score is not defined on them."""
        part = Resampling(y[rows], by, groups=deduplicated.groups[rows], positive=positive)
        found = [part.with_interval([one[rows] for one in head]) for head in predicted]
        return [None if np.isnan(one[0]) else Score(*one, len(rows)) for one in found]

    notes += _about_duplicates(deduplicated, len(ids))
    without = scored(deduplicated.rows, metric) if len(deduplicated.rows) else [None] * len(entries)
    by_group = {
        name: {by: scored(rows, by) for by in dict.fromkeys((metric, *_GROUP_SCORES))}
        for name, rows in groups.items()
    }
    made = []
    for e, own in enumerate(predicted):
        members = entries[order[e]]
        first = members[0]
        singles = [resampling.value([one]) for one in own]
        value, low, high = resampling.with_interval(own)
        behind = resampling.between(value - resampling.value(predicted[0]), sampled[e] - sampled[0])
        given = {label for one in own for label in np.unique(one.labels).tolist()}
        files = [path for path in (first.path / "head").rglob("*") if path.is_file()]
        made.append(
            Entry(
                runs=members,
                family=first.family,
                inputs="+".join(first.features),
                params=_params(first),
                refit=bool(first.record["protocol"]["refit"]),
                dev=dev.values[order[e]],
                test=value,
                spread=float(np.std(singles, ddof=1)) if len(singles) > 1 else None,
                low=low,
                high=high,
                behind=None if e == 0 else behind,
                deduplicated=without[e],
                seconds=float(np.mean([run.record["seconds"]["fit"] for run in members])),
                size=sum(path.stat().st_size for path in files),
                latency=_latency(store, first, ids[0]) if latency else None,
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
    return Leaderboard(
        entries=made,
        metric=metric,
        rows=len(ids),
        left_out=len(every) - len(ids),
        majority=_majority(y, metric, positive, label),
        majority_label=label,
        positive=positive,
        deduplicated=deduplicated,
        looks=scoring_count(store, tested[0].label, ids),
        notes=notes,
        dev_comparable=dev.comparable,
    )


def _whole(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs whose files are what was written, and what is wrong with the others."""
    whole, damaged = [], []
    for run in runs:
        try:
            run.predictions()
            run.training_items()
            check_sums(run.path / "head")
            whole.append(run)
        except (HeadError, CorruptError) as error:
            damaged.append(f"left out: {error}")
    return whole, damaged


def _score_of(rows: Scored, metric: str, positive: str | None) -> float | None:
    known = positive if positive in rows.classes else None
    scores = score(rows.y, rows.predicted.proba, rows.classes, draws=0, positive=known)
    value: float | None = scores[metric]["value"]
    return value


def _deduplicate(
    store: Store, runs: Sequence[Run], ids: Sequence[str], dups: str | Sequence[str] | None
) -> Deduplicated:
    """The rows that resemble nothing that any of the runs learned from or was chosen on.

    A row is out if any run's training or dev part holds a copy of it (the same content of an input of that run), or a
    near-duplicate where a search for duplicates has looked: as the store is now, so a search made after the runs counts.
    """
    specs: dict[str, dict[str, Any]] = {
        run.features[name]: spec for run in runs for name, spec in run.specs.items()
    }
    searches = DuplicateSearches.of(store, specs, dups)
    content = contents_of(store, {str(spec["key"]) for spec in specs.values()})
    rows = np.array(list(ids), object)
    duplicate = np.zeros(len(rows), bool)
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
            duplicate |= np.fromiter((of.get(item) in hashes for item in rows.tolist()), bool, len(rows))
        near = searches.near(ItemRows(rows, run.specs, {}), parts)
        if near is not None:
            duplicate |= near.rows
            names |= dict.fromkeys(search["name"] for search in near.about["searches"])
            complete &= bool(near.about["complete"])
    columns = {key: np.array([of.get(item) for item in rows.tolist()], object) for key, of in content.items()}
    return Deduplicated(
        np.flatnonzero(~duplicate),
        "near-duplicates" if names else "copies",
        list(names),
        complete,
        searches.groups(ItemRows(rows, specs, columns)),
    )


def _about_duplicates(found: Deduplicated, rows: int) -> list[str]:
    notes = []
    if not len(found.rows):
        what = "a near-duplicate" if found.searches else "a copy"
        notes.append(
            f"every one of the {count_of(rows, 'row')} has {what} in training: there is no score without"
        )
    if not found.complete:
        notes.append(
            f"the search {', '.join(found.searches)} did not look at every row and all of training, or stopped at its cap: "
            "run `icehouse dups find` again to cover them"
        )
    return notes


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


def _params(run: Run) -> dict[str, Any]:
    """Parameters of a run's head but for the seed, where they differ from the defaults."""
    try:
        defaults = head_class(run.family).parameters()
    except (UsageError, HeadError):
        defaults = {}
    return {
        name: value
        for name, value in run.record["head"]["params"].items()
        if name != "seed" and json.dumps(value) != json.dumps(defaults.get(name))  # a tuple is a list there
    }


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
    """Score of always giving `label`, or of ranking by chance; None for log loss."""
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
        row = run.samples(store, where=f"item_id = '{quoted}' and (missing or true)").X
        run.head.predict_proba(row)
    except (HeadError, UsageError, SpaceError):
        return None
    times = []
    for _ in range(_WARM + _TIMED):
        begun = time.perf_counter()
        run.head.predict_proba(row)
        times.append(time.perf_counter() - begun)
    return float(np.median(times[_WARM:]))


# A score on easy rows is higher than one on hard rows, and runs need not have the same dev rows: what is held out of train
# follows from the seed, and `--where` selects. Where all runs have the same dev rows, their scores stand as they are, as
# means over the seeds that all entries which draw have. Where not, entries are compared seed by seed on the rows that
# their runs of that seed share; failing that, on the rows that all runs share; failing that, they are not comparable.


@dataclass
class _DevScores:
    """Dev scores by entry: the metric and the log loss, as means over the seeds; None where undefined."""

    values: list[float | None]
    losses: list[float | None]
    comparable: bool = True  # whether they are of the same rows
    notes: list[str] = field(default_factory=list)


def _dev_scores(entries: Sequence[Sequence[Run]], metric: str, positive: str | None) -> _DevScores:
    """Score entries (runs, one a seed) on common dev rows and seeds."""
    having = [e for e, runs in enumerate(entries) if all("dev" in run.metrics for run in runs)]
    rows = {run.run_id: run.scored("dev") for e in having for run in entries[e]}
    # Items with their label: a row is the same only if it was scored against the same.
    pairs = {run: set(zip(some.ids.tolist(), some.y.tolist(), strict=True)) for run, some in rows.items()}
    found = _DevScores([None] * len(entries), [None] * len(entries))

    def fill(chosen: dict[int, list[tuple[Run, set[str] | None]]]) -> None:
        for e, parts in chosen.items():
            for name, into in ((metric, found.values), ("log_loss", found.losses)):
                scores = [
                    _own_dev_score(run, name, positive)
                    if ids is None
                    else _score_of(rows[run.run_id].of(sorted(ids)), name, positive)
                    for run, ids in parts
                ]
                known = [one for one in scores if one is not None]
                into[e] = float(np.mean(known)) if len(known) == len(scores) else None

    seeds = {e: {run.record["seed"]: run for run in entries[e]} for e in having}
    if len(set(map(frozenset, pairs.values()))) <= 1:
        drawing = [e for e in having if _draws(entries[e])]
        common = set.intersection(*(set(seeds[e]) for e in drawing)) if drawing else set()
        some = {e: common if e in drawing and common else set(seeds[e]) for e in having}
        fill({e: [(run, None) for seed, run in seeds[e].items() if seed in some[e]] for e in having})
        found.notes += _about_seeds([set(seeds[e]) for e in drawing], common)
        return found

    common = set.intersection(*(set(of) for of in seeds.values()))
    shared = {seed: _shared([pairs[seeds[e][seed].run_id] for e in having]) for seed in sorted(common)}
    shared = {seed: ids for seed, ids in shared.items() if ids}
    everywhere = _shared(list(pairs.values()))
    own = sorted(map(len, pairs.values()))
    has = f"the runs have {own[0]} to {own[-1]} dev rows, not the same ones"
    if shared:
        fill({e: [(seeds[e][seed], ids) for seed, ids in shared.items()] for e in having})
        listed = ", ".join(f"{len(ids)} (seed {seed})" for seed, ids in shared.items())
        found.notes.append(f"dev scores are of the dev rows that all entries share: {listed}; {has}")
    elif everywhere:
        fill({e: [(run, everywhere) for run in entries[e]] for e in having})
        found.notes.append(
            f"dev scores are of the {count_of(len(everywhere), 'dev row')} that all runs share, over different seeds; {has}"
        )
    else:
        fill({e: [(run, None) for run in entries[e]] for e in having})
        found.comparable = False
        found.notes.append(
            "dev scores are NOT COMPARABLE: no dev row is common to all runs (it was held out by another seed, or "
            "selected otherwise). The order is that of test, and who takes the first of it has chosen on test; train "
            "again on the same rows, with one --seed or a dev split"
        )
    return found


def _own_dev_score(run: Run, metric: str, positive: str | None) -> float | None:
    """Dev score in a run's own record."""
    if "dev" not in run.metrics:
        return None
    dev = run.metrics["dev"]
    if metric == "average_precision" and positive is not None:
        # Earlier versions took the mean of both classes.
        return next((row[metric] for row in dev["per_class"] if str(row["label"]) == positive), None)
    value: float | None = dev[metric]["value"]
    return value


def _shared(several: Sequence[set[tuple[str, str]]]) -> set[str]:
    """Items that are rows of all, with the same label."""
    return {item for item, _ in set.intersection(*several)}


def _draws(runs: Sequence[Run]) -> bool:
    """Whether another seed makes another head."""
    try:
        return head_class(runs[0].family).stochastic
    except IcehouseError:
        return len(runs) > 1  # a family that is not installed here


def _about_seeds(several: Sequence[set[int]], common: set[int]) -> list[str]:
    if all(seeds == several[0] for seeds in several):
        return []
    if common:
        listed = ", ".join(map(str, sorted(common)))
        return [f"dev means of heads that draw are over the seeds that all of them have: {listed}"]
    listed = "; ".join(dict.fromkeys(", ".join(map(str, sorted(seeds))) for seeds in several))
    return [f"entries have no seed in common ({listed}): luck is part of their order on dev"]
