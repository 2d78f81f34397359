"""CLI: train, evaluate, runs, heads, package, export-onnx, suggest, report, explain."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    StrictLabelsOption,
    echo,
    print_json,
    print_table,
    progress_bar,
    say,
)
from ..errors import UsageError, count_of, one_or_many
from . import sweep_commands as sweeps
from .sweep_commands import (
    ClassWeightOption,
    DrawsOption,
    DupsOption,
    LabelOption,
    MissingOption,
    PositiveOption,
    RefitOption,
    RunArgument,
    SplitColumnOption,
    TestOption,
    WhereOption,
    dups_option,
    rows_option,
)

if TYPE_CHECKING:
    from .explain import Explanation, TokenEffects
    from .package import Exported
    from .runs import Run

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
    from ..store.store import Store
    from .report import write_report
    from .runs import Run

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
    from ..store.store import Store
    from .explain import explain as explain_items
    from .explain import write_explanation
    from .runs import Run

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


def _print(one: "Explanation") -> None:
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


def _place(view: "TokenEffects", i: int) -> str:
    if view.grid is not None:
        return f"row {i // view.grid[1] + 1} column {i % view.grid[1] + 1}"
    return repr(view.words[i].strip()) if view.words is not None else f"token {i + 1}"


# Characters of a text in the table of suggestions.
_BRIEF = 60
_PROMPTS = {"never": "", "optional": "if there are", "required": "yes"}


def heads(
    family: Annotated[
        str | None, typer.Argument(help="A family to show whole.", show_default="list all")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the families of heads, or show the parameters of one."""
    from .registry import describe, families

    if family is not None:
        found = describe(family)
        print_json(found) if as_json else _show(found)
        return
    rows = families()
    if as_json:
        print_json(rows)
        return
    lines = []
    for row in rows:
        if "error" in row:
            about = [row["error"], "", "", ""]
        else:
            about = [row["summary"], _tick(row["tokens"]), _tick(row["missing"]), _PROMPTS[row["prompts"]]]
        lines.append([row["family"], *about])
    print_table(["head", "what it is", "tokens", "missing inputs", "class prompts"], lines)
    echo("")
    echo("parameters: icehouse heads NAME; train one: icehouse train NAME -p PARAMETER=VALUE")


def _show(found: dict[str, Any]) -> None:
    echo(found["about"], lines=True)
    echo("")
    echo(f"tokens: {_tick(found['tokens']) or 'no, one vector a row and input'}")
    echo(f"items that lack an input: {'yes, with --missing keep' if found['missing'] else 'no'}")
    if found["prompts"] != "never":
        echo(
            f"class prompts: {_PROMPTS[found['prompts']]}, from --prompts FILE or -p template='a photo of {{class}}'"
        )
    echo("")
    print_table(
        ["parameter", "default", "values", "what it does"],
        [[row["name"], _default(row["default"]), row["type"], row["about"]] for row in found["parameters"]],
    )


def _tick(there: bool) -> str:
    return "yes" if there else ""


def _default(value: Any) -> str:
    """A default as `-p` would take it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def package(
    run: RunArgument,
    out: Annotated[
        Path, typer.Argument(help="Folder to write; a package that is there is replaced.", show_default=False)
    ],
    store: StoreOption = DEFAULT_STORE,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx, for other runtimes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run as one folder that predicts without its store."""
    from ..store.store import Store
    from .package import package as write_package

    made, exported = write_package(Store.open(store), run, out, onnx=onnx)
    size = sum(path.stat().st_size for path in made.path.rglob("*") if path.is_file())
    if as_json:
        onnx_json = None if exported is None else _onnx_json(exported)
        print_json({**made.about, "path": str(made.path), "bytes": size, "onnx": onnx_json})
        return
    inputs = ", ".join(f"{name} ({feature})" for name, feature in made.features.items())
    echo(f"{made.run_id}: {made.family} on {inputs}, {len(made.classes)} classes, {size / 1e6:.2f} MB")
    for name, encoder in made.encoders.items():
        probe = "probe kept" if encoder["probe"] else "no probe: guarded by its fingerprint alone"
        echo(f"{name}: {encoder['encoder']} (fingerprint {encoder['fingerprint']}), {probe}")
    if exported is not None:
        _print_onnx(exported)
    say(f"left in {made.path}; use it with `icehouse predict {shlex.quote(str(out))} FILES`")


