"""Journal of answers, and log of failures: what a captioning run has on disk before, and beside, its table.

An answer costs seconds to minutes, so it is written at once, as one line of a journal beside the table; every few seconds
the lines become a part of the table, and their journal goes. A run that finds journals of a dead one brings them into the
table first. A flagged answer is written as a *first* one, no row yet, so that the next run asks only the second question.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import LockedError, StoreError, brief
from ...store import files as locks
from ...store.parts import write_part
from ...store.schema import FAILURES
from ...store.store import Store
from ...store.table import Table
from .caption_table import (
    STAGE,
    Columns,
    Row,
    append_rows,
    columns_of,
    fit,
    folder_of,
    keys_of,
    writable_schema,
)
from .pictures import Job

# A line tells which digest the model had when its host was last verified, and ends with its checksum. Lines that cannot
# become rows, that are by another model, or not what was written, are set aside in a file and never in the way.
_FOLDER = "journal"
_SET_ASIDE = "set-aside.txt"
# Keys of a line that are no columns.
_FIRST, _DIGEST, _VOID = "_first", "_digest", "_void"
# The checksum of what is before it ends a line; lines of an older icehouse have none.
_CRC = b"_crc"
_CHECKED = re.compile(rb'(\{.*), "_crc": (\d{1,10})\}', re.DOTALL)


@dataclass
class Batch:
    """Rows on their way into the table, and the journals to be forgotten once they are there."""

    rows: list[Row]
    numbers: list[int] = field(default_factory=list)


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
        self._columns = columns_of(writable_schema(table))
        self._digest = (table.spec.get("provenance") or {}).get("digest")
        self._numbers: list[int] = []  # journals with answers in `rows`
        self._next = 0
        self._file: int | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, table: Table, *, changed: Collection[str] = ()) -> Iterator[Journal]:
        """Take the table for this run, and bring in what a dead run left.

        Of hosts that have `changed`, to another model, it is set aside. Raises `LockedError` if another run is captioning
        under this name.
        """
        folder = table.path / _FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {folder}: {error.strerror or error}") from error
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.hold(folder, 0.5))
            except LockedError as error:
                raise LockedError(f"another run is captioning under this name: {error}") from None
            journal = cls(table, folder)
            journal._recover(changed)
            try:
                yield journal
            finally:
                journal._close()

    def add(self, row: Row, *, first: bool = False) -> Row:
        """Keep an answer, as safe from a death of this process as in the table; returns it as the table can have it.

        `first`: it is flagged, and a second question follows.
        """
        row = fit(row, self._columns)
        self._write({**row, "created": row["created"].isoformat(), _DIGEST: self._digest, _FIRST: first})
        if first:
            self.firsts[row["caption_key"]] = row
        else:
            self.firsts.pop(row["caption_key"], None)
            self.rows.append(row)
        return row

    def void(self, host: str) -> None:
        """Note that what this host answered since it was last looked at is by another model."""
        self.firsts = {key: row for key, row in self.firsts.items() if row["host"] != host}
        self._write({_VOID: host})

    def take(self) -> Batch:
        """Close the journal in hand and give its rows, to be committed; what is added from now on goes to the next one."""
        self._close()
        taken = Batch(self.rows, self._numbers)
        self.rows, self._numbers = [], []
        # The closed journal is about to go, with the first answers in it.
        for row in list(self.firsts.values()):
            self.add(row, first=True)
        return taken

    def put_back(self, batch: Batch, rows: Sequence[Row]) -> None:
        """Put rows of a batch back for the next one, with their journal files."""
        self.rows = [*rows, *self.rows]
        self._numbers = [*batch.numbers, *self._numbers]
        batch.numbers = []

    def commit(self, batch: Batch, rows: Sequence[Row]) -> int:
        """Append rows of a batch to the table and forget their journals; may run in another thread."""
        added = append_rows(self.table, rows)
        for number in batch.numbers:
            self._path(number).unlink(missing_ok=True)
        return added

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

    def _write(self, record: dict[str, Any]) -> None:
        text = json.dumps(record, ensure_ascii=True).encode()
        line = memoryview(b'%b, "%b": %d}\n' % (text[:-1], _CRC, zlib.crc32(text)))
        try:
            if self._file is None:
                self._file = _append_to(self._path(self._next))
                self._numbers.append(self._next)
                self._next += 1
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _recover(self, changed: Collection[str]) -> None:
        """Bring what dead runs left into the table; first answers go over into a journal of this run."""
        left = sorted(self.folder.glob("*.jsonl"))
        answers, aside = self._read(left, changed)
        done = {answer.row["caption_key"] for answer in answers if not answer.first}
        append_rows(self.table, [answer.row for answer in answers if not answer.first])
        firsts = {answer.row["caption_key"]: answer.row for answer in answers if answer.first}
        if firsts:
            done |= keys_of(self.table)
        # Numbers go on: a death amid this finds both the old journals and the new one, and does the same again.
        self._next = 1 + max((int(path.stem) for path in left if path.stem.isdigit()), default=-1)
        for key, row in firsts.items():
            if key not in done:
                self.add(row, first=True)
        if aside:
            self._set_aside(aside)
        for path in left:
            path.unlink()

    def _read(self, paths: Sequence[Path], changed: Collection[str]) -> tuple[list[_Line], list[bytes]]:
        """Answers that can be had, and lines that cannot."""
        answers: list[_Line] = []
        aside: list[bytes] = []
        for path in paths:
            for text in _lines(path):
                try:
                    line = _parse(text, self._columns)
                except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                    aside.append(text)
                    continue
                if line.void is not None:
                    aside += [answer.text for answer in answers if answer.row["host"] == line.void]
                    answers = [answer for answer in answers if answer.row["host"] != line.void]
                elif line.row["host"] in changed or line.digest not in (self._digest, _UNKNOWN):
                    aside.append(text)
                else:
                    answers.append(line)
        return answers, aside

    def _set_aside(self, lines: Sequence[bytes]) -> None:
        path = self.folder / _SET_ASIDE
        try:
            with os.fdopen(_append_to(path), "ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        self.remarks.append(
            f"{len(lines)} answers that an earlier run left cannot be read or may be by another model; they are asked for "
            f"again, and kept for you in {path}"
        )


#: Digest of lines from before digests were written.
_UNKNOWN = object()


@dataclass
class _Line:
    """A line of a journal: an answer, or that those of a host are `void`."""

    text: bytes
    row: Row
    first: bool = False
    digest: Any = _UNKNOWN
    void: str | None = None


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines of a journal; the last one may have been cut by death."""
    *lines, rest = path.read_bytes().split(b"\n")
    yield from (line for line in lines if line.strip())
    with contextlib.suppress(ValueError):
        json.loads(rest)
        yield rest


def _append_to(path: Path) -> int:
    """Open a file for appending; a link is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _parse(text: bytes, columns: Columns) -> _Line:
    if match := _CHECKED.fullmatch(text):
        text = match[1] + b"}"
        if zlib.crc32(text) != int(match[2]):
            raise ValueError("the line is not what was written")
    record = json.loads(text)
    if _VOID in record:
        return _Line(text, {}, void=str(record[_VOID]))
    first, digest = bool(record.pop(_FIRST, False)), record.pop(_DIGEST, _UNKNOWN)
    record["created"] = datetime.fromisoformat(record["created"])
    return _Line(text, fit(record, columns), first, digest)


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
    columns = columns_of(schema)
    store.failures.append(pa.Table.from_pylist([fit(row, columns) for row in rows], schema=schema))
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
