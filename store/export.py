"""Features out of the store, in the formats that other tools take."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import StoreError, UsageError
from .files import publish
from .sql import csv_cells
from .vectors import tokens_to_arrow, vectors_to_arrow

if TYPE_CHECKING:
    from .store import Features, Store

#: File suffix of each format.
FORMATS = {"npy": ".npy", "csv": ".csv", "parquet": ".parquet", "safetensors": ".safetensors"}


def export(
    store: Store,
    name: str,
    out: Path,
    *,
    format: str | None = None,
    columns: Sequence[str] = (),
    split: str | Sequence[str] | None = None,
    where: str | None = None,
    notes: list[str] | None = None,
) -> list[Path]:
    """Write a feature of the items to `out`; nothing is left behind if that fails.

    ``npy`` and ``safetensors`` (tensor ``X``; for tokens also ``mask``) are joined by ``<out>.ids.csv``, whose rows go with
    theirs. ``csv`` and ``parquet`` have `item_id` and `columns` first; then ``f0``, ``f1``, ... or a list column ``vector``.
    """
    kind = format or next((kind for kind, suffix in FORMATS.items() if out.suffix.lower() == suffix), None)
    if kind not in FORMATS:
        raise UsageError(
            f"no format {kind or out.suffix!r} for {out}; use one of {', '.join(FORMATS)} (--format)"
        )
    schema = store.items.snapshot().schema
    for column in columns:
        if column not in schema.names:
            raise UsageError(f"no column {column!r} in items; there are: {', '.join(schema.names)}")
    features = store.features(name, split=split, where=where)
    if notes is not None and features.left_out:
        from .sql import left_out_note

        notes.append(left_out_note(features.left_out))
    if features.mask is not None and kind == "csv":
        raise UsageError(f"{name} holds tokens, which do not fit a CSV; use npy, parquet or safetensors")
    about = _about(store, features, [column for column in columns if column != "item_id"])
    try:
        return _WRITERS[kind](features, about, out)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from error


def _about(store: Store, features: Features, columns: Sequence[str]) -> pa.Table:
    """`item_id` and `columns` of the features' rows."""
    items = store.items.read(["item_id", *dict.fromkeys(columns)])
    return items.take(pc.index_in(pa.array(features.ids, pa.string()), value_set=items["item_id"]))


def _write_npy(features: Features, about: pa.Table, out: Path) -> list[Path]:
    with publish(out) as temp:
        _save_array(features.X, temp)
        # Once there is room for the vectors: ids of others beside them would be wrong without a sign.
        written = [_write_ids(about, out)]
        if features.mask is not None:
            with publish(out.with_name(out.name + ".mask.npy")) as mask:
                _save_array(features.mask, mask)
            written.append(out.with_name(out.name + ".mask.npy"))
    return [out, *written]


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _write_safetensors(features: Features, about: pa.Table, out: Path) -> list[Path]:
    from safetensors.numpy import save_file

    tensors = {"X": features.X} if features.mask is None else {"X": features.X, "mask": features.mask}
    metadata = {"name": features.name, **{k: str(features.spec.get(k)) for k in ("encoder", "fingerprint")}}
    with publish(out) as temp:
        save_file(tensors, temp, metadata=metadata)
        ids = _write_ids(about, out)
    return [out, ids]


def _write_csv(features: Features, about: pa.Table, out: Path) -> list[Path]:
    header = [*about.column_names, *(f"f{i}" for i in range(features.X.shape[1]))]
    with publish(out) as temp, temp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(csv_cells(header))
        for row, vector in zip(_rows(about), features.X, strict=True):
            # The shortest decimal that reads back as the same float32.
            writer.writerow([*csv_cells(row), *map(np.float32.__str__, vector)])
    return [out]


def _write_parquet(features: Features, about: pa.Table, out: Path) -> list[Path]:
    if features.mask is None:
        column, values = "vector", vectors_to_arrow(features.X, "float32")
    else:
        column, values = "tokens", tokens_to_arrow(features.X, features.mask, "float32")
    with publish(out) as temp:
        pq.write_table(
            about.append_column(column, values),
            temp,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
    return [out]


def _write_ids(about: pa.Table, out: Path) -> Path:
    path = out.with_name(out.name + ".ids.csv")
    with publish(path) as temp, temp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(csv_cells(about.column_names))
        writer.writerows(map(csv_cells, _rows(about)))
    return path


def _rows(about: pa.Table) -> Iterator[list[object]]:
    """Rows for a CSV; lists as JSON."""
    for row in zip(*(column.to_pylist() for column in about.columns), strict=True):
        yield [json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell for cell in row]


_WRITERS: dict[str, Callable[[Features, pa.Table, Path], list[Path]]] = {
    "npy": _write_npy,
    "csv": _write_csv,
    "parquet": _write_parquet,
    "safetensors": _write_safetensors,
}
