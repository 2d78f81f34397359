"""`icehouse dups leakage`: near-duplicates between splits, and splits cleaned of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    echo,
    print_json,
    print_table,
    say,
)
from ...errors import UsageError
from .options import SearchOption, say_which

if TYPE_CHECKING:
    from ...store.dups.leakage import Leakage

__all__ = ["leakage"]

_SHOWN = 10


def leakage(
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    split_column: Annotated[str, typer.Option("--split-column", help="Column of splits.")] = "split",
    label: Annotated[
        str | None,
        typer.Option("--label", "-l", help="Labels to compare across splits.", show_default="label, if any"),
    ] = None,
    max_leakage: Annotated[
        float | None,
        typer.Option(
            "--max-leakage", metavar="X", help="Exit 1 if more than this share (0 to 1) of test leaks."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write splits without leaks, for `icehouse join`."),
    ] = None,
    drop: Annotated[
        Literal["train", "test"],
        typer.Option("--drop", help="Which side of a leak leaves in FILE; train keeps test as published."),
    ] = "train",
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="Name of the splits in FILE.",
            show_default="the split column's, so that a join replaces it",
        ),
    ] = None,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Count near-duplicates between splits, name the test and dev items that leak, and write splits without them."""
    from ...store.dups.find import Duplicates
    from ...store.dups.leakage import find_leakage, write_cleaned
    from ...store.store import Store

    if max_leakage is not None and not 0 <= max_leakage <= 1:
        raise UsageError(f"--max-leakage is a share of the test items, 0 to 1, not {max_leakage}")
    if out is None and column is not None:
        raise UsageError("--column names the splits in a file: add --out FILE")
    opened = Store.open(store)
    search = Duplicates.open(opened, name)
    found = find_leakage(opened, search.name, split_column=split_column, label=label)
    left = None
    if out is not None:
        left = write_cleaned(opened, out, search.name, split_column=split_column, drop=drop, column=column)
    say_which(store, search, name)
    for note in found.notes:
        say(f"note: {note}")
    worst = found.worst
    share = worst.share if worst else None
    unproven = share is None or found.capped or found.outdated
    over = max_leakage is not None and (unproven or (share or 0.0) > max_leakage)
    if as_json:
        cleaned = None if out is None else {"path": out, "drop": drop, "left": left}
        print_json({**asdict(found), "max_leakage": max_leakage, "over": over, "cleaned": cleaned})
    else:
        _report(found)
        if out is not None and left is not None:
            gone = ", ".join(f"{count} leave {split}" for split, count in left.items() if count)
            echo(f"\n{out}: {gone or 'nobody leaves'}; bring it with `icehouse join {out}`")
    if over and worst is not None:
        if share is None:
            say(f"leakage of {worst.split} is unknown: the search looked at none of its items")
        elif share > (max_leakage or 0.0):
            say(f"leakage of {worst.split} is {share:.2%}, more than the {max_leakage:.2%} allowed")
        else:
            why = "stopped at its cap on pairs" if found.capped else "is older than some items"
            say(
                f"leakage of {worst.split} is at least {share:.2%}; that it is not more than the {max_leakage:.2%} allowed "
                f"cannot be told, since the search {name!r} {why}"
            )
        raise typer.Exit(1)


def _report(found: Leakage) -> None:
    names = [name or "(none)" for name in found.splits]
    cells = {(pair["split_a"], pair["split_b"]): pair for pair in found.pairs}
    rows = [
        [names[a], items, *("" if b < a else cells[one, two]["pairs"] for b, two in enumerate(found.splits))]
        for a, (one, items) in enumerate(found.splits.items())
    ]
    print_table(["split", "items", *names], rows, title=f"Duplicate pairs, search {found.search['name']!r}")
    between = [pair for pair in found.pairs if pair["split_a"] != pair["split_b"] and pair["pairs"]]
    if between:
        kinds = ("exact", "perceptual", "embedding")
        rows = [
            [
                f"{pair['split_a'] or '(none)'} - {pair['split_b'] or '(none)'}",
                *(pair[kind] for kind in kinds),
            ]
            for pair in between
        ]
        print_table(["between", *kinds], rows, title="\nKinds of pairs between splits")
    print_table(
        ["split", "against", "items", "covered", "leak", "share", "from each", "first"],
        [
            [
                a.split,
                " + ".join(a.against),
                a.items,
                a.covered,
                len(a.ids),
                "" if a.share is None else f"{a.share:.2%}",
                ", ".join(f"{other} {count}" for other, count in a.by_split.items()),
                ", ".join(a.ids[:3]) + (", …" if len(a.ids) > 3 else ""),
            ]
            for a in found.affected
        ],
        title="\nItems with a near-duplicate where they must have none (direct pairs and their copies)",
    )
    labels = found.labels
    if labels and labels["pairs"]:
        echo(
            f"\n{labels['column']}: {labels['differing']} of {labels['pairs']} labelled pairs across splits have two "
            f"different labels, which concerns {labels['disagreeing']} of {labels['items']} items"
        )
        rows = [
            [e["item"], e["item_split"], e["item_label"], e["of"], e["of_split"], e["of_label"]]
            for e in labels["examples"][:_SHOWN]
        ]
        if rows:
            print_table(["item", "split", "label", "duplicate of", "split", "label"], rows)
