"""How fast features come back, how fast a rerun finds nothing to do, and whether memory grows with the items.

    python benchmarks/load.py [--rows 200000] [--dim 512]

Loading is compared with `np.load` on the same float16 array, each followed by one pass over every number, so that a
memory-mapped array cannot look fast by not having been read. Reruns and memory are measured on tiny pictures with an
encoder that costs nothing, in processes of their own: what remains is icehouse.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from icehouse.embed.encoder import Encoder, Output
from icehouse.embed.pipeline import embed_sources
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from machine import machine
from PIL import Image


class Means(Encoder):
    """Mean colours: an encoder that costs next to nothing."""

    family, id, name, device, precision = "means", "means", "means", "cpu", "float32"
    image_side, batch_size, context_length = 8, 256, 8  # type: ignore[assignment]
    outputs = (Output("image", "joint", 3),)

    def __init__(self) -> None:
        pass

    def provenance(self, modality: str) -> dict[str, Any]:
        return {"family": "means", "modality": modality}

    def prepare_image(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8)))

    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, Any]:
        return dict.fromkeys(outputs, pixels.mean(axis=(1, 2)).astype(np.float32))

    def encode_texts(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
        return dict.fromkeys(outputs, np.ones((len(texts), 3), np.float32))

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        return np.zeros(len(texts), np.int32)


def fill_store(path: Path, X: np.ndarray) -> None:
    """Make a store with one feature of `len(X)` contents, appended in parts of 16k rows and compacted."""
    from icehouse.store.maintain import compact

    rows, dim = X.shape
    spec = {"encoder": "bench", "name": "bench", "modality": "image", "output": "joint", "dim": dim, "dtype": "float16",
            "key": "image_sha256", "provenance": {}, "fingerprint": "0" * 16, "offers": ["joint"], "probe": {}}  # fmt: skip
    table = Store.create(path).ensure_feature_table(
        "bench/image/joint", spec, features_schema("image", "joint", dim)
    )
    for start in range(0, rows, 16384):
        block = X[start : start + 16384]
        keys = pa.array([f"{i:064x}" for i in range(start, start + len(block))])
        table.append(pa.table([keys, vectors_to_arrow(block)], schema=table.snapshot().schema))
    compact(Store.open(path))


def timed(load: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Seconds to load, and to load and pass over every number once."""
    begun = time.perf_counter()
    X = load()
    loaded = time.perf_counter() - begun
    X.view(np.uint16).max()
    return loaded, time.perf_counter() - begun


def loading(folder: Path, rows: int, dim: int, rounds: int) -> None:
    X = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32).astype(np.float16)
    np.save(folder / "X.npy", X)
    fill_store(folder / "store", X)
    cache = folder / "store" / "cache"

    def from_parquet() -> np.ndarray:
        shutil.rmtree(cache, ignore_errors=True)
        return Store.open(folder / "store").feature_table("bench/image/joint").reading(_read)

    def _read(snapshot: Any) -> np.ndarray:
        from icehouse.store.vectors import read_vectors

        return read_vectors(snapshot)

    def first_load() -> np.ndarray:
        shutil.rmtree(cache, ignore_errors=True)
        return Store.open(folder / "store").vectors("bench/image/joint").X

    def from_cache() -> np.ndarray:
        return Store.open(folder / "store").vectors("bench/image/joint").X

    sides = {
        "np.load": lambda: np.load(folder / "X.npy"),
        "Parquet": from_parquet,
        "Parquet, and leaving the mapped copy": first_load,
        "mapped copy": from_cache,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, load in sides.items():
            times[name].append(timed(load))
    assert np.array_equal(from_cache(), X)
    assert np.array_equal(from_parquet(), X)
    base = np.median(times["np.load"], axis=0)
    print(f"\n{rows:,} x {dim} float16, median of {rounds} rounds")
    print(f"{'':38s}{'load':>9s}{'ratio':>8s}{'and read':>10s}{'ratio':>8s}")
    for name, measured in times.items():
        load, read = np.median(measured, axis=0)
        print(f"{name:38s}{load:8.3f}s{load / base[0]:8.2f}{read:9.3f}s{read / base[1]:8.2f}")


def peak_mib() -> float:
    """Peak resident memory of this process; `ru_maxrss` would inherit the parent's through exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_tiny(folder: Path, n: int) -> None:
    if folder.exists():
        return
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i:06d}.png")


def rerun(folder: Path, n: int) -> None:
    pictures, store = folder / f"tiny-{n}", folder / f"tiny-store-{n}"
    make_tiny(pictures, n)
    shutil.rmtree(store, ignore_errors=True)
    for title in ("first run", "rerun, nothing to do"):
        command = [sys.executable, __file__, "--embed", str(pictures), str(store)]
        begun = time.perf_counter()
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds = time.perf_counter() - begun
        result = json.loads(output.splitlines()[-1])
        print(
            f"{n:7,d} items, {title:22s}{seconds:8.2f} s, peak {result['peak_mib']:5.0f} MiB, encoded {result['images']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--embed", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.embed:
        report = embed_sources([options.embed[0]], options.embed[1], encoder=Means())
        print(json.dumps({"images": report.images, "peak_mib": peak_mib()}))
        return
    print(machine("numpy", "pyarrow"))
    with tempfile.TemporaryDirectory() as scratch:
        loading(Path(scratch), options.rows, options.dim, options.rounds)
        print("\nwhole processes, start-up included")
        for n in (20_000, 100_000):
            rerun(Path(scratch), n)


if __name__ == "__main__":
    main()
