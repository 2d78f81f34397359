"""Queue of a labelling task: an `online` head that learns as labels come, and the order in which items are worth a label.

Items that a gate rejects come last. Of the rest, a batch that the head is unsure of and that spreads over what no label is
near (`icehouse.heads.active.select_batch`), then the unsure before the sure. Without a head yet it is spread alone.

Each unit is predicted before the head learns its label (prequential evaluation: Dawid 1984; Gama et al. 2013), and every one
counts once. Items are chosen for being uncertain, so that the share of right predictions is lower than among all.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..dups.pair_graph import DuplicateExclusion, DuplicateSearches
from ..errors import IcehouseError, brief, count_of, one_or_many
from ..heads.active import select_batch, uncertainty, unit_rows
from ..heads.families.online import Online
from ..heads.intervals import wilson
from ..heads.samples import Samples, load_samples, parse_inputs
from ..store.store import Store
from .label_table import Task

#: New labels after which the head learns and the rest is ordered anew; items chosen together.
EVERY, BATCH = 8, 48

#: Labels that a point of the learning curve is over, and points that are kept.
WINDOW, POINTS = 50, 200

#: Share of learned labels that may have changed before the head starts over.
_CHANGED = 0.05


def share(right: int, n: int) -> dict[str, Any]:
    """A share with Wilson's interval."""
    if not n:
        return {"value": None, "low": None, "high": None, "of": 0}
    low, high = wilson(right / n, n)
    return {"value": right / n, "low": float(low), "high": float(high), "of": n}


