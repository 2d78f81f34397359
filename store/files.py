"""Atomic files and folders, the lock of one writer, and checksums verified before anything is parsed."""

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
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..errors import CorruptError, LockedError, StoreError, UsageError, brief, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# - A JSON file is *sealed*: it holds the SHA-256 of its own content under ``sha256`` (`seal`, `unseal`).
# - A folder that appears whole holds ``SHA256SUMS``, the list that ``sha256sum -c`` reads (`write_sums`, `check_sums`).
# - A large disposable file (a vector index, a memory-mapped copy) has a `stamp`: size, times and CRC-32. Up to
#   `ALWAYS_BYTES` it is read whole each time; a larger one only if the file system says that it was written since.
#
# What has no checksum is read as it is; `icehouse verify` says so.


SUMS = "SHA256SUMS"

#: Up to this size, in bytes, a disposable file is compared with its checksum whenever it is opened.
ALWAYS_BYTES = 256 << 20

_LINE = re.compile(r"([0-9a-f]{64})  ([^\s\x00-\x1f][^\x00-\x1f]*)")
_KEY = "sha256"
_BLOCK = 8 << 20

# Files that were compared by this process, by everything that the file system says of them.
_known_good: set[tuple[Any, ...]] = set()


def seal(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Copy of JSON values with the SHA-256 of the rest, and of the file's name, under ``sha256``."""
    rest = {key: item for key, item in value.items() if key != _KEY}
    return {_KEY: _digest(rest, name), **rest}


def unseal(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """JSON values of the file called `name` without their checksum; those that have none are taken as they are."""
    if not isinstance(value, Mapping):
        raise ValueError("not a JSON object")
    rest = {key: item for key, item in value.items() if key != _KEY}
    if _KEY in value and value[_KEY] != _digest(rest, name):
        raise ValueError("its checksum is another")
    return rest


def publish_sealed(path: Path, value: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Put sealed JSON in the place of a file, in one step."""
    with publish(path) as temp:
        text = json.dumps(seal(value, path.name), indent=indent, ensure_ascii=False)
        temp.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder of the store and those above it, where they are not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror or error}") from error


def _digest(value: Mapping[str, Any], name: str) -> str:
    text = json.dumps([name, value], sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """List every file below `folder` in its ``SHA256SUMS``, hidden ones aside."""
    text = "".join(f"{file_sha256(path)}  {name}\n" for name, path in sorted(_files(folder).items()))
    (folder / SUMS).write_text(text, encoding="utf-8")


def _files(folder: Path) -> dict[str, Path]:
    """Files below `folder` by their names inside, without the list itself and hidden files."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if (
            path.is_file()
            and not any(part.startswith(".") for part in name.parts)
            and name.as_posix() != SUMS
        ):
            found[name.as_posix()] = path
    return found


def _listed(folder: Path) -> dict[str, str] | None:
    """Name to SHA-256 as the list has them; None if there is no list."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptError(f"{folder / SUMS} cannot be read ({error})") from error
    listed: dict[str, str] = {}
    if not lines:
        raise CorruptError(f"{folder / SUMS} is damaged: it is empty")
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise CorruptError(f"{folder / SUMS} is damaged: it has a line that is none")
        listed[match[2]] = match[1]
    return listed


def check_sums(folder: Path, names: Iterable[str] | None = None, *, only: bool = False) -> bool:
    """Make sure that files of a folder are those that were written.

    False if the folder has no list.
    """
    listed = _listed(folder)
    if listed is None:
        return False
    if only and (others := sorted(_files(folder).keys() - listed.keys())):
        raise CorruptError(f"{folder} holds {others[0]}, which {SUMS} does not list")
    for name in listed if names is None else names:
        _compare(folder, name, listed)
    return True


def _wanted(folder: Path, name: str, listed: Mapping[str, str]) -> str:
    if name not in listed:
        raise CorruptError(f"{folder / SUMS} is damaged: it does not list {name}")
    return listed[name]


def _compare(folder: Path, name: str, listed: Mapping[str, str]) -> None:
    wanted = _wanted(folder, name, listed)
    if name.startswith("/") or ".." in Path(name).parts:
        raise CorruptError(f"{folder / SUMS} names {name}, outside of the folder")
    try:
        found = file_sha256(folder / name)
    except FileNotFoundError:
        raise CorruptError(f"{folder} lacks {name}") from None
    except OSError as error:
        raise CorruptError(f"{folder / name} cannot be read: {error.strerror or error}") from error
    if found != wanted:
        raise CorruptError(f"{folder / name} is not what was written")


def changed_files(folder: Path, expected: Iterable[str] = ()) -> tuple[bool, list[str]]:
    """Whether a folder has a list, and everything in which it differs from it, one line each; `expected` must be listed."""
    try:
        listed = _listed(folder)
    except CorruptError as error:
        return True, [str(error)]
    found = []
    for name in {**dict.fromkeys(expected), **listed} if listed is not None else ():
        try:
            _compare(folder, name, listed or {})
        except CorruptError as error:
            found.append(str(error))
    return listed is not None, found


def read_checked(folder: Path, name: str) -> bytes:
    """Read a file of a folder, compared with the folder's list if there is one."""
    listed = _listed(folder)
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        if listed and name in listed:
            raise CorruptError(f"{folder} lacks {name}") from None
        raise
    except OSError as error:
        raise CorruptError(f"{folder / name} cannot be read: {error.strerror or error}") from error
    if listed is not None and hashlib.sha256(data).hexdigest() != _wanted(folder, name, listed):
        raise CorruptError(f"{folder / name} is not what was written")
    return data


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a folder, compared as `read_checked` does."""
    try:
        data = read_checked(folder, name)
        value = json.loads(data)
        if b"\\ud" in data.lower():  # half of a surrogate pair is no text, and fails wherever it is written
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{folder / name} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{folder / name} is damaged (no JSON object)")
    return value


@contextlib.contextmanager
def open_parquet(folder: Path, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a folder, compared with the folder's list; each page is compared when it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / name
    check_sums(folder, [name])
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError:
        raise CorruptError(f"{folder} lacks {name}") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise CorruptError(f"{path} cannot be read ({brief(error)})") from error


def read_parquet(folder: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of a folder, or some of its columns; see `open_parquet`."""
    with open_parquet(folder, name) as file:
        table = file.read()
        if lacking := [column for column in columns or () if column not in table.column_names]:
            raise CorruptError(f"{folder / name} lacks the column {lacking[0]!r}")
        return table if columns is None else table.select(list(columns))


def stamp(path: Path) -> dict[str, int]:
    """Size, times and CRC-32 (of the CRC-32 of blocks of 8 MiB) of a file, for `check_stamp`."""
    return {**_status(path), "crc32": _crc32(path)}


def check_stamp(path: Path, known: Mapping[str, Any], *, always: bool = False) -> None:
    """Make sure that a large file is the one that was stamped.

    One that the file system says was not written since is not read again if it is larger than `ALWAYS_BYTES`.
    """
    try:
        status = _status(path)
        if status["bytes"] != known["bytes"]:
            raise CorruptError(f"{path} has {status['bytes']} bytes, not {known['bytes']}")
        untouched = all(known.get(key) == value for key, value in status.items())
        key = (str(path), known["crc32"], *status.values())
        if not always and ((untouched and status["bytes"] > ALWAYS_BYTES) or key in _known_good):
            return
        if _crc32(path) != known["crc32"]:
            raise CorruptError(f"{path} is not what was written")
        _known_good.add(key)
    except FileNotFoundError:
        raise CorruptError(f"{path} is gone") from None
    except (OSError, KeyError, TypeError) as error:
        raise CorruptError(f"{path} cannot be compared with its checksum ({error})") from error


def _status(path: Path) -> dict[str, int]:
    """Size and times; the time of the last change of the entry cannot be set back, unlike that of its contents."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _crc32(path: Path) -> int:
    """CRC-32 of a file; its blocks are computed side by side, since zlib lets other threads run meanwhile."""
    starts = range(0, path.stat().st_size, _BLOCK)

    def block(start: int) -> int:
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(_BLOCK))

    with ThreadPoolExecutor(4) as pool:
        crcs = pool.map(block, starts) if len(starts) > 1 else map(block, starts)
        return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in crcs))


#: What reading arrays of a disposable cache raises where the file is not there, damaged, or something else.
UNREADABLE_ARRAYS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def keep_arrays(file: Path, **arrays: Any) -> None:
    """Write arrays to a file, ``.npz``, of a disposable cache; where that cannot be done they are made again some day."""
    import numpy as np

    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with publish(file) as temp, temp.open("wb") as opened:
            np.savez(opened, **arrays)


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
    """Write text as UTF-8; see `publish_bytes`."""
    return publish_bytes(path, text.encode())


def publish_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file that the user named, whole or not at all; a terminal or a pipe is written to as it is."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            with publish(path) as temp:
                temp.write_bytes(data)
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
    """Results of `leftovers` in `root` and every folder below it."""
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
