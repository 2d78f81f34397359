"""CLI: dups apply, act."""

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
from ..errors import UsageError, count_of
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
    from .pair_graph import Duplicates

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
            f"{count_of(counts['applied'], 'judgement counts', 'judgements count')}: {counts['duplicate']} "
            f"duplicate, {counts['different']} different, "
            f"{counts['keep']} to keep; {counts['not_here']} of contents that are not here"
        )
    else:
        echo("no judgements count: the results are as they were found")
    rows = [[key, told["before"][key], told["after"][key]] for key in told["before"]]
    print_table(["", "before", "now"], rows)
    echo(f"\n{done.search.path}: pairs.parquet, clusters.parquet, keep.csv, drop.csv, summary.json")
    if pages:
        echo(pages)


def act(
    move_to: Annotated[
        Path | None,
        typer.Option(
            "--move-to", metavar="DIR", help="Move the files to DIR, with their paths.", show_default=False
        ),
    ] = None,
    hardlink: Annotated[
        bool, typer.Option("--hardlink", help="Replace byte-identical copies by hard links to their keepers.")
    ] = False,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            metavar="FILE",
            help="Write a shell script that removes the files, or with --move-to moves them; it checks each before.",
            show_default=False,
        ),
    ] = None,
    undo: Annotated[
        Path | None,
        typer.Option("--undo", metavar="LOG", help="Undo what a log tells.", show_default=False),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without it only what would be done is told.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option("--log", help="Log to write.", show_default="STORE/acts/WHEN-MODE.jsonl")
    ] = None,
    drop: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="A part of drop.csv in its place.", show_default=False),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the files of drop.csv, or hard-link exact copies, with a log that undoes it; or write a script. Dry run first."""
    from .act import Mode, carry_out, plan_actions, undo_actions, write_script
    from .pair_graph import Duplicates

    if undo is not None:
        if move_to or hardlink or script or log or drop:
            raise UsageError("--undo takes a log and --yes, nothing else")
        with progress_bar("undoing") as progress:
            outcome = undo_actions(undo, dry_run=not yes, progress=progress)
        _outcome(outcome.done, outcome.skipped, undo, "undone" if yes else "would be undone", yes, as_json)
        return
    if hardlink + (move_to is not None or script is not None) != 1:
        raise UsageError(
            "say what to do: --move-to DIR, --hardlink, --script FILE (perhaps with --move-to), or --undo LOG"
        )
    if log is not None and script is not None:
        raise UsageError("a script has no log; --log goes with --move-to and --hardlink")
    search = Duplicates.open(store, name)
    mode: Mode = "hardlink" if hardlink else "script" if script is not None else "move"
    with progress_bar("comparing") as progress:
        plan = plan_actions(store, mode, search.name, move_to=move_to, drop=drop, progress=progress)
    say_which(store, search, name)
    if script is not None:
        path = write_script(plan, script)
        what = f"in {path}; `sh {path}` tells what it would do, `sh {path} --yes` does it"
        _outcome([step.item_id for step in plan.steps], plan.skipped, path, what, True, as_json)
        return
    if not yes:
        verb = "be moved" if mode == "move" else "become hard links"
        words = f"would {verb} ({plan.bytes / 1e6:,.1f} MB)"
        _outcome([step.item_id for step in plan.steps], plan.skipped, None, words, False, as_json)
        return
    with progress_bar("moving" if mode == "move" else "linking") as progress:
        outcome = carry_out(plan, log, progress=progress)
    words = "moved" if mode == "move" else "replaced by hard links"
    _outcome(outcome.done, [*plan.skipped, *outcome.skipped], outcome.log, words, True, as_json)
    if outcome.done and not as_json:
        say(
            f"undo: icehouse dups act --undo {outcome.log} --yes; `icehouse embed` tells the store where files went"
        )


def _outcome(
    done: list[str], skipped: list[tuple[str, str]], path: Path | None, words: str, acted: bool, as_json: bool
) -> None:
    from .act import reasons

    if as_json:
        told = {
            "done" if acted else "planned": done,
            "skipped": [{"item_id": i, "reason": r} for i, r in skipped],
        }
        print_json({**told, "path": path})
        return
    echo(f"{count_of(len(done), 'file')} {words}")
    for reason, count, first in reasons(skipped):
        say(f"left alone: {count:,} ({first}{', …' if count > 1 else ''}): {reason}")
    if path is not None and acted:
        echo(path)
    if not acted and done:
        say("nothing was done; --yes does it")
