"""`_manifest.json`: which parts of a table are live. What it does not name does not exist."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import CorruptError, StoreError
from .checksums import seal, unseal
from .files import publish

__all__ = ["FORMAT", "MANIFEST", "PART_NAME", "Manifest", "Part"]

#: Version of the table format that this code writes, and the newest that it reads.
FORMAT = 1
MANIFEST = "_manifest.json"

#: What the file of a part is called: the version of the table that it came with, and 12 digits of its own.
PART_NAME = re.compile(r"part-(\d{6,18})-[0-9a-f]{12}\.parquet")


@dataclass(frozen=True)
class Part:
    """One immutable Parquet file of a table."""

    name: str
    rows: int
    bytes: int
    sha256: str
    footer: str | None = None  # SHA-256 of the Parquet footer; None from an icehouse that did not keep it


@dataclass(frozen=True)
class Manifest:
    """Contents of a table at one version.

    Parameters
    ----------
    version : int
        Grows by one with every commit.
    spec : dict
        What the table holds, as JSON values.
    schema : pyarrow.Schema
        Union of the parts' columns; a part without one of them reads as null there.
    parts : tuple of Part
        Live parts, in row order.
    retired : tuple of (str, float)
        Files no longer live, and since when (seconds since 1970); readers of older snapshots may still be in them.
    """

    version: int
    spec: dict[str, Any]
    schema: pa.Schema
    parts: tuple[Part, ...] = ()
    retired: tuple[tuple[str, float], ...] = ()

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that change exactly when the rows (or their order) may have."""
        lines = "".join(f"{part.name} {part.sha256}\n" for part in self.parts)
        return hashlib.sha256(lines.encode()).hexdigest()[:32]

    def next(self, **changes: Any) -> Manifest:
        """Make the manifest of the following version."""
        return replace(self, version=self.version + 1, **changes)

    def write(self, folder: Path) -> None:
        """Put this manifest in the place of the table's present one, in one step."""
        content = {
            "format": FORMAT,
            "version": self.version,
            "spec": self.spec,
            # Twice: `columns` for people, `schema` (Arrow IPC) because type names alone do not make types again.
            "columns": {field.name: str(field.type) for field in self.schema},
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode("ascii"),
            "parts": [vars(part) for part in self.parts],
            "retired": [{"name": name, "at": at} for name, at in self.retired],
        }
        with publish(folder / MANIFEST) as temp:
            temp.write_text(
                json.dumps(seal(content, MANIFEST), indent=1, ensure_ascii=False), encoding="utf-8"
            )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the present manifest of the table in `folder`.

        Raises
        ------
        FileNotFoundError
            If there is none.
        CorruptError
            If it is not a manifest.
        StoreError
            If it is of a newer format.
        """
        try:
            content = json.loads((folder / MANIFEST).read_bytes())
            if content["format"] > FORMAT:
                raise StoreError(
                    f"{folder} is of table format {content['format']}, this icehouse reads up to {FORMAT}: upgrade it"
                )
            content = unseal(content, MANIFEST)
            return cls(
                version=_count(content["version"]),
                spec=dict(content["spec"]),
                schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["schema"]))),
                parts=tuple(
                    Part(
                        _own(p["name"]),
                        _count(p["rows"]),
                        _count(p["bytes"]),
                        str(p["sha256"]),
                        p.get("footer"),
                    )
                    for p in content["parts"]
                ),
                retired=tuple((_own(r["name"]), float(r["at"])) for r in content["retired"]),
            )
        except FileNotFoundError:
            raise
        except IsADirectoryError as error:
            raise CorruptError(
                f"{folder / MANIFEST} is a folder; `icehouse verify --repair` makes it anew from the parts"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot read {folder / MANIFEST}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptError(
                f"{folder / MANIFEST} is damaged ({reason}); `icehouse verify --repair` makes it anew from the parts"
            ) from error


def _own(name: Any) -> str:
    """Name of a part's file, which lies in the table's folder and nowhere else."""
    if not isinstance(name, str) or not PART_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a part")
    return name


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
