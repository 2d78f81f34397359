"""Image folders: their images, found once each, and items with labels and splits from folder names and metadata files.

The layout is that of Hugging Face's ``imagefolder``: ``train/cat/1.jpg``, or ``train/1.jpg`` beside a
``train/metadata.csv`` (``.jsonl``, ``.parquet``) whose ``file_name`` starts from the folder that it is in.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError, UsageError, count_of
from .annotations import read_annotations
from .image_files import (
    IMAGE_SUFFIXES,
    describe_non_image,
    first_bytes,
    holds_image,
    is_image_name,
    suffix_of,
)
from .labels import normalise, spelling_changes, strings
from .rows import Rejected, SourceResult, absolute, items_table, listed, path_below, show
from .splits import canonical_split, is_split_name

if TYPE_CHECKING:
    from .manifest import SourceOptions

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
