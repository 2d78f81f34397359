"""Options that several commands of heads share, each declared once."""

from functools import partial
from typing import Annotated, Literal, TypeAlias

import typer

#: Panel of `--help` for options that choose rows.
ROWS = "Which rows"

rows_option = partial(typer.Option, rich_help_panel=ROWS)
dups_option = partial(
    rows_option, "--dups", metavar="NAME", show_default="the newest by a feature of an input's kind"
)

RunArgument = Annotated[
    str, typer.Argument(help='Id of a run, a part of it, or "latest".', show_default=False)
]
LabelOption = Annotated[str, typer.Option("--label", "-l", help="Column of labels.")]
SplitColumnOption = Annotated[str, rows_option(help="Column of splits.")]
TestOption = Annotated[
    bool,
    rows_option(
        "--test/--no-test", help="Score the test split, or leave it alone until `icehouse evaluate`."
    ),
]
WhereOption = Annotated[str | None, rows_option(help='SQL condition over items, such as "width >= 64".')]
MissingOption = Annotated[
    Literal["drop", "keep"], rows_option(help="Leave out items that lack an input, or keep them.")
]
DupsOption = Annotated[
    list[str] | None,
    dups_option(
        help='Results of `icehouse dups find` by which rows without a near-duplicate in training are scored too, or "none"; '
        "repeatable."
    ),
]
PositiveOption = Annotated[
    str | None,
    typer.Option(
        help="Class whose average precision is meant.",
        show_default="the rarer of two; the mean over more",
    ),
]
DrawsOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Bootstrap resamples of differences and calibration; scores' intervals need none. 0: no intervals.",
    ),
]
RefitOption = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit",
        help="Fit the choice again with the dev rows.",
        show_default="only where dev was held out of train",
    ),
]

#: The keys of `icehouse.heads.metrics.METRICS`.
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
        help="Parameters to try beside the heads' own choices: HEAD:NAME=VALUES, repeatable.",
        show_default=False,
    ),
]
