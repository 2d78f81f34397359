"""Answers on disk before the next question is asked, and in the table soon after.

An answer costs seconds to minutes, a commit of a table some milliseconds and a file. So each answer is first written as one
line to a journal beside the table, which costs microseconds and survives any death of this process; every few seconds
the lines so far become a part of the table and their journal goes. A run that finds journals of a dead one begins by
bringing them into the table. Only the answers under way when a process dies are asked for again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import LockedError, StoreError
from ...store import lock as locks
from ...store.table import Table

__all__ = ["Journal", "append_rows"]

_FOLDER = "journal"
Row = dict[str, Any]


class Journal:
    """The journal of one captions table, in the hands of one run.

    Use `Journal.open`, which keeps other runs out.
    """

    def __init__(self, table: Table, folder: Path) -> None:
        self.table = table
        self.folder = folder
        self.rows: list[Row] = []
        self._number = 0
        self._file: int | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, table: Table) -> Iterator[Journal]:
        """Take the table for this run, and bring in what a dead run left.

        Raises
        ------
        LockedError
            If another run is captioning under this name; the message names it.
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
            journal._recover()
            try:
                yield journal
            finally:
                journal._close()

    def add(self, row: Row) -> None:
        """Keep a row, as safe from a death of this process as in the table."""
        line = json.dumps({**row, "created": row["created"].isoformat()}, ensure_ascii=True) + "\n"
        try:
            if self._file is None:
                path = self.folder / f"{self._number:06d}.jsonl"
                self._file = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                )
            os.write(self._file, line.encode())
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        self.rows.append(row)

    def take(self) -> tuple[int, list[Row]]:
        """Close the journal in hand and give its rows, to be committed; what is added from now on goes to the next one."""
        self._close()
        taken, self.rows = self.rows, []
        number, self._number = self._number, self._number + 1
        return number, taken

    def commit(self, number: int, rows: Sequence[Row]) -> int:
        """Append rows to the table and forget their journal; may run in another thread."""
        added = append_rows(self.table, rows)
        self._path(number).unlink(missing_ok=True)
        return added

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _recover(self) -> None:
        left = sorted(self.folder.glob("*.jsonl"))
        rows = [row for path in left for row in _read(path)]
        append_rows(self.table, rows)
        for path in left:
            path.unlink()


def append_rows(table: Table, rows: Sequence[Row]) -> int:
    """Append rows to a captions table, without those that it has; returns how many joined."""
    if not rows:
        return 0
    schema = table.snapshot().schema
    return table.append(pa.Table.from_pylist(list(rows), schema=schema), unique="caption_key")


def _read(path: Path) -> Iterator[Row]:
    """Whole lines of a journal; the last one may have been cut by death."""
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            row["created"] = datetime.fromisoformat(row["created"])
            yield row
