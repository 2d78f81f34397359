"""Labelling: units to label, votes, their majority and agreement, the queue, and the desk that serves the next item.

A unit is an item and its near-duplicates, as the results of `icehouse dups find` say: the keeper is shown, and one label
serves them all. Variants (one picture, other words) are no duplicates here.

The queue is an `online` head that learns as labels come, and the order in which units are worth a label. Those that a gate
rejects come last. Of the rest, a batch that the head is unsure of and that spreads over what no label is near
(`icehouse.heads.active.select_batch`), then the unsure before the sure. Without a head yet it is spread alone.

Each unit is predicted before the head learns its label (prequential evaluation: Dawid 1984; Gama et al. 2013), and every one
counts once. Units are chosen for being uncertain, so that the share of right predictions is lower than among all.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dups.pair_graph import DuplicateExclusion, DuplicateSearches, current_searches, searches_stamp
from ..errors import IcehouseError, UsageError, brief, count_of, one_or_many
from ..heads.active import select_batch, uncertainty, unit_rows
from ..heads.families.online import Online
from ..heads.inputs import Samples, load_samples, parse_inputs
from ..heads.intervals import LEVEL, wilson
from ..store.store import Store
from .label_table import (
    ADJUDICATOR,
    ANNOTATOR,
    LABEL,
    SKIP,
    UNDO,
    Entry,
    LabelTable,
    Standing,
    Task,
    checked_annotator,
    checked_entry_id,
    load_task,
    now_after,
    standing,
)

#: Resamplings of the units for the interval of kappa.
_DRAWS = 1000


@dataclass(frozen=True)
class Units:
    """Items to label: `of` says which item stands for each, `members` whom it stands for, in the order of the store."""

    of: dict[str, str]
    members: dict[str, list[str]]
    contents: dict[str, tuple[str | None, str | None]]
    searches: tuple[str, ...]


def find_units(store: Store, where: str | None = None) -> Units:
    """Group the items that are present: exact copies, and near-duplicates where there was a search for them.

    Pictures decide of items that have one, texts of those that have none: posts that say the same of other pictures are
    not the same.
    """
    columns = ["item_id", "image_sha256", "text_sha256"]
    rows, _ = store.present_items(columns, where)
    ids, images, texts = (rows[name].to_pylist() for name in columns)
    contents = dict(zip(ids, zip(images, texts, strict=True), strict=True))
    keeper: dict[str, str] = {}
    names = []
    for search in current_searches(store, {"image_sha256", "text_sha256"}):
        by_picture = search.content == "image_sha256"
        then = search.items()
        digests = dict(zip(then["item_id"].to_pylist(), then["content"].to_pylist(), strict=True))
        found = search.clusters(["item_id", "group", "keeper"])
        lead = found.filter(found["keeper"])
        leads = dict(zip(lead["group"].to_pylist(), lead["item_id"].to_pylist(), strict=True))
        for item, group in zip(found["item_id"].to_pylist(), found["group"].to_pylist(), strict=True):
            image, text = contents.get(item, (None, None))
            same = digests.get(item) == (image if by_picture else text)
            if item in contents and same and (by_picture or image is None):
                keeper[item] = leads[group]
        names.append(search.name)
    first: dict[tuple[str | None, str | None], str] = {}
    named: dict[str, str] = {}
    for item in ids:
        name = keeper.get(item)
        if contents[item] != (None, None):
            name = first.setdefault(contents[item], name or item) if name is None else name
            first.setdefault(contents[item], name)
        named[item] = name or item
    members: dict[str, list[str]] = {}
    for item in ids:
        members.setdefault(named[item], []).append(item)
    # A keeper that is not there, or that is left out, cannot be shown: another one stands for the group.
    lead_of = {name: name if named.get(name) == name else group[0] for name, group in members.items()}
    return Units(
        {item: lead_of[name] for item, name in named.items()},
        {lead_of[name]: group for name, group in members.items()},
        contents,
        tuple(names),
    )


def check_settings(store: Store, given: Mapping[str, Any]) -> None:
    """Raise the error that a task with these gates, inputs and condition would meet, before it is kept."""
    from .predict import load_models

    if given.get("gates"):
        for model in load_models(store, [], given["gates"])[0]:
            model.run.samples(store)
    if given.get("inputs") is not None:
        parse_inputs(given["inputs"], store)
    if given.get("where") is not None:
        store.present_items(["item_id"], given["where"])


def majority(votes: Mapping[str, Entry], needed: int) -> str | None:
    """The label of more than half of the votes, once there are enough of them."""
    if len(votes) < needed:
        return None
    label, most = Counter(str(entry.label) for entry in votes.values()).most_common(1)[0]
    return label if 2 * most > len(votes) else None


@dataclass(frozen=True)
class Decision:
    """Label of a unit: by "majority" or the "adjudicator"."""

    label: str
    by: str


def decisions(found: Standing, needed: int) -> dict[str, Decision]:
    """Units that are decided; the adjudicator's word stands above the votes."""
    decided = {
        unit: Decision(label, "majority")
        for unit, votes in found.votes.items()
        if (label := majority(votes, needed)) is not None
    }
    return decided | {unit: Decision(str(word.label), "adjudicator") for unit, word in found.words.items()}


