"""Table format: columns of every kind of table, provenance of vectors, snapshots with their manifests, and Parquet parts.

Content is known by its digest, so a feature table has no item ids: `items` says which digests an item has. The provenance of
vectors decides whether they may mix.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, SpaceError, StoreError, UsageError, brief, count_of, unknown_name
from .files import file_sha256, fsync_file, publish_sealed, refuse_outside, temp_name, unseal

#: One row an item. Labels and metadata follow as further columns of strings, or of lists of strings.
ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("root", pa.string()),
        pa.field("source", pa.string()),
        pa.field("text", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("text_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("phash", pa.uint64()),
        pa.field("split", pa.string()),
        pa.field("missing", pa.bool_()),
        pa.field("added", pa.timestamp("us", tz="UTC")),
    ]
)

#: Columns that icehouse fills; a label or metadata column needs another name.
RESERVED = frozenset(ITEMS.names)

#: One row a failure. `stage` is "manifest", "read", "decode", "encode" or "caption"; `encoder` is null unless it is
#: "encode", or "caption", where it holds the captions' table: "captions/default".
FAILURES = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("path", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("encoder", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)

#: The column of `items`, and of a feature table, that names a modality's content.
CONTENT_KEYS = {"image": "image_sha256", "text": "text_sha256"}

_FLOATS = {"float16": pa.float16(), "float32": pa.float32()}


def tower_of(modality: str) -> Literal["image", "text"]:
    """Tower of an encoder that makes the features of a modality; captions (``caption``, ``caption-NAME``) are texts."""
    return "image" if modality == "image" else "text"


def items_schema(extra: Iterable[str] = ()) -> pa.Schema:
    """Schema of `items` with `extra` label and metadata columns, all strings."""
    schema = ITEMS
    taken = {name.lower() for name in schema.names}
    for name in extra:
        if name.lower() in taken:
            raise UsageError(
                f"column {name!r} is reserved or repeated; rename it (reserved: {', '.join(ITEMS.names)})"
            )
        taken.add(name.lower())
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def label_columns(schema: pa.Schema) -> list[str]:
    """Names of the label and metadata columns of an `items` schema, in its order."""
    return [name for name in schema.names if name not in RESERVED]


def check_single(schema: pa.Schema, column: str) -> None:
    """Raise UsageError if a column of `items` holds several values an item, where one is needed."""
    if column in schema.names and pa.types.is_list(schema.field(column).type):
        raise UsageError(
            f"column {column!r} holds several values an item, and one is needed here; make a column of one each, such as: "
            f'icehouse sql "select item_id, {column}[1] as first from items" -o first.csv, then icehouse join first.csv'
        )


def vector_type(dim: int, dtype: str = "float16") -> pa.DataType:
    """Arrow type of one vector: a fixed-size list without nulls inside, so that no level is stored for each number."""
    return pa.list_(pa.field("element", _FLOATS[dtype], nullable=False), dim)


def tokens_type(dim: int, dtype: str = "float16") -> pa.DataType:
    """Arrow type of one content's token states: as many vectors as it has real tokens."""
    return pa.list_(pa.field("element", vector_type(dim, dtype), nullable=False))


def features_schema(
    modality: Literal["image", "text"],
    output: str,
    dim: int,
    dtype: Literal["float16", "float32"] = "float16",
) -> pa.Schema:
    """Schema of ``features/<encoder>/<modality>/<output>``."""
    fields = [pa.field(CONTENT_KEYS[modality], pa.string(), nullable=False)]
    if modality == "text":
        fields.append(pa.field("truncated", pa.bool_()))
    if output == "tokens":
        fields.append(pa.field("tokens", tokens_type(dim, dtype), nullable=False))
    else:
        fields.append(pa.field("vector", vector_type(dim, dtype), nullable=False))
    return pa.schema(fields)


# The spec of a feature table carries the provenance of its vectors and its fingerprint. The fingerprint decides; the
# provenance explains.


_MOST_DIFFERENCES = 4

#: What the entries of a feature's spec are.
_ENTRIES: dict[str, type] = {
    **dict.fromkeys(("encoder", "name", "modality", "output", "key", "dtype", "fingerprint"), str),
    "dim": int,
    **dict.fromkeys(("provenance", "probe"), dict),
}
#: Without these a feature cannot be read at all.
_NEEDED = ("encoder", "name", "modality", "output", "key", "dim", "dtype", "provenance")


