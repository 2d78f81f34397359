"""Labels of a task as a table of the store, and their exchange with other programs.

An entry of the table is a label, a skip, or an undo, which names the entry that it takes back: who said what of which item,
and when. Rows are added and never changed. Of what is left the latest of an annotator holds, so the order in which rows
arrive does not matter, and a change of mind is one more row. An entry is known by an id that the client makes: what is sent
twice is kept once.

Labels come from Label Studio's JSON and from tables of votes, and go there and into a column of items. Label Studio knows
annotators by accounts of its own, and refuses those that it does not have. So the name goes into the ``meta`` of each
result, which it keeps as it is; on the way back the name is read from there, else from ``completed_by``.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..console import printable
from ..data.labels import normalised
from ..data.readers import read_rows
from ..errors import IcehouseError, SourceError, UsageError, count_of
from ..store.annotate import JoinReport, join
from ..store.files import publish_text
from ..store.schema import RESERVED, read_part, write_part
from ..store.sql import save
from ..store.store import Store
from ..store.table import Table

if TYPE_CHECKING:
    from .labelling import Desk

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
    #: Spelling that each name came in first, by the name without regard to case: a phone begins with a capital.
    names: dict[str, str] = field(default_factory=dict, compare=False)
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
    for each in sorted(entries, key=lambda each: each.order):
        name = found.names.setdefault(each.annotator.casefold(), each.annotator)
        entry = each if name == each.annotator else replace(each, annotator=name)
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


#: Most bytes of a file that is read whole, and problems that are told one by one.
_MAX_BYTES, _TOLD = 1 << 30, 10

_FROM, _IMAGE, _TEXT = "label", "image", "text"

#: Columns of a file of votes.
_VOTE = (*LABELS.names, "id", "image", "path", "created_at", "updated_at", "annotation_id")


def label_studio_config(desk: Desk) -> str:
    """Labelling interface of a project in Label Studio that fits what `export_label_studio` writes."""
    from xml.sax.saxutils import quoteattr

    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in desk.task.classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <Text name="text" value="$text"/>\n'
        f'  <Choices name="{_FROM}" toName="{_IMAGE}" choice="single">\n{choices}\n  </Choices>\n</View>\n'
    )


def export_label_studio(desk: Desk, path: Path) -> int:
    """Write tasks with their annotations, and the majority as ground truth, as Label Studio imports them. How many."""
    decided, found = desk.decided(), desk.found
    rows = {
        row["item_id"]: row
        for row in desk.store.items.read(["item_id", "path", "text", "image_sha256"]).to_pylist()
    }
    tasks = []
    for unit in desk.units.members:
        row = rows[unit]
        data = {"item_id": unit, "text": row["text"] or ""}
        if row["path"] is not None:
            data["image"] = f"/data/local-files/?d={row['path']}"
            data["image_sha256"] = row["image_sha256"]
        target = _IMAGE if row["path"] is not None else _TEXT
        said = sorted(found.votes.get(unit, {}).values(), key=lambda vote: vote.order)
        said += [found.words[unit]] if unit in found.words else []
        annotations = [_annotation(entry, target) for entry in said]
        task: dict[str, Any] = {"data": data, "annotations": annotations}
        if unit in decided:
            data["majority"] = decided[unit].label
        tasks.append(task)
    publish_text(path, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    return len(tasks)


def _annotation(entry: Entry, target: str) -> dict[str, Any]:
    """A label as Label Studio has it; an adjudicator's is the truth."""
    result = {
        "id": hashlib.sha256(entry.entry_id.encode()).hexdigest()[:10],
        "from_name": _FROM,
        "to_name": target,
        "type": "choices",
        "value": {"choices": [str(entry.label)]},
        "meta": {"annotator": entry.annotator, "role": entry.role, "entry_id": entry.entry_id},
    }
    return {
        "result": [result],
        "created_at": entry.at.isoformat(),
        "was_cancelled": False,
        "ground_truth": entry.role == ADJUDICATOR,
    }


