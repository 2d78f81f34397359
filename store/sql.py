"""SQL over a store, and what goes out of it: results on screen and in files, features in the formats that other tools take.

It is DuckDB in memory with a view for every table. Views read the live parts where they lie: nothing is locked, nothing is
copied. The database is in memory, so no statement can change a table; reading one's own files (``from 'my.csv'``) and
``copy ... to`` work as usual, with one's own rights.
"""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..console import EXCEL_SAFE, Screen
from ..errors import StoreError, UsageError, count_of, one_or_many
from .files import publish
from .schema import Snapshot, check_part, is_vectors
from .vectors import tokens_to_arrow, vectors_to_arrow

if TYPE_CHECKING:
    import duckdb

    from .store import Features, Store


def view_names(tables: Iterable[str]) -> dict[str, list[str]]:
    """Names of the views of each table.

    ``items`` and ``failures`` keep theirs, ``captions/llava`` is ``captions_llava``, ``features/mini/image/pooled`` is
    ``"mini/image/pooled"`` and, for those who dislike quotes, ``mini_image_pooled`` (unless that is taken).
    """
    names: dict[str, list[str]] = {}
    taken: set[str] = set()
    for table in sorted(tables, key=lambda name: (name.startswith("features/"), name)):
        short = table.removeprefix("features/")
        plain = re.sub(r"\W", "_", short)
        plain = f"_{plain}" if plain[0].isdigit() else plain
        wanted = [short, plain] if table.startswith("features/") else [plain]
        names[table] = []
        for name in wanted:
            if name.lower() not in taken:
                taken.add(name.lower())
                names[table].append(name)
    return names


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """Open DuckDB in memory with a view for every table of `store`; a damaged table has none."""
    import duckdb

    con = duckdb.connect(":memory:")
    _make_views(con, store, store.table_names(), None)
    return con


def query(store: Store, sql: str) -> pa.Table:
    """Run SQL (one statement or several) and return the last one's result."""
    return _run(store, sql, store.table_names())


#: Seconds that a stranger's statement may take, and memory.
CONFINED_SECONDS, CONFINED_MEMORY = 10.0, "1GB"


def query_confined(store: Store, sql: str, *, seconds: float = CONFINED_SECONDS) -> pa.Table:
    """Run one SELECT of somebody who may read the store and nothing else: no file, no network, a limit on time and memory.

    UsageError: it is not one SELECT, reaches for anything else, or takes too long.
    """
    tables = store.table_names()

    def make(con: duckdb.DuckDBPyConnection) -> list[Path]:
        _make_views(con, store, tables, sql.lower())
        return [path for table in tables for path in _files(store, table)]

    return _confined(make, sql, seconds)


def select_confined(
    tables: Mapping[str, pa.Table], sql: str, *, seconds: float = CONFINED_SECONDS
) -> pa.Table:
    """Run one SELECT over tables in memory, confined as by `query_confined`."""

    def make(con: duckdb.DuckDBPyConnection) -> list[Path]:
        con.execute("SET python_enable_replacements = false")
        for name, table in tables.items():
            con.register(name, table)
        return []

    return _confined(make, sql, seconds)


def _confined(make: Callable[[duckdb.DuckDBPyConnection], list[Path]], sql: str, seconds: float) -> pa.Table:
    import duckdb

    with duckdb.connect(":memory:") as con:
        try:
            sql.encode()  # half a surrogate pair
            # Comments, or a parenthesis too many, must not let a second statement in.
            statements = con.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise UsageError("SQL: one SELECT statement is taken here, and nothing else")
            files = make(con)
            listed = ", ".join("'" + str(path.resolve()).replace("'", "''") + "'" for path in files)
            for setting in (
                f"allowed_paths = [{listed}]",
                "autoload_known_extensions = false",
                f"memory_limit = '{CONFINED_MEMORY}'",
                "temp_directory = ''",
                "enable_external_access = false",
                "lock_configuration = true",
            ):
                con.execute(f"SET {setting}")
            clock = threading.Timer(seconds, con.interrupt)
            clock.start()
            try:
                result = con.sql(sql)
                return pa.table({}) if result is None else result.to_arrow_table()
            finally:
                clock.cancel()
        except (duckdb.InterruptException, RuntimeError) as error:
            if "interrupted" in str(error).lower():
                raise UsageError(f"SQL: it takes longer than {seconds:g} seconds") from None
            raise
        except (duckdb.Error, pa.ArrowException, UnicodeError) as error:
            raise UsageError(_one_line(error)) from error


