"""Images in a folder: found once each, by name or by their first bytes, in the same order everywhere."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .images import SNIFFED, image_format
from .rows import show

__all__ = [
    "IMAGE_SUFFIXES",
    "METADATA_NAMES",
    "Scan",
    "first_bytes",
    "image_file",
    "is_image_name",
    "kinds_of",
    "scan_images",
]

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif",
    ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".heics", ".heifs", ".hif",
    ".avif", ".avifs",
})
# Cameras' raw files look like TIFF, and what a decoder finds in them is a thumbnail.
_RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf", ".pef",
    ".raf", ".rw2", ".srw",
})
# fmt: on
ANNOTATION_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
#: Files that describe the images beside and below them, as Hugging Face's ``imagefolder`` has them.
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})


@dataclass
class Scan:
    """What a folder holds; paths are relative to it and sorted.

    Broken links are among `paths` (reading them says so); `by_bytes` of them are images only by their first
    bytes. `others` are no images, or cameras' raw files; `hidden` includes what a Mac adds to archives.
    """

    paths: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    by_bytes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    skipped_links: int = 0


def is_image_name(name: str) -> bool:
    """Whether the name ends like an image's, in any case."""
    return _suffix(name) in IMAGE_SUFFIXES


def image_file(path: Path) -> bool:
    """Whether the file is an image by its name or by its first bytes."""
    return is_image_name(path.name) or (path.is_file() and _holds_image(str(path)))


def first_bytes(path: str | Path, size: int = 1024) -> bytes:
    """Beginning of a file; nothing where it cannot be read."""
    try:
        # Without blocking, as it might be a pipe by now.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def kinds_of(names: Iterable[str]) -> str:
    """Suffixes of files for a message, the most frequent first: ".txt, .json, no suffix"."""
    counts = Counter(_suffix(name) or "no suffix" for name in names)
    kinds = [show(kind)[1:-1] for kind, _ in counts.most_common(6)]
    return ", ".join(kinds[:5]) + (", ..." if len(kinds) > 5 else "")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  (100,000 times a call)


def _holds_image(path: str) -> bool:
    return image_format(first_bytes(path, SNIFFED)) is not None


def scan_images(folder: Path) -> Scan:
    """Find the images under `folder`.

    A file with an image's suffix is one, whatever it holds: reading it says so. Any other is one by its first bytes.
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
            path = f"{relative}/{entry.name}" if relative else entry.name
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                _add(entry, path, scan, stack, links)
            elif not entry.name.startswith("._") and (
                is_image_name(entry.name) or (not entry.is_symlink() and entry.is_dir())
            ):
                scan.hidden.append(_storable(path))


def _add(
    entry: os.DirEntry[str], path: str, scan: Scan, stack: list[tuple[str, str]], links: list[tuple[str, str]]
) -> None:
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else stack).append((entry.path, path))
            return
        if not is_image_name(entry.name):
            if _suffix(entry.name) in ANNOTATION_SUFFIXES:
                scan.annotations.append(path)
            if _suffix(entry.name) in _RAW_SUFFIXES or not entry.is_file() or not _holds_image(entry.path):
                scan.others.append(path)
                return
            scan.by_bytes.append(path)
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
