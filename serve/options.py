"""Options that several commands which serve share."""

from pathlib import Path
from typing import Annotated

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
