"""Checksums of what icehouse writes, verified before anything is parsed.

- A JSON file is *sealed*: it holds the SHA-256 of its own content under ``sha256`` (`seal`, `unseal`).
- A folder that appears whole holds ``SHA256SUMS``, the list that ``sha256sum -c`` reads, over all of its files
  (`write_sums`, `check_sums`, `read_checked`).
- A large disposable file (a vector index, a memory-mapped copy) has a `stamp`: size, times and CRC-32. Up to `ALWAYS_BYTES`
  it is read whole each time it is opened; a larger one only if the file system says that it was written since.

What was written by an icehouse that kept no checksums is read as it is; `icehouse verify` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "ALWAYS_BYTES", "SUMS", "changed_files", "check_stamp", "check_sums", "file_sha256", "open_parquet", "read_checked",
    "read_json", "read_parquet", "seal", "stamp", "unseal", "write_sums",
]  # fmt: skip

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

    False if the folder has no list: an older icehouse wrote it.
    """
    listed = _listed(folder)
    if listed is None:
        return False
    if only and (others := sorted(_files(folder).keys() - listed.keys())):
        raise CorruptError(f"{folder} holds {others[0]}, which {SUMS} does not list")
    for name in listed if names is None else names:
        _compare(folder, name, listed.get(name))
    return True


def _compare(folder: Path, name: str, wanted: str | None) -> None:
    if wanted is None:
        raise CorruptError(f"{folder / SUMS} is damaged: it does not list {name}")
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
    for name, wanted in {**dict.fromkeys(expected), **listed}.items() if listed is not None else ():
        try:
            _compare(folder, name, wanted)
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
    if listed is not None:
        if name not in listed:
            raise CorruptError(f"{folder / SUMS} is damaged: it does not list {name}")
        if hashlib.sha256(data).hexdigest() != listed[name]:
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptError(f"{path} cannot be read ({reason})") from error


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
