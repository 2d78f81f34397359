"""Store maintenance: info, verify, compact, removal of items, and repair of manifests.

`icehouse verify --repair` makes a manifest anew from the parts of its table. Every part says what its table is, which
parts it replaced and where its rows stand (`icehouse.store.schema.lineage`). So of all parts in the folder those are live
that no other one replaced. Nothing is deleted: a damaged manifest and parts that cannot be used are set aside under
another name.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.rows import listed
from ..errors import CorruptError, StoreError, UsageError, brief, count_of
from .files import (
    STORE_FILE,
    changed_files,
    check_stamp,
    file_sha256,
    fsync_dir,
    hold,
    leftovers,
    leftovers_below,
    publish,
    sweep_tree,
    unseal,
)
from .schema import (
    MANIFEST,
    PART_NAME,
    Part,
    Snapshot,
    check_part,
    footer_sha256,
    label_columns,
    lineage,
    read_part,
    write_part,
)
from .sql import select_items
from .store import FORMAT_VERSION, LEDGERS, Store
from .table import Table, emptied_parts, later_parts, older_than, part_files, sweep

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
