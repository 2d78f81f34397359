"""CLI: dups gallery, conflicts, apply, act, stream: what is done with near-duplicates."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..console import (
    CLOSED,
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    echo,
    json_text,
    mute_stdout,
    print_json,
    print_table,
    progress_bar,
    say,
)
from ..errors import UsageError, count_of
from .commands import (
    DeviceOption,
    EmbeddingOption,
    FalsePairsOption,
    HammingOption,
    PerceptualOption,
    SearchOption,
    ThresholdOption,
    VariantsOption,
    say_which,
)
from .commands import app as app  # to be found here, with both files' commands

if TYPE_CHECKING:
    from .stream import DuplicateStream
    from .window import StreamResult


class MemberKind(StrEnum):
    """Kinds of members."""

    exact = "exact"
    perceptual = "perceptual"
    embedding = "embedding"
    variant = "variant"
    indirect = "indirect"
    judged = "judged"


@app.command()
def gallery(
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write.", show_default="STORE/dups/NAME/gallery"),
    ] = None,
    kind: Annotated[
        list[MemberKind] | None,
        typer.Option("--kind", help="Only members of this kind beside the keeper; may be repeated."),
    ] = None,
    min_cosine: Annotated[
        float | None, typer.Option("--min-cosine", help="Only members at least so like their keeper.")
    ] = None,
    max_cosine: Annotated[
        float | None, typer.Option("--max-cosine", help="Only members at most so like their keeper.")
    ] = None,
    chained: Annotated[bool, typer.Option("--chained", help="Only chained groups.")] = False,
    sort: Annotated[
        Literal["chained", "score", "size", "group"],
        typer.Option(
            "--sort", help="chained: these first, then the least alike; score: the least alike; size; group."
        ),
    ] = "chained",
    max_groups: Annotated[int, typer.Option("--max-groups", help="Most groups to show.")] = 1000,
    members: Annotated[int, typer.Option("--members", help="Most members of a group to show.")] = 48,
    per_page: Annotated[int, typer.Option("--per-page", help="Most groups on a page.")] = 24,
    thumbnail: Annotated[
        int, typer.Option("--thumbnail", help="Longest side of the pictures, pixels.")
    ] = 320,
    as_json: JsonOption = False,
) -> None:
    """Write found duplicates as pages to look at: groups side by side, keepers marked. They work offline."""
    from .gallery import Choice, write_gallery
    from .pair_graph import Duplicates

    choice = Choice(
        kinds=frozenset(k.value for k in kind) if kind else None,
        min_cosine=min_cosine,
        max_cosine=max_cosine,
        chained=chained,
        sort=sort,
        max_groups=max_groups,
        members=members,
    )
    found = Duplicates.open(store, name)
    with progress_bar("pictures") as progress:
        made = write_gallery(
            store, found.name, out=out, choice=choice, per_page=per_page, side=thumbnail, progress=progress
        )
    say_which(store, found, name)
    if as_json:
        print_json({"path": made.path.resolve(), **made.summary})
        return
    told = made.summary
    if told["groups_left_out"]:
        say(
            f"note: {count_of(told['groups_left_out'], 'group is', 'groups are')} left out; see --max-groups and the filters"
        )
    say(
        f"{count_of(told['groups'], 'group')}, {count_of(told['members'], 'item')}, "
        f"{count_of(told['pages'], 'page')}, {told['bytes'] / 1e6:.1f} MB"
    )
    echo(made.path.resolve())


@app.command()
def conflicts(
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Column of labels.", show_default="label")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write the list: .csv, .json or .parquet.", show_default=False
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help="Write a page (HTML) to look at.", show_default=False),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Most pairs on the screen and on the page.", min=1)
    ] = 200,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """List near-duplicates and byte copies with different labels. Variants, which say something else, come last."""
    from ..store.sql import save
    from ..store.store import Store
    from .evaluate import find_conflicts
    from .gallery import write_conflicts_page
    from .pair_graph import Duplicates

    made = find_conflicts(store, name, label=label)
    say_which(store, Duplicates.open(store, name), name)
    if made.found.summary["capped"]:
        say("note: the search stopped at its cap on pairs: what lies beyond is not here")
    if out is not None:
        save(made.pairs, out)
    if page is not None:
        with progress_bar("pictures") as progress:
            write_conflicts_page(page, Store.open(store), made, limit=limit, progress=progress)
    if as_json:
        print_json(made.as_dict())
        return
    columns = ["id_a", "id_b", "label_a", "label_b", "kind", "hamming", "cosine"]
    shown = made.pairs.slice(0, limit)
    if len(shown) and out is None and page is None:
        print_table(columns, [[row[c] for c in columns] for row in shown.to_pylist()])
    if len(shown) < made.pairs.num_rows and page is None and out is None:
        echo(f"and {made.pairs.num_rows - len(shown)} more; --out FILE writes all")
    told = [f"{made.counts[kind]} of {count} {kind}" for kind, count in made.compared.items() if count]
    if not told:
        say(
            f"note: no pair of the search {made.found.name!r} has a {made.label!r} on both sides: nothing was compared"
        )
    echo(
        f"\n{count_of(made.pairs.num_rows, 'pair')} with different {made.label}"
        + (f": {', '.join(told)}" if told else "")
    )
    for path in filter(None, (out, page)):
        echo(path)


@app.command()
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
    for other in done.others:
        say(
            f"note: the search {other} is of the same contents: `icehouse dups apply --name {other}` takes it along"
        )
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


@app.command()
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
    from .act import Mode, carry_out, plan_actions, shell_quoted, undo_actions, write_script
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
        named = shell_quoted(str(path)).decode(errors="replace")
        what = f"in {path}; `sh {named}` tells what it would do, `sh {named} --yes` does it"
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
        named = shell_quoted(str(outcome.log)).decode(errors="replace")
        say(
            f"undo: icehouse dups act --undo {named} --yes; `icehouse embed` tells the store where files went"
        )


#: Reasons for leaving files alone that are printed.
_REASONS = 20


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
    why = list(reasons(skipped))
    for reason, count, first in why[:_REASONS]:
        say(f"left alone: {count:,} ({first}{', …' if count > 1 else ''}): {reason}")
    if rest := sum(count for _, count, _ in why[_REASONS:]):
        say(f"left alone: {rest:,} more, each for a reason of its own; --json tells them all")
    if path is not None and acted:
        echo(path)
    if not acted and done:
        say("nothing was done; --yes does it")


#: Verdicts of what is like something, in the order in which they are told.
KINDS = ("exact", "perceptual", "embedding", "variant")


@app.command()
def stream(
    store: StoreOption = DEFAULT_STORE,
    feature: Annotated[
        str | None,
        typer.Option(
            "--feature",
            "-f",
            help="Feature of the store whose encoder to judge by; a text feature judges texts.",
            show_default="the only encoder's images",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="Judge by this encoder's images; no store is needed."),
    ] = None,
    threshold: ThresholdOption = None,
    expected_false_pairs: FalsePairsOption = None,
    hamming: HammingOption = None,
    perceptual: PerceptualOption = True,
    embedding: EmbeddingOption = True,
    views: Annotated[
        bool | None,
        typer.Option(
            "--views/--no-views",
            help="Hash parts of the images too: crops, frames and bands are found among the latest 8,192.",
            show_default="where images are embedded",
        ),
    ] = None,
    variants: VariantsOption = "keep",
    window: Annotated[int, typer.Option("--window", "-w", help="Contents to remember.")] = 100_000,
    state: Annotated[
        Path | None, typer.Option("--state", help="File to go on from, and to leave the window in.")
    ] = None,
    save_every: Annotated[
        float, typer.Option("--save-every", help="Seconds between saves, beside the last one; 0: only that.")
    ] = 600,
    all_matches: Annotated[
        int, typer.Option("--all-matches", help="List so many matches of each, not only the best.")
    ] = 0,
    latency: Annotated[
        float, typer.Option("--latency", help="Seconds to wait for a batch to fill while nothing comes.")
    ] = 0.05,
    exact: Annotated[bool, typer.Option("--exact", help="Decode images whole, however large.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Judge images as they come: new, or like one of the most recent ones. One line of JSON for each line of stdin.

    A line is a path, or JSON: {"id": ..., "path": ..., "text": ...}, whose text tells variants. End of input, Ctrl-C and
    SIGTERM save the state.
    """
    if not embedding and (feature or encoder or threshold is not None or expected_false_pairs is not None):
        raise UsageError("--no-embedding leaves nothing for options of the embedding to do")
    if encoder and expected_false_pairs is not None:
        raise UsageError("--expected-false-pairs needs a store's calibration; --encoder takes --threshold")
    if hamming is not None and not perceptual:
        raise UsageError("--no-perceptual leaves nothing for --hamming to do")
    if encoder and feature:
        raise UsageError("--feature is a store's, --encoder needs no store: give one of them")
    # Said so that NaN is none of them.
    if not (latency >= 0 and save_every >= 0 and all_matches >= 0):
        raise UsageError("--latency, --save-every and --all-matches are 0 or more")
    if CLOSED & {"stdin", "stdout"}:
        raise UsageError("stdin or stdout is closed: lines are read from the one and answered on the other")
    from .stream import DuplicateStream

    options: dict[str, Any] = {
        "hamming": ("auto" if hamming is None else hamming) if perceptual else None,
        "window": window,
        "state": state,
        "save_every": save_every or None,
        "views": views,
        "variants": variants,
        "shrink": not exact,
        "rule": threshold,
        "device": device,
    }
    if not embedding:
        judge = DuplicateStream(None, **options)
    elif encoder:
        judge = DuplicateStream(encoder, **options)
    else:
        judge = DuplicateStream.from_store(
            store, feature=feature, expected_false_pairs=expected_false_pairs, **options
        )
    for note in judge.notes:
        say(f"note: {note}")
    _run(judge, latency, all_matches)


