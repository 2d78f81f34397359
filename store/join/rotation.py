"""A bound on cosines from a few coordinates, and how many of them are worth computing.

Rotating all rows by one orthogonal matrix changes no cosine. Along the principal axes the leading p coordinates hold most of
a row's length, and by Cauchy and Schwarz the rest of two unit rows x and y adds at most the product of its lengths::

    <x, y>  <=  <x_p, y_p> + r_x r_y ,      r = sqrt(1 - |x_p|^2)

That is one dot product of p + 1 numbers, the last being r (the same as |x - y|^2 >= |x_p - y_p|^2 + (r_x - r_y)^2).

The axes need not be exact for the bound to be: any orthonormal ones will do, and they are orthonormal to float64. What is
rounded is accounted for. With q the coordinates in float32, off the true ones by at most DELTA in length, the stored r is
rounded up so that it exceeds the true one, and `coordinate_slack` bounds what the rounding of q takes from a dot product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cosine import RowSet
from .tiles import Tiles, summation_slack

__all__ = ["Plan", "choose_plan", "coordinate_slack", "project"]

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
    """How a join goes about it; the result does not depend on it.

    Attributes
    ----------
    lead : int
        Leading coordinates in the first bound, which every pair meets.
    middle : int
        Leading coordinates in the second bound, which the first one's survivors meet; equal to `lead` for no second bound.
    explained : float, optional
        Share of the rows' squared length in the first `lead` coordinates, on a sample.
    axes : ndarray of float64, shape (d, middle), optional
        Orthonormal; by default the coordinates as they are.
    """

    lead: int
    middle: int
    explained: float | None = None
    axes: np.ndarray | None = None


def choose_plan(left: RowSet, right: RowSet, threshold: float, tiles: Tiles, budget: float) -> Plan:
    """Measure on a sample what survives each bound, and take the cheapest.

    Parameters
    ----------
    left, right : RowSet
        The same one when rows are joined with themselves.
    threshold : float
    tiles : Tiles
        What will compute the first bound.
    budget : float
        Bytes for the coordinates of all rows.
    """
    dim = left.dim
    rows = len(left) + (0 if right is left else len(right))
    work = float(len(left)) * len(right) * dim
    if work < _PLAN_FROM + 20.0 * dim**3 and rows * dim * 4 < budget:
        return Plan(dim, dim)
    axes, lengths = _principal_axes(left, right)
    a, b = _sample_pairs(left, right, axes)
    choices = [p for p in _CHOICES if p < dim and rows * p * 4 < budget] or [min(dim, _CHOICES[0])]
    survive = _survivors(a, b, choices, threshold - tiles.usual_slack, right is left)
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

    Returns
    -------
    lead : ndarray of float32, shape (m, plan.lead + 1)
        The leading coordinates, and no less than the length of the rest. All 0 for a row without a direction.
    middle : ndarray of float32, shape (m, plan.middle + 1), or None
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


def _draw(rows: RowSet, count: int) -> np.ndarray:
    if len(rows) <= count:
        picked = np.arange(len(rows))
    else:
        picked = np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False))
    units, squares = rows.directions(picked)
    return units[squares > 0]


def _principal_axes(left: RowSet, right: RowSet) -> tuple[np.ndarray, np.ndarray]:
    # Not centred: a shift would change the cosines. A common mean becomes the first axis by itself.
    sides = (left,) if right is left else (left, right)
    moment = np.zeros((left.dim, left.dim))
    for side in sides:
        units = _draw(side, _AXES_SAMPLE // len(sides)).astype(np.float32)
        moment += units.T @ units
    lengths, axes = np.linalg.eigh(moment)
    lengths = np.maximum(lengths[::-1], 0)
    return axes[:, ::-1], lengths / max(lengths.sum(), np.finfo(float).tiny)


def _sample_pairs(left: RowSet, right: RowSet, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = (_draw(left, _PAIRS_SAMPLE) @ axes).astype(np.float32)
    return a, a if right is left else (_draw(right, _PAIRS_SAMPLE) @ axes).astype(np.float32)


def _survivors(
    a: np.ndarray, b: np.ndarray, choices: list[int], threshold: float, same: bool
) -> dict[int, float]:
    """Share of the sample's pairs that the bound from the first p coordinates lets through, for each p worth a thought."""
    pairs = max(len(a) * (len(b) - 1 if same else len(b)), 1)
    floor = np.float32(threshold - summation_slack(a.shape[1]))
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
