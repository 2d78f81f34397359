"""Atomic files and folders, and the lock of one writer."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import LockedError, StoreError, UsageError, unknown_name
from .checksums import write_sums

__all__ = [
    "LOCK_WAIT_S",
    "STORE_FILE",
    "checked_name",
    "follow_umask",
    "fsync_dir",
    "fsync_file",
    "hold",
    "is_name",
    "leftovers_below",
    "publish",
    "publish_folder",
    "publish_text",
    "refuse_outside",
    "remove_leftovers",
    "sweep_tree",
    "temp_name",
]

#: The file that makes a folder a store.
STORE_FILE = "icehouse.json"

_PIECE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

#: A temporary file of a process that cannot be asked (another machine or container) is taken for dead after this long, in
#: seconds.
LEFTOVER_AGE_S = 24 * 3600


def _where() -> str:
    """Name of the place in which a process id means one process: host, boot and, on Linux, namespace of process ids.

    Containers and machines may share a host name, and a process id of one means another process, or none, in the other.
    """
    host = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname()) or "host"
    parts = [host]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    if len(parts) == 1:  # no Linux: the address of the network card tells machines apart
        parts.append(f"{uuid.getnode():x}")
    return f"{host}_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


_WHERE = _where()
_TEMP = re.compile(r"\.tmp-(?P<where>\w+)-(?P<pid>\d+)-[0-9a-f]{32}")


def temp_name(suffix: str) -> str:
    """Name for a file in the making; it says who makes it, so that a leftover can be told from work in hand."""
    return f".tmp-{_WHERE}-{os.getpid()}-{uuid.uuid4().hex}{suffix}"


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


def is_name(name: str) -> bool:
    """Whether a name of a table or feature can be a path below a folder of the store, and nowhere else."""
    return all(_PIECE.fullmatch(piece) for piece in name.split("/"))


def checked_name(name: str) -> str:
    """A name of a table or feature that is about to become a path."""
    if not isinstance(name, str) or not is_name(name):
        raise unknown_name(
            StoreError(f"{name!r} is no name of a table: letters, digits, '.', '_', '-', and '/' between")
        )
    return name


def refuse_outside(folder: Path) -> None:
    """Refuse to write or delete in a folder of a store that a link leads out of the store."""
    folder = folder.absolute()
    root = next((above for above in (folder, *folder.parents) if (above / STORE_FILE).is_file()), None)
    if root is not None and not folder.resolve().is_relative_to(root.resolve()):
        raise StoreError(
            f"{folder} is a link to {folder.resolve()}, outside of the store, where icehouse writes nothing: "
            "put a folder in its place, or link the whole store"
        )


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving, it takes the place of `path` in one step.

    If the block raises, `path` stays as it was and nothing is left behind. A link at `path` is replaced, not followed.
    """
    refuse_outside(path.parent)
    temp = path.parent / temp_name(path.suffix)
    try:
        yield temp
        follow_umask(temp)
        fsync_file(temp)
        temp.replace(path)
        fsync_dir(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def publish_text(path: str | Path, text: str) -> Path:
    """Write a file that the user named, whole or not at all, as UTF-8; a terminal or a pipe is written to as it is."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(text.encode())
        else:
            with publish(path) as temp:
                temp.write_bytes(text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def follow_umask(path: Path) -> None:
    """Give a file the rights that a new one gets: libraries that write by way of a private file leave it private."""
    if os.name == "nt" or stat.S_IMODE(path.lstat().st_mode) != 0o600 or not path.is_file():
        return
    probe = path.parent / temp_name("")
    try:
        probe.touch(0o666)
        path.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink(missing_ok=True)


def sweep_tree(root: Path) -> int:
    """Remove what `leftovers` finds, files and folders, anywhere below `root`; return how many went. Follows no link."""
    gone = 0
    for path in leftovers_below(root):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            gone += 1
    return gone


def leftovers_below(root: Path) -> list[Path]:
    """What `leftovers` finds in `root` and every folder below it."""
    found: list[Path] = []
    for folder, names, _ in os.walk(root):
        dead = leftovers(Path(folder))
        found += dead
        names[:] = [name for name in names if not _TEMP.match(name)]
    return found


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in `folder` whose maker is dead, or cannot be asked and has not written for a day."""
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in entries if (m := _TEMP.match(path.name)) and _is_dead(path, m)]


def remove_leftovers(folder: Path) -> int:
    """Remove what `leftovers` finds; return how many files went."""
    found = leftovers(folder)
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(found)


def _is_dead(path: Path, match: re.Match[str]) -> bool:
    # On Windows signal 0 would end the process instead of asking after it.
    if match["where"] == _WHERE and os.name != "nt":
        try:
            os.kill(int(match["pid"]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        return False  # however long it was suspended
    return _age(path) > LEFTOVER_AGE_S


def _age(path: Path) -> float:
    """Seconds since anything was written to a file, or to a folder and the files in it; 0 if it is gone."""
    try:
        inside = [child.stat().st_mtime for child in path.rglob("*")] if path.is_dir() else []
        return time.time() - max([path.stat().st_mtime, *inside])
    except OSError:
        return 0.0


@contextlib.contextmanager
def publish_folder(path: Path, *, parents: bool = True, sums: bool = True) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving, it takes the place of `path`.

    If the block raises, `path` stays as it was and nothing is left behind. A folder that is there already steps aside
    first, and goes once the new one is in place.
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


#: How long a writer waits for another one, in seconds.
LOCK_WAIT_S = 60.0

_LOCK, _HOLDER = ".lock", ".lock.json"
_depth = threading.local()


@contextlib.contextmanager
def hold(folder: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold the write lock of `folder`; a thread that holds it may ask again.

    The system drops the lock of a process that dies. A small file beside it says who holds it, for the message only.
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
