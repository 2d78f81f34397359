"""Columns of every kind of table, in one place.

Content is known by its digest, so a feature table has no item ids: `items` says which digests an item has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from ..errors import UsageError

__all__ = [
    "CONTENT_KEYS",
    "FAILURES",
    "ITEMS",
    "RESERVED",
    "check_single",
    "features_schema",
    "items_schema",
    "label_columns",
    "tokens_type",
    "tower_of",
    "vector_type",
]

#: One row an item. Labels and metadata follow as further columns of strings, or of lists of strings.
ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("root", pa.string()),
        pa.field("source", pa.string()),
        pa.field("text", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("text_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("phash", pa.uint64()),
        pa.field("split", pa.string()),
        pa.field("missing", pa.bool_()),
        pa.field("added", pa.timestamp("us", tz="UTC")),
    ]
)

#: Columns that icehouse fills; a label or metadata column needs another name.
RESERVED = frozenset(ITEMS.names)

#: One row a failure. `stage` is "manifest", "read", "decode", "encode" or "caption"; `encoder` is null unless it is
#: "encode", or "caption", where it holds the captions' table: "captions/default".
FAILURES = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("path", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("encoder", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)

#: The column of `items`, and of a feature table, that names a modality's content.
CONTENT_KEYS = {"image": "image_sha256", "text": "text_sha256"}

_FLOATS = {"float16": pa.float16(), "float32": pa.float32()}


def tower_of(modality: str) -> Literal["image", "text"]:
    """Which tower of an encoder made the features of a modality; captions (``caption``, ``caption-NAME``) are texts."""
    return "image" if modality == "image" else "text"


def items_schema(extra: Iterable[str] = ()) -> pa.Schema:
    """Schema of `items` with `extra` label and metadata columns, all strings.

    Raises
    ------
    UsageError
        If a name of `extra` is reserved, or repeated (letter case aside, since SQL does not tell it).
    """
    schema = ITEMS
    taken = {name.lower() for name in schema.names}
    for name in extra:
        if name.lower() in taken:
            raise UsageError(
                f"column {name!r} is reserved or repeated; rename it (reserved: {', '.join(ITEMS.names)})"
            )
        taken.add(name.lower())
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def label_columns(schema: pa.Schema) -> list[str]:
    """Names of the label and metadata columns of an `items` schema, in its order."""
    return [name for name in schema.names if name not in RESERVED]


def check_single(schema: pa.Schema, column: str) -> None:
    """Raise UsageError if a column of `items` holds several values an item, where one is needed."""
    if column in schema.names and pa.types.is_list(schema.field(column).type):
        raise UsageError(
            f"column {column!r} holds several values an item, and one is needed here; make a column of one each, such as: "
            f'icehouse sql "select item_id, {column}[1] as first from items" -o first.csv, then icehouse join first.csv'
        )


def vector_type(dim: int, dtype: str = "float16") -> pa.DataType:
    """Arrow type of one vector: a fixed-size list without nulls inside, so that no level is stored for each number."""
    return pa.list_(pa.field("element", _FLOATS[dtype], nullable=False), dim)


def tokens_type(dim: int, dtype: str = "float16") -> pa.DataType:
    """Arrow type of one content's token states: as many vectors as it has real tokens."""
    return pa.list_(pa.field("element", vector_type(dim, dtype), nullable=False))


def features_schema(
    modality: Literal["image", "text"],
    output: str,
    dim: int,
    dtype: Literal["float16", "float32"] = "float16",
) -> pa.Schema:
    """Schema of ``features/<encoder>/<modality>/<output>``.

    Parameters
    ----------
    modality : {"image", "text"}
        Decides the key column; texts also tell whether they were `truncated` at the context length.
    output : str
        With "tokens" the column is `tokens`, a list of vectors; otherwise `vector`.
    dim : int
        Width of a vector.
    dtype : {"float16", "float32"}, default "float16"
    """
    fields = [pa.field(CONTENT_KEYS[modality], pa.string(), nullable=False)]
    if modality == "text":
        fields.append(pa.field("truncated", pa.bool_()))
    if output == "tokens":
        fields.append(pa.field("tokens", tokens_type(dim, dtype), nullable=False))
    else:
        fields.append(pa.field("vector", vector_type(dim, dtype), nullable=False))
    return pa.schema(fields)
