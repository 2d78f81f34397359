"""Vectors come back bit by bit, by the direct reader, by pyarrow's, and from the memory-mapped copy."""

from __future__ import annotations

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from icehouse.errors import CorruptError, StoreError
from icehouse.store import schema, vectors
from icehouse.store.files import file_sha256
from icehouse.store.schema import features_schema, vector_type
from icehouse.store.table import Table
from icehouse.store.vectors import (
    finite_rows,
    load_blocks,
    load_vectors,
    read_into,
    read_vectors,
    take_float32,
    to_array,
    vectors_to_arrow,
)

POOL = ThreadPoolExecutor(2)

dtypes = st.sampled_from(["float16", "float32"])


def bits(X: np.ndarray) -> np.ndarray:
    return X.view(f"u{X.dtype.itemsize}")


def matrix(rows: int, dim: int, dtype: str = "float16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)


def table_of(folder: Path, blocks: list[np.ndarray], dtype: str = "float16") -> Table:
    table = Table.create(
        folder / "f", features_schema("image", "pooled", blocks[0].shape[1], dtype), {"key": "image_sha256"}
    )
    done = 0
    for block in blocks:
        keys = [f"{i:064x}" for i in range(done, done + len(block))]
        table.append(pa.table({"image_sha256": keys, "vector": vectors_to_arrow(block, dtype)}))
        done += len(block)
    return table


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    dtype=dtypes,
    dim=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
)
def test_any_finite_vectors_come_back_exactly(
    data: st.DataObject, dtype: str, dim: int, sizes: list[int]
) -> None:
    width = int(dtype[5:])
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    blocks = [data.draw(hnp.arrays(dtype, (n, dim), elements=numbers)) for n in sizes]
    expected = np.concatenate(blocks)
    with tempfile.TemporaryDirectory() as folder:
        snapshot = table_of(Path(folder), blocks, dtype).snapshot()
        assert np.array_equal(bits(read_vectors(snapshot)), bits(expected))
        assert np.array_equal(bits(to_array(snapshot.read(["vector"])["vector"])), bits(expected))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_direct_reader_takes_many_pages_and_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(schema, "ROW_GROUP", 1000)
    X = matrix(5500, 300, dtype)  # 3.3 MB or more: several pages of 1 MiB
    path = table_of(tmp_path, [X], dtype).snapshot().files[0]
    assert pq.read_metadata(path).num_row_groups == 6
    out = np.empty_like(X)
    assert read_into(path, "vector", out, POOL)
    assert np.array_equal(bits(out), bits(X))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"use_dictionary": False, "column_encoding": {"vector.list.element": "BYTE_STREAM_SPLIT"}},
        {"data_page_version": "2.0"},
        {"write_statistics": True},
    ],
    ids=str,
)
def test_other_layouts_are_declined_or_read_right(tmp_path: Path, options: dict[str, object]) -> None:
    X = matrix(50, 8)
    path = tmp_path / "part.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"vector": vectors_to_arrow(X)}), path, **(plain | options))
    out = np.zeros_like(X)
    if read_into(path, "vector", out, POOL):
        assert "write_statistics" in options
        assert np.array_equal(out, X)


def test_nulls_and_wrong_shapes_are_declined(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"vector": pa.array([[1, 2], None], vector_type(2))}), path, **plain)
    assert not read_into(path, "vector", np.empty((2, 2), np.float16), POOL)
    pq.write_table(pa.table({"vector": pa.array([[1, 2], [3, 4]], vector_type(2))}), path, **plain)
    assert read_into(path, "vector", np.empty((2, 2), np.float16), POOL)
    assert not read_into(path, "vector", np.empty((2, 3), np.float16), POOL)
    assert not read_into(path, "vector", np.empty((3, 2), np.float16), POOL)
    assert not read_into(path, "vector", np.empty((2, 2), np.float32), POOL)
    assert not read_into(path, "other", np.empty((2, 2), np.float16), POOL)


@settings(deadline=None, max_examples=60)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_damaged_bytes_never_crash_the_reader(flips: list[tuple[int, int]]) -> None:
    X = matrix(20, 3)
    with tempfile.TemporaryDirectory() as folder:
        snapshot = table_of(Path(folder), [X]).snapshot()
        path = snapshot.files[0]
        data = bytearray(path.read_bytes())
        for at, flip in flips:
            data[at % len(data)] ^= flip
        path.write_bytes(data)
        with contextlib.suppress(CorruptError):  # and nothing else
            assert read_vectors(snapshot).shape == X.shape


def test_parts_that_someone_else_wrote_are_read_through_pyarrow(tmp_path: Path) -> None:
    X = matrix(30, 5)
    table = table_of(tmp_path, [X])
    path = table.snapshot().files[0]
    pq.write_table(pq.read_table(path), path, compression="zstd")
    with pytest.raises(CorruptError, match="not what was written"):
        read_vectors(table.snapshot())
    manifest = table.snapshot()
    theirs = replace(manifest.parts[0], bytes=path.stat().st_size, sha256=file_sha256(path))
    replace(manifest, parts=(theirs,)).write()
    assert np.array_equal(read_vectors(table.snapshot()), X)


# ------------------------------------------------------------------------------------------------ the copy


