"""SQL over a store: DuckDB in memory, a view for every table of the snapshot.

Views read the live parts where they lie: nothing is locked, nothing is copied. The database is in memory, so no statement
can change a table; reading one's own files (``from 'my.csv'``) and ``copy ... to`` work as usual, with one's own rights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import StoreError, UsageError
from .parts import check_part, is_vectors
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .store import Store

__all__ = [
    "connect",
    "left_out_note",
    "names_missing",
    "present_items",
    "query",
    "select_items",
    "view_names",
]


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
    con = duckdb.connect(":memory:")
    _make_views(con, store, store.table_names(), None)
    return con


def query(store: Store, sql: str) -> pa.Table:
    """Run SQL (one statement or several) and return the last one's result.

    Raises
    ------
    UsageError
        If DuckDB refuses it, in one line; for an unknown table, with the views there are.
    """
    return _run(store, sql, store.table_names())


def select_items(store: Store, where: str) -> pa.ChunkedArray:
    """Ids of the items that meet a SQL condition over the columns of `items`.

    Raises
    ------
    UsageError
        If it is not a condition.
    """
    if not where.strip():
        raise UsageError("the condition is empty; say true for all items")
    try:
        rows = _run(store, f"SELECT item_id FROM items WHERE ({where}\n)", ["items"])
    except UsageError as error:
        raise UsageError(f"the condition {where!r} does not work on items: {error}") from error
    return rows["item_id"].cast(pa.string())


def present_items(store: Store, columns: Sequence[str], where: str | None = None) -> tuple[pa.Table, int]:
    """Read items that meet a condition and are not marked ``missing``.

    Vanished items are left out of whatever is made of a store, unless the condition names the column ``missing`` and so
    decides by itself.

    Returns
    -------
    items : pyarrow.Table
        Columns ``item_id`` and `columns`.
    left_out : int
        How many items are left out for being marked.

    Raises
    ------
    UsageError
        If `where` is not a condition.
    """
    items = store.items.read(list(dict.fromkeys(["item_id", *columns, "missing"])))
    if where is not None:
        items = items.filter(pc.is_in(items["item_id"], value_set=select_items(store, where)))
    left_out = 0
    if not names_missing(where):
        marked = pc.fill_null(items["missing"], False)
        left_out = int(pc.sum(marked).as_py() or 0)
        items = items.filter(pc.invert(marked)) if left_out else items
    return (items if "missing" in columns else items.drop_columns("missing")), left_out


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
    """What to say of items that `present_items` leaves out."""
    who = "1 item that has" if left_out == 1 else f"{left_out} items that have"
    return f'{who} vanished are left out (icehouse sql "select item_id from items where missing")'


def _run(store: Store, sql: str, tables: list[str]) -> pa.Table:
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
        else f"NULL::{_sql_type(con, field.type)} AS {_identifier(field.name)}"
        for field in snapshot.schema
    ]
    return f"SELECT {', '.join(columns)} FROM {source}"


def _file(path: Path) -> str:
    """SQL string of exactly this file: DuckDB would take ``[1]``, ``*`` and ``?`` in a folder's name for a pattern."""
    return "'" + re.sub(r"([\[*?])", r"[\1]", str(path.resolve())).replace("'", "''") + "'"


def _sql_type(con: duckdb.DuckDBPyConnection, kind: pa.DataType) -> str:
    """What DuckDB makes of an Arrow type when it reads it from Parquet."""
    if is_vectors(kind):  # DuckDB has no half floats, and Parquet no fixed sizes
        return "FLOAT[][]" if pa.types.is_list(kind) else "FLOAT[]"
    empty = pa.table({"x": pa.array([], kind)})
    con.register("icehouse_type", empty)
    try:
        return str(con.execute("DESCRIBE SELECT x FROM icehouse_type").fetchall()[0][1])
    finally:
        con.unregister("icehouse_type")


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