class Queue:
    """Order of the `units` of a task: items that stand for others, in the order of the store.

    `learn` may be called from several threads; the work is done by one at a time.
    """

    def __init__(self, store: Store, task: Task, units: Sequence[str]) -> None:
        self.task, self.units = task, list(units)
        self.notes: list[str] = []
        self._lock, self._working = threading.Lock(), threading.Lock()
        self.samples = self._load(store)
        #: Row of each unit that has features.
        self._row = {} if self.samples is None else {item: row for row, item in enumerate(self.samples.ids)}
        self._at = None if self.samples is None else unit_rows(self.samples.X)
        self._last = self._rejects(store)
        self._order: list[str] | None = None
        self._restart()

    @property
    def rejected(self) -> int:
        """Units that a gate put last."""
        return len(self._last)

    def _load(self, store: Store) -> Samples | None:
        try:
            inputs = parse_inputs(self.task.inputs, store)
            samples = load_samples(store, inputs, missing="keep")
        except IcehouseError as error:
            self.notes.append(f"items come in the order of the store, and no head learns: {error}")
            return None
        wanted = {*self.units}
        samples = samples.take(np.flatnonzero([item in wanted for item in samples.ids.tolist()]))
        bad = sorted({int(row) for rows in samples.X.bad_rows().values() for row in rows})
        if bad:
            self.notes.append(
                f"{count_of(len(bad), 'item has', 'items have')} NaN or infinity for features, "
                f"{one_or_many(len(bad), 'comes', 'come')} after the others"
            )
            samples = samples.take(np.setdiff1d(np.arange(len(samples)), bad))
        if not len(samples):
            self.notes.append("no item to label has features: items come in the order of the store")
            return None
        return samples

    def _rejects(self, store: Store) -> set[str]:
        """Units that the gates reject."""
        from .scoring import load_models

        found: set[str] = set()
        if not self.task.gates:
            return found
        wanted = {*self.units}
        for model in load_models(store, [], self.task.gates)[0]:
            samples = model.run.samples(store)
            said = model.run.predict_features(samples.X)
            passes = model.passes(said.proba, [str(name) for name in said.classes.tolist()])
            found |= {item for item in samples.ids[~passes].tolist() if item in wanted}
        return found

    # ------------------------------------------------------------------ learning

    def _restart(self) -> None:
        """Forget what was learned."""
        self.head = Online(rate=4.0, penalty=1e-4, passes=10)
        self._learned: dict[str, str] = {}
        self._left = 0  # labels that have changed since they were learned, and are left so
        self._right: list[bool] = []
        self._seen: Counter[str] = Counter()
        self.curve: list[dict[str, Any]] = []

    def learn(self, known: Mapping[str, str], *, wait: bool = False) -> None:
        """Learn the labels of units, in the order in which they were first labelled, once enough of them are new.

        In a thread beside, unless `wait`, or there is no order yet.
        """
        new = sum(unit not in self._learned for unit in known if unit in self._row)
        changed = sum(known.get(unit) != label for unit, label in self._learned.items())
        if self._order is not None and not wait and new + max(0, changed - self._left) < EVERY:
            return
        if self._order is None or wait:
            with self._working:
                self._work(dict(known))
        elif self._working.acquire(blocking=False):
            threading.Thread(
                target=self._beside, args=(dict(known),), name="icehouse-label", daemon=True
            ).start()

    def _beside(self, known: dict[str, str]) -> None:
        try:
            self._work(known)
        except Exception as error:  # the order stays as it was
            note = f"the head could not learn: {error if isinstance(error, IcehouseError) else brief(error)}"
            if note not in self.notes:
                self.notes.append(note)
        finally:
            self._working.release()

    def _work(self, known: dict[str, str]) -> None:
        known = {unit: label for unit, label in known.items() if unit in self._row}
        changed = sum(known.get(unit) != label for unit, label in self._learned.items())
        with self._lock:
            if changed > max(EVERY, _CHANGED * len(self._learned)):
                self._restart()
                changed = 0
            self._left = changed
            fresh = [unit for unit in known if unit not in self._learned]
            for start in range(0, len(fresh), EVERY):
                self._step(fresh[start : start + EVERY], known)
        order = self._ordered(known)
        with self._lock:
            self._order = order

    def _step(self, units: list[str], known: Mapping[str, str]) -> None:
        assert self.samples is not None
        X = self.samples.X[np.array([self._row[unit] for unit in units])]
        labels = [known[unit] for unit in units]
        if self._learned:
            classes = self.head.classes_.astype(str)
            said = classes[self.head.predict_proba(X).argmax(axis=1)]
            self._right += (said == np.array(labels)).tolist()
            latest = self._right[-WINDOW:]
            told = share(sum(latest), len(latest))
            self.curve.append(
                {"labels": len(self._learned) + len(units), "accuracy": told.pop("value"), **told}
            )
        self.head.partial_fit(X, np.array(labels), classes=np.array(self.task.classes))
        self._learned |= {unit: known[unit] for unit in units}
        self._seen.update(labels)

    # ------------------------------------------------------------------ order

    def order(self) -> list[str]:
        """Units, those first that are worth a label most."""
        with self._lock:
            return self.units if self._order is None else self._order

    def _ordered(self, known: Mapping[str, str]) -> list[str]:
        samples, at = self.samples, self._at
        if samples is None or at is None:
            return [
                *(u for u in self.units if u not in self._last),
                *(u for u in self.units if u in self._last),
            ]
        labelled = np.array([self._row[unit] for unit in known], np.intp)
        open_rows = np.setdiff1d(np.arange(len(samples)), labelled)
        last = np.array([item in self._last for item in samples.ids.tolist()], bool)
        weight = None
        if self._learned and len(open_rows):
            weight = np.zeros(len(samples))
            weight[open_rows] = uncertainty(self.head.predict_proba(samples.X[open_rows]), "margin")
        ordered: list[str] = []
        # A key of no meaning: where the head has nothing to say, chance decides and not the order of the store.
        chance = np.random.default_rng(0).permutation(len(samples))
        for rows in (open_rows[~last[open_rows]], open_rows[last[open_rows]]):
            if not len(rows):
                continue
            exclusion = DuplicateExclusion(samples.ids, {"item": samples.ids}, DuplicateSearches([]))
            picked = select_batch(at, rows, BATCH, exclusion=exclusion, weight=weight, labelled=labelled).rows
            rest = np.setdiff1d(rows, picked)
            unsure = np.zeros(len(rest)) if weight is None else -weight[rest]
            rest = rest[np.lexsort((chance[rest], unsure))]
            ordered += samples.ids[np.concatenate([picked, rest])].tolist()
        there = {*ordered}
        bare = [unit for unit in self.units if unit not in there and unit not in known]
        split = next((i for i, unit in enumerate(ordered) if unit in self._last), len(ordered))
        return [*ordered[:split], *bare, *ordered[split:]]

    # ------------------------------------------------------------------ figures

    def figures(self) -> dict[str, Any]:
        """The learning curve and what it is to be held against, as JSON values."""
        with self._lock:
            commonest = self._seen.most_common(1)
            n = len(self._right)
            return {
                "labels": len(self._learned),
                "accuracy": share(sum(self._right), n) if n else None,
                "commonest": None
                if not commonest
                else {"label": commonest[0][0], "share": commonest[0][1] / sum(self._seen.values())},
                "curve": self.curve[-POINTS:],
                "window": WINDOW,
            }
