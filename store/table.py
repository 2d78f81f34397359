"""Tables of immutable Parquet parts, and snapshots of them that later commits do not touch.

Writing is one pattern. A part is made under a temporary name and brought to the medium, which takes time and needs no
lock. Then, under the lock, the manifest is read afresh, the part gets its name, and the next manifest replaces the
present one. A crash leaves the old table or the new one, and at worst a file that nobody names; the next writer sweeps it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CorruptError, SpaceError, StoreError, count_of
from . import files as locks
from .files import fsync_dir, make_folder, publish_sealed, remove_leftovers, unseal
from .schema import (
    MANIFEST,
    PART_NAME,
    Part,
    Snapshot,
    Staged,
    conform,
    read_part,
    write_part,
)

#: How long a part that is no longer live stays for the readers of older snapshots, in seconds.
GRACE_S = 15 * 60.0

_READ_TRIES = 5
_EMPTIED = "_emptied.json"

T = TypeVar("T")

#: Inode, time of change in nanoseconds and size of a manifest: to be compared, not to be interpreted.
Stamp = tuple[int, int, int]


class Table:
    """Rows in Parquet parts, with atomic commits; see `icehouse.store.schema` for the kinds there are.

    Instances may be shared between threads and made anew at will: all state is on disk. Appending is cheap however large
    the table: the keys of the committed parts are read once by an instance and kept in Arrow's memory.
    """

    def __init__(self, path: Path, blank: Snapshot | None = None) -> None:
        self.path = path
        self._blank = blank  # what a table that was never written holds
        self._keys: dict[tuple[str, str], pa.ChunkedArray] = {}
        self._swept = False

    def __repr__(self) -> str:
        return f"Table({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path, schema: pa.Schema, spec: Mapping[str, Any]) -> Table:
        """Make an empty table."""
        make_folder(path)
        with locks.hold(path):
            if cls.exists(path):
                raise StoreError(f"{path} is a table already; open it instead")
            Snapshot(path, 1, dict(spec), schema.remove_metadata()).write()
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Table:
        """Open the table at `path`; StoreError if there is none."""
        if not cls.exists(path):
            raise StoreError(f"no table at {path}: `icehouse info` lists what the store has")
        return cls(path)

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether there is a table at `path`, be it one that lost its manifest."""
        return os.path.lexists(path / MANIFEST) or bool(part_files(path))

    @property
    def spec(self) -> dict[str, Any]:
        """Current spec of the table, as JSON values."""
        return self.snapshot().spec

    @property
    def rows(self) -> int:
        """Number of rows now."""
        return self.snapshot().rows

    def snapshot(self) -> Snapshot:
        """Take the table as it is now; later commits do not touch what is returned."""
        try:
            return Snapshot.load(self.path)
        except FileNotFoundError:
            if found := part_files(self.path):
                raise CorruptError(
                    f"{self.path} has lost its manifest, but has {count_of(len(found), 'part')}: "
                    "`icehouse verify --repair` makes it anew"
                ) from None
            if self._blank is not None:
                return self._blank
            raise StoreError(f"no table at {self.path}: `icehouse info` lists what the store has") from None

    def stamp(self) -> Stamp | None:
        """What every commit changes, for the price of one look at the manifest's file; None where there is none."""
        try:
            found = (self.path / MANIFEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def reading(self, read: Callable[[Snapshot], T]) -> T:
        """Call `read` on a snapshot, and again on a newer one if its files went away meanwhile."""
        for _ in range(_READ_TRIES):
            snapshot = self.snapshot()
            try:
                return read(snapshot)
            except FileNotFoundError as error:
                lost = error
                if self.snapshot().version == snapshot.version:
                    break
        name = Path(lost.filename).name if lost.filename else "a part"
        raise StoreError(f"{self.path} lacks {name}, which its manifest names: `icehouse verify` tells more")

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows as they are now; see `Snapshot.read`."""
        return self.reading(lambda snapshot: snapshot.read(columns))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out over several calls; see `icehouse.store.files.hold`."""
        self._make_folder()
        with locks.hold(self.path):
            yield

    def append(self, rows: pa.Table, *, unique: str | None = None) -> int:
        """Add rows at the end, all or none. Rows added."""
        snapshot = self.snapshot()
        rows = conform(rows, snapshot.schema)
        checked: frozenset[str] = frozenset()
        if unique is not None:
            rows = _distinct(rows, unique, last=False)
            rows = self._without_known(rows, unique, snapshot, snapshot.parts)
            checked = frozenset(part.name for part in snapshot.parts)
        if not rows.num_rows:
            return 0
        self._make_folder()
        staged = write_part(rows, self.path, snapshot.spec)
        try:
            with self.lock():
                snapshot = self.snapshot()
                if unique is not None:
                    late = [part for part in snapshot.parts if part.name not in checked]
                    kept = self._without_known(rows, unique, snapshot, late)
                    if not kept.num_rows:
                        return 0
                    if kept.num_rows < rows.num_rows:
                        staged.path.unlink()
                        rows, staged = kept, write_part(kept, self.path, snapshot.spec)
                new = self._commit(
                    snapshot, [*snapshot.parts, staged], schema=_widen(snapshot.schema, rows.schema)
                )
                if unique is not None:
                    self._keys[new[-1].name, unique] = rows[unique]
        finally:
            staged.path.unlink(missing_ok=True)
        return rows.num_rows

    def upsert(self, rows: pa.Table, *, key: str, keep: bool = True, remove: Iterable[Any] = ()) -> int:
        """Replace the rows that have the same key, in their place, and add the others at the end.

        Only parts that really change are written again.
        """
        with self.lock():
            snapshot = self.snapshot()
            rows = _distinct(
                conform(rows, snapshot.schema, only=rows.column_names if keep else None), key, last=True
            )
            schema = _widen(snapshot.schema, rows.schema)
            known = np.zeros(rows.num_rows, dtype=bool)
            unwanted = pa.array(list(remove), schema.field(key).type)

            def replaced(part: Part) -> tuple[int, pa.Table | None]:
                keys = self._part_keys(part, snapshot, key)
                hits, gone = pc.index_in(keys, value_set=rows[key]), pc.is_in(keys, value_set=unwanted)
                removed = pc.sum(gone).as_py() or 0
                if hits.null_count == len(hits) and not removed:
                    return 0, None
                known[hits.drop_null().to_numpy()] = True
                old = read_part(self.path / part.name, schema, part)
                new = _replace(old, rows, hits)
                return _differing(old, new, hits) + removed, new.filter(pc.invert(gone)) if removed else new

            return self._rewrite(
                snapshot, replaced, schema, lambda: conform(rows.filter(pa.array(~known)), schema)
            )

    def delete(self, column: str, values: Iterable[Any]) -> int:
        """Remove the rows whose `column` is among `values`; return how many went."""
        with self.lock():
            snapshot = self.snapshot()
            if column not in snapshot.schema.names:
                raise StoreError(
                    f"no column {column!r} in {self.path.name}; there are: {', '.join(snapshot.schema.names)}"
                )
            wanted = pa.array(list(values), snapshot.schema.field(column).type)

            def without(part: Part) -> tuple[int, pa.Table | None]:
                hits = pc.is_in(self._part_keys(part, snapshot, column), value_set=wanted)
                count = pc.sum(hits).as_py() or 0
                if count in (0, part.rows):
                    return count, None
                return count, read_part(self.path / part.name, snapshot.schema, part).filter(pc.invert(hits))

            return self._rewrite(snapshot, without, snapshot.schema)

    def update_spec(self, changes: Mapping[str, Any]) -> None:
        """Set keys of the spec, for example the probe."""
        with self.lock():
            snapshot = self.snapshot()
            have = snapshot.spec.get("fingerprint")
            if have is not None and changes.get("fingerprint", have) != have:
                raise SpaceError(
                    f"{self.path} has fingerprint {have}, which cannot become {changes['fingerprint']}"
                )
            self._commit(snapshot, list(snapshot.parts), spec={**snapshot.spec, **changes})

    def replace(self, rows: pa.Table, spec: Mapping[str, Any]) -> None:
        """Put rows in the place of all others, under another spec, in one commit: readers see the old or the new."""
        if not rows.num_rows:
            raise StoreError(f"nothing to put in the place of the rows of {self.path}")
        with self.lock():
            snapshot = self.snapshot()
            rows = conform(rows, snapshot.schema)
            staged = write_part(rows, self.path, dict(spec), replaces=[part.name for part in snapshot.parts])
            try:
                self._commit(snapshot, [staged], spec=dict(spec))
            finally:
                staged.path.unlink(missing_ok=True)

    def replace_parts(self, old: Sequence[str], new: Staged) -> bool:
        """Put one part in the place of neighbouring ones that hold the same rows.

        False, and nothing happens, if another writer has changed them meanwhile.
        """
        try:
            with self.lock():
                snapshot = self.snapshot()
                names = [part.name for part in snapshot.parts]
                at = names.index(old[0]) if old[0] in names else -1
                if at < 0 or names[at : at + len(old)] != list(old):
                    return False
                parts: list[Part | Staged] = [*snapshot.parts]
                parts[at : at + len(old)] = [new]
                self._commit(snapshot, parts)
                return True
        finally:
            new.path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        if self._blank is not None:
            make_folder(self.path)

    def _rewrite(
        self,
        snapshot: Snapshot,
        change: Callable[[Part], tuple[int, pa.Table | None]],
        schema: pa.Schema,
        added: Callable[[], pa.Table] | None = None,
    ) -> int:
        """Commit what `change` makes of each part, and rows `added` at the end; returns how many rows that concerns.

        It tells for a part how many of its rows change, and its rows then; None, or no rows, takes a part away that changes.
        """
        parts: list[Part | Staged] = []
        emptied: list[str] = []
        changed = 0
        try:
            for part in snapshot.parts:
                count, rows = change(part)
                changed += count
                if not count:
                    parts.append(part)
                elif rows is None or not rows.num_rows:
                    emptied.append(part.name)
                else:
                    parts.append(write_part(rows, self.path, snapshot.spec, replaces=[part.name]))
            if added is not None and (rows := added()).num_rows:
                parts.append(write_part(rows, self.path, snapshot.spec))
                changed += rows.num_rows
            if changed:
                self._commit(snapshot, parts, schema=schema)
            if emptied:
                note_emptied(self.path, emptied)
        finally:
            for made in parts:
                if isinstance(made, Staged):
                    made.path.unlink(missing_ok=True)
        return changed

    def _commit(
        self,
        snapshot: Snapshot,
        parts: Sequence[Part | Staged],
        *,
        schema: pa.Schema | None = None,
        spec: dict[str, Any] | None = None,
    ) -> list[Part]:
        """Make `parts` the live ones. The caller holds the lock, and has read `snapshot` under it."""
        if not self._swept and (later := later_parts(snapshot)):
            raise CorruptError(older_than(self.path, later))
        named = [part if isinstance(part, Part) else self._name(part, snapshot.version + 1) for part in parts]
        fsync_dir(self.path)
        now = time.time()
        live = {part.name for part in named}
        retired = [*snapshot.retired, *((part.name, now) for part in snapshot.parts if part.name not in live)]
        due = [name for name, at in retired if now - at > GRACE_S]
        snapshot.next(
            parts=tuple(named),
            retired=tuple((name, at) for name, at in retired if name not in due),
            schema=snapshot.schema if schema is None else schema,
            spec=snapshot.spec if spec is None else spec,
        ).write()
        # Only now: a file is removed once no manifest names it, so that a crash in between leaves an orphan, not a hole.
        for name in due:
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        self._keys = {known: keys for known, keys in self._keys.items() if known[0] in live}
        if not self._swept:
            sweep(self)
            self._swept = True
        return named

    def _name(self, staged: Staged, version: int) -> Part:
        name = f"part-{version:06d}-{uuid.uuid4().hex[:12]}.parquet"
        staged.path.replace(self.path / name)
        return Part(name, staged.rows, staged.bytes, staged.sha256, staged.footer)

    def _part_keys(self, part: Part, snapshot: Snapshot, column: str) -> pa.ChunkedArray:
        keys = self._keys.get((part.name, column))
        if keys is None:
            schema = pa.schema([snapshot.schema.field(column)])
            keys = self._keys[part.name, column] = read_part(self.path / part.name, schema, part)[column]
        return keys

    def _without_known(
        self, rows: pa.Table, column: str, snapshot: Snapshot, parts: Iterable[Part]
    ) -> pa.Table:
        """Drop the rows whose key one of `parts` has.

        The hash table is made of the few new keys, not of the many committed ones.
        """
        found = []
        for part in parts:
            keys = self._part_keys(part, snapshot, column)
            found.append(keys.filter(pc.is_in(keys, value_set=rows[column])))
        known = pa.chunked_array(
            [chunk for keys in found for chunk in keys.chunks], rows.schema.field(column).type
        )
        return rows.filter(pc.invert(pc.is_in(rows[column], value_set=known))) if len(known) else rows


def note_emptied(folder: Path, names: Sequence[str]) -> None:
    """Keep the names of parts all of whose rows were deleted: nothing else would say so if the manifest were lost."""
    there = [name for name in {*emptied_parts(folder), *names} if (folder / name).exists()]
    with contextlib.suppress(OSError):
        publish_sealed(folder / _EMPTIED, {"parts": sorted(there)})


def emptied_parts(folder: Path) -> list[str]:
    """Names of parts all of whose rows were deleted, as far as they are known."""
    try:
        return [str(name) for name in unseal(json.loads((folder / _EMPTIED).read_bytes()), _EMPTIED)["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def part_files(folder: Path) -> list[Path]:
    """Files in a table's folder that are named as parts are, in the order of their versions."""
    try:
        return sorted(path for path in folder.iterdir() if PART_NAME.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def later_parts(snapshot: Snapshot) -> list[str]:
    """Names of parts that only a later manifest than this one can have named: it is not the last that was written."""
    found = [(path.name, PART_NAME.fullmatch(path.name)) for path in part_files(snapshot.folder)]
    return [
        name for name, m in found if m and int(m[1]) > snapshot.version + 1 and name not in snapshot.named
    ]


def older_than(folder: Path, later: Sequence[str]) -> str:
    """Note on a manifest that is older than some parts."""
    return (
        f"{folder / MANIFEST} is older than {later[0]}, which it does not name: put the last one back, or "
        "`icehouse verify --repair` makes it anew from the parts"
    )


def sweep(table: Table) -> int:
    """Remove part files that no manifest names, and temporary files of dead writers; return how many went.

    Where there are parts later than the manifest all stay: they are what a manifest that was lost had named.
    """
    if not Table.exists(table.path):
        return 0
    with table.lock():
        snapshot = table.snapshot()
        if later_parts(snapshot):
            return 0
        # Parts get their names under this lock, so an unnamed one is nobody's work in hand.
        orphans = [path for path in part_files(table.path) if path.name not in snapshot.named]
        for path in orphans:
            with contextlib.suppress(OSError):
                path.unlink()
        return len(orphans) + remove_leftovers(table.path)


def _widen(schema: pa.Schema, other: pa.Schema) -> pa.Schema:
    for field in other:
        if field.name not in schema.names:
            schema = schema.append(field)
        elif schema.field(field.name).type != field.type:
            raise StoreError(
                f"column {field.name!r} is {field.type}, but another writer just added it as "
                f"{schema.field(field.name).type}"
            )
    return schema


def _distinct(rows: pa.Table, column: str, *, last: bool) -> pa.Table:
    if column not in rows.column_names:
        raise StoreError(
            f"the rows lack the key column {column!r}; they have: {', '.join(rows.column_names)}"
        )
    if rows[column].null_count:
        raise StoreError(f"column {column!r} is the key and may not be null")
    codes = rows[column].combine_chunks().dictionary_encode()
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    index = codes.indices.to_numpy()
    if len(codes.dictionary) == rows.num_rows:
        return rows
    if last:
        kept = rows.num_rows - 1 - np.unique(index[::-1], return_index=True)[1]
    else:
        kept = np.unique(index, return_index=True)[1]
    return rows.take(pa.array(np.sort(kept)))


def _replace(old: pa.Table, new: pa.Table, hits: pa.ChunkedArray) -> pa.Table:
    """`old`, with the columns of `new` where `hits` names a row of it."""
    hit = hits.fill_null(-1).to_numpy()
    source = pa.array(np.where(hit >= 0, old.num_rows + hit, np.arange(old.num_rows)))
    columns = []
    for field in old.schema:
        column = old[field.name]
        if field.name in new.column_names:
            both = pa.chunked_array([*column.chunks, *new[field.name].chunks], field.type)
            column = both.take(source)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=old.schema)


def _differing(old: pa.Table, new: pa.Table, hits: pa.ChunkedArray) -> int:
    """Count of hit rows whose values differ."""
    differ = np.zeros(old.num_rows, dtype=bool)
    for name in old.column_names:
        before, after = old[name], new[name]
        if before.equals(after):
            continue
        if pa.types.is_nested(before.type):
            # Arrow compares no lists element by element; hit rows all count as changed.
            differ |= pc.is_valid(hits).to_numpy()
        else:
            unlike = pc.fill_null(pc.not_equal(before, after), True)
            differ |= pc.and_not(unlike, pc.and_(pc.is_null(before), pc.is_null(after))).to_numpy()
    return int(differ.sum())
