"""Manifests made anew from the parts of a table: what `icehouse verify --repair` does.

Every part says what its table is, which parts it replaced and where its rows stand (`icehouse.store.schema.lineage`). So of
all parts in the folder those are live that no other one replaced. Nothing is deleted: a damaged manifest and parts that
cannot be used are set aside under another name.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, StoreError, brief, count_of
from .files import STORE_FILE, file_sha256, fsync_dir, hold, publish
from .schema import MANIFEST, PART_NAME, Part, Snapshot, check_part, footer_sha256, lineage
from .store import FORMAT_VERSION, LEDGERS, Store
from .table import Table, emptied_parts, later_parts, older_than, part_files

_ASIDE = "set-aside-"


@dataclass(frozen=True)
class Repair:
    """Repair of one table."""

    table: str
    problem: str
    parts: int
    rows: int
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """A part file, and what it says of itself."""

    path: Path
    rows: int
    schema: pa.Schema
    spec: dict[str, Any]
    at: str
    replaces: frozenset[str]

    @property
    def version(self) -> int:
        return _version(self.path.name)


def repair_store_file(path: Path) -> str | None:
    """Write a store's ``icehouse.json`` anew if it is gone or damaged and there are tables; returns what was done."""
    if not (path / "tables").is_dir():
        return None
    try:
        if int(json.loads((path / STORE_FILE).read_bytes())["format_version"]) > 0:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    about = {
        "format_version": FORMAT_VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": "icehouse verify --repair",
    }
    try:
        with publish(path / STORE_FILE) as temp:
            temp.write_text(json.dumps(about, indent=1), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path / STORE_FILE}: {error.strerror or error}") from error
    return f"{STORE_FILE} was gone or damaged, and is made anew"


def repair(store: Store) -> list[Repair]:
    """Make the manifests anew that are lost, damaged, older than their parts, or that name parts which are gone.

    One for each table that needed it.
    """
    done = []
    for name in store.table_names():
        folder = store.path / "tables" / name
        if not Table.exists(folder):
            Table.create(folder, *LEDGERS[name])
            done.append(
                Repair(
                    name, "the table was lost", 0, 0, ["it is made anew, empty: a backup may have its rows"]
                )
            )
            continue
        with hold(folder):
            made = _repair_table(folder, name)
        if made is not None:
            done.append(made)
    return done


def _repair_table(folder: Path, name: str) -> Repair | None:
    manifest: Snapshot | None = None
    try:
        manifest = Snapshot.load(folder)
        later = later_parts(manifest)
        gone = [part for part in manifest.parts if not (folder / part.name).exists()]
        if not later and not gone:
            return None
        problem = older_than(folder, later) if later else f"the manifest names {gone[0].name}, which is gone"
    except FileNotFoundError:
        later, gone, problem = [], [], "the manifest was lost"
    except CorruptError as error:
        later, gone, problem = [], [], str(error).split(";")[0]
    problem = problem.split(": ")[0]
    remarks: list[str] = []
    if gone and not later and manifest is not None:
        lost = sum(part.rows for part in gone)
        remarks.append(
            f"{count_of(lost, 'row was', 'rows were')} in {count_of(len(gone), 'part')} now gone "
            f"({gone[0].name}, ...): a backup may have them, "
            "`icehouse embed` makes features again"
        )
        made = manifest.next(parts=tuple(part for part in manifest.parts if part not in gone))
    else:
        made = _from_parts(folder, name, manifest, remarks)
    if os.path.lexists(folder / MANIFEST):
        aside = folder / f"{_ASIDE}{int(time.time())}-{MANIFEST}"
        (folder / MANIFEST).rename(aside)
        remarks.append(f"the earlier manifest is kept as {aside.name}")
    fsync_dir(folder)
    if made.parts or name in LEDGERS or gone:
        made.write()
    else:
        remarks.append("no part is left: the next command that writes it makes the table anew")
    return Repair(name, problem, len(made.parts), sum(part.rows for part in made.parts), remarks)