def test_the_copy_is_made_used_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    cache = tmp_path / "cache"
    table = table_of(tmp_path, [matrix(9, 4), matrix(3, 4, seed=1)])
    snapshot = table.snapshot()
    first = load_vectors(snapshot, "image_sha256", cache)
    for path in snapshot.files:
        path.rename(path.with_suffix(".away"))
    again = load_vectors(snapshot, "image_sha256", cache)
    assert isinstance(again.X, np.memmap)
    assert np.array_equal(again.X, first.X)
    assert again.keys.to_pylist() == first.keys.to_pylist() == [f"{i:064x}" for i in range(12)]
    for path in snapshot.files:
        path.with_suffix(".away").rename(path)

    table.delete("image_sha256", [f"{0:064x}"])
    newer = load_vectors(table.snapshot(), "image_sha256", cache)
    assert np.array_equal(newer.X, first.X[1:])
    assert {path.name.split(".")[0] for path in cache.iterdir()} == {table.snapshot().digest}


@pytest.mark.parametrize("damaged", [False, True])
def test_only_what_was_added_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    cache, X = tmp_path / "cache", matrix(14, 4)
    table = table_of(tmp_path, [X[:9], X[9:12]])
    snapshot = table.snapshot()
    load_vectors(snapshot, "image_sha256", cache)
    if damaged:
        (cache / f"{snapshot.digest}.npy").write_bytes(b"nonsense")
    names = [f"{i:064x}" for i in (12, 13)]
    table.append(pa.table({"image_sha256": names, "vector": vectors_to_arrow(X[12:], "float16")}))
    read: list[Path] = []
    check = vectors.check_part
    monkeypatch.setattr(vectors, "check_part", lambda path, part: read.append(path) or check(path, part))
    grown = load_vectors(table.snapshot(), "image_sha256", cache)
    assert len(read) == (3 if damaged else 1)
    assert np.array_equal(grown.X, X)
    assert grown.keys.to_pylist() == [f"{i:064x}" for i in range(14)]
    assert {path.name.split(".")[0] for path in cache.iterdir()} == {table.snapshot().digest}


def test_a_few_rows_beside_a_copy_are_taken_without_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    cache, X = tmp_path / "cache", matrix(44, 4)
    table = table_of(tmp_path, [X[:42]])
    load_vectors(table.snapshot(), "image_sha256", cache)
    before = sorted(path.name for path in cache.iterdir())
    names = [f"{i:064x}" for i in (42, 43)]
    table.append(pa.table({"image_sha256": names, "vector": vectors_to_arrow(X[42:], "float16")}))
    grown = load_blocks(table.snapshot(), "image_sha256", cache)
    rows = np.array([43, 0, 42, 41, 43])
    assert np.array_equal(grown.take(rows), X[rows])
    assert grown.take(rows[:0]).shape == (0, 4)
    assert grown.keys.to_pylist() == [f"{i:064x}" for i in range(44)]
    assert sorted(path.name for path in cache.iterdir()) == before
    assert np.array_equal(grown.whole.X, X)
    assert {path.name.split(".")[0] for path in cache.iterdir()} == {table.snapshot().digest}
    assert len(load_blocks(table.snapshot(), "image_sha256", cache).blocks) == 1


@pytest.mark.parametrize("harm", ["truncate npy", "drop keys", "garbage keys"])
def test_a_damaged_copy_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    X = matrix(9, 4)
    snapshot = table_of(tmp_path, [X]).snapshot()
    cache = tmp_path / "cache"
    load_vectors(snapshot, "image_sha256", cache)
    npy, keys = cache / f"{snapshot.digest}.npy", cache / f"{snapshot.digest}.keys.arrow"
    if harm == "truncate npy":
        npy.write_bytes(npy.read_bytes()[:-8])
    elif harm == "drop keys":
        keys.unlink()
    else:
        keys.write_bytes(b"nonsense")
    again = load_vectors(snapshot, "image_sha256", cache)
    assert np.array_equal(again.X, X)
    assert len(again.keys) == 9


def test_where_no_copy_can_be_made_it_still_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    X = matrix(9, 4)
    (tmp_path / "cache").write_text("a file in the way, as good as read-only media")
    loaded = load_vectors(table_of(tmp_path, [X]).snapshot(), "image_sha256", tmp_path / "cache" / "x")
    assert np.array_equal(loaded.X, X)
    assert not loaded.X.flags.writeable


def test_small_tables_need_no_copy(tmp_path: Path) -> None:
    load_vectors(table_of(tmp_path, [matrix(9, 4)]).snapshot(), "image_sha256", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# ------------------------------------------------------------------------------------------------ arrays


def test_values_that_the_type_cannot_hold_are_refused() -> None:
    X = np.ones((3, 2), np.float32)
    X[1, 1] = 70_000
    assert finite_rows(X).tolist() == [True, False, True]
    assert finite_rows(X, "float32").all()
    with pytest.raises(StoreError, match=r"row 1 .*use float32"):
        vectors_to_arrow(X)
    X[1, 1] = np.nan
    with pytest.raises(StoreError, match=r"row 1 has a value that is not a finite float16$"):
        vectors_to_arrow(X)


def test_a_sliced_column_gives_its_own_rows() -> None:
    column = vectors_to_arrow(matrix(10, 3))
    assert np.array_equal(to_array(column[4:7]), matrix(10, 3)[4:7])
    assert to_array(pa.chunked_array([], vector_type(3))).shape == (0, 3)


def test_take_goes_past_one_block() -> None:
    X = matrix(20_000, 2)
    rows = np.random.default_rng(1).permutation(20_000)[:17_000]
    taken = take_float32(X, rows)
    assert taken.dtype == np.float32
    assert np.array_equal(taken, X[rows].astype(np.float32))
