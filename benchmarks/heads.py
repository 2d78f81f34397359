"""Every head on published data with `mini`: CrisisMMD texts, ELPV solar cells.

    python benchmarks/heads.py [crisismmd] [elpv] [--no-tokens] [--seeds 3] [--keep FOLDER]
                               [--crisismmd-files ../shared/data/crisismmd]

A sweep over all families on `pooled`, and on `pooled` beside `joint`; heads of class prompts on `joint`, and two of
those that attend on the tokens as well. Accuracy on dev chooses each family's outputs and parameters, and the best
family. Each family's choice then sees test once. CrisisMMD has its official splits; ELPV gets five random ones of 75/25,
with a fifth of train held out as dev.

Beside them stands what they have to beat: logistic regression with C = 10 on `pooled` as it is. ELPV's cells are functional
(probability 0) or defective (1), as in `real_data.py`; `any` calls every probability above 0 defective, so that no cell is
left out.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.compare import compare
from icehouse.heads.registry import FAMILIES
from icehouse.heads.sweep import Sweep, TrialResult, sweep
from icehouse.heads.trainer import train
from icehouse.store.annotate import join
from icehouse.store.store import Store
from machine import machine

VECTORS = "pooled=mini/{0}/pooled", "pooled=mini/{0}/pooled+joint=mini/{0}/joint"
#: Heads of class prompts need the joint space.
PROMPTED = ("zero-shot", "tip-adapter")
#: Heads whose attention has something to attend to where an input has many tokens.
ATTENDING = ("diff-attn", "guided-ca")
#: Heads for cells that the published protocol leaves out: one of each kind.
FEW = ("logreg", "svm", "lightgbm", "knn", "mlp")


def watch(results: Sequence[TrialResult], trial: Any) -> None:
    done = [r for r in results if r.seeds or r.error]
    if done and trial is not None:
        last = done[-1]
        print(
            f"  {len(done)}/{len(results)} {last.trial}: {last.value('accuracy') or last.error} {last.seconds:.0f} s",
            flush=True,
        )


def search(
    store: Store,
    modality: str,
    seeds: int,
    label: str,
    split: str,
    heads: Sequence[str] | None,
    kinds: Sequence[str] = ("vectors", "joint", "tokens"),
) -> list[Sweep]:
    """All heads on vectors, those with prompts on the joint space; on tokens those that attend."""
    chosen = list(FAMILIES) if heads is None else list(heads)
    vectors = [pattern.format(modality) for pattern in VECTORS]
    plan = {
        "vectors": ([head for head in chosen if head not in PROMPTED], vectors, seeds),
        "joint": ([head for head in chosen if head in PROMPTED], [f"joint=mini/{modality}/joint"], 1),
        "tokens": ([head for head in chosen if head in ATTENDING], [f"tokens=mini/{modality}/tokens"], 1),
    }
    return [
        sweep(
            store,
            some,
            inputs=inputs,
            seeds=n,
            name=f"{label}-{split}-{kind}",
            metric="accuracy",
            label=label,
            split_column=split,
            report=False,
            watch=watch,
        )
        for kind, (some, inputs, n) in plan.items()
        if some and kind in kinds
    ]


def crisismmd(source: Path, folder: Path, seeds: int, kinds: Sequence[str]) -> None:
    """Official splits, texts only; task 2 with its labels as they come."""
    if not source.is_dir():
        print(f"CrisisMMD: skipped, no annotation files at {source}")
        return
    options = SourceOptions(preset="crisismmd")
    for task, label in (("informative", "label"), ("humanitarian", "label")):
        path = folder / task
        files = sorted(source.glob(f"task_{task}_*.tsv"))
        embed_sources(files, path, encoder="mini", options=options, only="text", tokens="tokens" in kinds)
        store = Store.open(path)
        plain = train(
            store,
            "logreg",
            params={"C": 10.0, "unit": False},
            inputs="pooled=mini/text/pooled",
            label=label,
        )
        begun = time.perf_counter()
        found = search(store, "text", seeds, label, "split", None, kinds)
        runs = [run for one in found for some in one.winners.values() for run in some]
        board = compare(store, [plain, *runs], metric="accuracy")
        print(f"\nCrisisMMD {task}, {label}: {board.rows:,} test rows, {time.perf_counter() - begun:.0f} s")
        print("| head | inputs | dev | test (95%) | over seeds | fit, s | a row, ms |")
        print("|---|---|---|---|---|---|---|")
        for entry in sorted(board.entries, key=lambda entry: -(entry.dev or 0)):
            name = "logreg, C = 10" if entry.runs == [plain] else entry.family
            spread = "" if entry.spread is None else f"{100 * entry.spread:.1f}"
            latency = "" if entry.latency is None else f"{1e3 * entry.latency:.1f}"
            interval = f"{100 * entry.test:.1f} ({100 * entry.low:.1f} to {100 * entry.high:.1f})"
            cells = [
                name,
                entry.inputs,
                f"{100 * (entry.dev or 0):.1f}",
                interval,
                spread,
                f"{entry.seconds:.1f}",
            ]
            print("| " + " | ".join([*cells, latency]) + " |", flush=True)


def elpv(folder: Path, label: str, heads: Sequence[str] | None) -> None:
    """Five random splits; what is chosen in each is chosen on a fifth of its train."""
    import elpv_dataset

    source = Path(elpv_dataset.__file__).parent / "data"
    cells = [line.split() for line in (source / "labels.csv").read_text().splitlines() if line.strip()]
    table = folder / "elpv.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "binary", "any"])
        for image, probability, _ in cells:
            binary = {0.0: "functional", 1.0: "defective"}.get(float(probability), "")
            writer.writerow([image, binary, "functional" if float(probability) == 0 else "defective"])
    options = SourceOptions(image_column="image", label_columns=("binary", "any"), root=source)
    embed_sources([table], folder / "elpv", encoder="mini", options=options, tokens=True)
    store = Store.open(folder / "elpv")
    ids = store.items.read(["item_id"])["item_id"].to_pylist()
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(ids))
        split = {ids[i]: "test" if rank < len(ids) // 4 else "train" for rank, i in enumerate(order)}
        file = folder / f"split{seed}.csv"
        file.write_text("\n".join([f"item_id,split{seed}", *(f"{k},{v}" for k, v in split.items())]) + "\n")
        join(store, file)
        for one in search(store, "image", 1, label, f"split{seed}", heads):
            for family, (run, *_) in one.winners.items():
                kind = "tokens" if "tokens" in run.features else "vectors"
                scores = [run.metrics[part]["accuracy"]["value"] for part in ("dev", "test")]
                macro = run.metrics["test"]["macro_f1"]["value"]
                rows.setdefault((family, kind), []).append((scores[0], scores[1], macro))
    print(f"\nELPV, {label}; five splits")
    print("| head | on | dev | test accuracy | macro-F1 |")
    print("|---|---|---|---|---|")
    for (family, kind), scored in sorted(rows.items(), key=lambda row: -np.mean([s[0] for s in row[1]])):
        dev, test, macro = 100 * np.array(scored).T
        print(
            f"| {family} | {kind} | {dev.mean():.1f} | {test.mean():.1f} ± {test.std():.1f} | {macro.mean():.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["crisismmd", "elpv"])
    parser.add_argument(
        "--crisismmd-files", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "crisismmd"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="fits of a trial on CrisisMMD, for heads that draw"
    )
    parser.add_argument("--keep", type=Path, help="folder for the stores; what is there is not done again")
    parser.add_argument("--no-tokens", action="store_true", help="CrisisMMD's word states take an hour")
    options = parser.parse_args()
    kinds = ("vectors", "joint") if options.no_tokens else ("vectors", "joint", "tokens")
    print(machine("torch", "scikit-learn", "lightgbm"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if "crisismmd" in options.what:
            crisismmd(options.crisismmd_files, folder, options.seeds, kinds)
        if "elpv" in options.what:
            elpv(folder, "binary", None)
            elpv(folder, "any", FEW)


if __name__ == "__main__":
    main()
