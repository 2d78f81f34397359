"""Recall, false pairs and false repeats of a stream, on the sets of `dups_sets.py` played in a random order.

Each set is played through one window with what the stream makes of its pictures (`mini`), by four rules: the cosine of
before (.95, and hashes within 6 bits), what the stream itself tells of its contents, what the set's store has for
neighbours, and the store's calibration. Beside them `icehouse dups find` on the same set. A false repeat is an arrival
whose best match is of another picture.

    python benchmarks/stream_quality.py --work DIR textile feed     sets as `dups_quality.py --work DIR` leaves them
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.csv as pcsv
from dups_quality import Score, Truth, results, run
from icehouse.dups.agreements import StreamPictures
from icehouse.dups.rule import Rule
from icehouse.dups.stream import DuplicateStream, Item
from icehouse.dups.window import Arrival, SlidingWindow
from icehouse.dups.window_rules import FittedRules, Rules, fixed_rules, store_rules
from icehouse.store.store import Store
from machine import machine

WINDOW = 100_000


def arrivals(folder: Path, stream: DuplicateStream) -> list[Arrival]:
    """What comes, in a random order that is always the same; made as the stream makes it."""
    table = pcsv.read_csv(folder / "items.csv")
    rows = np.random.default_rng(5).permutation(len(table))
    texts = table["text"].to_pylist() if "text" in table.column_names else [None] * len(table)
    ids, images = table["id"].to_pylist(), table["image"].to_pylist()
    made = []
    for start in range(0, len(rows), 32):
        contents = []
        for row in rows[start : start + 32].tolist():
            path = folder / images[row]
            path = path if path.exists() else folder / "pictures" / images[row]
            contents.append(stream._read(Item(str(ids[row]), path, text=texts[row] or None)))
        wanted = [content for content in contents if content.prepared is not None]
        stream._encode(wanted)
        made += [stream._arrival(content) for content in contents if content.error is None]
    return made


def play(truth: Truth, stream: list[Arrival], rules: Rules, dim: int) -> tuple[Score, int, int, float]:
    """Score of all matches but variants, false repeats, variants, and milliseconds of processor time an arrival."""
    window = SlidingWindow(WINDOW, rule=rules, dim=dim, pictures=StreamPictures())
    pairs, repeats, variants, used = [], [], 0, time.process_time()
    for result in window.judge(stream):
        pairs += [(result.id, match.id) for match in result.matches if not match.variant]
        variants += result.kind == "variant"
        if result.match is not None and not result.match.variant:
            repeats.append((result.id, result.match.id))
    used = 1000 * (time.process_time() - used) / max(len(stream), 1)
    i, j = truth.rows([a for a, _ in pairs]), truth.rows([b for _, b in pairs])
    best = truth.rows([a for a, _ in repeats]), truth.rows([b for _, b in repeats])
    return Score.of(truth, i, j), int(truth.false(*best).sum()), variants, used


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--find", action="store_true", help="search with `dups find` too, and calibrate")
    parser.add_argument("--edits", action="store_true", help="recall of each edit, too")
    args = parser.parse_args()
    print(machine("numpy", "torch", "pillow"))
    stream = DuplicateStream("mini", device="cpu")
    for name in args.sets:
        folder = args.work / name
        truth = Truth.read(folder)
        coming = arrivals(folder, stream)
        dim = stream.window.dim or 0
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "STORE"
            shutil.copytree(folder / "STORE", path, ignore=shutil.ignore_patterns("calibrations", "cache"))
            feature = "mini/image/pooled"
            rules: dict[str, Rules] = {
                "cosine .95": fixed_rules(Rule(6, 0.95), WINDOW, viewed=False),
                "by itself": FittedRules(feature, "", WINDOW, viewed=True),
            }
            by_store = store_rules(Store.open(path), feature, WINDOW, None, viewed=True)[0]
            rules["by the store"] = by_store
            if args.find:
                run("dups", "find", "-s", path, "--name", "found")
                found = results(truth, path, "found")
                print(f"{name}, {len(coming):,} arrivals: find {found.shown()}")
                run("dups", "calibrate", "-s", path, must=False)
                calibrated = store_rules(Store.open(path), feature, WINDOW, None, viewed=True)[0]
                rules["calibrated"] = calibrated
            for how, rule in rules.items():
                score, false, variants, used = play(truth, coming, rule, dim)
                print(
                    f"{name}, {len(coming):,} arrivals, {how}: {score.shown()}; {false:,} false repeats, "
                    f"{variants:,} variants; {used:.2f} ms of processor time an arrival",
                    flush=True,
                )
                if args.edits and how != "cosine .95":
                    print("   ", {edit: round(share, 2) for edit, share in score.by_edit().items()})


if __name__ == "__main__":
    main()
