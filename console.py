"""What every command shares: the store option, `--json`, tables, progress bars."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["JsonOption", "MaxPixelsOption", "StoreOption", "bar", "print_json", "print_table", "say"]

StoreOption = Annotated[
    Path,
    typer.Option(
        "--store",
        "-s",
        envvar="ICEHOUSE_STORE",
        help="The store's folder.",
        show_default="ICEHOUSE_STORE, else ./icehouse-store",
    ),
]
DEFAULT_STORE = Path("icehouse-store")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]


def _set_max_pixels(pixels: int | None) -> int | None:
    if pixels is not None:
        from .data.images import set_max_pixels

        set_max_pixels(pixels)
    return pixels


MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="ICEHOUSE_MAX_PIXELS",
        callback=_set_max_pixels,
        help="Refuse pictures of more pixels.",
        show_default="268 million",
    ),
]


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout; NaN becomes null, so that any parser reads it."""
    typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Copy of `value` in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows as a table on stdout; markup in the values is shown, not obeyed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    body = [[_cell(value) for value in row] for row in rows]
    for i, column in enumerate(columns):
        numeric = bool(body) and all(_is_number(row[i]) for row in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    # Not a terminal: no wrapping at 80 columns, since a script or a file reads it.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("\n", " ").replace("\x1b", "␛")


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def say(message: str) -> None:
    """Print a remark on stderr, where it does not disturb what a script reads from stdout."""
    typer.echo(message, err=True)


def debugging() -> bool:
    """Whether ``ICEHOUSE_DEBUG`` asks for tracebacks instead of one-line errors."""
    return os.environ.get("ICEHOUSE_DEBUG", "") not in ("", "0")


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on stderr: give a callable that takes how much is done, and of how much; None off a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
