"""Captions made elsewhere, taken into a table of their own.

A file of captions says by some column which picture each row is about: an item's id, a path, or a sha256. Which column that
is, and which holds the captions, is found by their names and by what they match; every row that fits no item is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ...data.labels import as_known
from ...data.readers import read_rows
from ...errors import CaptionError
from ...store.files import file_sha256
from ...store.store import Store
from .caption_table import DEFAULT_NAME, Journal, append_rows, ensure_captions, keys_of, make_spec, names_of
from .questions import join_flags, judge

_CAPTIONS = (
    "caption",
    "captions",
    "description",
    "generated_caption",
    "answer",
    "response",
    "alt_text",
)
_KEYS = (
    "image_sha256",
    "sha256",
    "item_id",
    "id",
    "image_id",
    "path",
    "image_path",
    "image",
    "file",
    "file_name",
    "filename",
    "img",
)
# Instead of a picture's sha256: the name fits several pictures, so it tells none.
_SEVERAL = ""


@dataclass
class ImportReport:
    """Outcome of one `import_captions` call; of a dry run, what it would be.

    `known`: pictures whose caption was in the table already; `matched_by`: the file's column, and what of the items it
    names; `unmatched`: rows that fit no item with a picture or several pictures, have no caption, or could not be read;
    `conflicting`: rows about a picture that an earlier row gave another caption.
    """

    store: str
    name: str
    file: str
    dry_run: bool = False
    rows: int = 0
    imported: int = 0
    known: int = 0
    matched_by: str = ""
    unmatched: int = 0
    unmatched_rows: list[str] = field(default_factory=list)
    conflicting: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def import_captions(
    store: Store | str | Path, file: str | Path, *, name: str = DEFAULT_NAME, dry_run: bool = False
) -> ImportReport:
    """Take captions from a JSONL, CSV, TSV or Parquet file into ``tables/captions/<name>``; `dry_run` writes nothing.

    The same file may be imported again when the store has grown. Raises `SourceError` if it cannot be read,
    `CaptionError` if it has no column of captions or none that tells the pictures, `SpaceError` if the captions of that
    name are from another file, or by a model.
    """
    store = Store.of(store)
    file = Path(file)
    columns, bad = _read(file)
    captions_column = _caption_column(file, columns)
    captions = columns.pop(captions_column)
    pictures = _pictures(store)
    key_column, kind, matches = _best_key(file, columns, pictures)
    report = ImportReport(str(store.path), name, str(file), dry_run, rows=len(captions) + len(bad))
    report.unmatched, report.unmatched_rows = len(bad), bad
    report.matched_by = f"{key_column} ({kind})"
    provenance = {
        "imported": {"file": file.name, "sha256": file_sha256(file)},
        "columns": {"caption": captions_column, kind: key_column},
    }
    chosen: dict[str, str] = {}
    for key, image, caption in zip(columns[key_column], matches, captions, strict=True):
        if not image or caption is None:
            report.unmatched += 1
            why = {None: "", _SEVERAL: " (fits several pictures)"}.get(image, " (no caption)")
            report.unmatched_rows.append(f"{key}{why}")
        elif chosen.setdefault(image, caption) != caption:
            report.conflicting += 1
    if not chosen:
        raise CaptionError(f"{file}: no row fits an item of {store.path}, by {report.matched_by}")
    spec = make_spec(name, provenance)
    if dry_run:
        # What is not there is not made; what is there must fit.
        there = keys_of(ensure_captions(store, spec)) if name in names_of(store) else set()
        report.imported = len(chosen.keys() - there)
        report.known = len(chosen) - report.imported
        return report
    table = ensure_captions(store, spec)
    now = datetime.now(UTC)
    with Journal.open(table):
        rows = [_row(image, caption.strip(), now) for image, caption in chosen.items()]
        report.imported = append_rows(table, rows)
    report.known = len(chosen) - report.imported
    return report


def _read(file: Path) -> tuple[dict[str, list[str | None]], list[str]]:
    """Columns that may tell a picture or a caption, and the rows that could not be read."""
    known = {*_KEYS, *_CAPTIONS}
    rows = read_rows(
        file, lambda header: [n for n in header.columns if n.lower() in known and n not in header.lists]
    )
    bad = [f"{row.where}: {row.message}" for row in rows.bad]
    if bad and not len(rows.numbers):
        raise CaptionError(f"{file}: not one of its rows could be read; {bad[0]}")
    return {name: rows.table[name].to_pylist() for name in rows.table.column_names}, bad


def _caption_column(file: Path, columns: Mapping[str, Sequence[str | None]]) -> str:
    by_name = {name.lower(): name for name in columns}
    for known in _CAPTIONS:
        if known in by_name:
            return by_name[known]
    raise CaptionError(f"{file} has no column of captions; name it one of {', '.join(_CAPTIONS)}")


def _pictures(store: Store) -> dict[str, dict[str, str]]:
    """Names by which a row may refer to a picture: kind of name -> name -> the picture's sha256, or `_SEVERAL`."""
    items = store.items.read(["item_id", "path", "root", "image_sha256"]).to_pylist()
    by: dict[str, dict[str, str]] = {kind: {} for kind in ("sha256", "item_id", "path", "file name")}

    def add(kind: str, name: str, image: str) -> None:
        if by[kind].setdefault(name, image) != image:
            by[kind][name] = _SEVERAL

    for row in items:
        image = row["image_sha256"]
        if image is None:
            continue
        add("sha256", image, image)
        add("item_id", row["item_id"], image)
        if row["path"] is not None:
            path = PurePosixPath(row["path"])
            for spelling in {str(path), *([str(Path(row["root"]) / path)] if row["root"] else [])}:
                add("path", spelling, image)
            add("file name", path.name, image)
    return by


