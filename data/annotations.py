"""Rows of annotation files to items: ids, images, what is missing, and id conflicts."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NoRowsError, UsageError, count_of
from .columns import Columns, choose_columns
from .image_files import address
from .labels import as_lists, lost_digits, normalise, spelling_changes, strings
from .paths import locate_images
from .readers import read_rows
from .rows import Header, Rejected, Rows, SourceResult, absolute, items_table, path_below, short, show
from .splits import canonical_split

if TYPE_CHECKING:
    from .columns import Preset
    from .manifest import SourceOptions

_NULL = pa.scalar(None, pa.string())


def read_annotations(
    path: Path,
    root: str | None,
    options: SourceOptions,
    preset: Preset | None = None,
    task: str | None = None,
    start: str | None = None,
) -> SourceResult:
    """Read one annotation file whose images start from `root` (default: its own folder).

    `start` is given for the metadata file of an image folder, whose image paths start there. With `task`,
    labels and splits are named after it.
    """
    chosen = Columns()

    def choose(header: Header) -> Sequence[str]:
        nonlocal chosen
        chosen = choose_columns(path, header, options, preset, metadata=start is not None)
        return chosen.wanted()

    quotes = options.quotes
    if quotes == "auto" and preset is not None and path.suffix.lower() == ".tsv":
        quotes = preset.quotes
    rows = read_rows(path, choose, encoding=options.encoding, quotes=quotes)
    if not len(rows.numbers) and not rows.bad:
        raise NoRowsError(path)
    notes = [*rows.notes, *chosen.notes]
    root = root or absolute(path.parent)
    rows, places = _a_row_each_picture(rows, chosen.image)
    n = len(rows.numbers)

    below = path_below(start, root) if start is not None else None
    stem = path.stem if below is None else f"{below}/{path.stem}"
    handles = strings([f"{stem}:{number}" for number in rows.numbers])
    text = strings([None] * n)
    for name in chosen.texts:
        text = pc.coalesce(
            text, _not_blank(_joined(rows.table[name], f"{path.name}: column {name!r}", notes))
        )
    raw = _not_blank(rows.table[chosen.image]) if chosen.image is not None else strings([None] * n)
    if chosen.image is not None and raw.null_count == n:
        notes.append(f"{path.name}: column {chosen.image!r} names no image in any row")
    inside, own_root = _inside(raw, path, chosen.image, root)
    named = pc.if_else(pc.is_valid(inside), _NULL, raw)
    located = locate_images(named, root, (start or root, absolute(path.parent)))
    reasons = located.reasons
    notes += [f"{path.name}: {note}" for note in located.notes]
    # Without the file's name: said once for a root, not once a file.
    notes += [] if located.advice is None else [located.advice]
    there = pc.coalesce(own_root, pc.if_else(pc.is_valid(located.paths), root, _NULL))
    image = pc.coalesce(inside, located.paths)
    given = None
    if chosen.id is not None:
        given = _normal(rows.table[chosen.id], chosen.id, path, options, notes)
        reasons = lost_digits(rows.table[chosen.id]) | reasons
    split, kept = _labels_and_split(path, rows, chosen, options, preset, task, notes)
    if places is not None:
        given = _number(rows, places, given, handles, kept, path, notes)
    elif chosen.image in rows.picture_names and f"{chosen.image}_path".lower() not in map(str.lower, kept):
        kept[f"{chosen.image}_path"] = _not_empty(rows.picture_names[chosen.image])

    # The first reason stands: a bad path says more than what follows from it.
    if given is not None:
        reasons = _also(reasons, pc.is_null(given), f"no id in column {chosen.id!r}")
    reasons = _also(reasons, pc.and_(pc.is_null(raw), pc.is_null(text)), "neither an image nor a text")
    rejected: list[Rejected] = [
        (f"{stem}:{bad.number}", None, f"{path}, {bad.where}: {bad.message}") for bad in rows.bad
    ]
    names = handles if given is None else pc.coalesce(given, handles)
    for i, reason in sorted(reasons.items()):
        shown = raw[i].as_py()
        where = f"{path}, row {rows.numbers[i]}: {reason}"
        rejected.append((short(names[i].as_py()), None if shown is None else short(shown), where))

    ids = pc.coalesce(image, handles) if given is None else given
    table = items_table(ids, image, there, absolute(path), text, split, kept)
    keep = np.ones(n, bool)
    keep[list(reasons)] = False
    if reasons:
        table = table.filter(pa.array(keep))
    return SourceResult(str(path), table, rows.numbers[keep], rejected, notes)


def _a_row_each_picture(rows: Rows, image: str | None) -> tuple[Rows, pa.Array | None]:
    """A row for each picture of a list, and the picture's place in it (0 where it is the only one); else no places."""
    if image is None or not pa.types.is_list(rows.table[image].type):
        return rows, None
    lists = rows.table[image].to_pylist()
    lengths = np.array([len(cell or ()) for cell in lists], np.int64)
    index = np.repeat(np.arange(len(lists)), np.maximum(lengths, 1))
    first = np.repeat(np.cumsum(np.maximum(lengths, 1)) - np.maximum(lengths, 1), np.maximum(lengths, 1))
    places = np.where(lengths[index] > 1, np.arange(len(index)) - first + 1, 0)
    pictures = strings([name for cell in lists for name in (cell or [None])])
    table = rows.table.take(pa.array(index)).set_column(
        rows.table.schema.get_field_index(image), image, pictures
    )
    return replace(rows, table=table, numbers=rows.numbers[index]), pa.array(places)


