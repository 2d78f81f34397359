"""Which of many items to label next: greedy facility location, weighted by uncertainty.

Every candidate j wants a labelled item near it, the more the more uncertain it is. A batch B, beside the items L that are
labelled, is worth

    sum over j of  u_j ** 2 * max over i in B and L of max(cosine(i, j), 0).

Each pick is the one that adds most, which is within 1 - 1/e of the best batch (Nemhauser, Wolsey, Fisher 1978; as active
learning, Wei, Iyer, Bilmes 2015, "Submodularity in data subset selection and active learning"). Such a pick stands in the
middle of uncertain items, not at their rim as those of farthest-first and k-means++ do (k-center, BADGE), and one pick takes
away the reason for another beside it. Without a head all u are one, and it covers what no label covers yet.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from .alike import Alike
from .inputs import Inputs, Tokens
from .vectors import directions

__all__ = ["By", "Picks", "pick", "places", "uncertainty"]

#: How uncertainty is told from probabilities.
By: TypeAlias = Literal["margin", "entropy", "least-confidence"]

# Most candidates that may be picked, and most that a batch is to stand for: their cosines are held at once.
_PICKABLE, _WANTING = 8000, 4000
# Rows compared at a time.
_ROWS = 4096


@dataclass(frozen=True)
class Picks:
    """What was picked.

    Attributes
    ----------
    rows : ndarray of int, shape (n,)
        In the order of picking: the first few are a good smaller batch.
    stands_for : ndarray of int, shape (n,)
        Candidates that have no nearer item in the batch or among the labelled ones (an estimate where there are many).
    labelled : ndarray of float, shape (n,)
        Cosine to the nearest labelled item; NaN if none is.
    closest : float or None
        Largest cosine between two of them; None for fewer than two.
    """

    rows: np.ndarray
    stands_for: np.ndarray
    labelled: np.ndarray
    closest: float | None


def uncertainty(proba: np.ndarray, by: By) -> np.ndarray:
    """Uncertainty of each row, 0 (sure) to 1: float64, shape (n,).

    "margin" is one less the difference of the two likeliest classes, "least-confidence" what the likeliest lacks to one, and
    "entropy" that of all classes; the last two as shares of what they can be at most.
    """
    k = proba.shape[1]
    if by == "entropy":
        found: np.ndarray = -(proba * np.log(np.maximum(proba, 1e-300))).sum(axis=1) / np.log(k)
    else:
        best = np.sort(np.partition(proba, k - 2, axis=1)[:, -2:], axis=1)
        found = 1 - (best[:, 1] - best[:, 0]) if by == "margin" else (1 - best[:, 1]) * k / (k - 1)
    return found.clip(0, 1)


def places(X: Inputs) -> np.ndarray:
    """Where each row stands: float32 of unit length, all inputs side by side, each centred and as long as the others.

    Tokens are averaged; an input that a row lacks adds nothing.
    """
    parts = []
    for name, array in X.items():
        if isinstance(array, Tokens):
            vectors = array.means().astype(np.float64)
        else:
            vectors = np.asarray(array, np.float64)
        present = X.present(name)
        mean = vectors[present].mean(axis=0) if present.any() else 0.0
        parts.append(directions(vectors - mean) * present[:, None])
    return directions(np.concatenate(parts, axis=1)).astype(np.float32)


def pick(
    at: np.ndarray,
    candidates: np.ndarray,
    n: int,
    *,
    alike: Alike,
    weight: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    cap: float = 0.95,
    seed: int = 0,
) -> Picks:
    """Pick up to `n` candidates.

    Parameters
    ----------
    at : ndarray of float32, shape (m, d)
        From `places`; rows in an order that means nothing, such as that of their ids.
    candidates : ndarray of int
        Rows that may be picked, ascending.
    n : int
    alike : Alike
        Over the rows of `at`; what it has taken already is not picked, and nor is what resembles a pick.
    weight : ndarray, shape (m,), optional
        Uncertainty of each row; one for all if None.
    labelled : ndarray of int, optional
        Rows that are labelled.
    cap : float, default 0.95
        Two picks that no search for duplicates has compared are not nearer than this cosine.
    seed : int, default 0
        Of the sample that stands for very many candidates.
    """
    free = candidates[~alike.taken(candidates)]
    u = np.ones(len(at)) if weight is None else weight
    labelled = np.zeros(0, np.intp) if labelled is None else labelled
    rng = np.random.default_rng(seed)
    wanting = free if len(free) <= _WANTING else np.sort(rng.choice(free, _WANTING, replace=False))
    # The surer half is only stood for: the middle of a cloud is worth a label where the head is unsure of it.
    most = min(_PICKABLE, len(free) if weight is None else max(10 * n, len(free) // 2))
    if len(free) > most:
        shuffled = rng.permutation(free)
        # Stable: among equals, and without a head all are, chance decides.
        free = np.sort(shuffled[np.argsort(-u[shuffled], kind="stable")[:most]])
    wants = (u[wanting] ** 2).astype(np.float32)
    near = np.maximum(at[free] @ at[wanting].T, 0)
    covered = np.zeros(len(wanting), np.float32)
    for start in range(0, len(labelled), _ROWS):
        covered = np.maximum(covered, (at[labelled[start : start + _ROWS]] @ at[wanting].T).max(axis=0))

    def gain(i: int) -> float:
        return float(np.maximum(near[i] - covered, 0) @ wants)

    # What a pick adds only shrinks as others are picked: an old value is a bound, and few have to be renewed.
    heap = [(-gain(i), -float(u[row]), i, 0) for i, row in enumerate(free.tolist())]
    heapq.heapify(heap)
    picked: list[int] = []
    while heap and len(picked) < n:
        _, sure, i, stamp = heapq.heappop(heap)
        row = int(free[i])
        if alike.taken(free[[i]])[0] or _too_near(at, row, picked, alike, cap):
            continue
        if stamp < len(picked):
            heapq.heappush(heap, (-gain(i), sure, i, len(picked)))
            continue
        picked.append(row)
        alike.take(row)
        covered = np.maximum(covered, near[i])
    return _described(at, np.array(picked, np.intp), wanting, labelled, len(candidates))


def _too_near(at: np.ndarray, row: int, picked: list[int], alike: Alike, cap: float) -> bool:
    """Whether a pick that no search has compared with `row` stands too near to it."""
    others = np.array(picked, np.intp)
    if alike.covered[row]:
        others = others[~alike.covered[others]]
    return bool(len(others) and (at[others] @ at[row]).max() >= cap)


def _described(
    at: np.ndarray, rows: np.ndarray, wanting: np.ndarray, labelled: np.ndarray, total: int
) -> Picks:
    """What there is to say of the picks."""
    nothing = np.full(len(rows), np.nan)
    if not len(rows):
        return Picks(rows, np.zeros(0, np.int64), nothing, None)
    near = at[wanting] @ at[rows].T
    by_label = np.full(len(wanting), -np.inf)
    to_label = nothing if not len(labelled) else np.full(len(rows), -np.inf)
    for start in range(0, len(labelled), _ROWS):
        some = at[labelled[start : start + _ROWS]]
        by_label = np.maximum(by_label, (some @ at[wanting].T).max(axis=0))
        to_label = np.maximum(to_label, (some @ at[rows].T).max(axis=0))
    own = np.flatnonzero(near.max(axis=1) > by_label)
    counts = np.bincount(near[own].argmax(axis=1), minlength=len(rows))
    between = at[rows] @ at[rows].T
    np.fill_diagonal(between, -1)
    closest = float(between.max()) if len(rows) > 1 else None
    scale = total / max(len(wanting), 1)
    return Picks(rows, np.maximum(np.rint(counts * scale), 1).astype(np.int64), to_label, closest)
