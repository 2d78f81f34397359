"""Measurements in worker processes: the same answers in the same order, and one line if a process dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from galleries import embedded
from icehouse.data.sample_scenes import SCENES, paint
from icehouse.data.transforms import GRADED, encode
from icehouse.dups import processes
from icehouse.dups.find import find_duplicates
from icehouse.dups.groups import FactsBeforehand, _facts_of
from icehouse.dups.views import measured_row
from icehouse.errors import IcehouseError

# Any function of a module will do, and `eval` says where it ran.
PID = "__import__('os').getpid()"


@pytest.fixture(autouse=True)
def everything_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_WORTH", 0.0)


def test_answers_come_in_order_and_this_process_helps() -> None:
    assert list(processes.measured(eval, [f"{k} * 2" for k in range(100)], 2)) == list(range(0, 200, 2))
    tasks = [f"(__import__('time').sleep(0.01), {PID}, {k})" for k in range(400)]
    found = list(processes.measured(eval, tasks, 2))
    assert [number for _, _, number in found] == list(range(400))
    counts = Counter(pid for _, pid, _ in found)
    assert len(counts) == 2
    assert counts[os.getpid()] > 40


def test_what_fails_is_told_after_what_was_before_it_and_the_rest_is_left(tmp_path: Path) -> None:
    late = tmp_path / "late"
    tasks = ["1"] * 200 + ["1 / 0"] + [f"__import__('time').sleep(0.02) or {k}" for k in range(2000)]
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(processes.measured(eval, [*tasks, f"open({str(late)!r}, 'w')"], 2))
    assert set(found) == {1}
    assert list(processes.measured(eval, ["1"] * 50, 2)) == [1] * 50
    assert not late.exists()


def test_one_worker_and_little_work_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(processes.measured(eval, [PID] * 100, 1)) == {os.getpid()}
    monkeypatch.undo()
    assert set(processes.measured(eval, [PID] * 100, 2)) == {os.getpid()}
    assert list(processes.measured(eval, [], 2)) == []


def test_what_is_known_to_take_long_is_sent_to_started_processes_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_started", [])
    assert set(processes.measured(eval, [PID] * 4, 2, seconds=1.0)) == {os.getpid()}
    processes.start(2)
    assert processes.started()
    for each in processes._started:
        each.result()
    marks = [tmp_path / f"{k}" for k in range(6)]
    tasks = [
        f"(__import__('pathlib').Path({str(mark)!r}).touch(), {PID}, {k})" for k, mark in enumerate(marks)
    ]
    sent = processes.measured(eval, tasks, 2, seconds=1.0)
    until = time.monotonic() + 60
    while time.monotonic() < until and not all(mark.exists() for mark in marks):
        time.sleep(0.05)
    assert all(mark.exists() for mark in marks)
    found = list(sent)
    assert [number for _, _, number in found] == list(range(6))
    assert os.getpid() not in {pid for _, pid, _ in found}
    # A later search that is not worth them does without.
    processes.start(1)
    assert not processes.started()
    assert set(processes.measured(eval, [PID] * 4, 2, seconds=1.0)) == {os.getpid()}


def test_processes_are_started_early_where_items_came_after_the_last_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int | None] = []
    monkeypatch.setattr(processes, "start", begun.append)
    processes.start_early(tmp_path / "no store", 2)
    items, views = (tmp_path / "tables" / name / "_manifest.json" for name in ("items", "hashes/views7"))
    for file in (items, views):
        file.parent.mkdir(parents=True)
    items.write_text('{"parts": [{"rows": 4000}, {"rows": 999}]}')
    processes.start_early(tmp_path, 2)
    assert begun == []
    items.write_text('{"parts": [{"rows": 4000}, {"rows": 1000}]}')
    processes.start_early(tmp_path, 2)
    assert begun == [2]
    views.write_text("{}")
    os.utime(views, ns=(0, items.stat().st_mtime_ns + 10**9))
    processes.start_early(tmp_path, 2)
    assert begun == [2]
    items.write_text("damaged")
    os.utime(views, ns=(0, 0))
    processes.start_early(tmp_path, 2)
    assert begun == [2]


@pytest.mark.slow
def test_a_process_that_dies_is_told_with_a_remedy() -> None:
    slowly = f"__import__('time').sleep(0.1) or {PID} == {os.getpid()} or __import__('os')._exit(9)"
    tasks = ["1"] * 20 + [slowly] * 40
    with pytest.raises(IcehouseError, match=r"^a process that measures pictures has died.*--threads 1$"):
        list(processes.measured(eval, tasks, 2))
    assert list(processes.measured(eval, ["1"] * 50, 2)) == [1] * 50


@pytest.mark.slow
def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from icehouse.dups import processes\nprocesses._WORTH = 0\nprint('ran')\n"
        "print(sum(processes.measured(eval, ['1'] * 60, 2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["ran", "60"], "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_processes_end_with_one_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from icehouse.dups import processes\nprocesses._WORTH = 0\n"
        f"tasks = ['1'] * 8 + [\"(__import__('time').sleep(.2), {PID}, 'x' * 100_000)\"] * 1000\n"
        "for found in processes.measured(eval, tasks, 2):\n    print(found[1] if found != 1 else 1, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        workers = {int(line) for line, _ in zip(started.stdout, range(20), strict=False)} - {1}
        started.kill()
    assert workers
    until = time.monotonic() + 60
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.2)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_a_search_finds_the_same_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "i").mkdir()
    rng = np.random.default_rng(3)
    for k in range(12):
        picture, _ = paint(rng, sorted(SCENES)[k % len(SCENES)], long_side=200)
        picture.convert("RGB").save(tmp_path / "i" / f"{k}.png")
        (tmp_path / "i" / f"{k}-copy.jpg").write_bytes(
            encode(GRADED["crop_10"](picture.convert("RGB"), rng), "jpg", 80)
        )
    found, began = [], []
    for threads in (1, 2):
        store = embedded(tmp_path / "i", tmp_path / f"s{threads}")
        begin = processes._in_processes
        monkeypatch.setattr(
            processes, "_in_processes", lambda *given, of=begin: began.append(given[0]) or of(*given)
        )
        found.append(find_duplicates(store, threads=threads))
        assert bool(began) == (threads == 2)
    # Views, registrations, facts, and the order of groups.
    assert len({str(measure) for measure in began}) >= 3
    one, two = found
    assert one.summary["pairs"]["total"] >= 9
    assert one.summary["pairs"] == two.summary["pairs"]
    assert one.pairs().equals(two.pairs())
    assert one.clusters().equals(two.clusters())


@pytest.mark.slow
def test_facts_are_measured_beforehand_of_what_is_new_and_of_its_mates_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "i").mkdir()
    rng = np.random.default_rng(4)
    pictures = [paint(rng, sorted(SCENES)[k], long_side=160)[0].convert("RGB") for k in range(4)]
    for k, picture in enumerate(pictures):
        picture.save(tmp_path / "i" / f"{k}.png")
    store = embedded(tmp_path / "i", tmp_path / "s")
    items = store.items.read(["path", "image_sha256"]).sort_by("path")
    digests = items["image_sha256"].cast("string").combine_chunks()
    files = pa.array([str(tmp_path / "i" / name) for name in items["path"].to_pylist()])
    new = np.array([False, False, False, True])
    monkeypatch.setattr(processes, "_started", [])
    given = store, digests, lambda numbers: files.take(pa.array(numbers)), new, 2
    assert FactsBeforehand(*given).rows() == {}
    processes.start(2)
    facts = FactsBeforehand(*given)
    facts.expect(np.array([[0, 1, 3], [1, 3, 0]]))
    found = facts.rows()
    # 0 and 1 are mates of 3, and 2 is nobody's.
    assert sorted(found) == sorted(digests.take(pa.array([0, 1, 3])).to_pylist())
    of_3 = found[digests[3].as_py()]
    alone = measured_row(_facts_of, (digests[3].as_py(), [Path(files[3].as_py())]))
    assert {name: str(value) for name, value in of_3.items()} == {k: str(v) for k, v in (alone or {}).items()}


@pytest.mark.slow
def test_a_search_after_more_pictures_finds_the_same_in_started_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MANY", 0)
    (tmp_path / "i").mkdir()
    rng, found = np.random.default_rng(5), []
    pictures = [
        paint(rng, sorted(SCENES)[k % len(SCENES)], long_side=160)[0].convert("RGB") for k in range(10)
    ]
    for k, picture in enumerate(pictures):
        picture.save(tmp_path / "i" / f"{k}.png")
    stores = [embedded(tmp_path / "i", tmp_path / f"s{threads}") for threads in (1, 2)]
    for store, threads in zip(stores, (1, 2), strict=True):
        find_duplicates(store, threads=threads)
    (tmp_path / "j").mkdir()
    for k, picture in enumerate(pictures):
        (tmp_path / "j" / f"{k}.jpg").write_bytes(encode(GRADED["crop_5"](picture, rng), "jpg", 85))
    for threads in (1, 2):
        store = embedded(tmp_path / "j", tmp_path / f"s{threads}")
        found.append(find_duplicates(store, threads=threads))
    one, two = found
    assert one.summary["pairs"]["total"] >= 8
    assert one.pairs().equals(two.pairs())
    assert one.clusters().equals(two.clusters())
