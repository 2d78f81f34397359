"""Drift of a stream: its latest embeddings against those that a run learned from.

Two figures. A **classifier two-sample test** (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"): logistic
regression learns to tell one half of the latest inputs from one half of the training set; where there is no difference
its AUROC on the other halves is 0.5. And the **share of inputs unlike all of train**: those farther from their nearest
training row than all but 1% of the training rows are from theirs, so that 1% is what to expect. The first sees that the
mixture has changed, the second that something new has come; known things in other proportions move the first alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.splits import folds
from ..errors import IcehouseError
from ..heads.families.linear import LogReg
from ..heads.inputs import Inputs, directions
from ..heads.intervals import Groups, auroc_interval, wilson
from ..heads.metrics import ranking
from ..heads.runs import Run
from ..store.store import Store

#: Training rows that stand for all, inputs of a window, inputs from which there is a test.
REFERENCE, WINDOW, FEWEST = 2000, 500, 50

#: Inputs, and seconds, between tests.
EVERY, EVERY_S = 200, 60.0

#: Share of training rows that count as far from the others: what to expect of a stream that has not changed.
EXPECTED = 0.01

_KEPT = 60  # results for a curve


@dataclass(frozen=True)
class Comparison:
    """A window against the training set."""

    inputs: int  # rows of the window
    reference: int  # rows of the training set that were compared with
    auroc: float  # 0.5: nothing tells them apart
    auroc_low: float
    auroc_high: float
    unlike: float  # share of inputs unlike all of train
    unlike_low: float
    unlike_high: float
    expected: float = EXPECTED

    @property
    def drifted(self) -> bool:
        """Whether either figure is beyond what chance makes of a stream that has not changed."""
        # How far is far is itself known from so many rows only.
        _, expected = wilson(self.expected, self.reference)
        return bool(self.auroc_low > 0.5 or self.unlike_low > expected)

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {**{name: _rounded(value) for name, value in asdict(self).items()}, "drifted": self.drifted}


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else round(float(value), 4)


class Reference:
    """Rows of a run's training set, as unit vectors (n, d) by input, at most `most` of them, and how far apart they are."""

    def __init__(self, arrays: Mapping[str, np.ndarray], *, most: int = REFERENCE, seed: int = 0) -> None:
        self.names = tuple(arrays)
        rows = joined([arrays[name] for name in self.names])
        self.rng = np.random.default_rng(seed)
        if len(rows) > most:
            rows = rows[np.sort(self.rng.choice(len(rows), most, replace=False))]
        self.rows = rows
        nearest = self._nearest(rows, leave_own=True)
        #: Cosine to the nearest other row, below which lies `EXPECTED` of the training set.
        self.floor = float(np.quantile(nearest, EXPECTED, method="lower"))

    @classmethod
    def of(cls, store: Store, run: Run, **options: Any) -> Reference | None:
        """The rows that a run learned from, as far as the store still has them; None where it has too few."""
        try:
            learned = sorted(run.training_items().get("train", ()))
            if len(learned) > REFERENCE:
                chosen = np.random.default_rng(0).choice(len(learned), REFERENCE, replace=False)
                learned = [learned[place] for place in np.sort(chosen)]
            # Of a large store no more is read than is compared with.
            listed = ", ".join("'" + name.replace("'", "''") + "'" for name in learned)
            samples = run.samples(store, where=f"item_id in ({listed})")
        except IcehouseError:
            return None  # of another encoder meanwhile, or gone
        rows = np.flatnonzero(samples.X.complete())
        if len(rows) < FEWEST:
            return None
        X = samples.X[rows]
        return cls({name: X.vectors(name) for name in X.names}, **options)

    def _nearest(self, rows: np.ndarray, *, leave_own: bool = False) -> np.ndarray:
        """Cosine of each row to the nearest one of the reference: (n,)."""
        found = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), 512):
            cosines = rows[start : start + 512] @ self.rows.T
            if leave_own:
                cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf
            found[start : start + 512] = cosines.max(axis=1)
        return found

    def compare(self, window: np.ndarray) -> Comparison:
        """Compare rows, made by `joined`, with the training set."""
        share = float((self._nearest(window) < self.floor).mean())
        low, high = wilson(share, len(window))
        value, auroc_low, auroc_high = two_sample(self._some(len(window)), window)
        return Comparison(
            len(window), len(self.rows), value, auroc_low, auroc_high, share, float(low), float(high)
        )

    def _some(self, n: int) -> np.ndarray:
        """At most so many rows, so that neither side outweighs the other."""
        if len(self.rows) <= n:
            return self.rows
        return self.rows[self.rng.choice(len(self.rows), n, replace=False)]


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Inputs side by side, each of unit length, as unit vectors: float32, (n, d)."""
    parts = [directions(np.asarray(array, np.float32)) for array in arrays]
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))


def two_sample(reference: np.ndarray, window: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """AUROC of logistic regression that tells a window from a reference, with its interval.

    It learns on one half of either and is tested on the other. Folds that take turns would use more of the rows, but what
    they share makes the AUROC vary more than any interval of it knows: without a difference, a quarter of such intervals of
    95% missed 0.5. Copies are in one half, so that knowing one by heart tells nothing of another.
    """
    X = np.concatenate([reference, window])
    y = np.repeat([0, 1], [len(reference), len(window)])
    groups = Inputs.of(X).row_groups()
    held = folds(y, 2, groups=groups, seed=seed) == 0
    if len(np.unique(y[held])) < 2 or len(np.unique(y[~held])) < 2:
        return 0.5, 0.0, 1.0
    head = LogReg(C=1.0, unit=False).fit(X[~held], y[~held])
    new = y[held] == 1
    value, influence, _, _ = ranking(head.predict_proba(X[held])[:, 1], new)
    low, high = auroc_interval(value, influence, new, Groups(groups[held], int(held.sum())))
    return value, low, high


class DriftMonitor:
    """Keeps the latest inputs of a stream, and compares them with a reference now and then, in a thread of its own.

    `latest` is the last result with those before it, as JSON values; empty until there are `FEWEST` inputs.
    """

    def __init__(
        self, reference: Reference, features: Mapping[str, Any], name: str, *, every: int = EVERY
    ) -> None:
        self.reference, self.name, self.every = reference, name, every
        self.features = [features[input_] for input_ in reference.names]
        self.latest: dict[str, Any] = {}
        self._rows: deque[np.ndarray] = deque(maxlen=WINDOW)
        self._new = 0
        self._compared_at = 0.0
        self._history: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._thread: threading.Thread | None = None

    def add(self, batch: Iterable[Any]) -> None:
        """Take in what has features: objects with a mapping `features`."""
        for contents in batch:
            if all(feature in contents.features for feature in self.features):
                arrays = [contents.features[feature][None] for feature in self.features]
                self._rows.append(joined(arrays)[0])
                self._new += 1
        running = self._thread is not None and self._thread.is_alive()
        enough = self._new >= self.every or (not self.latest and self._new >= 2 * FEWEST)
        if not running and enough and time.monotonic() - self._compared_at >= (EVERY_S if self.latest else 0):
            self._new, self._compared_at = 0, time.monotonic()
            rows = np.stack(self._rows)
            self._thread = threading.Thread(
                target=self._compare, args=(rows,), name="icehouse-drift", daemon=True
            )
            self._thread.start()

    def finish(self) -> None:
        """Wait for a comparison that is going on; make one where there is none yet, and could be."""
        if self._thread is not None:
            self._thread.join(timeout=60)
        if not self.latest and len(self._rows) >= FEWEST:
            self._compare(np.stack(self._rows))

    def _compare(self, rows: np.ndarray) -> None:
        from threadpoolctl import threadpool_limits

        # The other cores have pictures to decode and encode.
        with threadpool_limits(limits=1, user_api="blas"):
            told = self.reference.compare(rows).as_dict()
        self._history.append({"at": time.time(), "auroc": told["auroc"], "unlike": told["unlike"]})
        self.latest = {"run": self.name, **told, "history": list(self._history)}
