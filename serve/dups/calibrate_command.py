"""`icehouse dups calibrate`: choose the cosine by the user's own contents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...console import DEFAULT_STORE, JsonOption, StoreOption, echo, print_json, print_table, say

__all__ = ["calibrate"]


def calibrate(
    store: StoreOption = DEFAULT_STORE,
    feature: Annotated[
        str | None,
        typer.Option(
            "--feature", "-f", help="Image or text feature.", show_default="the only encoder's images"
        ),
    ] = None,
    expected_false_pairs: Annotated[
        float, typer.Option("--expected-false-pairs", help="Among all pairs of the store's contents.")
    ] = 1.0,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", metavar="FILE", help="CSV of known pairs: a, b, and perhaps label."),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", help="Contents to make changed copies of.")] = 200,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Choose the cosine of near-duplicates by changed copies of your own images or texts. `find` uses it from then on."""
    from ...console import bar
    from ...store.dups.calibration import Calibration
    from ...store.dups.tail import in_words
    from ...store.store import Store
    from .calibrate import calibrate as run

    opened = Store.open(store)
    with bar("changing copies") as progress:
        made = run(
            opened,
            feature=feature,
            expected_false_pairs=expected_false_pairs,
            pairs=pairs,
            sample=sample,
            seed=seed,
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
    echo(
        f"\n{made.feature}, {how}: cosine {report['cosine']:.4f} at {in_words(expected_false_pairs)} among "
        f"{report['contents']:,} contents, judged on {report['pairs_judged']:,} unrelated pairs"
    )
    if "hash" in stages:
        echo(_of_hashes(report))
    if report["sampled"] < min(sample, report["contents"]):
        say(
            f"note: copies were made of only {report['sampled']:,} of {report['contents']:,} contents: "
            "the other files could not be read again, or hold blank pictures"
        )
    if report["suspected_duplicates"] or report["pairs_left_out"]:
        say(
            f"note: {report['pairs_left_out']} pairs were left out for near hashes or labels, "
            f"{report['suspected_duplicates']} for lying where no unrelated pair should"
        )
    if "labelled" in report:
        known = report["labelled"]
        echo(
            f"labelled: {known['positives_found']} of {known['positives']} duplicates found, "
            f"{known['negatives_found']} of {known['negatives']} others taken for duplicates"
        )
    echo(f"{folder}: calibration.json, curves.csv, roc.png, precision-recall.png")


def _of_hashes(report: dict[str, Any]) -> str:
    """What perceptual hashes must have in common."""
    told = [
        f"{what} within {bits} bits"
        for what, bits in (("pictures", report["hamming"]), ("their parts", report["view_radius"]))
        if bits is not None and bits >= 0
    ]
    if report["agreement"] is not None:
        told.append(f"near pictures whose parts all agree to {report['agreement']:.3f}")
    return "perceptual hashes: " + (", ".join(told) or "none count, unrelated images have equal ones")
