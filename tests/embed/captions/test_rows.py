"""Whatever a server says becomes a row that the table can have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.rows import columns_of, fit
from icehouse.embed.captions.table import schema_of

SCHEMA = schema_of(structured=True)
COLUMNS = columns_of(SCHEMA)
GOOD = {
    "caption_key": "k",
    "image_sha256": "i",
    "caption": "A street.",
    "created": datetime(2026, 1, 1, tzinfo=UTC),
}

texts = st.text(st.characters(exclude_categories=[]))
anything: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(texts | st.integers()), st.just({})
)


@given(st.dictionaries(st.sampled_from([name for name in SCHEMA.names if name != "created"]), anything))
@settings(deadline=None)
def test_what_fits_can_be_had(values: dict[str, Any]) -> None:
    row = {**GOOD, **{k: v for k, v in values.items() if k not in ("caption_key", "image_sha256")}}
    fitted = fit({**row, "_more": 1}, COLUMNS)
    assert list(fitted) == SCHEMA.names
    (back,) = pa.Table.from_pylist([fitted], schema=SCHEMA).to_pylist()
    assert back["caption_key"] == "k"
    assert fit(fitted, COLUMNS) == fitted


def test_surrogates() -> None:
    fitted = fit({**GOOD, "caption": "a \ud83d b \ud83d\ude00", "objects": ["\udc00", 3, "car"]}, COLUMNS)
    assert fitted["caption"] == "a \ufffd b \U0001f600"
    assert fitted["objects"] == ["\ufffd", "car"]


def test_numbers_out_of_range_are_null() -> None:
    fitted = fit({**GOOD, "seed": 2**63, "tokens": 2**31, "attempts": True, "seconds": 1e300}, COLUMNS)
    assert [fitted[name] for name in ("seed", "tokens", "attempts", "seconds")] == [None] * 4
    assert fit({**GOOD, "seed": 2**63 - 1}, COLUMNS)["seed"] == 2**63 - 1


def test_a_row_without_its_key_is_none() -> None:
    with pytest.raises(ValueError, match="no caption_key"):
        fit({**GOOD, "caption_key": 7}, COLUMNS)
