"""CLI: dups find, evaluate, calibrate, leakage; split; and the options that commands of near-duplicates share."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    StoreOption,
    echo,
    print_json,
    print_table,
    progress_bar,
    say,
)
from ..errors import UsageError, count_of, one_or_many

if TYPE_CHECKING:
    from ..store.store import Store
    from .leakage import Leakage, SplitReport
    from .pair_graph import Duplicates

SearchOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        "-n",
        help="Name of a search by `icehouse dups find`.",
        show_default="that by the only encoder's images, else the newest",
    ),
]
FeatureOption = Annotated[
    str | None,
    typer.Option(
        "--feature",
        "-f",
        help="Image or text feature to compare by.",
        show_default="the only encoder's images",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "-t",
        help="Least cosine.",
        show_default="none: the calibration, or what the set looks like, decides",
    ),
]
FalsePairsOption = Annotated[
    float | None,
    typer.Option(
        "--expected-false-pairs",
        help="False pairs to expect, by which the calibration chooses the cosine.",
        show_default="1",
    ),
]
HammingOption = Annotated[
    int | None,
    typer.Option(
        "--hamming",
        help="Bits of 64 in which perceptual hashes may differ.",
        show_default="6, or fewer by the calibration",
    ),
]
PerceptualOption = Annotated[
    bool, typer.Option("--perceptual/--no-perceptual", help="Compare perceptual hashes.")
]
EmbeddingOption = Annotated[bool, typer.Option("--embedding/--no-embedding", help="Compare embeddings.")]
VariantsOption = Annotated[
    Literal["keep", "drop"],
    typer.Option(
        "--variants", help="Pictures that agree while their words do not: keep, or drop as duplicates."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]


def say_which(store: Path, found: "Duplicates", name: str | None) -> None:
    """Say which search was opened, where it was not named and there are several."""
    from ..store.store import Store
    from .pair_graph import HASHES, list_duplicates, search_name

    if name is None and found.name == HASHES and found.feature is not None:
        say(
            f"note: by the search {HASHES!r}, made before searches were named after their feature; `icehouse dups find` "
            f"makes {search_name(found.feature)!r} beside it"
        )
    others = [other for other in list_duplicates(Store.open(store)) if other != found.name]
    if name is None and others:
        say(f"note: by the search {found.name!r}; --name takes another: {', '.join(others)}")


app = typer.Typer(no_args_is_help=True)


@app.command()
def find(
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            help="Name of the results, a folder below STORE/dups.",
            show_default="the feature's, as mini-image-pooled",
        ),
    ] = None,
    feature: FeatureOption = None,
    threshold: ThresholdOption = None,
    expected_false_pairs: FalsePairsOption = None,
    views: Annotated[
        bool | None,
        typer.Option(
            "--views/--no-views", help="Hash parts of images too.", show_default="up to 50,000 images"
        ),
    ] = None,
    variants: VariantsOption = "keep",
    yes_drop: Annotated[
        bool,
        typer.Option("--yes-drop", help="Write drop.csv even where hardly all that is found are duplicates."),
    ] = False,
    hamming: HammingOption = None,
    perceptual: PerceptualOption = True,
    embedding: EmbeddingOption = True,
    group: Annotated[
        Literal["star", "components", "cliques"],
        typer.Option("--group", "-g", help="star: every member is like its keeper; components: chains."),
    ] = "star",
    keeper: Annotated[
        str,
        typer.Option(
            "--keeper", "-k", help="best, largest, oldest, or a column (COLUMN:desc: highest first)."
        ),
    ] = "best",
    where: Annotated[str | None, typer.Option("--where", help="SQL condition over items to compare.")] = None,
    max_pairs: Annotated[int, typer.Option("--max-pairs", help="Stop after that many pairs.")] = 5_000_000,
    engine: Annotated[
        Literal["exact", "faiss"],
        typer.Option("--engine", help="exact: no pair is missed; faiss: an index, its recall measured."),
    ] = "exact",
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            help="Threads for the join, and processes that measure pictures.",
            show_default="one a processor",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, numpy, cpu, cuda.")] = "auto",
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Also write the pages of `icehouse dups gallery`.")
    ] = False,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Find near-duplicates by bytes, perceptual hash and embedding; group them; list what to keep. Deletes nothing."""
    from .processes import start_early

    start_early(store, threads)
    from .find import find_duplicates

    asked = feature or threshold is not None or expected_false_pairs is not None or engine == "faiss"
    if not embedding and asked:
        raise UsageError(
            "--no-embedding leaves nothing for --feature, --threshold, --expected-false-pairs and --engine to do"
        )
    if not perceptual and hamming is not None:
        raise UsageError("--no-perceptual leaves nothing for --hamming to do")
    with progress_bar("finding") as progress:
        found = find_duplicates(
            store,
            name=name,
            feature=(feature or "auto") if embedding else None,
            hamming=("auto" if hamming is None else hamming) if perceptual else None,
            rule=threshold,
            grouping_by=group,
            keeper=keeper,
            where=where,
            max_pairs=max_pairs,
            expected_false_pairs=expected_false_pairs,
            views=views,
            variants=variants,
            yes_drop=yes_drop,
            engine=engine,
            threads=threads,
            device=device,
            progress=progress,
        )
    summary = found.summary
    for note in summary["notes"]:
        say(f"note: {note}")
    pages = None
    if gallery:
        from .gallery import write_gallery

        with progress_bar("pictures") as progress:
            pages = write_gallery(store, found.name, progress=progress).path.resolve()
    if as_json:
        print_json({"path": found.path, **summary, **({"gallery": pages} if pages else {})})
        return
    pairs, groups = summary["pairs"], summary["groups"]
    rows = [[kind, count, pairs["found_by"].get(kind)] for kind, count in pairs["by_kind"].items()]
    print_table(["kind", "pairs", "found by this stage"], rows)
    if turned := pairs.get("by_orientation"):
        how = ", ".join(f"{name} {count:,}" for name, count in turned.items())
        echo(f"\nturned copies: {how} (see orientation in pairs.parquet)")
    print_table(
        ["items", "groups", "in groups", "largest", "chained", "keep", "drop"],
        [
            [
                summary["items"],
                *(groups[key] for key in ("total", "items", "largest", "chained")),
                summary["kept"],
                summary["dropped"],
            ]
        ],
        title="\nGroups",
    )
    lists = "" if summary["lists_withheld"] else "keep.csv, drop.csv, "
    files = f"pairs.parquet, clusters.parquet, items.parquet, {lists}variants.csv, summary.json"
    echo(f"\n{found.path}: {files}")
    if pages:
        echo(pages)


