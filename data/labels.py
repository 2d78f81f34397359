"""Labels and ids: one normalisation for every file format, and labels that are nearly the same.

What a value is must not depend on the program that wrote it: `1`, `1.0` and a float64 of Parquet are one label.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import count_of
from .rows import show

#: What programs write for "no value" (pandas, R, SQL, spreadsheets), in exactly these cases.
MISSING_VALUES = ("nan", "NaN", "NAN", "-nan", "NaT", "<NA>", "#N/A", "NA", "null", "NULL")

#: Columns with more distinct values are no labels, such as names of users.
MAX_CLASSES = 500

#: Type of a column with several values a row.
LIST = pa.list_(pa.string())

# Labels that may mean "no label": said before training, since only the user knows.
_MAYBE_MISSING = frozenset({"na", "n/a", "nan", "nat", "null", "nil", "<na>", "#n/a", "-nan"})
_NO_WORD = {"", "None", "?", "-", "--"}
_BLANKS = "".join(chr(i) for i in range(0x3001) if chr(i).isspace()) + "\u200b\u200c\u200d\u2060\ufeff"
_WHOLE = r"^([+-]?[0-9]+)\.0+$"
# With a point or a signed exponent, as programs print floats: "1e5" alone may be the beginning of a hash.
_SCIENTIFIC = r"^[+-]?[0-9](\.[0-9]+[eE][+-]?|[eE]\+)[0-9]{1,3}$"
# Doubles hold every whole number below this one.
_EXACT = 2**53
_NULL = pa.scalar(None, pa.string())


def trim(value: str) -> str:
    """Text without the white space, byte order marks and invisible spaces around it."""
    return value.strip(_BLANKS)


def normalise(column: pa.ChunkedArray, missing: Sequence[str] | None = None) -> pa.ChunkedArray:
    """Ids, labels, metadata and splits, or lists of them, in their one spelling.

    Blanks around a value are taken off, its characters are composed (NFC), whole numbers lose their decimal
    point (``1.0``, ``1.00e+00``), ``True`` and ``TRUE`` become ``true``, and `missing` values (by default
    `MISSING_VALUES`) become null; in a list they and repetitions are left out.
    """
    if pa.types.is_list(column.type):
        flat = pc.list_flatten(column)
        values = dict(zip(flat.to_pylist(), normalise(flat, missing).to_pylist(), strict=True))
        rows = [
            None if row is None else list(dict.fromkeys(v for x in row if (v := values[x]) is not None))
            for row in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(rows, LIST)])
    missing = MISSING_VALUES if missing is None else missing
    column = pc.utf8_normalize(pc.utf8_trim(column, _BLANKS), "NFC")
    column = pc.replace_substring_regex(column, _WHOLE, r"\1")
    scientific = np.flatnonzero(pc.fill_null(pc.match_substring_regex(column, _SCIENTIFIC), False).to_numpy())
    if len(scientific):
        cells = column.to_pylist()
        for place in scientific.tolist():
            cells[place] = _digits(cells[place])
        column = strings(cells)
    for word in ("true", "false"):
        spellings = pa.array([word.title(), word.upper()])
        column = pc.if_else(pc.is_in(column, value_set=spellings), word, column)
    return pc.if_else(pc.is_in(column, value_set=pa.array(["", *missing], pa.string())), _NULL, column)


def normalised(value: str, missing: Sequence[str] | None = None) -> str | None:
    """One value as `normalise` has it.

    >>> normalised(" 1.0 "), normalised("TRUE"), normalised("NA"), normalised("01")
    ('1', 'true', None, '01')
    """
    (found,) = normalise(strings([value]), missing).to_pylist()
    return found if isinstance(found, str) else None


def as_known(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids of a file in the spelling that a store has them in: as they are where it has them so, else by `normalise`."""
    spelt = normalise(ids)
    place = pc.index_in(spelt, value_set=normalise(known, ()).combine_chunks(), skip_nulls=True)
    exact = pc.if_else(pc.is_in(ids, value_set=known.combine_chunks()), ids, _NULL)
    return pc.coalesce(exact, known.combine_chunks().take(place.combine_chunks()), spelt)


