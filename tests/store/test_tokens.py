"""Token states: exactly what was stored, mapped from disk, and padded only where they are asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from icehouse.errors import StoreError
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import pad_tokens, to_array, tokens_to_arrow

Spec = Callable[..., dict[str, Any]]
NAME = "toy/image/tokens"


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(), n=st.integers(0, 5), t=st.integers(1, 4), dtype=st.sampled_from(["float16", "float32"])
)
def test_the_real_ones_are_kept_exactly(data: st.DataObject, n: int, t: int, dtype: str) -> None:
    numbers = st.floats(width=16, allow_nan=False, allow_infinity=False)
    values = data.draw(hnp.arrays(np.float32, (n, t, 2), elements=numbers))
    mask = data.draw(hnp.arrays(bool, (n, t)))
    column = tokens_to_arrow(values, mask, dtype)
    lengths = np.diff(column.offsets.to_numpy()).astype(np.int64)
    padded, real = pad_tokens(to_array(column.flatten()), np.cumsum(lengths) - lengths, lengths)
    assert padded.dtype == np.float32
    assert real.sum(axis=1).tolist() == mask.sum(axis=1).tolist()
    for i in range(n):
        assert np.array_equal(padded[i][real[i]], values[i][mask[i]])
        assert not padded[i][~real[i]].any()


def fill(
    store: Store, spec: Spec, parts: int, rows: int, length: int, dim: int
) -> tuple[list[str], list[np.ndarray]]:
    """A table of several parts whose rows have 0 to `length` tokens each."""
    rng = np.random.default_rng(0)
    table = store.ensure_feature_table(
        NAME, spec(output="tokens", dim=dim), features_schema("image", "tokens", dim)
    )
    keys, states = [], []
    for part in range(parts):
        mask = np.arange(length) < rng.integers(0, length + 1, rows)[:, None]
        values = rng.standard_normal((rows, length, dim)).astype(np.float16).astype(np.float32)
        digests = [f"{part * rows + i:064x}" for i in range(rows)]
        table.append(pa.table({"image_sha256": digests, "tokens": tokens_to_arrow(values, mask)}))
        keys += digests
        states += [v[m] for v, m in zip(values, mask, strict=True)]
    return keys, states


def same(store: Store, keys: list[str], states: list[np.ndarray]) -> None:
    found = store.tokens(NAME)
    assert found.keys.to_pylist() == keys
    for start, length, expected in zip(found.starts, found.lengths, states, strict=True):
        assert np.array_equal(found.states[start : start + length], expected)


def test_large_tables_are_mapped_from_a_copy(store: Store, spec: Spec) -> None:
    keys, states = fill(store, spec, 3, 60, 64, 512)
    same(store, keys, states)
    assert isinstance(store.tokens(NAME).states, np.memmap)
    cache = store.path / "cache" / "features" / NAME
    before = {path.name for path in cache.iterdir()}
    same(store, keys, states)
    assert {path.name for path in cache.iterdir()} == before
    # A copy that was cut short is made again; one of an older snapshot goes.
    (broken,) = cache.glob("*.states")
    broken.write_bytes(broken.read_bytes()[:-1])
    same(store, keys, states)
    store.feature_table(NAME).delete("image_sha256", keys[:1])
    same(store, keys[1:], states[1:])
    assert not before & {path.name for path in cache.iterdir()}


def test_small_tables_and_folders_that_cannot_be_written_do_without(
    store: Store, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, states = fill(store, spec, 2, 5, 3, 4)
    same(store, keys, states)
    assert not (store.path / "cache" / "features" / NAME).exists()
    monkeypatch.setattr("icehouse.store.vectors.CACHE_FROM", 0)
    (store.path / "cache").mkdir(exist_ok=True)
    shutil.rmtree(store.path / "cache")
    (store.path / "cache").write_text("no folder")
    same(store, keys, states)


def test_vectors_are_no_tokens(store: Store, spec: Spec) -> None:
    store.ensure_feature_table(
        "toy/image/pooled", spec(output="pooled", dim=4), features_schema("image", "pooled", 4)
    )
    with pytest.raises(StoreError, match="one vector a content, not tokens"):
        store.tokens("toy/image/pooled")
