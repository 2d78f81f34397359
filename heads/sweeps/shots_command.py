"""The command `icehouse shots`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...console import DEFAULT_STORE, JsonOption, StoreOption, echo, one_line, print_json, print_table, say
from ...errors import UsageError
from ..options import (
    ROWS,
    CombinationsOption,
    LabelOption,
    Metric,
    MissingOption,
    PositiveOption,
    SplitColumnOption,
    StrictLabelsOption,
    WhereOption,
    tell_labels,
)
from ..score_text import interval_text, value_text

if TYPE_CHECKING:
    from .shots import Curves

__all__ = ["shots"]


def shots(
    heads: Annotated[
        str, typer.Option("--heads", help="Families, comma-separated; see `icehouse heads`.")
    ] = "logreg,tip-adapter",
    store: StoreOption = DEFAULT_STORE,
    inputs: CombinationsOption = None,
    counts: Annotated[
        str, typer.Option("--shots", help="Labelled items a class, comma-separated; 0 adds zero-shot.")
    ] = "1,2,4,8,16",
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Draws of the items; all heads get the same.")
    ] = 10,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid", help="Parameters, a curve for each: HEAD:NAME=VALUES, repeatable.", show_default=False
        ),
    ] = None,
    metric: Annotated[Metric, typer.Option("--metric", "-m", help="Score to show.")] = "macro_f1",
    positive: PositiveOption = None,
    name: Annotated[
        str, typer.Option("--name", "-n", help="What is done under a name is not done again.")
    ] = "shots",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was done under that name.")] = False,
    label: LabelOption = "label",
    split_column: SplitColumnOption = "split",
    where: WhereOption = None,
    missing: MissingOption = "drop",
    test: Annotated[
        bool,
        typer.Option(
            "--test/--no-test", help="Score the test split; without, a dev split.", rich_help_panel=ROWS
        ),
    ] = True,
    dups: Annotated[
        list[str] | None,
        typer.Option(
            "--dups",
            metavar="NAME",
            help='Results of `icehouse dups find`, so that no draw has near-duplicates, or "none"; repeatable.',
            show_default="the newest by a feature of an input's kind",
            rich_help_panel=ROWS,
        ),
    ] = None,
    strict_labels: StrictLabelsOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Learning curves: heads fitted on a few labelled items a class, drawn again and again, scored on test."""
    from ...store.store import Store
    from .plan import parse_grid
    from .shots import shots as draw_and_fit

    opened = Store.open(store)
    tell_labels(opened, label, where, strict_labels)
    with _progress() as watch:
        done = draw_and_fit(
            opened,
            [head.strip() for head in heads.split(",") if head.strip()],
            inputs=inputs,
            counts=_counts(counts),
            draws=draws,
            grid=parse_grid(grid or []),
            label=label,
            split_column=split_column,
            where=where,
            missing=missing,
            dups=dups or "auto",
            test=test,
            positive=positive,
            seed=seed,
            name=name,
            fresh=fresh,
            watch=watch,
        )
    for note in done.notes:
        say(f"note: {note}")
    if as_json:
        print_json(
            {
                "path": done.path,
                "test_rows": done.test_rows,
                "on": done.on,
                "looks": done.looks,
                "notes": done.notes,
                "points": [point.as_json() for point in done.points],
            }
        )
        return
    _print(done, metric, draws)
    say(f"left in {done.path}")


def _print(done: Curves, metric: str, draws: int) -> None:
    from ..looks import about_looks

    counts = sorted({point.shots for point in done.points})
    cells: dict[str, dict[int, str]] = {}
    titles: dict[str, list[str]] = {}
    for point in done.points:
        trial = point.trial
        params = "".join(f" {name}={value}" for name, value in trial.params.items())
        titles[trial.key] = [trial.family + params, trial.inputs]
        value = point.values.get(metric)
        if value is None:
            said = "left out"
        elif value["mean"] is None:
            said = "not defined"
        else:
            spread = "" if value["sd"] is None else f" ± {value_text(value['sd'], metric)}"
            between = interval_text(value["low"], value["high"], metric)
            said = f"{value_text(value['mean'], metric)}{spread} ({between})"
        cells.setdefault(trial.key, {})[point.shots] = said
    print_table(
        ["head", "inputs", *(f"{count} shot{'' if count == 1 else 's'}" for count in counts)],
        [[*titles[key], *(row.get(count, "") for count in counts)] for key, row in cells.items()],
        title=f"{metric} on {done.test_rows} {done.on} rows, by labelled items a class",
    )
    unit = "M" if metric == "log_loss" else "In percent: m"
    echo(
        f"\n{unit}ean ± standard deviation over {draws} draws (95% interval of the mean, over draws and rows)."
    )
    if done.looks is not None:
        echo("Test was scored for every draw, to show the curve: choose nothing by it.")
        echo(about_looks(done.looks))


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Say on a terminal what is being fitted; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("drawing") as status:
        yield lambda done, total, what: status.update(Text(one_line(f"{done} of {total}: {what}")))


def _counts(text: str) -> list[int]:
    try:
        return [int(piece) for piece in text.split(",") if piece.strip()]
    except ValueError:
        raise UsageError(f"--shots takes numbers such as 1,2,4,8,16, not {text!r}") from None