def _files(store: Store, table: str) -> list[Path]:
    try:
        return store.table(table).snapshot().files
    except StoreError:
        return []  # a damaged table has no view


def select_items(store: Store, where: str) -> pa.ChunkedArray:
    """Ids of the items that meet a SQL condition over the columns of `items`."""
    if not where.strip():
        raise UsageError("the condition is empty; say true for all items")
    try:
        rows = _run(store, f"SELECT item_id FROM items WHERE ({where}\n)", ["items"])
    except UsageError as error:
        raise UsageError(f"the condition {where!r} does not work on items: {error}") from error
    return rows["item_id"].cast(pa.string())


def names_missing(where: str | None) -> bool:
    """Whether a condition speaks of the column ``missing``.

    >>> names_missing("not missing"), names_missing("label = 'a'"), names_missing(None)
    (True, False, False)
    """
    return (
        where is not None
        and re.search(r"\bmissing\b", re.sub(r"'(?:[^']|'')*'", "", where), re.I) is not None
    )


def left_out_note(left_out: int) -> str:
    """Note on items that `Store.present_items` leaves out."""
    who = f"{count_of(left_out, 'item that has', 'items that have')} vanished {one_or_many(left_out, 'is', 'are')}"
    return f'{who} left out (icehouse sql "select item_id from items where missing")'


def _run(store: Store, sql: str, tables: list[str]) -> pa.Table:
    import duckdb

    tries = 3
    while True:
        tries -= 1
        with duckdb.connect(":memory:") as con:
            try:
                damaged = _make_views(con, store, tables, sql.lower())
                result = con.sql(sql)
                return pa.table({}) if result is None else result.to_arrow_table()
            except duckdb.CatalogException as error:
                views = ", ".join(
                    names[0] for table, names in view_names(tables).items() if names and table not in damaged
                )
                told = str(error).lower()
                reasons = [
                    f"{table} ({reason})"
                    if any(view.lower() in told for view in view_names(tables)[table])
                    else table
                    for table, reason in damaged.items()
                ]
                hint = f"; damaged, see `icehouse verify`: {', '.join(reasons)}" if damaged else ""
                raise UsageError(f"{_one_line(error)} (views here: {views}{hint})") from error
            except (duckdb.InterruptException, RuntimeError) as error:
                # DuckDB's own word for Ctrl-C; its other errors are no RuntimeErrors.
                if "interrupted" in str(error).lower():
                    raise KeyboardInterrupt from None
                raise
            except (duckdb.Error, pa.ArrowException) as error:
                # A part may have been retired, and removed, between making the view and reading it.
                if not (tries and isinstance(error, duckdb.IOException) and "part-" in str(error)):
                    raise UsageError(_one_line(error)) from error


def _make_views(
    con: duckdb.DuckDBPyConnection, store: Store, tables: list[str], asked: str | None
) -> dict[str, str]:
    """Make the views of `tables`; return those that cannot be read, and why.

    DuckDB verifies no checksums of Parquet. So the parts of the tables that occur in the query `asked` (of all, if it is
    None) are compared with their manifest first.
    """
    import duckdb

    # A query must not reach for the network, take Python variables for tables, or show times in the machine's zone.
    for setting in (
        "autoinstall_known_extensions = false",
        "python_enable_replacements = false",
        "TimeZone = 'UTC'",
    ):
        con.execute(f"SET {setting}")
    damaged: dict[str, str] = {}
    for table, views in view_names(tables).items():
        try:
            opened = store.table(table)
            if asked is None or any(view.lower() in asked for view in views):
                opened.reading(_check)
            select = _select(con, opened.snapshot())
        except (duckdb.Error, StoreError) as error:
            # One damaged table must not keep the others from being asked.
            damaged[table] = str(error).splitlines()[0]
            continue
        for view in views:
            con.execute(f"CREATE VIEW {_identifier(view)} AS {select}")
    return damaged


def _check(snapshot: Snapshot) -> None:
    for path, part in zip(snapshot.files, snapshot.parts, strict=True):
        check_part(path, part, whole=True)


def _one_line(error: Exception) -> str:
    message = str(error).split("\n\nLINE ")[0].split("\nDid you mean")[0]
    return "SQL: " + " ".join(message.split())


