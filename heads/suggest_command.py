"""The command `icehouse suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..console import DEFAULT_STORE, ExcelSafeOption, JsonOption, StoreOption, print_json, print_table, say
from .options import ROWS, SplitColumnOption

__all__ = ["suggest"]

_BRIEF = 60


def suggest(
    n: Annotated[int, typer.Option("-n", min=1, help="How many items.")] = 50,
    store: StoreOption = DEFAULT_STORE,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            "-r",
            help='Run whose uncertainty counts, or "none" to go by coverage alone.',
            show_default="the latest, if there is one",
        ),
    ] = None,
    by: Annotated[
        Literal["margin", "entropy", "least-confidence"], typer.Option("--by", help="Kind of uncertainty.")
    ] = "margin",
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            "-i",
            help="Without a run: features that tell where items stand.",
            show_default="every modality of the store",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", "-l", help="Column of labels.", show_default='the run\'s, else "label"'),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Choose from these items, labelled or not.",
            show_default="the unlabelled ones, but for dev and test splits",
            rich_help_panel=ROWS,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition that items to choose from must meet.", rich_help_panel=ROWS),
    ] = None,
    split_column: SplitColumnOption = "split",
    dups: Annotated[
        list[str] | None,
        typer.Option(
            "--dups",
            metavar="NAME",
            help='Results of `icehouse dups find`, so that no two are near-duplicates, or "none"; repeatable.',
            show_default="the newest by a feature of an input's kind",
            rich_help_panel=ROWS,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write to FILE: .csv, .json or .parquet."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the sample that stands for very many items.", rich_help_panel=ROWS)
    ] = 0,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Which unlabelled items to label next: what a head is unsure of, spread over the space, none like another."""
    from ..store import results
    from ..store.store import Store
    from .suggest import suggest as choose

    made = choose(
        Store.open(store),
        n,
        run=None if run == "none" else run or "auto",
        by=by,
        inputs=inputs,
        label=label,
        pool=pool,
        where=where,
        split_column=split_column,
        dups=dups or "auto",
        seed=seed,
    )
    if out is not None:
        results.save(made.table, out)
    if as_json:
        print_json({**made.about, "items": results.json_values(made.table)})
    elif out is None:
        rows = [
            [
                row["item_id"],
                row["path"],
                _brief(row["text"]),
                "" if row["uncertainty"] is None else f"{row['uncertainty']:.2f}",
                row["predicted"],
                row["why"],
            ]
            for row in made.table.to_pylist()
        ]
        print_table(["item", "path", "text", "uncertainty", "predicted", "why"], rows)
    _say(made.about, len(made.table), out)


def _say(about: dict[str, Any], n: int, out: Path | None) -> None:
    """How they were chosen."""
    how = f"by {about['by']} of run {about['run']}" if about["run"] else "by coverage alone, without a run"
    say(f"{n} of {about['unlabelled']} items to choose from, {how}" + (f", in {out}" if out else ""))
    if about["searches"]:
        alike = f"no near-duplicates among them, by the search {', '.join(about['searches'])}"
    else:
        alike = "no copies among them"
    closest = "" if about["closest"] is None else f"; the nearest two at cosine {about['closest']:.2f}"
    say(alike + closest)
    if about["like_labelled"]:
        say(f"passed over: {about['like_labelled']} that resemble a labelled item")
    if about["held_out"]:
        say(f"passed over: {about['held_out']} of dev and test splits")
    for note in about["notes"]:
        say(f"note: {note}")
    if not about["searches"]:
        from .seen import searches_for

        first = searches_for(about["features"])
        say(f"hint: only exact copies are known; {first} first keeps near-duplicates out too")


def _brief(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= _BRIEF else text[: _BRIEF - 1] + "…"
