"""`icehouse dups gallery`: found duplicates as pages to look at."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...console import DEFAULT_STORE, JsonOption, StoreOption, bar, echo, print_json, say
from ...dups.options import SearchOption, say_which

__all__ = ["gallery", "show_gallery"]


class Kind(StrEnum):
    """Kinds of members."""

    exact = "exact"
    perceptual = "perceptual"
    embedding = "embedding"
    indirect = "indirect"


class Sort(StrEnum):
    """Orders of groups."""

    chained = "chained"
    score = "score"
    size = "size"
    group = "group"


def gallery(
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write.", show_default="STORE/dups/NAME/gallery"),
    ] = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option("--kind", help="Only members of this kind beside the keeper; may be repeated."),
    ] = None,
    min_cosine: Annotated[
        float | None, typer.Option("--min-cosine", help="Only members at least so like their keeper.")
    ] = None,
    max_cosine: Annotated[
        float | None, typer.Option("--max-cosine", help="Only members at most so like their keeper.")
    ] = None,
    chained: Annotated[bool, typer.Option("--chained", help="Only chained groups.")] = False,
    sort: Annotated[
        Sort,
        typer.Option(
            "--sort", help="chained: these first, then the least alike; score: the least alike; size; group."
        ),
    ] = Sort.chained,
    max_groups: Annotated[int, typer.Option("--max-groups", help="Most groups to show.")] = 1000,
    members: Annotated[int, typer.Option("--members", help="Most members of a group to show.")] = 48,
    per_page: Annotated[int, typer.Option("--per-page", help="Most groups on a page.")] = 24,
    thumbnail: Annotated[
        int, typer.Option("--thumbnail", help="Longest side of the pictures, pixels.")
    ] = 320,
    as_json: JsonOption = False,
) -> None:
    """Write found duplicates as pages to look at: groups side by side, keepers marked. They work offline."""
    from ...dups.find import Duplicates
    from ...dups.gallery_groups import Choice
    from .gallery import write_gallery

    choice = Choice(
        kinds=frozenset(k.value for k in kind) if kind else None,
        min_cosine=min_cosine,
        max_cosine=max_cosine,
        chained=chained,
        sort=sort.value,
        max_groups=max_groups,
        members=members,
    )
    found = Duplicates.open(store, name)
    with bar("pictures") as progress:
        made = write_gallery(
            store, found.name, out=out, choice=choice, per_page=per_page, side=thumbnail, progress=progress
        )
    say_which(store, found, name)
    if as_json:
        print_json({"path": made.path.resolve(), **made.summary})
        return
    told = made.summary
    if told["groups_left_out"]:
        say(f"note: {told['groups_left_out']} groups are left out; see --max-groups and the filters")
    say(
        f"{told['groups']} groups, {told['members']} items, {told['pages']} pages, {told['bytes'] / 1e6:.1f} MB"
    )
    echo(made.path.resolve())


def show_gallery(store: Path, name: str) -> Path:
    """Write the gallery of results as it is by default; the path to open."""
    from .gallery import write_gallery

    with bar("pictures") as progress:
        return write_gallery(store, name, progress=progress).path.resolve()