def _select(con: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> str:
    """SELECT over exactly the snapshot's parts, with every column of its schema in order."""
    present: set[str] = set()
    source = "(SELECT 1) WHERE false"
    if snapshot.parts:
        files = ", ".join(_file(path) for path in snapshot.files)
        source = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
        present = {row[0] for row in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    columns = [
        _identifier(field.name)
        if field.name in present
        else f"NULL::{_sql_type(field.type)} AS {_identifier(field.name)}"
        for field in snapshot.schema
    ]
    return f"SELECT {', '.join(columns)} FROM {source}"


def _file(path: Path) -> str:
    """SQL string of exactly this file: DuckDB would take ``[1]``, ``*`` and ``?`` in a folder's name for a pattern."""
    return "'" + re.sub(r"([\[*?])", r"[\1]", str(path.resolve())).replace("'", "''") + "'"


@cache
def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's type for an Arrow type read from Parquet; asking for it takes milliseconds."""
    if is_vectors(kind):  # DuckDB has no half floats, and Parquet no fixed sizes
        return "FLOAT[][]" if pa.types.is_list(kind) else "FLOAT[]"
    import duckdb

    with duckdb.connect(":memory:") as con:
        con.register("empty", pa.table({"x": pa.array([], kind)}))
        return str(con.execute("DESCRIBE SELECT x FROM empty").fetchall()[0][1])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


#: Formats that `save` writes, by file suffix.
FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".pq": "parquet"}

# Signs that begin a formula, full-width ones too, and white space that spreadsheets skip before them.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

_SHOWN = 4


def json_values(rows: pa.Table) -> list[dict[str, Any]]:
    """Give each row as a mapping of JSON values: dates in ISO format, numbers as numbers, bytes in hexadecimal."""
    names = rows.column_names
    return [dict(zip(names, map(_plain, values), strict=True)) for values in _rows(rows)]


def screen_rows(rows: pa.Table) -> Iterator[list[Any]]:
    """Give the cells of each row for a table on screen; of a long list the first numbers and its length."""
    for values in _rows(rows):
        yield [_cell(value) for value in values]


def print_csv(rows: pa.Table, file: IO[str] | Screen) -> None:
    """Write `rows` as CSV; lists and structures as JSON."""
    plain = csv.writer(file, lineterminator="\n")
    # With this line end the writer leaves a carriage return unquoted, at which readers begin a new row.
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

    def write(cells: list[Any]) -> None:
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if returns else plain).writerow(cells)

    write(csv_cells(rows.column_names))
    for values in _rows(rows):
        cells = map(_plain, values)
        write(
            csv_cells(json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict)) else v for v in cells)
        )


def csv_cells(values: Iterable[Any]) -> list[Any]:
    """Cells of a CSV row; under `EXCEL_SAFE`, texts that a spreadsheet would run as a formula begin with ``'``.

    What is a number stays one, also as text.
    """
    return (
        [_guarded(value) if isinstance(value, str) else value for value in values]
        if EXCEL_SAFE.get()
        else list(values)
    )


def csv_table(rows: pa.Table) -> pa.Table:
    """`rows` with `csv_cells` applied to its columns of text."""
    if not EXCEL_SAFE.get():
        return rows
    for at, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            rows = rows.set_column(
                at, field.name, pa.array(csv_cells(rows[field.name].to_pylist()), pa.string())
            )
    return rows.rename_columns(csv_cells(rows.column_names))


def _guarded(text: str) -> str:
    if not _FORMULA.match(text) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"


