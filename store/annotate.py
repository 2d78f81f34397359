"""Labels and splits from a file, joined to the items by a key."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.annotations import canonical_splits
from ..data.labels import as_lists, counted, lost_digits, near_identical, normalise, spelling_changes
from ..data.readers import read_rows
from ..data.rows import Header, Quotes, Rows, show
from ..errors import SourceError, UsageError, count_of
from .schema import RESERVED

if TYPE_CHECKING:
    from .store import Store

#: Columns of `items` that a file may be joined on.
JOIN_KEYS = ("item_id", "path", "image_sha256", "text_sha256")

_SHOWN = 10
# Keys that are held against those of items where others match.
_COMPARED = 10_000


@dataclass(frozen=True)
class JoinReport:
    """Result of a join."""

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
    na_values: Sequence[str] | None = None,
    encoding: str | None = None,
) -> JoinReport:
    """Bring columns of a CSV, TSV, JSONL or Parquet file into `items`.

    An empty cell leaves what the item has. Items that the file does not name stay as they are.
    """
    if on not in JOIN_KEYS:
        raise UsageError(f"items cannot be joined on {on!r}; use one of {', '.join(JOIN_KEYS)}")
    key = file_key or on

    unread: list[str] = []

    def choose(header: Header) -> list[str]:
        if columns is None:
            pictures = dict.fromkeys(header.pictures, "holds pictures")
            unread.extend(["a column without a name is left out"] if "" in header.columns else [])
            unread.extend(
                f"column {name!r} is left out: it {why}"
                for name, why in {**header.unusable, **pictures}.items()
            )
        return [key, *_choose(path, key, header, columns)]

    if not path.is_file():
        raise SourceError(f"no file {path}")
    read = read_rows(path, choose, encoding=encoding, quotes=quotes)
    if not len(read.numbers) and read.bad:
        raise SourceError(
            f"{path}: not one of its {count_of(len(read.bad), 'row')} could be read; {read.bad[0].where}: "
            f"{read.bad[0].message}"
        )
    notes = [*read.notes, *(f"{path.name}, {bad.where}: {bad.message}" for bad in read.bad[:_SHOWN])]
    if len(read.bad) > _SHOWN:
        notes.append(f"{path.name}: {count_of(len(read.bad) - _SHOWN, 'more row')} could not be read")
    rows, said = _normalised(path, read, key, na_values)
    notes += [*(f"{path.name}: {text}" for text in unread), *said]
    rows = _one_row_a_key(path, rows, key)
    names = [name for name in rows.column_names if name != key]

    # From reading what the items have to writing what they get, nobody else may change them.
    with store.items.lock():
        snapshot = store.items.snapshot()
        known = [name for name in names if name in snapshot.schema.names]
        items = snapshot.read(list(dict.fromkeys(["item_id", on, *known])))
        keys = normalise(items[on], ())
        index = pc.index_in(keys, value_set=rows[key], skip_nulls=True)
        hit = pc.is_valid(index)
        matched = items.filter(hit)
        new = rows.take(index.drop_null())
        values = {"item_id": matched["item_id"]}
        if not len(new):
            raise SourceError(_nothing_matched(path, on, rows[key].to_pylist(), keys.drop_null().to_pylist()))
        for name in names:
            kind = snapshot.schema.field(name).type if name in known else new[name].type
            if pa.types.is_list(kind) != pa.types.is_list(new[name].type):
                new = new.set_column(
                    new.column_names.index(name), name, _as_list(path, name, new[name], kind)
                )
            old = matched[name] if name in known else pa.nulls(len(new), kind)
            values[name] = pc.coalesce(new[name], old)
        changed = store.items.upsert(pa.table(values), key="item_id") if names else 0

    for name in names:
        if name != "split" and (alike := near_identical(counted(store.items.read([name])[name]))):
            notes.append(f"column {name!r} has values that are nearly the same: {'; '.join(alike[:5])}")
    strangers = rows[key].filter(pc.invert(pc.is_in(rows[key], value_set=keys.unique())))
    others = items["item_id"].filter(pc.invert(hit))
    left = keys.filter(pc.invert(hit)).drop_null()
    near = _near_miss(strangers[:_COMPARED].to_pylist(), left[:_COMPARED].to_pylist())
    if near is not None:
        notes.append(f"{path.name}: of rows that match no item, {near}")
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


def _nothing_matched(path: Path, on: str, keys: list[str], items: list[str]) -> str:
    """Why none of the keys is an item's, as far as can be told."""
    base = f"{path}: of its {count_of(len(keys), 'key')} none is the {on} of an item"
    if not keys or not items:
        return f"{base}; {'the file has no keys' if not keys else f'no item has a {on}'}"
    if near := _near_miss(keys, items):
        return f"{base}: {near}"
    other = [name for name in JOIN_KEYS if name != on]
    return (
        f"{base} ({show(keys[0])} in the file, {show(items[0])} in the store); --on KEY=COLUMN names another column, KEY "
        f"being {', '.join(other)} or {on}"
    )


