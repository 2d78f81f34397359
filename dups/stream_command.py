"""`icehouse dups stream`: paths or JSON lines in, verdicts out, as they come."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import CLOSED, DEFAULT_STORE, StoreOption, json_text, mute_stdout, say
from ..errors import UsageError
from .options import (
    DeviceOption,
    EmbeddingOption,
    FalsePairsOption,
    HammingOption,
    PerceptualOption,
    ThresholdOption,
    VariantsOption,
)

if TYPE_CHECKING:
    from .stream import DuplicateStream
    from .window import StreamResult

#: Verdicts of what is like something, in the order in which they are told.
KINDS = ("exact", "perceptual", "embedding", "variant")


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
        for verdict in judge.judge_many(_lines(), latency=latency):
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


def _lines() -> Any:
    """Contents to judge, one per line of stdin."""
    import codecs
    import json
    import os

    from .stream import InputLine, Item

    for number, raw in enumerate(_raw_lines()):
        line = raw.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        if not line.lstrip().startswith(b"{"):
            yield InputLine(number, os.fsdecode(line))
            continue
        try:
            thing = json.loads(line)
        except (ValueError, RecursionError) as error:
            thing = Item("", error=f"not JSON: {error}")
        if isinstance(thing, dict):
            # A line of text cannot stand for bytes or a picture.
            thing = {name: thing[name] for name in ("id", "path", "text") if name in thing}
        yield InputLine(number, thing)


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
