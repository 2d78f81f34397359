"""CLI: dups apply, act."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    echo,
    print_json,
    print_table,
    progress_bar,
    say,
)
from .options import SearchOption, say_which


def apply(
    judged: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="judged.csv of a gallery, or a table with a, b, label (1 or 0) and perhaps keep; without one, what the "
            "store has is applied again.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let the judgements of FILE, or the latest, no longer count.")
    ] = False,
    by: Annotated[
        str | None, typer.Option("--by", help="Who judged.", show_default="the user's name")
    ] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Also write the pages of `icehouse dups gallery` anew.")
    ] = False,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Apply judgements to found duplicates: groups, keepers, keep.csv and drop.csv are written anew. Deletes nothing."""
    from .apply import apply_judgements
    from .find import Duplicates

    search = Duplicates.open(store, name)
    done = apply_judgements(store, judged, search.name, by=by, undo=undo)
    say_which(store, search, name)
    for problem in done.problems:
        say(f"note: {problem}")
    if undo and done.record is not None:
        record = done.record
        say(f"undone: the judgements of {record['file']}, applied {record['at']} by {record['by']}")
    pages = None
    if gallery:
        from .gallery import write_gallery

        with progress_bar("pictures") as progress:
            pages = write_gallery(store, search.name, progress=progress).path.resolve()
    elif (done.search.path / "gallery").is_dir():
        say("note: the gallery's pages show the groups as they were; --gallery writes them anew")
    told = done.as_dict()
    if as_json:
        print_json({**told, **({"gallery": pages} if pages else {})})
        return
    if done.search.summary.get("judged"):
        counts = done.search.summary["judged"]
        echo(
            f"{counts['applied']} judgements count: {counts['duplicate']} duplicate, {counts['different']} different, "
            f"{counts['keep']} to keep; {counts['not_here']} of contents that are not here"
        )
    else:
        echo("no judgements count: the results are as they were found")
    rows = [[key, told["before"][key], told["after"][key]] for key in told["before"]]
    print_table(["", "before", "now"], rows)
    echo(f"\n{done.search.path}: pairs.parquet, clusters.parquet, keep.csv, drop.csv, summary.json")
    if pages:
        echo(pages)
