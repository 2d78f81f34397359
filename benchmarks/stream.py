"""Images a second through `DuplicateStream`: read, hash, decode, encode, judge; with an empty window and with a full one.

The pictures are photographs of the sizes social media serves (`pictures.py`), some of them again: as they are, or
recompressed. A full window is filled beforehand with vectors of the spectrum of real embeddings (`join.py`), around the
mean of the pictures' own, and random hashes. Memory is the process's resident set as the stream goes on. Judging is timed
by itself too, one image at a time and in batches.

    python benchmarks/stream.py                     2,000 pictures, empty and full
    python benchmarks/stream.py --images 20000      so many on a full window: memory at 5k, 10k, 15k, 20k
    python benchmarks/stream.py --n 300 --window 20000
    python benchmarks/stream.py --threshold 0.95 --no-views     one cosine for all pairs
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from icehouse.data.images import decode
from icehouse.dups.hashing import VIEWS
from icehouse.dups.stream import DuplicateStream
from icehouse.dups.window import Arrival
from icehouse.embed.encoder import Encoder, load_encoder
from join import peak, variances
from machine import machine
from pictures import make_jpegs
from PIL import Image


def resident() -> float:
    """Resident memory now, in MB; the peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak() * 1000
    return pages * 4096 / 1e6


def with_copies(paths: list[Path], folder: Path) -> list[Path]:
    """The pictures, of which one in ten comes again as it is, and one in ten recompressed, somewhat later."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = list(paths)
    for k, path in enumerate(paths[::10]):
        again = folder / path.name
        if not again.exists():
            Image.open(path).save(again, quality=60)
        stream.insert(min(11 * k + 60, len(stream)), again)
        stream.insert(min(11 * k + 90, len(stream)), path)
    return stream


def resembling(like: np.ndarray, n: int, seed: int) -> Iterator[list[Arrival]]:
    """Contents that resemble nothing, though they lie where pictures lie: their mean, their spread, their spectrum."""
    rng = np.random.default_rng(seed)
    dim = like.shape[1]
    mean = like.mean(axis=0)
    scale = np.sqrt(variances("memes", dim) * np.square(like - mean).sum(axis=1).mean()).astype(np.float32)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0].astype(np.float32)
    for start in range(0, n, 1000):
        count = min(1000, n - start)
        X = mean + (rng.standard_normal((count, dim), dtype=np.float32) * scale) @ rotation
        hashes = rng.integers(0, 2**63, count, dtype=np.uint64)
        names = [f"{seed}-{start + k}" for k in range(count)]
        views = rng.integers(0, 2**63, (count, VIEWS), dtype=np.uint64)
        yield [Arrival(name, name, int(hashes[k]), X[k], views=views[k]) for k, name in enumerate(names)]


def run(
    stream: DuplicateStream, paths: Iterator[bytes | Path], marks: list[int]
) -> tuple[float, float, list[str]]:
    """Seconds, seconds of processor time, and memory at the marks."""
    told = []
    begun, used = time.perf_counter(), time.process_time()
    for count, _ in enumerate(stream.judge_many(paths), 1):
        if count in marks:
            told.append(f"{count:,}: {resident():,.0f} MB (peak {peak() * 1000:,.0f})")
    return time.perf_counter() - begun, time.process_time() - used, told


def judging(stream: DuplicateStream, like: np.ndarray) -> None:
    """Time judging by itself."""
    for size in (1, 8, 32):
        (arrivals,) = resembling(like, 960, 1 + size)
        list(stream.window.judge(arrivals[:320]))
        begun, used = time.perf_counter(), time.process_time()
        for start in range(320, 960, size):
            list(stream.window.judge(arrivals[start : start + size]))
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        print(
            f"judging alone, {size:2} at a time: {seconds / 640 * 1000:.2f} ms an image"
            f" ({used / 640 * 1000:.2f} ms of processor time)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2000, help="different pictures")
    parser.add_argument("--window", type=int, default=100_000)
    parser.add_argument(
        "--threshold", type=float, help="one cosine for all, instead of what the contents tell"
    )
    parser.add_argument("--no-views", action="store_true")
    parser.add_argument("--exact", action="store_true", help="decode whole, never at a smaller scale")
    parser.add_argument(
        "--images", type=int, help="the pictures again and again, in new bytes; full window only"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "icehouse-stream")
    args = parser.parse_args()
    print(machine("numpy", "torch", "pillow"))
    paths = with_copies(make_jpegs(args.folder / "jpegs", args.n), args.folder / "again")
    encoder: Encoder = load_encoder("mini", device="cpu")
    options: dict[str, Any] = {"rule": args.threshold, "window": args.window, "shrink": not args.exact}
    options["views"] = False if args.no_views else None

    # Also what the first images pay for: kernels, plug-ins.
    list(DuplicateStream(encoder, **options).judge_many(paths[:64]))
    pixels = [encoder.prepare_image(decode(path.read_bytes()).image) for path in paths[:64]]
    like = np.asarray(encoder.encode_images(np.stack(pixels), ["pooled"])["pooled"])
    for name in ("full",) if args.images else ("empty", "full"):
        stream = DuplicateStream(encoder, **options)
        if name == "full":
            begun = time.perf_counter()
            for arrivals in resembling(like, args.window, 0):
                stream.window.remember(arrivals)
            seconds = time.perf_counter() - begun
            print(
                f"\nfilled with {len(stream.window):,} contents in {seconds:.0f} s;"
                f" {stream.window.bytes / 1e6:.0f} MB of arrays"
            )
        n = args.images or len(paths)
        source = _rounds(paths, n) if args.images else iter(paths)
        marks = [n // 4, n // 2, 3 * n // 4, n]
        seconds, used, memory = run(stream, source, marks)
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(stream.counts.items()))
        print(
            f"{name} window: {n:,} images in {seconds:.1f} s, {n / seconds:.1f} images/s"
            f" ({used / n * 1000:.1f} ms of processor time an image); {kinds}"
        )
        print("  resident after " + ", ".join(memory))
        if name == "full":
            judging(stream, like)


def _rounds(paths: list[Path], n: int) -> Iterator[bytes | Path]:
    """The pictures again and again, in each round with another byte at their ends, so that no round is of copies."""
    for k, path in enumerate(itertools.islice(itertools.cycle(paths), n)):
        turn = k // len(paths)
        yield path if turn == 0 else path.read_bytes() + turn.to_bytes(2, "big")


if __name__ == "__main__":
    main()
