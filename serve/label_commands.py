"""CLI: label."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    MaxPixelsOption,
    StoreOption,
    echo,
    print_json,
    print_table,
    progress_bar,
    say,
)
from ..errors import SourceError, UsageError, count_of
from .commands import (
    AllowHostOption,
    DeviceOption,
    HostOption,
    PortOption,
    RunsOption,
    StorePath,
    TokenOption,
)

app = typer.Typer()

#: What `--name` is where no task has been named.
_DEFAULT = "label"


@app.command(rich_help_panel="Serve")
def label(
    path: StorePath = None,
    store: StoreOption = DEFAULT_STORE,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", "-c", metavar="A,B,C", help="Classes to choose from; they make or change the task."
        ),
    ] = None,
    instructions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text that annotators read, shown above the item.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Name of the task.", show_default="the only one, else label"),
    ] = None,
    votes: Annotated[
        int | None, typer.Option("--votes", min=1, help="Annotators that each item needs.", show_default="3")
    ] = None,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="RUN=CLASS",
            help="What these classes of a run do not take comes last (RUN!=CLASS, @P: as in `icehouse watch`); repeatable. "
            "none takes the gates off.",
        ),
    ] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition over the items to label.")] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs", "-i", help="Features that the head learns from.", show_default="one of each modality"
        ),
    ] = None,
    run: RunsOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = None,
    status: Annotated[
        bool, typer.Option("--status", help="Tell how far it is, kappa and each annotator's agreement.")
    ] = False,
    apply: Annotated[
        str | None,
        typer.Option("--apply", metavar="COLUMN", help="Write what is decided as a column of items."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write every entry to FILE: .csv, .json or .parquet."),
    ] = None,
    export_label_studio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write tasks and annotations as Label Studio's JSON.")
    ] = None,
    import_from: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="FILE",
            help="Add the votes of FILE: a JSON export of Label Studio, or rows with item_id, label and annotator "
            "(.csv, .tsv, .jsonl, .json, .parquet), such as --export writes.",
        ),
    ] = None,
    simulate: Annotated[
        str | None,
        typer.Option(
            "--simulate",
            metavar="COLUMN",
            help="Replay on the labels of COLUMN what de-duplication and filtering save of a --budget, and what they do to "
            "the score.",
        ),
    ] = None,
    budget: Annotated[int, typer.Option("--budget", min=8, help="Labels that a simulation spends.")] = 500,
    draws: Annotated[
        int, typer.Option("--draws", min=2, help="Orders of the items that a simulation goes through.")
    ] = 10,
    irrelevant: Annotated[
        list[str] | None,
        typer.Option(
            "--irrelevant",
            metavar="CLASS",
            help="Class of no interest, in a simulation; repeatable.",
            show_default="not_relevant and the like",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw a simulation as FILE.png.")
    ] = None,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Label items in the browser, several people at once, while a head learns and chooses what comes next.

    --classes makes a task. With --status, --apply, --import, --simulate or an --export nothing is served.
    """
    from ..store.store import Store

    place = path or store
    opened = Store.open(place)
    if simulate is not None:
        _simulate(opened, simulate, budget, draws, irrelevant, inputs, plot, as_json=as_json)
        return
    from . import label_table
    from .labelling import Desk, check_settings

    known = label_table.task_names(opened)
    named = name or (known[0] if len(known) == 1 and classes is None else None)
    given: dict[str, Any] = {
        "classes": None if classes is None else [part.strip() for part in classes.split(",")],
        "instructions": None if instructions is None else _read(instructions),
        "votes": votes,
        "gates": None if gates is None else () if gates == ["none"] else tuple(gates),
        "where": where,
        "inputs": inputs,
    }
    if any(value is not None for value in given.values()):
        if named is None and classes is None:
            label_table.load_task(opened)  # says which there are
        check_settings(opened, given)
        task = label_table.set_task(opened, named or _DEFAULT, **given)
    else:
        task = label_table.load_task(opened, named)
    quiet = status or as_json or apply or export or export_label_studio or import_from
    if quiet:
        desk = Desk(opened, task.name)
        if import_from is not None:
            told = label_table.import_labels(desk, import_from)
            say(
                f"{count_of(told['new'], 'new label')} of {told['labels']} in "
                f"{count_of(told['rows'], 'row')} of {import_from}"
            )
            for line in told["first_problems"]:
                say(f"note: {line}")
            if told["problems"] > len(told["first_problems"]):
                say(f"note: {told['problems'] - len(told['first_problems'])} more")
            if told["rows"] and not told["labels"] and told["problems"]:
                raise typer.Exit(1)
        if export is not None:
            say(f"{count_of(label_table.export_labels(desk, export), 'entry', 'entries')} in {export}")
        if export_label_studio is not None:
            count = label_table.export_label_studio(desk, export_label_studio)
            say(f"{count_of(count, 'task')} in {export_label_studio}; the labelling interface:")
            say(label_table.label_studio_config(desk).replace("\n", " "))
        if apply is not None:
            import tempfile

            with tempfile.TemporaryDirectory() as scratch:
                report = label_table.apply_labels(desk, apply, Path(scratch))
            say(
                f"{count_of(report.matched, 'item has', 'items have')} a {apply} now: icehouse train logreg --label {apply}"
            )
        if status or as_json:
            _tell(desk.status(wait=True), as_json=as_json)
        return
    from .app.server import serve as run_server

    Desk(opened, task.name)  # what is wrong with a gate or a condition is said before anybody waits
    run_server(
        place,
        run or (),
        host=host,
        port=port,
        ready=lambda url: say(f"{task.name}: the page is at {url}label?task={task.name} (Ctrl-C stops)"),
        token=token,
        hosts=tuple(allow_host or ()),
        device=device,
    )


