"""CLI: embed."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..console import (
    DEFAULT_STORE,
    JsonOption,
    MaxPixelsOption,
    NaValuesOption,
    StoreOption,
    StrictLabelsOption,
    echo,
    print_json,
    print_table,
    progress_bar,
    say,
)
from ..errors import UsageError, count_of, one_or_many
from .captions.commands import register as register_captions

if TYPE_CHECKING:
    from .captions.features import CaptionFeatures
    from .extract import EmbedReport

app = typer.Typer()

_source = partial(typer.Option, rich_help_panel="What the sources hold")
_model = partial(typer.Option, rich_help_panel="Model and arithmetic")
_run = partial(typer.Option, rich_help_panel="This run")


@app.command(rich_help_panel="Embed")
def embed(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of images, images, CSV, TSV, JSONL or Parquet files.", show_default=False
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    preset: Annotated[
        str | None, _source(help="Columns of a known data set: crisismmd, hateful-memes, multioff, memotion.")
    ] = None,
    image_column: Annotated[str | None, _source(help="Column of image paths.")] = None,
    text_column: Annotated[str | None, _source(help="Column of texts.")] = None,
    label_column: Annotated[
        list[str] | None, _source(help="Column of labels, or NAME=COLUMN to rename it; repeatable.")
    ] = None,
    meta_column: Annotated[
        list[str] | None,
        _source(help="Further column to keep (event, language), or NAME=COLUMN; repeatable."),
    ] = None,
    id_column: Annotated[str | None, _source(help="Column of unique item ids.")] = None,
    split: Annotated[str | None, _source(help="Split of every row: train, dev, test, ...")] = None,
    split_column: Annotated[str | None, _source(help="Column of splits.")] = None,
    root: Annotated[
        Path | None, _source(help="Folder that image paths start from, by default the annotation file's.")
    ] = None,
    labels_from_folders: Annotated[
        bool, _source("--labels-from-folders", help="Label images by their sub-folder.")
    ] = False,
    folder_label_column: Annotated[
        str | None,
        _source(
            metavar="NAME",
            help="Column of labels from sub-folders; implies --labels-from-folders.",
            show_default="label",
        ),
    ] = None,
    replace_labels: Annotated[
        bool,
        _source("--replace-labels", help="Let labels from sub-folders replace those from other sources."),
    ] = False,
    strict_labels: StrictLabelsOption = False,
    encoding: Annotated[
        str | None, _source(help="Character encoding of CSV, TSV and JSONL, by default UTF-8.")
    ] = None,
    quotes: Annotated[
        Literal["auto", "csv", "literal"],
        _source(help="Whether quotes in CSV and TSV enclose fields or are text."),
    ] = "auto",
    na_values: NaValuesOption = None,
    clean: Annotated[
        str | None, _model(help="Text cleaning: social-v1 or none; by default the store's, else social-v1.")
    ] = None,
    encoder: Annotated[
        str,
        _model(
            "--encoder",
            "-e",
            help="mini, clip-b32, openclip:<model>/<tag, checkpoint or hub id>; auto takes the store's, else clip-b32 "
            "where its weights can be had, else mini.",
        ),
    ] = "auto",
    name: Annotated[
        str | None, _model(help="Name of the features, by default the encoder's short name.")
    ] = None,
    only: Annotated[
        Literal["image", "text"] | None, _run(help="Embed this modality and leave the other for another run.")
    ] = None,
    captions: Annotated[
        list[str] | None,
        _run(
            help="Embed the store's captions of this name (of structured ones, the columns too), see `icehouse caption`; "
            "repeatable, sources may be left out."
        ),
    ] = None,
    tokens: Annotated[bool, _model("--tokens", help="Also keep patch and word states (large).")] = False,
    exact: Annotated[bool, _model("--exact", help="Decode images whole and compute in float32.")] = False,
    dtype: Annotated[str | None, _model(help="Stored precision: float16 (default) or float32.")] = None,
    device: Annotated[str, _model(help="auto, cuda, mps or cpu.")] = "auto",
    precision: Annotated[str | None, _model(help="auto, float32, bfloat16 or float16.")] = None,
    batch_size: Annotated[
        int | None, _model(min=1, help="Rows a batch, by default as suits the device.")
    ] = None,
    workers: Annotated[
        int | None, _run(min=1, help="Threads that read and decode, by default one a core.")
    ] = None,
    limit: Annotated[int | None, _run(min=0, help="Only the first so many rows.")] = None,
    check_content: Annotated[
        bool, _run("--check-content", help="Compare the bytes of files that have kept their size and time.")
    ] = False,
    max_pixels: MaxPixelsOption = None,
    strict: Annotated[
        bool, _run("--strict", help="Exit with 1 if anything failed, not only if all did.")
    ] = False,
    retry_failures: Annotated[
        bool, _run("--retry-failures", help="Try again files that failed before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Embed images and texts into the store; run it again to go on, or to take in what is new."""
    from ..data.manifest import SourceOptions
    from .pipeline import embed_sources

    if not sources and not captions:
        raise UsageError("no sources: give a folder, images or a table, or --captions NAME")
    options = SourceOptions(
        preset=preset,
        image_column=image_column,
        text_column=text_column,
        label_columns=tuple(label_column or ()),
        meta_columns=tuple(meta_column or ()),
        id_column=id_column,
        split=split,
        split_column=split_column,
        root=root,
        labels_from_folders=labels_from_folders,
        folder_label_column=folder_label_column,
        replace_labels=replace_labels,
        encoding=encoding,
        quotes=quotes,
        na_values=None if na_values is None else na_values.split(","),
    )
    report, captioned = None, []
    try:
        if sources:
            with progress_bar("embedding") as progress:
                report = embed_sources(
                    sources,
                    store,
                    encoder=encoder,
                    options=options,
                    name=name,
                    only=only,
                    tokens=tokens,
                    cleaning=clean,
                    dtype=dtype,
                    exact=exact,
                    device=device,
                    precision=precision,
                    batch_size=batch_size,
                    workers=workers,
                    limit=limit,
                    retry_failures=retry_failures,
                    check_content=check_content,
                    strict_labels=strict_labels,
                    progress=progress,
                )
        for captions_name in dict.fromkeys(captions or ()):
            from .captions.features import embed_captions

            with progress_bar("embedding captions") as progress:
                captioned.append(
                    embed_captions(
                        store,
                        captions_name,
                        encoder=report.encoder if report else encoder,
                        name=name,
                        cleaning=clean,
                        dtype=dtype,
                        device=device,
                        precision=precision or ("float32" if exact else "auto"),
                        batch_size=batch_size,
                        progress=progress,
                    )
                )
    except KeyboardInterrupt:
        say("interrupted; what was encoded is in the store, run the same command again to go on")
        raise typer.Exit(130) from None
    if as_json:
        embedded = report.as_dict() if report else {}
        print_json({**embedded, "captions": [c.as_dict() for c in captioned]} if captions else embedded)
    else:
        if report:
            print_report(report)
        for part in captioned:
            print_captions(part)
    failed = sum(part.failed for part in captioned)
    lost = report.failed + report.known_failures if report else 0
    nothing = (
        report and report.new + report.changed and lost >= report.items and not report.images + report.texts
    )
    if nothing or (strict and (failed or lost)):
        raise typer.Exit(1)


