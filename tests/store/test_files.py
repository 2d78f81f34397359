"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from icehouse.store.files import publish, publish_folder, sweep_tree, temp_name


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_follow_the_umask_whatever_wrote_them(tmp_path: Path, mask: int) -> None:
    def private(path: Path) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    before = os.umask(mask)
    try:
        with publish(tmp_path / "one") as temp:
            private(temp)
        with publish_folder(tmp_path / "folder") as temp:
            private(temp / "two")
    finally:
        os.umask(before)
    for path in (tmp_path / "one", tmp_path / "folder" / "two"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert not list(tmp_path.glob(".tmp-*"))


def test_leftovers_are_swept_anywhere_below(tmp_path: Path) -> None:
    dead = temp_name("").replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / "runs" / dead / "head").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{dead}.npy").touch()
    (tmp_path / "cache" / temp_name("")).touch()
    (tmp_path / "cache" / "kept").touch()
    assert sweep_tree(tmp_path) == 2
    assert len(list(tmp_path.rglob("*"))) == 4
