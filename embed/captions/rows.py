"""Rows that a table can have, made of whatever a server said.

A model's JSON may hold half of a surrogate pair, a server any number as its count of tokens. Arrow refuses both, and then
the whole commit; so every value is brought to its column's type when it comes in, where it concerns one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

__all__ = ["Columns", "Row", "columns_of", "fit"]

Row = dict[str, Any]

#: Name, whether it may be null, and kind of each column.
Columns = Sequence[tuple[str, bool, "str | int | pa.DataType"]]


def columns_of(schema: pa.Schema) -> Columns:
    """What `fit` needs of a schema; looking at Arrow's own types takes longer than all the rest."""
    return [(field.name, field.nullable, _kind(field.type)) for field in schema]


def fit(row: Row, columns: Columns) -> Row:
    """Bring a row to a table's columns.

    Parameters
    ----------
    row : dict
        What is no column of the table is left out.
    columns : Columns

    Returns
    -------
    dict
        Halves of surrogate pairs are replaced by U+FFFD; what has no place in its column is null.

    Raises
    ------
    ValueError
        If a column that may not be null would be.
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