def print_captions(report: "CaptionFeatures") -> None:
    """Print what became of captions."""
    echo(
        f"embedded {count_of(report.embedded, 'caption')} {report.name!r} with {report.encoder} in {report.seconds:.1f} s; "
        f"{report.known} were, {report.useless} say nothing (empty, refused, invalid)"
    )
    if report.embedded:
        share = report.pooled / report.embedded
        echo(f"longer than the context, pooled over sentences: {report.pooled} ({share:.1%})")
    if report.fields:
        fields = report.fields
        covered = "" if fields.covered is None else f" ({fields.covered:.1%} of those named)"
        echo(
            f"columns as {count_of(fields.numbers, 'number')}, {fields.objects} of them "
            f"{one_or_many(fields.objects, 'an object', 'objects')}{covered}: {fields.written} written, "
            f"{fields.known} were"
        )
    if report.failed:
        echo(f'failed: {report.failed}; see: icehouse sql "select * from failures"')
    echo(f"store: {report.store}  features: {', '.join(report.features) or 'none'}")


def print_report(report: "EmbedReport") -> None:
    """Print what a run did, what it left, and what bounded it."""
    for note in report.notes:
        say(f"note: {note}")
    changed = f"{report.changed} changed" + (f" ({report.moved} moved)" if report.moved else "")
    counts = [f"{report.new} new", changed, f"{report.unchanged} unchanged"]
    if report.vanished:
        counts.append(f"{report.vanished} vanished")
        say(
            f"note: {count_of(report.vanished, 'item')} vanished (no file any more, or no row in the source): "
            "left out of search, training and export; `icehouse remove --missing` takes them out of the store"
        )
    if report.rejected:
        counts.append(f"{report.rejected} refused")
    echo(f"{count_of(report.items, 'item')} in {report.seconds:.1f} s: {', '.join(counts)}")
    if report.images or report.texts:
        how = f"{report.encoder} on {report.device} in {report.precision}, batches of {report.batch_size}"
        echo(
            f"encoded {count_of(report.images, 'image')} and {count_of(report.texts, 'text')} with {how}; "
            f"decoding: {report.decoding}"
        )
    if report.texts:
        share = report.cut_texts / report.texts
        echo(
            f"cut at the context length: {report.cut_texts} of {count_of(report.texts, 'text')} ({share:.1%})"
        )
    for column, count in report.columns_changed.items():
        echo(f"{column}: {count_of(count, 'value')} replaced by others")
    if report.stages:
        print_table(
            ["stage", "rows", "busy s", "threads", "could do /s"],
            [[s["stage"], s["rows"], s["busy_s"], s["threads"], s["per_second"]] for s in report.stages],
        )
    if report.failed or report.known_failures:
        again = (
            f"; {report.known_failures} failed before and were left alone (--retry-failures)"
            if report.known_failures
            else ""
        )
        echo(f'failed: {report.failed}{again}; see: icehouse sql "select * from failures"')
    echo(f"store: {report.store}  features: {', '.join(report.features) or 'none'}")


register_captions(app)
