"""Captions table: its rows and key, who may add to it, what is still to be asked, the journal of answers, failures, imports.

One row a distinct picture, or a distinct pair of picture and text. The spec tells everything that decides about an answer
(model and digest, prompt, options, how the picture was sent), and its fingerprint decides whether an answer may join.

A file of captions made elsewhere says by some column which picture each row is about: an item's id, a path, or a sha256.
Which column that is, and which holds the captions, is found by their names and by what they match; every row that fits no
item is reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import uuid
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...data.labels import as_known
from ...data.readers import read_rows
from ...errors import CaptionError, LockedError, SpaceError, StoreError, UsageError, brief, unknown_name
from ...store import files as locks
from ...store.files import file_sha256, is_name
from ...store.schema import FAILURES, differences, fingerprint, write_part
from ...store.sql import select_items
from ...store.store import Store
from ...store.table import Table
from .questions import COLUMNS, join_flags, judge

#: Name of the captions that need none: ``tables/captions/default``, the modality ``caption``.
DEFAULT_NAME = "default"

#: `stage` in the failure log of a picture that could not be captioned; `encoder` then holds ``captions/<name>``.
STAGE = "caption"

_SHOWN = 40

_SCHEMA = pa.schema(
    [
        pa.field("caption_key", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("text_sha256", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("raw", pa.string()),  # the answer as it came, where cleaning changed it
        pa.field("flags", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("seconds", pa.float32()),
        pa.field("attempts", pa.int16()),
        pa.field("seed", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("host", pa.string()),
        pa.field("created", pa.timestamp("us", tz="UTC")),
    ]
)

Row = dict[str, Any]


def schema_of(*, structured: bool = False) -> pa.Schema:
    """Columns of a captions table; `structured` adds those of `icehouse.embed.captions.questions.COLUMNS`.

    ``flags`` is "" where nothing is wrong, else names separated by commas: ``where flags = ''``, ``group by flags``,
    ``where flags like '%cut%'``.
    """
    if not structured:
        return _SCHEMA
    fields = list(_SCHEMA)
    at = _SCHEMA.get_field_index("caption") + 1
    return pa.schema([*fields[:at], *COLUMNS, *fields[at:]])


def caption_key(image_sha256: str, text_sha256: str | None = None) -> str:
    """Key of a caption: its picture's sha256, or the sha256 of that and the text's, one after the other.

    >>> caption_key("ab")
    'ab'
    """
    if text_sha256 is None:
        return image_sha256
    return hashlib.sha256((image_sha256 + text_sha256).encode()).hexdigest()


def folder_of(name: str) -> str:
    """Name of the table below ``tables/``."""
    return f"captions/{name}"


def names_of(store: Store) -> list[str]:
    """Names of the captions that a store has."""
    return [name.removeprefix("captions/") for name in store.table_names() if name.startswith("captions/")]


def captions_of(store: Store, name: str = DEFAULT_NAME) -> Table:
    """Open the captions of that name; `CaptionError` lists those there are if there are none of that name."""
    if name not in names_of(store):
        have = ", ".join(names_of(store))
        remedy = f"there are: {have}" if have else "there are none yet; make some with `icehouse caption`"
        raise unknown_name(CaptionError(f"no captions {name!r} in {store.path}; {remedy}"))
    return store.table(folder_of(name))


def keys_of(table: Table) -> set[str]:
    """Keys of the captions that a table has."""
    keys: list[str] = table.read(["caption_key"])["caption_key"].to_pylist()
    return set(keys)


def with_texts(table: Table) -> bool:
    """Whether captions of a table belong to a picture and a text, not to a picture alone."""
    return bool((table.spec.get("provenance") or {}).get("text"))


# A model's JSON may hold half of a surrogate pair, a server any number as its count of tokens. Arrow refuses both, and then
# the whole commit; so every value is brought to its column's type when it comes in, where it concerns one answer.


def fit(row: Row, schema: pa.Schema) -> Row:
    """Bring a row to a table's columns; what has no place in its column is null, what is no column is left out.

    Halves of surrogate pairs are replaced by U+FFFD. Raises `ValueError` if a column that may not be null would be.
    """
    fitted = {}
    for column in schema:
        value = _fitting(row.get(column.name), column.type)
        if value is None and not column.nullable:
            raise ValueError(f"no {column.name}")
        fitted[column.name] = value
    return fitted


def append_rows(table: Table, rows: Sequence[Row]) -> int:
    """Append rows to a captions table, without those that it has; returns how many joined."""
    if not rows:
        return 0
    schema = table.snapshot().schema
    return table.append(
        pa.Table.from_pylist([fit(row, schema) for row in rows], schema=schema), unique="caption_key"
    )


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of that type can have it, else None."""
    if isinstance(value, bool) or (isinstance(value, float) and not abs(value) < 1e38):
        return None
    if isinstance(value, list):
        value = [_text(part) for part in value if isinstance(part, str)]
    try:
        return pa.scalar(_text(value) if isinstance(value, str) else value, kind).as_py()
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None


