"""Index kinds: flat, IVF and HNSW, and which of them suits how many vectors.

All hold unit vectors and compare by inner product, which is the cosine. A flat index keeps float32 and finds exactly what
exact search finds. IVF and HNSW keep float16, as the store does, half the size: what they find is scored again from the
stored vectors, so that only their choice of candidates is approximate.

A kind is one class here and a line in `KINDS`; the contract tests run over all of them.

IVF: Sivic and Zisserman (2003), Jégou et al. (2011). HNSW: Malkov and Yashunin (2018). Both by FAISS (Douze et al., 2024).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, ClassVar

from ...errors import IcehouseError, UsageError

__all__ = ["KINDS", "Kind", "choose_kind", "load_faiss", "thread_limit", "to_gpu"]

#: Up to here comparing everything takes a few milliseconds, and there is nothing to win.
FLAT_UP_TO = 50_000

#: Above this recall a graph answers sooner than cells do.
HNSW_ABOVE = 0.98


class Kind:
    """How one kind of index is made, and the knob that trades its speed for recall."""

    name: ClassVar[str]
    effort: ClassVar[str | None] = None
    on_gpu: ClassVar[bool] = True

    def make(self, dim: int, rows: int) -> Any:
        """Make an empty FAISS index for about `rows` vectors of `dim` dimensions."""
        raise UsageError(f"{type(self).__name__} makes no index")

    def training_rows(self, rows: int) -> int:
        """How many of `rows` vectors it learns from before it takes any."""
        return 0

    def outgrown(self, trained: int, rows: int) -> bool:
        """Whether an index made for `trained` vectors should be made anew for `rows`."""
        return False

    def ladder(self, index: Any) -> list[int]:
        """Efforts worth trying, the least first; empty where every search is exact."""
        return []

    def set_effort(self, index: Any, effort: int, k: int) -> None:
        """Make the next searches for `k` neighbours take this effort."""


class Flat(Kind):
    """Every vector is compared."""

    name = "flat"

    def make(self, dim: int, rows: int) -> Any:
        """Make an empty index; see `Kind.make`."""
        return load_faiss().IndexFlatIP(dim)


class Ivf(Kind):
    """Vectors in the cells of a k-means; a search looks into the `nprobe` nearest cells."""

    name = "ivf"
    effort = "nprobe"

    def make(self, dim: int, rows: int) -> Any:
        """Make an untrained index with about 2 sqrt(rows) cells; see `Kind.make`."""
        faiss = load_faiss()
        cells = max(1, min(int(2 * math.sqrt(rows)), rows // 8))
        index = faiss.index_factory(dim, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
        # A few vectors a cell are enough for the cells and no cause for FAISS to warn on stderr.
        index.cp.min_points_per_centroid = 1
        return index

    def training_rows(self, rows: int) -> int:
        """64 a cell; see `Kind.training_rows`."""
        return min(rows, 128 * math.isqrt(rows) + 64)

    def outgrown(self, trained: int, rows: int) -> bool:
        """Four times the vectors want twice the cells; see `Kind.outgrown`."""
        return rows > 4 * max(trained, 64)

    def ladder(self, index: Any) -> list[int]:
        """Cells to look into: powers of sqrt 2, up to all; see `Kind.ladder`."""
        steps = {round(2 ** (step / 2)) for step in range(2 * int(index.nlist).bit_length())}
        return sorted({step for step in steps if step < index.nlist} | {int(index.nlist)})

    def set_effort(self, index: Any, effort: int, k: int) -> None:
        """Set nprobe; see `Kind.set_effort`."""
        index.nprobe = effort


class Hnsw(Kind):
    """A graph from neighbour to neighbour; a search keeps the `efSearch` best places in view."""

    name = "hnsw"
    effort = "efSearch"
    on_gpu = False

    def make(self, dim: int, rows: int) -> Any:
        """Make an empty graph of 32 links a vector; see `Kind.make`."""
        faiss = load_faiss()
        index = faiss.index_factory(dim, "HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 80
        return index

    def training_rows(self, rows: int) -> int:
        """Its float16 storage asks for a call, and learns nothing; see `Kind.training_rows`."""
        return min(rows, 1)

    def ladder(self, index: Any) -> list[int]:
        """Places in view: powers of sqrt 2 from 16 to 2048; see `Kind.ladder`."""
        return [round(2 ** (step / 2)) for step in range(8, 23)]

    def set_effort(self, index: Any, effort: int, k: int) -> None:
        """Set efSearch, at least what is asked for; see `Kind.set_effort`."""
        index.hnsw.efSearch = max(effort, k)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Flat(), Ivf(), Hnsw())}


def choose_kind(rows: int, recall: float) -> str:
    """Choose a kind for this many vectors and this recall.

    Flat while comparing everything is quick, or where nothing may be missed. Else IVF, which is built in an eighth of the
    time that HNSW takes; to miss next to nothing it must look into a large share of its cells, and there HNSW pays.
    """
    if rows <= FLAT_UP_TO or recall >= 1:
        return "flat"
    return "hnsw" if recall > HNSW_ABOVE else "ivf"


def load_faiss() -> Any:
    """Import FAISS."""
    try:
        import faiss
    except ImportError as error:
        raise IcehouseError(
            f"FAISS cannot be loaded ({error}): pip install 'icehouse[cpu]'; searching works without it, exactly"
        ) from None
    return faiss


def to_gpu(kind: Kind, index: Any) -> Any:
    """Copy an index to the first GPU; None if FAISS has no GPU, or not this kind there, or no room."""
    faiss = load_faiss()
    if not kind.on_gpu or faiss.get_num_gpus() < 1:
        return None
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError:  # out of memory, most likely: the processor can do it too
        return None


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Let FAISS use this many threads for a while; None leaves it what OpenMP gives it (``OMP_NUM_THREADS``)."""
    if threads is None:
        yield
        return
    if threads < 1:
        raise UsageError(f"threads are at least 1, not {threads}")
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