def _run(judge: "DuplicateStream", latency: float, all_matches: int) -> None:
    import contextlib
    import signal
    import time

    caught: list[int] = []

    def stop(number: int, _: Any) -> None:
        caught.append(number)
        judge.stop()
        # A second signal does not wait for the batch in hand.
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    counts = judge.counts.copy()
    begun = time.perf_counter()
    try:
        for verdict in judge.judge_many(_lines(judge.modality == "text"), latency=latency):
            _write(as_dict(verdict, all_matches))
    except BrokenPipeError:
        mute_stdout()
    finally:
        seconds = time.perf_counter() - begun
        for number, handler in before.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        saved = judge.save()
        say(_summary(judge, judge.counts - counts, seconds, saved))
        for warning in judge.warnings:
            say(f"note: {warning}")
    if caught:
        raise typer.Exit(128 + caught[0])


#: What is told of a match under its own name.
_TOLD = ("hamming", "cosine", "orientation", "exact", "perceptual", "embedding", "evidence", "differs")


def as_dict(verdict: "StreamResult", all_matches: int = 0) -> dict[str, Any]:
    """Give a verdict as JSON values, always with the same keys."""
    best = verdict.match
    told: dict[str, Any] = {"id": verdict.id, "verdict": verdict.kind, "match": best.id if best else None}
    for name in _TOLD:
        nothing = False if name in KINDS else None
        told[name] = getattr(best, name) if best else nothing
    told |= {
        "line": verdict.line,
        "position": verdict.position,
        "match_position": best.position if best else None,
        "age": best.age if best else None,
        "capped": verdict.capped,
        "error": verdict.error,
    }
    if all_matches:
        names = ("id", "kind", *_TOLD, "position", "age")
        told["matches"] = [
            {name: getattr(match, name) for name in names} for match in verdict.matches[:all_matches]
        ]
    return told


