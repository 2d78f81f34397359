"""CLI: report, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...console import DEFAULT_STORE, JsonOption, StoreOption, echo, print_json, print_table, say
from ..options import DrawsOption

if TYPE_CHECKING:
    from .explain import Explanation, TokenEffects

__all__ = ["explain", "report"]

# Tokens that are named in a terminal.
_TOKENS = 6


def report(
    run: Annotated[str, typer.Argument(help='Id of a run, a part of it, or "latest".')] = "latest",
    store: StoreOption = DEFAULT_STORE,
    ablation: Annotated[
        bool | None,
        typer.Option(
            "--ablation/--no-ablation",
            help="Fit the head again on subsets of its inputs, to tell what each adds.",
            show_default="where it is known or quick",
        ),
    ] = None,
    draws: DrawsOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Make a run's report again: a page, the same as JSON, and figures as PNG, in the run's folder."""
    from ...store.store import Store
    from ..runs import Run
    from .report import write_report

    opened = Store.open(store)
    found = Run.load(opened, run)
    path = write_report(opened, found, ablation=ablation, draws=draws)
    if as_json:
        print_json(
            {
                "run_id": found.run_id,
                "report": str(path),
                "json": str(path.with_suffix(".json")),
                "figures": sorted(str(figure) for figure in (path.parent / "figures").glob("*.png")),
            }
        )
        return
    echo(str(path))


def explain(
    run: Annotated[str, typer.Argument(help='Id of a run, a part of it, or "latest".')],
    items: Annotated[list[str], typer.Argument(help="Ids of items of the store.", metavar="ITEM...")],
    store: StoreOption = DEFAULT_STORE,
    neighbours: Annotated[
        int, typer.Option("--neighbours", "-k", min=0, help="Nearest training items to show.")
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a page with pictures and maps.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a run answers as it does: what each input contributes, where the head looks, what lies nearest."""
    from ...store.store import Store
    from ..runs import Run
    from .explain import explain as explain_items
    from .explain import write_explanation

    opened = Store.open(store)
    found = Run.load(opened, run)
    explained = explain_items(opened, found, items, k=neighbours)
    if out is not None:
        write_explanation(out, opened, found, explained)
    if as_json:
        print_json({"run_id": found.run_id, "page": out, "items": [one.as_json() for one in explained]})
        return
    for number, one in enumerate(explained):
        if number:
            echo("")
        _print(one)
    if out is not None:
        say(f"left in {out}")


def _print(one: Explanation) -> None:
    label = "" if one.label is None else f"; the store says {one.label!r}"
    role = f" ({one.role})" if one.role else ""
    echo(
        f"{one.item.item_id}{role}: {one.predicted!r} {100 * one.proba[one.predicted]:.1f}%, then {one.runner_up!r} "
        f"{100 * one.proba[one.runner_up]:.1f}%{label}"
    )
    rows = [["all at their means", f"{100 * one.base['probability']:.1f}%", f"{one.base['log_odds']:+.3f}"]]
    rows += [
        [f"+ {name}", f"{100 * added['probability']:+.1f}", f"{added['log_odds']:+.3f}"]
        for name, added in one.contributions.items()
    ]
    total = one.base["log_odds"] + sum(added["log_odds"] for added in one.contributions.values())
    rows.append(["= prediction", f"{100 * one.proba[one.predicted]:.1f}%", f"{total:+.3f}"])
    print_table([f"contribution to {one.predicted!r}", "points", f"log-odds against {one.runner_up!r}"], rows)
    for name, view in one.tokens.items():
        kind = (
            f"{view.grid[0]}×{view.grid[1]} patches"
            if view.grid is not None
            else f"{len(view.effect)} tokens"
        )
        places = [_place(view, i) for i in range(len(view.effect))]
        strongest = sorted(range(len(places)), key=lambda i: -abs(view.effect[i]))[:_TOKENS]
        told = ", ".join(f"{places[i]} ({view.effect[i]:+.2f})" for i in strongest)
        echo(f"left out, of the {kind} of {name}, these change the log-odds most: {told}")
        if view.times and view.even:
            echo(
                f"attention over them is even ({min(view.times):.2f} to {max(view.times):.2f} times a share)"
            )
        elif view.times:
            most = sorted(range(len(places)), key=lambda i: -view.times[i])[:_TOKENS]
            told = ", ".join(f"{places[i]} ({view.times[i]:.1f}×)" for i in most)
            echo(f"attention over them, times an even share: {told}")
    if one.nearest:
        print_table(
            ["nearest in training", "label", "cosine", "by input", ""],
            [
                [
                    near.item_id,
                    near.label,
                    f"{near.cosine:.3f}",
                    ", ".join(f"{name} {value:.3f}" for name, value in near.by_input.items()),
                    f"same {' and '.join(near.copy)}"
                    if near.copy
                    else "near-duplicate"
                    if near.near_duplicate
                    else "",
                ]
                for near in one.nearest
            ],
        )


def _place(view: TokenEffects, i: int) -> str:
    if view.grid is not None:
        return f"row {i // view.grid[1] + 1} column {i % view.grid[1] + 1}"
    return repr(view.words[i].strip()) if view.words is not None else f"token {i + 1}"
