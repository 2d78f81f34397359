"""A film: near-identical frames, every one of which resembles every other. Does the search end, does the gallery open?

One picture is shifted by a few pixels, made noisier and saved as a small JPEG, `--frames` times. With `--vectors planted`
(the default) the embeddings are drawn instead of computed, all within some degrees of one direction, so that nothing but
the search and the gallery is measured; with `mini` the files are embedded. Of n frames there are n (n - 1) / 2 pairs: 200
million of 20,000, of which `--max-pairs` are written.

    python benchmarks/frames.py                     20,000 frames, planted vectors: a minute or two
    python benchmarks/frames.py --vectors mini      the same, embedded: some minutes more
    python benchmarks/frames.py --frames 2000
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from icehouse.data.images import perceptual_hash
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import write_gallery
from icehouse.store.schema import ITEMS, features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from machine import machine
from PIL import Image

DIM = 512


def scene(width: int, height: int) -> np.ndarray:
    """Smooth colours with hard edges, larger than a frame, (height, width, 3) of uint8."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    made = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(30):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        made[y : y + int(rng.integers(8, 40)), x : x + int(rng.integers(8, 40))] = rng.integers(0, 256, 3)
    return made


def film(folder: Path, frames: int, width: int = 192, height: int = 144) -> pa.Table:
    """Write the frames, and list them as items."""
    whole = scene(width + 16, height + 16).astype(np.int16)
    rng = np.random.default_rng(1)
    rows = []
    for k in range(frames):
        x, y = rng.integers(0, 16, 2)
        noisy = whole[y : y + height, x : x + width] + rng.integers(
            -10, 11, (height, width, 1), dtype=np.int16
        )
        image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        file = folder / f"frame-{k:06d}.jpg"
        image.save(file, quality=int(rng.integers(60, 95)))
        status = file.stat()
        rows.append(
            {
                "item_id": file.name,
                "path": file.name,
                "root": str(folder),
                "image_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "width": width,
                "height": height,
                "format": "JPEG",
                "bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "phash": perceptual_hash(image),
                "missing": False,
            }
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([ITEMS.field(name) for name in rows[0]]))


def planted(path: Path, items: pa.Table) -> Store:
    """A store of `items` whose vectors all lie near one direction."""
    store = Store.create(path)
    store.items.append(items, unique="item_id")
    rng = np.random.default_rng(2)
    centre = rng.standard_normal(DIM).astype(np.float32)
    X = (centre + 0.1 * rng.standard_normal((len(items), DIM), dtype=np.float32)).astype(np.float16)
    spec = {"encoder": "planted", "name": "planted", "modality": "image", "output": "pooled", "dim": DIM}
    spec |= {
        "dtype": "float16",
        "key": "image_sha256",
        "provenance": {"family": "planted"},
        "fingerprint": "0" * 16,
    }
    table = store.ensure_feature_table(
        "planted/image/pooled", spec, features_schema("image", "pooled", DIM, "float16")
    )
    # Frames whose bytes happen to be equal have one vector.
    table.append(
        pa.table({"image_sha256": items["image_sha256"], "vector": vectors_to_arrow(X, "float16")}),
        unique="image_sha256",
    )
    return store


def embedded(path: Path, folder: Path) -> Store:
    """A store of the frames as `mini` sees them."""
    from icehouse.embed.pipeline import embed_sources

    embed_sources([folder], path, encoder="mini", only="image", workers=2)
    return Store.open(path)


def peak() -> float:
    """Most memory this process has held, in GB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--vectors", choices=["planted", "mini"], default="planted")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--max-pairs", type=int, default=5_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder to leave the store and its gallery in")
    args = parser.parse_args()
    print(machine("numpy", "pyarrow", "Pillow"))
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or Path(scratch)
        frames = root / "frames"
        frames.mkdir(parents=True)
        begun = time.perf_counter()
        items = film(frames, args.frames)
        print(f"{args.frames:,} frames written in {time.perf_counter() - begun:.1f} s")
        begun = time.perf_counter()
        store = (
            planted(root / "store", items) if args.vectors == "planted" else embedded(root / "store", frames)
        )
        print(f"{args.vectors} vectors in {time.perf_counter() - begun:.1f} s; peak so far {peak():.2f} GB")
        del items
        begun = time.perf_counter()
        found = find_duplicates(store, rule=args.threshold, max_pairs=args.max_pairs, threads=args.threads)
        seconds = time.perf_counter() - begun
        pairs, groups = found.summary["pairs"], found.summary["groups"]
        weight = (found.path / "pairs.parquet").stat().st_size / 1e6
        print(
            f"find: {seconds:.1f} s, {pairs['total']:,} pairs ({weight:.1f} MB), capped: {found.summary['capped']}, "
            f"{groups['total']:,} groups, the largest of {groups['largest']:,}, whole: {groups['complete']}; "
            f"peak {peak():.2f} GB"
        )
        begun = time.perf_counter()
        made = write_gallery(store, threads=args.threads)
        seconds = time.perf_counter() - begun
        heaviest = max(p.stat().st_size for p in made.path.parent.glob("*.html"))
        print(
            f"gallery: {seconds:.1f} s, {made.summary['groups']:,} groups, {made.summary['members']:,} members shown and "
            f"{made.summary['members_left_out']:,} counted, {made.summary['pages']:,} pages, "
            f"{made.summary['bytes'] / 1e6:.2f} MB, the heaviest {heaviest / 1e6:.2f} MB; peak {peak():.2f} GB"
        )
        if args.keep:
            print(made.path)


if __name__ == "__main__":
    main()
