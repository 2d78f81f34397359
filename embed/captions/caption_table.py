"""Captions table: its columns and key, rows that fit them, and who may add to it.

One row a distinct picture, or a distinct pair of picture and text. The spec tells everything that decides about an answer
(model and digest, prompt, options, how the picture was sent), and its fingerprint decides whether an answer may join.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from ...errors import CaptionError, SpaceError, unknown_name
from ...store.files import is_name
from ...store.schema import differences, fingerprint
from ...store.store import Store
from ...store.table import Table
from .answers import COLUMNS

#: Name of the captions that need none: ``tables/captions/default``, the modality ``caption``.
DEFAULT_NAME = "default"

#: `stage` in the failure log of a picture that could not be captioned; `encoder` then holds ``captions/<name>``.
STAGE = "caption"

_SHOWN = 40

#: The answer as it came, where cleaning changed it.
_RAW = pa.field("raw", pa.string())

_SCHEMA = pa.schema(
    [
        pa.field("caption_key", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("text_sha256", pa.string()),
        pa.field("caption", pa.string()),
        _RAW,
        pa.field("flags", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("seconds", pa.float32()),
        pa.field("attempts", pa.int16()),
        pa.field("seed", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("host", pa.string()),
        pa.field("created", pa.timestamp("us", tz="UTC")),
    ]
)

Row = dict[str, Any]

#: Name, whether it may be null, and kind of each column.
Columns = Sequence[tuple[str, bool, "str | int | pa.DataType"]]


def schema_of(*, structured: bool = False) -> pa.Schema:
    """Columns of a captions table; `structured` adds those of `icehouse.embed.captions.answers.COLUMNS`.

    ``flags`` is "" where nothing is wrong, else names separated by commas: ``where flags = ''``, ``group by flags``,
    ``where flags like '%cut%'``.
    """
    if not structured:
        return _SCHEMA
    fields = list(_SCHEMA)
    at = _SCHEMA.get_field_index("caption") + 1
    return pa.schema([*fields[:at], *COLUMNS, *fields[at:]])


def writable_schema(table: Table) -> pa.Schema:
    """Columns that answers may fill: those of the table, and ``raw`` where it is from before answers were cleaned."""
    have = table.snapshot().schema
    return have if _RAW.name in have.names else have.append(_RAW)


def caption_key(image_sha256: str, text_sha256: str | None = None) -> str:
    """Key of a caption: its picture's sha256, or the sha256 of that and the text's, one after the other.

    >>> caption_key("ab")
    'ab'
    """
    if text_sha256 is None:
        return image_sha256
    return hashlib.sha256((image_sha256 + text_sha256).encode()).hexdigest()


def folder_of(name: str) -> str:
    """Name of the table below ``tables/``."""
    return f"captions/{name}"


def names_of(store: Store) -> list[str]:
    """Names of the captions that a store has."""
    return [name.removeprefix("captions/") for name in store.table_names() if name.startswith("captions/")]


def captions_of(store: Store, name: str = DEFAULT_NAME) -> Table:
    """Open the captions of that name; `CaptionError` lists those there are if there are none of that name."""
    if name not in names_of(store):
        have = ", ".join(names_of(store))
        remedy = f"there are: {have}" if have else "there are none yet; make some with `icehouse caption`"
        raise unknown_name(CaptionError(f"no captions {name!r} in {store.path}; {remedy}"))
    return store.table(folder_of(name))


def keys_of(table: Table) -> set[str]:
    """Keys of the captions that a table has."""
    keys: list[str] = table.read(["caption_key"])["caption_key"].to_pylist()
    return set(keys)


def with_texts(table: Table) -> bool:
    """Whether captions of a table belong to a picture and a text, not to a picture alone."""
    return bool((table.spec.get("provenance") or {}).get("text"))


# A model's JSON may hold half of a surrogate pair, a server any number as its count of tokens. Arrow refuses both, and then
# the whole commit; so every value is brought to its column's type when it comes in, where it concerns one answer.


def columns_of(schema: pa.Schema) -> Columns:
    """Columns of a schema in the form `fit` needs; cached, since looking at Arrow's own types is slow."""
    return [(field.name, field.nullable, _kind(field.type)) for field in schema]


def fit(row: Row, columns: Columns) -> Row:
    """Bring a row to a table's columns; what has no place in its column is null, what is no column is left out.

    Halves of surrogate pairs are replaced by U+FFFD. Raises `ValueError` if a column that may not be null would be.
    """
    fitted = {}
    for name, nullable, kind in columns:
        value = row.get(name)
        if value is not None:
            value = _value(value, kind)
        if value is None and not nullable:
            raise ValueError(f"no {name}")
        fitted[name] = value
    return fitted


