"""Store maintenance: info, verify, compact, and removal of items."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.rows import listed
from ..errors import CorruptError, StoreError, UsageError, count_of
from .files import (
    changed_files,
    check_stamp,
    file_sha256,
    leftovers,
    leftovers_below,
    sweep_tree,
    unseal,
)
from .schema import MANIFEST, Part, Snapshot, label_columns, read_part, write_part
from .sql import select_items
from .table import Table, later_parts, older_than, part_files, sweep

if TYPE_CHECKING:
    from .store import Store

#: Size, in bytes, from which a part is left alone by `compact`.
PART_BYTES = 128 << 20

#: What is not of a table: runs, heads, indexes, caches, lists of duplicates.
ELSEWHERE = "(outside of tables)"

_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that `verify` found."""

    table: str
    kind: str
    detail: str
    problem: bool = True


@dataclass
class Report:
    """Result of `verify`."""

    tables: int = 0
    parts: int = 0
    files: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing harmful was found."""
        return not any(finding.problem for finding in self.findings)

    def add(self, table: str, kind: str, detail: str, problem: bool = True) -> None:
        """Note a finding."""
        self.findings.append(Finding(table, kind, detail, problem))


@dataclass(frozen=True)
class Coverage:
    """Coverage of the items by a feature."""

    feature: str
    missing: list[str]
    unused: int


@dataclass(frozen=True)
class Compaction:
    """Result of `compact` for one table."""

    table: str
    before: int
    after: int
    swept: int


def verify(store: Store, progress: Callable[[Part], None] | None = None) -> Report:
    """Read every part of every table and compare it with what the manifests say."""
    report = Report()
    for path in leftovers_below(store.path):
        if store.path / "tables" not in path.parents:
            detail = f"{path.relative_to(store.path)} is of a writer that died; `icehouse compact` removes it"
            report.add(ELSEWHERE, "leftover", detail, False)
    sound: set[str] = set()
    unreadable: list[str] = []
    names = store.table_names(unreadable)
    for line in unreadable:
        report.add(_place(store, line), "unreadable", line)
    for name in names:
        before = len(report.findings)
        _verify_table(store.table(name), name, report, progress or (lambda part: None))
        if not any(finding.problem for finding in report.findings[before:]):
            sound.add(name)
    _verify_files(store, report)
    # Damaged parts were reported; asking what is missing in them would only repeat it.
    if {"items", "failures"} <= sound:
        for cover in coverage(store, [n for n in store.feature_names() if f"features/{n}" in sound]):
            table = f"features/{cover.feature}"
            if cover.missing:
                detail = (
                    f"{count_of(len(cover.missing), 'item lacks', 'items lack')} it: "
                    f"{listed(cover.missing, _SHOWN)}; `icehouse embed` makes it"
                )
                report.add(table, "missing features", detail)
            if cover.unused:
                detail = f"{count_of(cover.unused, 'row belongs', 'rows belong')} to no item"
                report.add(table, "unused features", detail, False)
    return report


def coverage(
    store: Store, features: list[str] | None = None, damaged: dict[str, str] | None = None
) -> list[Coverage]:
    """Compare features with the contents of the items, for all features or those named.

    A feature that cannot be read is an error, or goes to `damaged` with the reason.
    """
    columns = ["item_id", "missing", "image_sha256", "text_sha256"]
    items = store.items.read(columns)
    failures = store.failures.read(["item_id", "stage", "encoder"])
    present = pc.invert(pc.fill_null(items["missing"], False))
    found = []
    for name in store.feature_names() if features is None else features:
        table = store.feature_table(name)
        spec = table.spec
        if str(spec.get("modality", "")).startswith(
            "caption"
        ):  # whether a picture has one is for captions to tell
            found.append(Coverage(name, [], 0))
            continue
        try:
            keys = table.read([spec["key"]])[spec["key"]]
        except StoreError as error:
            if damaged is None:
                raise
            damaged[f"features/{name}"] = str(error)
            continue
        wanted = items[spec["key"]]
        lacking = pc.and_(pc.is_valid(wanted), pc.invert(pc.is_in(wanted, value_set=keys)))
        excused = pc.is_in(items["item_id"], value_set=_failed(failures, spec))
        absent = items.filter(pc.and_(pc.and_(lacking, present), pc.invert(excused)))
        unused = pc.sum(pc.invert(pc.is_in(keys, value_set=wanted.unique()))).as_py() or 0
        found.append(Coverage(name, absent["item_id"].to_pylist(), unused))
    return found


def compact(store: Store, part_bytes: int = PART_BYTES) -> list[Compaction]:
    """Merge neighbouring small parts of every table into parts of about `part_bytes`, and sweep leftovers.

    Rows and their order stay. The merged parts remain on disk for `icehouse.store.table.GRACE_S`, for those who are reading
    them; the next write after that removes them. A damaged table is left as it is, and told once the others are done.
    """
    done: list[Compaction] = []
    refused: list[CorruptError] = []
    for name in store.table_names():
        try:
            done.append(_compact_table(store.table(name), name, part_bytes))
        except CorruptError as error:  # no other table has to wait for it
            refused.append(error)
    swept = sweep_tree(store.path)
    if refused:
        raise refused[0]
    return [*done, Compaction(ELSEWHERE, 0, 0, swept)] if swept else done


def _compact_table(table: Table, name: str, part_bytes: int) -> Compaction:
    swept = sweep(table)
    snapshot = table.snapshot()
    for group in _groups(snapshot.parts, part_bytes):
        rows = pa.concat_tables([read_part(table.path / part.name, snapshot.schema, part) for part in group])
        names = [part.name for part in group]
        # Written without the lock: only putting it in their place excludes other writers.
        table.replace_parts(names, write_part(rows, table.path, snapshot.spec, replaces=names))
    return Compaction(name, len(snapshot.parts), len(table.snapshot().parts), swept)


def _groups(parts: tuple[Part, ...], part_bytes: int) -> list[list[Part]]:
    """Runs of two or more neighbours to be merged, each about `part_bytes` together."""
    groups: list[list[Part]] = [[]]
    size = 0
    for part in parts:
        if size + part.bytes > part_bytes:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.bytes
    return [group for group in groups if len(group) > 1]


def _verify_table(table: Table, name: str, report: Report, progress: Callable[[Part], None]) -> None:
    found = partial(report.add, name)
    report.tables += 1
    if not Table.exists(table.path):
        found(
            "lost table",
            "every store has this table, and it is gone: a backup may have it; `--repair` makes an empty one",
        )
        return
    try:
        snapshot = table.snapshot()
    except StoreError as error:
        lost = not os.path.lexists(table.path / MANIFEST)
        found("lost manifest" if lost else "manifest", str(error))
        return
    readable = True
    for part in snapshot.parts:
        readable &= _verify_part(table.path / part.name, part, snapshot, found)
        report.parts += 1
        report.bytes += part.bytes
        progress(part)
    key = snapshot.spec.get("key")
    if key is not None and readable:
        keys = table.read([key])[key]
        counts = pc.value_counts(keys)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        if repeated:
            found(
                "duplicates",
                f"{count_of(len(repeated), f'value of {key} occurs', f'values of {key} occur')} more than "
                f"once: {listed([str(value) for value in repeated], _SHOWN)}",
            )
    later = later_parts(snapshot)
    if later and later_parts(table.snapshot()):
        found("manifest", older_than(table.path, later))
    for path in part_files(table.path):
        # A part that a writer committed after the manifest was read is named by now.
        known = {*snapshot.named, *later}
        if path.name not in known and path.name not in table.snapshot().named:
            found("orphan", f"{path.name} is in no manifest; `icehouse compact` removes it", False)
    for path in sorted(table.path.glob("set-aside-*")):
        found("set aside", f"{path.name} was left out by a repair; remove it when you have seen to it", False)
    for path in leftovers(table.path):
        found("leftover", f"{path.name} is of a writer that died; `icehouse compact` removes it", False)


def _verify_part(path: Path, part: Part, snapshot: Snapshot, found: Callable[[str, str], None]) -> bool:
    """Report what is wrong with one part; tell whether it can be read."""
    try:
        digest = file_sha256(path)
    except FileNotFoundError:
        found(
            "missing part",
            f"{part.name} is gone; restore it from a backup, or go on without its rows: `icehouse verify --repair`",
        )
        return False
    except OSError as error:
        found("unreadable", f"{part.name}: {error.strerror or error}")
        return False
    if digest != part.sha256:
        found("checksum", f"{part.name} is not what was written; restore it from a backup")
    try:
        meta = pq.read_metadata(path)
        schema = meta.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        found("unreadable", f"{part.name}: {(str(error) or type(error).__name__).splitlines()[0]}")
        return False
    if meta.num_rows != part.rows:
        found("rows", f"{part.name} has {count_of(meta.num_rows, 'row')}, the manifest says {part.rows}")
    for column in schema:
        if column.name not in snapshot.schema.names:
            found("schema", f"{part.name} has a column {column.name!r}, the manifest does not")
        elif column.type != (expected := snapshot.schema.field(column.name).type):
            found(
                "schema",
                f"{part.name}: column {column.name!r} is {column.type}, the manifest says {expected}",
            )
    return digest == part.sha256 and meta.num_rows == part.rows


# What makes a folder one that an icehouse with checksums lists, and what to do about a damaged one.
_WHOLE = {
    "run.json": "restore the run from a backup, or remove its folder and train it again",
    "head.json": "restore it from a backup, or train it again",
    "summary.json": "run `icehouse dups find` again",
    "calibration.json": "run `icehouse dups calibrate` again",
    "metrics.json": "run `icehouse evaluate` again",
}


# What a list names, if there is one.
_LISTED = {
    *_WHOLE, "predictions.parquet", "training.parquet", "head.safetensors", "model.txt", "parameters.json",
    "pairs.parquet", "items.parquet", "clusters.parquet", "mean.npy", "matrix.npy",
}  # fmt: skip


def _verify_files(store: Store, report: Report) -> None:
    """Compare everything beside the tables with its checksums."""
    for root in ("runs", "sweeps", "looks", "dups", "judgements", "calibrations", "indexes", "cache"):

        def refused(error: OSError, root: str = root) -> None:
            if not isinstance(error, FileNotFoundError):
                report.add(root, "unreadable", f"{error.filename} cannot be read: {error.strerror}")

        for name, folders, files in os.walk(store.path / root, onerror=refused):
            folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
            _verify_folder(Path(name), set(files), Path(name).relative_to(store.path).as_posix(), report)


def _verify_folder(folder: Path, files: set[str], place: str, report: Report) -> None:
    found = partial(report.add, place)
    report.files += len(files)
    report.bytes += sum(path.stat().st_size for name in files if (path := folder / name).is_file())
    remedy = next((remedy for name, remedy in _WHOLE.items() if name in files), "restore it from a backup")
    listed, changed = changed_files(folder, files & _LISTED)
    for line in changed:
        found("checksum", f"{line}; {remedy}")
    if not listed and files & set(_WHOLE) and not place.endswith("/gallery"):
        found("no checksums", f"{place} has no SHA256SUMS, so its files cannot be compared", False)
    root = place.split("/")[0]
    for name in sorted(files):
        # Runs and searches list theirs; these hold their checksum themselves.
        if name.endswith(".json") and (
            root in ("sweeps", "looks", "judgements", "indexes", "cache") or name == "ablation.json"
        ):
            _verify_json(folder / name, found, disposable=root not in ("sweeps", "looks", "judgements"))


def _verify_json(path: Path, found: Callable[[str, str, bool], None], *, disposable: bool) -> None:
    """Compare a JSON file with its own checksum, and the large files that it has the checksums of."""
    again = (
        "it is made anew when it is next needed" if disposable else "restore it from a backup, or remove it"
    )
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or ("sha256" not in content and not path.name.startswith("index")):
            found("no checksums", f"{path.name} has no checksum", False)
        content = unseal(content, path.name)
        stamps = content.get("files", {}) if path.name == "index.json" else {}
        if path.name.endswith(".sums.json"):
            stamps = {name: {**known, "name": name} for name, known in content.items()}
        for known in stamps.values():
            check_stamp(path.parent / Path(str(known["name"])).name, known, always=True)
    except (CorruptError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = str(error) if isinstance(error, CorruptError) else f"{path} is damaged ({error})"
        found("checksum", f"{told}; {again}", not disposable)


def _place(store: Store, line: str) -> str:
    """Short name of a folder or file of the store, for a line about it."""
    path = Path(line.split(" ")[0])
    return path.relative_to(store.path).as_posix() if path.is_relative_to(store.path) else "store"


def _failed(failures: pa.Table, spec: dict[str, str]) -> pa.ChunkedArray:
    """Items whose failures explain that they lack a feature with this spec."""
    ours = pa.array([spec.get("name"), spec.get("encoder")], pa.string())
    explains = pc.and_(pc.equal(failures["stage"], "encode"), pc.is_in(failures["encoder"], value_set=ours))
    if spec.get("modality") == "image":
        unreadable = pc.is_in(failures["stage"], value_set=pa.array(["read", "decode"]))
        explains = pc.or_kleene(explains, unreadable)
    return failures.filter(pc.fill_null(explains, False))["item_id"]


#: Values of a label column that are counted one by one; a column of more is metadata.
SHOWN_VALUES = 20


def describe(store: Store) -> dict[str, Any]:
    """Count items, labels, features, failures and bytes."""
    schema = store.items.snapshot().schema
    labels = label_columns(schema)
    items = store.items.read(["image_sha256", "text_sha256", "missing", "split", *labels])
    snapshots, damaged = _snapshots(store)
    named = [name.removeprefix("features/") for name in snapshots if name.startswith("features/")]
    covered = {cover.feature: cover for cover in coverage(store, named, damaged)}
    features = []
    for name in named:
        snapshot = snapshots[f"features/{name}"]
        spec = snapshot.spec
        features.append(
            {
                "name": name,
                "rows": snapshot.rows,
                "dim": spec.get("dim"),
                "dtype": spec.get("dtype"),
                "encoder": spec.get("encoder"),
                "fingerprint": spec.get("fingerprint"),
                "bytes": snapshot.bytes,
                "parts": len(snapshot.parts),
                "missing": len(covered[name].missing) if name in covered else 0,
                "unused": covered[name].unused if name in covered else 0,
            }
        )
    failures = (
        store.failures.read(["error"])
        if "failures" in snapshots
        else pa.table({"error": pa.array([], pa.string())})
    )
    return {
        "path": str(store.path),
        **{key: store.about.get(key) for key in ("format_version", "created_at", "created_by")},
        "items": {
            "total": items.num_rows,
            "image": items.num_rows - items["image_sha256"].null_count,
            "text": items.num_rows - items["text_sha256"].null_count,
            "missing": pc.sum(items["missing"]).as_py() or 0,
        },
        "splits": dict(sorted(_counts(items["split"]).items())),
        "labels": {name: _label(items[name]) for name in labels},
        "features": features,
        "tables": {
            name: snapshot.rows for name, snapshot in snapshots.items() if not name.startswith("features/")
        },
        "damaged": damaged,
        "failures": {"total": failures.num_rows, "by_error": dict(_counts(failures["error"]).most_common())},
        "bytes": {entry.name: _size(entry) for entry in sorted(store.path.iterdir()) if entry.is_dir()},
    }


def _snapshots(store: Store) -> tuple[dict[str, Snapshot], dict[str, str]]:
    """Tables as they are now, and why others cannot be read."""
    snapshots, damaged = {}, {}
    for name in store.table_names():
        try:
            snapshots[name] = store.table(name).snapshot()
        except StoreError as error:
            damaged[name] = str(error)
    return snapshots, damaged


def _label(column: pa.ChunkedArray) -> dict[str, Any]:
    counts = _counts(pc.list_flatten(column) if pa.types.is_list(column.type) else column)
    return {
        "distinct": len(counts),
        "none": column.null_count,
        "counts": dict(counts.most_common(SHOWN_VALUES)),
    }


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    return Counter(
        {str(row["values"]): row["counts"] for row in pc.value_counts(column.drop_null()).to_pylist()}
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a writer is at work
            continue
    return total


def items_to_remove(store: Store, where: str | None = None, *, missing: bool = False) -> list[str]:
    """Ids of the items that `remove_items` would remove, ascending."""
    if where is None and not missing:
        raise UsageError("say which items to remove: --where SQL, --missing, or both")
    items = store.items.read(["item_id", "missing"])
    if missing:
        items = items.filter(pc.fill_null(items["missing"], False))
    if where is not None:
        items = items.filter(pc.is_in(items["item_id"], value_set=select_items(store, where)))
    return sorted(items["item_id"].to_pylist())


def remove_items(
    store: Store, where: str | None = None, *, missing: bool = False, among: Collection[str] | None = None
) -> list[str]:
    """Remove items, and what the ledger says of them, and return their ids; their features and captions stay.

    `where` and `missing` are those of `items_to_remove`; `among` are ids that were agreed to: what has come to meet the
    condition since is left alone.
    """
    with store.items.lock():
        ids = items_to_remove(store, where, missing=missing)
        if among is not None:
            agreed = set(among)
            ids = [item for item in ids if item in agreed]
        if ids:
            store.items.delete("item_id", ids)
    if ids:
        store.failures.delete("item_id", ids)
    return ids
