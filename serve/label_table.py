"""Labels of a task as a table of the store: who said what of which item, and when; rows are added and never changed.

An entry is a label, a skip, or an undo, which names the entry that it takes back. Of what is left the latest of an annotator
holds, so the order in which rows arrive does not matter, and a change of mind is one more row. An entry is known by an id
that the client makes: what is sent twice is kept once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from ..console import printable
from ..data.labels import normalised
from ..errors import UsageError
from ..store.schema import read_part, write_part
from ..store.store import Store
from ..store.table import Table

FOLDER = "labels/"

#: One row an entry of ``tables/labels/<task>``.
LABELS = pa.schema(
    [
        pa.field("entry_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        # Contents that the item had: a label is of what was seen.
        pa.field("image_sha256", pa.string()),
        pa.field("text_sha256", pa.string()),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("undoes", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("task_version", pa.int32(), nullable=False),
        pa.field("source", pa.string()),
    ]
)

ANNOTATOR, ADJUDICATOR = "annotator", "adjudicator"
LABEL, SKIP, UNDO = "label", "skip", "undo"

#: Longest name of an annotator and of a class, most classes of a task.
MAX_NAME, MAX_CLASS, MAX_CLASSES = 60, 100, 50

#: Parts at which small ones are merged, since each label is a part of its own when it is written; and what is small.
_PARTS, _SMALL = 32, 16 << 20

_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")
_ENTRY_ID = re.compile(r"[A-Za-z0-9_.:-]{1,80}")


@dataclass(frozen=True)
class Task:
    """Task of the annotators.

    `gates` are ``RUN=CLASS`` as `icehouse watch` takes them, `inputs` the features that the head reads, `where` a SQL
    condition on the items. The version counts changes of any of these.
    """

    name: str
    classes: tuple[str, ...]
    instructions: str = ""
    votes: int = 3
    gates: tuple[str, ...] = ()
    where: str | None = None
    inputs: str | None = None
    version: int = 1

    def spec(self) -> dict[str, Any]:
        """As the spec of the table."""
        return {"kind": "labels", **asdict(self)}

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Task:
        """Read the spec of a table."""
        known: dict[str, Any] = {f.name: spec[f.name] for f in fields(cls) if f.name in spec}
        for name, value in known.items():
            known[name] = tuple(value) if isinstance(value, list) else value
        return cls(**known)


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    entry_id: str
    item_id: str
    annotator: str
    at: datetime
    action: str = LABEL
    label: str | None = None
    role: str = ANNOTATOR
    undoes: str | None = None
    image_sha256: str | None = None
    text_sha256: str | None = None
    task_version: int = 1
    source: str | None = None

    @property
    def order(self) -> tuple[datetime, str]:
        """Place in time; two at the same moment are ordered by their ids, the same for everybody."""
        return self.at, self.entry_id


def task_names(store: Store) -> list[str]:
    """Names of the tasks of a store."""
    return [name.removeprefix(FOLDER) for name in store.table_names() if name.startswith(FOLDER)]


def load_task(store: Store, name: str | None = None) -> Task:
    """Find a task by its name, or the only one there is."""
    known = task_names(store)
    if not known:
        raise UsageError("the store has no labelling task yet: icehouse label --classes A,B,C makes one")
    if name is None and len(known) > 1:
        raise UsageError(f"there are several tasks, name one with --name: {', '.join(known)}")
    if name is not None and name not in known:
        raise UsageError(f"no labelling task {name!r}; there are: {', '.join(known)}")
    found = name or known[0]
    return Task.of({**store.table(FOLDER + found).spec, "name": found})


def set_task(store: Store, name: str, **given: Any) -> Task:
    """Make a task, or change one; None leaves a value as it is. A change is a new version."""
    if not _TASK_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a task: letters, digits, '_' and '-'")
    given = {key: value for key, value in given.items() if value is not None}
    if "classes" in given:
        given["classes"] = checked_classes(given["classes"])
    if given.get("votes", 1) < 1:
        raise UsageError("an item needs at least one vote")
    if name not in task_names(store):
        if "classes" not in given:
            raise UsageError(f"the task {name!r} is new: name its classes with --classes A,B,C")
        task = Task(name, **given)
        store.ensure_table(FOLDER + name, LABELS, task.spec())
        return load_task(store, name)
    old = load_task(store, name)
    new = replace(old, **given)
    if new != old:
        store.table(FOLDER + name).update_spec(replace(new, version=old.version + 1).spec())
    return load_task(store, name)


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Classes in their one spelling, as `icehouse embed` reads labels."""
    found = []
    for each in classes:
        plain = normalised(each)
        if plain is None or len(plain) > MAX_CLASS:
            raise UsageError(f"{each[:40]!r} cannot be a class: it is empty, means no value, or is too long")
        found.append(plain)
    if len(found) < 2 or len(found) > MAX_CLASSES:
        raise UsageError(f"a task has 2 to {MAX_CLASSES} classes, not {len(found)}")
    if len({name.casefold() for name in found}) < len(found):
        raise UsageError("two of the classes are the same")
    return tuple(found)


