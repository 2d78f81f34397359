"""When rows claim one id: the same row twice is read once, parts of one item are put together, and the rest is refused.

An id never stands for two things: whoever comes second is rejected, with both places named, and never replaces the first.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import UsageError
from .labels import as_lists
from .pieces import Piece, Rejected, count, short, show

__all__ = ["combine"]

_PLACE = ("item_id", "source", "path", "root")


def combine(pieces: list[Piece], *, merge: bool = False) -> tuple[pa.Table, list[Rejected], list[str]]:
    """Put pieces into one table with unique ids.

    Parameters
    ----------
    pieces : list of Piece
    merge : bool
        Rows of one id are one item that several files describe: nulls are filled in, of two texts the longer is kept, of two
        splits the first; only labels that contradict each other reject a row. Without it, that holds only for an image
        that several sources name, and nothing may differ.

    Returns
    -------
    table : pyarrow.Table
    rejected : list of Rejected
        Those of the pieces, then those that came second.
    notes : list of str
    """
    lists = {f.name for piece in pieces for f in piece.table.schema if pa.types.is_list(f.type)}
    tables = [piece.table for piece in pieces]
    for name in lists:
        tables = [
            table.set_column(at, name, as_lists(table[name]))
            if (at := table.schema.get_field_index(name)) >= 0
            else table
            for table in tables
        ]
    table = pa.concat_tables(tables, promote_options="default")
    # DuckDB's column names do not know upper from lower case.
    for name, times in Counter(name.lower() for name in table.column_names).items():
        if times > 1:
            raise UsageError(
                f"columns called {name!r} in different cases; rename one: --label-column NAME={name}"
            )
    rejected = [row for piece in pieces for row in piece.rejected]
    notes = [note for piece in pieces for note in piece.notes]

    codes = table["item_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    counts = np.bincount(codes)
    if len(codes) > len(counts):
        claims = _Claims(pieces, merge)
        places = np.flatnonzero(counts[codes] > 1)
        for place, row in zip(places.tolist(), table.take(pa.array(places)).to_pylist(), strict=True):
            claims.add(place, row)
        table = claims.settle(table)
        rejected += claims.rejected
        notes += claims.notes()
    return table, rejected, list(dict.fromkeys(notes))


class _Claims:
    """Rows that share their ids with others, in order."""

    def __init__(self, pieces: list[Piece], merge: bool) -> None:
        self._pieces = pieces
        self._ends = np.cumsum([piece.table.num_rows for piece in pieces])
        self._merge = merge
        self._held: dict[str, tuple[int, dict[str, Any]]] = {}
        self._changed: dict[int, dict[str, Any]] = {}
        self._dropped: list[int] = []
        self._tally: Counter[str] = Counter()
        self.rejected: list[Rejected] = []

    def add(self, place: int, row: dict[str, Any]) -> None:
        """Take the next row that shares its id; `place` is its row in the table."""
        first = self._held.setdefault(row["item_id"], (place, row))
        if first[0] == place:
            return
        self._dropped.append(place)
        held = first[1]
        differing = [name for name in row if name not in _PLACE and row[name] != held[name]]
        file, held_file = _file(row), _file(held)
        if not differing and file == held_file:
            self._tally["same"] += 1
            return
        clashing = [name for name in differing if row[name] is not None and held[name] is not None]
        if file is not None and held_file is not None and file != held_file:
            clashing.insert(0, "path")
        # What only a folder's name tells gives way, whichever source came first.
        for name in [name for name in clashing if name in self._owner(place).from_folders]:
            clashing.remove(name)
            row[name] = None
            self._tally["folders"] += 1
        for name in [name for name in clashing if name in self._owner(first[0]).from_folders]:
            clashing.remove(name)
            held[name] = None
            self._tally["folders"] += 1
        several = self._merge or (file is not None and self._owner(place) is not self._owner(first[0]))
        allowed = {"text", "split"} if self._merge else set()
        if not several or not allowed.issuperset(clashing):
            self._reject(place, row, first[0], held, clashing or differing)
            return
        for name in clashing:
            self._tally[name] += 1
        self._tally["merged"] += 1
        self._changed[first[0]] = self._held[row["item_id"]][1]
        if any(held[name] is None and row[name] is not None for name in self._owner(first[0]).from_folders):
            held["source"] = row["source"]
        for name, value in row.items():
            if name == "root" or name == "path":
                if held_file is None:
                    held[name] = value
            elif held[name] is None or (
                name == "text" and value is not None and len(value) > len(held[name])
            ):
                held[name] = value

    def settle(self, table: pa.Table) -> pa.Table:
        """Table without the rows that came second, those they were merged into filled."""
        keep = np.ones(table.num_rows, bool)
        keep[self._dropped] = False
        if not self._changed:
            return table.filter(pa.array(keep))
        changed = np.array(list(self._changed))
        keep[changed] = False
        filled = pa.Table.from_pylist(list(self._changed.values()), schema=table.schema)
        order = np.argsort(np.concatenate([np.flatnonzero(keep), changed]), kind="stable")
        return pa.concat_tables([table.filter(pa.array(keep)), filled]).take(pa.array(order))

    def notes(self) -> list[str]:
        """What was done, for the user."""
        tally = self._tally
        said = {
            "same": f"{count(tally['same'], 'identical row')} read twice and kept once",
            "merged": f"{count(tally['merged'], 'row')} merged into {count(len(self._changed), 'item')} of the same id",
            "text": f"{count(tally['text'], 'text')} differing between files: the longer kept",
            "folders": f"{count(tally['folders'], 'label or split')} of folders differing from an annotation file's: the "
            "file's kept (--folder-label-column NAME keeps both)",
            "split": f"{count(tally['split'], 'item')} in several splits: kept in that of the file named first",
        }
        return [text for key, text in said.items() if tally[key]]

    def _owner(self, place: int) -> Piece:
        return self._pieces[int(np.searchsorted(self._ends, place, side="right"))]

    def _number(self, place: int) -> int | None:
        """The row's number in its annotation file, or None for an image found on disk."""
        index = int(np.searchsorted(self._ends, place, side="right"))
        numbers = self._pieces[index].numbers
        start = int(self._ends[index - 1]) if index else 0
        return None if numbers is None else int(numbers[place - start])

    def _reject(
        self, place: int, row: dict[str, Any], other: int, held: dict[str, Any], differing: list[str]
    ) -> None:
        source = self._owner(place).source
        number = self._number(place)
        handle = f"{Path(source).name}/{row['path']}" if number is None else f"{Path(source).stem}:{number}"
        # Where two files share a name, that is the other row's id, whose failure this must not look like.
        if handle == row["item_id"]:
            handle = f"{Path(row['source']).parent.name}/{handle}"
        remedy = "ids must be unique; --id-column names another column"
        if row["item_id"] == row["path"] and held["path"] == row["path"] and "path" in differing:
            remedy = f"--root {posixpath.commonpath([row['root'], held['root']])} tells them apart"
        elif row["item_id"] == row["path"]:
            remedy = "--id-column names a column that tells them apart"
        message = (
            f"{self._where(place, row)}: id {show(row['item_id'])} is taken by {self._where(other, held)}, "
            f"which differs in {', '.join(differing[:5]) or 'its image'}; {remedy}"
        )
        self.rejected.append((short(handle), row["path"], message))

    def _where(self, place: int, row: Mapping[str, Any]) -> str:
        number = self._number(place)
        source = self._owner(place).source
        return f"{source}, row {number}" if number is not None else str(_file(row))


def _file(row: Mapping[str, Any]) -> str | None:
    return None if row["path"] is None else os.path.normpath(posixpath.join(row["root"], row["path"]))
