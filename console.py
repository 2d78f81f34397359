"""Console output of every command: the store option, `--json`, tables, progress bars, sanitising.

Names, labels, captions and messages come from strangers. `echo`, `say`, `print_table` and the bars show them and obey
nothing in them: no escape sequence, no reordering of text, no markup. What is written to files is left as it is.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

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


NaValuesOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="What means no value among ids, labels and splits, besides empty cells.",
        show_default="nan,NA,null,NULL and the like",
    ),
]
StrictLabelsOption = Annotated[
    bool,
    typer.Option(
        "--strict-labels", help="Refuse labels that are nearly the same, such as 1 and 1.0, a and A."
    ),
]


#: Whether CSV files are written so that no cell is a formula to a spreadsheet.
EXCEL_SAFE: ContextVar[bool] = ContextVar("excel_safe", default=False)


def _set_excel_safe(wanted: bool) -> bool:
    EXCEL_SAFE.set(wanted)
    return wanted


ExcelSafeOption = Annotated[
    bool,
    typer.Option(
        "--excel-safe",
        callback=_set_excel_safe,
        help="In CSV, put ' before cells that a spreadsheet would take for a formula.",
    ),
]
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


# Scripts and emoji need the two joiners, which are format characters like those that reorder a line.
_JOINERS = "\u200c\u200d"


def printable(text: str, *, lines: bool = False) -> str:
    """Text with nothing in it that a terminal would obey.

    Control and format characters (escape sequences, C1 controls, right-to-left overrides), halves of
    surrogate pairs and private ones are U+FFFD.
    """
    return text if text.isprintable() else "".join(_shown(char, lines) for char in text)


def _shown(char: str, lines: bool) -> str:
    if char.isprintable() or char in _JOINERS or (lines and char == "\n"):
        return char
    if char.isspace():
        return " "
    # Not assigned, as far as this Python knows: an emoji from after it.
    return char if unicodedata.category(char) == "Cn" else "\N{REPLACEMENT CHARACTER}"


def one_line(text: str) -> str:
    """`printable` text on one line, each run of white space one space.

    >>> one_line("red " + chr(27) + "[31m and a " + chr(10) + " new line")
    'red �[31m and a new line'
    """
    return printable(" ".join(text.split()))


def shorten(text: str | None, most: int = 80) -> str:
    """`one_line` text of at most `most` characters."""
    line = one_line(text or "")
    return line if len(line) <= most else line[: most - 3] + "..."


def echo(text: object = "", *, err: bool = False, lines: bool = False, **style: Any) -> None:
    """Print a line on stdout: every other way to print would let names of the user's data reach the terminal raw."""
    text = str(text)
    plain = text.lstrip("\n")
    shown = "\n" * (len(text) - len(plain)) + printable(plain, lines=lines)
    typer.secho(shown, err=err, **style)


class Screen:
    """File that writes to the terminal on stdout, `printable`; a pipe or a file gets text as it is."""

    def write(self, text: str) -> int:
        """Write some lines."""
        return sys.stdout.write(printable(text, lines=True))


def say(message: str) -> None:
    """Print a remark on stderr, where it does not disturb what a script reads from stdout."""
    # Work goes on where nobody can be told of it any more.
    with contextlib.suppress(OSError):
        echo(message, err=True)


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout; NaN becomes null, so that any parser reads it."""
    typer.echo(json_text(plain(value), indent=2))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of `value` with every character escaped that a terminal would obey, or that stdout cannot encode."""
    text = re.sub(r"[^\x20-\x7e\n]", _escaped, json.dumps(value, indent=indent, ensure_ascii=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    return char if char.isprintable() or unicodedata.category(char) == "Zs" else json.dumps(char)[1:-1]


def plain(value: Any) -> Any:
    """Copy of `value` in types that JSON has: keys are texts, numbers that it lacks null, all else a text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows as a table on stdout; markup in names and values is shown, not obeyed."""
    from rich.console import Console

    if title is not None:
        echo(title, bold=True)
    # Not a terminal: no wrapping at 80 columns, since a script or a file reads it.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(rich_table(columns, rows))


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """The table that `print_table` prints."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=None, pad_edge=False)
    body = [[_cell(value) for value in row] for row in rows]
    for i, column in enumerate(columns):
        numeric = bool(body) and all(_is_number(row[i]) for row in body)
        table.add_column(Text(_cell(column)), justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def mute_stdout() -> None:
    """Point stdout at the null device, so that nothing more goes to a closed pipe, not even at interpreter exit."""
    with contextlib.suppress(OSError, ValueError):  # not a file: a test's, or a notebook's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: Standard streams that the process was started without.
CLOSED: set[str] = set()


def fill_closed() -> None:
    """Open the null device for a closed stdin, stdout or stderr: the next file opened would take its descriptor."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            CLOSED.add(name)
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)
    for name in CLOSED - {"stdin"}:
        setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def debugging() -> bool:
    """Whether ``ICEHOUSE_DEBUG`` asks for tracebacks instead of one-line errors."""
    return os.environ.get("ICEHOUSE_DEBUG", "") not in ("", "0")


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., None] | None]:
    """Show progress with rate and time left on stderr, by a callable of (done, total); None off a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(one_line(what), total=None, rate="")

        def update(done: int, total: int, _: str = "") -> None:
            speed = shown.tasks[0].speed
            shown.update(task, completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "")

        yield update


class Replacements:
    """Error handler of the standard streams: a character that their encoding lacks becomes "?", and is counted."""

    def __init__(self) -> None:
        self.count = 0
        codecs.register_error("icehouse-replace", self._replace)

    def install(self) -> None:
        """Let stdout and stderr replace what they cannot encode, on an ASCII or cp1252 terminal or pipe."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="icehouse-replace")

    def _replace(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        self.count += error.end - error.start
        return "?" * (error.end - error.start), error.end
