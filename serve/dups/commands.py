"""The commands of `icehouse dups`: find near-duplicates, and measure how well they were found."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    bar,
    echo,
    print_json,
    print_table,
    say,
)
from ...errors import UsageError
from .calibrate_command import calibrate
from .gallery_command import gallery as gallery_command
from .gallery_command import show_gallery
from .leakage_command import leakage
from .options import SearchOption, say_which
from .stream_command import stream

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


class Engine(StrEnum):
    """What compares embeddings in `icehouse dups find`."""

    exact = "exact"
    faiss = "faiss"


class GroupBy(StrEnum):
    """How `icehouse dups find` makes groups of pairs."""

    star = "star"
    components = "components"
    cliques = "cliques"


@app.command()
def find(
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            help="Name of the results, a folder below STORE/dups.",
            show_default="the feature's, as mini-image-pooled",
        ),
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(
            "--feature",
            "-f",
            help="Image or text feature to compare by.",
            show_default="the only encoder's images",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", "-t", help="Least cosine.", show_default="by the calibration, else 0.95"),
    ] = None,
    expected_false_pairs: Annotated[
        float | None,
        typer.Option(
            "--expected-false-pairs", help="Choose the cosine so, by the calibration.", show_default="1"
        ),
    ] = None,
    views: Annotated[
        bool | None,
        typer.Option(
            "--views/--no-views", help="Hash parts of images too.", show_default="up to 50,000 images"
        ),
    ] = None,
    hamming: Annotated[
        int | None,
        typer.Option(
            "--hamming",
            help="Bits of 64 in which perceptual hashes may differ.",
            show_default="6, or fewer by the calibration",
        ),
    ] = None,
    perceptual: Annotated[
        bool, typer.Option("--perceptual/--no-perceptual", help="Compare perceptual hashes.")
    ] = True,
    embedding: Annotated[bool, typer.Option("--embedding/--no-embedding", help="Compare embeddings.")] = True,
    group: Annotated[
        GroupBy,
        typer.Option("--group", "-g", help="star: every member is like its keeper; components: chains."),
    ] = GroupBy.star,
    keeper: Annotated[
        str,
        typer.Option(
            "--keeper", "-k", help="best, largest, oldest, or a column (COLUMN:desc: highest first)."
        ),
    ] = "best",
    where: Annotated[str | None, typer.Option("--where", help="SQL condition over items to compare.")] = None,
    max_pairs: Annotated[int, typer.Option("--max-pairs", help="Stop after that many pairs.")] = 5_000_000,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="exact: no pair is missed; faiss: an index, its recall measured."),
    ] = Engine.exact,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads for the join.", show_default="one a processor")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, numpy, cpu, cuda.")] = "auto",
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Also write the pages of `icehouse dups gallery`.")
    ] = False,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Find near-duplicates by bytes, perceptual hash and embedding; group them; list what to keep. Deletes nothing."""
    from ...store.dups.find import find_duplicates

    asked = feature or threshold is not None or expected_false_pairs is not None or engine is Engine.faiss
    if not embedding and asked:
        raise UsageError(
            "--no-embedding leaves nothing for --feature, --threshold, --expected-false-pairs and --engine to do"
        )
    if not perceptual and hamming is not None:
        raise UsageError("--no-perceptual leaves nothing for --hamming to do")
    with bar("finding") as progress:
        found = find_duplicates(
            store,
            name=name,
            feature=(feature or "auto") if embedding else None,
            hamming=("auto" if hamming is None else hamming) if perceptual else None,
            rule=threshold,
            grouping_by=group.value,
            keeper=keeper,
            where=where,
            max_pairs=max_pairs,
            expected_false_pairs=expected_false_pairs,
            views=views,
            engine=engine.value,
            threads=threads,
            device=device,
            progress=progress,
        )
    summary = found.summary
    for note in summary["notes"]:
        say(f"note: {note}")
    pages = show_gallery(store, found.name) if gallery else None
    if as_json:
        print_json({"path": found.path, **summary, **({"gallery": pages} if pages else {})})
        return
    pairs, groups = summary["pairs"], summary["groups"]
    rows = [[kind, count, pairs["found_by"][kind]] for kind, count in pairs["by_kind"].items()]
    print_table(["kind", "pairs", "found by this stage"], rows)
    print_table(
        ["items", "groups", "in groups", "largest", "chained", "keep", "drop"],
        [
            [
                summary["items"],
                *(groups[key] for key in ("total", "items", "largest", "chained")),
                summary["kept"],
                summary["dropped"],
            ]
        ],
        title="\nGroups",
    )
    echo(f"\n{found.path}: pairs.parquet, clusters.parquet, items.parquet, keep.csv, drop.csv, summary.json")
    if pages:
        echo(pages)


@app.command()
def evaluate(
    truth: Annotated[
        Path,
        typer.Option(
            "--truth", help="CSV of known pairs: a, b, and perhaps label (1 or 0).", show_default=False
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure found duplicates against known pairs: precision, recall and F1 of each stage and of all together."""
    from ...store.dups.evaluate import evaluate_duplicates, read_truth
    from ...store.dups.find import Duplicates
    from ...store.store import Store

    found = Duplicates.open(store, name)
    scores = evaluate_duplicates(
        found, read_truth(truth, Store.open(store).items.read(["item_id"])["item_id"])
    )
    say_which(store, found, name)
    if unknown := scores["unknown"]:
        say(
            f"note: {len(unknown)} ids of {truth} are not in the store, such as {unknown[0]!r}: their pairs count as missed"
        )
    if where := found.summary["parameters"]["where"]:
        say(f"note: only items where {where} were looked at: pairs with others count as missed")
    if found.summary["capped"]:
        say("note: the search stopped at its cap on pairs: what lies beyond counts as missed")
    if as_json:
        print_json(scores)
        return
    columns = ["found", "right", "missed", "precision", "recall", "f1"]
    rows = [
        [stage, *(score[c] for c in columns)] for stage, score in scores.items() if isinstance(score, dict)
    ]
    print_table(["stage", *columns], rows, title=f"{scores['positives']} known pairs")


app.command()(calibrate)
app.command()(leakage)
app.command("gallery")(gallery_command)
app.command("stream")(stream)
