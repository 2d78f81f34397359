"""Manifests: folders, images and annotation files read into one table of items, with the rows that could not be taken.

Nothing here decodes an image. Folders may be laid out as Hugging Face's ``imagefolder``: ``train/cat/1.jpg``, or
``train/1.jpg`` beside a ``train/metadata.csv`` (``.jsonl``, ``.parquet``) whose ``file_name`` starts from the folder that
it is in. Their images are found once each, with labels and splits from the names of folders and from metadata files.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError, UsageError, count_of
from .annotations import combine, read_annotations
from .columns import Preset, check_label_name, get_preset
from .image_files import (
    IMAGE_SUFFIXES,
    describe_non_image,
    first_bytes,
    holds_image,
    image_file,
    is_image_name,
    suffix_of,
)
from .labels import normalise, spelling_changes, strings
from .paths import why_missing
from .rows import (
    FIXED,
    Quotes,
    Rejected,
    SourceResult,
    absolute,
    items_table,
    listed,
    path_below,
    rejected_table,
    show,
)
from .splits import canonical_split, is_split_name

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


# fmt: off
# Cameras' raw files look like TIFF, and what a decoder finds in them is a thumbnail.
_RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf", ".pef",
    ".raf", ".rw2", ".srw",
})
# fmt: on
ANNOTATION_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
#: Files that describe the images beside and below them, as Hugging Face's ``imagefolder`` has them.
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})


@dataclass
class Scan:
    """Contents of a folder; paths are relative to it and sorted.

    Broken links are among `paths` (reading them says so); `by_bytes` of them are images only by their first
    bytes. `others` are no images, or cameras' raw files; `hidden` includes what a Mac adds to archives.
    """

    paths: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    by_bytes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    skipped_links: int = 0


def kinds_of(names: Iterable[str]) -> str:
    """Suffixes of files for a message, the most frequent first: ".txt, .json, no suffix"."""
    counts = Counter(suffix_of(name) or "no suffix" for name in names)
    kinds = [show(kind)[1:-1] for kind, _ in counts.most_common(6)]
    return ", ".join(kinds[:5]) + (", ..." if len(kinds) > 5 else "")


def scan_images(folder: Path) -> Scan:
    """Find the images under `folder`.

    A file with an image's suffix is one, whatever it holds: reading it says so. Any other is one by its first bytes.
    Hidden files and folders are left out. Links are followed, but no folder is read twice: real folders come first, so
    an image keeps its real path where a link would show it under another, and a loop ends.
    """
    scan = Scan()
    seen: set[tuple[int, int]] = set()
    links: list[tuple[str, str]] = []
    _walk(str(folder), "", scan, seen, links)
    while links:
        links.sort()
        full, relative = links.pop(0)
        before = len(seen)
        _walk(full, relative, scan, seen, links)
        scan.skipped_links += len(seen) == before
    scan.paths.sort()
    scan.annotations.sort()
    scan.bad.sort()
    return scan


def _walk(
    full: str, relative: str, scan: Scan, seen: set[tuple[int, int]], links: list[tuple[str, str]]
) -> None:
    """Add what is under one folder to `scan`, linked folders to `links`."""
    stack = [(full, relative)]
    while stack:
        full, relative = stack.pop()
        try:
            status = os.stat(full)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(full) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            scan.bad.append((_storable(relative) or ".", f"folder cannot be read: {error.strerror or error}"))
            continue
        for entry in listed:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                _add(entry, path, scan, stack, links)
            elif not entry.name.startswith("._") and (
                is_image_name(entry.name) or (not entry.is_symlink() and entry.is_dir())
            ):
                scan.hidden.append(_storable(path))


def _add(
    entry: os.DirEntry[str], path: str, scan: Scan, stack: list[tuple[str, str]], links: list[tuple[str, str]]
) -> None:
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else stack).append((entry.path, path))
            return
        if not is_image_name(entry.name):
            if suffix_of(entry.name) in ANNOTATION_SUFFIXES:
                scan.annotations.append(path)
            if suffix_of(entry.name) in _RAW_SUFFIXES or not entry.is_file() or not holds_image(entry.path):
                scan.others.append(path)
                return
            scan.by_bytes.append(path)
        # Opening a pipe named x.jpg would wait for ever.
        if not entry.is_file() and not _dangling(entry):
            scan.bad.append((_storable(path), "not a regular file"))
            return
    except OSError as error:
        if is_image_name(entry.name):
            scan.bad.append((_storable(path), f"cannot be looked at: {error.strerror or error}"))
        return
    if _storable(path) != path:
        scan.bad.append((_storable(path), "the file's name is not valid Unicode; rename it"))
        return
    scan.paths.append(path)


def _dangling(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    try:
        return not stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return True


def _storable(path: str) -> str:
    """Path with bytes that are no UTF-8 escaped, so that it can be stored and shown."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") if not _encodable(path) else path


