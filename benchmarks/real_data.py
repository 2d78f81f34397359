"""Published data with `mini` and logistic regression: ELPV solar cells, CrisisMMD texts.

    python benchmarks/real_data.py [--crisismmd ../shared/data/crisismmd] [--only elpv|crisismmd]

ELPV comes from the package `elpv-dataset` (pip install elpv-dataset); CrisisMMD's annotation files are asked for by folder.
Everything goes through the main job: sources, store, features, head. C is chosen on dev (or on a part of train), test is
touched once.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.trainer import train
from icehouse.store.annotate import join
from icehouse.store.store import Store
from machine import machine

TASKS = ("informative", "humanitarian")


def elpv(folder: Path) -> None:
    """5 random splits 75/25: functional (probability 0) or defective (1), and all four levels."""
    try:
        import elpv_dataset
    except ImportError:
        print("ELPV: skipped, pip install elpv-dataset")
        return
    source = Path(elpv_dataset.__file__).parent / "data"
    cells = [line.split() for line in (source / "labels.csv").read_text().splitlines() if line.strip()]
    table = folder / "elpv.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "level", "binary", "type"])
        for image, probability, kind in cells:
            level = f"{float(probability):.2f}"
            binary = {"0.00": "functional", "1.00": "defective"}.get(level, "")
            writer.writerow([image, level, binary, kind])
    options = SourceOptions(
        image_column="image", label_columns=("level", "binary"), meta_columns=("type",), root=source
    )
    report = embed_sources([table], folder / "elpv", encoder="mini", options=options)
    print(
        f"\nELPV: {report.images} cells, {report.images / report.seconds:.0f} images/s, failed {report.failed}"
    )
    store = Store.open(folder / "elpv")
    ids = store.items.read(["item_id"])["item_id"].to_pylist()
    print("published, functional against defective: SVM 82.4, fine-tuned VGG-19 88.4")
    print(f"{'task':12s}{'output':8s}{'scale':9s}{'accuracy, 5 splits':>22s}{'macro-F1':>10s}")
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(ids))
        split = {ids[i]: "test" if rank < len(ids) // 4 else "train" for rank, i in enumerate(order)}
        file = folder / f"split{seed}.csv"
        file.write_text(
            "\n".join(["item_id,split" + str(seed), *(f"{k},{v}" for k, v in split.items())]) + "\n"
        )
        join(store, file)
    for label in ("binary", "level"):
        for output in ("pooled", "joint"):
            for scale in ("input", "feature"):
                runs = [
                    train(store, "logreg", params={"scale": scale}, inputs=f"image/{output}", label=label,
                          split_column=f"split{seed}", seed=seed, draws=100).metrics["test"]
                    for seed in range(5)
                ]  # fmt: skip
                accuracy = [100 * run["accuracy"]["value"] for run in runs]
                macro = np.mean([100 * run["macro_f1"]["value"] for run in runs])
                print(
                    f"{label:12s}{output:8s}{scale:9s}{np.mean(accuracy):15.1f} ± {np.std(accuracy):3.1f}{macro:10.1f}"
                )


def crisismmd(source: Path, folder: Path) -> None:
    """Official splits, texts only; task 2 with five classes and with its labels as they come."""
    if not source.is_dir():
        print(f"CrisisMMD: skipped, no annotation files at {source}")
        return
    print(f"\n{'CrisisMMD texts':34s}{'accuracy':>10s}{'':16s}{'macro-F1':>10s}{'':16s}{'C':>8s}")
    for task in TASKS:
        files = sorted(source.glob(f"task_{task}_*.tsv"))
        options = SourceOptions(preset="crisismmd")
        embed_sources(files, folder / task, encoder="mini", options=options, only="text")
        for label in ("label", "label5") if task == "humanitarian" else ("label",):
            run = train(Store.open(folder / task), "logreg", inputs="text", label=label)
            test = run.metrics["test"]
            scores = _shown(test["accuracy"]) + _shown(test["macro_f1"])
            print(f"{task + ', ' + label:34s}{scores}{run.metrics['chosen']['C']:8.3g}")


def _shown(score: dict[str, float]) -> str:
    return f"{100 * score['value']:10.1f} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--crisismmd", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "crisismmd"
    )
    parser.add_argument("--only", choices=("elpv", "crisismmd"))
    options = parser.parse_args()
    print(machine("torch", "scikit-learn"))
    with tempfile.TemporaryDirectory() as scratch:
        if options.only != "elpv":
            crisismmd(options.crisismmd, Path(scratch))
        if options.only != "crisismmd":
            elpv(Path(scratch))


if __name__ == "__main__":
    main()
