"""A store: items, their features, what failed, and the questions one asks of them."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..errors import CorruptError, SpaceError, StoreError, UsageError, unknown_name
from .files import STORE_FILE, checked_name, is_name, publish
from .schema import (
    FAILURES,
    ITEMS,
    MANIFEST,
    PART_NAME,
    Snapshot,
    check_single,
    check_space,
    check_spec,
    label_columns,
)
from .table import Table
from .vectors import TokenStates, VectorBlocks, Vectors, load_blocks, load_tokens, pad_tokens, take_float32

#: Version of the store's layout that this code writes, and the newest that it reads.
FORMAT_VERSION = 1

# Tables that every store has, with their schema and spec.
LEDGERS: dict[str, tuple[pa.Schema, dict[str, Any]]] = {
    "items": (ITEMS, {"kind": "items", "key": "item_id"}),
    "failures": (FAILURES, {"kind": "failures"}),
}

_DEEPEST = 8  # folders below tables/; a link that leads back up has no end


@dataclass(frozen=True)
class Features:
    """Features of some items, row by row.

    Attributes
    ----------
    ids : ndarray of object (str), shape (n,)
        Item ids, in the order of `items`.
    X : ndarray of float32, shape (n, dim); for tokens (n, t, dim)
        Items with the same content have equal rows.
    y : ndarray of str, shape (n,), or None
        The label asked for.
    name : str
        ``<encoder>/<modality>/<output>``.
    spec : dict
        The feature table's: encoder, dim, provenance, fingerprint.
    mask : ndarray of bool, shape (n, t), or None
        For tokens: True where a token is real.
    left_out : int
        Items that are left out for being marked ``missing``.
    """

    ids: np.ndarray
    X: np.ndarray
    y: np.ndarray | None
    name: str
    spec: dict[str, Any]
    mask: np.ndarray | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Store:
    """A folder of tables. Make one with `create` or `open`.

    >>> store = Store.open("icehouse-store")                                      # doctest: +SKIP
    >>> train = store.features("mini/image/pooled", split="train", label="label")    # doctest: +SKIP
    >>> store.query("select split, count(*) as n from items group by all")         # doctest: +SKIP
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self._tables: dict[str, Table] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """Make an empty store in a new or empty folder.

        Raises
        ------
        StoreError
            If there is a store already, or the folder has other things in it, or it cannot be written.
        """
        path = Path(path)
        if cls.exists(path):
            raise StoreError(f"{path} is a store already; open it instead")
        return cls.open_or_create(path)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open an existing store.

        Raises
        ------
        StoreError
            If there is none at `path`, or it is of a newer format.
        """
        path = Path(path)
        named = shlex.quote(str(path))  # in commands, to be pasted
        try:
            about = json.loads((path / STORE_FILE).read_bytes())
            version = int(about["format_version"])
        except (FileNotFoundError, NotADirectoryError):
            if (path / "tables").is_dir():
                raise StoreError(
                    f"{path} has tables, but lost its {STORE_FILE}: `icehouse verify --repair -s {named}` makes it anew"
                ) from None
            raise StoreError(
                f"no store at {path}; make one with `icehouse embed SOURCE -s {named}`"
            ) from None
        except OSError as error:
            raise StoreError(f"cannot read {path / STORE_FILE}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path / STORE_FILE} is damaged; `icehouse verify --repair -s {named}` makes it anew"
            ) from error
        if version > FORMAT_VERSION:
            raise StoreError(
                f"{path} is of store format {version} (made by {about.get('created_by', 'a newer icehouse')}), "
                f"this icehouse reads up to {FORMAT_VERSION}: upgrade icehouse"
            )
        return cls(path, about)

    @classmethod
    def of(cls, store: Store | str | Path) -> Store:
        """A store as it is, or the one that a path leads to."""
        return store if isinstance(store, Store) else cls.open(store)

    @classmethod
    def open_or_create(cls, path: str | Path) -> Store:
        """Open the store at `path`, or make one if there is nothing; see `create` and `open`."""
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            # One look: the format file is made first, so that whoever sees other entries of a store sees it too.
            entries = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
            if not entries:
                about = {
                    "format_version": FORMAT_VERSION,
                    "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "created_by": f"icehouse {__version__}",
                }
                with publish(path / STORE_FILE) as temp:
                    temp.write_text(json.dumps(about, indent=1), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot make a store at {path}: {error.strerror or error}") from error
        if entries and STORE_FILE not in entries:
            raise StoreError(f"{path} has other things in it and is no store; give a new or an empty folder")
        store = cls.open(path)
        for name, (schema, spec) in LEDGERS.items():
            if not Table.exists(store._folder(name)):
                try:
                    Table.create(store._folder(name), schema, spec)
                except StoreError:
                    if not Table.exists(store._folder(name)):  # else another writer was quicker
                        raise
        return store

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is a store at `path`."""
        return (Path(path) / STORE_FILE).is_file()

    @property
    def items(self) -> Table:
        """One row an item; see `icehouse.store.schema.ITEMS`."""
        return self._ledger("items")

    @property
    def failures(self) -> Table:
        """One row a failure; see `icehouse.store.schema.FAILURES`."""
        return self._ledger("failures")

    def _ledger(self, name: str) -> Table:
        """A table that every store has; whoever only reads it does not make it."""
        if name not in self._tables:
            schema, spec = LEDGERS[name]
            folder = self._folder(name)
            self._tables[name] = Table(folder, blank=Snapshot(folder, 0, dict(spec), schema))
        return self._tables[name]

    def table_names(self, unreadable: list[str] | None = None) -> list[str]:
        """Names of the tables there are, as folders below ``tables/``: ``items``, ``features/mini/image/pooled``.

        Those that lost their manifest are among them: whoever opens one is told. Folders that cannot be read go to
        `unreadable`, one line each.
        """
        root = self.path / "tables"
        found = set(LEDGERS)

        def refused(error: OSError) -> None:
            if unreadable is not None and not isinstance(error, FileNotFoundError):
                unreadable.append(f"{error.filename} cannot be read: {error.strerror}")

        for folder, folders, files in os.walk(root, onerror=refused, followlinks=True):
            path = Path(folder)
            if unreadable is not None:
                dangling = [path / file for file in files if not (path / file).exists()]
                unreadable += [
                    f"{link} is a link to what is not there" for link in dangling if link.is_symlink()
                ]
            if len(path.relative_to(root).parts) > _DEEPEST:
                folders.clear()
            if MANIFEST in (*files, *folders) or any(PART_NAME.fullmatch(file) for file in files):
                name = path.relative_to(root).as_posix()
                if is_name(name):
                    found.add(name)
        return sorted(found)

    def table(self, name: str) -> Table:
        """Open a table by its name below ``tables/``.

        Raises
        ------
        StoreError
            If there is none; the message lists those there are.
        """
        if name in LEDGERS:
            return self._ledger(name)
        if name not in self._tables:
            path = self._folder(name)
            if not Table.exists(path):
                known = ", ".join(self.table_names()) or "none yet"
                raise unknown_name(StoreError(f"no table {name!r} in {self.path}; there are: {known}"))
            self._tables[name] = Table(path)
        return self._tables[name]

    def ensure_table(self, name: str, schema: pa.Schema, spec: Mapping[str, Any]) -> Table:
        """Open a table by its name below ``tables/``, made with `schema` and `spec` if it is not there."""
        if name in self._tables:
            return self._tables[name]
        path = self._folder(name)
        if not Table.exists(path):
            try:
                Table.create(path, schema, spec)
            except StoreError:
                if not Table.exists(path):  # else another writer was quicker
                    raise
        return self.table(name)

    def feature_names(self) -> list[str]:
        """Names of the features there are: ``<encoder>/<modality>/<output>``."""
        return [name.removeprefix("features/") for name in self.table_names() if name.startswith("features/")]

    def feature_table(self, name: str) -> Table:
        """Open a feature's table.

        Raises
        ------
        StoreError
            If there is none; the message lists the features there are.
        """
        if not Table.exists(self._folder(f"features/{name}")):
            known = ", ".join(self.feature_names())
            remedy = f"there are: {known}" if known else "there are none yet; make some with `icehouse embed`"
            raise unknown_name(StoreError(f"no feature {name!r} in {self.path}; {remedy}"))
        table = self.table(f"features/{name}")
        snapshot = table.snapshot()
        check_spec(snapshot.spec, f"the feature {name} of {self.path}")
        if snapshot.spec["key"] not in snapshot.schema.names:
            raise CorruptError(
                f"the feature {name} of {self.path} lacks the column {snapshot.spec['key']!r}, its key"
            )
        return table

    def ensure_feature_table(self, name: str, spec: Mapping[str, Any], schema: pa.Schema) -> Table:
        """Open a feature's table for writing, made with `spec` and `schema` if it is not there.

        Raises
        ------
        SpaceError
            If the table holds vectors of another fingerprint; both are named.
        StoreError
            If it holds another dtype or width.
        """
        table = self.ensure_table(f"features/{name}", schema, spec)
        have = table.spec
        check_space(f"the feature {name}", have, spec)
        if have.get("dtype") != spec.get("dtype"):
            raise StoreError(
                f"the feature {name} is kept in {have.get('dtype')}, but {spec.get('dtype')} was asked for: "
                f"ask for {have.get('dtype')}, or use another store"
            )
        if have.get("dim") != spec.get("dim"):
            raise SpaceError(f"the feature {name} has {have.get('dim')} dimensions, not {spec.get('dim')}")
        return table

    def vectors(self, name: str) -> Vectors:
        """Load all vectors of a feature with their content keys, from the memory-mapped copy where there is one.

        Raises
        ------
        StoreError
            If there is no such feature, or it holds tokens.
        """
        return self.vector_blocks(name).whole

    def vector_blocks(self, name: str) -> VectorBlocks:
        """As `vectors`, for who needs few of them: where few came after a copy was made, none is made anew for these."""
        table = self.feature_table(name)
        if "vector" not in table.snapshot().schema.names:
            raise StoreError(f"the feature {name} holds tokens, not one vector a content; use tokens()")
        return table.reading(lambda snapshot: self._load(name, snapshot))

    def tokens(self, name: str) -> TokenStates:
        """Load all token states of a feature with their content keys, from the memory-mapped copy where there is one.

        Raises
        ------
        StoreError
            If there is no such feature, or it holds one vector a content.
        """
        table = self.feature_table(name)
        if "tokens" not in table.snapshot().schema.names:
            raise StoreError(f"the feature {name} holds one vector a content, not tokens; use vectors()")
        cache = self.path / "cache" / "features" / name
        return table.reading(lambda snapshot: load_tokens(snapshot, snapshot.spec["key"], cache))

    def features(
        self,
        name: str,
        *,
        split: str | Sequence[str] | None = None,
        label: str | None = None,
        where: str | None = None,
        split_column: str = "split",
    ) -> Features:
        """Get a feature of the items, as an array.

        Parameters
        ----------
        name : str
            ``<encoder>/<modality>/<output>``, as `feature_names` lists them.
        split : str or sequence of str, optional
            Only items of these splits.
        label : str, optional
            Column of `items` to return as `y`; items without a value there are left out.
        where : str, optional
            SQL condition over the columns of `items`, such as ``"width >= 64"``. Items marked ``missing`` are left
            out unless it names that column.
        split_column : str, default "split"
            Column that tells the splits.

        Returns
        -------
        Features
            Rows follow the order of `items`; items without this feature are left out.

        Raises
        ------
        StoreError
            If there is no such feature.
        UsageError
            If there is no such column or split, or `where` is not a condition; the message lists what there is.
        """
        table = self.feature_table(name)
        spec = table.spec
        key = spec["key"]
        asked = [
            column for column in (label, split_column if split is not None else None) if column is not None
        ]
        schema = self.items.snapshot().schema
        for column in asked:
            if column not in schema.names:
                raise UsageError(_no_column(column, schema))
            check_single(schema, column)
        items, left_out = self.present_items([key, *asked], where)
        if split is not None:
            items = items.filter(
                _in_splits(items[split_column], [split] if isinstance(split, str) else split)
            )
        if label is not None:
            items = items.filter(pc.is_valid(items[label]))
        if "tokens" in table.snapshot().schema.names:
            tokens = self.tokens(name)
            found, rows = _align(items[key], tokens.keys)
            X, mask = pad_tokens(tokens.states, tokens.starts[rows], tokens.lengths[rows])
        else:
            vectors = self.vectors(name)
            found, rows = _align(items[key], vectors.keys)
            X, mask = take_float32(vectors.X, rows), None
        items = items.filter(pa.array(found))
        return Features(
            ids=np.array(items["item_id"].to_pylist(), dtype=object),
            X=X,
            y=None if label is None else np.array(items[label].cast(pa.string()).to_pylist(), dtype=str),
            name=name,
            spec=spec,
            mask=mask,
            left_out=left_out,
        )

    def present_items(self, columns: Sequence[str], where: str | None = None) -> tuple[pa.Table, int]:
        """Get items that meet a condition and are not marked ``missing``, and how many were left out for being so.

        Vanished items are left out of whatever is made of a store, unless the condition names the column ``missing`` and
        so decides by itself.
        """
        items = self.items.read(list(dict.fromkeys(["item_id", *columns, "missing"])))
        left_out, told = 0, False
        if where is not None:
            from .sql import names_missing, select_items

            items = items.filter(pc.is_in(items["item_id"], value_set=select_items(self, where)))
            told = names_missing(where)
        if not told:
            marked = pc.fill_null(items["missing"], False)
            left_out = int(pc.sum(marked).as_py() or 0)
            items = items.filter(pc.invert(marked)) if left_out else items
        return (items if "missing" in columns else items.drop_columns("missing")), left_out

    def query(self, sql: str) -> pa.Table:
        """Run SQL over views of all tables; see `icehouse.store.sql`.

        Raises
        ------
        UsageError
            If DuckDB refuses the SQL.
        """
        from .sql import query

        return query(self, sql)

    def _load(self, name: str, snapshot: Snapshot) -> VectorBlocks:
        return load_blocks(snapshot, snapshot.spec["key"], self.path / "cache" / "features" / name)

    def _folder(self, name: str) -> Path:
        return self.path / "tables" / checked_name(name)


def _align(wanted: pa.ChunkedArray, keys: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Membership of `wanted` in `keys` (bool), and the rows of those found."""
    index = pc.index_in(wanted, value_set=keys, skip_nulls=True)
    return pc.is_valid(index).to_numpy(), index.drop_null().to_numpy()


def _in_splits(column: pa.ChunkedArray, splits: Sequence[str]) -> pa.ChunkedArray:
    counts = Counter(value for value in column.cast(pa.string()).to_pylist() if value is not None)
    for split in splits:
        if split not in counts:
            known = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()))
            raise UsageError(
                f"no item is in split {split!r}; there are: {known or 'no splits yet (`icehouse join`)'}"
            )
    return pc.is_in(column.cast(pa.string()), value_set=pa.array(list(splits), pa.string()))


def _no_column(column: str, schema: pa.Schema) -> str:
    labels = ", ".join(label_columns(schema))
    remedy = f"there are: {labels}" if labels else "there are none yet; add some with `icehouse join`"
    return f"no label column {column!r} in items; {remedy}"
