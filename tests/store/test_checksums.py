"""Checksums beyond the tables, and a fuzzer that damages every kind of file: an answer is the old one, or a refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from icehouse.dups.calibration import Calibration, TailFit, fit_map
from icehouse.errors import CorruptError, HeadError, StoreError
from icehouse.heads.head import Head
from icehouse.heads.registry import head_class
from icehouse.store import files as checksums
from icehouse.store import vectors
from icehouse.store.files import (
    check_stamp,
    check_sums,
    publish_folder,
    read_json,
    read_parquet,
    seal,
    stamp,
    unseal,
    write_sums,
)
from icehouse.store.maintain import verify
from icehouse.store.store import Store

MUTATIONS = 200
FUZZER = Path(__file__).parents[1] / "helpers" / "mutate.py"


@pytest.mark.slow
def test_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Seeded mutations of a store and a package, in a process of their own: a signal would be seen as one."""
    done = subprocess.run(
        [sys.executable, str(FUZZER), str(tmp_path), "20260101", str(MUTATIONS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    assert [line for line in lines if line.startswith("WRONG")] == []
    assert len(lines) > 0.8 * MUTATIONS


def test_seals_hold_the_content_and_the_name() -> None:
    sealed = seal({"a": 1, "b": [1.5, None, "é"]}, "x.json")
    assert unseal(json.loads(json.dumps(sealed)), "x.json") == {"a": 1, "b": [1.5, None, "é"]}
    assert unseal({"a": 1}, "x.json") == {"a": 1}
    for other, name in (({**sealed, "a": 2}, "x.json"), ({**sealed, "c": 2}, "x.json"), (sealed, "y.json")):
        with pytest.raises(ValueError, match="checksum"):
            unseal(other, name)


def test_lists_name_the_file_that_differs(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    with publish_folder(folder) as temp:
        (temp / "deep").mkdir()
        (temp / "deep" / "a.json").write_text('{"x": 1}')
        (temp / "b.txt").write_text("b")
    assert check_sums(folder)
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    assert read_json(folder, "deep/a.json") == {"x": 1}
    (folder / "later.txt").write_text("added")  # what comes later is not in the list
    assert check_sums(folder)
    with pytest.raises(CorruptError, match=r"later\.txt, which SHA256SUMS does not list"):
        check_sums(folder, only=True)
    (folder / "deep" / "a.json").write_text('{"x": 2}')
    with pytest.raises(CorruptError, match=r"a\.json is not what was written"):
        read_json(folder, "deep/a.json")
    (folder / "deep" / "a.json").unlink()
    for act in (lambda: check_sums(folder), lambda: read_json(folder, "deep/a.json")):
        with pytest.raises(CorruptError, match=r"lacks deep/a\.json"):
            act()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../../../etc/passwd\n")
    with pytest.raises(CorruptError, match="outside of the folder"):
        check_sums(folder)
    for garbage in ("", "x\n", "\x00\xff"):
        (folder / "SHA256SUMS").write_text(garbage)
        with pytest.raises(CorruptError):
            check_sums(folder)
    (folder / "SHA256SUMS").unlink()
    assert not check_sums(folder)


def test_a_large_file_is_read_again_once_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    monkeypatch.setattr(checksums, "_BLOCK", 10)
    path.write_bytes(bytes(range(95)))
    known = stamp(path)
    check_stamp(path, known)
    monkeypatch.setattr(checksums, "ALWAYS_BYTES", 0)
    calls: list[Path] = []
    real = checksums._crc32
    monkeypatch.setattr(checksums, "_crc32", lambda path: calls.append(path) or real(path))  # type: ignore[func-returns-value]
    check_stamp(path, known)
    assert calls == []
    status = path.stat()
    for at in (0, 9, 10, 94):
        data = bytearray(range(95))
        data[at] ^= 1
        path.write_bytes(bytes(data))
        os.utime(
            path, ns=(status.st_atime_ns, status.st_mtime_ns)
        )  # the time of the change cannot be set back
        with pytest.raises(CorruptError, match="not what was written"):
            check_stamp(path, known)
    path.write_bytes(bytes(range(94)))
    with pytest.raises(CorruptError, match="94 bytes"):
        check_stamp(path, known)


@pytest.fixture
def calibration(store: Store) -> Calibration:
    X = np.random.default_rng(0).normal(size=(40, 4)) + 3
    fingerprint = store.feature_table("toy/image/pooled").spec["fingerprint"]
    made = Calibration(
        "toy/image/pooled", fingerprint, *fit_map(X, 0.5), TailFit(100, 0.5, 0.1, -0.1, 0.1, (0.7,)), 40
    )
    made.save(store)
    return made


def test_a_calibration_of_zeros_is_refused(store: Store, calibration: Calibration) -> None:
    folder = Calibration.folder(store, "toy/image/pooled")
    assert np.array_equal(Calibration.open(store, "toy/image/pooled").mean, calibration.mean)
    for name in ("mean.npy", "matrix.npy"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-16] + bytes(16))
        with pytest.raises(CorruptError, match=rf"{name} is not what was written; make one with"):
            Calibration.open(store, "toy/image/pooled")
        assert not verify(store).ok
        (folder / name).write_bytes(data)
    with pytest.raises(StoreError, match="no name of a table"):
        Calibration.open(store, "../../../etc")


@pytest.mark.slow
def test_heads_are_compared_before_a_library_parses_them(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    for family in ("logreg", "lightgbm"):
        folder = tmp_path / family
        head_class(family)().fit(X, y).save(folder)
        expected = Head.load(folder).predict_proba(X)
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            path.write_bytes(
                data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
            )
            with pytest.raises(HeadError, match="is damaged"):
                Head.load(folder)
            path.write_bytes(data)
        (folder / "SHA256SUMS").unlink()
        assert np.array_equal(Head.load(folder).predict_proba(X), expected)


def test_a_damaged_copy_is_made_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    expected = store.vectors("toy/image/pooled").X.copy()
    cache = store.path / "cache" / "features" / "toy" / "image" / "pooled"
    for path in sorted(cache.iterdir()):
        good = {file.name: file.read_bytes() for file in cache.iterdir()}
        for at in (0, len(good[path.name]) // 2, -1):
            data = bytearray(good[path.name])
            data[at] ^= 8
            path.write_bytes(bytes(data))
            again = Store.open(store.path).vectors("toy/image/pooled")
            assert np.array_equal(again.X, expected)
            assert (
                again.keys.to_pylist()
                == store.table("features/toy/image/pooled").read()["image_sha256"].to_pylist()
            )
            assert [found.kind for found in verify(store).findings] == ["missing features"]


def test_only_copies_are_removed_from_the_folder_of_copies(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "CACHE_FROM", 0)
    cache = store.path / "cache" / "features" / "toy" / "image" / "pooled"
    cache.mkdir(parents=True)
    (cache / "thesis.npy").write_bytes(b"years of work")
    (cache / f"{'0' * 32}.npy").write_bytes(b"of an earlier snapshot")
    store.vectors("toy/image/pooled")
    assert (cache / "thesis.npy").exists()
    assert not (cache / f"{'0' * 32}.npy").exists()
    elsewhere = store.path.parent / "elsewhere"
    shutil.move(cache, elsewhere)
    cache.symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    store.table("features/toy/image/pooled").delete("image_sha256", ["none"])
    (elsewhere / before[0]).unlink()
    assert Store.open(store.path).vectors("toy/image/pooled").X.shape == (2, 4)
    assert sorted(path.name for path in elsewhere.iterdir()) == before[1:]


def test_folders_without_checksums_are_read_and_told(store: Store, calibration: Calibration) -> None:
    folder = Calibration.folder(store, "toy/image/pooled")
    (folder / "SHA256SUMS").unlink()
    assert np.array_equal(Calibration.open(store, "toy/image/pooled").mean, calibration.mean)
    report = verify(store)
    told = [found for found in report.findings if found.kind == "no checksums"]
    assert [found.problem for found in told] == [False]
    assert "has no SHA256SUMS" in told[0].detail
    write_sums(folder)
    assert not [found for found in verify(store).findings if found.kind == "no checksums"]


def test_parquet_is_read_once_it_was_compared(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(CorruptError, match="cannot be read"):
        read_parquet(tmp_path, "x.parquet")
    with pytest.raises(CorruptError, match=r"lacks y\.parquet"):
        read_parquet(tmp_path, "y.parquet")
