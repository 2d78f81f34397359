"""CLI: embed, caption."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..console import (
    DEFAULT_STORE,
    JsonOption,
    MaxPixelsOption,
    NaValuesOption,
    StoreOption,
    StrictLabelsOption,
    echo,
    one_line,
    print_json,
    print_table,
    progress_bar,
    say,
)
from ..errors import UsageError, count_of, one_or_many

if TYPE_CHECKING:
    from .captions.caption_table import ImportReport
    from .captions.captioner import CaptionReport
    from .captions.features import CaptionFeatures
    from .extract import EmbedReport

app = typer.Typer()

_source = partial(typer.Option, rich_help_panel="What the sources hold")
_model = partial(typer.Option, rich_help_panel="Model and arithmetic")
_asked = partial(typer.Option, rich_help_panel="What is asked")
_server = partial(typer.Option, rich_help_panel="Model and server")
_run = partial(typer.Option, rich_help_panel="This run")

# Parameters that have a meaning where captions are imported.
_IMPORTING = ("store", "name", "import_from", "dry_run", "as_json")
# Rows without an item that are listed on a terminal.
_SHOWN = 20


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
    _print_failures(report, "select * from failures")
    echo(f"store: {report.store}  features: {', '.join(report.features) or 'none'}")


def _print_failures(report: "EmbedReport | CaptionReport", query: str) -> None:
    known = report.known_failures
    if report.failed or known:
        again = f"; {known} failed before and were left alone (--retry-failures)" if known else ""
        echo(f'failed: {report.failed}{again}; see: icehouse sql "{query}"')


@app.command(rich_help_panel="Embed")
def caption(
    context: typer.Context,
    store: StoreOption = DEFAULT_STORE,
    model: Annotated[
        str | None, _server("--model", "-m", help="Vision-language model, such as llava:7b.")
    ] = None,
    prompt: Annotated[str | None, _asked(help="What is asked of every picture.")] = None,
    prompt_file: Annotated[Path | None, _asked(help="File with the prompt.")] = None,
    preset: Annotated[
        str | None, _asked(help="Prompt by name: alt-text, crisis, meme; alt-text by default.")
    ] = None,
    name: Annotated[str, _run(help="Name of the captions: tables/captions/NAME.")] = "default",
    with_text: Annotated[
        bool,
        _asked(
            "--with-text",
            help="Put the post's own text, quoted and cut, where the prompt has {text}, or at its end.",
        ),
    ] = False,
    structured: Annotated[
        bool,
        _asked(
            "--structured",
            help="Ask for JSON: objects, damage, people, visible text, sentiment, each a column.",
        ),
    ] = False,
    host: Annotated[
        list[str] | None,
        _server(help="Server; repeatable, the work is spread. By default OLLAMA_HOST, else this machine."),
    ] = None,
    api: Annotated[
        Literal["ollama", "openai"],
        _server(help="Protocol: Ollama's, or the chat completions that vLLM, llama.cpp and others offer."),
    ] = "ollama",
    api_key_env: Annotated[
        str, _server(help="Environment variable with the key for --api openai.")
    ] = "OPENAI_API_KEY",
    pull: Annotated[bool, _server("--pull", help="Have Ollama fetch a model that it lacks.")] = False,
    seed: Annotated[int, _server(min=0, help="Seed of the answers.")] = 0,
    max_tokens: Annotated[int, _server(min=1, help="Most tokens of an answer.")] = 200,
    option: Annotated[
        list[str] | None,
        _server(help="Further option of the model, NAME=VALUE, such as num_ctx=8192; repeatable."),
    ] = None,
    max_side: Annotated[
        int, _server(min=32, help="Longest side of a picture as it is sent, in pixels.")
    ] = 672,
    concurrency: Annotated[
        int | None,
        _run(
            min=1, help="Questions at once for each host; by default 1, and more while that makes it faster."
        ),
    ] = None,
    timeout: Annotated[float, _run(min=0.1, help="Seconds an answer may take.")] = 300.0,
    patience: Annotated[float, _run(min=0.1, help="Seconds to go on when no server answers.")] = 120.0,
    where: Annotated[
        str | None, _run(help="SQL condition over the items, such as \"split = 'train'\".")
    ] = None,
    limit: Annotated[int | None, _run(min=0, help="Ask about so many pictures at most.")] = None,
    retry_failures: Annotated[
        bool, _run("--retry-failures", help="Ask again about pictures that failed.")
    ] = False,
    dry_run: Annotated[
        bool,
        _run(
            "--dry-run",
            help="Say how many pictures would be asked about, or captions imported, and do nothing.",
        ),
    ] = False,
    import_from: Annotated[
        Path | None,
        _run(
            "--import",
            help="Take captions made elsewhere from this JSONL, CSV or Parquet file instead of asking.",
        ),
    ] = None,
    max_pixels: MaxPixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Caption every image of the store with a vision-language model; run it again to go on, or to take in what is new."""
    if import_from is not None:
        _refuse_beside_import(context)
        from .captions.caption_table import import_captions

        _print_import(import_captions(store, import_from, name=name, dry_run=dry_run), as_json)
        return

    from .captions.caption_table import plan
    from .captions.captioner import caption_images, progress
    from .captions.questions import CaptionSettings, Prompt

    asked = Prompt.of(_read_prompt(prompt, prompt_file), preset, with_text=with_text, structured=structured)
    chosen: dict[str, Any] = {"where": where, "limit": limit, "retry_failures": retry_failures}
    if dry_run:
        from ..store.store import Store

        todo = plan(Store.open(store), name, with_text=with_text, **chosen)
        _print_plan(todo, name, as_json)
        return
    if model is None:
        raise UsageError("which model? give --model, such as --model llava:7b")
    settings = CaptionSettings(
        model,
        asked,
        api=api,
        hosts=host or (),
        options=_options(option or ()),
        seed=seed,
        max_tokens=max_tokens,
        max_side=max_side,
        concurrency=concurrency,
        timeout=timeout,
        patience=patience,
        pull=pull,
        key_variable=api_key_env,
    )
    try:
        with progress() as (tell, remark):
            report = caption_images(store, settings, name=name, progress=tell, say=remark, **chosen)
    except KeyboardInterrupt:
        say("interrupted; what was answered is in the store, run the same command again to go on")
        raise typer.Exit(130) from None
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    if report.failed and not report.captioned:
        raise typer.Exit(1)


