"""CLI: sweep, compare, shots; and options that commands of heads share, each declared once."""

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from ..console import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    StrictLabelsOption,
    echo,
    one_line,
    print_json,
    print_table,
    progress_bar,
    rich_table,
    say,
)
from ..errors import UsageError, count_of

if TYPE_CHECKING:
    from ..store.store import Store
    from .compare import Leaderboard, Score
    from .shots import Curves
    from .sweep import Trial, TrialResult

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


_UNITS = {"s": 1, "m": 60, "h": 3600}


def sweep(
    store: StoreOption = DEFAULT_STORE,
    heads: Annotated[
        str | None,
        typer.Option(help="Families, comma-separated; see `icehouse heads`.", show_default="all"),
    ] = None,
    inputs: CombinationsOption = None,
    seeds: Annotated[int, typer.Option(help="Fits of every trial, for the heads that draw.")] = 5,
    grid: GridOption = None,
    metric: MetricOption = "macro_f1",
    budget: Annotated[
        str | None,
        typer.Option(help="Begin no fit after so long: 90s, 5m, 1h.", show_default="none"),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", "-n", help="The sweep's name; one that is there goes on.")
    ] = "default",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what the sweep of that name has done.")
    ] = False,
    label: LabelOption = "label",
    split_column: SplitColumnOption = "split",
    where: WhereOption = None,
    missing: MissingOption = "drop",
    dups: DupsOption = None,
    positive: PositiveOption = None,
    draws: DrawsOption = 1000,
    class_weight: ClassWeightOption = None,
    test: TestOption = True,
    strict_labels: StrictLabelsOption = False,
    refit: RefitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try many heads and inputs, choose on dev, score each family's winner on test once; goes on where it stopped."""
    from ..store.store import Store
    from .compare import compare as compare_runs
    from .sweep import parse_grid
    from .sweep import sweep as run_sweep

    opened = Store.open(store)
    _warn_of_labels(opened, label, where, strict_labels)
    with _live(metric) as watch:
        done = run_sweep(
            opened,
            _listed(heads) if heads else None,
            inputs=inputs,
            seeds=seeds,
            grid=parse_grid(grid or []),
            metric=metric,
            label=label,
            split_column=split_column,
            where=where,
            missing=missing,
            dups=dups or "auto",
            positive=positive,
            draws=draws,
            class_weight=class_weight,
            refit=refit,
            test=test,
            budget=_seconds(budget),
            name=name,
            fresh=fresh,
            watch=watch,
        )
    notes = [f"{result.trial}: {result.error}" for result in done.results if result.error]
    notes += _notes(opened, [result.trial for result in done.results if not result.error], class_weight)
    notes += done.notes
    if done.left:
        notes.append(
            f"the budget left {len(done.left)} of {count_of(len(done.results), 'trial')} unfinished; "
            "the same command goes on with them"
        )
    for note in notes:
        say(f"note: {note}")
    runs = [run for found in done.winners.values() for run in found]
    board = None
    if any("test" in run.metrics for run in runs):
        # By the same metric: what decided is what is ranked.
        board = compare_runs(
            opened, runs, metric=metric, dups=dups or "auto", positive=positive, draws=draws or 2000
        )
    if as_json:
        # Beside the trials: `leaderboard` its entries, `board` what they have in common.
        told: dict[str, Any] = {"leaderboard": None}
        if board is not None:
            common = board.as_json()
            told = {"leaderboard": common.pop("leaderboard"), "board": common}
        print_json(
            {
                "path": done.record.path,
                "metric": metric,
                "trials": [
                    {
                        **result.as_json(),
                        "dev_mean": result.value(metric),
                        "dev_spread": result.spread(metric),
                        "seconds": result.seconds,
                    }
                    for result in done.results
                ],
                "winners": {family: [run.run_id for run in found] for family, found in done.winners.items()},
                **told,
            }
        )
        return
    columns, rows = _trial_rows(done.results, metric, done.best)
    print_table(columns, rows, title=f"On dev, {metric} (chosen here)")
    echo("")
    if board is None:
        why = "no test split" if test else "test was left alone (--no-test)"
        say(f"{why}: nothing but dev scores, which flatter a little")
        return
    _print_board(board)
    say(f"left in {done.record.path}; the winners are runs: see `icehouse runs`")


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs to compare, by id or a part of it.", show_default="a sweep's winners, else all runs"
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[
        str | None, typer.Option("--sweep", help="Compare the winners of this sweep.", show_default=False)
    ] = None,
    metric: Annotated[
        Metric | None,
        typer.Option("--metric", "-m", help="Score that ranks.", show_default="the sweep's, else macro_f1"),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by", "-g", help="Column of items, such as event or language: scores for each value."
        ),
    ] = None,
    dups: DupsOption = None,
    positive: PositiveOption = None,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of differences.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show the leaderboard: scores with intervals, paired tests against the leader, time, size, latency."""
    from ..store.store import Store
    from .compare import compare as compare_runs
    from .compare import find_runs
    from .sweep import SweepRecord, list_sweeps

    opened = Store.open(store)
    if name is None and not runs and "default" in list_sweeps(opened):
        name = "default"
    damaged: list[str] = []
    found = find_runs(opened, runs or (), sweep=name, damaged=damaged)
    if metric is None:  # what decided is what ranks
        metric = "macro_f1" if name is None or runs else SweepRecord.open(opened, name).data["metric"]
    board = compare_runs(
        opened,
        found,
        metric=metric,
        group_by=group_by,
        dups=dups or "auto",
        positive=positive,
        draws=draws,
        seed=seed,
    )
    board.notes[:0] = [f"left out: {reason}" for reason in damaged]
    if as_json:
        print_json(board.as_json())
        return
    _print_board(board, group_by)


def _warn_of_labels(store: "Store", label: str, where: str | None, strict: bool) -> None:
    from .inputs import check_labels

    for line in check_labels(store, label, where=where, strict=strict):
        say(f"WARNING: {line}")


def _notes(store: "Store", trials: "Sequence[Trial]", class_weight: str | None) -> list[str]:
    """Options that some of the heads could make nothing of."""
    from .families.zero_shot import prompt_notes
    from .registry import head_class

    notes: list[str] = []
    for trial in trials:
        kind = head_class(trial.family)
        if class_weight is not None and "class_weight" not in kind.parameters():
            notes.append(
                f"--class-weight {class_weight} means nothing to {trial.family}, which has no such parameter"
            )
        specs = {name: store.feature_table(feature).spec for name, feature in trial.features.items()}
        notes += prompt_notes(kind, trial.params, specs)
    return list(dict.fromkeys(notes))


def _print_board(board: "Leaderboard", group_by: str | None = None) -> None:
    from .metrics import interval_text, title, value_text
    from .runs import scoring_text

    metric = board.metric
    heading = title(metric, {"positive": board.positive and {"label": board.positive}})
    # Where only some were fitted again with the dev rows, that tells them apart.
    mixed = len({entry.refit for entry in board.entries}) > 1
    names = [
        _named(entry.family, entry.params) + (" (refit)" if mixed and entry.refit else "")
        for entry in board.entries
    ]
    chance = (
        "ranked by chance" if metric in ("auroc", "average_precision") else f"always {board.majority_label!r}"
    )
    base = "" if board.majority is None else f"; {chance}: {value_text(board.majority, metric)}"
    rows = []
    for name, entry in zip(names, board.entries, strict=True):
        behind = entry.behind
        spread = "" if entry.spread is None else f" ± {value_text(entry.spread, metric)}"
        rows.append(
            [
                name + ("" if entry.one_class is None else f" (only {entry.one_class!r})"),
                entry.inputs,
                value_text(entry.dev, metric),
                value_text(entry.test, metric) + spread,
                interval_text(entry.low, entry.high, metric),
                "leader" if behind is None else f"{_signed(behind.value, metric)} (p {behind.p:.2g})",
                _with_interval(entry.deduplicated, metric),
                len(entry.runs),
                f"{entry.seconds:.1f} s",
                _bytes(entry.size),
                "" if entry.latency is None else f"{1000 * entry.latency:.2f} ms",
            ]
        )
    print_table(
        [
            "head",
            "inputs",
            "dev" if board.dev_comparable else "dev (not comparable)",
            f"test {heading}",
            "95% interval",
            "to the leader",
            f"no {board.deduplicated.kind} ({count_of(len(board.deduplicated.rows), 'row')})",
            "seeds",
            "fit",
            "size",
            "one row",
        ],
        rows,
        title=f"{count_of(board.rows, 'test row')}{base}",
    )
    unit = "" if metric == "log_loss" else "In percent; "
    groups = len(set(board.deduplicated.groups.tolist()))
    over = "test rows" if groups == board.rows else f"{count_of(groups, 'group')} of duplicates"
    order = "dev" if board.dev_comparable else "test, since dev scores are not comparable"
    echo(
        f"\nOrdered by {heading} on {order}. {unit}± over the seeds, intervals over {over}, "
        "p of a paired bootstrap over the same."
    )
    echo(scoring_text(board.looks))
    if board.left_out:
        echo(
            f"note: {count_of(board.left_out, 'test row is', 'test rows are')} left out: not every run was scored on them"
        )
    for note in board.notes:
        echo(f"note: {note}")
    if group_by is not None and board.entries:
        echo("")
        heads = [f"{name} {entry.inputs}" for name, entry in zip(names, board.entries, strict=True)]
        scores = [
            [
                value,
                n,
                *(_with_interval(entry.groups[value][0].get(metric), metric) for entry in board.entries),
            ]
            for value, (_, n) in board.entries[0].groups.items()
        ]
        print_table(
            [group_by, "rows", *heads],
            scores,
            title=f"{heading} on test with 95% interval, by {group_by}",
        )


def _trial_rows(
    results: "Sequence[TrialResult]", metric: str, chosen: Mapping[str, str] | None = None
) -> tuple[list[str], list[list[Any]]]:
    """Table of trials, the best of each family marked: those `chosen` (family to key), else the best so far."""
    best: dict[str, tuple[float, float]] = {}
    for result in results:
        family, rank = result.trial.family, result.rank(metric)
        best[family] = max(best.get(family, rank), rank)
    rows: list[list[Any]] = []
    for result in results:
        value, spread = result.value(metric), result.spread(metric)
        wins = value is not None and result.rank(metric) == best[result.trial.family]
        if chosen is not None:
            wins = chosen.get(result.trial.family) == result.trial.key
        said = "" if value is None else f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
        rows.append(
            [
                _named(result.trial.family, result.trial.params),
                result.trial.inputs,
                said or ("left out" if result.error else ""),
                ("*" if wins else "") + (f" only {only!r}" if (only := result.one_class) is not None else ""),
                f"{len(result.seeds)}/{len(result.trial.seeds)}",
                f"{result.seconds:.1f} s" if result.seeds else "",
            ]
        )
    return ["head", "inputs", metric, "best", "seeds", "time"], rows


@contextlib.contextmanager
def _live(metric: str) -> Iterator[Any]:
    """Show the trials as they go, on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:

        def watch(results: "Sequence[TrialResult]", trial: "Trial | None") -> None:
            table = rich_table(*_trial_rows(results, metric))
            table.caption = Text(one_line(f"fitting {trial}") if trial else "scoring")
            live.update(table)

        yield watch


