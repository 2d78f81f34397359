"""Tables against a model, and the promises that a manifest makes."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.errors import CorruptError, LockedError, SpaceError, StoreError
from icehouse.store import files as locks
from icehouse.store import table as tables
from icehouse.store.maintain import _compact_table
from icehouse.store.table import Table, sweep

SCHEMA = pa.schema([pa.field("k", pa.string(), nullable=False), pa.field("v", pa.int64())])


def rows(keys: list[str], values: list[int | None] | None = None, **more: list[Any]) -> pa.Table:
    table = pa.table({"k": pa.array(keys, pa.string())})
    if values is not None:
        table = table.append_column("v", pa.array(values, pa.int64()))
    for name, column in more.items():
        table = table.append_column(name, pa.array(column, pa.string()))
    return table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.create(tmp_path / "t", SCHEMA, {"key": "k"})


# ------------------------------------------------------------------------------------------------ model

keys = st.lists(st.sampled_from("abcdefgh"), max_size=5)
value = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
steps = st.one_of(
    st.tuples(st.just("append"), keys, value, st.none()),
    st.tuples(st.just("upsert"), keys, value, st.booleans()),
    st.tuples(st.just("label"), keys, value, st.booleans()),
    st.tuples(st.just("delete"), keys, st.none(), st.none()),
    st.tuples(st.just("compact"), st.just([]), st.none(), st.none()),
    st.tuples(st.just("reopen"), st.just([]), st.none(), st.none()),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(steps, max_size=10))
def test_any_sequence_of_commits_equals_a_dict(
    sequence: list[tuple[str, list[str], int | None, bool | None]],
) -> None:
    model: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = Table.create(Path(folder) / "t", SCHEMA, {"key": "k"})
        for action, ks, v, keep in sequence:
            values = [None if v is None else v // (i + 1) for i in range(len(ks))]
            if action == "append":
                new = {}
                for k, x in zip(ks, values, strict=True):
                    if k not in model and k not in new:
                        new[k] = {"k": k, "v": x, "label": None}
                assert table.append(rows(ks, values), unique="k") == len(new)
                model |= new
            elif action in ("upsert", "label"):
                last = {k: i for i, k in enumerate(ks)}
                for k, i in sorted(last.items(), key=lambda pair: pair[1]):
                    old = model.get(k) if keep else None
                    row = dict(old or {"k": k, "v": None, "label": None})
                    model[k] = row | ({"v": values[i]} if action == "upsert" else {"label": str(values[i])})
                batch = rows(ks, values) if action == "upsert" else rows(ks, label=[str(x) for x in values])
                table.upsert(batch, key="k", keep=bool(keep))
            elif action == "delete":
                assert table.delete("k", ks) == len(set(ks) & set(model))
                model = {k: row for k, row in model.items() if k not in ks}
            elif action == "compact":
                _compact_table(table, "t", 1 << 20)
            else:
                table = Table.open(table.path)
            got = [{"label": None} | row for row in table.read().to_pylist()]
            assert got == list(model.values())
        assert table.rows == len(model)
        live = {path.name for path in table.snapshot().files}
        assert all(pq.read_metadata(table.path / name).num_rows for name in live)


# ------------------------------------------------------------------------------------------------ commits


def test_every_commit_and_nothing_else_changes_the_stamp(table: Table, tmp_path: Path) -> None:
    stamps = [table.stamp()]
    for k in range(3):
        table.append(rows([f"new{k}"], [k]))
        assert table.stamp() == table.stamp()
        table.read()
        stamps.append(table.stamp())
    assert len(set(stamps)) == 4
    assert Table(tmp_path / "none").stamp() is None


def test_a_snapshot_does_not_see_later_commits(table: Table) -> None:
    table.append(rows(["a", "b"], [1, 2]))
    before = table.snapshot()
    table.upsert(rows(["a"], [9]), key="k")
    table.delete("k", ["b"])
    table.append(rows(["c"], [3]))
    assert before.read().to_pydict() == {"k": ["a", "b"], "v": [1, 2]}
    assert table.read().to_pydict() == {"k": ["a", "c"], "v": [9, 3]}
    assert table.snapshot().version > before.version


def test_the_digest_follows_the_rows_and_nothing_else(table: Table) -> None:
    table.append(rows(["a"], [1]))
    digest = table.snapshot().digest
    table.update_spec({"probe": {"ids": ["a"]}})
    table.upsert(rows(["a"], [1]), key="k")  # nothing new
    assert table.append(rows(["a"], [5]), unique="k") == 0
    assert table.snapshot().digest == digest
    table.upsert(rows(["a"], [2]), key="k")
    assert table.snapshot().digest != digest


def test_an_upsert_rewrites_only_the_parts_it_touches(table: Table) -> None:
    table.append(rows(["a", "b"], [1, 2]))
    table.append(rows(["c", "d"], [3, 4]))
    first, second = (part.name for part in table.snapshot().parts)
    assert table.upsert(rows(["c", "d", "e"], [3, 5, 6]), key="k") == 2
    names = [part.name for part in table.snapshot().parts]
    assert names[0] == first
    assert second not in names
    assert table.read()["v"].to_pylist() == [1, 2, 3, 5, 6]


def test_a_lone_part_says_what_it_is(table: Table) -> None:
    table.update_spec({"fingerprint": "f00", "probe": {"ids": ["a"]}})
    table.append(rows(["a"], [1]))
    about = json.loads(pq.read_schema(table.snapshot().files[0]).metadata[b"icehouse"])
    assert about == {"key": "k", "fingerprint": "f00"}


def test_retired_parts_stay_for_a_while_and_then_go(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.append(rows(["a"], [1]))
    old = table.snapshot()
    table.upsert(rows(["a"], [2]), key="k")
    table.append(rows(["b"], [1]))
    assert old.files[0].exists()
    now = time.time()
    monkeypatch.setattr(tables.time, "time", lambda: now + tables.GRACE_S + 1)
    table.append(rows(["c"], [1]))
    assert not old.files[0].exists()
    assert {path.name for path in table.path.glob("part-*")} == {path.name for path in table.snapshot().files}


def test_a_reader_whose_parts_went_away_reads_the_newer_snapshot(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.append(rows(["a"], [1]))
    stale = table.snapshot()
    table.upsert(rows(["a"], [2]), key="k")
    stale.files[0].unlink()
    fresh = table.snapshot
    answers = iter([stale])
    monkeypatch.setattr(table, "snapshot", lambda: next(answers, None) or fresh())
    assert table.read()["v"].to_pylist() == [2]


def test_a_part_that_is_really_gone_is_named(table: Table) -> None:
    table.append(rows(["a"], [1]))
    table.snapshot().files[0].unlink()
    with pytest.raises(StoreError, match="verify"):
        table.read()


def test_orphans_and_leftovers_of_dead_writers_are_swept(table: Table) -> None:
    table.append(rows(["a"], [1]))
    live = table.snapshot().files[0]
    (table.path / "part-000003-abcdefabcdef.parquet").write_bytes(live.read_bytes())
    from icehouse.store import files

    alive = table.path / files.temp_name(".parquet")
    alive.write_bytes(b"in the making")
    dead = table.path / f".tmp-{files._WHERE}-{2**22 + 1}-{'0' * 32}.parquet"
    dead.write_bytes(b"half")
    elsewhere = table.path / f".tmp-otherhost-1-{'0' * 32}.parquet"
    elsewhere.write_bytes(b"half")
    assert sweep(table) == 2
    left = {path.name for path in table.path.iterdir() if path.suffix == ".parquet"}
    assert left == {live.name, alive.name, elsewhere.name}


@pytest.mark.parametrize("place", ["boot", "container"])
def test_containers_with_one_host_name_leave_each_other_s_temporary_files_alone(
    table: Table, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from icehouse.store import files

    table.append(rows(["a"], [1]))
    here = files._WHERE
    read_text, readlink = Path.read_text, Path.readlink
    if place == "boot":
        other = "2b0c1d3e-0000-4000-8000-000000000000"
        monkeypatch.setattr(
            Path, "read_text", lambda p, **k: other if p.name == "boot_id" else read_text(p, **k)
        )
    else:
        monkeypatch.setattr(
            Path, "readlink", lambda p: Path("pid:[1]") if str(p).endswith("ns/pid") else readlink(p)
        )
    there = files._where()
    monkeypatch.undo()
    assert there != here
    theirs = table.path / f".tmp-{there}-{2**22 + 1}-{'0' * 32}.parquet"  # no such process here
    theirs.write_bytes(b"in the making")
    folder = table.path / f".tmp-{there}-{2**22 + 1}-{'1' * 32}"
    folder.mkdir()
    (folder / "growing").write_bytes(b"in the making")
    assert sweep(table) == 0
    assert theirs.exists()
    old = time.time() - files.LEFTOVER_AGE_S - 60
    os.utime(theirs, (old, old))
    os.utime(folder, (old, old))  # but a file in it was written just now
    assert [path.name for path in files.leftovers(table.path)] == [theirs.name]
    assert sweep(table) == 1


def test_a_writer_that_was_suspended_for_days_keeps_its_part(table: Table) -> None:
    from icehouse.store import files

    table.append(rows(["a"], [1]))
    mine = table.path / files.temp_name(".parquet")
    mine.write_bytes(b"in the making")
    os.utime(mine, (0, 0))
    assert sweep(table) == 0


def test_compaction_yields_to_a_writer_that_changed_the_parts(table: Table) -> None:
    from icehouse.store.schema import write_part

    table.append(rows(["a"], [1]))
    table.append(rows(["b"], [2]))
    snapshot = table.snapshot()
    merged = write_part(snapshot.read(), table.path, snapshot.spec)
    table.upsert(rows(["a"], [7]), key="k")
    assert not table.replace_parts([part.name for part in snapshot.parts], merged)
    assert table.read()["v"].to_pylist() == [7, 2]
    assert not merged.path.exists()


def test_a_failed_commit_changes_nothing(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.append(rows(["a"], [1]))
    before = table.snapshot()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("icehouse.store.schema.fsync_file", full)
    with pytest.raises(StoreError, match="No space left"):
        table.append(rows(["b"], [2]))
    with pytest.raises(StoreError, match="No space left"):
        table.upsert(rows(["a", "b"], [3, 4]), key="k")
    assert table.snapshot().digest == before.digest
    assert not list(table.path.glob(".tmp-*"))


# ------------------------------------------------------------------------------------------------ columns


def test_columns_are_united_by_name(table: Table) -> None:
    table.append(rows(["a"], [1]))
    table.append(rows(["b"], label=["x"]))
    table.append(pa.table({"v": pa.array([3], pa.int32()), "k": pa.array(["c"]).dictionary_encode()}))
    assert table.read().to_pylist() == [
        {"k": "a", "v": 1, "label": None},
        {"k": "b", "v": None, "label": "x"},
        {"k": "c", "v": 3, "label": None},
    ]
    assert table.read(["label", "k"]).column_names == ["label", "k"]
    batches = list(table.snapshot().batches(["label"], batch_rows=1))
    assert [batch.num_rows for batch in batches] == [1, 1, 1]


def test_a_dotted_name_is_one_column(table: Table) -> None:
    table.append(rows(["a"], [1], **{"x": ["1"], "x.y": ["2"]}))
    assert table.read(["x"]).to_pylist() == [{"x": "1"}]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (pa.table({"k": ["b"], "v": ["word"]}), "column 'v' is string, this table has int64"),
        (pa.table({"k": pa.array([None], pa.string())}), "'k' has nulls"),
        (pa.table({"v": [1]}), "lack the column 'k'"),
        (pa.table({"k": ["b"], "V": [1]}), "'V' is already there as 'v'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(table: Table, bad: pa.Table, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        table.append(bad)
    assert table.rows == 0


def test_unknown_columns_are_answered_with_those_there_are(table: Table) -> None:
    with pytest.raises(StoreError, match=r"no column 'z'.*k, v"):
        table.read(["z"])
    with pytest.raises(StoreError, match=r"no column 'z'.*k, v"):
        table.delete("z", ["a"])


# ------------------------------------------------------------------------------------------------ errors and locks


def test_no_table_a_newer_one_and_a_damaged_one(tmp_path: Path, table: Table) -> None:
    with pytest.raises(StoreError, match="no table at"):
        Table.open(tmp_path / "none")
    with pytest.raises(StoreError, match="a table already"):
        Table.create(table.path, SCHEMA, {})
    manifest = table.path / "_manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(StoreError, match=r"format 99.*upgrade"):
        table.snapshot()
    manifest.write_text("{")
    with pytest.raises(CorruptError, match="damaged"):
        table.snapshot()


def test_a_fingerprint_cannot_change(table: Table) -> None:
    table.update_spec({"fingerprint": "aa"})
    with pytest.raises(SpaceError, match=r"aa.*bb"):
        table.update_spec({"fingerprint": "bb"})


def test_a_writer_that_waits_too_long_is_told_who_holds_the_table(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/icehouse", "embed", "photos"])
    monkeypatch.setattr(locks, "LOCK_WAIT_S", 0.1)
    errors: list[Exception] = []

    def other() -> None:
        try:
            Table.open(table.path).append(rows(["b"], [2]))
        except LockedError as error:
            errors.append(error)

    with table.lock():
        table.append(rows(["a"], [1]))  # the holder itself goes on
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "icehouse embed photos" in str(errors[0])
    assert f"process {__import__('os').getpid()} " in str(errors[0])
    other()
    assert table.read()["k"].to_pylist() == ["a", "b"]
    assert not (table.path / ".lock.json").exists()


def test_threads_that_append_the_same_keys_add_each_once(table: Table) -> None:
    added: list[int] = []

    def write(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(40)
        for start in range(0, 40, 8):
            batch = [f"k{i}" for i in order[start : start + 8]]
            added.append(table.append(rows(batch, [seed] * 8), unique="k"))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(table.read()["k"].to_pylist()) == sorted(f"k{i}" for i in range(40))
    assert sum(added) == 40