def import_labels(desk: Desk, path: Path) -> dict[str, Any]:
    """Add the labels of a file: a JSON export of Label Studio, or rows of votes as .csv, .tsv, .jsonl, .json or .parquet.

    A row is a vote: ``item_id`` (or ``id``, ``image_sha256``, or the end of a path in ``image`` or ``path``), ``label`` and
    ``annotator``; the other columns of `export_labels` count where they are there, so that an export of another store's task
    comes whole. What cannot be used is told, and costs nothing else; what is known already is left out.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"{path} is larger than {_MAX_BYTES >> 30} GB: split it")
        if path.suffix.lower() == ".json":
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise SourceError(f"{path} is neither a list of Label Studio's tasks nor one of votes")
            if any(isinstance(row.get("data"), dict) or "annotations" in row for row in rows):
                return _import_tasks(desk, rows)
            return _import_votes(desk, list(enumerate(rows, 1)), [])
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from error
    wanted = {*_VOTE, desk.name}
    read = read_rows(path, lambda header: [name for name in header.columns if name in wanted])
    if not {"label", desk.name} & {*read.table.column_names} or "annotator" not in read.table.column_names:
        raise SourceError(f"{path} has no votes: the columns item_id, label and annotator are needed")
    problems = [f"{bad.where}: {bad.message}" for bad in read.bad]
    # As a spreadsheet numbers them, and `icehouse dups apply`: the header is row 1.
    numbers = [int(number) + 1 for number in read.numbers]
    return _import_votes(desk, list(zip(numbers, read.table.to_pylist(), strict=True)), problems)


def _import_votes(desk: Desk, rows: list[tuple[int, dict[str, Any]]], problems: list[str]) -> dict[str, Any]:
    items, entries = _Items(desk), list[Entry]()
    seen: Counter[str] = Counter()
    now = datetime.now(UTC)
    for number, row in rows:
        given = {key: value for key, value in row.items() if value not in (None, "")}
        try:
            # Rows without a time count in their order.
            entries.append(_vote(desk, items, given, seen, now + timedelta(microseconds=len(entries))))
        except IcehouseError as error:
            problems.append(f"row {number}: {error}")
    return _brought(desk, len(entries) + len(problems), entries, problems)


def _import_tasks(desk: Desk, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Add the annotations of Label Studio's tasks.

    A task is the item that its ``item_id`` names, else the one with its ``image_sha256``, else the one whose path its
    ``image`` ends with.
    """
    items, entries = _Items(desk), list[Entry]()
    problems: list[str] = []
    for number, task in enumerate(tasks, 1):
        name = task.get("id", number)
        try:
            item = items.find(task.get("data"))
        except UsageError as error:
            problems.append(f"task {name}: {error}")
            continue
        for annotation in task.get("annotations") or task.get("completions") or ():
            try:
                entries += _of_annotation(desk, item, name, annotation)
            except IcehouseError as error:
                problems.append(f"task {name}: {error}")
    return _brought(desk, len(tasks), entries, problems)


def _brought(desk: Desk, rows: int, entries: list[Entry], problems: list[str]) -> dict[str, Any]:
    return {
        "rows": rows,
        "labels": len(entries),
        "new": desk.bring(entries),
        "problems": len(problems),
        "first_problems": problems[:_TOLD],
    }


def _vote(desk: Desk, items: _Items, row: dict[str, Any], seen: Counter[str], now: datetime) -> Entry:
    """The entry of a row; UsageError says what it lacks."""
    # Label Studio's own tables number their tasks in `id`.
    data = {key: value for key, value in row.items() if key != "id" or "annotation_id" not in row}
    item = items.find({**data, "image": row.get("image", row.get("path"))})
    action, role = str(row.get("action", LABEL)), str(row.get("role", ANNOTATOR))
    if action not in (LABEL, SKIP, UNDO) or role not in (ANNOTATOR, ADJUDICATOR):
        raise UsageError(f"{action[:20]!r} by {role[:20]!r} is no entry of a label table")
    if "annotator" not in row:
        raise UsageError("no annotator")
    annotator = checked_annotator(str(row["annotator"]))
    label = _class(desk, str(row.get("label", row.get(desk.name, "")))) if action == LABEL else None
    undoes = checked_entry_id(str(row.get("undoes", ""))) if action == UNDO else None
    at = row.get("at", row.get("updated_at", row.get("created_at")))
    made = json.dumps([item, annotator, role, action, label, undoes, None if at is None else str(at)])
    seen[made] += 1
    entry_id = checked_entry_id(str(row["entry_id"])) if "entry_id" in row else None
    known = desk.labels_by_id().get(entry_id or "")
    if known is not None and (known.item_id, known.annotator, known.action, known.label) != (
        item,
        annotator,
        action,
        label,
    ):
        raise UsageError(
            "its entry_id is kept already, with something else, and entries are never changed: leave entry_id and at empty, "
            "and the row is a further vote"
        )
    found = _entry(
        desk,
        entry_id or f"file:{_digest(f'{made} {seen[made]}')}",
        item,
        annotator,
        now if at is None else _time(at),
    )
    digests = {name: row[name] for name in ("image_sha256", "text_sha256") if name in row}
    return replace(found, action=action, label=label, role=role, undoes=undoes, source="file", **digests)


def _of_annotation(desk: Desk, item: str, task: Any, annotation: Any) -> list[Entry]:
    """The label of an annotation; none of one that was cancelled or says nothing."""
    if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
        return []
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list) or not choices:
            continue
        if len(choices) > 1 or not isinstance(choices[0], str):
            raise UsageError(f"{len(choices)} choices at once: an item gets one label")
        label = _class(desk, choices[0])
        meta = result.get("meta") if isinstance(result.get("meta"), dict) else {}
        annotator = checked_annotator(_name(meta, annotation))
        at = _time(annotation.get("updated_at") or annotation.get("created_at"))
        # The same annotation, brought twice, is one entry; changed in Label Studio since, it is another.
        made = json.dumps([str(task), annotation.get("id"), item, annotator, label, at.isoformat()])
        known = desk.labels_by_id().get(str(meta.get("entry_id") or ""))
        unchanged = known.entry_id if known is not None and known.label == label else None
        found = _entry(desk, unchanged or f"ls:{_digest(made)}", item, annotator, at)
        role = ADJUDICATOR if meta.get("role") == ADJUDICATOR else ANNOTATOR
        return [replace(found, label=label, role=role, source="label-studio")]
    return []