def export_onnx(
    run: Annotated[
        str,
        typer.Argument(
            help='Id of a run, a part of it, "latest", or a package\'s folder.', show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write: .onnx.", show_default=False)],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Write the head of a run as ONNX, checked against the head itself."""
    from .package import Package, is_package, stored_rows
    from .package import export_onnx as write
    from .runs import Run

    if is_package(run):
        exported = write(Package.load(run), out)
    else:
        from ..store.store import Store

        opened = Store.open(store)
        found = Run.load(opened, run)
        exported = write(found, out, rows=stored_rows(opened, found))
    if as_json:
        print_json(_onnx_json(exported))
        return
    _print_onnx(exported)
    say(f"left in {exported.path}")


def _print_onnx(exported: "Exported") -> None:
    given = ", ".join(
        f"{name} [{', '.join(str(size) for size in shape)}]" for name, shape in exported.inputs.items()
    )
    echo(f"ONNX, opset {exported.opset}: {given} to probabilities [rows, {len(exported.classes)}]")
    echo(
        f"compared on {count_of(exported.rows, 'row')}: probabilities differ by {exported.difference:.1e} "
        "at most from the head's"
    )


def _onnx_json(exported: "Exported") -> dict[str, object]:
    keys = ("opset", "inputs", "classes", "difference", "rows")
    return {"path": str(exported.path), **{key: getattr(exported, key) for key in keys}}


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
        rows_option(
            metavar="COLUMN=VALUE",
            help="Choose from these items, labelled or not.",
            show_default="the unlabelled ones, but for dev and test splits",
        ),
    ] = None,
    where: Annotated[
        str | None, rows_option(help="SQL condition that items to choose from must meet.")
    ] = None,
    split_column: SplitColumnOption = "split",
    dups: Annotated[
        list[str] | None,
        dups_option(
            help='Results of `icehouse dups find`, so that no two are near-duplicates, or "none"; repeatable.'
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write to FILE: .csv, .json or .parquet."),
    ] = None,
    seed: Annotated[int, rows_option(min=0, help="Of the sample that stands for very many items.")] = 0,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Which unlabelled items to label next: what a head is unsure of, spread over the space, none like another."""
    from ..store import sql as results
    from ..store.store import Store
    from .active import suggest as choose

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
    _say_how_chosen(made.about, len(made.table), out)


def _say_how_chosen(about: dict[str, Any], n: int, out: Path | None) -> None:
    how = f"by {about['by']} of run {about['run']}" if about["run"] else "by coverage alone, without a run"
    say(
        f"{n} of {count_of(about['unlabelled'], 'item')} to choose from, {how}"
        + (f", in {out}" if out else "")
    )
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
        from ..dups.pair_graph import searches_for

        first = searches_for(about["features"])
        say(f"hint: only exact copies are known; {first} first keeps near-duplicates out too")


def _brief(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= _BRIEF else text[: _BRIEF - 1] + "…"


app = typer.Typer()

_PANEL = "Learn"


@app.command(rich_help_panel=_PANEL)
def train(
    head: Annotated[str, typer.Argument(help="Family of the head; `icehouse heads` lists them.")] = "logreg",
    store: StoreOption = DEFAULT_STORE,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            "-i",
            help="Inputs, comma-separated: image,text, or features such as mini/image/joint, or name=feature.",
            show_default="every modality of the store",
        ),
    ] = None,
    label: LabelOption = "label",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", help="Parameter of the head, as NAME=VALUE; repeatable.", show_default=False
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of class to text or texts, for heads that take class prompts.",
            show_default="the classes' names",
        ),
    ] = None,
    class_weight: ClassWeightOption = None,
    refit: RefitOption = None,
    split_column: SplitColumnOption = "split",
    where: WhereOption = None,
    missing: MissingOption = "drop",
    test: TestOption = True,
    dups: DupsOption = None,
    positive: PositiveOption = None,
    strict_labels: StrictLabelsOption = False,
    draws: DrawsOption = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Leave a report with the run: report.html.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Train a head on stored features; leaves a run."""
    from ..store.store import Store
    from .inputs import check_labels
    from .report import leave_report
    from .trainer import train as train_head

    params = _params(param or [])
    if class_weight is not None:
        params["class_weight"] = class_weight
    if prompts is not None:
        from .families.zero_shot import read_prompts

        params["prompts"] = read_prompts(prompts)
    opened = Store.open(store)
    for line in check_labels(opened, label, where=where, strict=strict_labels):
        say(f"WARNING: {line}")
    with progress_bar("training") as shown:
        run = train_head(
            opened,
            head,
            params=params,
            inputs=inputs,
            label=label,
            split_column=split_column,
            where=where,
            missing=missing,
            refit=refit,
            test=test,
            dups=dups or "auto",
            positive=positive,
            draws=draws,
            seed=seed,
            progress=None if shown is None else lambda done, total, best: shown(done, total),
        )
    problem = leave_report(opened, run, draws=draws) if report else None
    if as_json:
        print_json(_run_json(run))
    else:
        _print_run(run, None if dups else run.features)
    if problem is not None:
        say(f"note: {problem}")


@app.command(rich_help_panel=_PANEL)
def evaluate(
    run: Annotated[str, typer.Argument(help='Id of a run, a part of it, or "latest".')] = "latest",
    store: StoreOption = DEFAULT_STORE,
    split: Annotated[
        list[str] | None,
        rows_option(help='Split to score, or "all"; repeatable.', show_default="test"),
    ] = None,
    where: WhereOption = None,
    label: Annotated[
        str | None,
        typer.Option("--label", "-l", help="Column of labels.", show_default="the run's"),
    ] = None,
    split_column: Annotated[
        str | None, rows_option(help="Column of splits.", show_default="the run's")
    ] = None,
    dups: DupsOption = None,
    positive: PositiveOption = None,
    draws: DrawsOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Score a run on other rows or labels; leaves the predictions."""
    from ..store.store import Store
    from .runs import Run, scoring_text
    from .trainer import evaluate as evaluate_run

    found = Run.load(store, run)
    splits = None if split == ["all"] else split or ["test"]
    result = evaluate_run(
        Store.open(store),
        found,
        split=splits,
        where=where,
        label=label,
        split_column=split_column,
        dups=dups or "auto",
        positive=positive,
        draws=draws,
    )
    if as_json:
        print_json({"run_id": found.run_id, "path": str(result.path), **result.metrics})
        return
    echo(_title(found))
    _print_scores(
        " + ".join(splits) if splits else "all labelled items",
        result.metrics,
        None if dups else found.features,
    )
    echo(scoring_text(result.metrics["looks"]))
    if label is not None and label != found.label:
        echo(f"note: scored against the column {label!r}; the run learned {found.label!r}")
    if result.metrics["in_training"]:
        echo(f"careful: {result.metrics['in_training']} of these rows took part in training or in the choice")
    say(f"left in {result.path}")


@app.command(rich_help_panel=_PANEL)
def runs(
    run: Annotated[
        str | None,
        typer.Argument(
            help='Id of one run to show whole, a part of it, or "latest".', show_default="list all"
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a store, or show one."""
    from ..store.store import Store
    from .runs import Run, list_runs

    opened = Store.open(store)
    if run is not None:
        found = Run.load(opened, run)
        print_json(_run_json(found)) if as_json else _print_run(found)
        return
    damaged: list[str] = []
    rows = [found.summary() for found in list_runs(opened, damaged)]
    for reason in damaged:
        say(reason)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say(f"no runs in {store} yet; train one with `icehouse train`")
        return
    print_table(
        ["run", "head", "inputs", "label", "macro-F1", "", "accuracy", "on", "rows", "when"],
        [
            [
                row["run_id"],
                row["head"] + ("" if row.get("one_class") is None else f" (only {row['one_class']!r})"),
                ", ".join(row["inputs"].values()),
                row["label"],
                *_with_interval(row["macro_f1"], "macro_f1"),
                _value(row["accuracy"], "accuracy"),
                row["scored_on"],
                row["rows"],
                row["created_at"][:16].replace("T", " "),
            ]
            for row in rows
        ],
    )


def _params(given: Sequence[str]) -> dict[str, Any]:
    """Parameters from NAME=VALUE."""
    from .registry import parse_value

    params: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--param takes NAME=VALUE, not {text!r}")
        params[name.strip()] = parse_value(value)
    return params


def _run_json(run: "Run") -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        **run.record,
        "notes": run.notes,
        "metrics": run.metrics,
    }


def _print_run(run: "Run", features: Mapping[str, str] | None = None) -> None:
    """Print what a run is, how it was made, and its scores."""
    from .runs import scoring_text

    protocol = run.metrics["protocol"]
    rows = protocol["rows"]
    echo(_title(run))
    chosen = ", ".join(f"{name} = {_chosen(value)}" for name, value in protocol["chosen"].items())
    if protocol["chosen_on"] is None:
        how = f"{chosen or 'nothing'} taken as given" if chosen else "nothing to choose"
    else:
        how = f"{chosen or 'nothing'} chosen on {protocol['chosen_on']} ({count_of(rows['dev'], 'row')})"
    again = ", then fitted again with them" if protocol["refit"] else ""
    echo(f"{how}{again}; learned from {count_of(protocol['trained_on'], 'row')}")
    for note in run.notes:
        echo(f"note: {note}")
    if "test" in run.metrics:
        looks = run.record.get("looks")
        which = (
            "" if looks is None else " (touched once)" if looks["total"] == 1 else f" (look {looks['total']})"
        )
        _print_scores(f"test{which}", run.metrics["test"], features)
        if looks is not None:
            echo(scoring_text(looks))
    elif "dev" in run.metrics:
        _print_scores("dev (the choice was made here; not a test)", run.metrics["dev"], features)
    say(f"left in {run.path}")


def _title(run: "Run") -> str:
    inputs = " + ".join(f"{name} ({feature})" for name, feature in run.features.items())
    return f"{run.run_id}: {run.family} on {inputs}, label {run.label!r}, {len(run.classes)} classes"


def _print_scores(what: str, metrics: Mapping[str, Any], features: Mapping[str, str] | None = None) -> None:
    """Print scores; `features` of the inputs lead to a hint where no search for duplicates tells of their contents."""
    from .metrics import METRICS, intervals_text, title, value_text

    base, level = metrics["majority"], f"{metrics['intervals']['level']:.0%} interval"
    near = metrics.get("without_near_duplicates")
    apart = metrics["without_copies"] if near is None else near
    columns = [f"{what}, {count_of(metrics['n'], 'row')}", "", level, "majority"]
    if "accuracy" in apart and near is None:
        columns.append(f"without {count_of(apart['copies'], 'copy', 'copies')} of train")
    elif "accuracy" in apart:
        columns += [f"without {count_of(apart['near_duplicates'], 'near-duplicate')} of train", level]
    lines = []
    for name in (name for name in METRICS if metrics[name]["value"] is not None):
        line = [title(name, metrics), *_with_interval(metrics[name], name), value_text(base.get(name), name)]
        cells = _with_interval(apart[name], name) if "accuracy" in apart else ()
        lines.append([*line, *(cells if near is not None else cells[:1])])
    echo("")
    print_table(columns, lines)
    echo("")
    print_table(
        ["class", "F1", level, "precision", "recall", "rows", "predicted"],
        [
            [
                str(row["label"]),
                *_with_interval(row["f1"], "f1"),
                _value(row["precision"], "precision"),
                _value(row["recall"], "recall"),
                row["support"],
                row["predicted"],
            ]
            for row in metrics["per_class"]
        ],
    )
    echo("")
    chance = " (AUROC and average precision: ranked by chance)" if "auroc" in base else ""
    echo(
        f"majority: always {base['label']!r}{chance}. Scores in percent; intervals: {intervals_text(metrics)}."
    )
    if (positive := metrics.get("positive")) is not None:
        why = "as asked" if positive["given"] else "the rarer class in training; --positive names another"
        echo(
            f"positive class: {str(positive['label'])!r}, {positive['prevalence']:.1%} of these rows ({why})"
        )
    for note in metrics.get("notes", []):
        echo(f"note: {note}")
    for name, n in metrics["unseen"].items():
        echo(
            f"note: {count_of(n, 'row is', 'rows are')} {name!r}, which the head never saw in training: counted as errors"
        )
    if near is not None:
        _print_near(near, metrics["n"])
    if near is None and features:
        from ..dups.pair_graph import searches_for

        first = searches_for(features)
        say(
            f"hint: only exact copies of training rows were told apart; after {first} near-duplicates are too"
        )


def _print_near(near: Mapping[str, Any], rows: int) -> None:
    """Say which searches told the near-duplicates, and what they did not look at."""
    names = ", ".join(
        f"{search['name']!r} ({search['feature'] or 'hashes alone'})" for search in near["searches"]
    )
    against = " and ".join(near["against"])
    echo(
        f"near-duplicates: {near['near_duplicates']} of {count_of(rows, 'row')} "
        f"{one_or_many(near['near_duplicates'], 'has', 'have')} one in {against}, by the search {names}"
    )
    for search in near["searches"]:
        missed, name = search["rows_not_covered"], search["name"]
        if missed or search["training_not_covered"]:
            echo(
                f"note: the search {name!r} did not look at {missed} of these rows and {search['training_not_covered']} "
                "of training's; run `icehouse dups find` again to cover them"
            )
        if search.get("changed"):
            echo(
                f"note: {search['changed']} of these and of training's "
                f"{one_or_many(search['changed'], 'has', 'have')} changed since the search {name!r}, or the "
                "files were written since; run `icehouse dups find` again"
            )
        if search["capped"]:
            echo(f"note: the search {name!r} stopped at its cap: there may be more near-duplicates")


def _value(score: Mapping[str, Any] | None, name: str) -> str:
    from .metrics import value_text

    return value_text(score["value"] if score else None, name)


def _with_interval(score: Mapping[str, Any] | None, name: str) -> tuple[str, str]:
    """A score and its interval as two cells of a table; empty for None."""
    from .metrics import interval_text

    return _value(score, name), "" if score is None else interval_text(score["low"], score["high"], name)


def _chosen(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# In the order of `icehouse --help`, after those of this file that are decorated.
for command in (
    heads,
    sweeps.sweep,
    sweeps.compare,
    sweeps.shots,
    package,
    export_onnx,
    suggest,
    report,
    explain,
):
    app.command(rich_help_panel=_PANEL)(command)
