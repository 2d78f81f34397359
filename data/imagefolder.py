"""Image folders to items: ids from paths, labels and splits from folder names, texts and labels from metadata files.

The layout is that of Hugging Face's ``imagefolder``: ``train/cat/1.jpg``, or ``train/1.jpg`` beside a ``train/metadata.csv``
(``.jsonl``, ``.parquet``) whose ``file_name`` starts from the folder that it is in.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError, UsageError
from .annotations import read_annotations
from .folders import IMAGE_SUFFIXES, METADATA_NAMES, Scan, first_bytes, kinds_of
from .images import describe_non_image
from .labels import normalise, spelling_changes, strings
from .rows import Rejected, SourceResult, absolute, count, items_table, path_below
from .splits import canonical_split, is_split_name

if TYPE_CHECKING:
    from .manifest import SourceOptions

__all__ = ["inside_root", "metadata_of", "metadata_root", "read_folder", "read_metadata"]


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
        notes.append(f"{folder}: {count(len(rest), 'image')} that no metadata file names, such as {rest[0]}")
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
    hint = f"; it holds {_listed(scan.annotations)}: give {files}" if scan.annotations else ""
    for name in [] if hint else scan.others[:20]:
        told = describe_non_image(first_bytes(folder / name))
        if told is not None:
            hint = f"; {name} is {told}"
            break
    return (
        f"no images found in {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))}, and at the first bytes of "
        f"other files){hint}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _scan_notes(scan: Scan) -> Iterator[str]:
    """What a folder holds besides images with an image's suffix."""
    metadata = set(metadata_of(scan))
    others = [path for path in scan.others if path not in metadata]
    if scan.by_bytes:
        yield f"{count(len(scan.by_bytes), 'image')} known by their bytes ({kinds_of(scan.by_bytes)})"
    if others:
        yield f"{count(len(others), 'file')} without an image's suffix or bytes left out ({kinds_of(others)})"
    tables = [path for path in scan.annotations if path not in metadata]
    if tables:
        yield f"{_listed(tables)} not read: an annotation file is a source of its own"
    if scan.hidden:
        shown = ", ".join(scan.hidden[:3]) + (", ..." if len(scan.hidden) > 3 else "")
        yield f"{len(scan.hidden)} hidden or of a Mac's archive left out ({shown})"
    if scan.skipped_links:
        yield f"{count(scan.skipped_links, 'link')} to folders already read left out"


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
