"""Sweep: many heads on many combinations of inputs, chosen on dev; each family's winner is scored on test, once.

1. Rows are those that have every input of any combination, so that all trials learn from the same rows and are
   scored on the same ones.
2. A trial is a head on one combination of inputs. It is fitted on train with every seed; what the head has to choose
   (C, learning rate, epochs) it chooses on dev by itself. Its score is the mean over the seeds on dev.
3. The winner of a family is its best trial on dev. Only winners see test: every seed of them once, as
   `icehouse train` would have done it, and each leaves a run.

A trial that ended is never done again: a sweep that was stopped goes on, and one that is asked for more heads, inputs
or seeds does only these.

``STORE/sweeps/<name>/`` holds ``sweep.json`` (the data it is about), ``trials/<key>.json`` (one a trial, written whole
when the trial ends), ``winners.json`` (the runs of each family's winner) and, until then, ``heads/<key>/<seed>/``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..dups.pair_graph import AUTO
from ..errors import HeadError, IcehouseError, UsageError, unknown_name
from ..store.files import refuse_outside
from .head import Head
from .inputs import Missing, parse_inputs
from .metrics import DRAWS, METRICS, minority_class, require_positive, score
from .registry import FAMILIES, head_class, parse_value, plain
from .runs import Run, read_sealed, write_sealed
from .trainer import Fitted, Rows, RunSettings, Selection, fit_on, fit_seeds_on, make_head, prepare, save_run

if TYPE_CHECKING:
    from ..store.store import Store

FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
# Seconds of fitting that a winner's report may take to tell what each input adds; a sweep has many winners.
_AFFORDABLE = 5.0


@dataclass(frozen=True)
class Trial:
    """One head on one combination of inputs, fitted once for each seed."""

    family: str
    features: dict[str, str]  # input to feature name
    # Those that differ from the family's defaults; not the family's own grid, from which the head itself chooses on dev.
    params: dict[str, Any]
    seeds: tuple[int, ...]  # one alone for a family that draws nothing

    @property
    def inputs(self) -> str:
        """Names of the inputs, as a user writes them."""
        return "+".join(self.features)

    @property
    def key(self) -> str:
        """Name that stays the same from one session to the next, whatever else is in the sweep."""
        about = json.dumps([self.family, self.features, self.params], sort_keys=True)
        digest = hashlib.sha256(about.encode()).hexdigest()[:8]
        safe = "".join(c if c.isalnum() else "-" for c in f"{self.family}-{self.inputs}")
        return f"{safe[:60]}-{digest}"

    def __str__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.family} on {self.inputs}" + (f" ({params})" if params else "")


def combinations(inputs: str | Iterable[str] | None, store: Store) -> list[dict[str, str]]:
    """Combinations of inputs to try, as input to feature: from ``image+text,image``, or all modalities and each alone.

    UsageError if a name fits no feature, or stands for different features in two combinations.
    """
    if inputs is None:
        whole = parse_inputs(None, store)
        found = [whole, *({name: feature} for name, feature in whole.items() if len(whole) > 1)]
    else:
        pieces = inputs.split(",") if isinstance(inputs, str) else list(inputs)
        found = [parse_inputs(piece, store) for piece in pieces if piece.strip()]
        if not found:
            raise UsageError("--inputs names nothing; write combinations such as image+text,image,text")
    features: dict[str, str] = {}
    for name, feature in itertools.chain.from_iterable(one.items() for one in found):
        if features.setdefault(name, feature) != feature:
            raise UsageError(
                f"input {name!r} is {features[name]} in one combination and {feature} in another; "
                f"name one of them: other={feature}"
            )
    return list({frozenset(one.items()): one for one in found}.values())


def parse_grid(given: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Parameters to try, by family, from ``HEAD:NAME=VALUES``: a JSON list, or values apart by commas.

    >>> parse_grid(["logreg:C=0.1,1", "logreg:unit=[true]"])
    {'logreg': {'C': [0.1, 1], 'unit': [True]}}
    """
    grid: dict[str, dict[str, list[Any]]] = {}
    for text in given:
        family, colon, rest = text.partition(":")
        name, equals, values = rest.partition("=")
        if not (colon and equals and family and name and values):
            raise UsageError(f"--grid takes HEAD:NAME=VALUES, such as logreg:C=0.1,1,10, not {text!r}")
        head_class(family).__new__(head_class(family), **{name: None})
        grid.setdefault(family, {})[name] = _values(values)
    return grid


