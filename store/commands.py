"""CLI: info, sql, join, export, remove, compact, verify; index build, index info."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    NaValuesOption,
    Screen,
    StoreOption,
    echo,
    print_json,
    print_table,
    say,
)
from ..errors import UsageError, count_of, one_or_many

app = typer.Typer()

_PANEL = "Store"

#: Ids that `icehouse remove` names.
_NAMED = 10


@app.command(rich_help_panel=_PANEL)
def info(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Show what a store holds: items, labels, features, failures, disk use."""
    from .maintain import describe
    from .store import Store

    about = describe(Store.open(store))
    if as_json:
        print_json(about)
        return
    items = about["items"]
    echo(
        f"{about['path']}: format {about['format_version']}, made {about['created_at']} by {about['created_by']}"
    )
    print_table(
        ["items", "with image", "with text", "missing"],
        [[items["total"], items["image"], items["text"], items["missing"]]],
    )
    if about["splits"]:
        print_table(["split", "items"], about["splits"].items(), title="\nSplits")
    if about["labels"]:
        rows = [[name, label["distinct"], _top(label["counts"])] for name, label in about["labels"].items()]
        print_table(["column", "values", "most frequent"], rows, title="\nLabels and metadata")
    if about["features"]:
        keys = ["name", "rows", "dim", "dtype", "encoder", "fingerprint", "missing", "unused"]
        rows = [[*(feature[key] for key in keys), _size(feature["bytes"])] for feature in about["features"]]
        print_table([*keys, "size"], rows, title="\nFeatures")
    if about["failures"]["total"]:
        print_table(["error", "failures"], about["failures"]["by_error"].items(), title="\nFailures")
    for name, reason in about["damaged"].items():
        say(f"{name} cannot be read: {reason}")
    print_table(["folder", "size"], [[k, _size(v)] for k, v in about["bytes"].items()], title="\nDisk")