def _encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def metadata_of(scan: Scan) -> list[str]:
    """Paths of the metadata files in a folder, relative to it."""
    return [path for path in scan.annotations if posixpath.basename(path).lower() in METADATA_NAMES]


def metadata_root(files: Sequence[Path]) -> str:
    """Folder that ids start from: above all these metadata files, and above ``train`` and its like."""
    folders = [absolute(file.parent) for file in files]
    above = [posixpath.dirname(f) if is_split_name(posixpath.basename(f)) else f for f in folders]
    return posixpath.commonpath(above)


def inside_root(path: Path, full: str, root: str) -> str:
    """Path of a source relative to ``--root``, or UsageError."""
    inside = path_below(full, root)
    if inside is None:
        raise UsageError(f"{path} is not inside --root {root}")
    return inside


def read_metadata(file: Path, root: str, options: SourceOptions) -> SourceResult:
    """Rows of one metadata file, whose paths start from its own folder; ids and splits are those of `root`."""
    result = read_annotations(file, root, options, start=absolute(file.parent))
    paths = result.table["path"].to_pylist()
    depth = _split_depth([path for path in paths if path is not None])
    if depth is not None and result.table["split"].null_count:
        _set_splits(result, depth)
    return result


def read_folder(folder: Path, scan: Scan, root: str | None, options: SourceOptions) -> list[SourceResult]:
    """Items of a folder's images, which must lie inside `root`.

    Those that its metadata files describe, and the rest.
    """
    base = absolute(folder)
    if not scan.paths:
        raise SourceError(_no_images(folder, scan))
    prefix = "" if root is None or base == root else f"{inside_root(folder, base, root)}/"
    notes = [f"{folder}: {text}" for text in _scan_notes(scan)]
    rejected: list[Rejected] = [
        (prefix + path, prefix + path, f"{folder}/{path}: {reason}") for path, reason in scan.bad
    ]
    described: list[SourceResult] = []
    found = {prefix + path for path in scan.paths}
    for name in metadata_of(scan):
        try:
            result = read_metadata(folder / name, root or base, options)
            if result.table["path"].null_count == result.table.num_rows:
                notes += [note for note in result.notes if "not read" in note]
                raise SourceError(
                    f"{folder / name} names no image in a column such as file_name; --image-column names another"
                )
            if found.isdisjoint(result.table["path"].to_pylist()):
                raise SourceError(f"{folder / name} names none of the images in {folder}")
            described.append(result)
        except SourceError as error:
            rejected.append((prefix + name, None, str(error)))
            notes.append(f"metadata left out: {error}")
    named = {path for result in described for path in result.table["path"].to_pylist()}
    rest = [path for path in scan.paths if prefix + path not in named]
    if described and rest:
        notes.append(
            f"{folder}: {count_of(len(rest), 'image')} that no metadata file names, such as {rest[0]}"
        )
    ids = pa.array([prefix + path for path in rest], pa.string())
    split = None if options.split is None else canonical_split(options.split)
    table = items_table(ids, ids, root or base, base, None, split, {})
    depth = _split_depth([prefix + path for path in scan.paths]) if split is None else None
    results = [SourceResult(str(folder), table), *described]
    if depth is not None:
        _set_splits(results[0], depth)
        splits = {(prefix + path).split("/")[depth] for path in scan.paths if "/" in prefix + path}
        notes.append(f"{folder}: its folders are splits ({', '.join(sorted(splits)[:5])})")
    if options.labels_from_folders:
        column = options.folder_label_column or "label"
        _set_labels(column, folder, prefix, scan, depth, results, notes)
    full = [result for result in results if result.table.num_rows]
    for result in results:
        if not result.table.num_rows:
            rejected += result.rejected
            notes += result.notes
    full[0].rejected += rejected
    full[0].notes += notes
    return full


