"""Files that appear whole or not at all, and the traces of those that did not."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fsync_dir", "fsync_file", "publish", "remove_leftovers", "temp_name"]

#: A temporary file of a process that cannot be asked (another host) is taken for dead after this long, in seconds.
LEFTOVER_AGE_S = 24 * 3600

_HOST = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname()) or "host"
_TEMP = re.compile(r"\.tmp-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{32}")


def temp_name(suffix: str) -> str:
    """Name for a file in the making; it says who makes it, so that a leftover can be told from work in hand."""
    return f".tmp-{_HOST}-{os.getpid()}-{uuid.uuid4().hex}{suffix}"


def fsync_file(path: Path) -> None:
    """Wait until the bytes of `path` are on the medium."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def fsync_dir(path: Path) -> None:
    """Wait until the names in folder `path` are on the medium, where the system offers it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders, and needs no such call
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse
        pass
    finally:
        os.close(handle)


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving, it takes the place of `path` in one step.

    If the block raises, `path` stays as it was and nothing is left behind.
    """
    temp = path.parent / temp_name(path.suffix)
    try:
        yield temp
        fsync_file(temp)
        temp.replace(path)
        fsync_dir(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in `folder` whose maker is dead, or which are older than a day."""
    return [path for path in folder.iterdir() if (m := _TEMP.match(path.name)) and _is_dead(path, m)]


def remove_leftovers(folder: Path) -> int:
    """Remove what `leftovers` finds; return how many files went."""
    found = leftovers(folder)
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(found)


def _is_dead(path: Path, match: re.Match[str]) -> bool:
    try:
        if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
            return True
    except FileNotFoundError:
        return False
    # On Windows signal 0 would end the process instead of asking after it.
    if match["host"] != _HOST or os.name == "nt":
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