def disputed(found: Standing, needed: int) -> list[str]:
    """Units with enough votes, no majority, and no adjudicator's word."""
    return [
        unit
        for unit, votes in found.votes.items()
        if len(votes) >= needed and majority(votes, needed) is None and unit not in found.words
    ]


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Fleiss' kappa (1971) of a table (units, classes) of how often each class was chosen.

    Units with fewer than two votes say nothing of agreement and are left out. With as many votes for every unit it is the
    published statistic; else each unit's agreement is over its own pairs of votes, and classes weigh by all votes. None
    where it is not defined: no such unit, or one class alone.
    """
    counts = np.asarray(counts, np.float64)
    n = counts.sum(axis=1)
    counts, n = counts[n >= 2], n[n >= 2]
    if not len(n):
        return None
    observed = float((((counts**2).sum(axis=1) - n) / (n * (n - 1))).mean())
    expected = float(((counts.sum(axis=0) / n.sum()) ** 2).sum())
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def kappa_with_interval(counts: np.ndarray) -> dict[str, Any]:
    """Kappa with the percentile interval of a bootstrap over units; the interval only where there are ten."""
    counts = np.asarray(counts, np.float64)
    counts = counts[counts.sum(axis=1) >= 2] if len(counts) else counts
    value, low, high = fleiss_kappa(counts) if len(counts) else None, None, None
    if value is not None and len(counts) >= 10:
        rng = np.random.default_rng(0)
        drawn = [fleiss_kappa(counts[rng.integers(0, len(counts), len(counts))]) for _ in range(_DRAWS)]
        known = [each for each in drawn if each is not None]
        low, high = (float(end) for end in np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return {"value": value, "low": low, "high": high, "items": len(counts)}


def annotators(found: Standing) -> list[dict[str, Any]]:
    """Labels and skips of each annotator, and how often they agree with the majority of the others."""
    labels: Counter[str] = Counter()
    skips: Counter[str] = Counter(name for names in found.skips.values() for name in names)
    right: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for votes in found.votes.values():
        for name, entry in votes.items():
            labels[name] += 1
            others = {other: vote for other, vote in votes.items() if other != name}
            said = majority(others, 1) if others else None
            if said is not None:
                judged[name] += 1
                right[name] += said == entry.label
    names = sorted({*labels, *skips})
    return [
        {
            "annotator": name,
            "labels": labels[name],
            "skips": skips[name],
            "agreement": share(right[name], judged[name]),
        }
        for name in names
    ]


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
            self.notes.append(
                "no item to label has features: items come in the order of the store"
                if wanted
                else "there is no item to label: --where true takes all"
                if self.task.where is not None
                else "there is no item to label"
            )
            return None
        return samples

    def _rejects(self, store: Store) -> set[str]:
        """Units that the gates reject."""
        from .predict import load_models

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


class Desk:
    """One task at work: who gets which item next, and what has been said.

    All methods may be called from several threads. What other processes add to the table is seen at the next call.
    """

    def __init__(self, store: Store, task: str) -> None:
        self.store, self.name = store, task
        self.labels = LabelTable(store, task)
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._version = -1
        self._looked: tuple[Any, ...] | None = None
        self._refresh()

    def _refresh(self) -> None:
        """Read what has changed on disk."""
        shot = self.labels.table.snapshot()
        if shot.version != self._version:
            self.task = load_task(self.store, self.name)
            # Rows are only added, so as many as are known are those that are known.
            if shot.rows != len(self._entries) or self._version < 0:
                self._entries = {entry.entry_id: entry for entry in self.labels.read()}
            self._version = shot.version
            self._found = None
        looked = (self.store.items.snapshot().version, self.task.version, searches_stamp(self.store))
        if looked != self._looked:
            self.units = find_units(self.store, self.task.where)
            self.queue = Queue(self.store, self.task, list(self.units.members))
            self._looked, self._found = looked, None
        if self._found is None:
            self._found = standing(
                self._entries.values(), self.units.of, self.units.contents, self.task.classes
            )

    @property
    def found(self) -> Standing:
        """Current labels and votes."""
        assert self._found is not None
        return self._found

    _found: Standing | None = None

    # ------------------------------------------------------------------ what comes next

    def next_item(self, annotator: str, *, adjudicate: bool = False) -> str | None:
        """The item that an annotator, or an adjudicator, is to label next; None if nothing is left."""
        annotator = checked_annotator(annotator)
        with self._lock:
            self._refresh()
            annotator = self._spelt(annotator)
            found, needed = self.found, self.task.votes
            if adjudicate:
                waiting = disputed(found, needed)
                return waiting[0] if waiting else None
            begun = [
                unit
                for unit, votes in found.votes.items()
                if len(votes) < needed and self._is_free(unit, annotator)
            ]
            if begun:
                return begun[0]  # in the order in which they were begun: few items wait for votes
            self._teach(wait=False)
            for unit in self.queue.order():
                if unit not in found.votes and self._is_free(unit, annotator):
                    return unit
            return None

    def _spelt(self, annotator: str) -> str:
        """A name as it came first: who writes it in other case is nobody else, and has no second vote."""
        return self.found.names.get(annotator.casefold(), annotator)

    def _is_free(self, unit: str, annotator: str) -> bool:
        found = self.found
        done = annotator in found.votes.get(unit, ()) or annotator in found.skips.get(unit, ())
        return not done and unit not in found.words

    def _teach(self, *, wait: bool) -> None:
        """Train the head on the current labels, and order the rest anew."""
        votes = self.found.votes
        decided = decisions(self.found, self.task.votes)
        known = {}
        for unit, of in votes.items():
            if unit in decided:
                known[unit] = decided[unit].label
            else:
                known[unit] = Counter(str(vote.label) for vote in of.values()).most_common(1)[0][0]
        self.queue.learn(known, wait=wait)

    # ------------------------------------------------------------------ what is said

    def say(
        self,
        annotator: str,
        item_id: str,
        label: str | None,
        entry_id: str,
        *,
        adjudicate: bool = False,
        source: str = "page",
    ) -> bool:
        """Keep a label, or a skip where it is None; False if this very entry is there already."""
        annotator, entry_id = checked_annotator(annotator), checked_entry_id(entry_id)
        with self._lock:
            self._refresh()
            annotator = self._spelt(annotator)
            if entry_id in self._entries:
                return False
            if item_id not in self.units.of:
                raise UsageError(f"there is no item {item_id[:80]!r} to label")
            if label is not None and label not in self.task.classes:
                raise UsageError(
                    f"{label[:40]!r} is no class of {self.name}; there are: {', '.join(self.task.classes)}"
                )
            image, text = self.units.contents[item_id]
            return self._add(
                Entry(
                    entry_id,
                    item_id,
                    annotator,
                    self._time(),
                    action=SKIP if label is None else LABEL,
                    label=label,
                    role=ADJUDICATOR if adjudicate else ANNOTATOR,
                    image_sha256=image,
                    text_sha256=text,
                    task_version=self.task.version,
                    source=source,
                )
            )

    def undo(self, annotator: str, entry_id: str, *, adjudicate: bool = False) -> str | None:
        """Take back an annotator's last entry; the item that it was of, or None if there is none."""
        annotator, entry_id = checked_annotator(annotator), checked_entry_id(entry_id)
        role = ADJUDICATOR if adjudicate else ANNOTATOR
        with self._lock:
            self._refresh()
            annotator = self._spelt(annotator)
            if entry_id in self._entries:
                return self._entries[entry_id].item_id
            last = self.found.last.get((annotator, role))
            if last is None:
                return None
            self._add(
                Entry(
                    entry_id,
                    last.item_id,
                    annotator,
                    self._time(),
                    action=UNDO,
                    role=role,
                    undoes=last.entry_id,
                    task_version=self.task.version,
                    source="page",
                )
            )
            return last.item_id

    def bring(self, entries: Sequence[Entry]) -> int:
        """Keep entries of elsewhere; how many were new."""
        with self._lock:
            self._refresh()
            added = self.labels.add(entries)
            self._refresh()
            return added

    def labels_by_id(self) -> dict[str, Entry]:
        """All entries by their ids."""
        with self._lock:
            self._refresh()
            return self._entries

    def _time(self) -> Any:
        return now_after(max((entry.at for entry in self._entries.values()), default=None))

    def _add(self, entry: Entry) -> bool:
        added = self.labels.add([entry])
        self._entries[entry.entry_id] = entry
        self._refresh()
        return bool(added)

    # ------------------------------------------------------------------ how it stands

    def decided(self) -> dict[str, Decision]:
        """Decided items, members of groups included: each has the word on its group."""
        with self._lock:
            self._refresh()
            by_unit = decisions(self.found, self.task.votes)
            return {item: by_unit[unit] for item, unit in self.units.of.items() if unit in by_unit}

    def progress(self, annotator: str | None = None) -> dict[str, Any]:
        """Progress of all annotators, and of one."""
        with self._lock:
            self._refresh()
            found, annotator = self.found, annotator and self._spelt(annotator)
            mine = [unit for unit, votes in found.votes.items() if annotator in votes]
            return {
                "units": len(self.units.members),
                "items": len(self.units.of),
                "decided": len(decisions(found, self.task.votes)),
                "begun": len(found.votes),
                "disputed": len(disputed(found, self.task.votes)),
                "mine": len(mine),
            }

    def votes_on(self, item_id: str) -> list[Entry]:
        """Labels of the annotators of an item, for the adjudicator."""
        with self._lock:
            votes = self.found.votes.get(self.units.of.get(item_id, ""), {})
            return sorted(votes.values(), key=lambda entry: entry.annotator)

    def status(self, *, wait: bool = False) -> dict[str, Any]:
        """Everything there is to say, as JSON values; `wait` lets the head learn first what it has not."""
        with self._lock:
            self._refresh()
            if wait:
                self._teach(wait=True)
            found, task = self.found, self.task
            place = {name: i for i, name in enumerate(task.classes)}
            counts = np.zeros((len(found.votes), len(place)), np.int64)
            for row, votes in enumerate(found.votes.values()):
                for entry in votes.values():
                    counts[row, place[str(entry.label)]] += 1
            decided = decisions(found, task.votes)
            told = {
                "task": task.name,
                "version": task.version,
                "classes": list(task.classes),
                "votes": task.votes,
                **{key: value for key, value in self.progress().items() if key != "mine"},
                "labels": int(counts.sum()),
                "by_class": {
                    name: sum(each.label == name for each in decided.values()) for name in task.classes
                },
                "adjudicated": sum(each.by == "adjudicator" for each in decided.values()),
                "annotators": annotators(found),
                "searches": list(self.units.searches),
                "rejected": self.queue.rejected,
                "left_aside": {"gone": found.gone, "changed": found.changed, "foreign": found.foreign},
                "learning": self.queue.figures(),
                "notes": self.queue.notes,
            }
        # A thousand resamplings, which nobody who labels has to wait for.
        return {**told, "kappa": kappa_with_interval(counts)}