def _refuse_beside_import(context: typer.Context) -> None:
    """Refuse the options that only a run that asks a model understands, by name."""
    given = []
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        # By name, since Typer vendors Click.
        if param.name not in _IMPORTING and source is not None and source.name == "COMMANDLINE":
            given.append(max(param.opts, key=len))
    if given:
        raise UsageError(
            f"--import takes captions from a file and asks no model: leave out {', '.join(given)}"
        )


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str | None:
    if prompt_file is None:
        return prompt
    if prompt is not None:
        raise UsageError("give --prompt or --prompt-file, not both")
    try:
        return prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"the prompt cannot be read from {prompt_file}: {error}") from None


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options as the model takes them: numbers and the like as JSON has them, everything else a string."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--option {pair}: write it as NAME=VALUE")
        try:
            options[name.strip()] = json.loads(value)
        except ValueError:
            options[name.strip()] = value
    for name in ("temperature", "seed", "num_predict"):
        if name in options and (
            isinstance(options[name], bool) or not isinstance(options[name], (int, float))
        ):
            raise UsageError(f"--option {name}={options[name]}: a number, please")
    return options


def _print_plan(todo: Any, name: str, as_json: bool) -> None:
    counts = {
        "name": name,
        "distinct": todo.distinct,
        "known": todo.done,
        "known_failures": todo.failed,
        "to_ask": len(todo.jobs),
        "without_image": todo.without_image,
    }
    if as_json:
        print_json(counts)
        return
    failed = f", {todo.failed} failed before (--retry-failures)" if todo.failed else ""
    echo(
        f"{count_of(todo.distinct, 'distinct picture')}: {count_of(todo.done, 'has', 'have')} a caption {name!r}{failed}, "
        f"{len(todo.jobs)} would be asked about"
    )


def _print_report(report: "CaptionReport") -> None:
    rate = f" ({report.captioned / report.seconds:.2g}/s)" if report.seconds and report.captioned else ""
    echo(
        f"{count_of(report.captioned, 'caption')} by {report.model} in {report.seconds:.1f} s{rate}; "
        f"{report.known} of {count_of(report.distinct, 'picture')} had one"
    )
    if report.flagged:
        kinds = ", ".join(f"{count} {flag}" for flag, count in sorted(report.flagged.items()))
        from ..store.store import Store
        from .captions.stats import view_of

        view = view_of(Store.open(report.store), report.name)
        see = f"; see: icehouse sql \"select * from {view} where flags != ''\"" if view else ""
        echo(f"flagged: {kinds}{see}")
    if report.sent_as:
        ways = ", ".join(f"{count} {way}" for way, count in sorted(report.sent_as.items()))
        echo(f"pictures too small or too long to be sent as they are: {ways}")
    if report.retried:
        echo(f"asked a second time: {report.retried}")
    if report.discarded:
        echo(f"thrown away, since the model had changed: {report.discarded}")
    if report.without_image:
        echo(f"items without a picture that can be read: {report.without_image}")
    _print_failures(report, "select * from failures where stage = 'caption'")
    for host, answers in report.hosts.items():
        echo(f"{host}: {count_of(answers, 'answer')}, {report.concurrency[host]} at once")


def _print_import(report: "ImportReport", as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    would = "would be imported" if report.dry_run else "imported"
    echo(
        f"{count_of(report.imported, 'caption')} {would} from {count_of(report.rows, 'row')} of {report.file}, found by "
        f"{one_line(report.matched_by)}; {count_of(report.known, 'picture')} had one already"
    )
    if report.conflicting:
        echo(f"second captions of a picture, left out: {report.conflicting}")
    if report.unmatched:
        shown = [one_line(row) for row in report.unmatched_rows[:_SHOWN]]
        more = report.unmatched - len(shown)
        shown += [f"and {more} more (--json lists all)"] if more > 0 else []
        echo(f"rows that fit no item: {report.unmatched}; {', '.join(shown)}")