def _simulate(
    store: Any,
    column: str,
    budget: int,
    draws: int,
    irrelevant: list[str] | None,
    inputs: str | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    from .simulate import simulate, write_plot

    with progress_bar("fits") as shown:
        told = simulate(
            store, column, budget=budget, draws=draws, irrelevant=irrelevant, inputs=inputs, watch=shown
        )
    for note in told["notes"]:
        say(f"note: {note}")
    if plot is not None:
        write_plot(told, plot)
        say(f"the scores as a plot: {plot}")
    if as_json:
        print_json(told)
        return
    rows = []
    for one in told["strategies"]:
        last = one["scores"][-1]
        rows.append(
            [
                f"{one['strategy']} {one['title']}",
                *(f"{one[name]['value']:.0f}" for name in ("labels", "useful", "repeats", "irrelevant")),
                "" if one["saving"] is None else _spread(one["saving"], percent=True),
                *(_spread(last[test]) for test in ("with", "without")),
                "" if one["saving"] is None else _spread(last["gain_without"]),
            ]
        )
    print_table(
        [
            "strategy",
            "labels",
            "useful",
            "repeats",
            "irrelevant",
            "saving",
            "F1 with duplicates",
            "F1 without",
            "gain over S1",
        ],
        rows,
    )
    if told["filter"] is not None:
        precision, recall = (_spread(told["filter"][name], percent=True) for name in ("precision", "recall"))
        say(f"the filter: precision {precision}, recall {recall}")
    say(
        f"{count_of(told['budget'], 'label')} of {count_of(told['pool'], 'item')} to choose from, "
        f"{count_of(told['draws'], 'draw')}, macro-F1 of "
        f"{told['head']} on {count_of(told['test']['with'], 'test item')}, {told['test']['without']} "
        "without duplicates; 95% intervals"
    )


def _spread(value: dict[str, float | None], *, percent: bool = False) -> str:
    if value["value"] is None:
        return "never"
    shown = [f"{v:.0%}" if percent else f"{v:.3f}" for v in value.values() if v is not None]
    return shown[0] if len(shown) < 3 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: {getattr(error, 'strerror', None) or 'is no text in UTF-8'}") from error
    if len(text) > 20_000:
        raise UsageError(f"{path}: instructions have at most 20,000 characters")
    return text.strip()


def _tell(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    echo(
        f"{told['task']}: {told['decided']} of {count_of(told['units'], 'unit')} decided "
        f"({count_of(told['items'], 'item')}), "
        f"{count_of(told['labels'], 'label')}, "
        f"{count_of(told['disputed'], 'disagreement waits', 'disagreements wait')}, {told['adjudicated']} adjudicated"
    )
    kappa = told["kappa"]
    if kappa["value"] is not None:
        ends = "" if kappa["low"] is None else f" ({kappa['low']:.3f} to {kappa['high']:.3f})"
        echo(
            f"Fleiss' kappa {kappa['value']:.3f}{ends} over {count_of(kappa['items'], 'item')} with two votes or more"
        )
    print_table(
        ["annotator", "labels", "skipped", "agreement", "95%", "of"],
        [
            [
                one["annotator"],
                one["labels"],
                one["skips"],
                one["agreement"]["value"],
                _ends(one["agreement"]),
                one["agreement"]["of"],
            ]
            for one in told["annotators"]
        ],
    )
    learning = told["learning"]
    if learning["accuracy"] is not None:
        said = learning["accuracy"]
        echo(
            f"the head, before it learned a label: {said['value']:.1%} right ({_ends(said)}) of {said['of']}; "
            f"always {learning['commonest']['label']}: {learning['commonest']['share']:.1%}"
        )
    for name, n in told["left_aside"].items():
        if n:
            why = {"gone": "items that are not there", "changed": "items with another content since"}
            echo(f"left aside: {count_of(n, 'label')} of {why.get(name, 'classes that the task has not')}")
    for note in told["notes"]:
        say(f"note: {note}")


def _ends(value: dict[str, Any]) -> str:
    return "" if value["low"] is None else f"{value['low']:.1%} to {value['high']:.1%}"
