"""CLI: caption."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...console import (
    DEFAULT_STORE,
    JsonOption,
    MaxPixelsOption,
    StoreOption,
    echo,
    one_line,
    print_json,
    say,
)
from ...errors import UsageError, count_of

if TYPE_CHECKING:
    from .captioner import CaptionReport
    from .importing import ImportReport

_asked = partial(typer.Option, rich_help_panel="What is asked")
_server = partial(typer.Option, rich_help_panel="Model and server")
_run = partial(typer.Option, rich_help_panel="This run")

# Parameters that have a meaning where captions are imported.
_IMPORTING = ("store", "name", "import_from", "dry_run", "as_json")
# Rows without an item that are listed on a terminal.
_SHOWN = 20


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
        from .importing import import_captions

        _print_import(import_captions(store, import_from, name=name, dry_run=dry_run), as_json)
        return

    from .caption_table import plan
    from .captioner import caption_images, progress
    from .settings import CaptionSettings, Prompt

    asked = Prompt.of(_read_prompt(prompt, prompt_file), preset, with_text=with_text, structured=structured)
    chosen: dict[str, Any] = {"where": where, "limit": limit, "retry_failures": retry_failures}
    if dry_run:
        from ...store.store import Store

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
    given = [
        max(param.opts, key=len)
        for param in context.command.params
        if param.name not in _IMPORTING and _source(context, str(param.name)) == "COMMANDLINE"
    ]
    if given:
        raise UsageError(
            f"--import takes captions from a file and asks no model: leave out {', '.join(given)}"
        )


def _source(context: typer.Context, parameter: str) -> str | None:
    """Source of a parameter's value (command line, environment, default); by name, since Typer vendors Click."""
    source = context.get_parameter_source(parameter)
    return None if source is None else source.name


def register(app: typer.Typer) -> None:
    """Add the command of this room to an app."""
    app.command(rich_help_panel="Embed")(caption)


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
        from ...store.store import Store
        from .stats import view_of

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
    if report.failed or report.known_failures:
        again = (
            f"; {report.known_failures} failed before and were left alone (--retry-failures)"
            if report.known_failures
            else ""
        )
        query = "select * from failures where stage = 'caption'"
        echo(f'failed: {report.failed}{again}; see: icehouse sql "{query}"')
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
