"""One writer at a time on a table, and a name for whoever is in the way."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import LockedError, StoreError
from .files import refuse_outside, temp_name

__all__ = ["LOCK_WAIT_S", "hold"]

#: How long a writer waits for another one, in seconds.
LOCK_WAIT_S = 60.0

_LOCK, _HOLDER = ".lock", ".lock.json"
_depth = threading.local()


@contextlib.contextmanager
def hold(folder: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold the write lock of `folder`; a thread that holds it may ask again.

    The system drops the lock of a process that dies. A small file beside it says who holds it, for the message only.

    Parameters
    ----------
    folder : Path
    timeout : float, optional
        Seconds to wait, `LOCK_WAIT_S` unless given.

    Raises
    ------
    LockedError
        If it is not free in time; the message names the holder.
    """
    refuse_outside(folder)
    path = str(folder.resolve() / _LOCK)
    held: dict[str, int] = _depth.__dict__.setdefault("held", {})
    if held.get(path):
        held[path] += 1
        try:
            yield
        finally:
            held[path] -= 1
        return
    if Path(path).is_symlink():
        raise StoreError(f"{folder / _LOCK} is a link, which icehouse does not follow: remove it")
    lock = FileLock(path)
    wait = LOCK_WAIT_S if timeout is None else timeout
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise LockedError(_describe(folder, wait)) from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error
    held[path] = 1
    try:
        _announce(folder)
        yield
    finally:
        del held[path]
        with contextlib.suppress(OSError):
            (folder / _HOLDER).unlink()
        lock.release()


def _announce(folder: Path) -> None:
    command = _command(sys.argv) if sys.argv else "python"
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command[:200],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    temp = folder / temp_name(".json")
    try:
        temp.write_text(json.dumps(holder), encoding="utf-8")
        temp.replace(folder / _HOLDER)  # a link there is replaced, not followed
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink()


def _command(arguments: Sequence[str]) -> str:
    """The command line without user and password of the hosts in it."""
    shown = [Path(arguments[0]).name]
    for before, argument in itertools.pairwise(arguments):
        host = argument.startswith("--host=") or before == "--host" or "://" in argument
        name, at, rest = argument.rpartition("@")
        start = re.match(r"(?:--\w+=)?(?:\w+://)?", name)
        shown.append(f"{start.group() if start else ''}{rest}" if host and at else argument)
    return " ".join(shown)


def _describe(folder: Path, wait: float) -> str:
    try:
        holder = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"{folder} is being written by {who}; waited {wait:g} s: try again when it has finished, or stop it"
    )
