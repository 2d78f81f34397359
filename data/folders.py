"""Images in a folder: found once each, in the same order everywhere."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ANNOTATION_SUFFIXES", "IMAGE_SUFFIXES", "Scan", "is_image_name", "scan_images"]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
ANNOTATION_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})


@dataclass
class Scan:
    """What a folder holds.

    Attributes
    ----------
    paths : list of str
        Images, relative to the folder, with "/" between the parts, sorted. A broken link is among them: reading it
        will fail, and say so.
    bad : list of (str, str)
        Path and reason of what cannot be an item.
    others : int
        Files that do not have an image's suffix.
    annotations : list of str
        Those of them that look like annotation files.
    skipped_links : int
        Links to folders that were read already.
    """

    paths: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0
    annotations: list[str] = field(default_factory=list)
    skipped_links: int = 0


def is_image_name(name: str) -> bool:
    """Whether the name ends like an image's, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  (100,000 times a call)


def scan_images(folder: Path) -> Scan:
    """Find the images under `folder`.

    Hidden files and folders are left out. Links are followed, but no folder is read twice: real folders come first, so
    an image keeps its real path where a link would show it under another, and a loop ends.
    """
    scan = Scan()
    seen: set[tuple[int, int]] = set()
    links: list[tuple[str, str]] = []
    _walk(str(folder), "", scan, seen, links)
    while links:
        links.sort()
        full, relative = links.pop(0)
        before = len(seen)
        _walk(full, relative, scan, seen, links)
        scan.skipped_links += len(seen) == before
    scan.paths.sort()
    scan.annotations.sort()
    scan.bad.sort()
    return scan


def _walk(
    full: str, relative: str, scan: Scan, seen: set[tuple[int, int]], links: list[tuple[str, str]]
) -> None:
    """Add what is under one folder to `scan`, linked folders to `links`."""
    stack = [(full, relative)]
    while stack:
        full, relative = stack.pop()
        try:
            status = os.stat(full)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(full) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            scan.bad.append((_storable(relative) or ".", f"folder cannot be read: {error.strerror or error}"))
            continue
        for entry in listed:
            if not entry.name.startswith("."):
                _add(entry, f"{relative}/{entry.name}" if relative else entry.name, scan, stack, links)


def _add(
    entry: os.DirEntry[str], path: str, scan: Scan, stack: list[tuple[str, str]], links: list[tuple[str, str]]
) -> None:
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else stack).append((entry.path, path))
            return
        if not is_image_name(entry.name):
            scan.others += 1
            if os.path.splitext(entry.name)[1].lower() in ANNOTATION_SUFFIXES:  # noqa: PTH122
                scan.annotations.append(path)
            return
        # Opening a pipe named x.jpg would wait for ever.
        if not entry.is_file() and not _dangling(entry):
            scan.bad.append((_storable(path), "not a regular file"))
            return
    except OSError as error:
        if is_image_name(entry.name):
            scan.bad.append((_storable(path), f"cannot be looked at: {error.strerror or error}"))
        return
    if _storable(path) != path:
        scan.bad.append((_storable(path), "the file's name is not valid Unicode; rename it"))
        return
    scan.paths.append(path)


def _dangling(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    try:
        return not stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return True


def _storable(path: str) -> str:
    """Path with bytes that are no UTF-8 escaped, so that it can be stored and shown."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") if not _encodable(path) else path


def _encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