@app.command()
def evaluate(
    truth: Annotated[
        Path,
        typer.Option(
            "--truth", help="CSV of known pairs: a, b, and perhaps label (1 or 0).", show_default=False
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    name: SearchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure found duplicates against known pairs: precision, recall and F1 of each stage and of all together."""
    from ..store.store import Store
    from .evaluate import evaluate_duplicates, read_truth
    from .pair_graph import Duplicates

    found = Duplicates.open(store, name)
    scores = evaluate_duplicates(
        found, read_truth(truth, Store.open(store).items.read(["item_id"])["item_id"])
    )
    say_which(store, found, name)
    if unknown := scores["unknown"]:
        say(
            f"note: {count_of(len(unknown), f'id of {truth} is', f'ids of {truth} are')} not in the store, "
            f"such as {unknown[0]!r}: "
            "pairs with them count as missed"
        )
    if where := found.summary["parameters"]["where"]:
        say(f"note: only items where {where} were looked at: pairs with others count as missed")
    if found.summary["capped"]:
        say("note: the search stopped at its cap on pairs: what lies beyond counts as missed")
    if as_json:
        print_json(scores)
        return
    columns = ["found", "right", "missed", "precision", "recall", "f1"]
    rows = [
        [stage, *(score[c] for c in columns)] for stage, score in scores.items() if isinstance(score, dict)
    ]
    print_table(["stage", *columns], rows, title=f"{count_of(scores['positives'], 'known pair')}")


@app.command()
def calibrate(
    store: StoreOption = DEFAULT_STORE,
    feature: FeatureOption = None,
    expected_false_pairs: Annotated[
        float, typer.Option("--expected-false-pairs", help="Among all pairs of the store's contents.")
    ] = 1.0,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", metavar="FILE", help="CSV of known pairs: a, b, and perhaps label."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", help="Contents to make changed copies of.", show_default="a twelfth, from 10 to 200"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another sample.")] = 0,
    figures: Annotated[
        bool, typer.Option("--figures", help="Draw curves.csv as roc.png and precision-recall.png, too.")
    ] = False,
    device: DeviceOption = "auto",
    to_file: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="Write the calibration that there is to a file, and make none."
        ),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="FILE",
            help="Take the calibration of another store of the same encoder, and make none.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the cosine of near-duplicates by changed copies of your own images or texts. `find` uses it from then on."""
    from ..store.store import Store
    from .calibrate import calibrate as run
    from .calibration import Calibration, false_pairs_text

    opened = Store.open(store)
    if to_file is not None or from_file is not None:
        if pairs is not None or (to_file is not None and from_file is not None):
            raise UsageError("--export, --import and --pairs each ask for something else; give one of them")
        _carry(opened, feature, to_file, from_file, as_json)
        return
    with progress_bar("changing copies") as progress:
        made = run(
            opened,
            feature=feature,
            expected_false_pairs=expected_false_pairs,
            pairs=pairs,
            sample=sample,
            seed=seed,
            figures=figures,
            device=device,
            progress=progress,
        )
    folder, report = Calibration.folder(opened, made.feature), made.report
    if as_json:
        print_json({"path": folder, "feature": made.feature, "fingerprint": made.fingerprint, **report})
        return
    # Texts have no hashes but that of their bytes, and a changed text has another.
    stages = (
        ("embedding", "hash", "cascade") if made.bits or report["view_radius"] is not None else ("embedding",)
    )
    rows = [
        [row["transform"], row["copies"], *(f"{row[by]:.3f}" for by in stages)]
        for row in report["transforms"]
    ]
    print_table(["transform", "copies", *stages], rows, title="Recall")
    how = "centred" if made.matrix is None else "centred and whitened"
    among = f"{false_pairs_text(expected_false_pairs)} among {report['contents']:,} contents"
    if report["evidence"] is None:
        least = f"cosine {report['cosine']:.4f}"
    else:
        least = f"pairs that stand out among their own neighbours by {report['evidence']:.1f} or more"
    echo(
        f"\n{made.feature}, {how}: {least}, at {among}, judged on {count_of(report['pairs_judged'], 'unrelated pair')}"
    )
    if "hash" in stages:
        echo(_of_hashes(report))
    if report["sampled"] < min(report["sample"], report["contents"]):
        say(
            f"note: copies were made of only {report['sampled']:,} of {count_of(report['contents'], 'content')}: "
            "the other files could not be read again, or hold blank pictures"
        )
    if weakness := made.weakness():
        say(f"warning: {weakness}")
    if report["suspected_duplicates"] or report["pairs_left_out"]:
        say(
            f"note: {count_of(report['pairs_left_out'], 'pair was', 'pairs were')} left out for near hashes or labels, "
            f"{report['suspected_duplicates']} for lying where no unrelated pair should"
        )
    if "labelled" in report:
        known = report["labelled"]
        echo(
            f"labelled: {known['positives_found']} of {count_of(known['positives'], 'duplicate')} found, "
            f"{known['negatives_found']} of {count_of(known['negatives'], 'other')} taken for duplicates"
        )
    drawn = ", roc.png, precision-recall.png" if figures else ""
    echo(f"{folder}: calibration.json, curves.csv{drawn}")


def _carry(
    store: "Store", feature: str | None, to_file: Path | None, from_file: Path | None, as_json: bool
) -> None:
    """Write a calibration to a file, or take one from it."""
    from .calibration import export_calibration, import_calibration

    if to_file is not None:
        written = export_calibration(store, to_file, feature=feature)
        print_json({"path": written}) if as_json else echo(f"{written}")
    elif from_file is not None:
        made = import_calibration(store, from_file, feature=feature)
        folder = made.folder(store, made.feature)
        if as_json:
            print_json(
                {"path": folder, "feature": made.feature, "fingerprint": made.fingerprint, **made.report}
            )
        else:
            echo(f"{folder}: the calibration of {made.feature} from {from_file}")


def _of_hashes(report: dict[str, Any]) -> str:
    """Bits within which perceptual hashes count as evidence, in words."""
    told = [
        f"{what} within {count_of(bits, 'bit')}"
        for what, bits in (("pictures", report["hamming"]), ("their parts", report["view_radius"]))
        if bits is not None and bits >= 0
    ]
    if report["agreement"] is not None:
        told.append(f"near pictures whose parts all agree to {report['agreement']:.3f}")
    return "perceptual hashes: " + (", ".join(told) or "none count, unrelated images have equal ones")


@app.command()
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
    from ..store.store import Store
    from .leakage import find_leakage, write_cleaned
    from .pair_graph import Duplicates

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
        _leakage_report(found)
        if out is not None and left is not None:
            gone = ", ".join(f"{count} leave {split}" for split, count in left.items() if count)
            echo(f"\n{out}: {gone or 'nobody leaves'}; bring it with `icehouse join {shlex.quote(str(out))}`")
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


def _leakage_report(found: "Leakage") -> None:
    names = [name or "(none)" for name in found.splits]
    cells = {(pair["split_a"], pair["split_b"]): pair for pair in found.pairs}
    rows = [
        [names[a], items, *("" if b < a else cells[one, two]["pairs"] for b, two in enumerate(found.splits))]
        for a, (one, items) in enumerate(found.splits.items())
    ]
    print_table(["split", "items", *names], rows, title=f"Duplicate pairs, search {found.search['name']!r}")
    between = [pair for pair in found.pairs if pair["split_a"] != pair["split_b"] and pair["pairs"]]
    if between:
        usual = ("exact", "perceptual", "embedding")
        known = [kind for kind in between[0] if kind not in ("split_a", "split_b", "pairs")]
        kinds = [kind for kind in known if kind in usual or any(pair[kind] for pair in between)]
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
            f"\n{labels['column']}: {labels['differing']} of {count_of(labels['pairs'], 'labelled pair')} "
            f"across splits {one_or_many(labels['differing'], 'has', 'have')} two "
            f"different labels, which concerns {labels['disagreeing']} of {count_of(labels['items'], 'item')}"
        )
        rows = [
            [e["item"], e["item_split"], e["item_label"], e["of"], e["of_split"], e["of_label"]]
            for e in labels["examples"][:_LEAKAGE_ROWS_SHOWN]
        ]
        if rows:
            print_table(["item", "split", "label", "duplicate of", "split", "label"], rows)


#: Pairs of leaks whose labels differ that are shown.
_LEAKAGE_ROWS_SHOWN = 10

#: Classes in the table; the rest are counted together.
_SPLIT_CLASSES_SHOWN = 30


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
    from .leakage import DUPLICATES, parse_ratios, split_items

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
    _split_report(report, stratify)


def _split_report(report: "SplitReport", stratify: str | None) -> None:
    total = sum(report.splits.values())
    rows = [["all", total, *(f"{n} ({n / total:.1%})" for n in report.splits.values())]]
    classes = report.balance if stratify else []
    for row in classes[:_SPLIT_CLASSES_SHOWN]:
        counts = [row[name] for name in report.splits]
        shares = (f"{n} ({n / sum(counts):.1%})" for n in counts)
        rows.append([row["label"] if row["label"] is not None else "(none)", sum(counts), *shares])
    asked = [f"{name} ({report.ratios[name]:.1%})" for name in report.splits]
    print_table([stratify or "", "items", *asked], rows)
    if len(classes) > _SPLIT_CLASSES_SHOWN:
        echo(f"and {count_of(len(classes) - _SPLIT_CLASSES_SHOWN, 'rarer class', 'rarer classes')}")
    groups = report.groups
    if groups["kept"]:
        echo(
            f"\nkept together ({', '.join(groups['kept'])}): {count_of(groups['of_several'], 'group')} of "
            "two items or more, "
            f"{count_of(groups['items'], 'item')} in them, {groups['largest']} in the largest"
        )
    if report.path is not None:
        echo(f"\n{report.path}: bring it with `icehouse join {shlex.quote(str(report.path))}`")
    else:
        replaced = f", {report.replaced} of which had another value" if report.replaced else ""
        echo(f"\ncolumn {report.column!r} of {count_of(total, 'item')}{replaced}; seed {report.seed}")