def _lines(texts: bool) -> Any:
    """Contents to judge, one per line of stdin."""
    import codecs
    import json
    import os
    from dataclasses import replace

    from .stream import Item, item_of

    for number, raw in enumerate(_raw_lines()):
        line = raw.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        thing: Any = os.fsdecode(line)
        if line.lstrip().startswith(b"{"):
            try:
                read = json.loads(line)
                # A line of text cannot stand for bytes or a picture.
                thing = {name: read[name] for name in ("id", "path", "text") if name in read}
            except (ValueError, RecursionError) as error:
                thing = Item("", error=f"not JSON: {error}")
        yield replace(item_of(thing, "", texts=texts), line=number)


def _raw_lines() -> Any:
    """Lines of stdin as soon as they are there, without their ends."""
    import os

    try:
        handle = sys.stdin.fileno()
    except (OSError, ValueError):  # not a file: a test's, or a notebook's
        for line in sys.stdin:
            yield os.fsencode(line.rstrip("\r\n"))
        return
    # Read past Python's buffer: a thread that waits inside it would hold its lock when the interpreter goes.
    begun: list[bytes] = []  # of a line that has not ended yet
    while data := os.read(handle, 1 << 16):
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield b"".join([*begun, line]).rstrip(b"\r")
            begun = []
        begun.append(rest)
    if last := b"".join(begun):
        yield last


def _write(told: dict[str, Any]) -> None:
    typer.echo(json_text(told))
    sys.stdout.flush()


def _summary(judge: "DuplicateStream", counts: Any, seconds: float, saved: Path | None) -> str:
    total = sum(counts.values())
    sound = total - counts["error"]
    what = "texts" if judge.modality == "text" else "images"
    told = [f"{total:,} {what} in {seconds:.1f} s ({total / max(seconds, 1e-9):.1f}/s)"]
    if sound:
        kinds = [f"{kind} {counts[kind]:,}" for kind in KINDS if counts[kind]]
        told.append(f"{counts['new'] / sound:.1%} new" + "".join(f", {kind}" for kind in kinds))
    if counts["error"]:
        told.append(f"{counts['error']:,} unreadable")
    told.append(f"window {len(judge.window):,} of {judge.window.capacity:,}")
    if saved is not None:
        told.append(f"state saved to {saved}")
    return "; ".join(told)
