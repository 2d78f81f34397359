"""The exact join against FAISS flat range search: the same vectors, the same threads, one run, the same pairs.

The rows are Gaussian with the spectrum of real image embeddings after centring: the share of variance in their first 16,
32, 64 and 128 principal axes is given (`SPECTRA`), and falls off as 1 / (k + 4) between those marks. They are rotated at
random, scaled to unit length, and 1% of them replaced by near-copies of others at cosines drawn from .93 to .999, the
difference having the same spectrum. There is no common mean: raw CLIP vectors have a large one, and an unrelated pair lies
at .5 to .7 instead of 0; `--mean 0.6` adds it. Gaussian rows have no clusters, so fewer pairs survive the bound than with
real photographs; so there is a clustered set of each spectrum too, 1,000 centres whose rows lie at a cosine of about .8 to
one another, and `--store` takes real embeddings. The share after each bound is printed.

FAISS searches a little below the threshold, since its float32 products may fall to either side of it; what it finds is
scored by the join's definition of a cosine, outside the clock. The join's time includes all that it does: planning,
rotating, joining. The sides alternate, and the ratio is that of their medians.

    python benchmarks/join.py                      both spectra, plain and clustered, .95 and .90, 100k rows
    python benchmarks/join.py --n 20000 --runs 1   in a minute
    python benchmarks/join.py --store S -f mini/image/pooled
    python benchmarks/join.py --million            one million rows, the join alone: time and peak memory
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from icehouse.dups.join import JoinStats, RowSet, pair_cosines, self_join
from machine import machine

#: Share of variance in the first 16, 32, 64, 128 principal axes.
SPECTRA = {"memes": (0.36, 0.48, 0.61, 0.74), "products": (0.51, 0.64, 0.77, 0.89)}
MARKS = (0, 16, 32, 64, 128)

#: Centres of clustered rows, and the cosine of two rows of one cluster.
CLUSTERS, WITHIN = 1000, 0.8

#: What the join is to be faster by than FAISS, at .95.
TARGET = 10


def variances(name: str, dim: int) -> np.ndarray:
    """Variance along each principal axis, (dim,), descending, with a sum of 1."""
    shares = np.diff((0.0, *SPECTRA[name], 1.0))
    parts = []
    for start, stop, share in zip(MARKS, (*MARKS[1:], dim), shares, strict=True):
        fall = 1 / (np.arange(start, stop) + 4.0)
        parts.append(share * fall / fall.sum())
    found = np.concatenate(parts)
    assert (np.diff(found) <= 0).all(), "the shares do not make a falling spectrum"
    return found


def draw(out: np.ndarray, name: str, mean: float, seed: int = 0, *, clustered: bool = False) -> None:
    """Fill `out` (n, dim) of float16, a block at a time; `mean` is the cosine of an unrelated pair."""
    n, dim = out.shape
    rng = np.random.default_rng(seed)
    scale = np.sqrt(variances(name, dim)).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    shift = rng.standard_normal(dim).astype(np.float32)
    shift *= np.sqrt(mean) / np.linalg.norm(shift)

    def gaussian(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, dim), dtype=np.float32) * scale) @ rotation

    centres = gaussian(CLUSTERS) if clustered else None

    def fresh(count: int) -> np.ndarray:
        rows = gaussian(count)
        if centres is not None:
            near = centres[rng.integers(len(centres), size=count)]
            rows = unit(near * np.float32(np.sqrt(WITHIN)) + rows * np.float32(np.sqrt(1 - WITHIN)))
        return unit(rows * np.float32(np.sqrt(1 - mean)) + shift)

    for start in range(0, n, 8192):
        part = out[start : start + 8192]
        part[:] = fresh(len(part))
    rows = rng.permutation(n)[: 2 * (n // 100)]
    sources, copies = np.split(rows, 2)
    source = unit(out[sources].astype(np.float32))
    cosine = rng.uniform(0.93, 0.999, (len(copies), 1)).astype(np.float32)
    away = fresh(len(copies))
    away = unit(away - (away * source).sum(axis=1, keepdims=True) * source)
    out[copies] = cosine * source + np.sqrt(1 - cosine**2) * away


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ours(X: np.ndarray, threshold: float, threads: int, device: str) -> tuple[float, set, JoinStats]:
    begun = time.perf_counter()
    join = self_join(X, threshold, threads=threads, device=device)
    block = join.collect()
    seconds = time.perf_counter() - begun
    return seconds, set(zip(block.i.tolist(), block.j.tolist(), strict=True)), join.stats


def theirs(X: np.ndarray, units: np.ndarray, threshold: float, threads: int) -> tuple[float, set]:
    import faiss

    faiss.omp_set_num_threads(threads)
    begun = time.perf_counter()
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units)
    limits, _, j = index.range_search(units, threshold - 1e-5)
    seconds = time.perf_counter() - begun
    i = np.repeat(np.arange(len(units)), np.diff(limits.astype(np.int64)))
    above = i < j
    i, j = i[above], j[above]
    rows = RowSet.of(X).measure()
    keep = pair_cosines(rows, rows, i, j) >= threshold
    return seconds, set(zip(i[keep].tolist(), j[keep].tolist(), strict=True))


def compare(args: argparse.Namespace) -> None:
    import faiss  # noqa: F401  imported before the clock starts, on both sides

    devices = ["numpy"]
    if args.device != "numpy":
        import torch  # noqa: F401

        devices.append(args.device)
    print(machine("numpy", "torch"))
    print(f"{args.threads} threads on either side, {args.runs} runs; pairs are the same on both, or it stops")
    for name, X in sets(args):
        print(
            f"\n{name}: {len(X):,} x {X.shape[1]} {X.dtype}\n"
            "cosine  pairs    | FAISS s | engine               join s  ratio | lead middle explained  survivors"
        )
        units = unit(X.astype(np.float32))
        for threshold in args.threshold:
            faiss_seconds, seconds = [], {device: [] for device in devices}
            stats = {}
            for _ in range(args.runs):
                spent, expected = theirs(X, units, threshold, args.threads)
                faiss_seconds.append(spent)
                for device in devices:
                    spent, found, stats[device] = ours(X, threshold, args.threads, device)
                    seconds[device].append(spent)
                    assert found == expected, f"{device}: {len(found ^ expected)} pairs differ"
            base = statistics.median(faiss_seconds)
            for device in devices:
                took, did = statistics.median(seconds[device]), stats[device]
                share = f"{did.after_lead / did.comparisons:.2e}, {did.after_middle / did.comparisons:.2e}"
                explained = "-" if did.explained is None else f"{did.explained:.2f}"
                short = (
                    " below the target"
                    if threshold == 0.95 and len(X) >= 100_000 and base / took < TARGET
                    else ""
                )
                print(
                    f"{threshold:6} {did.pairs:8} | {base:7.2f} | {did.engine:20} {took:6.2f} {base / took:6.1f} |"
                    f" {did.lead:4} {did.middle:6} {explained:>9}  {share}{short}",
                    flush=True,
                )
    print(f"\npeak memory of both sides, vectors included: {peak():.2f} GB")


def sets(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows of each set to be joined."""
    if args.store is not None:
        from icehouse.store.store import Store

        X = Store.open(args.store).vectors(args.feature).X[: args.n]
        directed = np.isfinite(X).all(axis=1) & (X != 0).any(axis=1)  # FAISS would choke on others
        yield f"{args.feature}, as stored", np.ascontiguousarray(X[directed])
        return
    X = np.empty((args.n, args.dim), np.float16)
    for name in args.spectrum:
        for clustered in args.clustered:
            draw(X, name, args.mean, clustered=clustered)
            about = f", in {CLUSTERS:,} clusters" if clustered else ""
            yield f"spectrum of {name}{about}, unrelated pairs at cosine {args.mean}", X


