"""The command line: each command parses, calls one library function, and prints.

The commands live beside what they call, in each room's `commands.py`; this module puts them on one table and turns every
error into one line. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .console import debugging
from .embed import commands as embed_commands
from .errors import IcehouseError
from .heads import commands as heads_commands
from .serve import captions_commands
from .serve import commands as serve_commands
from .serve.dups import commands as dups_commands
from .store import commands as store_commands
from .store.index import commands as index_commands

__all__ = ["app", "main"]


class OneLineErrors(TyperGroup):
    """A group whose commands never show a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error becomes one line on stderr and an exit status."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            # Wrong usage shows itself: the parser's errors, told by `show` whichever Click Typer brings along.
            if hasattr(error, "show") or debugging():
                raise
            typer.echo(f"icehouse: {_one_line(error)}", err=True)
            raise typer.Exit(error.exit_code if isinstance(error, IcehouseError) else 1) from None


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, IcehouseError):
        return message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'operating system'}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {message} (ICEHOUSE_DEBUG=1 shows where; please report it)"


app = typer.Typer(
    name="icehouse",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Frozen-embedding feature store with lightweight heads: embed once, experiment for ever.",
)
for room in (embed_commands, store_commands, heads_commands, serve_commands):
    app.add_typer(room.app)
app.add_typer(
    captions_commands.app,
    name="captions",
    help="Captions: list, show, sample as a page, statistics.",
    rich_help_panel="Embed",
)
app.add_typer(
    dups_commands.app,
    name="dups",
    help="Near-duplicates: find, group, list, measure.",
    rich_help_panel="Store",
)
app.add_typer(
    index_commands.app, name="index", help="Vector indexes (FAISS): quicker search in large stores."
)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(__version__)
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
    try:
        app()
    except BrokenPipeError:
        # `icehouse sql ... | head` closed the pipe: nothing is wrong, and nothing more can be said.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