def checked_annotator(name: str) -> str:
    """A name in one spelling; UsageError if it is none."""
    plain = " ".join(unicodedata.normalize("NFC", name).split())
    if not plain or len(plain) > MAX_NAME or printable(plain) != plain:
        raise UsageError(f"an annotator's name has 1 to {MAX_NAME} characters that can be printed")
    return plain


def checked_entry_id(entry_id: str) -> str:
    """An id that a client made."""
    if not _ENTRY_ID.fullmatch(entry_id):
        raise UsageError("entry_id has 1 to 80 letters, digits, '.', ':', '_' and '-'")
    return entry_id


class LabelTable:
    """The table of a task, for reading and adding."""

    def __init__(self, store: Store, task: str) -> None:
        self.table: Table = store.table(FOLDER + task)

    def read(self) -> list[Entry]:
        """All entries."""
        return [Entry(**row) for row in self.table.read(LABELS.names).to_pylist()]

    def add(self, entries: Iterable[Entry]) -> int:
        """Keep entries, on the medium when this returns; those whose id is there are left out. How many were new."""
        rows = pa.Table.from_pylist(
            [{name: getattr(entry, name) for name in LABELS.names} for entry in entries], LABELS
        )
        added = self.table.append(rows, unique="entry_id")
        self._merge()
        return added

    def _merge(self) -> None:
        """Merge small parts at the end, so that the number of files grows with the labels' bytes and not their number."""
        snapshot = self.table.snapshot()
        small = []
        for part in reversed(snapshot.parts):
            if part.bytes > _SMALL:
                break
            small.append(part)
        if len(small) < _PARTS:
            return
        small.reverse()
        # The first of them is what earlier merges made; with it all grow into one.
        names = [part.name for part in small]
        rows = pa.concat_tables([read_part(self.table.path / p.name, snapshot.schema, p) for p in small])
        self.table.replace_parts(names, write_part(rows, self.table.path, snapshot.spec, replaces=names))


@dataclass
class Standing:
    """Current labels of all entries: by unit (an item and its near-duplicates) the last word of each annotator.

    `votes` are labels of annotators, `skips` their skips, `words` the adjudicators' last word; `gone` counts labels of items
    that are not there any more, `changed` those of items with another content since, `foreign` those of no class of the
    task.
    """

    votes: dict[str, dict[str, Entry]] = field(default_factory=dict)
    skips: dict[str, set[str]] = field(default_factory=dict)
    words: dict[str, Entry] = field(default_factory=dict)
    #: By annotator and role: what undo takes back.
    last: dict[tuple[str, str], Entry] = field(default_factory=dict)
    gone: int = 0
    changed: int = 0
    foreign: int = 0


def standing(
    entries: Iterable[Entry],
    units: Mapping[str, str],
    contents: Mapping[str, tuple[str | None, str | None]],
    classes: Sequence[str],
) -> Standing:
    """Fold entries, in whatever order they come.

    `units` says of each item which one stands for it and its near-duplicates, `contents` has the digests of its
    picture and its text now.
    """
    entries = list({entry.entry_id: entry for entry in entries}.values())
    undone = {entry.undoes for entry in entries if entry.action == UNDO}
    known, found = {*classes}, Standing()
    latest: dict[tuple[str, str, str], Entry] = {}
    for entry in sorted(entries, key=lambda each: each.order):
        if entry.action == UNDO or entry.entry_id in undone:
            continue
        found.last[entry.annotator, entry.role] = entry
        unit = units.get(entry.item_id)
        if unit is None:
            found.gone += 1
            continue
        then = (entry.image_sha256, entry.text_sha256)
        if then != (None, None) and then != contents[entry.item_id]:
            found.changed += 1
            continue
        if entry.action == LABEL and entry.label not in known:
            found.foreign += 1
            continue
        latest[unit, entry.annotator, entry.role] = entry
    for (unit, annotator, role), entry in sorted(latest.items(), key=lambda pair: pair[1].order):
        if role == ADJUDICATOR:
            if entry.action == LABEL:
                found.words[unit] = entry
        elif entry.action == SKIP:
            found.skips.setdefault(unit, set()).add(annotator)
        else:
            found.votes.setdefault(unit, {})[annotator] = entry
    return found


def now_after(last: datetime | None) -> datetime:
    """The time, later than `last`: what one process writes stands in the order in which it was written."""
    now = datetime.now(UTC)
    return now if last is None or now > last else last + timedelta(microseconds=1)
