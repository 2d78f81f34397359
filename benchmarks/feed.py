"""Image and text together, on sample feeds where neither tells the class alone.

    python benchmarks/feed.py [--feeds 3] [--posts 400]

Every head is swept over image and text, image alone and text alone; dev chooses. The best single input is the best of
all heads on one input, chosen on dev; fusion heads are set against it. Then the ablation of logistic regression on both.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.data.sample_feed import make_feed
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.registry import FAMILIES
from icehouse.heads.report import ablate
from icehouse.heads.sweep import sweep
from icehouse.store.store import Store
from machine import machine

INPUTS = ("image+text", "image", "text")


def scores_of(store: Store) -> dict[tuple[str, str], tuple[float, float]]:
    """Dev and test macro-F1, by head and inputs."""
    found = {}
    for inputs in INPUTS:
        done = sweep(
            store,
            list(FAMILIES),
            inputs=inputs,
            seeds=1,
            name=inputs.replace("+", "-"),
            report=False,
            draws=50,
        )
        for family, (run, *_) in done.winners.items():
            dev, test = (run.metrics[part]["macro_f1"]["value"] for part in ("dev", "test"))
            found[family, inputs] = (100 * dev, 100 * test)
        if inputs == "image+text":
            adds = ablate(store, done.winners["logreg"][0])["adds"]
            told = {name: adds[name]["macro_f1"] for name in ("image", "text")}
            print(
                "  ablation of logreg: "
                + ", ".join(
                    f"{name} adds {100 * one['value']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
                    for name, one in told.items()
                ),
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feeds", type=int, default=3)
    parser.add_argument("--posts", type=int, default=400)
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    print(machine("torch", "scikit-learn", "lightgbm"))
    feeds = []
    for seed in range(options.feeds):
        with tempfile.TemporaryDirectory() as folder:
            feed = make_feed(Path(folder) / "feed", n=options.posts, seed=seed)
            store = Store.create(Path(folder) / "store")
            embed_sources([feed.posts], store, encoder="mini", options=SourceOptions(label_columns=["label"]))
            print(f"feed {seed}", flush=True)
            feeds.append(scores_of(store))
    single = [
        max((dev, test, key) for key, (dev, test) in scores.items() if key[1] != "image+text")
        for scores in feeds
    ]
    best = np.mean([test for _, test, _ in single])
    print(
        f"best single input, chosen on dev: {best:.1f} ({', '.join(f'{k[0]} on {k[1]} {t:.1f}' for _, t, k in single)})"
    )
    print("| head | image+text | over the best single input | image | text |")
    print("|---|---|---|---|---|")
    means = {}
    for key in sorted({key for scores in feeds for key in scores}):
        means[key] = np.mean([scores[key][1] for scores in feeds if key in scores])
    for family in sorted(FAMILIES, key=lambda family: -means.get((family, "image+text"), 0)):
        cells = {
            inputs: f"{means[family, inputs]:.1f}" if (family, inputs) in means else "" for inputs in INPUTS
        }
        more = f"{means[family, 'image+text'] - best:+.1f}" if (family, "image+text") in means else ""
        print(f"| {family} | {cells['image+text']} | {more} | {cells['image']} | {cells['text']} |")


if __name__ == "__main__":
    main()