def _values(text: str) -> list[Any]:
    """Values that are a JSON list, or stand apart by commas."""
    try:
        value = json.loads(text)
    except ValueError:
        return [parse_value(piece.strip()) for piece in text.split(",")]
    return value if isinstance(value, list) else [value]


def trials(
    heads: Sequence[str],
    inputs: Sequence[Mapping[str, str]],
    seeds: Sequence[int],
    grid: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> list[Trial]:
    """Every head on every combination of inputs with every combination of its parameters."""
    grid = grid or {}
    for family in grid:
        if family not in heads:
            raise UsageError(f"the grid is for {family!r}, which is not among the heads {', '.join(heads)}")
    made = []
    for family in dict.fromkeys(heads):
        own = grid.get(family, {})
        drawn = tuple(seeds) if head_class(family).stochastic else tuple(seeds[:1])
        for features in inputs:
            for values in itertools.product(*own.values()):
                made.append(Trial(family, dict(features), dict(zip(own, values, strict=True)), drawn))
    return made


@dataclass
class TrialResult:
    """Result of a trial."""

    trial: Trial
    # For each seed: `dev` (metric to value), `one_class` (label that every row of dev was given), `chosen`, `seconds`.
    seeds: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None  # why it could not be fitted: the head's message

    def value(self, metric: str, among: Iterable[int] | None = None) -> float | None:
        """Mean on dev over the seeds (those `among` them); None where nothing was fitted or the metric is undefined."""
        chosen = self.seeds if among is None else among
        found = [self.seeds[seed]["dev"][metric] for seed in chosen]
        return float(np.mean(found)) if found and None not in found else None

    def spread(self, metric: str) -> float | None:
        """Standard deviation on dev over the seeds; None for fewer than two."""
        found = [one["dev"][metric] for one in self.seeds.values()]
        return float(np.std(found, ddof=1)) if len(found) > 1 and None not in found else None

    def rank(self, metric: str, among: Iterable[int] | None = None) -> tuple[float, float]:
        """Sort key of trials, larger is better: the metric (the larger the better), among equals log loss."""
        seeds = None if among is None else list(among)
        value, loss = self.value(metric, seeds), self.value("log_loss", seeds)
        if value is None:
            return -np.inf, -np.inf
        return value if METRICS[metric] else -value, -np.inf if loss is None else -loss

    @property
    def one_class(self) -> str | None:
        """The label that every seed gave every row of dev, if it is so."""
        given = {one.get("one_class") for one in self.seeds.values()}
        return given.pop() if len(given) == 1 else None

    @property
    def seconds(self) -> float:
        """Time that fitting took, all seeds together."""
        return float(sum(one["seconds"] for one in self.seeds.values()))

    @property
    def pending(self) -> list[int]:
        """Seeds that are not fitted yet."""
        return [] if self.error else [seed for seed in self.trial.seeds if seed not in self.seeds]

    def as_json(self) -> dict[str, Any]:
        """For ``trials/<key>.json``."""
        trial = self.trial
        return {
            "family": trial.family,
            "features": trial.features,
            "params": plain(trial.params),
            "seeds": {str(seed): one for seed, one in self.seeds.items()},
            "error": self.error,
        }


@dataclass(frozen=True)
class Sweep:
    """A sweep as it stands."""

    record: SweepRecord
    metric: str
    results: list[TrialResult]  # in the order of the plan
    winners: dict[str, list[Run]]  # family to the runs of its winner, one a seed
    left: list[Trial]  # what the budget left undone
    notes: list[str] = field(default_factory=list)  # such as trials that share no seed
    best: dict[str, str] = field(default_factory=dict)  # family to the key of its winning trial


#: Told after every step: results so far, and the trial in hand.
Watcher = Callable[[Sequence[TrialResult], Trial | None], None]


def sweep(
    store: Store,
    heads: Sequence[str] | None = None,
    *,
    inputs: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 5,
    grid: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    metric: str = "macro_f1",
    label: str = "label",
    split_column: str = "split",
    where: str | None = None,
    missing: Missing = "drop",
    dups: str | Sequence[str] | None = AUTO,
    positive: str | None = None,
    class_weight: str | None = None,
    refit: bool | None = None,
    test: bool = True,
    budget: float | None = None,
    name: str = "default",
    fresh: bool = False,
    draws: int = DRAWS,
    report: bool = True,
    watch: Watcher | None = None,
) -> Sweep:
    """Try heads and inputs, choose on dev by `metric`, and score each family's winner on test.

    `heads` are families, all that come with icehouse unless given; `inputs` as `combinations` takes them; `seeds` how
    many, from 0, or which; `grid` is family to parameter to values, every combination a trial of its own. `label` to
    `test` are as `icehouse.heads.trainer.train` takes them, `class_weight` is for every family that has such a
    parameter. After `budget` seconds no further fit is begun, and every trial gets its first seed before any gets its
    second. The sweep is kept in ``STORE/sweeps/<name>`` and goes on if it is there already, unless `fresh`. With
    `report` the first seed of every winner gets a ``report.html``. UsageError if there is no such head, feature,
    parameter or metric; HeadError if there is nothing to learn from or to choose on, or the sweep of that name is
    about other data.
    """
    if metric not in METRICS:
        raise UsageError(f"no metric {metric!r} to choose by; there are: {', '.join(METRICS)}")
    families = list(FAMILIES) if heads is None else list(dict.fromkeys(heads))
    chosen_seeds = range(seeds) if isinstance(seeds, int) else seeds
    if not len(chosen_seeds):
        raise UsageError("a sweep needs at least one seed")
    combos = combinations(inputs, store)
    plan = trials(families, combos, list(chosen_seeds), grid)
    features = {name: feature for combo in combos for name, feature in combo.items()}
    if not fresh:
        # The rows stay those that have every input of any trial, and a trial of before may still win.
        features = {**_tried(store, name), **features}
    rows = prepare(store, features, Selection(label, split_column, where, missing, dups))
    if not len(rows.parts.dev):
        raise UsageError("a sweep chooses on dev, and these rows are too few to hold any out: add labels")
    require_positive(positive, rows.part("train").labels.tolist())
    about = {
        **rows.about(),
        "rows": rows.digest(rows.parts.train, rows.parts.dev, rows.parts.test),
        "metric": metric,
        "class_weight": class_weight,
        "refit": refit,
    }
    scored = minority_class(rows.part("train").labels) if positive is None else positive
    if metric == "average_precision":
        about["positive"] = scored
    record = SweepRecord.begin(store, name, about, fresh=fresh)
    fits = _Fits(rows, record, class_weight, scored, RunSettings(refit, positive, test, draws))
    results = [_known_result(trial, record.trial(trial)) for trial in plan]
    left = fits.fit_all(results, budget, watch or (lambda results, trial: None))
    best, notes = _best(rows, record, metric, {trial.key for trial in plan})
    winners = {family: fits.score_winner(family, result) for family, result in best.items()}
    notes += _report_problems(store, winners) if report else []
    record.drop_heads()
    chosen = {family: result.trial.key for family, result in best.items()}
    return Sweep(record, metric, results, winners, left, notes, chosen)


@dataclass(frozen=True)
class _Fits:
    """Data for fitting trials and scoring winners."""

    rows: Rows
    record: SweepRecord
    class_weight: str | None
    positive: str | None  # class of the average precision on dev
    settings: RunSettings

    def fit_all(self, results: list[TrialResult], budget: float | None, watch: Watcher) -> list[Trial]:
        """Fit what is pending; return the trials for which there was no time."""
        begun = time.perf_counter()
        # With a budget, breadth first.
        rounds = [1, None] if budget is not None else [None]
        for most in rounds:
            for result in results:
                due = result.pending[:most]
                if not due or (most == 1 and result.seeds):
                    continue
                if budget is not None and time.perf_counter() - begun > budget:
                    break
                watch(results, result.trial)
                # Seeds that one program fits together; one by one where a family has no such program.
                batched = getattr(self.estimator(result.trial, due[0]), "batched", False)
                for seeds in [due] if batched else [[seed] for seed in due]:
                    if budget is not None and time.perf_counter() - begun > budget:
                        break
                    self.fit(result, seeds)
                    self.record.save_trial(result.trial, result.as_json())
        watch(results, None)
        return [result.trial for result in results if result.pending]

    def fit(self, result: TrialResult, seeds: Sequence[int]) -> None:
        """Fit a trial with `seeds` and score it on dev; a head that refuses says why, and costs the others nothing."""
        trial = result.trial
        rows = self.rows.select(list(trial.features))
        dev = rows.part("dev")
        estimator = self.estimator(trial, seeds[0])
        try:
            fits = (
                fit_seeds_on(rows, estimator, seeds)
                if len(seeds) > 1
                else {seeds[0]: fit_on(rows, estimator)}
            )
            for seed, fitted in fits.items():
                classes = fitted.head.classes_
                known = self.positive if self.positive in classes.tolist() else None
                scores = score(dev.labels, fitted.head.predict_proba(dev.X), classes, positive=known, draws=0)
                result.seeds[seed] = {
                    "dev": {name: scores[name]["value"] for name in METRICS},
                    "one_class": scores["one_class"],
                    "chosen": plain(fitted.head.chosen_),
                    "seconds": fitted.seconds,
                }
                self.record.save_head(trial, seed, fitted.head)
        except IcehouseError as error:
            result.error = " ".join(str(error).split())

    def estimator(self, trial: Trial, seed: int) -> Head:
        """The unfitted head of a trial."""
        head = make_head(trial.family, trial.params, seed)
        given = self.class_weight is not None and "class_weight" not in trial.params
        if given and "class_weight" in head.parameters():
            head.set_params(class_weight=self.class_weight)
        return head

    def score_winner(self, family: str, result: TrialResult) -> list[Run]:
        """Score a family's best trial on test, all its seeds; what was scored before is not scored again."""
        trial, record = result.trial, self.record
        known = record.winners.get(family, {})
        ids: dict[str, str] = dict(known["runs"]) if known.get("key") == trial.key else {}
        rows = self.rows.select(list(trial.features))
        for seed in trial.seeds:
            if str(seed) in ids and self._was_scored(ids[str(seed)]):
                continue
            estimator = self.estimator(trial, seed)
            head = record.load_head(trial, seed)
            fitted = fit_on(rows, estimator) if head is None else Fitted(head, result.seeds[seed]["seconds"])
            about = {"sweep": {"name": record.name, "trial": trial.key, "seed": seed}}
            run = save_run(rows, estimator, fitted, replace(self.settings, seed=seed), about=about)
            ids[str(seed)] = run.run_id
            # At once: a seed that has seen test must not see it again after a kill.
            record.save_winners({**record.winners, family: {"key": trial.key, "runs": dict(ids)}})
        return [Run.load(rows.store, ids[str(seed)]) for seed in trial.seeds]

    def _was_scored(self, run_id: str) -> bool:
        """Whether a winner's run is there, and has seen test if it is to; one without is made again with it."""
        store = self.rows.store
        if not (store.path / "runs" / run_id / "run.json").exists():
            return False
        wanted = self.settings.test and len(self.rows.parts.test) > 0
        return not wanted or "test" in Run.load(store, run_id).metrics


def _best(
    rows: Rows, record: SweepRecord, metric: str, planned: set[str]
) -> tuple[dict[str, TrialResult], list[str]]:
    """The best trial of every family (the first by name of equal ones), and notes of those that cannot be compared."""
    families: dict[str, list[TrialResult]] = {}
    for found in record.all_trials():
        seeds = tuple(int(seed) for seed in found["seeds"])
        trial = Trial(found["family"], found["features"], found["params"], seeds)
        result = _known_result(trial, found)
        if result.value(metric) is not None and set(trial.features) <= set(rows.samples.features):
            families.setdefault(trial.family, []).append(result)
    best, notes = {}, []
    for family, results in families.items():
        compared, common = _comparable(results, planned)
        best[family] = max(compared, key=lambda result: result.rank(metric, common))
        notes += [
            f"{result.trial}: not comparable and left out of the choice, since it was fitted with seeds "
            f"{_listed(result.seeds)}, and the others with {_listed(common)}; fit it with these too"
            for result in results
            if result not in compared
        ]
        if any(set(result.seeds) != common for result in compared):
            notes.append(f"{family}: chosen by the seeds that all its trials have: {_listed(common)}")
    return best, notes


def _comparable(results: Sequence[TrialResult], planned: set[str]) -> tuple[list[TrialResult], set[int]]:
    """Trials that have seeds in common, and these seeds: of all, or of those with the seed that most have."""
    common = set.intersection(*(set(result.seeds) for result in results))
    if common:
        return list(results), common
    now, ever = (
        Counter(seed for result in results if all_of or result.trial.key in planned for seed in result.seeds)
        for all_of in (False, True)
    )
    seed = min(ever, key=lambda seed: (-now[seed], -ever[seed], seed))
    some = [result for result in results if seed in result.seeds]
    return some, set.intersection(*(set(result.seeds) for result in some))


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _tried(store: Store, name: str) -> dict[str, str]:
    """Inputs of what the sweep of that name has done so far, as far as the store still has them."""
    if name not in list_sweeps(store):
        return {}
    known = set(store.feature_names())
    features = SweepRecord.open(store, name).data["features"]
    return {name: about["feature"] for name, about in features.items() if about["feature"] in known}


def _report_problems(store: Store, winners: Mapping[str, Sequence[Run]]) -> list[str]:
    """Make the report of every winner's first run that has none; say what went wrong."""
    from .report import leave_report

    problems = [
        leave_report(store, runs[0], affordable=_AFFORDABLE)
        for runs in winners.values()
        if not (runs[0].path / "report.html").exists()
    ]
    return [problem for problem in problems if problem is not None]


def _known_result(trial: Trial, found: Mapping[str, Any] | None) -> TrialResult:
    """Result of a trial on disk; one that failed is tried again."""
    if found is None or found["error"]:
        return TrialResult(trial)
    return TrialResult(trial, {int(seed): one for seed, one in found["seeds"].items()})


@dataclass(frozen=True)
class SweepRecord:
    """The folder of a sweep."""

    path: Path

    @classmethod
    def open(cls, store: Store, name: str) -> SweepRecord:
        """Open a sweep that was begun; HeadError, with those there are, if there is none."""
        record = cls(sweep_folder(store, name))
        if not (record.path / "sweep.json").exists():
            known = ", ".join(list_sweeps(store))
            remedy = f"there are: {known}" if known else "start one with `icehouse sweep`"
            raise unknown_name(HeadError(f"no sweep {name!r} in {store.path}; {remedy}"))
        return record

    @classmethod
    def begin(cls, store: Store, name: str, data: Mapping[str, Any], *, fresh: bool = False) -> SweepRecord:
        """Begin a sweep, or go on with one about the same `data`; HeadError, with what differs, if it is about other data.

        `fresh` forgets what was done; the runs of earlier winners stay.
        """
        record = cls(sweep_folder(store, name))
        about = record.path / "sweep.json"
        refuse_outside(record.path)
        if fresh:
            # Not the folder: learning curves of that name lie there too.
            for left in ("trials", "heads"):
                shutil.rmtree(record.path / left, ignore_errors=True)
            for file in ("winners.json", "sweep.json"):
                (record.path / file).unlink(missing_ok=True)
        # More inputs are welcome as long as the rows stay the same.
        begin_record(about, data, f"sweep {name!r} was", "it", grows=True, name=name)
        (record.path / "trials").mkdir(exist_ok=True)
        return record

    @property
    def name(self) -> str:
        """Name it was given."""
        return self.path.name

    @property
    def data(self) -> dict[str, Any]:
        """Description of the data of the sweep."""
        return dict(read_record(self.path / "sweep.json")["data"])

    def trial(self, trial: Trial) -> dict[str, Any] | None:
        """Record of a trial; None if there is none or it cannot be read: the sweep runs it again."""
        path = self._trial(trial)
        if path.exists():
            with contextlib.suppress(HeadError):
                return read_record(path)
        return None

    def all_trials(self) -> list[dict[str, Any]]:
        """Every trial that ended and can be read, in the order of their names."""
        found = []
        for path in sorted((self.path / "trials").glob("*.json")):
            with contextlib.suppress(HeadError):
                found.append(read_record(path))
        return found

    def save_trial(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Write what became of a trial."""
        write_sealed(self._trial(trial), dict(result))

    def save_head(self, trial: Trial, seed: int, head: Head) -> None:
        """Keep a fitted head until the winners are known."""
        folder = self._head(trial, seed)
        refuse_outside(folder)
        shutil.rmtree(folder, ignore_errors=True)
        head.save(folder)

    def load_head(self, trial: Trial, seed: int) -> Head | None:
        """A head that was kept; None if it is gone."""
        folder = self._head(trial, seed)
        return Head.load(folder) if (folder / "head.json").exists() else None

    def drop_heads(self) -> None:
        """Remove the kept heads: those of the winners are in their runs."""
        refuse_outside(self.path)
        shutil.rmtree(self.path / "heads", ignore_errors=True)

    @property
    def winners(self) -> dict[str, Any]:
        """Family to its winning trial and the runs of it."""
        path = self.path / "winners.json"
        return read_record(path) if path.exists() else {}

    def save_winners(self, winners: Mapping[str, Any]) -> None:
        """Write who won."""
        write_sealed(self.path / "winners.json", dict(winners))

    def _trial(self, trial: Trial) -> Path:
        return self.path / "trials" / f"{trial.key}.json"

    def _head(self, trial: Trial, seed: int) -> Path:
        return self.path / "heads" / trial.key / str(seed)


def list_sweeps(store: Store) -> list[str]:
    """Names of the sweeps of a store."""
    return sorted(path.parent.name for path in (store.path / "sweeps").glob("*/sweep.json"))


def sweep_folder(store: Store, name: str) -> Path:
    """Folder of a sweep, there or not; its name must be one that can be a folder's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a sweep: letters, digits, '.', '_' and '-'")
    return store.path / "sweeps" / name


def begin_record(
    path: Path, data: Mapping[str, Any], what: str, them: str, *, grows: bool = False, **about: Any
) -> None:
    """Write what figures depend on, or make sure that those which are there are about the same data.

    With `grows`, more features than before are no other data, and are added.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        created = {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": f"icehouse {__version__}",
        }
        write_sealed(path, {"format": FORMAT, **about, **created, "data": dict(data)})
        return
    whole = read_record(path)
    before, now = dict(whole["data"]), dict(data)
    if grows:
        now["features"] = {**data["features"], **before["features"]}
        before["features"] = {**before["features"], **data["features"]}
    differs = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
    if differs:
        raise HeadError(
            f"{what} begun with other data ({', '.join(differs)} differ); "
            f"give another --name, or --fresh to begin {them} anew"
        )
    if grows:
        write_sealed(path, {**whole, "data": before})


def read_record(path: Path) -> dict[str, Any]:
    """Read a sealed file of a sweep; HeadError if it cannot be."""
    try:
        return read_sealed(path)
    except (OSError, ValueError, RecursionError) as error:
        raise HeadError(f"{path} cannot be read ({error}); remove it, and the sweep does it again") from error
