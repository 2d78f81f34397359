"""`icehouse split`: splits that no group of near-duplicates straddles."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    echo,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from .split import SplitReport

__all__ = ["split"]

#: Classes in the table; the rest are counted together.
_SHOWN = 30


def split(
    store: StoreOption = DEFAULT_STORE,
    ratios: Annotated[
        str,
        typer.Option(
            "--ratios",
            "-r",
            help="Shares: 2 for train and test, 3 with dev between, or named as in train=0.8,test=0.2.",
        ),
    ] = "0.8,0.1,0.1",
    stratify: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column whose classes are kept in proportion.", show_default="none"
        ),
    ] = None,
    keep_together: Annotated[
        list[str] | None,
        typer.Option(
            metavar="duplicates|COLUMN",
            help="What must not part: duplicates, or equal values of a column; repeatable.",
            show_default="nothing",
        ),
    ] = None,
    dups: Annotated[
        list[str] | None,
        typer.Option(
            "--dups",
            metavar="NAME",
            help="Results of `icehouse dups find` behind duplicates; repeatable.",
            show_default="the newest for pictures and the newest for texts",
        ),
    ] = None,
    column: Annotated[str, typer.Option(help="Column to write.")] = "split",
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Only items that meet this condition get a split.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write a file for `icehouse join`, not the store."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace all values of a column that is there.")
    ] = False,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Split the items by class, with near-duplicates or equal values of a column on one side."""
    from ..errors import UsageError
    from .split import DUPLICATES, parse_ratios, split_items

    if dups and DUPLICATES not in (keep_together or []):
        raise UsageError("--dups says which duplicates to keep together: add --keep-together duplicates")
    report = split_items(
        store,
        ratios=parse_ratios(ratios),
        stratify=stratify,
        keep_together=keep_together or (),
        dups=dups or (),
        column=column,
        seed=seed,
        where=where,
        out=out,
        overwrite=overwrite,
    )
    for note in report.notes:
        say(f"note: {note}")
    if as_json:
        print_json(asdict(report))
        return
    _report(report, stratify)


def _report(report: SplitReport, stratify: str | None) -> None:
    total = sum(report.splits.values())
    rows = [["all", total, *(f"{n} ({n / total:.1%})" for n in report.splits.values())]]
    classes = report.balance if stratify else []
    for row in classes[:_SHOWN]:
        counts = [row[name] for name in report.splits]
        shares = (f"{n} ({n / sum(counts):.1%})" for n in counts)
        rows.append([row["label"] if row["label"] is not None else "(none)", sum(counts), *shares])
    asked = [f"{name} ({report.ratios[name]:.1%})" for name in report.splits]
    print_table([stratify or "", "items", *asked], rows)
    if len(classes) > _SHOWN:
        echo(f"and {len(classes) - _SHOWN} rarer classes")
    groups = report.groups
    if groups["kept"]:
        echo(
            f"\nkept together ({', '.join(groups['kept'])}): {groups['of_several']} groups of two items or more, "
            f"{groups['items']} items in them, {groups['largest']} in the largest"
        )
    if report.path is not None:
        echo(f"\n{report.path}: bring it with `icehouse join {report.path}`")
    else:
        replaced = f", {report.replaced} of which had another value" if report.replaced else ""
        echo(f"\ncolumn {report.column!r} of {total} items{replaced}; seed {report.seed}")