def fingerprint(provenance: Mapping[str, Any]) -> str:
    """Digest of a provenance: vectors may share a table, a search or a head only where it agrees."""
    canonical = json.dumps(provenance, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_spec(spec: Any, what: str, needed: tuple[str, ...] = _NEEDED) -> None:
    """Refuse the spec of a feature that lacks an entry, or has one of another kind: a stranger may have written it."""
    if not isinstance(spec, Mapping):
        raise CorruptError(f"{what} has no spec of a feature")
    for name, kind in _ENTRIES.items():
        value = spec.get(name)
        if value is None and name not in needed:
            continue
        if type(value) is not kind or (kind is not dict and not value):
            raise CorruptError(
                f"{what}: the entry {name!r} of its spec is {_short(value)}, no {_KINDS[kind]}"
            )
    cleaning = (spec.get("provenance") or {}).get("cleaning")
    if not isinstance(cleaning, (str, type(None))):
        raise CorruptError(f"{what}: the cleaning of texts in its spec is {_short(cleaning)}, no name")


_KINDS = {str: "name", int: "number", dict: "object"}


def differences(
    have: Mapping[str, Any], want: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Compare two provenances. Dotted key to its two values, for each that differs; None stands for absent."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*have, *want}):
        a, b = have.get(key), want.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def check_space(what: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to mix two vector spaces."""
    for spec in (have, want):
        if not spec.get("fingerprint"):
            raise StoreError(
                f"{what}: vectors of unknown origin (a spec without fingerprint) cannot be compared"
            )
    if have["fingerprint"] == want["fingerprint"]:
        return
    unlike = differences(have.get("provenance") or {}, want.get("provenance") or {})
    shown = [f"{key} ({_short(a)} / {_short(b)})" for key, (a, b) in list(unlike.items())[:_MOST_DIFFERENCES]]
    if len(unlike) > _MOST_DIFFERENCES:
        shown.append(f"and {len(unlike) - _MOST_DIFFERENCES} more")
    reason = f"; they differ in {', '.join(shown)}" if shown else ""
    remedy = "use the same encoder and options, or another store"
    if set(unlike) == {"decoder"}:
        remedy = (
            "the encoder is the same, but an earlier version of icehouse decoded some images otherwise (deep samples,"
            " transparency, blank first frames); embed the images again, into a table of its own with `icehouse embed "
            "--name NEW` or into a new store, and train and calibrate on that; search by text and item goes on as before"
        )
    raise SpaceError(
        f"{what} is in the space of {_name(have)}, which does not mix with {_name(want)}{reason}: {remedy}"
    )


def _name(spec: Mapping[str, Any]) -> str:
    return f"{spec.get('encoder', 'an encoder')} (fingerprint {spec['fingerprint']})"


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "..."


# Manifests

#: Version of the table format that this code writes, and the newest that it reads.
FORMAT = 1
MANIFEST = "_manifest.json"

#: Rows of a row group in parts that hold vectors, and of a batch that is read.
ROW_GROUP = 16_384

#: What the file of a part is called: the version of the table that it came with, and 12 digits of its own.
PART_NAME = re.compile(r"part-(\d{6,18})-[0-9a-f]{12}\.parquet")


@dataclass(frozen=True)
class Part:
    """One immutable Parquet file of a table."""

    name: str
    rows: int
    bytes: int
    sha256: str
    footer: str  # SHA-256 of the Parquet footer


@dataclass(frozen=True)
class Snapshot:
    """Whole, consistent view of a table at one version, as its manifest has it.

    Its files outlive it by `icehouse.store.table.GRACE_S` at least; after that a read may raise FileNotFoundError, and a new
    snapshot is needed (`Table.read` takes care of it).
    """

    folder: Path
    version: int
    spec: dict[str, Any]
    schema: pa.Schema
    parts: tuple[Part, ...] = ()
    retired: tuple[tuple[str, float], ...] = ()

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits: equal digests mean equal rows in equal order."""
        lines = "".join(f"{part.name} {part.sha256}\n" for part in self.parts)
        return hashlib.sha256(lines.encode()).hexdigest()[:32]

    @property
    def named(self) -> set[str]:
        """Names of the parts that are live, or were and stay for those who are reading them."""
        return {part.name for part in self.parts} | {name for name, _ in self.retired}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Size of the live parts, in bytes."""
        return sum(part.bytes for part in self.parts)

    @property
    def files(self) -> list[Path]:
        """Paths of the live parts, in row order."""
        return [self.folder / part.name for part in self.parts]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows. A column that a part lacks is null in that part's rows."""
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

    def next(self, **changes: Any) -> Snapshot:
        """Make the snapshot of the following version."""
        return replace(self, version=self.version + 1, **changes)

    def write(self) -> None:
        """Put the manifest of this version in the place of the table's present one, in one step."""
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
        publish_sealed(self.folder / MANIFEST, content, indent=1)

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        """Read the present manifest of the table in `folder`."""
        try:
            content = json.loads((folder / MANIFEST).read_bytes())
            if content["format"] > FORMAT:
                raise StoreError(
                    f"{folder} is of table format {content['format']}, this icehouse reads up to {FORMAT}: upgrade it"
                )
            content = unseal(content, MANIFEST)
            return cls(
                folder,
                version=_count(content["version"]),
                spec=dict(content["spec"]),
                schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["schema"]))),
                parts=tuple(
                    Part(
                        _own(p["name"]),
                        _count(p["rows"]),
                        _count(p["bytes"]),
                        str(p["sha256"]),
                        str(p["footer"]),
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
            raise CorruptError(
                f"{folder / MANIFEST} is damaged ({brief(error)}); `icehouse verify --repair` makes it anew from the parts"
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


# Vectors are written plain: no dictionary, no compression, no statistics. They do not compress, and the defaults make
# reading them back ten times as slow.
#
# A part says in its own metadata what it is (the table's spec), where its rows stand and which parts it replaced
# (`lineage`), so that a lost manifest can be made anew. Its pages have checksums, which are verified whenever it is read;
# small parts, and the footers of large ones, are first compared with what the manifest has.


#: Parts up to this size, in bytes, are compared with the manifest's checksum before they are read.
WHOLE_BYTES = 16 << 20

_SPEC, _LINEAGE = b"icehouse", b"icehouse.lineage"

# Parts that were compared by this process, by everything that the file system says of them.
_known_good: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class Staged:
    """A part that is written and on the medium, but not yet named by a manifest."""

    path: Path
    rows: int
    bytes: int
    sha256: str
    footer: str


def is_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type holds vectors or tokens."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return pa.types.is_fixed_size_list(kind)


def write_part(
    rows: pa.Table, folder: Path, spec: Mapping[str, Any], *, replaces: Sequence[str] = ()
) -> Staged:
    """Write `rows` under a temporary name in `folder`, and wait until they are on the medium.

    `replaces` names the parts in whose place it is to stand.
    """
    refuse_outside(folder)
    path = folder / temp_name(".parquet")
    # A lone part should still say what it is; the probe's vectors would only bloat it.
    about = json.dumps({key: value for key, value in spec.items() if key != "probe"}, ensure_ascii=False)
    metadata = {_SPEC: about}
    if replaces:
        metadata[_LINEAGE] = json.dumps(_inherited(folder, replaces))
    rows = rows.replace_schema_metadata(metadata)
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    if any(is_vectors(field.type) for field in rows.schema):
        options |= {
            "compression": "none",
            "use_dictionary": False,
            "write_statistics": False,
            "row_group_size": ROW_GROUP,
        }
    try:
        pq.write_table(rows, path, **options)
        fsync_file(path)
        return Staged(path, rows.num_rows, path.stat().st_size, file_sha256(path), footer_sha256(path))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def lineage(metadata: Mapping[bytes, bytes] | None) -> tuple[dict[str, Any] | None, str | None, list[str]]:
    """Table that a part belongs to, by its Parquet metadata."""
    metadata = metadata or {}
    try:
        spec = json.loads(metadata[_SPEC]) if _SPEC in metadata else None
        line = json.loads(metadata[_LINEAGE]) if _LINEAGE in metadata else {}
        return spec if isinstance(spec, dict) else None, line.get("at"), list(line.get("replaces", ()))
    except (ValueError, TypeError, AttributeError):
        return None, None, []


def _inherited(folder: Path, replaces: Sequence[str]) -> dict[str, Any]:
    """Lineage of a part that replaces others: their place, and what they replaced as far as it is still there."""
    at: str = replaces[0]
    names = list(replaces)
    for name in replaces:
        try:
            _, first, before = lineage(pq.read_metadata(folder / name).metadata)
        except (pa.ArrowException, OSError):
            continue
        at = first or at if name == replaces[0] else at
        names += [old for old in before if old not in names and (folder / old).exists()]
    return {"at": at, "replaces": names}


def footer_sha256(path: Path) -> str:
    """SHA-256 of a Parquet file's footer: its schema, and where the pages lie."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        return hashlib.sha256(file.read()).hexdigest()


def check_part(path: Path, part: Part, *, whole: bool = False) -> None:
    """Make sure that a part is the one that the manifest names; of a large one the footer, unless `whole`.

    What was compared once is not compared again as long as the file stays untouched.
    """
    try:
        status = path.stat()
        whole = whole or part.bytes <= WHOLE_BYTES
        key = (
            str(path), part.sha256, whole, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip
        if key in _known_good:
            return
        if status.st_size != part.bytes or (
            file_sha256(path) != part.sha256 if whole else footer_sha256(path) != part.footer
        ):
            raise CorruptError(
                f"{path} is not what was written; restore it from a backup (`icehouse verify` lists what else is damaged)"
            )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path, error) from error
    _known_good.add(key)


def read_part(path: Path, schema: pa.Schema, part: Part | None = None) -> pa.Table:
    """Read the columns of `schema` from a part; one that the part lacks comes as nulls.

    With `part`, what the manifest says of it, the file is compared first; see `check_part`.
    """
    with _open_part(path, part, memory_map=True) as file:
        rows = _fill(file.read(columns=schema.names), schema)
        if part is not None and rows.num_rows != part.rows:
            raise OSError(f"{count_of(rows.num_rows, 'row')}, where the manifest has {part.rows}")
    return rows


def iter_part(
    path: Path, schema: pa.Schema, batch_rows: int = ROW_GROUP, part: Part | None = None
) -> Iterator[pa.RecordBatch]:
    """Read a part as `read_part` does, at most `batch_rows` rows at a time."""
    with _open_part(path, part) as file:
        for batch in file.iter_batches(batch_rows, columns=schema.names):
            yield from _fill(pa.Table.from_batches([batch]), schema).to_batches()


@contextlib.contextmanager
def _open_part(path: Path, part: Part | None, *, memory_map: bool = False) -> Iterator[pq.ParquetFile]:
    try:
        if part is not None:
            check_part(path, part)
        with pq.ParquetFile(path, memory_map=memory_map, page_checksum_verification=True) as file:
            yield file
    except (FileNotFoundError, CorruptError):
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptError:
    return CorruptError(
        f"{path} cannot be read ({brief(error)}); `icehouse verify` lists what else is damaged"
    )


def _fill(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    names = set(rows.column_names)
    columns = [
        rows[field.name] if field.name in names else pa.nulls(rows.num_rows, field.type) for field in schema
    ]
    if not columns:
        return rows.select([])
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def conform(rows: pa.Table, schema: pa.Schema, *, only: Sequence[str] | None = None) -> pa.Table:
    """Bring `rows` to a table's column order and types, its new columns last."""
    _refuse_clashes(rows.column_names, schema)
    columns, fields = [], []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(_cast(rows[field.name], field))
        elif only is None:
            if not field.nullable and rows.num_rows:
                raise StoreError(f"the rows lack the column {field.name!r}, which this table requires")
            columns.append(pa.nulls(rows.num_rows, field.type))
        else:
            continue
        fields.append(field)
    for field in rows.schema:
        if field.name not in schema.names:
            field = pa.field(field.name, _plain(field.type))
            columns.append(_cast(rows[field.name], field))
            fields.append(field)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type a new column gets: no dictionaries or wide strings, which depend on the library that made the rows."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if not field.nullable and column.null_count:
        raise StoreError(f"column {field.name!r} has nulls, which this table does not allow there")
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"column {field.name!r} is {column.type}, this table has {field.type} there: {reason}"
        ) from error


def _refuse_clashes(names: Sequence[str], schema: pa.Schema) -> None:
    known = {name.lower(): name for name in schema.names}
    seen: set[str] = set()
    for name in names:
        lower = name.lower()
        if lower in seen or known.get(lower, name) != name:
            raise StoreError(
                f"column {name!r} is already there as {known.get(lower, name)!r}: rename it (SQL ignores letter case)"
            )
        seen.add(lower)
