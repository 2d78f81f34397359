"""Option `--name` of the commands that read a search for duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import say

if TYPE_CHECKING:
    from .find import Duplicates

__all__ = ["SearchOption", "say_which"]

SearchOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        "-n",
        help="Name of a search by `icehouse dups find`.",
        show_default="that by the only encoder's images, else the newest",
    ),
]


def say_which(store: Path, found: Duplicates, name: str | None) -> None:
    """Say which search was opened, where it was not named and there are several."""
    from ..store.store import Store
    from .find import HASHES, list_duplicates, search_name

    if name is None and found.name == HASHES and found.feature is not None:
        say(
            f"note: by the search {HASHES!r}, made before searches were named after their feature; `icehouse dups find` "
            f"makes {search_name(found.feature)!r} beside it"
        )
    others = [other for other in list_duplicates(Store.open(store)) if other != found.name]
    if name is None and others:
        say(f"note: by the search {found.name!r}; --name takes another: {', '.join(others)}")