def _near_miss(keys: list[str], items: list[str]) -> str | None:
    """Difference between a key of the file and a similar item's key, with the pair; None if none is near."""
    ways: list[tuple[str, Callable[[str], str]]] = [
        ("letter case differs", str.lower),
        ("paths are written in another way", lambda key: posixpath.normpath(key.replace("\\", "/"))),
        (
            "one of them has a suffix such as .jpg that the other has not",
            lambda key: re.sub(r"\.\w{1,5}$", "", key),
        ),
        ("leading zeros are lost on one side", lambda key: re.sub(r"(?<![0-9])0+(?=[0-9])", "", key)),
        ("folders are named on one side only", lambda key: re.split(r"[\\/]", key)[-1]),
        (
            "folders, suffix, letter case or zeros differ",
            lambda key: re.sub(
                r"(?<![0-9])0+(?=[0-9])", "", re.sub(r"\.\w{1,5}$", "", re.split(r"[\\/]", key)[-1]).lower()
            ),
        ),
    ]
    for what, alike in ways:
        there = {alike(item): item for item in items}
        found = next((key for key in keys if alike(key) in there), None)
        if found is not None:
            return f"{what} ({show(found)} in the file, {show(there[alike(found)])} in the store)"
    return None


def _normalised(
    path: Path, read: Rows, key: str, missing: Sequence[str] | None
) -> tuple[pa.Table, list[str]]:
    """The rows in their usual spelling, and what that changed; ids that lost digits are left out and told."""
    notes = []
    lost = lost_digits(read.table[key])
    if lost and len(lost) == len(read.table):
        raise SourceError(f"{path}, row {read.numbers[0]}: {next(iter(lost.values()))}")
    for row, reason in list(lost.items())[:_SHOWN]:
        notes.append(f"{path.name}, row {read.numbers[row]}: left out: {reason}")
    columns = {}
    for name in read.table.column_names:
        columns[name] = normalise(read.table[name], missing)
        changed = spelling_changes(read.table[name], columns[name])
        if changed:
            notes.append(f"{path.name}: column {name!r}: {changed}")
        if name == "split":
            columns[name] = canonical_splits(columns[name], path.name, notes)
        if pa.types.is_list(columns[name].type):
            notes.append(f"{path.name}: column {name!r}: several values a row, kept as a list column")
    keep = np.ones(len(read.table), bool)
    keep[list(lost)] = False
    return pa.table(columns).filter(pa.array(keep)), notes


def _as_list(path: Path, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if not pa.types.is_list(kind):
        raise UsageError(
            f"{path}: column {name!r} has several values a row, and the store's has one; rename it in the file"
        )
    return as_lists(column)


def _choose(path: Path, key: str, header: Header, columns: Sequence[str] | None) -> list[str]:
    names, unusable = header.columns, header.unusable
    if key in header.lists or key in header.pictures:
        raise UsageError(
            f"{path}: column {key!r} holds lists or pictures, which cannot be matched with items"
        )
    if key not in names:
        raise UsageError(
            f"{path} has no column {key!r} to match items with; it has: {', '.join(names)} "
            "(--on item_id=COLUMN says which holds the ids)"
        )
    plain = [name for name in names if name not in (key, "") and name not in header.pictures]
    wanted = plain if columns is None else list(dict.fromkeys(columns))
    for name in wanted:
        if not name:
            raise UsageError(f"{path}: a column without a name cannot be brought; name it in the file")
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


def _one_row_a_key(path: Path, rows: pa.Table, key: str) -> pa.Table:
    """Leave out rows without a key and repetitions; refuse rows that contradict each other."""
    rows = rows.filter(pc.is_valid(rows[key]))
    first = pc.index_in(rows[key], value_set=rows[key]).to_numpy()
    repeats = np.flatnonzero(first != np.arange(len(first)))
    if not len(repeats):
        return rows
    again, before = rows.take(repeats), rows.take(first[repeats])
    for name in rows.column_names:
        pairs = zip(again[name].to_pylist(), before[name].to_pylist(), strict=True)
        at = next((place for place, (one, other) in enumerate(pairs) if one != other), -1)
        if at >= 0:
            raise SourceError(
                f"{path} has two rows with {key} {again[key][at].as_py()!r} that differ in {name!r} "
                f"({before[name][at].as_py()!r}, {again[name][at].as_py()!r}); keep one"
            )
    return rows.filter(pa.array(first == np.arange(len(first))))