def _number(
    rows: Rows,
    places: pa.Array,
    given: pa.ChunkedArray | None,
    handles: pa.ChunkedArray,
    kept: dict[str, pa.ChunkedArray],
    path: Path,
    notes: list[str],
) -> pa.ChunkedArray | None:
    """Ids of items that share a row, with the picture's place; the row's own id is kept in a column of its own."""
    post = handles if given is None else given
    column = "post" if "post" not in kept else "post_id"
    kept[column] = post
    several = pc.greater(places, 0)
    n = len(set(rows.numbers[np.asarray(several)].tolist()))
    ids = "ID#1, ID#2, ..." if given is not None else "called by its path"
    notes.append(
        f"{path.name}: {count_of(n, 'row')} with several pictures: each picture is an item ({ids}) with the row's text and "
        f"labels; column {column} holds the row's id (icehouse split --keep-together {column})"
    )
    if given is None:
        return None
    return pc.if_else(several, pc.binary_join_element_wise(given, places.cast(pa.string()), "#"), given)


def _inside(
    raw: pa.ChunkedArray, path: Path, column: str | None, root: str
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Path and root of pictures inside Parquet files; null for all others.

    Those that the annotation file holds itself start from the root where it lies below that, else from its own
    folder.
    """
    own = pc.fill_null(pc.starts_with(raw, address(path.name, column or "", 1)[:-1]), False)
    folder = absolute(path.parent)
    below = "" if folder == root else path_below(folder, root)
    names = raw if not below else pc.binary_join_element_wise(below, raw, "/")
    roots = pc.if_else(own, folder if below is None else root, _NULL)
    other = pc.fill_null(
        pc.match_substring_regex(raw, r"(?i)^[^./].*\.parquet#[^/#:]+:[0-9]+(:[0-9]+)?$"), False
    )
    paths = pc.if_else(own, names, pc.if_else(other, raw, _NULL))
    return paths, pc.coalesce(roots, pc.if_else(other, root, _NULL))


def _joined(column: pa.ChunkedArray, name: str, notes: list[str]) -> pa.ChunkedArray:
    """Texts, where a row has several, one below the other."""
    if not pa.types.is_list(column.type):
        return column
    notes.append(f"{name} holds several texts a row, which are joined by line breaks")
    return pc.binary_join(column, "\n")


def _normal(
    column: pa.ChunkedArray, name: str, path: Path, options: SourceOptions, notes: list[str]
) -> pa.ChunkedArray:
    """Ids, labels, metadata or splits in their one spelling, and a note of what that changed."""
    found = normalise(column, options.na_values)
    changed = spelling_changes(column, found)
    if changed:
        notes.append(f"{path.name}: column {name!r}: {changed}")
    return found


def _labels_and_split(
    path: Path,
    rows: Rows,
    chosen: Columns,
    options: SourceOptions,
    preset: Preset | None,
    task: str | None,
    notes: list[str],
) -> tuple[pa.ChunkedArray | str | None, dict[str, pa.ChunkedArray]]:
    """The split of the rows, and the columns kept beside."""
    kept = {
        name: _normal(rows.table[column], column, path, options, notes)
        for name, column in chosen.kept.items()
    }
    lists = [show(name) for name, column in kept.items() if pa.types.is_list(column.type)]
    if lists:
        notes.append(
            f"{path.name}: {', '.join(lists)}: several values a row, kept as a list column; heads take one label an item yet"
        )
    if preset is not None and not options.label_columns:
        for derived in preset.derived:
            if derived.column in kept and derived.task in (None, preset.task_of(path.stem)):
                kept[derived.name] = _merge_classes(kept[derived.column], derived.merged)

    split: pa.ChunkedArray | str | None
    if chosen.split is not None:
        split = canonical_splits(
            _normal(rows.table[chosen.split], chosen.split, path, options, notes), path.name, notes
        )
    elif options.split is not None:
        split = canonical_split(options.split)
    else:
        split = preset.split_of(path.stem) if preset is not None else None
        if split is None and preset is not None:
            notes.append(f"{path.name}: its name tells no split; --split or --split-column does")
    if task is None:
        return split, kept

    named = {
        task + name.removeprefix("label") if name.startswith("label") else name: c for name, c in kept.items()
    }
    if options.split is not None or split is None:
        return split, named
    column = strings([split] * len(rows.numbers)) if isinstance(split, str) else split
    return None, named | {f"split_{task}": column}


def _not_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), _NULL, column)


def _not_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), _NULL, column)


def _also(reasons: dict[int, str], mask: pa.ChunkedArray, reason: str) -> dict[int, str]:
    return dict.fromkeys(np.flatnonzero(mask.to_numpy()).tolist(), reason) | reasons


def _merge_classes(column: pa.ChunkedArray, merged: Mapping[str, str]) -> pa.ChunkedArray:
    place = pc.index_in(column, value_set=pa.array(list(merged), pa.string()))
    return pc.coalesce(pc.take(pa.array(list(merged.values()), pa.string()), place), column)


def canonical_splits(column: pa.ChunkedArray, name: str, notes: list[str]) -> pa.ChunkedArray:
    """Splits by their one name ("val" is "dev"), with a note where that changed one."""
    values = pc.unique(column).drop_null()
    names = [canonical_split(value) for value in values.to_pylist()]
    changed = [f"{show(a)} is {b!r}" for a, b in zip(values.to_pylist(), names, strict=True) if a != b]
    if not changed:
        return column
    notes.append(f"{name}: splits by their usual names: {', '.join(changed[:5])}")
    return pc.take(pa.array(names, pa.string()), pc.index_in(column, value_set=values))


# An id never stands for two things: whoever comes second is rejected, with both places named, and never replaces the first.


_PLACE = ("item_id", "source", "path", "root")


def combine(
    results: list[SourceResult], *, merge: bool = False
) -> tuple[pa.Table, list[Rejected], list[str]]:
    """Put results into one table with unique ids; return it with the rejected rows and notes.

    With `merge`, rows of one id describe one item: nulls are filled in, of two texts the longer is kept, of two
    splits the first, and only contradicting labels reject a row. Without it, that holds only for an image that
    several sources name, and nothing may differ. A row that comes second is rejected, with both places named,
    and never replaces the first.
    """
    lists = {f.name for result in results for f in result.table.schema if pa.types.is_list(f.type)}
    tables = [result.table for result in results]
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
    rejected = [row for result in results for row in result.rejected]
    notes = [note for result in results for note in result.notes]

    codes = table["item_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    counts = np.bincount(codes)
    if len(codes) > len(counts):
        conflicts = _IdConflicts(results, merge)
        places = np.flatnonzero(counts[codes] > 1)
        for place, row in zip(places.tolist(), table.take(pa.array(places)).to_pylist(), strict=True):
            conflicts.add(place, row)
        table = conflicts.resolve(table)
        rejected += conflicts.rejected
        notes += conflicts.notes()
    return table, rejected, list(dict.fromkeys(notes))


class _IdConflicts:
    """Rows that share their ids with others, in order."""

    def __init__(self, results: list[SourceResult], merge: bool) -> None:
        self._pieces = results
        self._ends = np.cumsum([result.table.num_rows for result in results])
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

    def resolve(self, table: pa.Table) -> pa.Table:
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
        """Remarks for the user on what was done."""
        tally = self._tally
        said = {
            "same": f"{count_of(tally['same'], 'identical row')} read twice and kept once",
            "merged": f"{count_of(tally['merged'], 'row')} merged into {count_of(len(self._changed), 'item')} of the "
            "same id",
            "text": f"{count_of(tally['text'], 'text')} differing between files: the longer kept",
            "folders": f"{count_of(tally['folders'], 'label or split', 'labels or splits')} of folders differing from "
            "an annotation file's: the "
            "file's kept (--folder-label-column NAME keeps both)",
            "split": f"{count_of(tally['split'], 'item')} in several splits: kept in that of the file named first",
        }
        return [text for key, text in said.items() if tally[key]]

    def _owner(self, place: int) -> SourceResult:
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
