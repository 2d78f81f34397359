"""Exact join: all pairs of vectors whose cosine reaches a threshold, none missed and none compared in full that need not be.

A cosine is computed in float64 from the vectors as they are stored, a row at a time, by a sum whose order depends on the
dimension alone. So it does not depend on tiles, threads, devices, or which other rows there are; a vector has a cosine of
exactly 1 with its copy, and ties at a threshold are decided alike everywhere.

Every pair meets a bound on its cosine from a few leading principal coordinates (`Plan`), computed a cache-sized tile of
the upper triangle at a time; what survives meets the same bound from some more coordinates; what survives that is scored
by the one definition (`pair_cosines`). The bounds err on one side only: an engine of tiles may round however it likes, as
long as `slack` bounds by how much its product can fall short of the true one. So the pairs are exactly those that scoring
every pair would find, whatever the tiles, threads and device.

Pairs come in the order of (i, j), a block of rows at a time. Threads work on the blocks, since BLAS, NumPy's comparisons
and torch release the interpreter; few of them are ahead of the reader, and a block with too many pairs to hold is done
again as several lower ones, so that memory stays flat however many pairs there are.

Partial distances are due to Bei and Gray (1985), after a principal component transform to McNames (2000); a product
bounded by a prefix and the lengths of the rest to the maximum inner product searches LEMP (Teflioudi et al., 2015) and
FEXIPRO (Li et al., 2017).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, count_of

#: Pairs scored at once: two blocks of 512 dimensions in float64 that stay in a core's L2 cache.
_PAIRS = 128

#: A row whose distance from the mean is this share of the mean's length holds rounding and nothing else.
_NOISE = 1e-6


@dataclass(frozen=True)
class RowSet:
    """Rows to be compared, left where they are: in memory or mapped from disk."""

    X: np.ndarray  # float16 or float32 (n, d)
    #: float64 (d,), optional: subtracted from each row before its direction is taken
    mean: np.ndarray | None = None
    #: float64 (n,): squared length of each row, after centring; 0 where a row has no direction
    squares: np.ndarray = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, X: np.ndarray, mean: np.ndarray | None = None) -> RowSet:
        """Check `X` (n, d) and `mean` (d,); the lengths are not yet measured."""
        if X.ndim != 2 or X.dtype not in (np.float16, np.float32):
            raise UsageError(f"vectors must be (rows, dim) of float16 or float32, not {X.shape} of {X.dtype}")
        if mean is not None:
            mean = np.asarray(mean, np.float64)
            if mean.shape != (X.shape[1],) or not np.isfinite(mean).all():
                raise UsageError(
                    f"the mean must be {X.shape[1]} finite numbers, as the vectors have dimensions"
                )
        return cls(X, mean, np.zeros(len(X)))

    def __len__(self) -> int:
        return len(self.X)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.X.shape[1]

    @property
    def unusable(self) -> np.ndarray:
        """Numbers of the rows without a direction, which match nothing: all zeros, NaN or infinite values."""
        return np.flatnonzero(self.squares == 0)

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """Get `rows` in float64, centred; shape (m, d)."""
        block = self.X[rows].astype(np.float64)
        if self.mean is not None:
            block -= self.mean
        return block

    def directions(
        self, rows: np.ndarray | slice, axes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Get `rows` scaled to unit length, float64 (m, d), and their squared lengths (m,); unusable rows are all 0.

        With `axes` (d, k), get their coordinates along these instead, (m, k).
        """
        with np.errstate(invalid="ignore", over="ignore"):
            block = self.take(rows)
            squares = _row_dots(block, block)
        least = 0.0 if self.mean is None else _NOISE**2 * float(self.mean @ self.mean)
        unusable = ~(np.isfinite(squares) & (squares > least))
        block[unusable] = 0
        squares[unusable] = 0
        if axes is not None:
            block = block @ axes
        block /= np.sqrt(np.where(unusable, 1, squares))[:, None]
        return block, squares

    def measure(self) -> RowSet:
        """Fill in `squares`, a block of rows at a time."""
        for start in range(0, len(self), 4096):
            rows = slice(start, start + 4096)
            self.squares[rows] = self.directions(rows)[1]
        return self