def _listed(text: str) -> list[str]:
    return [piece.strip() for piece in text.split(",") if piece.strip()]


def _named(family: str, params: Mapping[str, Any]) -> str:
    return family + "".join(f" {name}={value}" for name, value in params.items())


def _seconds(text: str | None) -> float | None:
    """Seconds from 90, 90s, 5m or 1h."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if found is None:
        raise UsageError(f"--budget takes a time such as 90s, 5m or 1h, not {text!r}")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _signed(value: float, metric: str) -> str:
    return f"{value:+.3f}" if metric == "log_loss" else f"{100 * value:+.1f}"


def _with_interval(score: "Score | None", metric: str) -> str:
    from .metrics import interval_text, value_text

    if score is None:
        return ""
    return f"{value_text(score.value, metric)} ({interval_text(score.low, score.high, metric)})"


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size = round(size / 1000)
    return f"{size} GB"


def shots(
    heads: Annotated[
        str, typer.Option(help="Families, comma-separated; see `icehouse heads`.")
    ] = "logreg,tip-adapter",
    store: StoreOption = DEFAULT_STORE,
    inputs: CombinationsOption = None,
    counts: Annotated[
        str, typer.Option("--shots", help="Labelled items a class, comma-separated; 0 adds zero-shot.")
    ] = "1,2,4,8,16",
    draws: Annotated[int, typer.Option(min=1, help="Draws of the items; all heads get the same.")] = 10,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Parameters, a curve for each: HEAD:NAME=VALUES, repeatable.", show_default=False),
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
        bool, rows_option("--test/--no-test", help="Score the test split; without, a dev split.")
    ] = True,
    dups: Annotated[
        list[str] | None,
        dups_option(
            help='Results of `icehouse dups find`, so that no draw has near-duplicates, or "none"; repeatable.'
        ),
    ] = None,
    strict_labels: StrictLabelsOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Learning curves: heads fitted on a few labelled items a class, drawn again and again, scored on test."""
    from ..store.store import Store
    from .shots import shots as draw_and_fit
    from .sweep import parse_grid

    opened = Store.open(store)
    _warn_of_labels(opened, label, where, strict_labels)
    with progress_bar("fitting") as shown:
        done = draw_and_fit(
            opened,
            _listed(heads),
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
            watch=shown,
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
    _print_curves(done, metric, draws)
    say(f"left in {done.path}")


def _print_curves(done: "Curves", metric: str, draws: int) -> None:
    from .metrics import interval_text, value_text
    from .runs import scoring_text

    counts = sorted({point.shots for point in done.points})
    rows: dict[str, list[str]] = {}
    for point in done.points:
        trial = point.trial
        head = [_named(trial.family, trial.params), trial.inputs]
        row = rows.setdefault(trial.key, head + [""] * len(counts))
        value = point.values.get(metric)
        if value is None:
            said = "left out"
        elif value["mean"] is None:
            said = "not defined"
        else:
            spread = "" if value["sd"] is None else f" ± {value_text(value['sd'], metric)}"
            between = interval_text(value["low"], value["high"], metric)
            said = f"{value_text(value['mean'], metric)}{spread} ({between})"
        row[2 + counts.index(point.shots)] = said
    print_table(
        ["head", "inputs", *(count_of(count, "shot") for count in counts)],
        rows.values(),
        title=f"{metric} on {count_of(done.test_rows, f'{done.on} row')}, by labelled items a class",
    )
    unit = "M" if metric == "log_loss" else "In percent: m"
    echo(
        f"\n{unit}ean ± standard deviation over {count_of(draws, 'draw')} (95% interval of the mean, over draws and rows)."
    )
    if done.looks is not None:
        echo("Test was scored for every draw, to show the curve: choose nothing by it.")
        echo(scoring_text(done.looks))


def _counts(text: str) -> list[int]:
    try:
        return [int(piece) for piece in _listed(text)]
    except ValueError:
        raise UsageError(f"--shots takes numbers such as 1,2,4,8,16, not {text!r}") from None