def save(rows: pa.Table, path: Path, kind: str | None = None) -> None:
    """Write `rows` to `path`, whole or not at all."""
    kind = kind or FORMATS.get(path.suffix.lower())
    if kind not in FORMATS.values():
        raise UsageError(f"cannot tell the format of {path}: name a file .csv, .json or .parquet")
    try:
        with publish(path) as temp:
            if kind == "parquet":
                pq.write_table(rows, temp, compression="zstd")
                return
            with temp.open("w", encoding="utf-8", newline="") as file:
                if kind == "csv":
                    print_csv(rows, file)
                else:
                    json.dump(json_values(rows), file, indent=2, ensure_ascii=False)
                    file.write("\n")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _rows(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    # By position: a result may have two columns of one name, which `to_pylist` refuses.
    for batch in rows.to_batches(max_chunksize=4096):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        shown = ", ".join(str(_cell(item)) for item in value[:_SHOWN])
        return f"[{shown}]" if len(value) <= _SHOWN else f"[{shown}, … {len(value)} in all]"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return value


#: File suffix of each format.
FEATURE_FORMATS = {"npy": ".npy", "csv": ".csv", "parquet": ".parquet", "safetensors": ".safetensors"}


def export(
    store: Store,
    name: str,
    out: Path,
    *,
    format: str | None = None,
    columns: Sequence[str] = (),
    split: str | Sequence[str] | None = None,
    where: str | None = None,
    notes: list[str] | None = None,
) -> list[Path]:
    """Write a feature of the items to `out`; nothing is left behind if that fails.

    ``npy`` and ``safetensors`` (tensor ``X``; for tokens also ``mask``) are joined by ``<out>.ids.csv``, whose rows go with
    theirs. ``csv`` and ``parquet`` have `item_id` and `columns` first; then ``f0``, ``f1``, ... or a list column ``vector``.
    """
    kind = format or next(
        (kind for kind, suffix in FEATURE_FORMATS.items() if out.suffix.lower() == suffix), None
    )
    if kind not in FEATURE_FORMATS:
        raise UsageError(
            f"no format {kind or out.suffix!r} for {out}; use one of {', '.join(FEATURE_FORMATS)} (--format)"
        )
    schema = store.items.snapshot().schema
    for column in columns:
        if column not in schema.names:
            raise UsageError(f"no column {column!r} in items; there are: {', '.join(schema.names)}")
    features = store.features(name, split=split, where=where)
    if notes is not None and features.left_out:
        notes.append(left_out_note(features.left_out))
    if features.mask is not None and kind == "csv":
        raise UsageError(f"{name} holds tokens, which do not fit a CSV; use npy, parquet or safetensors")
    about = _about(store, features, [column for column in columns if column != "item_id"])
    try:
        return _WRITERS[kind](features, about, out)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from error


def _about(store: Store, features: Features, columns: Sequence[str]) -> pa.Table:
    """`item_id` and `columns` of the features' rows."""
    items = store.items.read(["item_id", *dict.fromkeys(columns)])
    return items.take(pc.index_in(pa.array(features.ids, pa.string()), value_set=items["item_id"]))


def _write_npy(features: Features, about: pa.Table, out: Path) -> list[Path]:
    with publish(out) as temp:
        _save_array(features.X, temp)
        # Once there is room for the vectors: ids of others beside them would be wrong without a sign.
        written = [_write_ids(about, out)]
        if features.mask is not None:
            with publish(out.with_name(out.name + ".mask.npy")) as mask:
                _save_array(features.mask, mask)
            written.append(out.with_name(out.name + ".mask.npy"))
    return [out, *written]


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _write_safetensors(features: Features, about: pa.Table, out: Path) -> list[Path]:
    from safetensors.numpy import save_file

    tensors = {"X": features.X} if features.mask is None else {"X": features.X, "mask": features.mask}
    metadata = {"name": features.name, **{k: str(features.spec.get(k)) for k in ("encoder", "fingerprint")}}
    with publish(out) as temp:
        save_file(tensors, temp, metadata=metadata)
        ids = _write_ids(about, out)
    return [out, ids]


def _write_csv(features: Features, about: pa.Table, out: Path) -> list[Path]:
    header = [*about.column_names, *(f"f{i}" for i in range(features.X.shape[1]))]
    with publish(out) as temp, temp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(csv_cells(header))
        for row, vector in zip(_cells_of(about), features.X, strict=True):
            # The shortest decimal that reads back as the same float32.
            writer.writerow([*csv_cells(row), *map(np.float32.__str__, vector)])
    return [out]


def _write_parquet(features: Features, about: pa.Table, out: Path) -> list[Path]:
    if features.mask is None:
        column, values = "vector", vectors_to_arrow(features.X, "float32")
    else:
        column, values = "tokens", tokens_to_arrow(features.X, features.mask, "float32")
    with publish(out) as temp:
        pq.write_table(
            about.append_column(column, values),
            temp,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
    return [out]


def _write_ids(about: pa.Table, out: Path) -> Path:
    path = out.with_name(out.name + ".ids.csv")
    with publish(path) as temp, temp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(csv_cells(about.column_names))
        writer.writerows(map(csv_cells, _cells_of(about)))
    return path


def _cells_of(about: pa.Table) -> Iterator[list[object]]:
    """Rows for a CSV; lists as JSON."""
    for row in zip(*(column.to_pylist() for column in about.columns), strict=True):
        yield [json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell for cell in row]


_WRITERS: dict[str, Callable[[Features, pa.Table, Path], list[Path]]] = {
    "npy": _write_npy,
    "csv": _write_csv,
    "parquet": _write_parquet,
    "safetensors": _write_safetensors,
}
