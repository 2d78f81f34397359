"""Sources written to disk in any format, and what `read_sources` makes of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from icehouse.data.manifest import Manifest, SourceOptions, read_sources


def read(*sources: Path, **options: Any) -> Manifest:
    return read_sources(sources, options=SourceOptions(**options))


def write(path: Path, content: str | bytes = b"") -> Path:
    """A file with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format of the path's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


def parquet(file: Path, row_group_size: int | None = None, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=row_group_size)
    return file


def column(manifest: Manifest, name: str) -> list[Any]:
    return manifest.table[name].to_pylist()


def ids(manifest: Manifest) -> list[str]:
    return column(manifest, "item_id")


def by_id(manifest: Manifest, name: str) -> dict[str, Any]:
    return dict(zip(ids(manifest), column(manifest, name), strict=True))


def messages(manifest: Manifest) -> list[str]:
    return manifest.rejected["message"].to_pylist()


def notes(manifest: Manifest) -> str:
    return "\n".join(manifest.notes)