def append_rows(table: Table, rows: Sequence[Row]) -> int:
    """Append rows to a captions table, without those that it has; returns how many joined."""
    if not rows:
        return 0
    schema = writable_schema(table)
    columns = columns_of(schema)
    fitted = pa.Table.from_pylist([fit(row, columns) for row in rows], schema=schema)
    return table.append(fitted, unique="caption_key")


def _kind(kind: pa.DataType) -> str | int | pa.DataType:
    """An integer's bits, or a word for a type, or a type that captions do not have."""
    if pa.types.is_signed_integer(kind):
        return int(kind.bit_width)
    for word, is_it in (
        ("text", pa.types.is_string),
        ("number", pa.types.is_floating),
        ("time", pa.types.is_timestamp),
    ):
        if is_it(kind):
            return word
    return "texts" if pa.types.is_list(kind) and pa.types.is_string(kind.value_type) else kind


def _value(value: Any, kind: str | int | pa.DataType) -> Any:
    if kind == "text":
        return _text(value) if isinstance(value, str) else None
    if isinstance(kind, int):
        most = 1 << (kind - 1)
        return value if type(value) is int and -most <= value < most else None
    if kind == "number":
        return float(value) if type(value) in (int, float) and abs(value) < 1e38 else None
    if kind == "time":
        return value if isinstance(value, datetime) else None
    if kind == "texts":
        return [_text(part) for part in value if isinstance(part, str)] if isinstance(value, list) else None
    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None


def _text(value: str) -> str:
    """Text that has a UTF-8 form: pairs of surrogates joined, single ones replaced."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


# Provenance


def make_spec(name: str, provenance: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Spec of a captions table: `provenance` decides who may add to it, `more` is for the record."""
    return {
        "kind": "captions",
        "name": name,
        "key": "caption_key",
        "provenance": dict(provenance),
        "fingerprint": fingerprint(provenance),
        **more,
    }


def ensure_captions(store: Store, spec: Mapping[str, Any]) -> Table:
    """Open the captions table of `spec` for writing, made if it is not there.

    Raises `SpaceError` if it holds captions of another model, digest, prompt or options, with both named, `CaptionError` if
    the name is no name for a table.
    """
    name = str(spec["name"])
    if not is_name(name):
        raise CaptionError(f"{name!r} is no name for captions: letters, digits, '.', '_' and '-', please")
    structured = bool(spec["provenance"].get("structured"))
    table = store.ensure_table(folder_of(name), schema_of(structured=structured), spec)
    have = table.spec
    if have.get("fingerprint") not in (spec["fingerprint"], _earlier_fingerprint(spec)):
        raise SpaceError(_refusal(name, have, spec))
    return table


def _earlier_fingerprint(spec: Mapping[str, Any]) -> str:
    """Fingerprint of a spec in its earlier form, without answer cleaning and the sending of small pictures.

    Tables from then go on: servers refused such pictures, and what cleaning changes is in ``raw``.
    """
    provenance = {key: value for key, value in spec["provenance"].items() if key != "cleaning"}
    if isinstance(image := provenance.get("image"), Mapping):
        provenance["image"] = {key: image[key] for key in ("max_side", "format", "quality") if key in image}
    return fingerprint(provenance)


def note_server(table: Table, server: str) -> None:
    """Keep in the spec that this software wrote to the table too."""
    known = list(table.spec.get("servers", ()))
    if server not in known:
        table.update_spec({"servers": [*known, server]})


def _refusal(name: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    unlike = differences(have.get("provenance") or {}, want["provenance"])
    shown = [f"{key} {_short(a)} against {_short(b)}" for key, (a, b) in unlike.items()]
    return (
        f"the captions {name!r} are by {_maker(have)}, which do not mix with those by {_maker(want)}: "
        f"{'; '.join(shown[:4])}; use what they were made with, or give these another --name"
    )


def _maker(spec: Mapping[str, Any]) -> str:
    provenance = spec.get("provenance") or {}
    if "imported" in provenance:
        imported = provenance["imported"]
        return f"import of {imported.get('file')} (sha256 {str(imported.get('sha256'))[:12]})"
    digest = provenance.get("digest")
    model = provenance.get("model", "an unknown model")
    return f"{model} (digest {str(digest)[:12]})" if digest else str(model)


def _short(value: Any) -> str:
    text = "nothing" if value is None else " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
