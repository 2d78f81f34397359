"""A table as it was at one moment: later commits do not touch it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import StoreError, unknown_name
from .manifest import Manifest, Part
from .parts import ROW_GROUP, iter_part, read_part

__all__ = ["Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """Whole, consistent view of a table.

    Its files outlive it by `icehouse.store.table.GRACE_S` at least; after that a read may raise FileNotFoundError, and a new
    snapshot is needed (`Table.read` takes care of it).
    """

    folder: Path
    manifest: Manifest

    @property
    def version(self) -> int:
        """Number of the commit that made it."""
        return self.manifest.version

    @property
    def spec(self) -> dict[str, Any]:
        """What the table holds, as JSON values."""
        return self.manifest.spec

    @property
    def schema(self) -> pa.Schema:
        """Union of the parts' columns."""
        return self.manifest.schema

    @property
    def parts(self) -> tuple[Part, ...]:
        """Live parts, in row order."""
        return self.manifest.parts

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Size of the live parts, in bytes."""
        return sum(part.bytes for part in self.parts)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits: equal digests mean equal rows in equal order."""
        return self.manifest.digest

    @property
    def files(self) -> list[Path]:
        """Paths of the live parts, in row order."""
        return [self.folder / part.name for part in self.parts]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows.

        Parameters
        ----------
        columns : sequence of str, optional
            Which columns, in which order; all unless given.

        Returns
        -------
        pyarrow.Table
            A column that a part lacks is null in that part's rows.

        Raises
        ------
        StoreError
            If the table has no such column.
        CorruptError
            If a part cannot be read.
        """
        schema = self._select(columns)
        tables = [read_part(path, schema, part) for path, part in zip(self.files, self.parts, strict=True)]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def batches(
        self, columns: Sequence[str] | None = None, batch_rows: int = ROW_GROUP
    ) -> Iterator[pa.RecordBatch]:
        """Read as `read` does, at most `batch_rows` rows at a time, so that memory stays flat."""
        schema = self._select(columns)
        for path, part in zip(self.files, self.parts, strict=True):
            yield from iter_part(path, schema, batch_rows, part)

    def _select(self, columns: Sequence[str] | None) -> pa.Schema:
        if columns is None:
            return self.schema
        unknown = [name for name in columns if name not in self.schema.names]
        if unknown:
            there = ", ".join(self.schema.names)
            raise unknown_name(
                StoreError(f"no column {unknown[0]!r} in {self.folder.name}; there are: {there}")
            )
        return pa.schema([self.schema.field(name) for name in columns])
