"""Cosines of rows, and bounds on them: the one definition, and tiles of A·Bᵀ of which entries reach a floor.

A cosine is computed in float64 from the vectors as they are stored, a row at a time, by a sum whose order depends on the
dimension alone. So it does not depend on tiles, threads, devices, or which other rows there are; a vector has a cosine of
exactly 1 with its copy, and ties at a threshold are decided alike everywhere.

A tile is small enough to stay in the cache between the product and the scan, since at 16 to 64 dimensions the time goes as
much into looking at products as into making them. An engine may round however it likes, as long as `slack` bounds by how
much its product can fall short of the true one; the join lowers its floor by that, so that rounding costs a few candidates
more and never a pair.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import UsageError

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


class Tiles(Protocol):
    """An engine that finds the large entries of products of matrices."""

    name: str
    rows: int  # of a tile
    columns: int
    #: nanoseconds for an entry: ``pass_cost + dim_cost * dims``. Only their ratio to each other and to the
    #: cost of rescoring a pair matters, and only to speed.
    pass_cost: float
    dim_cost: float
    usual_slack: float  # about what `slack` will say, for planning

    def load(self, V: np.ndarray) -> Any:
        """Take `V` (n, k) of float32, rows at most of unit length (up to rounding), in the engine's own form."""

    def slack(self, left: Any, right: Any) -> float:
        """Bound by how much an entry of the product of two loaded matrices can fall short of the true value."""

    def floor(self, value: float) -> Any:
        """Give `value`, which is positive, in the form `scan` compares with: never above it."""

    def scratch(self) -> Any:
        """Make the buffers that one thread needs."""

    def scan(
        self, left: Any, rows: slice, right: Any, columns: slice, floor: Any, scratch: Any
    ) -> np.ndarray:
        """Places in the flattened tile, in no order, of entries of ``left[rows] @ right[columns].T`` of at least `floor`."""

    def single_threaded(self) -> Any:
        """Keep the library underneath to one thread a call: the threads are the join's. A context manager."""


class NumpyTiles:
    """Float32 through NumPy's BLAS: always there."""

    name = "numpy-float32"
    pass_cost, dim_cost, usual_slack = 0.20, 0.021, 0.0

    def __init__(self, rows: int = 512, columns: int = 2048) -> None:
        self.rows, self.columns = rows, columns

    def load(self, V: np.ndarray) -> np.ndarray:
        """Take `V` as it is."""
        return V

    def slack(self, left: np.ndarray, right: np.ndarray) -> float:
        """Bound the rounding of a float32 dot product, in whatever order it is summed."""
        return summation_slack(left.shape[1])

    def floor(self, value: float) -> np.float32:
        """Give the float32 below, since the nearest may lie above."""
        return np.nextafter(np.float32(value), np.float32(-1))

    def scratch(self) -> np.ndarray:
        """Make a tile."""
        return np.empty(self.rows * self.columns, np.float32)

    def scan(
        self,
        left: np.ndarray,
        rows: slice,
        right: np.ndarray,
        columns: slice,
        floor: np.float32,
        scratch: np.ndarray,
    ) -> np.ndarray:
        """Multiply, compare, list."""
        A, B = left[rows], right[columns]
        tile = scratch[: len(A) * len(B)].reshape(len(A), len(B))
        # All operands are finite; some kernels of BLAS raise the flag all the same, for what they pad with.
        with np.errstate(invalid="ignore"):
            np.matmul(A, B.T, out=tile)
        return _entries_from(tile, floor)

    def single_threaded(self) -> Any:
        """Limit BLAS to one thread."""
        return _one_blas_thread()


