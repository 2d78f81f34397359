"""Manifests: folders, images and annotation files read into one table of items, with the rows that could not be taken.

Nothing here opens an image.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError, UsageError, count_of
from .annotations import combine, read_annotations
from .columns import Preset, check_label_name, get_preset
from .folders import (
    METADATA_NAMES,
    inside_root,
    metadata_of,
    metadata_root,
    read_folder,
    read_metadata,
    scan_images,
)
from .image_files import describe_non_image, first_bytes, image_file
from .paths import why_missing
from .rows import (
    FIXED,
    Quotes,
    SourceResult,
    absolute,
    items_table,
    rejected_table,
    show,
)
from .splits import canonical_split

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz")


@dataclass(frozen=True)
class SourceOptions:
    """Options for reading sources; those not given come from the preset, else from well-known column names."""

    #: A key of `columns.PRESETS`; the other options override it.
    preset: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    #: Columns to keep: "column", or "name=column" to call it otherwise.
    label_columns: Sequence[str] = ()
    meta_columns: Sequence[str] = ()
    #: Without one, the image's path is the id, and ``<file stem>:<row>`` that of a row without an image.
    id_column: str | None = None
    #: The split of every row, or the column that tells it.
    split: str | None = None
    split_column: str | None = None
    #: Folder that image paths are relative to, by default the source, or the annotation file's own.
    root: str | Path | None = None
    #: Label an image by the first folder below the source that is no split; such a label or split replaces no other.
    labels_from_folders: bool = False
    #: Column of these labels, "label" unless given; giving it asks for them.
    folder_label_column: str | None = None
    #: Let labels of folders replace those that items of the store have.
    replace_labels: bool = False
    #: Of annotation files, by default UTF-8, or what a byte order mark says.
    encoding: str | None = None
    #: Meaning of quotes in CSV and TSV; see `readers.read_rows`.
    quotes: Quotes = "auto"
    #: What means "no value" among ids, labels, metadata and splits, besides an empty cell; see `labels.MISSING_VALUES`.
    na_values: Sequence[str] | None = None


@dataclass(frozen=True)
class Manifest:
    """Items of the sources as one table, with rejected rows (of `REJECTED_SCHEMA`) and notes for the user, one line each.

    `table` has one row an item, all columns strings (labels and metadata also lists of strings): item_id (unique), path
    (relative to root, "/" between parts; null without an image), root (absolute; null without an image), source (absolute),
    text, split, then the columns in `labels`. `from_folders`: column -> the rows whose value only the name of a folder
    tells; `not_told`: column that only some of the sources have -> the rows of the others, where no value means nothing.
    """

    table: pa.Table
    rejected: pa.Table
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    from_folders: Mapping[str, pa.ChunkedArray] = field(default_factory=dict)
    not_told: Mapping[str, pa.ChunkedArray] = field(default_factory=dict)


def read_sources(
    sources: Sequence[str | Path] | str | Path, *, options: SourceOptions | None = None
) -> Manifest:
    """Read folders of images, images and annotation files (CSV, TSV, JSON Lines, Parquet) into one table of items.

    Items are in the order of the sources, within a folder sorted by path; with a preset, a folder stands for the data set's
    annotation files in it. UsageError: options that contradict each other or the sources, a column that does not exist.
    SourceError: a source that is missing, empty, of no known kind, or of which no row could be taken.
    """
    options = options or SourceOptions()
    if options.folder_label_column is not None:
        check_label_name(options.folder_label_column)
        options = replace(options, labels_from_folders=True)
    preset = get_preset(options.preset) if options.preset is not None else None
    paths = [Path(s) for s in ([sources] if isinstance(sources, (str, Path)) else sources)]
    if not paths:
        raise UsageError("no source given: name a folder of images or an annotation file")
    kinds = {path: _kind(path) for path in paths}
    if preset is not None:
        kinds = _preset_sources(kinds, preset)
    scans = {path: scan_images(path) for path, kind in kinds.items() if kind == "folder"}
    _check_options(options, kinds, described=any(map(metadata_of, scans.values())))
    root = None if options.root is None else _checked_root(options.root)
    tasks = _tasks(kinds, preset)
    inner = _inner_folders(kinds) if root is None else {}

    results: list[SourceResult] = []
    notes = [
        f"{path} is named {times} times: read once" for path, times in Counter(paths).items() if times > 1
    ]
    paths = list(kinds)
    notes += [f"{path} lies in {outer}: read with it" for path, outer in inner.items()]
    if tasks:
        named = ", ".join(sorted(set(tasks.values())))
        notes.append(f"several tasks of {options.preset}: labels and splits are named after them ({named})")
    images = [path for path in paths if kinds[path] == "image"]
    metadata = [path for path in paths if preset is None and path.name.lower() in METADATA_NAMES]
    for path in paths:
        if kinds[path] == "folder":
            if path not in inner:
                results += read_folder(path, scans[path], root, options)
        elif path in metadata:
            results.append(read_metadata(path, root or metadata_root(metadata), options))
        elif kinds[path] == "file":
            results.append(read_annotations(path, root, options, preset, tasks.get(path)))
        elif images:
            # All of them at once, where the first is named: a shell's "*.jpg" may name thousands.
            results.append(_read_images(images, root, options))
            images = []
    for result in results:
        if not result.table.num_rows:
            first = result.rejected[0][2]
            raise SourceError(
                f"{result.source}: not one of its {count_of(len(result.rejected), 'row')} could be taken; {first}"
            )
    table, rejected, said = combine(results, merge=preset is not None and preset.merge)
    said += _under_two_ids(results, table)
    labels = tuple(name for name in table.column_names if name not in FIXED)
    told: dict[str, pa.ChunkedArray] = {}
    for name in {name for result in results for name in result.from_folders}:
        folders = [absolute(result.source) for result in results if name in result.from_folders]
        told[name] = pc.is_in(table["source"], value_set=pa.array(folders, pa.string()))
    return Manifest(table, rejected_table(rejected), labels, (*notes, *said), told, _not_told(results, table))


def _under_two_ids(results: Sequence[SourceResult], table: pa.Table) -> list[str]:
    """Note of files that two sources name by different ids."""
    if len(results) < 2:
        return []
    files = pc.binary_join_element_wise(table["root"], table["path"], "/")
    first = pc.index_in(files, value_set=files, skip_nulls=True)
    again = pc.not_equal(first, pa.array(range(len(files)), pa.int32()))
    rows = np.flatnonzero(pc.fill_null(again, False).to_numpy())
    if not len(rows):
        return []
    one, other = table.take([first[int(rows[0])].as_py(), int(rows[0])]).to_pylist()
    remedy = ""
    if one["item_id"] == one["path"] and other["item_id"] == other["path"]:
        remedy = f"; --root {posixpath.commonpath([one['root'], other['root']])} makes them one item each"
    ids = f"{show(one['item_id'])} and {show(other['item_id'])}"
    return [f"{count_of(len(rows), 'file')} under two ids each, such as {ids}{remedy}"]


def _not_told(results: Sequence[SourceResult], table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """For each column that some of the sources do not have, the rows of these."""
    found = {}
    for name in ("path", "root", "text", "split", *table.column_names[len(FIXED) :]):
        without = [
            result.table["source"].unique()
            for result in results
            if name not in result.table.column_names or result.table[name].null_count == len(result.table)
        ]
        if 0 < len(without) < len(results):
            found[name] = pc.is_in(table["source"], value_set=pa.concat_arrays(without))
    return found


def _kind(path: Path) -> str:
    """Kind of a source: "folder", "image" or "file" (of annotations)."""
    if "\0" in str(path):
        raise UsageError(f"{show(str(path))} is not a path")
    try:
        if path.is_dir():
            return "folder"
        if not path.exists():
            why = "" if path.is_symlink() else why_missing(path)
            what = "is a broken link" if path.is_symlink() else "does not exist"
            raise SourceError(f"{path} {what}{f': {why}' if why else ''}")
        if not path.is_file():
            raise SourceError(f"{path} is neither a file nor a folder")
        suffix = path.suffix.lower()
        if suffix in _SUFFIXES:
            return "file"
        if image_file(path):
            return "image"
        told = describe_non_image(first_bytes(path))
    except OSError as error:
        raise SourceError(f"{path} cannot be looked at: {error.strerror or error}") from error
    if told is not None and suffix not in _PACKED:
        raise SourceError(f"{path} is {told}")
    remedy = "unpack it first" if suffix in _PACKED else f"give a folder, an image, or {', '.join(_SUFFIXES)}"
    raise SourceError(f"{path} is not a source that can be read: {remedy}")


def _preset_sources(kinds: Mapping[Path, str], preset: Preset) -> dict[Path, str]:
    """The preset's files, where a folder stands for those in it."""
    found: dict[Path, str] = {}
    for path, kind in kinds.items():
        if kind == "image":
            raise UsageError(f"preset {preset.name} reads annotation files, and {path} is an image")
        files = _preset_files(path, preset) if kind == "folder" else [path]
        found.update(dict.fromkeys(files, "file"))
    return found


