"""Labelling: units to label, votes and their majority, agreement of annotators, and the desk that serves the next item.

A unit is an item and its near-duplicates, as the results of `icehouse dups find` say: the keeper is shown, and one label
serves them all. Variants (one picture, other words) are no duplicates here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dups.pair_graph import current_searches, searches_stamp
from ..errors import UsageError
from ..heads.intervals import LEVEL
from ..heads.samples import parse_inputs
from ..store.store import Store
from .label_queue import Queue, share
from .label_table import (
    ADJUDICATOR,
    ANNOTATOR,
    LABEL,
    SKIP,
    UNDO,
    Entry,
    LabelTable,
    Standing,
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
    from .scoring import load_models

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
            found = self.found
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