class TorchTiles:
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
        self.rows = rows or (2048 if on_gpu else 512)
        self.columns = columns or (16384 if on_gpu else 2048)
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

    def floor(self, value: float) -> float | np.int16:
        """Give the float32 below, or the bits of the bfloat16 nearest."""
        # A bfloat16 tile holds its sums rounded to bfloat16. Rounding keeps order, so comparing with the floor rounded alike
        # misses nothing; and positive floats are ordered as their bits are, which NumPy compares twice as fast.
        if self.dtype == self.torch.bfloat16:
            return np.int16(self.torch.tensor([value]).bfloat16().view(self.torch.int16).item())
        return float(np.nextafter(np.float32(value), np.float32(-1)))

    def scratch(self) -> Any:
        """Make a tile for bfloat16; on a GPU torch's allocator keeps them."""
        if self.dtype != self.torch.bfloat16:
            return None
        return self.torch.empty(self.rows * self.columns, dtype=self.dtype)

    def scan(
        self,
        left: tuple[Any, float],
        rows: slice,
        right: tuple[Any, float],
        columns: slice,
        floor: float | np.int16,
        scratch: Any,
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
            with _one_blas_thread():
                yield
        finally:
            self.torch.set_num_threads(threads)


class Coordinates:
    """Rows of float32 that are replaced one by one, and which of them have products that reach a floor.

    They are held in bfloat16, which halves what one product has to read, where the processor multiplies that and torch is
    loaded anyway; the floor is lowered by what is rounded away.
    """

    _COLUMNS = 8192
    #: By which bfloat16, of eight bits, moves a row at most, in parts of its length.
    _MOVED = 2.0**-9 * 1.001

    def __init__(self, rows: int, width: int, least: float) -> None:
        """`least` is the floor, about; products below it are of no interest."""
        self._tiles: Any = NumpyTiles()
        # Bits of negative floors are not in the order of their values.
        if "torch" in sys.modules and _has_bfloat16() and least > 0.25:
            self._tiles = TorchTiles()
        self._torch = None if isinstance(self._tiles, NumpyTiles) else self._tiles.torch
        #: Float32, or the bits of bfloat16.
        self.data = np.zeros((rows, width), np.float32 if self._torch is None else np.int16)

    def __len__(self) -> int:
        return len(self.data)

    def __setitem__(self, at: Any, values: np.ndarray) -> None:
        self.data[at] = values if self._torch is None else self._bits(values).view(self._torch.int16).numpy()

    def __getitem__(self, at: Any) -> np.ndarray:
        rows: np.ndarray = self.data[at]
        return rows if self._torch is None else (rows.astype(np.uint32) << 16).view(np.float32)

    def _bits(self, values: np.ndarray) -> Any:
        assert self._torch is not None
        return self._torch.from_numpy(np.ascontiguousarray(values)).bfloat16()

    def reaching(
        self, left: np.ndarray, floor: float, reach: float, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `left`, float32 (m, width), and of the first `rows` held whose products reach a floor, and perhaps more.

        `reach` bounds the product of two rows' lengths.
        """
        floor -= reach * summation_slack(left.shape[1])
        one: Any = left
        held: Any = self.data
        if self._torch is not None:
            floor -= reach * (2 * self._MOVED + self._MOVED**2)
            if floor <= 0:
                return np.divmod(np.arange(len(left) * rows), max(rows, 1))
            one = self._bits(left), self._MOVED
            held = self._torch.from_numpy(self.data).view(self._torch.bfloat16), self._MOVED
            scratch = self._torch.empty(len(left) * min(self._COLUMNS, rows), dtype=self._torch.bfloat16)
        else:
            scratch = np.empty(len(left) * min(self._COLUMNS, rows), np.float32)
        least = self._tiles.floor(floor)
        i_parts, parts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, rows, self._COLUMNS):
            columns = slice(start, min(start + self._COLUMNS, rows))
            flat = self._tiles.scan(one, slice(None), held, columns, least, scratch)
            i, found = np.divmod(flat, columns.stop - start)
            i_parts.append(i)
            parts.append(found + start)
        return np.concatenate(i_parts), np.concatenate(parts)


def choose_tiles(device: str, comparisons: float, threads: int) -> Tiles:
    """Choose the engine: the answer is the same with every one of them, the time is not.

    "auto" imports torch only for work that repays the import.
    """
    if device == "numpy":
        return NumpyTiles()
    if device == "auto":
        if "torch" not in sys.modules and comparisons / threads < _TORCH_FROM:
            return NumpyTiles()
        if _has_cuda():
            return TorchTiles("cuda", "float32")
        return TorchTiles("cpu", "bfloat16") if _has_bfloat16() else NumpyTiles()
    kind = device.partition(":")[0]
    if kind == "cpu":
        return TorchTiles("cpu", "bfloat16") if _has_bfloat16() else NumpyTiles()
    if kind == "cuda":
        import torch

        number = device.partition(":")[2] or "0"
        if number.isdecimal() and int(number) < torch.cuda.device_count():
            return TorchTiles(device, "float32")
        raise UsageError(f"no device {device} here; use auto, numpy or cpu")
    raise UsageError(f"unknown device {device!r} for the join; use auto, numpy, cpu or cuda")


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


def _one_blas_thread() -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _has_cuda() -> bool:
    if "torch" not in sys.modules:
        # Without NVIDIA's driver there is nothing to import torch for.
        try:
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            return False
    import torch

    return torch.cuda.is_available()


def _has_bfloat16() -> bool:
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


def choose_plan(left: RowSet, right: RowSet, threshold: float | Asked, tiles: Tiles, budget: float) -> Plan:
    """Measure on a sample what survives each bound, and take the cheapest."""
    dim = left.dim
    rows = len(left) + (0 if right is left else len(right))
    work = float(len(left)) * len(right) * dim
    if work < _PLAN_FROM + 20.0 * dim**3 and rows * dim * 4 < budget:
        return Plan(dim, dim)
    axes, lengths = _principal_axes(left, right)
    a, b, least = _sample_pairs(left, right, axes, threshold)
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


def _sample_pairs(
    left: RowSet, right: RowSet, axes: np.ndarray, threshold: float | Asked
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of some rows of each side, and the least cosines of their pairs; one number where all ask for the same."""
    drawn, i = _draw(left, _PAIRS_SAMPLE)
    a = (drawn @ axes).astype(np.float32)
    b, j = a, i
    if right is not left:
        drawn, j = _draw(right, _PAIRS_SAMPLE)
        b = (drawn @ axes).astype(np.float32)
    least = threshold.of(i[:, None], j[None]) if isinstance(threshold, Asked) else np.array(threshold)
    return a, b, least


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


#: Looking a candidate up costs as much as so many coordinates in a product; and rows that a plan is tried on.
_LOOK_UP, _SAMPLED = 20_000, 1024


def pays(plan: Plan, coming: RowSet, held: RowSet, threshold: float | Asked) -> bool:
    """Whether a plan's bounds rule out enough, on a sample, to be worth more than products of whole vectors."""
    asked, _ = project(coming, slice(0, _SAMPLED), plan)
    sample = np.linspace(0, len(held) - 1, min(4 * _SAMPLED, len(held))).astype(np.int64)
    some, _ = project(RowSet.of(held.X[sample], held.mean), slice(0, len(sample)), plan)
    least: Any = threshold
    if isinstance(threshold, Asked):
        least = threshold.of(np.arange(len(asked))[:, None], sample[None])
    share = np.count_nonzero(asked @ some.T >= least) / (len(asked) * len(some))
    return bool(share * _LOOK_UP + plan.lead < held.dim)