def pair_cosines(left: RowSet, right: RowSet, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Compute the cosine of row ``i[k]`` of `left` with row ``j[k]`` of `right`, for each k.

    Both must have been measured, and no pair may name an unusable row.
    """
    dots = np.empty(len(i))
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        dots[part] = _row_dots(left.take(i[part]), right.take(j[part]))
    # sqrt(s * s) is s in IEEE arithmetic, so that equal rows give 1; sqrt(s) * sqrt(s) would not.
    return np.minimum(dots / np.sqrt(left.squares[i] * right.squares[j]), 1.0)


#: No row asks for more than this, or less than its negative: the bounds are as tight as such columns are short.
MAX_ASKED = 3


@dataclass(frozen=True)
class Asked:
    """Least cosine of each pair, where every row asks for one of its own: the mean of what its two rows ask for."""

    left: np.ndarray  # float64 (n,)
    right: np.ndarray  # float64 (m,)

    def of(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Least cosine of the pairs of rows ``i[k]`` and ``j[k]``; the one definition, float64."""
        return (self.left[i] + self.right[j]) / 2

    @property
    def reach(self) -> float:
        """Bound of the product of two rows' lengths, with the columns that `asking_columns` adds to them."""
        lengths = (
            np.sqrt(2.01 + np.square(0.5 - side / 2).max(initial=0)) for side in (self.left, self.right)
        )
        return float(math.prod(lengths))


def asking_columns(coordinates: np.ndarray, asked: np.ndarray, *, right: bool = False) -> np.ndarray:
    """Add columns to rows, float32 (m, k) to (m, k + 2), so that products are larger by 1 less the cosine that is asked for.

    So a pair's own threshold becomes 1 for all. What is asked for is rounded down, and costs no pair.
    """
    own = np.nextafter((0.5 - asked / 2).astype(np.float32), np.float32(np.inf))
    out = np.empty((len(coordinates), coordinates.shape[1] + 2), np.float32)
    out[:, :-2] = coordinates
    out[:, -2 if right else -1] = 1
    out[:, -1 if right else -2] = own
    return out


def _row_dots(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    # Not by BLAS, whose order of summation may depend on where in memory a row lies.
    return np.multiply(A, B).sum(axis=1)


#: Pairs a thread must have to compare before importing torch (seconds) pays.
_TORCH_FROM = 5e9

_FLOAT32 = 2.0**-24  # unit roundoff

#: What torch may lose of float32 operands where a program allows it TF32 or bfloat16, a setting that is not ours to change.
_CUT = 2.01 * 2.0**-8


class NumpyTiles:
    """Large entries of products of matrices: float32 through NumPy's BLAS, which is always there; the base of others.

    An entry of a tile of `rows` and `columns` takes ``pass_cost + dim_cost * dims`` nanoseconds; only the ratio of these
    costs to each other and to that of rescoring a pair matters, and only to speed. `usual_slack`: about what `slack` is.
    """

    name = "numpy-float32"
    pass_cost, dim_cost, usual_slack = 0.20, 0.021, 0.0

    def __init__(self, rows: int = 512, columns: int = 2048) -> None:
        self.rows, self.columns = rows, columns

    def load(self, V: np.ndarray) -> Any:
        """Take `V` (n, k) of float32, rows at most of unit length (up to rounding), in the engine's own form."""
        return V

    def slack(self, left: Any, right: Any) -> float:
        """Bound by how much an entry of the product of two loaded matrices can fall short, however it is summed."""
        return summation_slack(left.shape[1])

    def floor(self, value: float) -> Any:
        """Give a positive `value` in the form that `scan` compares with: never above it, as the nearest may lie."""
        return np.nextafter(np.float32(value), np.float32(-1))

    def scratch(self) -> Any:
        """Make the buffer for a tile that one thread needs."""
        return np.empty(self.rows * self.columns, np.float32)

    def scan(
        self, left: Any, rows: slice, right: Any, columns: slice, floor: Any, scratch: Any
    ) -> np.ndarray:
        """Places in the flattened tile, in no order, of entries of ``left[rows] @ right[columns].T`` of at least `floor`."""
        A, B = left[rows], right[columns]
        tile = scratch[: len(A) * len(B)].reshape(len(A), len(B))
        # All operands are finite; some kernels of BLAS raise the flag all the same, for what they pad with.
        with np.errstate(invalid="ignore"):
            np.matmul(A, B.T, out=tile)
        return _entries_from(tile, floor)

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """Keep the library underneath to one thread a call: the threads are the join's."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"):
            yield


class TorchTiles(NumpyTiles):
    """Products through torch: bfloat16 on the processor, float32 on CUDA."""

    def __init__(
        self,
        device: str = "cpu",
        dtype: str = "bfloat16",
        rows: int | None = None,
        columns: int | None = None,
    ) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype)
        self.name = f"torch-{device}-{dtype}"
        on_gpu = self.device.type != "cpu"
        super().__init__(rows or (2048 if on_gpu else 512), columns or (16384 if on_gpu else 2048))
        self.pass_cost, self.dim_cost = (0.004, 0.0002) if on_gpu else (0.25, 0.004)
        self.usual_slack = 0.005 if dtype == "bfloat16" else _CUT

    def load(self, V: np.ndarray) -> tuple[Any, float]:
        """Take `V` to the device, and how far rounding to the device's type moves the row it moves the furthest."""
        given = self.torch.from_numpy(V)
        held = given.to(self.device, self.dtype)
        moved = 0.0
        if self.dtype != self.torch.float32:
            for start in range(0, len(V), 65536):
                part = slice(start, start + 65536)
                error = given[part].double() - held[part].cpu().double()
                moved = max(moved, float(error.square().sum(dim=1).max().sqrt()))
        return held.contiguous(), moved

    def slack(self, left: tuple[Any, float], right: tuple[Any, float]) -> float:
        """Bound the rounding of the operands and of the sum."""
        # <v, w> - <v', w'> = <v, e> + <f, w> - <f, e>, where v' = v - f and w' = w - e.
        f, e = left[1], right[1]
        operands = 1.001 * (f + e) + f * e + (_CUT if self.dtype == self.torch.float32 else 0)
        return operands + summation_slack(left[0].shape[1])

    def floor(self, value: float) -> Any:
        """Give the float32 below, or the bits of the bfloat16 nearest."""
        # A bfloat16 tile holds its sums rounded to bfloat16. Rounding keeps order, so comparing with the floor rounded alike
        # misses nothing; and positive floats are ordered as their bits are, which NumPy compares twice as fast.
        if self.dtype == self.torch.bfloat16:
            return np.int16(self.torch.tensor([value]).bfloat16().view(self.torch.int16).item())
        return float(super().floor(value))

    def scratch(self) -> Any:
        """Make a tile for bfloat16; on a GPU torch's allocator keeps them."""
        if self.dtype != self.torch.bfloat16:
            return None
        return self.torch.empty(self.rows * self.columns, dtype=self.dtype)

    def scan(
        self, left: Any, rows: slice, right: Any, columns: slice, floor: Any, scratch: Any
    ) -> np.ndarray:
        """Multiply, compare, list."""
        torch = self.torch
        A, B = left[0][rows], right[0][columns]
        with torch.inference_mode():
            if scratch is None:
                tile = torch.mm(A, B.T).flatten()
                return torch.nonzero(tile >= floor).flatten().cpu().numpy()
            tile = scratch[: len(A) * len(B)].view(len(A), len(B))
            torch.mm(A, B.T, out=tile)
        return _entries_from(tile.view(torch.int16).numpy(), floor)

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """Limit torch, and NumPy's BLAS beside it, to one thread."""
        threads = self.torch.get_num_threads()
        self.torch.set_num_threads(1)
        try:
            with super().single_threaded():
                yield
        finally:
            self.torch.set_num_threads(threads)


def choose_tiles(device: str, comparisons: float, threads: int) -> NumpyTiles:
    """Choose the engine: the answer is the same with every one of them, the time is not.

    "auto" imports torch only for work that repays the import.
    """
    kind, _, number = device.partition(":")
    if kind == "auto":
        if "torch" not in sys.modules and comparisons / threads < _TORCH_FROM:
            return NumpyTiles()
        device, kind = ("cuda", "cuda") if _has_cuda() else ("cpu", "cpu")
    if kind == "cuda":
        import torch

        number = number or "0"
        if number.isdecimal() and int(number) < torch.cuda.device_count():
            return TorchTiles(device, "float32")
        raise UsageError(f"no device {device} here; use auto, numpy or cpu")
    return TorchTiles() if kind == "cpu" and has_bfloat16() else NumpyTiles()


def summation_slack(terms: int) -> float:
    """Bound the error of a float32 dot product of two unit vectors, whatever the order of its sum (Higham 2002, §3.1)."""
    u = (terms + 2) * _FLOAT32
    return 1.001 * u / (1 - u)


def _entries_from(tile: np.ndarray, floor: Any) -> np.ndarray:
    """Positions of the entries of a tile (m, w) that are at least `floor`, in the flattened tile, in no order."""
    # Few are. The maxima of every 32nd of the tile's entries are found at the speed of memory, several times that of listing
    # what is true in a mask; only where a maximum reaches the floor are the 32 looked at.
    groups = math.gcd(len(tile), 32)
    folded = tile.reshape(groups, -1)
    hits = np.flatnonzero(np.maximum.reduce(folded, axis=0) >= floor)
    if groups * len(hits) > tile.size // 32:
        return np.flatnonzero(tile >= floor)
    group, hit = np.divmod(np.flatnonzero(folded[:, hits] >= floor), max(len(hits), 1))
    return group * folded.shape[1] + hits[hit]


def _has_cuda() -> bool:
    if "torch" not in sys.modules:
        # Without NVIDIA's driver there is nothing to import torch for.
        try:
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            return False
    import torch

    return torch.cuda.is_available()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


# The bound. Rotating all rows by one orthogonal matrix changes no cosine. Along the principal axes the leading p coordinates
# hold most of a row's length, and by Cauchy and Schwarz the rest of two unit rows x and y adds at most the product of its
# lengths:
#
#     <x, y>  <=  <x_p, y_p> + r_x r_y ,      r = sqrt(1 - |x_p|^2)
#
# That is one dot product of p + 1 numbers, the last being r (the same as |x - y|^2 >= |x_p - y_p|^2 + (r_x - r_y)^2).
#
# The axes need not be exact for the bound to be: any orthonormal ones will do, and they are orthonormal to float64. What is
# rounded is accounted for. With q the coordinates in float32, off the true ones by at most DELTA in length, the stored r is
# rounded up so that it exceeds the true one, and `coordinate_slack` bounds what the rounding of q takes from a dot product.


#: Float32's rounding of a vector of at most unit length is 2**-24; float64's errors before it fit into the other half.
DELTA = 2.0**-23

#: Leading coordinates to choose from; with the rest's length they make multiples of 16, which kernels like.
_CHOICES = (7, 15, 31, 47, 63, 95, 127, 191, 255)

#: Rows for the axes and rows for the survivors, drawn from all.
_AXES_SAMPLE, _PAIRS_SAMPLE = 8192, 1024

#: Nanoseconds to look up one pair again in the middle coordinates (and for each of these), and in full (for each dimension).
_PAIR_COST, _MIDDLE_COST, _FULL_COST = 120.0, 0.5, 3.0

#: Nanoseconds to multiply an entry of a tile in float32, for each dimension.
_TILE_COST = 0.03

#: Below this many multiplications a plan costs more than it saves.
_PLAN_FROM = 2e10


@dataclass(frozen=True)
class Plan:
    """Plan of a join; the result does not depend on it."""

    lead: int  # leading coordinates in the first bound, which every pair meets
    #: leading coordinates in the second bound, which the first one's survivors meet; equal to `lead` for
    #: no second bound
    middle: int
    #: share of the rows' squared length in the first `lead` coordinates, on a sample
    explained: float | None = None
    #: float64 (d, middle), optional: orthonormal; by default the coordinates as they are
    axes: np.ndarray | None = None


def choose_plan(
    left: RowSet, right: RowSet, threshold: float | Asked, tiles: NumpyTiles, budget: float
) -> Plan:
    """Measure on a sample what survives each bound, and take the cheapest."""
    dim = left.dim
    rows = len(left) + (0 if right is left else len(right))
    work = float(len(left)) * len(right) * dim
    if work < _PLAN_FROM + 20.0 * dim**3 and rows * dim * 4 < budget:
        return Plan(dim, dim)
    axes, lengths = _principal_axes(left, right)
    drawn, i = _draw(left, _PAIRS_SAMPLE)
    others, j = (drawn, i) if right is left else _draw(right, _PAIRS_SAMPLE)
    a, b = ((units @ axes).astype(np.float32) for units in (drawn, others))
    least = threshold.of(i[:, None], j[None]) if isinstance(threshold, Asked) else np.array(threshold)
    choices = [p for p in _CHOICES if p < dim and rows * p * 4 < budget] or [min(dim, _CHOICES[0])]
    slack = tiles.usual_slack * (threshold.reach if isinstance(threshold, Asked) else 1.0)
    survive = _survivors(a, b, choices, least - slack, right is left)
    choices = list(survive)
    options = []
    if rows * dim * 4 < budget:
        options.append((tiles.pass_cost + tiles.dim_cost * dim, dim, dim))
    for p in choices:
        first = tiles.pass_cost + tiles.dim_cost * (p + 1)
        for q in [m for m in choices if m >= p and rows * (p + m) * 4 < budget] or [p]:
            # Where many survive a whole tile is multiplied again, which bounds the cost.
            second = min(survive[p] * (_PAIR_COST + _MIDDLE_COST * q), _TILE_COST * q) if q > p else 0.0
            third = min(survive[q] * _FULL_COST, _TILE_COST) * dim
            options.append((first + second + third, p, q))
    _, lead, middle = min(options)
    if lead == dim:
        return Plan(dim, dim, 1.0)
    return Plan(lead, middle, float(lengths[:lead].sum()), np.ascontiguousarray(axes[:, :middle]))


def project(rows: RowSet, part: slice, plan: Plan) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the coordinates of some rows, and fill in their squared lengths.

    `lead` float32 (m, plan.lead + 1): the leading coordinates, and no less than the length of the rest; all 0 for a row
    without a direction. `middle` alike, or None.
    """
    units, rows.squares[part] = rows.directions(part, plan.axes)
    usable = rows.squares[part] > 0
    lead = _with_rest(units[:, : plan.lead], usable)
    return lead, _with_rest(units[:, : plan.middle], usable) if plan.middle > plan.lead else None


def coordinate_slack(dim: int) -> float:
    """Bound how far a dot product of stored coordinates can fall short of what it bounds, before it is summed."""
    # 2 (1 + DELTA) DELTA + DELTA^2 for the coordinates; the definition itself is computed in float64.
    return 2.01 * DELTA + 4 * dim * 2.0**-53


def _with_rest(coordinates: np.ndarray, usable: np.ndarray) -> np.ndarray:
    out = np.empty((len(coordinates), coordinates.shape[1] + 1), np.float32)
    out[:, :-1] = coordinates
    held = np.square(out[:, :-1], dtype=np.float64).sum(axis=1)
    rest = np.sqrt(np.maximum(1 - held, 0) + 2.01 * DELTA)
    out[:, -1] = np.where(usable, rest * (1 + DELTA), 0)
    return out


def _draw(rows: RowSet, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions of some rows, and their numbers."""
    if len(rows) <= count:
        picked = np.arange(len(rows))
    else:
        picked = np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False))
    units, squares = rows.directions(picked)
    return units[squares > 0], picked[squares > 0]


