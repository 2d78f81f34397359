"""The leaderboard: runs side by side, on the same rows, with what their differences are worth.

Runs of one head on the same inputs with the same parameters, of different seeds, are one entry. The leader is the best
on dev, because whoever picks the best on test has looked. Every other entry is compared with it by a paired bootstrap
over the test rows that all entries share.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import HeadError, UsageError
from ..evaluate import load_run_samples
from ..runs import Run, list_runs
from .record import SweepRecord
from .resampling import SCORES, Difference, Resampling

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = ["Entry", "Leaderboard", "compare", "find_runs"]

# Predictions of one row that the latency is the median of, after some to warm up.
_TIMED, _WARM = 30, 3


@dataclass(frozen=True)
class Entry:
    """A head on some inputs, over its seeds.

    Attributes
    ----------
    runs : list of Run
    dev : float or None
        Mean score on dev, where the choice was made.
    test, spread : float
        Mean and standard deviation over the seeds on the shared test rows; the deviation is None for one seed.
    low, high : float
        Bootstrap interval of `test` over the rows.
    behind : Difference or None
        This minus the leader; None for the leader itself.
    apart : float or None
        Score on the test rows without a duplicate in train.
    apart_rows : int or None
    seconds : float
        Mean time of a fit.
    size : int
        Bytes of the saved head.
    latency : float or None
        Seconds for one row, the median.
    groups : dict of str to (float, int)
        Score and rows of each value of the grouping column.
    """

    runs: list[Run]
    dev: float | None
    test: float
    spread: float | None
    low: float
    high: float
    behind: Difference | None
    apart: float | None
    apart_rows: int | None
    seconds: float
    size: int
    latency: float | None
    groups: dict[str, tuple[float, int]]

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

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "head": self.family,
            "inputs": self.runs[0].features,
            "params": self.params,
            "runs": [run.run_id for run in self.runs],
            "dev": self.dev,
            "test": {"value": self.test, "low": self.low, "high": self.high, "spread": self.spread},
            "behind_leader": None if self.behind is None else vars(self.behind),
            "without_duplicates": {"value": self.apart, "rows": self.apart_rows},
            "fit_seconds": self.seconds,
            "head_bytes": self.size,
            "row_latency_seconds": self.latency,
            "groups": {name: {"value": value, "rows": n} for name, (value, n) in self.groups.items()},
        }


@dataclass(frozen=True)
class Leaderboard:
    """Entries, the leader first, then by their score on dev.

    Attributes
    ----------
    entries : list of Entry
    metric : str
    rows : int
        Test rows that all entries share.
    left_out : int
        Test rows that some entry lacks.
    majority : float
        Score of always giving the commonest label of these rows.
    """

    entries: list[Entry]
    metric: str
    rows: int
    left_out: int
    majority: float


def find_runs(store: Store, runs: Sequence[str] = (), *, sweep: str | None = None) -> list[Run]:
    """Runs to compare: those named, else the winners of a sweep, else all of the store.

    Raises
    ------
    HeadError
        If there is no such run or sweep, or nothing to compare.
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
        return [Run.load(store, run) for run in ids]
    found = list_runs(store)
    if not found:
        raise HeadError(f"no runs in {store.path} to compare; train some with `icehouse sweep`")
    return found