@app.command(rich_help_panel=_PANEL)
def sql(
    query: Annotated[str, typer.Argument(help="SQL, or - to read it from stdin.", show_default=False)],
    store: StoreOption = DEFAULT_STORE,
    format: Annotated[
        Literal["table", "csv", "json", "parquet"] | None,
        typer.Option("--format", "-f", help="Default: table, or what FILE's suffix says."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the result to FILE.")
    ] = None,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Ask the store in SQL (DuckDB): a view for every table, features as "mini/image/pooled" or mini_image_pooled."""
    from . import sql as results
    from .store import Store

    kind = "json" if as_json else format
    if kind == "parquet" and out is None:
        raise UsageError("Parquet needs a file: add -o FILE")
    if kind == "table" and out is not None:
        raise UsageError(f"a table is for the screen; for {out} use --format csv, json or parquet")
    rows = Store.open(store).query(sys.stdin.read() if query == "-" else query)
    if out is not None:
        results.save(rows, out, kind)
        say(f"{count_of(rows.num_rows, 'row')} in {out}")
    elif kind == "json":
        print_json(results.json_values(rows))
    elif kind == "csv":
        results.print_csv(rows, Screen() if sys.stdout.isatty() else sys.stdout)
    elif rows.num_columns:
        print_table(rows.column_names, results.screen_rows(rows))


@app.command(rich_help_panel=_PANEL)
def join(
    file: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSONL or Parquet with labels or splits.", show_default=False)
    ],
    store: StoreOption = DEFAULT_STORE,
    on: Annotated[
        str,
        typer.Option(metavar="KEY[=COLUMN]", help="Match item_id, path or a sha256 with the file's COLUMN."),
    ] = "item_id",
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns to bring.", show_default="all but the key")
    ] = None,
    quotes: Annotated[
        Literal["auto", "csv", "literal"],
        typer.Option(help="Whether quotes in a CSV or TSV enclose fields or are meant."),
    ] = "auto",
    na_values: NaValuesOption = None,
    encoding: Annotated[str | None, typer.Option(help="Character encoding of CSV, TSV and JSONL.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring labels or splits from a file to the items."""
    from .annotate import join as join_file
    from .store import Store

    key, _, column = on.partition("=")
    report = join_file(
        Store.open(store),
        file,
        on=key,
        file_key=column or None,
        columns=_names(columns),
        quotes=quotes,
        na_values=None if na_values is None else na_values.split(","),
        encoding=encoding,
    )
    if as_json:
        print_json(vars(report))
        return
    for note in report.notes:
        say(note)
    echo(
        f"{', '.join(report.columns) or 'nothing'}: {count_of(report.matched, 'item')} matched, {report.changed} changed"
    )
    if report.unmatched_rows:
        echo(
            f"{report.unmatched_rows} of {count_of(report.rows, 'row')} "
            f"{one_or_many(report.unmatched_rows, 'matches', 'match')} no item: {', '.join(report.first_unmatched_rows)}"
        )
    if report.unmatched_items:
        echo(
            f"{count_of(report.unmatched_items, 'item is', 'items are')} not in the file: "
            f"{', '.join(report.first_unmatched_items)}"
        )


@app.command(rich_help_panel=_PANEL)
def export(
    feature: Annotated[
        str, typer.Argument(help="ENCODER/MODALITY/OUTPUT, as info lists them.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File: .npy, .csv, .parquet or .safetensors.",
            show_default=False,
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    format: Annotated[
        Literal["npy", "csv", "parquet", "safetensors"] | None,
        typer.Option(help="Default: what FILE's suffix says."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Columns of items to write too, such as split and labels."),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only items of this split; repeatable.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Only items that meet this condition.")
    ] = None,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Write a feature of the items to a file: npy and ids, CSV, Parquet or safetensors."""
    from .sql import export as write
    from .store import Store

    notes: list[str] = []
    written = write(
        Store.open(store),
        feature,
        out,
        format=format,
        columns=_names(columns) or (),
        split=split or None,
        where=where,
        notes=notes,
    )
    for note in notes:
        say(f"note: {note}")
    if as_json:
        print_json({"files": written})
    else:
        for path in written:
            echo(f"wrote {path}")


@app.command(rich_help_panel=_PANEL)
def remove(
    store: StoreOption = DEFAULT_STORE,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="Items that meet this condition, such as \"label = 'spam'\"."),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Items whose file is gone or whose row has left its source.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which items would go, and remove none.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove items from a store, in one commit. No file is touched; a source that still names them brings them back."""
    from ..data.rows import listed
    from .maintain import items_to_remove, remove_items
    from .store import Store

    opened = Store.open(store)
    chosen = items_to_remove(opened, where, missing=missing)
    if chosen:
        say(f"{len(chosen)} of {count_of(opened.items.rows, 'item')}: {listed(chosen, _NAMED)}")
    if chosen and not dry_run and not yes:
        try:
            yes = typer.confirm("Remove them from the store?", err=True)
        except typer.Abort:  # nobody there to answer
            yes = False
        if not yes:
            say("nothing was removed; --yes removes without asking")
            raise typer.Exit(1)
    gone = [] if dry_run or not chosen else remove_items(opened, where, missing=missing, among=chosen)
    if as_json:
        print_json({"dry_run": dry_run, "items": chosen if dry_run else gone, "removed": len(gone)})
    elif dry_run or not chosen:
        echo("nothing was removed" if chosen else "no item to remove")
    else:
        echo(
            f"{count_of(len(gone), 'item')} removed; their features stay, as `icehouse info` counts them (unused)"
        )


@app.command(rich_help_panel=_PANEL)
def compact(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Merge small parts into large ones and sweep what crashed writers left."""
    from .maintain import compact as merge
    from .store import Store

    done = merge(Store.open(store))
    if as_json:
        print_json([vars(table) for table in done])
        return
    print_table(
        ["table", "parts before", "after", "leftovers removed"],
        [[table.table, table.before, table.after, table.swept] for table in done],
    )
    if any(table.after < table.before for table in done):
        say(
            "The merged parts stay for a quarter of an hour, for those reading them; a later write removes them."
        )


@app.command(rich_help_panel=_PANEL)
def verify(
    store: StoreOption = DEFAULT_STORE,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First make manifests anew that are lost or damaged, from the parts of their tables. Nothing is deleted.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every file against its checksum, and every item for missing features; exit 1 if something is wrong."""
    from .maintain import verify as check
    from .store import Store

    repairs = []
    if repair:
        from .maintain import repair as mend
        from .maintain import repair_store_file

        if (told := repair_store_file(store)) is not None:
            say(told)
        repairs = mend(Store.open(store))
    report = check(Store.open(store))
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "tables": report.tables,
                "parts": report.parts,
                "files": report.files,
                "bytes": report.bytes,
                "repaired": [vars(one) for one in repairs],
                "findings": [vars(finding) for finding in report.findings],
            }
        )
    else:
        for one in repairs:
            echo(
                f"repaired {one.table}: {one.problem}; now {count_of(one.parts, 'part')}, {count_of(one.rows, 'row')}"
            )
            for remark in one.remarks:
                echo(f"  {remark}")
        if report.findings:
            print_table(
                ["", "table", "finding", "detail"],
                [["problem" if f.problem else "note", f.table, f.kind, f.detail] for f in report.findings],
            )
        state = "sound" if report.ok else "NOT sound"
        echo(
            f"{count_of(report.tables, 'table')}, {count_of(report.parts, 'part')}, "
            f"{count_of(report.files, 'other file')}, {_size(report.bytes)}: {state}"
        )
    if not report.ok:
        raise typer.Exit(1)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for part in text.split(",") if (name := part.strip())]


def _top(counts: dict[str, Any]) -> str:
    shown = [f"{value[:30]} ({n})" for value, n in list(counts.items())[:6]]
    return ", ".join(shown) + (", …" if len(counts) > len(shown) else "")


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


index_app = typer.Typer(no_args_is_help=True)


@index_app.command()
def build(
    features: Annotated[
        list[str] | None,
        typer.Argument(help="Features to index; by default all joint ones.", show_default=False),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    kind: Annotated[
        Literal["flat", "ivf", "hnsw"] | None,
        typer.Option(help="Kind of index.", show_default="as before, else by size and recall"),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of the ten nearest to be found.", show_default="as before, else .95"
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for FAISS.", show_default="OMP_NUM_THREADS, else all")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build from nothing, not from new rows.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the vector index of a feature, or bring it up to date."""
    from .index_build import build_index, joint_features
    from .store import Store

    opened = Store.open(store)
    made = []
    for feature in features or joint_features(opened):
        built = build_index(
            opened,
            feature,
            kind=kind,
            recall=recall,
            threads=threads,
            rebuild=rebuild,
        )
        made.append(
            {
                **built.info.as_dict(),
                "missed": built.info.missed,
                "action": built.action,
                "reason": built.reason,
            }
        )
        say(
            f"{feature}: {built.action} ({built.reason}): {built.info.kind} of {count_of(built.info.vectors, 'vector')}"
        )
        if built.info.missed is not None:
            say(f"{feature}: {built.info.missed}; try another --kind, or search with --exact")
    if as_json:
        print_json(made)
    else:
        _show(made)


@index_app.command("info")
def index_info(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Show the indexes of a store: kind, size, recall, whether they are fresh."""
    from .index import list_indexes
    from .store import Store

    found = list_indexes(Store.open(store))
    if as_json:
        print_json(found)
        return
    _show([entry for entry in found if "kind" in entry])
    for entry in found:
        if entry.get("missed") is not None:
            say(f"{entry['feature']}: {entry['missed']}")
        if entry["state"] != "fresh":
            say(
                f"{entry['feature']}: {entry['state']}: {entry['reason']}; `icehouse index build {entry['feature']}`"
            )
    if not found:
        say("no indexes yet; `icehouse index build` makes one")


def _show(entries: list[dict[str, Any]]) -> None:
    columns = ["feature", "kind", "vectors", "effort", "recall@10 image", "recall@10 text", "MB", "state"]
    rows = [
        [
            entry["feature"],
            entry["kind"],
            entry["vectors"],
            entry["effort"],
            *((entry["recall"][asked] or {}).get("recall@10") for asked in ("image", "text")),
            round(sum(file["bytes"] for file in entry["files"].values()) / 1e6, 1),
            entry.get("state", "fresh"),
        ]
        for entry in entries
    ]
    if rows:
        print_table(columns, rows)