def million(args: argparse.Namespace) -> None:
    """Join rows that lie on disk, as a store's do, in a process of their own size."""
    n = 1_000_000
    name, threshold = args.spectrum[0], args.threshold[0]
    print(machine("numpy", "torch"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        X = np.lib.format.open_memmap(path, "w+", np.float16, (n, args.dim))
        draw(X, name, args.mean, clustered=args.clustered[0])
        X.flush()
        del X
        X = np.load(path, mmap_mode="r")
        before = peak()
        last = time.perf_counter()

        def progress(done: int, total: int) -> None:
            nonlocal last
            if time.perf_counter() - last > 15:
                last = time.perf_counter()
                print(f"  {done / total:6.1%}  peak {peak():.2f} GB", flush=True)

        begun, used = time.perf_counter(), time.process_time()
        join = self_join(X, threshold, threads=args.threads, device=args.device, progress=progress)
        pairs = sum(len(block) for block in join)
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        print(
            f"{n:,} x {args.dim} {name} at {threshold}: {pairs:,} pairs in {seconds:.0f} s ({used:.0f} s of processor time),"
            f" peak {peak():.2f} GB, of which {before:.2f} GB from drawing the rows"
        )
        print(join.stats)


def peak() -> float:
    """Most memory this process has held, in GB, pages of mapped files included."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--spectrum", nargs="+", choices=sorted(SPECTRA), default=sorted(SPECTRA))
    parser.add_argument("--threshold", nargs="+", type=float, default=[0.95, 0.90])
    parser.add_argument(
        "--clustered",
        nargs="+",
        type=lambda text: text == "yes",
        default=[False, True],
        metavar="yes|no",
        help="sets with clusters, without, or both; the first for --million",
    )
    parser.add_argument("--store", type=Path, help="join a store's feature instead")
    parser.add_argument("--feature", "-f", default="mini/image/pooled")
    parser.add_argument("--mean", type=float, default=0.0, help="cosine of an unrelated pair")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument(
        "--device", default="auto", help="beside numpy: auto, cpu, cuda; numpy for that alone"
    )
    parser.add_argument("--million", action="store_true")
    args = parser.parse_args()
    if args.million:
        million(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