def _preset_files(folder: Path, preset: Preset) -> list[Path]:
    try:
        names = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror or error}") from error
    found = [
        p for p in names if any(fnmatch.fnmatch(p.name.lower(), pattern.lower()) for pattern in preset.files)
    ]
    if not found:
        raise SourceError(
            f"{folder} holds no annotation file of {preset.name} ({', '.join(preset.files)}); "
            "give the files themselves, and the folder that image paths start from as --root"
        )
    return found


def _check_options(options: SourceOptions, kinds: Mapping[Path, str], described: bool) -> None:
    if options.split is not None and options.split_column is not None:
        raise UsageError("--split is for a whole source and --split-column for each row: give one of them")
    if options.split is not None and not options.split.strip():
        raise UsageError("--split needs a name, such as train")
    if options.quotes not in ("auto", "csv", "literal"):
        raise UsageError(f"quotes are auto, csv or literal, not {options.quotes!r}")
    for name, columns in (("label_columns", options.label_columns), ("meta_columns", options.meta_columns)):
        if isinstance(columns, str):
            raise UsageError(f"{name} is a sequence of names, not the string {columns!r}")
    first = next(iter(kinds))
    if options.labels_from_folders and "folder" not in kinds.values():
        raise UsageError(f"--labels-from-folders needs a folder of images, which {first} is not")
    if "file" not in kinds.values() and not described:
        for flag, value in (
            ("--image-column", options.image_column),
            ("--text-column", options.text_column),
            ("--label-column", options.label_columns),
            ("--meta-column", options.meta_columns),
            ("--id-column", options.id_column),
            ("--split-column", options.split_column),
        ):
            if value:
                raise UsageError(f"{flag} needs an annotation file, which {first} is not")