def spelling_changes(before: pa.ChunkedArray, after: pa.ChunkedArray) -> str | None:
    """Note on the changes made by `normalise`, with a few examples; None if there were none."""
    if pa.types.is_list(before.type):
        return None
    differ = pc.fill_null(pc.not_equal(before, pc.fill_null(after, "")), False)
    rows = pc.sum(differ).as_py() or 0
    if not rows:
        return None
    some = [column.filter(differ)[:10_000].to_pylist() for column in (before, after)]
    pairs = dict(zip(*some, strict=True))
    shown = [f"{show(a)} is {'no value' if b is None else show(b)}" for a, b in list(pairs.items())[:4]]
    return f"{rows} in their usual spelling: {', '.join(shown)}{', ...' if len(pairs) > 4 else ''}"


def lost_digits(ids: pa.ChunkedArray) -> dict[int, str]:
    """Rows whose id, as written, went through a float that could not hold it, with the reason."""
    ids = pc.utf8_trim(ids, _BLANKS)
    number = pc.or_(pc.match_substring_regex(ids, _WHOLE), pc.match_substring_regex(ids, _SCIENTIFIC))
    places = np.flatnonzero(pc.fill_null(number, False).to_numpy())
    reasons = {}
    for place, value in zip(places.tolist(), ids.take(pa.array(places)).to_pylist(), strict=True):
        number = Decimal(value)
        if abs(number) >= _EXACT or (_whole(number) and _hides_digits(value)):
            reasons[place] = (
                f"the id {show(value)} is a floating-point number, which has lost digits; write the file again with ids "
                "that are integers or text (pandas: read them with dtype={'id': str})"
            )
    return reasons


def near_identical(counts: Mapping[str, int]) -> list[str]:
    """Descriptions of labels (of label -> rows) that probably mean one, or none; not beyond `MAX_CLASSES`.

    >>> near_identical({"flood": 12, "Flood ": 3, "fire": 9})
    ["'flood' (12 rows) and 'Flood ' (3 rows)"]
    """
    if len(counts) > MAX_CLASSES:
        return []
    groups: dict[str, list[str]] = {}
    for label in counts:
        groups.setdefault(_key(label), []).append(label)
    alike = [
        " and ".join(
            f"{show(label)} ({count_of(counts[label], 'row')})"
            for label in sorted(group, key=lambda x: -counts[x])
        )
        for group in groups.values()
        if len(group) > 1
    ]
    return alike + [
        f"{show(label)} ({count_of(rows, 'row')}), which may mean that there is none"
        for label, rows in counts.items()
        if trim(label) in _NO_WORD - ({"-"} if "+" in counts else set())
        or trim(label).casefold() in _MAYBE_MISSING
    ]


def counted(column: pa.ChunkedArray) -> Counter[str]:
    """Rows per value of a column; each value of a list counts."""
    column = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    return Counter(
        {str(row["values"]): row["counts"] for row in column.drop_null().value_counts().to_pylist()}
    )


def _key(label: str) -> str:
    """Key shared by near-identical labels: no case, blanks or hyphens, one spelling of numbers and truth values."""
    key = unicodedata.normalize("NFKC", trim(label)).casefold()
    try:
        number = Decimal({"true": "1", "false": "0"}.get(key, key))
        if number.is_finite():
            return str(number.normalize())
    except ArithmeticError:
        pass
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", key)


def _digits(value: str) -> str:
    """A whole number in scientific notation as its digits, where it shows all of them; else as it is."""
    number = Decimal(value)
    return str(int(number)) if _whole(number) and abs(number) < _EXACT and not _hides_digits(value) else value


def _whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


def _hides_digits(value: str) -> bool:
    """Whether a number in scientific notation shows fewer digits than it has before the point."""
    mantissa, e, exponent = value.lower().partition("e")
    return bool(e) and len(re.sub(r"\D", "", mantissa)) < int(exponent) + 1


def as_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of single values as one of lists; null stays null."""
    if pa.types.is_list(column.type):
        return column
    return pa.chunked_array(
        [pa.array([None if cell is None else [cell] for cell in column.to_pylist()], LIST)]
    )


def strings(values: Sequence[str | None] | pa.Array) -> pa.ChunkedArray:
    """Column of strings."""
    return pa.chunked_array([pa.array(values, pa.string())])