def _from_parts(folder: Path, name: str, old: Snapshot | None, remarks: list[str]) -> Snapshot:
    """Manifest of the live ones among all parts in a folder."""
    known = {} if old is None else {part.name: part for part in old.parts}
    found: list[_Found] = []
    for path in part_files(folder):
        try:
            found.append(_look(path, known.get(path.name)))
        except (CorruptError, pa.ArrowException, OSError, ValueError) as error:
            remarks.append(f"{_set_aside(path)} is damaged and left out ({brief(error)})")
    spec = _spec(name, found, old, remarks)
    found = _of_one_kind(found, spec, remarks)
    replaced = {part for one in found for part in one.replaces} | set(emptied_parts(folder))
    live = [one for one in found if one.path.name not in replaced]
    live.sort(key=lambda one: (_version(one.at), one.at, one.version, one.path.name))
    version = max([one.version for one in found] + [0 if old is None else old.version])
    now = time.time()
    return Snapshot(
        folder,
        version=version + 1,
        spec=spec,
        schema=_schema(name, live, old),
        parts=tuple(
            Part(
                one.path.name,
                one.rows,
                one.path.stat().st_size,
                file_sha256(one.path),
                footer_sha256(one.path),
            )
            for one in live
        ),
        retired=tuple((one.path.name, now) for one in found if one.path.name in replaced),
    )


def _look(path: Path, known: Part | None) -> _Found:
    """Read a part whole, so that every page is compared with its checksum."""
    if known is not None:
        check_part(path, known, whole=True)
    rows = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        spec, at, replaces = lineage(schema.metadata)
        if spec is None:
            raise ValueError("it does not say which table it is of")
        for batch in file.iter_batches():
            rows += batch.num_rows
        if rows != file.metadata.num_rows:
            raise OSError(f"{count_of(rows, 'row')}, where its footer has {file.metadata.num_rows}")
    at = at if at is not None and PART_NAME.fullmatch(at) else path.name
    return _Found(path, rows, schema.remove_metadata(), spec, at, frozenset(replaces))


def _version(name: str) -> int:
    match = PART_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def _set_aside(path: Path) -> str:
    """Give a part a name that nothing takes for a part; returns it."""
    aside = path.with_name(_ASIDE + path.name)
    path.rename(aside)
    return aside.name


def _spec(name: str, found: list[_Found], old: Snapshot | None, remarks: list[str]) -> dict[str, Any]:
    """The table's spec, as its latest part has it."""
    latest = max(found, key=lambda one: (one.version, one.path.name)).spec if found else None
    if old is not None and (latest is None or old.spec.get("fingerprint") == latest.get("fingerprint")):
        return old.spec
    if latest is None:
        return LEDGERS[name][1] if name in LEDGERS else {}
    if "fingerprint" in latest and name.startswith("features/"):
        remarks.append(
            "the probe that guards the encoder was in the manifest only; the next `icehouse embed` has none"
        )
    return latest


def _of_one_kind(found: list[_Found], spec: dict[str, Any], remarks: list[str]) -> list[_Found]:
    """Leave out parts of another space, or with another type of a column than later ones have."""
    types: dict[str, pa.DataType] = {}
    kept = []
    for one in sorted(found, key=lambda one: (-one.version, one.path.name)):
        unlike = [column.name for column in one.schema if types.get(column.name, column.type) != column.type]
        if one.spec.get("fingerprint") != spec.get("fingerprint") or unlike:
            what = f"column {unlike[0]!r}" if unlike else "its fingerprint"
            remarks.append(
                f"{_set_aside(one.path)} ({count_of(one.rows, 'row')}) is of another kind than the others: {what} differs"
            )
            continue
        types.update({column.name: column.type for column in one.schema})
        kept.append(one)
    return kept[::-1]


def _schema(name: str, live: list[_Found], old: Snapshot | None) -> pa.Schema:
    """Union of the columns; those that every table of the kind has come first."""
    first = [LEDGERS[name][0]] if name in LEDGERS else [old.schema] if old is not None else []
    fields: dict[str, pa.Field] = {}
    for schema in [*first, *(one.schema for one in live)]:
        for column in schema:
            fields.setdefault(column.name, column)
    absent = {column for column in fields if any(column not in one.schema.names for one in live)}
    return pa.schema(
        [column.with_nullable(column.nullable or column.name in absent) for column in fields.values()]
    )
