"""Options that several commands which serve share."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

StorePath = Annotated[Path | None, typer.Argument(metavar="STORE", help="A store.", show_default="--store")]
RunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        "-r",
        help="Head that answers: id of a run, a part of it, the label it learned, or the folder of a package; "
        "repeatable, the first is the default.",
        show_default="the latest run",
    ),
]
HostOption = Annotated[
    str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one that this machine has.")
]
PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes one that is free.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="ICEHOUSE_TOKEN",
        show_envvar=True,
        show_default=False,
        help="What every request but those for health has to bring: as a bearer token, by the login form, or once as "
        "?token= in the address.",
    ),
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        help="Name by which clients may call the server, beside addresses and this machine's own; repeatable, * is any.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]


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
