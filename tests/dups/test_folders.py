"""A folder of results is there whole, or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest
from icehouse.store.files import publish_folder, temp_name


def fill(path: Path, text: str) -> None:
    with publish_folder(path) as temp:
        assert temp.parent == path.parent
        (temp / "a.txt").write_text(text)
        (temp / "deeper").mkdir()
        (temp / "deeper" / "b.txt").write_text(text)


def test_a_folder_appears_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dups" / "default"
    fill(path, "first")
    (path / "old.txt").write_text("old")
    fill(path, "second")
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*")) == [
        "SHA256SUMS",
        "a.txt",
        "deeper",
        "deeper/b.txt",
    ]
    assert (path / "deeper" / "b.txt").read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["default"]


def test_a_failure_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "default"
    fill(path, "first")

    def half() -> None:
        with publish_folder(path) as temp:
            (temp / "a.txt").write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        half()
    assert (path / "a.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["default"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "default"
    fill(path, "first")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise PermissionError(13, "held by another program")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(PermissionError):
        fill(path, "second")
    assert (path / "a.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["default"]


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    dead = tmp_path / temp_name("").replace(f"-{os.getpid()}-", f"-{int(gone.stdout)}-")
    dead.mkdir()
    (dead / "vectors.npy").write_text("x")
    mine = tmp_path / temp_name("")
    mine.mkdir()
    fill(tmp_path / "default", "first")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([mine.name, "default"])