def _entry(desk: Desk, entry_id: str, item: str, annotator: str, at: datetime) -> Entry:
    """An entry on an item as it is now."""
    image, text = desk.units.contents[item]
    version = desk.task.version
    return Entry(entry_id, item, annotator, at, image_sha256=image, text_sha256=text, task_version=version)


def _class(desk: Desk, told: str) -> str:
    label = normalised(told)
    if label is None or label not in desk.task.classes:
        raise UsageError(f"{told[:40]!r} is no class of {desk.name}" if told else "no label")
    return label


def _digest(made: str) -> str:
    return hashlib.sha256(made.encode("utf-8", "replace")).hexdigest()[:32]


class _Items:
    """Items by what a task says of them."""

    def __init__(self, desk: Desk) -> None:
        self.of = desk.units.of
        self.known: set[str] = set()
        self.by_digest: dict[str, list[str]] = {}
        self.by_path: dict[str, list[str]] = {}
        for row in desk.store.items.read(["item_id", "path", "image_sha256"]).to_pylist():
            self.known.add(row["item_id"])
            if row["item_id"] in self.of:
                self.by_digest.setdefault(row["image_sha256"], []).append(row["item_id"])
                self.by_path.setdefault(row["path"], []).append(row["item_id"])

    def find(self, data: Any) -> str:
        """The item that is meant; a UsageError says why there is none."""
        data = data if isinstance(data, dict) else {}
        named = [str(data[key]) for key in ("item_id", "id") if isinstance(data.get(key), (str, int))]
        named += [plain for name in named if (plain := normalised(name)) is not None]
        for name in named:
            if name in self.of:
                return name
        digest, image = data.get("image_sha256"), data.get("image")
        if isinstance(digest, str) and digest in self.by_digest:
            return self._one(self.by_digest[digest])
        if isinstance(image, str):
            from urllib.parse import unquote

            whole = unquote(image.rpartition("?d=")[2])
            for spelt in (whole, whole.replace("\\", "/")):
                pieces = spelt.split("/")
                for end in ("/".join(pieces[start:]) for start in range(len(pieces))):
                    if end in self.by_path:
                        return self._one(self.by_path[end])
        if any(name in self.known for name in named):
            raise UsageError("the task leaves this item out, by its condition or since its file is gone")
        raise UsageError("no item of the store")

    def _one(self, items: list[str]) -> str:
        """The first of some items, if one label serves all of them."""
        if len({self.of[item] for item in items}) > 1:
            raise UsageError(
                f"{len(items)} items have this picture, such as {items[0]!r} and {items[1]!r}, and each is labelled by "
                "itself: say which by item_id"
            )
        return items[0]


def _name(meta: dict[str, Any], annotation: dict[str, Any]) -> str:
    """Name of the annotator: ours, else Label Studio's account, as e-mail or number."""
    if isinstance(meta.get("annotator"), str):
        return str(meta["annotator"])
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return "label-studio" if by is None else by if isinstance(by, str) else f"label-studio-{by}"


def _time(said: Any) -> datetime:
    try:
        found = datetime.fromisoformat(str(said).replace("Z", "+00:00"))
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return min(found.astimezone(UTC), datetime.now(UTC))
    except (ValueError, OverflowError):
        return datetime.now(UTC)


def export_labels(desk: Desk, path: Path) -> int:
    """Write every entry, taken back ones included, as .csv, .json or .parquet. How many."""
    rows = desk.labels.table.read(LABELS.names).sort_by([("at", "ascending"), ("entry_id", "ascending")])
    save(rows, path)
    return len(rows)


def apply_labels(desk: Desk, column: str, scratch: Path) -> JoinReport:
    """Write what is decided as a column of items, as `icehouse join` would; items without a decision keep what they have."""
    import pyarrow.parquet as pq

    if column in RESERVED:
        raise UsageError(f"{column!r} is a column of icehouse's own: give another name")
    decided = sorted(desk.decided().items())
    if not decided:
        raise UsageError(
            f"nothing of {desk.name} is decided yet: an item needs {count_of(desk.task.votes, 'vote')} and a majority"
        )
    file = scratch / "decided.parquet"
    items, labels = [item for item, _ in decided], [decision.label for _, decision in decided]
    pq.write_table(pa.table({"item_id": items, column: labels}), file)
    return join(desk.store, file, columns=[column])