def _text(value: str) -> str:
    """Text that has a UTF-8 form: pairs of surrogates joined, single ones replaced."""
    if value.isascii():
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# Provenance


def make_spec(name: str, provenance: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Spec of a captions table: `provenance` decides who may add to it, `more` is for the record."""
    return {
        "kind": "captions",
        "name": name,
        "key": "caption_key",
        "provenance": dict(provenance),
        "fingerprint": fingerprint(provenance),
        **more,
    }


def ensure_captions(store: Store, spec: Mapping[str, Any]) -> Table:
    """Open the captions table of `spec` for writing, made if it is not there.

    Raises `SpaceError` if it holds captions of another model, digest, prompt or options, with both named, `CaptionError` if
    the name is no name for a table.
    """
    name = str(spec["name"])
    if not is_name(name):
        raise CaptionError(f"{name!r} is no name for captions: letters, digits, '.', '_' and '-', please")
    structured = bool(spec["provenance"].get("structured"))
    table = store.ensure_table(folder_of(name), schema_of(structured=structured), spec)
    have = table.spec
    if have.get("fingerprint") != spec["fingerprint"]:
        raise SpaceError(_refusal(name, have, spec))
    return table


def note_server(table: Table, server: str) -> None:
    """Keep in the spec that this software wrote to the table too."""
    known = list(table.spec.get("servers", ()))
    if server not in known:
        table.update_spec({"servers": [*known, server]})


def _refusal(name: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    unlike = differences(have.get("provenance") or {}, want["provenance"])
    shown = [f"{key} {_short(a)} against {_short(b)}" for key, (a, b) in unlike.items()]
    return (
        f"the captions {name!r} are by {_maker(have)}, which do not mix with those by {_maker(want)}: "
        f"{'; '.join(shown[:4])}; use what they were made with, or give these another --name"
    )


def _maker(spec: Mapping[str, Any]) -> str:
    provenance = spec.get("provenance") or {}
    if "imported" in provenance:
        imported = provenance["imported"]
        return f"import of {imported.get('file')} (sha256 {str(imported.get('sha256'))[:12]})"
    digest = provenance.get("digest")
    model = provenance.get("model", "an unknown model")
    return f"{model} (digest {str(digest)[:12]})" if digest else str(model)


def _short(value: Any) -> str:
    text = "nothing" if value is None else " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


# What is to be asked

_FACTS = ["item_id", "path", "root", "image_sha256", "bytes", "mtime_ns", "missing"]


@dataclass
class Job:
    """One question to be asked.

    `key`: see `caption_key`; `files`: where the picture is, or was, since copies lie in several places; `item_id`: the first
    item that has it, for the failure log; `faults`: host -> questions about it that brought no usable answer there;
    `sent_as`: how it had to be changed to be sent, see `Sent`.
    """

    key: str
    image_sha256: str
    text_sha256: str | None
    text: str | None
    item_id: str
    bytes: int | None
    mtime_ns: int | None
    items: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    failed_before: bool = False
    sent_as: str = ""


@dataclass
class Plan:
    """Pictures to caption, and counts of the rest.

    `distinct`: pictures (with texts: pairs) of the items chosen; `done`: those that have a caption under this name;
    `failed`: those that failed in an earlier run and are left alone; `stale`: those that have a caption, and a failure from
    before it; `without_image`: items that have no picture, or one that could not be read.
    """

    distinct: int = 0
    done: int = 0
    failed: int = 0
    jobs: list[Job] = field(default_factory=list)
    without_image: int = 0
    stale: list[Job] = field(default_factory=list)


def plan(
    store: Store,
    name: str,
    *,
    with_text: bool = False,
    where: str | None = None,
    limit: int | None = None,
    retry_failures: bool = False,
) -> Plan:
    """Find what has no caption under `name`; `with_text`: a caption belongs to a picture with a text."""
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: a number of pictures, 0 or more")
    columns = [*_FACTS, *(("text", "text_sha256") if with_text else ())]
    items = store.items.read(columns)
    if where is not None:
        items = items.filter(pc.is_in(items["item_id"], value_set=select_items(store, where)))
    found = Plan()
    by_key: dict[str, Job] = {}
    for row in _rows(items):
        image = row["image_sha256"]
        if image is None:
            found.without_image += 1
            continue
        text_sha = row.get("text_sha256")
        job = by_key.setdefault(
            caption_key(image, text_sha),
            Job(
                caption_key(image, text_sha),
                image,
                text_sha,
                row.get("text"),
                row["item_id"],
                row["bytes"],
                row["mtime_ns"],
            ),
        )
        job.items.append(row["item_id"])
        if row["path"] is not None and row["root"] is not None:
            # A file that is marked as vanished may be back, but is tried last.
            at = len(job.files) if row["missing"] else 0
            job.files.insert(at, Path(row["root"]) / row["path"])
    found.distinct = len(by_key)
    done = keys_of(captions_of(store, name)) if name in names_of(store) else set()
    failed = _failed(store, name)
    for key, job in by_key.items():
        job.failed_before = any(item in failed for item in job.items)
        if key in done:
            found.done += 1
            if job.failed_before:
                found.stale.append(job)
            continue
        state = (job.bytes, job.mtime_ns, job.text_sha256)
        if not retry_failures and any(failed.get(item) == state for item in job.items):
            found.failed += 1
        elif limit is None or len(found.jobs) < limit:
            found.jobs.append(job)
    return found


def _rows(items: pa.Table) -> Iterator[dict]:
    for batch in items.to_batches(max_chunksize=8192):
        yield from batch.to_pylist()


def _failed(store: Store, name: str) -> dict[str, tuple[int | None, int | None, str | None]]:
    """Items that failed under this name, with the state of their file then, and of the text that went with it."""
    text = ["text_sha256"] if "text_sha256" in store.failures.snapshot().schema.names else []
    log = store.failures.read(["item_id", "stage", "encoder", "bytes", "mtime_ns", *text])
    ours = pc.and_(pc.equal(log["stage"], STAGE), pc.equal(log["encoder"], folder_of(name)))
    return {
        row["item_id"]: (row["bytes"], row["mtime_ns"], row.get("text_sha256"))
        for row in log.filter(pc.fill_null(ours, False)).to_pylist()
    }


# The journal. An answer costs seconds to minutes, so it is written at once, to an SQLite database beside the table; every
# few seconds what is in there becomes a part of the table, and goes. A run that finds answers of a dead one brings them into
# the table first. A flagged answer is kept as a *first* one, no row yet, so that the next run asks only the second question.
#
# With an answer stands which digest the model had when its host was last verified, and a checksum. What cannot become a row,
# is by another model, or not what was written, is set aside in a file and never in the way.
_FOLDER, _JOURNAL, _SET_ASIDE = "journal", "answers.sqlite", "set-aside.txt"
_SETUP = (
    # One process at a time, see `Journal.open`. What it has written outlives it; the system brings it to the medium later.
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    """CREATE TABLE IF NOT EXISTS answers
    (caption_key TEXT PRIMARY KEY, host TEXT, digest TEXT, first INTEGER, row TEXT, crc INTEGER)""",
)


class Journal:
    """The journal of one captions table, in the hands of one run; use `Journal.open`, which keeps other runs out.

    `rows`: answers that are not in the table yet; `firsts`: key -> first answer whose second question is not answered yet;
    `remarks`: what was found when it was opened, for people.
    """

    def __init__(self, table: Table, folder: Path) -> None:
        self.table = table
        self.folder = folder
        self.rows: list[Row] = []
        self.firsts: dict[str, Row] = {}
        self.remarks: list[str] = []
        self._schema = table.snapshot().schema
        self._digest = (table.spec.get("provenance") or {}).get("digest")
        self._database: sqlite3.Connection

    @classmethod
    @contextlib.contextmanager
    def open(cls, table: Table, *, changed: Collection[str] = ()) -> Iterator[Journal]:
        """Take the table for this run, and bring in what a dead run left.

        Of hosts that have `changed`, to another model, it is set aside. Raises `LockedError` if another run is captioning
        under this name.
        """
        folder = table.path / _FOLDER
        locks.make_folder(folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.hold(folder, 0.5))
            except LockedError as error:
                raise LockedError(f"another run is captioning under this name: {error}") from None
            journal = cls(table, folder)
            left = journal._connect()
            stack.callback(journal._database.close)
            journal._recover(left, changed)
            yield journal

    def add(self, row: Row, *, first: bool = False) -> Row:
        """Keep an answer, as safe from a death of this process as in the table; returns it as the table can have it.

        `first`: it is flagged, and a second question follows.
        """
        row = fit(row, self._schema)
        key, text = row["caption_key"], json.dumps({**row, "created": row["created"].isoformat()})
        values = (key, row["host"], self._digest, first, text, zlib.crc32(text.encode()))
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", *values)
        self.firsts.pop(key, None)
        if first:
            self.firsts[key] = row
        else:
            self.rows.append(row)
        return row

    def void(self, host: str) -> None:
        """Forget what this host answered since it was last looked at, which is by another model."""
        self.firsts = {key: row for key, row in self.firsts.items() if row["host"] != host}
        self._execute("DELETE FROM answers WHERE host = ?", host)

    def commit(self, rows: Sequence[Row]) -> None:
        """Append answers to the table and forget them here; may run in another thread."""
        append_rows(self.table, rows)
        keys = json.dumps([row["caption_key"] for row in rows])
        self._execute("DELETE FROM answers WHERE caption_key IN (SELECT value FROM json_each(?))", keys)

    def _connect(self) -> list[tuple[Any, ...]]:
        """Open the database; returns what is in it. One that is damaged is set aside whole."""
        path = self.folder / _JOURNAL
        for place in (path, self.folder / _SET_ASIDE):
            if place.is_symlink():
                raise StoreError(f"cannot write to {place}: it is a link, which icehouse does not follow")
        while True:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                for statement in _SETUP:
                    self._database.execute(statement)
                return self._database.execute("SELECT * FROM answers ORDER BY rowid").fetchall()
            except sqlite3.DatabaseError as error:
                self._database.close()
                if isinstance(error, sqlite3.OperationalError):
                    raise self._failed(error) from error
                aside = path.with_name(f"set-aside-{uuid.uuid4().hex[:12]}.sqlite")
                path.rename(aside)
                self.remarks.append(
                    f"the journal that an earlier run left cannot be read ({error}): its answers are asked for again, "
                    f"and it is kept for you as {aside}"
                )

    def _execute(self, statement: str, *values: Any) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> StoreError:
        return StoreError(f"cannot write to {self.folder}: {error}")

    def _recover(self, left: Sequence[tuple[Any, ...]], changed: Collection[str]) -> None:
        """Bring what dead runs left into the table; first answers stay."""
        rows: list[Row] = []
        aside: list[str] = []
        for key, host, digest, first, text, crc in left:
            try:
                if zlib.crc32(text.encode()) != crc or host in changed or digest != self._digest:
                    raise ValueError("not what was written, or by another model")
                record = json.loads(text)
                row = fit({**record, "created": datetime.fromisoformat(record["created"])}, self._schema)
            except (ValueError, TypeError, LookupError, AttributeError):
                aside.append(str(text))
                continue
            if first:
                self.firsts[key] = row
            else:
                rows.append(row)
        append_rows(self.table, rows)
        done = keys_of(self.table) if self.firsts else set()
        self.firsts = {key: row for key, row in self.firsts.items() if key not in done}
        if aside:
            self._set_aside(aside)
        # A death before this does the same again.
        kept = json.dumps(list(self.firsts))
        self._execute("DELETE FROM answers WHERE caption_key NOT IN (SELECT value FROM json_each(?))", kept)

    def _set_aside(self, texts: Sequence[str]) -> None:
        path = self.folder / _SET_ASIDE
        try:
            with path.open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(f"{text}\n" for text in texts)
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        self.remarks.append(
            f"{len(texts)} answers that an earlier run left cannot be read or may be by another model; they are asked for "
            f"again, and kept for you in {path}"
        )


# Failures

#: The failure log's columns, and what a failure with a post's text in the prompt is held to besides its file.
_FAILURE_COLUMNS = pa.schema([*FAILURES, pa.field("text_sha256", pa.string())])


def record_failures(store: Store, name: str, failed: Sequence[tuple[Job, Exception]]) -> None:
    """Put failures into the log, in place of earlier ones of these pictures."""
    if not failed:
        return
    now = datetime.now(UTC)
    rows = [
        {
            "item_id": job.item_id,
            "path": str(job.files[0]) if job.files else None,
            "stage": STAGE,
            "error": type(error).__name__,
            "message": brief(error),
            "bytes": job.bytes,
            "mtime_ns": job.mtime_ns,
            "encoder": folder_of(name),
            "at": now,
            "text_sha256": job.text_sha256,
        }
        for job, error in failed
    ]
    # A log gets the further column from the first run that needs it.
    with_text = any(job.text_sha256 is not None for job, _ in failed)
    schema = _FAILURE_COLUMNS if with_text else FAILURES
    store.failures.append(pa.Table.from_pylist([fit(row, schema) for row in rows], schema=schema))
    # Only now: a death in between leaves a picture two failures, not none.
    _remove_failures(store, name, [job for job, _ in failed], now)
    for job, _ in failed:
        job.failed_before = True


def forget_failures(store: Store, name: str, jobs: Sequence[Job]) -> None:
    """Take earlier failures of these pictures out of the log; those of other stages stay."""
    _remove_failures(store, name, jobs, datetime.now(UTC))
    for job in jobs:
        job.failed_before = False


def _remove_failures(store: Store, name: str, jobs: Sequence[Job], before: datetime) -> None:
    """Take the captioning failures of these pictures out, in one commit: other stages' failures are never out of it."""
    items = sorted({item for job in jobs if job.failed_before for item in job.items})
    if not items:
        return
    table = store.failures
    with table.lock():
        rows = table.read()
        old = pc.is_in(rows["item_id"], value_set=pa.array(items, pa.string()))
        for column, value in (("stage", STAGE), ("encoder", folder_of(name))):
            old = pc.and_(old, pc.fill_null(pc.equal(rows[column], value), False))
        old = pc.and_(old, pc.fill_null(pc.less(rows["at"], pa.scalar(before, rows["at"].type)), False))
        if not pc.any(old).as_py():
            return
        names = [part.name for part in table.snapshot().parts]
        left = write_part(rows.filter(pc.invert(old)), table.path, table.spec, replaces=names)
        table.replace_parts(names, left)


_CAPTIONS = (
    "caption",
    "captions",
    "description",
    "generated_caption",
    "answer",
    "response",
    "alt_text",
)
_KEYS = (
    "image_sha256",
    "sha256",
    "item_id",
    "id",
    "image_id",
    "path",
    "image_path",
    "image",
    "file",
    "file_name",
    "filename",
    "img",
)
# Instead of a picture's sha256: the name fits several pictures, so it tells none.
_SEVERAL = ""


@dataclass
class ImportReport:
    """Outcome of one `import_captions` call; of a dry run, what it would be.

    `known`: pictures whose caption was in the table already; `matched_by`: the file's column, and what of the items it
    names; `unmatched`: rows that fit no item with a picture or several pictures, have no caption, or could not be read;
    `conflicting`: rows about a picture that an earlier row gave another caption.
    """

    store: str
    name: str
    file: str
    dry_run: bool = False
    rows: int = 0
    imported: int = 0
    known: int = 0
    matched_by: str = ""
    unmatched: int = 0
    unmatched_rows: list[str] = field(default_factory=list)
    conflicting: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def import_captions(
    store: Store | str | Path, file: str | Path, *, name: str = DEFAULT_NAME, dry_run: bool = False
) -> ImportReport:
    """Take captions from a JSONL, CSV, TSV or Parquet file into ``tables/captions/<name>``; `dry_run` writes nothing.

    The same file may be imported again when the store has grown. Raises `SourceError` if it cannot be read,
    `CaptionError` if it has no column of captions or none that tells the pictures, `SpaceError` if the captions of that
    name are from another file, or by a model.
    """
    store = Store.of(store)
    file = Path(file)
    columns, bad = _read(file)
    captions_column = _caption_column(file, columns)
    captions = columns.pop(captions_column)
    pictures = _pictures(store)
    key_column, kind, matches = _best_key(file, columns, pictures)
    report = ImportReport(str(store.path), name, str(file), dry_run, rows=len(captions) + len(bad))
    report.unmatched, report.unmatched_rows = len(bad), bad
    report.matched_by = f"{key_column} ({kind})"
    provenance = {
        "imported": {"file": file.name, "sha256": file_sha256(file)},
        "columns": {"caption": captions_column, kind: key_column},
    }
    chosen: dict[str, str] = {}
    for key, image, caption in zip(columns[key_column], matches, captions, strict=True):
        if not image or caption is None:
            report.unmatched += 1
            why = {None: "", _SEVERAL: " (fits several pictures)"}.get(image, " (no caption)")
            report.unmatched_rows.append(f"{key}{why}")
        elif chosen.setdefault(image, caption) != caption:
            report.conflicting += 1
    if not chosen:
        raise CaptionError(f"{file}: no row fits an item of {store.path}, by {report.matched_by}")
    spec = make_spec(name, provenance)
    if dry_run:
        # What is not there is not made; what is there must fit.
        there = keys_of(ensure_captions(store, spec)) if name in names_of(store) else set()
        report.imported = len(chosen.keys() - there)
        report.known = len(chosen) - report.imported
        return report
    table = ensure_captions(store, spec)
    now = datetime.now(UTC)
    with Journal.open(table):
        rows = [_row(image, caption.strip(), now) for image, caption in chosen.items()]
        report.imported = append_rows(table, rows)
    report.known = len(chosen) - report.imported
    return report


def _read(file: Path) -> tuple[dict[str, list[str | None]], list[str]]:
    """Columns that may tell a picture or a caption, and the rows that could not be read."""
    known = {*_KEYS, *_CAPTIONS}
    rows = read_rows(
        file, lambda header: [n for n in header.columns if n.lower() in known and n not in header.lists]
    )
    bad = [f"{row.where}: {row.message}" for row in rows.bad]
    if bad and not len(rows.numbers):
        raise CaptionError(f"{file}: not one of its rows could be read; {bad[0]}")
    return {name: rows.table[name].to_pylist() for name in rows.table.column_names}, bad


def _caption_column(file: Path, columns: Mapping[str, Sequence[str | None]]) -> str:
    by_name = {name.lower(): name for name in columns}
    for known in _CAPTIONS:
        if known in by_name:
            return by_name[known]
    raise CaptionError(f"{file} has no column of captions; name it one of {', '.join(_CAPTIONS)}")


def _pictures(store: Store) -> dict[str, dict[str, str]]:
    """Names by which a row may refer to a picture: kind of name -> name -> the picture's sha256, or `_SEVERAL`."""
    items = store.items.read(["item_id", "path", "root", "image_sha256"]).to_pylist()
    by: dict[str, dict[str, str]] = {kind: {} for kind in ("sha256", "item_id", "path", "file name")}

    def add(kind: str, name: str, image: str) -> None:
        if by[kind].setdefault(name, image) != image:
            by[kind][name] = _SEVERAL

    for row in items:
        image = row["image_sha256"]
        if image is None:
            continue
        add("sha256", image, image)
        add("item_id", row["item_id"], image)
        if row["path"] is not None:
            path = PurePosixPath(row["path"])
            for spelling in {str(path), *([str(Path(row["root"]) / path)] if row["root"] else [])}:
                add("path", spelling, image)
            add("file name", path.name, image)
    return by


def _best_key(
    file: Path, columns: Mapping[str, Sequence[str | None]], pictures: Mapping[str, Mapping[str, str]]
) -> tuple[str, str, list[str | None]]:
    """The column, and the way to read it, that fits most rows."""
    best: tuple[int, str, str, list[str | None]] | None = None
    unclear: list[str] = []
    for name in sorted(columns, key=lambda n: _KEYS.index(n.lower()) if n.lower() in _KEYS else 99):
        for kind, known in pictures.items():
            values = columns[name]
            if kind == "item_id":
                ids = [pa.chunked_array([list(column)], pa.string()) for column in (values, known)]
                values = as_known(*ids).to_pylist()
            found = [None if value is None else known.get(_normal(value, kind)) for value in values]
            hits = sum(bool(image) for image in found)
            unclear += [f"{name} ({kind})"] if _SEVERAL in found else []
            if hits and (best is None or hits > best[0]):
                best = (hits, name, kind, found)
    if best is None and unclear:
        raise CaptionError(
            f"{file}: {unclear[0]} fits several pictures in every row; give item_id, the whole path or sha256"
        )
    if best is None:
        tried = ", ".join(columns) or f"none of {', '.join(_KEYS)} is there"
        raise CaptionError(
            f"{file}: no column tells which pictures the captions are of (tried: {tried}); give item_id, path or sha256"
        )
    return best[1:]


def _normal(value: str, kind: str) -> str:
    value = value.strip()
    if kind == "sha256":
        return value.lower().removeprefix("sha256:")
    if kind in ("path", "file name"):
        path = PurePosixPath(value.replace("\\", "/"))
        return path.name if kind == "file name" else str(path)
    return value


def _row(image: str, caption: str, now: datetime) -> dict[str, Any]:
    flags, columns = judge(caption, structured=False)
    return {
        "caption_key": image,
        "image_sha256": image,
        **columns,
        "flags": join_flags(flags),
        "created": now,
    }