def compare(
    store: Store,
    runs: Sequence[Run],
    *,
    metric: str = "macro_f1",
    group_by: str | None = None,
    draws: int = 2000,
    seed: int = 0,
    latency: bool = True,
) -> Leaderboard:
    """Compare runs on the test rows that they share.

    Parameters
    ----------
    store : Store
    runs : sequence of Run
        All of one label, each with scores on test.
    metric : {"macro_f1", "accuracy", "weighted_f1"}
    group_by : str, optional
        Column of `items`: the score is also given for each of its values.
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
    if metric not in SCORES:
        raise UsageError(f"no metric {metric!r} to compare by; there are: {', '.join(SCORES)}")
    tested = [run for run in runs if "test" in run.metrics]
    if not tested:
        raise HeadError("none of these runs has test scores: a leaderboard needs a test split")
    labels = Counter(run.label for run in tested)
    if len(labels) > 1:
        listed = ", ".join(f"{label!r} ({n})" for label, n in labels.items())
        raise HeadError(f"these runs learned different labels: {listed}; name runs of one of them")
    tables = {run.run_id: _test_rows(run) for run in tested}
    shared = set.intersection(*(set(table) for table in tables.values()))
    every = set.union(*(set(table) for table in tables.values()))
    if not shared:
        raise HeadError("these runs share no test row: compare runs on the same splits")
    ids = sorted(shared)
    y = np.array([tables[tested[0].run_id][i][0] for i in ids])
    for run in tested:
        if any(tables[run.run_id][i][0] != label for i, label in zip(ids, y.tolist(), strict=True)):
            raise HeadError(f"run {run.run_id} was scored against other labels; train it again")
    predicted = {name: np.array([table[i][1] for i in ids]) for name, table in tables.items()}
    resampling = Resampling(y, metric, draws=draws, seed=seed)
    groups = {} if group_by is None else _groups(store, group_by, ids)

    entries = _entries(tested)
    devs = [_mean([_dev(run, metric) for run in one]) for one in entries]
    order = sorted(range(len(entries)), key=lambda e: (devs[e] is None, -(devs[e] or 0.0)))
    leader = [predicted[run.run_id] for run in entries[order[0]]]
    made = []
    for e in order:
        members = entries[e]
        own = [predicted[run.run_id] for run in members]
        singles = [resampling.value([one]) for one in own]
        low, high = resampling.interval(resampling.sample(own))
        apart = [_apart(run, metric) for run in members]
        made.append(
            Entry(
                runs=members,
                dev=devs[e],
                test=float(np.mean(singles)),
                spread=float(np.std(singles, ddof=1)) if len(singles) > 1 else None,
                low=low,
                high=high,
                behind=None if e == order[0] else resampling.difference(own, leader),
                apart=_mean([value for value, _ in apart]),
                apart_rows=apart[0][1],
                seconds=float(np.mean([run.record["seconds"]["fit"] for run in members])),
                size=sum(
                    path.stat().st_size for path in (members[0].path / "head").rglob("*") if path.is_file()
                ),
                latency=_latency(store, members[0], ids[0]) if latency else None,
                groups={name: _group(y, own, rows, metric) for name, rows in groups.items()},
            )
        )
    common = Counter(y.tolist()).most_common(1)[0][0]
    majority = resampling.value([np.full(len(y), common)])
    return Leaderboard(made, metric, len(ids), len(every) - len(ids), majority)


def _entries(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but their seed; of one seed the last."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        about = [run.family, run.features, _params(run), run.record["data"]]
        found.setdefault(json.dumps(about, sort_keys=True), {})[run.record["seed"]] = run
    return [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in found.values()]


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


def _test_rows(run: Run) -> dict[str, tuple[str, str]]:
    """Test item to its label and what was predicted."""
    table = run.predictions()
    columns = [table[name].to_pylist() for name in ("item_id", "split", "y", "predicted")]
    return {item: (y, said) for item, split, y, said in zip(*columns, strict=True) if split == "test"}


def _dev(run: Run, metric: str) -> float | None:
    return run.metrics["dev"][metric]["value"] if "dev" in run.metrics else None


def _apart(run: Run, metric: str) -> tuple[float | None, int | None]:
    """Score on the test rows without near-duplicates in train, or failing that without copies."""
    test = run.metrics["test"]
    for name in ("without_near_duplicates", "without_copies"):
        block = test.get(name)
        if block and metric in block:
            return block[metric]["value"], block["n"]
    return test[metric]["value"], test["n"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


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


def _group(
    y: np.ndarray, predicted: Sequence[np.ndarray], rows: np.ndarray, metric: str
) -> tuple[float, int]:
    part = Resampling(y[rows], metric, draws=1)
    return part.value([one[rows] for one in predicted]), len(rows)


def _latency(store: Store, run: Run, item: str) -> float | None:
    """Median time of predicting one row, in seconds; None where the store no longer has its features."""
    try:
        row = load_run_samples(store, run, where="item_id = '" + item.replace("'", "''") + "'").X
    except (HeadError, UsageError):
        return None
    times = []
    for _ in range(_WARM + _TIMED):
        begun = time.perf_counter()
        run.head.predict_proba(row)
        times.append(time.perf_counter() - begun)
    return float(np.median(times[_WARM:]))