def _no_images(folder: Path, scan: Scan) -> str:
    if scan.bad:
        path, reason = scan.bad[0]
        return f"{folder}: no image could be taken; {path}: {reason}"
    files = "that file" if len(scan.annotations) == 1 else "those files"
    hint = f"; it holds {listed(scan.annotations, 3)}: give {files}" if scan.annotations else ""
    for name in [] if hint else scan.others[:20]:
        told = describe_non_image(first_bytes(folder / name))
        if told is not None:
            hint = f"; {name} is {told}"
            break
    return (
        f"no images found in {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))}, and at the first bytes of "
        f"other files){hint}"
    )


def _scan_notes(scan: Scan) -> Iterator[str]:
    """Remarks on a folder's files other than images."""
    metadata = set(metadata_of(scan))
    others = [path for path in scan.others if path not in metadata]
    if scan.by_bytes:
        yield f"{count_of(len(scan.by_bytes), 'image')} known by their bytes ({kinds_of(scan.by_bytes)})"
    if others:
        yield f"{count_of(len(others), 'file')} without an image's suffix or bytes left out ({kinds_of(others)})"
    tables = [path for path in scan.annotations if path not in metadata]
    if tables:
        yield f"{listed(tables, 3)} not read: an annotation file is a source of its own"
    if scan.hidden:
        shown = ", ".join(scan.hidden[:3]) + (", ..." if len(scan.hidden) > 3 else "")
        yield f"{len(scan.hidden)} hidden or of a Mac's archive left out ({shown})"
    if scan.skipped_links:
        yield f"{count_of(scan.skipped_links, 'link')} to folders already read left out"


def _split_depth(paths: Sequence[str]) -> int | None:
    """Depth of the folders that are all splits (``train``, ``val``, ``test``): 0 or 1; None where they are not."""
    folders = [path.split("/")[:-1] for path in paths]
    if any(folders) and all(is_split_name(parts[0]) for parts in folders if parts):
        return 0
    if folders and all(len(parts) > 1 and is_split_name(parts[1]) for parts in folders):
        return 1
    return None


def _set_splits(result: SourceResult, depth: int) -> None:
    """Fill the split, where there is none, from the folder at that depth."""
    folders = [(path or "").split("/")[:-1] for path in result.table["path"].to_pylist()]
    splits = [canonical_split(parts[depth]) if len(parts) > depth else None for parts in folders]
    place = result.table.column_names.index("split")
    given = result.table["split"]
    filled = pc.coalesce(given, strings(splits))
    result.table = result.table.set_column(place, "split", filled)
    if given.null_count == len(given):
        result.from_folders = (*result.from_folders, "split")


def _set_labels(
    column: str,
    folder: Path,
    prefix: str,
    scan: Scan,
    depth: int | None,
    results: list[SourceResult],
    notes: list[str],
) -> None:
    """Add the column of labels: the first folder below the source that is no split."""
    given = [result.source for result in results if column in result.table.column_names]
    if given:
        told = f"{folder}: labels are those of {', '.join(given[:3])}, not the folders'"
        notes.append(f"{told}; --folder-label-column NAME keeps both")
        return
    folders = [path.split("/")[:-1] for path in scan.paths]
    at = 0
    if depth == 0 and not prefix:
        at = 1
    elif (
        depth == 1
        and not prefix
        and (all(len(parts) > 2 for parts in folders) or len({parts[0] for parts in folders}) == 1)
    ):
        at = 2  # images/train/cat/1.jpg, not cat/train/1.jpg
    if not any(len(parts) > at for parts in folders):
        notes.append(f"{folder}: no sub-folders{' in its splits' if at else ''}, so no labels")
    for result in results:
        below = [(path or "")[len(prefix) :].split("/")[:-1] for path in result.table["path"].to_pylist()]
        labels = [parts[at] if len(parts) > at else None for parts in below]
        # A folder called NA was called so by somebody: no name is a missing value.
        spelt = strings(labels)
        named = normalise(spelt, ())
        if changed := spelling_changes(spelt, named):
            notes.append(f"{folder}: labels of folders: {changed}")
        result.table = result.table.append_column(column, named)
        result.from_folders = (*result.from_folders, column)
