"""Options that several commands of this room share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ..console import StrictLabelsOption, say

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = [
    "ROWS",
    "ClassWeightOption",
    "CombinationsOption",
    "DrawsOption",
    "DupsOption",
    "GridOption",
    "LabelOption",
    "Metric",
    "MetricOption",
    "MissingOption",
    "PositiveOption",
    "SplitColumnOption",
    "StrictLabelsOption",
    "TestOption",
    "WhereOption",
    "tell_labels",
]

#: Panel of `--help` for options that choose rows.
ROWS = "Which rows"

LabelOption = Annotated[str, typer.Option("--label", "-l", help="Column of labels.")]

SplitColumnOption = Annotated[str, typer.Option(help="Column of splits.", rich_help_panel=ROWS)]

TestOption = Annotated[
    bool,
    typer.Option(
        "--test/--no-test",
        help="Score the test split, or leave it alone until `icehouse evaluate`.",
        rich_help_panel=ROWS,
    ),
]

WhereOption = Annotated[
    str | None,
    typer.Option(help='SQL condition over items, such as "width >= 64".', rich_help_panel=ROWS),
]

MissingOption = Annotated[
    Literal["drop", "keep"],
    typer.Option(help="Leave out items that lack an input, or keep them.", rich_help_panel=ROWS),
]

DupsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dups",
        metavar="NAME",
        help='Results of `icehouse dups find` by which rows without a near-duplicate in training are scored too, or "none"; '
        "repeatable.",
        show_default="the newest by a feature of an input's kind",
        rich_help_panel=ROWS,
    ),
]

PositiveOption = Annotated[
    str | None,
    typer.Option(
        "--positive",
        help="Class whose average precision is meant.",
        show_default="the rarer of two; the mean over more",
    ),
]

DrawsOption = Annotated[
    int,
    typer.Option(
        "--draws",
        min=0,
        help="Bootstrap resamples of differences and calibration; scores' intervals need none. 0: no intervals.",
    ),
]

#: The keys of `icehouse.heads.score_text.METRICS`.
Metric: TypeAlias = Literal["macro_f1", "accuracy", "weighted_f1", "auroc", "average_precision", "log_loss"]

MetricOption = Annotated[Metric, typer.Option("--metric", "-m", help="Score that decides, and that ranks.")]

ClassWeightOption = Annotated[
    Literal["balanced"] | None,
    typer.Option(help="Weigh classes by the inverse of their frequency.", show_default="none"),
]

CombinationsOption = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        "-i",
        help="Combinations to try: image+text,image,text.",
        show_default="all modalities together, and each alone",
    ),
]

GridOption = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        help="Parameters to try beside the heads' own choices: HEAD:NAME=VALUES, repeatable.",
        show_default=False,
    ),
]


def tell_labels(store: Store, label: str, where: str | None, strict: bool) -> None:
    """Warn of labels that are nearly the same before anything is fitted, or refuse them."""
    from .samples import check_labels

    if label not in store.items.snapshot().schema.names:
        return  # what is fitted says so, after it has looked at its own arguments
    for line in check_labels(store, label, where=where, strict=strict):
        say(f"WARNING: {line}")