def _principal_axes(left: RowSet, right: RowSet) -> tuple[np.ndarray, np.ndarray]:
    # Not centred: a shift would change the cosines. A common mean becomes the first axis by itself.
    sides = (left,) if right is left else (left, right)
    moment = np.zeros((left.dim, left.dim))
    for side in sides:
        units = _draw(side, _AXES_SAMPLE // len(sides))[0].astype(np.float32)
        moment += units.T @ units
    lengths, axes = np.linalg.eigh(moment)
    lengths = np.maximum(lengths[::-1], 0)
    return axes[:, ::-1], lengths / max(lengths.sum(), np.finfo(float).tiny)


def _survivors(
    a: np.ndarray, b: np.ndarray, choices: list[int], threshold: np.ndarray, same: bool
) -> dict[int, float]:
    """Share of the sample's pairs that the bound from the first p coordinates lets through, for each p worth a thought."""
    pairs = max(len(a) * (len(b) - 1 if same else len(b)), 1)
    floor = (threshold - summation_slack(a.shape[1])).astype(np.float32)
    dots, bound = np.zeros((2, len(a), len(b)), np.float32)
    before = 0
    shares: dict[int, float] = {}
    for p in choices:
        dots += np.matmul(a[:, before:p], b[:, before:p].T, out=bound)
        rest_a, rest_b = (np.sqrt(np.square(side[:, p:]).sum(axis=1)) for side in (a, b))
        np.multiply(rest_a[:, None], rest_b, out=bound)
        bound += dots
        through = np.count_nonzero(bound >= floor) - (len(a) if same else 0)
        # Not one among a million seen may still be one in a million.
        shares[p] = max(int(through), 1) / pairs
        before = p
        if through <= 1:
            break
    return shares


#: Survivors looked up again at once.
_GATHER = 8192

#: Share of a tile's pairs from which multiplying the tile is cheaper than looking its pairs up.
_DENSE = 0.02

#: Candidates in a stripe from which it is given up, to be done again as several lower ones.
_TOO_MANY = 1_000_000

#: Rows rotated at once.
_BLOCK = 1024


@dataclass(frozen=True)
class PairBlock:
    """Pairs in ascending order of (i, j)."""

    i: np.ndarray  # int64 (m,): row numbers; ``i < j`` where rows were joined with themselves
    j: np.ndarray
    cosine: np.ndarray  # float64 (m,): never below what the pair needs

    def __len__(self) -> int:
        return len(self.i)

    def __getitem__(self, part: slice) -> PairBlock:
        return PairBlock(self.i[part], self.j[part], self.cosine[part])


@dataclass
class RowBlock:
    """Pairs of the rows ``start:stop`` of the left side; `pairs` is None if there were too many to hold."""

    start: int
    stop: int
    pairs: PairBlock | None = None
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0


#: Bytes for the coordinates of all rows.
_BUDGET = 768e6

#: A stripe with too many pairs is cut into this many.
_CUTS = 8


@dataclass
class JoinStats:
    """Statistics of a join; complete when its last block has been read."""

    dim: int
    threads: int
    engine: str = ""  # what computed the first bound
    #: coordinates in the first and the second bound; `dim` means no bound, equal ones no second bound
    lead: int = 0
    middle: int = 0
    #: share of the rows' squared length in the leading coordinates, on a sample
    explained: float | None = None
    #: pairs that met the first bound, survived it, survived the second, and were handed out
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0
    pairs: int = 0
    unusable: int = 0  # rows that match nothing: zero, NaN, infinite
    capped: bool = False  # whether there are more pairs than were asked for
    prepare_seconds: float = 0.0  # planning and rotating; everything after, the reader's own time included
    join_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a summary."""
        return {
            "engine": self.engine,
            "threads": self.threads,
            "lead": self.lead,
            "comparisons": self.comparisons,
            "scored": self.after_middle,
            "unusable": self.unusable,
            "seconds": self.prepare_seconds + self.join_seconds,
        }


def self_join(
    X: np.ndarray,
    threshold: float | np.ndarray,
    *,
    mean: np.ndarray | None = None,
    max_pairs: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    plan: Plan | None = None,
    tiles: NumpyTiles | None = None,
) -> Join:
    """Find all pairs of rows ``i < j`` of `X` whose cosine is at least `threshold`.

    A `threshold` for each row, float64 (n,), asks of a pair the mean of what its two rows ask for. Rows may be mapped
    from disk, and are then read once in order, and again only for those of survivors. One that is zero, NaN or infinite
    matches nothing. Without `device` torch is used where it pays; `plan` and `tiles` are for experiments.

    >>> X = np.array([[1, 0], [0, 1], [2, 0.1]], np.float32)
    >>> join = self_join(X, 0.95)
    >>> [(int(i), int(j)) for block in join for i, j in zip(block.i, block.j)]
    [(0, 2)]
    >>> join.stats.comparisons
    3
    """
    rows = RowSet.of(X, mean)
    asked = Asked(threshold, threshold) if isinstance(threshold, np.ndarray) else threshold
    return Join(rows, rows, asked, max_pairs, threads, device, progress, plan, tiles)


def cross_join(
    X: np.ndarray, Y: np.ndarray, threshold: float | Asked, *, mean: np.ndarray | None = None, **options: Any
) -> Join:
    """Find all pairs of row i of `X` (n, d) and row j of `Y` (m, d) whose cosine is at least `threshold`.

    `Asked` has a threshold for each row of both. Options, result and errors are those of `self_join`.
    """
    left, right = RowSet.of(X, mean), RowSet.of(Y, mean)
    if left.dim != right.dim:
        raise UsageError(f"vectors of {left.dim} and of {right.dim} dimensions cannot be compared")
    return Join(left, right, threshold, **options)


@dataclass
class Join:
    """A join under way: iterate over it once for its `PairBlock`, then read its `stats`."""

    left: RowSet
    right: RowSet
    threshold: float | Asked
    max_pairs: int | None = None
    threads: int | None = None
    device: str = "auto"
    progress: Callable[[int, int], None] | None = None
    plan: Plan | None = None
    tiles: NumpyTiles | None = None
    stats: JoinStats = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.threshold, Asked):
            for rows, asked in ((self.left, self.threshold.left), (self.right, self.threshold.right)):
                if asked.shape != (len(rows),) or not (np.abs(asked) <= MAX_ASKED).all():
                    raise UsageError(
                        f"{count_of(len(rows), 'row needs', 'rows need')} as many thresholds from "
                        f"-{MAX_ASKED} to {MAX_ASKED}"
                    )
        elif not 0 < self.threshold <= 1:
            raise UsageError(f"a cosine threshold lies above 0 and is at most 1, not {self.threshold}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise UsageError(f"the cap on pairs must be at least 1, not {self.max_pairs}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")
        if self.device not in ("auto", "numpy", "cpu") and self.device.partition(":")[0] != "cuda":
            raise UsageError(f"unknown device {self.device!r} for the join; use auto, numpy, cpu or cuda")
        threads = self.threads or _processors()
        self.stats = JoinStats(self.left.dim, threads)
        self._within = self.left is self.right
        self._stop = threading.Event()
        self._middle: tuple[np.ndarray, np.ndarray] | None = None
        self._started = False

    def collect(self) -> PairBlock:
        """Run the join and hold all its pairs in memory."""
        blocks = [PairBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)), *self]
        return PairBlock(
            *(np.concatenate([getattr(b, name) for b in blocks]) for name in ("i", "j", "cosine"))
        )

    def __iter__(self) -> Iterator[PairBlock]:
        if self._started:
            raise UsageError("a join can be read only once; start another")
        self._started = True
        return self._run()

    def _run(self) -> Iterator[PairBlock]:
        stats, begun = self.stats, time.perf_counter()
        n = len(self.left)
        total = n * (n - 1) // 2 if self._within else n * len(self.right)
        # From so low a threshold the floor could fall to 0, where bfloat16's comparison of bits ends.
        low = not isinstance(self.threshold, Asked) and self.threshold < 0.05
        device = "numpy" if low else self.device
        tiles = self.tiles or choose_tiles(device, total, stats.threads)
        with tiles.single_threaded(), ThreadPoolExecutor(stats.threads, "icehouse-join") as pool:
            plan = self.plan or choose_plan(self.left, self.right, self.threshold, tiles, _BUDGET)
            self._prepare(plan, tiles, pool)
            stats.engine, stats.lead, stats.middle = tiles.name, plan.lead, plan.middle
            stats.explained = plan.explained
            sides = (self.left,) if self._within else (self.left, self.right)
            stats.unusable = sum(len(side.unusable) for side in sides)
            stats.prepare_seconds = time.perf_counter() - begun
            try:
                for done, block in self._row_blocks(pool, _cuts(0, n, tiles.rows, 4 * stats.threads)):
                    stats.comparisons += done.comparisons
                    stats.after_lead += done.after_lead
                    stats.after_middle += done.after_middle
                    if self.progress is not None:
                        self.progress(stats.comparisons, total)
                    room = len(block) if self.max_pairs is None else self.max_pairs - stats.pairs
                    stats.capped = len(block) > room
                    block = block[:room]
                    stats.pairs += len(block)
                    if len(block):
                        yield block
                    if stats.capped:
                        break
            finally:
                # A reader that has had enough does not wait for what it will not read.
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._left_lead = self._right_lead = self._middle = None  # which are large
                stats.join_seconds = time.perf_counter() - begun - stats.prepare_seconds

    def _row_blocks(
        self, pool: ThreadPoolExecutor, ranges: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[RowBlock, PairBlock]]:
        """Work through blocks of rows in order, a few ahead of the reader."""
        ahead: deque[Future[RowBlock]] = deque()
        todo = iter(ranges)
        while True:
            while len(ahead) <= self.stats.threads and (following := next(todo, None)) is not None:
                ahead.append(pool.submit(self._join_rows, *following))
            if not ahead:
                return
            done = ahead.popleft().result()
            if done.pairs is not None:
                yield done, done.pairs
            else:
                yield from self._row_blocks(pool, _cuts(done.start, done.stop, done.stop, _CUTS))

    def _prepare(self, plan: Plan, tiles: NumpyTiles, pool: Executor) -> None:
        """Make both sides' coordinates, those of one side where rows are joined with themselves."""
        dim, threshold = self.left.dim, self.threshold
        left = _coordinates(self.left, plan, pool)
        right = left if self._within else _coordinates(self.right, plan, pool)
        if isinstance(threshold, Asked):
            # What each row asks for stands in two more columns, so that all pairs have one floor.
            floor, reach, added = 1.0, threshold.reach, 2
            right = [asking_columns(part, threshold.right, right=True) for part in right]
            left = [asking_columns(part, threshold.left) for part in left]
        else:
            floor, reach, added = threshold, 1.0, 0
        self._tiles = tiles
        self._middle = None if len(left) == 1 else (left[1], right[1])
        self._left_lead = tiles.load(left[0])
        self._right_lead = self._left_lead if right is left else tiles.load(right[0])
        floor -= coordinate_slack(dim)
        self._lead_floor = tiles.floor(floor - reach * tiles.slack(self._left_lead, self._right_lead))
        self._middle_floor = floor - reach * summation_slack(plan.middle + 1 + added)
        self._full_floor = floor - reach * summation_slack(dim + added)

    def _join_rows(self, start: int, stop: int) -> RowBlock:
        """Compare rows ``start:stop`` of the left side with all of the right, or with those after them."""
        done = RowBlock(start, stop)
        candidates: list[tuple[np.ndarray, np.ndarray]] = []
        held = 0
        for i, j in self._candidates(done):
            candidates.append((i, j))
            held += len(i)
            if (held > _TOO_MANY and stop - start > 1) or self._stop.is_set():
                return RowBlock(start, stop)
        i, j = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
        order = np.argsort(i * len(self.right) + j)
        done.pairs = self._score(i[order], j[order])
        return done

    def _candidates(self, done: RowBlock) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Apply the bounds, a tile at a time; yields at every tile, if only nothing, so that its caller can give up."""
        start, stop, width = done.start, done.stop, len(self.right)
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
        rows, scratch = slice(start, stop), self._tiles.scratch()
        waiting, queued = [nothing], 0
        for first in range(start if self._within else 0, width, self._tiles.columns):
            columns = slice(first, min(first + self._tiles.columns, width))
            flat = self._tiles.scan(
                self._left_lead, rows, self._right_lead, columns, self._lead_floor, scratch
            )
            i, j = np.divmod(flat, columns.stop - first)
            i, j = self._pairs(i + start, j + first)
            done.after_lead += len(i)
            if len(i) > max(_DENSE * (stop - start) * (columns.stop - first), _GATHER):
                i, j = self._multiply(rows, columns)
                done.after_middle += len(i)
                yield i, j
                continue
            waiting.append((i, j))
            queued += len(i)
            if queued < _GATHER:
                yield nothing
                continue
            yield self._look_up(waiting, done)
            waiting, queued = [nothing], 0
        yield self._look_up(waiting, done)
        done.comparisons = (stop - start) * width
        if self._within:
            done.comparisons -= (start + 1 + stop) * (stop - start) // 2

    def _pairs(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave out what lies on the diagonal or below it, where rows are joined with themselves."""
        if not self._within:
            return i, j
        keep = i < j
        return i[keep], j[keep]

    def _look_up(
        self, waiting: list[tuple[np.ndarray, np.ndarray]], done: RowBlock
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the second bound to pairs one by one."""
        i, j = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        if self._middle is not None:
            left, right = self._middle
            kept = np.empty(len(i), bool)
            for k in range(0, len(i), _GATHER):
                part = slice(k, k + _GATHER)
                bounds = np.vecdot(left.take(i[part], axis=0), right.take(j[part], axis=0))
                kept[part] = bounds >= self._middle_floor
            i, j = i[kept], j[kept]
        done.after_middle += len(i)
        return i, j

    def _multiply(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Apply the second bound, and if that lets too many through the whole vectors in float32, to a whole tile."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        blas = NumpyTiles(height, width)
        flat, scratch = None, blas.scratch()
        if self._middle is not None:
            left, right = self._middle
            flat = blas.scan(left, rows, right, columns, blas.floor(self._middle_floor), scratch)
        if flat is None or len(flat) > _DENSE * height * width:
            left = self.left.directions(rows)[0].astype(np.float32)
            right = self.right.directions(columns)[0].astype(np.float32)
            if isinstance(self.threshold, Asked):
                left = asking_columns(left, self.threshold.left[rows])
                right = asking_columns(right, self.threshold.right[columns], right=True)
            everything = slice(None)
            flat = blas.scan(left, everything, right, everything, blas.floor(self._full_floor), scratch)
        i, j = np.divmod(flat, width)
        return self._pairs(i + rows.start, j + columns.start)

    def _score(self, i: np.ndarray, j: np.ndarray) -> PairBlock:
        """Score pairs on the whole vectors, and keep those that reach the threshold."""
        # Without a direction there is no cosine; such rows get here only where a low floor or a full tile lets 0 through.
        usable = (self.left.squares[i] > 0) & (self.right.squares[j] > 0)
        i, j = i[usable], j[usable]
        cosine = pair_cosines(self.left, self.right, i, j)
        least = self.threshold.of(i, j) if isinstance(self.threshold, Asked) else self.threshold
        keep = cosine >= least
        return PairBlock(i[keep], j[keep], cosine[keep])


def _coordinates(rows: RowSet, plan: Plan, pool: Executor) -> list[np.ndarray]:
    """Rotate all rows, a block at a time, keeping only their leading coordinates: for the first bound, and the second."""
    lead = np.empty((len(rows), plan.lead + 1), np.float32)
    middle = np.empty((len(rows), plan.middle + 1), np.float32) if plan.middle > plan.lead else None

    def fill(start: int) -> None:
        part = slice(start, min(start + _BLOCK, len(rows)))
        lead[part], more = project(rows, part, plan)
        if middle is not None:
            middle[part] = more

    list(pool.map(fill, range(0, len(rows), _BLOCK)))
    return [lead] if middle is None else [lead, middle]


def _cuts(start: int, stop: int, most: int, parts: int) -> Iterator[tuple[int, int]]:
    """Cut a range into at least `parts` where it is long enough, each of at most `most`."""
    step = max(min(most, math.ceil((stop - start) / parts)), 1)
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def _processors() -> int:
    with contextlib.suppress(AttributeError):  # macOS and Windows cannot tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
