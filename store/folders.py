"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .checksums import write_sums
from .files import follow_umask, fsync_dir, fsync_file, leftovers, refuse_outside, temp_name

__all__ = ["publish_folder"]


@contextlib.contextmanager
def publish_folder(path: Path, *, parents: bool = True, sums: bool = True) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving, it takes the place of `path`.

    If the block raises, `path` stays as it was and nothing is left behind. A folder that is there already steps aside
    first, and goes once the new one is in place.

    With `parents` folders above it are made. Without, what is above must be there and stay: if another folder takes its
    place meanwhile, a FileNotFoundError is raised and nothing of this one gets in. With `sums` the folder gets its
    ``SHA256SUMS`` (see `icehouse.store.checksums`).
    """
    refuse_outside(path.parent)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    for dead in leftovers(path.parent):
        shutil.rmtree(dead, ignore_errors=True)
    temp = path.parent / temp_name("")
    temp.mkdir()
    try:
        yield temp
        if sums:
            write_sums(temp)
        for entry in sorted(temp.rglob("*")):
            if entry.is_file() and not entry.is_symlink():
                follow_umask(entry)
            sync = fsync_dir if entry.is_dir() else fsync_file
            sync(entry)
        fsync_dir(temp)
        aside = path.parent / temp_name("")
        if os.path.lexists(path):
            path.rename(aside)
        try:
            temp.rename(path)
        except OSError:
            if os.path.lexists(aside):
                aside.rename(path)
            raise
        fsync_dir(path.parent)
        if aside.is_symlink():  # what it leads to is not ours
            aside.unlink()
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
