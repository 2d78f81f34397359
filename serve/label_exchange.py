"""Labels for other programs and from them: Label Studio's JSON, tables of votes, and a column of items.

Label Studio knows annotators by accounts of its own, and refuses those that it does not have. So the name goes into the
``meta`` of each result, which it keeps as it is; on the way back the name is read from there, else from ``completed_by``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..data.labels import normalised
from ..data.readers import read_rows
from ..errors import IcehouseError, SourceError, UsageError
from ..store.annotate import JoinReport, join
from ..store.files import publish_text
from ..store.schema import RESERVED
from ..store.sql import save
from .label_table import (
    ADJUDICATOR,
    ANNOTATOR,
    LABEL,
    LABELS,
    SKIP,
    UNDO,
    Entry,
    checked_annotator,
    checked_entry_id,
)
from .labelling import Desk

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
    numbered = zip(read.numbers.tolist(), read.table.to_pylist(), strict=True)
    return _import_votes(desk, list(numbered), problems)


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
        item = items.find(task.get("data"))
        if item is None:
            problems.append(f"task {name}: no item of the store")
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
    if item is None:
        raise UsageError("no item of the store")
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
        self.ids = {*desk.units.of}
        rows = desk.store.items.read(["item_id", "path", "image_sha256"]).to_pylist()
        rows = [row for row in rows if row["item_id"] in self.ids]
        self.by_digest = {row["image_sha256"]: row["item_id"] for row in reversed(rows)}
        self.by_path = {row["path"]: row["item_id"] for row in reversed(rows) if row["path"]}

    def find(self, data: Any) -> str | None:
        if not isinstance(data, dict):
            return None
        for key in ("item_id", "id"):
            if isinstance(data.get(key), (str, int)) and str(data[key]) in self.ids:
                return str(data[key])
        digest, image = data.get("image_sha256"), data.get("image")
        if isinstance(digest, str) and digest in self.by_digest:
            return self.by_digest[digest]
        if not isinstance(image, str):
            return None
        from urllib.parse import unquote

        pieces = unquote(image.rpartition("?d=")[2]).split("/")
        endings = ("/".join(pieces[start:]) for start in range(len(pieces)))
        return next((self.by_path[end] for end in endings if end in self.by_path), None)


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
            f"nothing of {desk.name} is decided yet: an item needs {desk.task.votes} votes and a majority"
        )
    file = scratch / "decided.parquet"
    items, labels = [item for item, _ in decided], [decision.label for _, decision in decided]
    pq.write_table(pa.table({"item_id": items, column: labels}), file)
    return join(desk.store, file, columns=[column])
