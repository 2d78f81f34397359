"""The command line: each command parses, calls one library function, and prints.

The commands live beside what they call, in each room's `commands.py`; this module puts them on one table and turns every
error into one line. Nothing heavy is imported before a command runs. Modules of commands go without
`from __future__ import annotations`: Typer would evaluate the text of every option twice, at each start.
"""

import contextlib
import errno
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .console import Replacements, debugging, echo, fill_closed, mute_stdout, one_line, printable, say
from .dups import commands as dups_commands
from .dups import review_commands as dups_review_commands
from .embed import commands as embed_commands
from .errors import IcehouseError, count_of
from .heads import commands as heads_commands
from .serve import commands as serve_commands
from .serve import label_commands
from .serve.watch import commands as watch_commands
from .store import commands as store_commands

#: Exit status of a command that was interrupted, as shells have it.
INTERRUPTED = 130


class OneLineErrors(TyperGroup):
    """A group whose commands never show a traceback."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Parse the arguments."""
        if not args or {"-h", "--help"} & {*args}:
            _load_help_pages()
        with _one_line_errors(), _sanitised():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error becomes one line on stderr and an exit status."""
        with _one_line_errors(), _sanitised():
            return super().invoke(ctx)


def _load_help_pages() -> None:
    """Import what Typer draws help with, without its Markdown, tracebacks and attrs: slow to load, and not in our help."""
    absent = {
        "attr": None,
        "rich.markdown": ModuleType("Markdown"),
        "rich.traceback": ModuleType("Traceback"),
    }
    absent = {name: module for name, module in absent.items() if name not in sys.modules}
    for module in filter(None, absent.values()):
        setattr(module, module.__name__, None)
    sys.modules.update(absent)  # type: ignore[arg-type]
    try:
        importlib.import_module("typer.rich_utils")
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn whatever ends a command into at most one line and an exit status."""
    try:
        try:
            yield
        except typer.Exit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:
        # `icehouse sql ... | head` closed the pipe: nothing is wrong, and nothing more can be said.
        mute_stdout()
        raise typer.Exit(0) from None
    except SystemExit as ended:
        # What rich makes of a closed pipe.
        if isinstance(ended.__context__, BrokenPipeError):
            raise typer.Exit(0) from None
        raise
    except KeyboardInterrupt:
        say("icehouse: interrupted; what was finished is kept")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        # Wrong usage shows itself: the parser's errors, told by `show` whichever Click Typer brings along.
        if hasattr(error, "show") or debugging():
            raise
        if _is_full(error):
            mute_stdout()  # what could not be written would be tried again when the interpreter goes
        say(f"icehouse: {_one_line(error)}")
        raise typer.Exit(error.exit_code if isinstance(error, IcehouseError) else 1) from None


@contextlib.contextmanager
def _sanitised() -> Iterator[None]:
    """Take from errors of the parser what a terminal would obey."""
    try:
        yield
    except Exception as error:
        for name in ("message", "option_name", "param_hint", "filename", "ui_filename"):
            if hasattr(error, "show") and isinstance(getattr(error, name, None), str):
                setattr(error, name, printable(getattr(error, name), lines=True))
        raise


def _one_line(error: Exception) -> str:
    message = one_line(str(error))
    full = "the disk is full: free some space, and run the same command again" if _is_full(error) else ""
    if isinstance(error, IcehouseError):
        return f"{message}; {full}" if full else message
    if full:
        where = getattr(error, "filename", None)
        return f"{where}: {full}" if where else full
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'operating system'}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {message} (ICEHOUSE_DEBUG=1 shows where; please report it)"


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, is that of a full disk; libraries tell it in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "no space left on device" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


app = typer.Typer(
    name="icehouse",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Frozen-embedding feature store with lightweight heads: embed once, experiment for ever.",
)
for room in (
    embed_commands,
    store_commands,
    heads_commands,
    serve_commands,
    label_commands,
    watch_commands,
):
    app.add_typer(room.app)
app.command(rich_help_panel="Store")(dups_commands.split)
app.add_typer(
    serve_commands.captions,
    name="captions",
    help="Captions: list, show, sample as a page, statistics.",
    rich_help_panel="Embed",
)
app.add_typer(
    dups_review_commands.app,  # which adds to that of `dups_commands`
    name="dups",
    help="Near-duplicates: find, group, list, measure.",
    rich_help_panel="Store",
)
app.add_typer(
    store_commands.index_app, name="index", help="Vector indexes (FAISS): quicker search in large stores."
)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Entry point of the ``icehouse`` script."""
    fill_closed()
    replacements = Replacements()
    replacements.install()
    try:
        app()
    finally:
        if replacements.count and not sys.stdout.isatty():
            say(
                f"note: '?' stands for {count_of(replacements.count, 'character')} that the output's "
                f"encoding ({sys.stdout.encoding}) lacks; "
                "PYTHONUTF8=1 keeps them"
            )


if __name__ == "__main__":
    main()
