"""Writers killed in the middle, and writers at the same time: separate processes, as in life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from icehouse.store.table import Table

SCHEMA = pa.schema([pa.field("k", pa.string(), nullable=False), pa.field("n", pa.int64())])

# Each line on stdout is a key that the table has acknowledged.
APPENDER = """
import sys
import pyarrow as pa
from icehouse.store.table import Table
table = Table.open(__import__("pathlib").Path(sys.argv[1]))
for i in range(int(sys.argv[3]), 10_000):
    keys = [f"{sys.argv[2]}-{i}-{j}" for j in range(3)]
    if i % 5 == 4:
        table.upsert(pa.table({"k": keys, "n": [i] * 3}), key="k")
    else:
        table.append(pa.table({"k": keys, "n": [i] * 3}), unique="k")
    print(*keys, sep="\\n", flush=True)
"""

# Reads the place of a table and N; a child dies at the N-th of the calls by which a commit reaches the disk. What is
# acknowledged comes between the line read and the child's exit status.
CRASHER = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet
from icehouse.store import files, schema, table as tables
def deadly(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
def work(path):
    tables.fsync_dir = files.fsync_dir = deadly(files.fsync_dir)
    schema.fsync_file = files.fsync_file = deadly(files.fsync_file)
    Path.replace, Path.unlink = deadly(Path.replace), deadly(Path.unlink)
    table = tables.Table.open(Path(path))
    table.append(pa.table({"k": ["x", "y"], "n": [1, 2]}), unique="k")
    print("acknowledged", flush=True)
    table.upsert(pa.table({"k": ["x"], "n": [7]}), key="k")
    print("done", flush=True)
for line in sys.stdin:
    path, left = line.rstrip("\\n").rsplit(" ", 1)
    left = int(left)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(path)
            status = 0
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def check_whole(table: Table) -> set[str]:
    """Keys of a table whose every part is readable, and which has none of them twice."""
    rows = table.read()
    keys = rows["k"].to_pylist()
    assert len(keys) == len(set(keys)) == table.rows
    assert rows["n"].null_count == 0
    return set(keys)


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s")


@pytest.mark.slow
def test_killed_at_random_moments_nothing_acknowledged_is_lost(store: Store) -> None:
    table = store.ensure_table("captions/x", SCHEMA, {"key": "k"})
    rng = np.random.default_rng(0)
    acknowledged: set[str] = set()
    for life in range(8):
        process = run(APPENDER, table.path, life, 0)
        assert process.stdout is not None
        # It is at work; every other one is past its first commit.
        acknowledged |= {process.stdout.readline().strip() for _ in range(1 + 3 * (life % 2))}
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        acknowledged |= set(process.communicate()[0].split())
        assert acknowledged <= check_whole(table)
        assert verify(store).ok
    assert len(acknowledged) > 8 * 3
    table.append(pa.table({"k": ["last"], "n": [0]}))
    named = {part.name for part in table.snapshot().parts} | {name for name, _ in table.snapshot().retired}
    assert {path.name for path in table.path.glob("part-*")} == named
    assert not list(table.path.glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_every_step_of_a_commit_the_table_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    outcomes = []
    with run(CRASHER) as crasher:
        assert crasher.stdin is not None
        assert crasher.stdout is not None
        for step in range(40):
            table = Table.create(tmp_path / str(step), SCHEMA, {"key": "k"})
            table.append(pa.table({"k": ["a"], "n": [0]}))
            crasher.stdin.write(f"{table.path} {step}\n")
            crasher.stdin.flush()
            said = []
            while (line := crasher.stdout.readline().strip()) in ("acknowledged", "done"):
                said.append(line)
            assert int(line) in (0, -signal.SIGKILL)
            state = {row["k"]: row["n"] for row in table.read().to_pylist()}
            expected = [{"a": 0}, {"a": 0, "x": 1, "y": 2}, {"a": 0, "x": 7, "y": 2}]
            assert state in expected[len(said) : len(said) + 2]
            check_whole(table)
            assert Table.open(table.path).append(pa.table({"k": ["a", "z"], "n": [1, 1]}), unique="k") == 1
            assert not list(table.path.glob(".tmp-*"))
            outcomes.append(len(said))
            if int(line) == 0:
                break
        crasher.stdin.close()
    assert outcomes[-1] == 2
    assert {0, 1} <= set(outcomes)


@pytest.mark.slow
def test_two_processes_with_overlapping_keys_lose_and_double_nothing(tmp_path: Path) -> None:
    writer = """
import random, sys
from pathlib import Path
import pyarrow as pa
from icehouse.store.table import Table
table = Table.open(Path(sys.argv[1]))
order = list(range(60))
random.Random(sys.argv[2]).shuffle(order)
for start in range(0, 60, 4):
    keys = [f"k{i}" for i in order[start : start + 4]]
    print(table.append(pa.table({"k": keys, "n": [int(sys.argv[2])] * 4}), unique="k"), flush=True)
"""
    table = Table.create(tmp_path / "t", SCHEMA, {"key": "k"})
    processes = [run(writer, table.path, seed) for seed in (1, 2)]
    added = [int(n) for process in processes for n in process.communicate(timeout=600)[0].split()]
    assert all(process.returncode == 0 for process in processes)
    assert check_whole(table) == {f"k{i}" for i in range(60)}
    assert sum(added) == 60
