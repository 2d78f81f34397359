"""CLI: watch; its settings."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...console import CLOSED, DEFAULT_STORE, MaxPixelsOption, StoreOption, mute_stdout, say
from ...errors import UsageError, count_of
from ..commands import DeviceOption

if TYPE_CHECKING:
    from .worker import Watch

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `icehouse watch`."""

    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            "-r",
            metavar="RUN",
            help="Run to ask: its id, a part of it, the label that it learned, or a package; repeatable, in this order.",
        ),
    ] = None
    source: Annotated[
        str,
        typer.Option(
            "--in",
            "-i",
            metavar="WHERE",
            help="Posts: - for lines of stdin, a file, a folder to watch, redis://HOST/STREAM, kafka://HOST/TOPIC.",
        ),
    ] = "-"
    outs: Annotated[
        list[str] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="WHERE",
            help="Decisions: - for stdout, a file, store, redis://, kafka://, postgresql://; repeatable.",
            show_default="-",
        ),
    ] = None
    errors: Annotated[
        str | None,
        typer.Option("--errors", metavar="WHERE", help="Bad posts go there, and not to --out."),
    ] = None
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="URL", help="Make the table of a postgresql:// URL, and end."),
    ] = None
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="RUN=CLASS",
            help="Only these classes of a run go further (RUN!=CLASS: all but these; @P: of at least this probability).",
        ),
    ] = None
    automatic: Annotated[
        bool,
        typer.Option(
            "--gates/--no-gates",
            help="Whether a run that knows a class such as not_relevant stops it before the runs behind it.",
        ),
    ] = True
    store: StoreOption = DEFAULT_STORE
    name: Annotated[
        str, typer.Option("--name", "-n", help="Name of this watch; workers side by side have one each.")
    ] = "watch"
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Folder to remember things in.", show_default="STORE/watch/NAME"),
    ] = None
    repeats: Annotated[
        str | None,
        typer.Option(
            "--repeats",
            metavar="PART",
            help="What is repeated in a repeat: image (else text), text (else image), post (both), off.",
            show_default="image, or text where no run looks at pictures",
        ),
    ] = None
    window: Annotated[
        int, typer.Option("--window", "-w", min=1, help="Contents to compare with: the latest so many.")
    ] = 100_000
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Least cosine of a repeat.",
            show_default="none: the store's calibration, or what its contents look like, decides",
        ),
    ] = None
    collect: Annotated[
        Path | None,
        typer.Option(
            "--collect", metavar="TOML", help="Rules of collections; a post of none goes no further."
        ),
    ] = None
    learn: Annotated[
        str | None,
        typer.Option(
            "--learn", metavar="RUN", help="Teach this run, an online one, the labels that come with posts."
        ),
    ] = None
    learn_every: Annotated[
        int, typer.Option("--learn-every", min=1, help="Labels after which a version is kept as a run.")
    ] = 100
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            help="Folder of image paths; none leads out of it.",
            show_default="for lines any path, else the current folder",
        ),
    ] = None
    fetch: Annotated[bool, typer.Option("--fetch/--no-fetch", help="Fetch pictures by their URL.")] = True
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Fetch from addresses of private networks and this machine."),
    ] = False
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1, help="Bytes of a picture that is fetched, at most.")
    ] = 20 << 20
    fetch_seconds: Annotated[
        float, typer.Option("--fetch-seconds", help="Seconds that a fetch may take, redirects included.")
    ] = 10.0
    latency: Annotated[
        float, typer.Option("--latency", help="Seconds to wait for a batch to fill while nothing comes.")
    ] = 0.02
    stats_s: Annotated[
        float | None,
        typer.Option(
            "--stats", metavar="SECONDS", help="A line of statistics so often, on stdout and in files."
        ),
    ] = None
    drift: Annotated[
        bool,
        typer.Option("--drift/--no-drift", help="Compare the stream with what the first run learned from."),
    ] = True
    save_every: Annotated[
        float, typer.Option("--save-every", help="Seconds between saves of the window, beside the last one.")
    ] = 600.0
    device: DeviceOption = "auto"
    max_pixels: MaxPixelsOption = None


def options_of(settings: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Make a command of a function of some settings: its options are the fields of that dataclass."""

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            function(settings(**given))

        command.__signature__ = inspect.signature(settings)  # type: ignore[attr-defined]
        command.__annotations__ = settings.__annotations__
        return command

    return decorate


@app.command(rich_help_panel="Serve")
@options_of(Settings)
def watch(settings: Settings) -> None:
    """Judge posts as they come: repeats, then what is irrelevant, then each run on what is left. One decision a post.

    A post is JSON: {"id": ..., "text": ..., "image_path" or "image_url": ...}. End of input, Ctrl-C and SIGTERM finish what
    was read.
    """
    if settings.init is not None:
        from .sinks import Postgres

        made = Postgres(settings.init, init=True)
        made.close()
        say(f"table {made.table} is there")
        return
    # Said so that NaN is none of them.
    positive = (
        settings.save_every,
        settings.fetch_seconds,
        1.0 if settings.stats_s is None else settings.stats_s,
    )
    if not (settings.latency >= 0 and all(seconds > 0 for seconds in positive)):
        raise UsageError("--latency, --save-every, --fetch-seconds and --stats are numbers of seconds")
    reads, writes = settings.source == "-", "-" in (settings.outs or ["-"])
    if ("stdin" in CLOSED and reads) or ("stdout" in CLOSED and writes):
        raise UsageError("stdin or stdout is closed: lines are read from the one and answered on the other")
    from .worker import open_watch

    with open_watch(settings) as made_watch:
        for note in made_watch.notes:
            say(f"note: {note}")
        _run(made_watch)


def _run(watch: "Watch") -> None:
    import contextlib
    import signal

    from ...embed.encoder import shared_cores

    caught: list[int] = []

    def stop(number: int, _: Any) -> None:
        caught.append(number)
        watch.stop()
        # A second signal does not wait for what was read.
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with shared_cores():
            watch.run()
    except BrokenPipeError:
        mute_stdout()
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        say(_summary(watch.figures()))
    if caught:
        raise typer.Exit(128 + caught[0])


def _summary(figures: dict[str, Any]) -> str:
    counts = figures["counts"]
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(counts.items(), key=lambda entry: -entry[1]))
    seconds = figures["seconds"]
    return f"{count_of(sum(counts.values()), 'post')} in {seconds:.1f} s: {kinds or 'none'}"
