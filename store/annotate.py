"""Labels and splits from a file, joined to the items by a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.readers import Quotes, read_rows
from ..errors import SourceError, UsageError
from .schema import RESERVED

if TYPE_CHECKING:
    from .store import Store

__all__ = ["JOIN_KEYS", "JoinReport", "join"]

#: Columns of `items` that a file may be joined on.
JOIN_KEYS = ("item_id", "path", "image_sha256", "text_sha256")

_SHOWN = 10


@dataclass(frozen=True)
class JoinReport:
    """What a join did.

    Attributes
    ----------
    columns : list of str
        Columns of `items` that the file filled.
    rows : int
        Distinct keys in the file.
    matched : int
        Items that got values.
    changed : int
        Items whose values are other than before.
    unmatched_rows : int
        Keys of the file that no item has, and the first of them.
    unmatched_items : int
        Items that the file does not name, and the first of them.
    notes : list of str
        Rows of the file that could not be read, and how it was understood.
    """

    columns: list[str]
    rows: int
    matched: int
    changed: int
    unmatched_rows: int
    first_unmatched_rows: list[str]
    unmatched_items: int
    first_unmatched_items: list[str]
    notes: list[str]


def join(
    store: Store,
    path: Path,
    *,
    on: str = "item_id",
    file_key: str | None = None,
    columns: Sequence[str] | None = None,
    quotes: Quotes = "auto",
) -> JoinReport:
    """Bring columns of a CSV, TSV, JSONL or Parquet file into `items`.

    An empty cell leaves what the item has. Items that the file does not name stay as they are.

    Parameters
    ----------
    store : Store
    path : Path
    on : {"item_id", "path", "image_sha256", "text_sha256"}, default "item_id"
        Column of `items` to match. Several items may have the same value; all get the row.
    file_key : str, optional
        The file's column with these values, if it has another name.
    columns : sequence of str, optional
        Columns to bring; all others than the key unless given. Of those that icehouse fills itself, only `split` may come.
    quotes : {"auto", "csv", "literal"}, default "auto"
        See `icehouse.data.readers.read_rows`.

    Raises
    ------
    UsageError
        If a column does not exist or is reserved.
    SourceError
        If the file cannot be read, or has two rows with one key and different values.
    """
    if on not in JOIN_KEYS:
        raise UsageError(f"items cannot be joined on {on!r}; use one of {', '.join(JOIN_KEYS)}")
    key = file_key or on

    def choose(names: Sequence[str], unusable: Mapping[str, str]) -> list[str]:
        return [key, *_choose(path, key, names, unusable, columns)]

    if not path.is_file():
        raise SourceError(f"no file {path}")
    read = read_rows(path, choose, quotes=quotes)
    notes = [*read.notes, *(f"{path.name}, {bad.where}: {bad.message}" for bad in read.bad[:_SHOWN])]
    if len(read.bad) > _SHOWN:
        notes.append(f"{path.name}: {len(read.bad) - _SHOWN} more rows could not be read")
    rows = _one_row_a_key(path, _empty_to_null(read.table), key)
    names = [name for name in rows.column_names if name != key]

    # From reading what the items have to writing what they get, nobody else may change them.
    with store.items.lock():
        snapshot = store.items.snapshot()
        known = [name for name in names if name in snapshot.schema.names]
        items = snapshot.read(list(dict.fromkeys(["item_id", on, *known])))
        index = pc.index_in(items[on], value_set=rows[key], skip_nulls=True)
        hit = pc.is_valid(index)
        matched = items.filter(hit)
        new = rows.take(index.drop_null())
        values = {"item_id": matched["item_id"]}
        for name in names:
            old = matched[name].cast(pa.string()) if name in known else pa.nulls(len(new), pa.string())
            values[name] = pc.coalesce(new[name], old)
        changed = store.items.upsert(pa.table(values), key="item_id") if names and len(new) else 0

    strangers = rows[key].filter(pc.invert(pc.is_in(rows[key], value_set=items[on].unique())))
    others = items["item_id"].filter(pc.invert(hit))
    return JoinReport(
        columns=names,
        rows=rows.num_rows,
        matched=len(new),
        changed=changed,
        unmatched_rows=len(strangers),
        first_unmatched_rows=strangers[:_SHOWN].to_pylist(),
        unmatched_items=len(others),
        first_unmatched_items=others[:_SHOWN].to_pylist(),
        notes=notes,
    )


def _choose(
    path: Path, key: str, names: Sequence[str], unusable: Mapping[str, str], columns: Sequence[str] | None
) -> list[str]:
    if key not in names:
        raise UsageError(
            f"{path} has no column {key!r} to match items with; it has: {', '.join(names)} "
            "(--on item_id=COLUMN says which holds the ids)"
        )
    wanted = [name for name in names if name != key] if columns is None else list(dict.fromkeys(columns))
    for name in wanted:
        if name in unusable:
            raise UsageError(f"{path}: column {name!r} cannot be used: {unusable[name]}")
        if name not in names:
            raise UsageError(f"{path} has no column {name!r}; it has: {', '.join(names)}")
        if name == key:
            raise UsageError(f"column {name!r} is the key, it cannot be joined too")
    reserved = [name for name in wanted if name.lower() in RESERVED and name != "split"]
    if reserved:
        free = ",".join(name for name in wanted if name not in reserved)
        remedy = f"choose others with --columns {free}" if free else "rename it"
        raise UsageError(f"{path}: column {reserved[0]!r} has a name that icehouse fills itself; {remedy}")
    return wanted


def _empty_to_null(rows: pa.Table) -> pa.Table:
    columns = [
        pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column) for column in rows.columns
    ]
    return pa.table(columns, names=rows.column_names)


def _one_row_a_key(path: Path, rows: pa.Table, key: str) -> pa.Table:
    """Leave out rows without a key and repetitions; refuse rows that contradict each other."""
    rows = rows.filter(pc.is_valid(rows[key]))
    first = pc.index_in(rows[key], value_set=rows[key]).to_numpy()
    repeats = np.flatnonzero(first != np.arange(len(first)))
    if not len(repeats):
        return rows
    again, before = rows.take(repeats), rows.take(first[repeats])
    for name in rows.column_names:
        differ = pc.fill_null(pc.not_equal(again[name], before[name]), True)
        differ = pc.and_not(differ, pc.and_(pc.is_null(again[name]), pc.is_null(before[name])))
        at = pc.index(differ, True).as_py()
        if at >= 0:
            raise SourceError(
                f"{path} has two rows with {key} {again[key][at].as_py()!r} that differ in {name!r} "
                f"({before[name][at].as_py()!r}, {again[name][at].as_py()!r}); keep one"
            )
    return rows.filter(pa.array(first == np.arange(len(first))))
