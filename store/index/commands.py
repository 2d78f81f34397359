"""The commands `icehouse index build` and `icehouse index info`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ...console import DEFAULT_STORE, JsonOption, StoreOption, print_json, print_table, say

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


class IndexKind(StrEnum):
    """Kinds of index."""

    flat = "flat"
    ivf = "ivf"
    hnsw = "hnsw"


@app.command()
def build(
    features: Annotated[
        list[str] | None,
        typer.Argument(help="Features to index; by default all joint ones.", show_default=False),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    kind: Annotated[
        IndexKind | None,
        typer.Option(help="Kind of index.", show_default="as before, else by size and recall"),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of the ten nearest to be found.", show_default="as before, else .95"
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for FAISS.", show_default="OMP_NUM_THREADS, else all")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build from nothing, not from new rows.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the vector index of a feature, or bring it up to date."""
    from ..store import Store
    from .build import build_index, joint_features

    opened = Store.open(store)
    made = []
    for feature in features or joint_features(opened):
        built = build_index(
            opened,
            feature,
            kind=kind.value if kind else None,
            recall=recall,
            threads=threads,
            rebuild=rebuild,
        )
        made.append({**built.info.as_dict(), "action": built.action, "reason": built.reason})
        say(
            f"{feature}: {built.action} ({built.reason}): {built.info.kind} of {built.info.vectors:,} vectors"
        )
        if built.short:
            asked = " and ".join(built.short)
            say(
                f"{feature}: recall with {asked} queries is below the {built.info.wanted:g} asked for; try another --kind"
            )
    if as_json:
        print_json(made)
    else:
        _show(made)


@app.command()
def info(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Show the indexes of a store: kind, size, recall, whether they are fresh."""
    from ..store import Store
    from .read import list_indexes

    found = list_indexes(Store.open(store))
    if as_json:
        print_json(found)
        return
    _show([entry for entry in found if "kind" in entry])
    for entry in found:
        if entry["state"] != "fresh":
            say(
                f"{entry['feature']}: {entry['state']}: {entry['reason']}; `icehouse index build {entry['feature']}`"
            )
    if not found:
        say("no indexes yet; `icehouse index build` makes one")


def _show(entries: list[dict[str, Any]]) -> None:
    columns = ["feature", "kind", "vectors", "effort", "recall@10 image", "recall@10 text", "MB", "state"]
    rows = [
        [
            entry["feature"],
            entry["kind"],
            entry["vectors"],
            entry["effort"],
            *((entry["recall"][asked] or {}).get("recall@10") for asked in ("image", "text")),
            round(sum(file["bytes"] for file in entry["files"].values()) / 1e6, 1),
            entry.get("state", "fresh"),
        ]
        for entry in entries
    ]
    if rows:
        print_table(columns, rows)
