"""Every error that icehouse raises on purpose, in one tree.

IcehouseError
├── UsageError          options that contradict each other                (CLI exit 2, as for every name that does not exist)
├── SourceError         a manifest, a column or a row that cannot be read
│   └── NoRowsError     a header and no rows
├── ImageError          one image that cannot be decoded
├── StoreError          not a store, a missing table, a format from the future
│   ├── LockedError     another writer holds the table
│   ├── CorruptError    a part that does not match its checksum
│   └── SpaceError      vectors of different provenance would be mixed
├── EncoderError        an unknown encoder, weights that cannot be found
├── CaptionError        a model or a server that cannot caption, captions that cannot be imported
├── HeadError           a head, a run or labels that cannot be used
└── WatchError          a stream, a broker or a database that cannot be reached or used

A message names the item and the remedy, in one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

__all__ = [
    "CaptionError",
    "CorruptError",
    "EncoderError",
    "HeadError",
    "IcehouseError",
    "ImageError",
    "LockedError",
    "NoRowsError",
    "SourceError",
    "SpaceError",
    "StoreError",
    "UsageError",
    "WatchError",
    "unknown_name",
]


class IcehouseError(Exception):
    """Root of the tree: what the CLI prints in one line, with exit status `exit_code`."""

    exit_code = 1


def brief(error: BaseException, most: int = 300) -> str:
    """Another library's message in one short line: the system's words where it has them, else the error's type."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:most] or type(error).__name__


def one_or_many(number: int, one: str, many: str) -> str:
    """Words that agree with a number: `one` for 1, else `many`."""
    return one if number == 1 else many


def count_of(number: int, one: str, many: str | None = None) -> str:
    """Count in words, with whatever has to agree with it: the plural of `one` adds an s where `many` is not given.

    >>> count_of(1, "item"), count_of(1200, "item"), count_of(1, "row has", "rows have")
    ('1 item', '1,200 items', '1 row has')
    """
    return f"{number:,} {one_or_many(number, one, many or f'{one}s')}"


E = TypeVar("E", bound=IcehouseError)


def unknown_name(error: E) -> E:
    """Mark an error as about a name that does not exist: whatever its class, the CLI exits as for other wrong usage.

    >>> unknown_name(StoreError("no feature 'x'")).exit_code
    2
    """
    error.exit_code = UsageError.exit_code
    return error


class UsageError(IcehouseError):
    """Options that contradict each other, or a name that does not exist."""

    exit_code = 2


class SourceError(IcehouseError):
    """A manifest, a column or a row that cannot be read."""


class NoRowsError(SourceError):
    """An annotation file with a header and no rows, told by its path."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} has a header and no rows")
        self.path = path


class ImageError(IcehouseError):
    """One image that cannot be decoded; its neighbours go on."""


class StoreError(IcehouseError):
    """A store or a table that is missing, damaged or of another format."""


class LockedError(StoreError):
    """Another writer holds the table and did not let go in time."""


class CorruptError(StoreError):
    """A part whose bytes are not those that were written."""


class SpaceError(StoreError):
    """Vectors of different provenance would be mixed."""


class EncoderError(IcehouseError):
    """An encoder that is unknown or whose weights cannot be found."""


class CaptionError(IcehouseError):
    """A vision-language model or its server that cannot caption, or captions that cannot be imported."""


class HeadError(IcehouseError):
    """A head, a run or labels that cannot be used."""


class WatchError(IcehouseError):
    """A stream, a broker or a database that cannot be reached or used."""