def _checked_root(root: str | Path) -> str:
    if "\0" in str(root) or not Path(root).is_dir():
        raise UsageError(f"--root {show(str(root))} is not a folder")
    return absolute(root)


def _tasks(kinds: Mapping[Path, str], preset: Preset | None) -> dict[Path, str]:
    """Task of each file, where the sources are of several tasks; else empty."""
    if preset is None or not preset.tasks:
        return {}
    told = {path: preset.task_of(path.stem) for path in kinds}
    if len(set(told.values())) == 1:
        return {}
    known = {path: task for path, task in told.items() if task is not None}
    if len(known) < len(told):
        lost = next(path for path, task in told.items() if task is None)
        raise SourceError(
            f"{lost}: its name does not tell its task of {preset.name}; read it in a call of its own"
        )
    return known


def _inner_folders(kinds: Mapping[Path, str]) -> dict[Path, Path]:
    """Folders that lie in another source, whose images would be two items each."""
    real = {path: os.path.realpath(path) for path, kind in kinds.items() if kind == "folder"}
    inner: dict[Path, Path] = {}
    for place, (path, target) in enumerate(real.items()):
        for other_place, (other, outer) in enumerate(real.items()):
            if target.startswith(outer.rstrip(os.sep) + os.sep) or (target == outer and other_place < place):
                inner[path] = other
                break
    return inner


def _read_images(images: list[Path], root: str | None, options: SourceOptions) -> SourceResult:
    full = [absolute(image) for image in images]
    paths = [
        posixpath.basename(path) if root is None else inside_root(image, path, root)
        for image, path in zip(images, full, strict=True)
    ]
    roots = [root or posixpath.dirname(path) for path in full]
    try:
        ids, places, sources = (pa.array(values, pa.string()) for values in (paths, roots, full))
    except UnicodeEncodeError:
        lost = next(path for path in full if os.fsencode(path).decode("utf-8", "ignore") != path)
        raise SourceError(f"{show(lost)}: the file's name is not valid Unicode; rename it") from None
    split = None if options.split is None else canonical_split(options.split)
    return SourceResult(str(images[0].parent), items_table(ids, ids, places, sources, None, split, {}))
