"""Columns of every kind of table, and the provenance that decides whether vectors may mix.

Content is known by its digest, so a feature table has no item ids: `items` says which digests an item has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa

from ..errors import CorruptError, SpaceError, StoreError, UsageError

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
    """Tower of an encoder that makes the features of a modality; captions (``caption``, ``caption-NAME``) are texts."""
    return "image" if modality == "image" else "text"


def items_schema(extra: Iterable[str] = ()) -> pa.Schema:
    """Schema of `items` with `extra` label and metadata columns, all strings."""
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
    """Schema of ``features/<encoder>/<modality>/<output>``."""
    fields = [pa.field(CONTENT_KEYS[modality], pa.string(), nullable=False)]
    if modality == "text":
        fields.append(pa.field("truncated", pa.bool_()))
    if output == "tokens":
        fields.append(pa.field("tokens", tokens_type(dim, dtype), nullable=False))
    else:
        fields.append(pa.field("vector", vector_type(dim, dtype), nullable=False))
    return pa.schema(fields)


# The spec of a feature table carries the provenance of its vectors and its fingerprint. The fingerprint decides; the
# provenance explains.


_SHOWN = 4

#: What the entries of a feature's spec are.
_ENTRIES: dict[str, type] = {
    **dict.fromkeys(("encoder", "name", "modality", "output", "key", "dtype", "fingerprint"), str),
    "dim": int,
    **dict.fromkeys(("provenance", "probe"), dict),
}
#: Without these a feature cannot be read at all.
_NEEDED = ("encoder", "name", "modality", "output", "key", "dim", "dtype", "provenance")
#: What there is of one that was repaired from parts of an older version, which carry no spec: it has no fingerprint either.
_REPAIRED = ("encoder", "modality", "output", "key", "dim", "dtype")


def fingerprint(provenance: Mapping[str, Any]) -> str:
    """Digest of a provenance: vectors may share a table, a search or a head only where it agrees."""
    canonical = json.dumps(provenance, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_spec(spec: Any, what: str, needed: tuple[str, ...] = _NEEDED) -> None:
    """Refuse the spec of a feature that lacks an entry, or has one of another kind: a stranger may have written it."""
    if not isinstance(spec, Mapping):
        raise CorruptError(f"{what} has no spec of a feature")
    if needed is _NEEDED and not {"name", "provenance", "fingerprint"} & spec.keys():
        needed = _REPAIRED
    for name, kind in _ENTRIES.items():
        value = spec.get(name)
        if value is None and name not in needed:
            continue
        if type(value) is not kind or (kind is not dict and not value):
            raise CorruptError(
                f"{what}: the entry {name!r} of its spec is {_short(value)}, no {_KINDS[kind]}"
            )
    cleaning = (spec.get("provenance") or {}).get("cleaning")
    if not isinstance(cleaning, (str, type(None))):
        raise CorruptError(f"{what}: the cleaning of texts in its spec is {_short(cleaning)}, no name")


_KINDS = {str: "name", int: "number", dict: "object"}


def differences(
    have: Mapping[str, Any], want: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Compare two provenances. Dotted key to its two values, for each that differs; None stands for absent."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*have, *want}):
        a, b = have.get(key), want.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def check_space(what: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to mix two vector spaces."""
    for spec in (have, want):
        if not spec.get("fingerprint"):
            raise StoreError(
                f"{what}: vectors of unknown origin (a spec without fingerprint) cannot be compared"
            )
    if have["fingerprint"] == want["fingerprint"]:
        return
    unlike = differences(have.get("provenance") or {}, want.get("provenance") or {})
    shown = [f"{key} ({_short(a)} / {_short(b)})" for key, (a, b) in list(unlike.items())[:_SHOWN]]
    if len(unlike) > _SHOWN:
        shown.append(f"and {len(unlike) - _SHOWN} more")
    reason = f"; they differ in {', '.join(shown)}" if shown else ""
    remedy = "use the same encoder and options, or another store"
    if set(unlike) == {"decoder"}:
        remedy = (
            "the encoder is the same, but an earlier version of icehouse decoded some images otherwise (deep samples,"
            " transparency, blank first frames); embed the images again, into a table of its own with `icehouse embed "
            "--name NEW` or into a new store, and train and calibrate on that; search by text and item goes on as before"
        )
    raise SpaceError(
        f"{what} is in the space of {_name(have)}, which does not mix with {_name(want)}{reason}: {remedy}"
    )


def _name(spec: Mapping[str, Any]) -> str:
    return f"{spec.get('encoder', 'an encoder')} (fingerprint {spec['fingerprint']})"


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