def _best_key(
    file: Path, columns: Mapping[str, Sequence[str | None]], pictures: Mapping[str, Mapping[str, str]]
) -> tuple[str, str, list[str | None]]:
    """The column, and the way to read it, that fits most rows."""
    best: tuple[int, str, str, list[str | None]] | None = None
    unclear: list[str] = []
    for name in sorted(columns, key=lambda n: _KEYS.index(n.lower()) if n.lower() in _KEYS else 99):
        for kind, known in pictures.items():
            values = columns[name]
            if kind == "item_id":
                ids = [pa.chunked_array([list(column)], pa.string()) for column in (values, known)]
                values = as_known(*ids).to_pylist()
            found = [None if value is None else known.get(_normal(value, kind)) for value in values]
            hits = sum(bool(image) for image in found)
            unclear += [f"{name} ({kind})"] if _SEVERAL in found else []
            if hits and (best is None or hits > best[0]):
                best = (hits, name, kind, found)
    if best is None and unclear:
        raise CaptionError(
            f"{file}: {unclear[0]} fits several pictures in every row; give item_id, the whole path or sha256"
        )
    if best is None:
        tried = ", ".join(columns) or f"none of {', '.join(_KEYS)} is there"
        raise CaptionError(
            f"{file}: no column tells which pictures the captions are of (tried: {tried}); give item_id, path or sha256"
        )
    return best[1:]


def _normal(value: str, kind: str) -> str:
    value = value.strip()
    if kind == "sha256":
        return value.lower().removeprefix("sha256:")
    if kind in ("path", "file name"):
        path = PurePosixPath(value.replace("\\", "/"))
        return path.name if kind == "file name" else str(path)
    return value


def _row(image: str, caption: str, now: datetime) -> dict[str, Any]:
    flags, columns = judge(caption, structured=False)
    return {
        "caption_key": image,
        "image_sha256": image,
        **columns,
        "flags": join_flags(flags),
        "created": now,
    }
