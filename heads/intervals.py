"""Confidence intervals of scores in closed form: they cover in small samples and on rare classes, and cost next to nothing.

A percentile bootstrap over rows covers too seldom where rows are few or nearly all are right: what was never wrong in the
sample is never wrong in a resample. The forms here were chosen by their measured coverage
(``benchmarks/interval_coverage.py``, ``benchmarks/RESULTS.md``):

- Shares (accuracy, precision, recall): Wilson's score interval (Wilson 1927; Brown, Cai, DasGupta 2001).
- F1 of a class is ``2J / (1 + J)`` of the share J of its right rows among those that have it as label or as prediction
  (compare Goutte and Gaussier 2005): Wilson's interval of J, transformed.
- Means over classes: MOVER (Zou and Donner 2008): the arms of the classes' own intervals, joined by the correlations of
  their estimates; minus the bias that a concave function of few rows has; wider, by `_few_rows`, where there are few
  rows for so many classes, since each class's variance is then itself a guess.
- Other scores between 0 and 1 (weighted F1, average precision): Wilson's interval for as many rows as have the variance
  of the score, which comes from its influence function (the delta method).
- AUROC: the interval of all values that the sample does not reject (Newcombe 2006, method 5), by the variance of Hanley and
  McNeil (1982), scaled by DeLong's (1988) where that is larger or rows are many.
- Log loss: Student's interval on the logarithmic scale; its variance is held up, in small samples, by the one that the
  probabilities themselves imply, since a loss that has not happened yet is not in the sample. Its upper end is at most
  Wilson's for rows of which each has the largest possible loss or none.

Rows of one group (duplicates of one another) are no independent evidence: variances are taken over sums by group, and the
number of rows is divided by the design effect (Kish 1965; Korn and Graubard 1998), never less than one.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

Interval: TypeAlias = tuple[float, float]

#: Coverage of all intervals.
LEVEL = 0.95
# Quantile of the normal distribution for it.
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

# Positives (rows, for log loss) among which the variance of the sample counts as much as the one that a model implies.
_AUROC_PRIOR, _PRECISION_PRIOR, _LOSS_PRIOR = 20, 30, 50
# Groups among which their own likeness counts as much as that of identical rows.
_GROUP_PRIOR = 20
# Added to the counts of a confusion matrix where a variance is taken of it: right rows of each class, and as many in its
# row and its column of errors.
_RIGHT, _WRONG = 0.5, 0.25
# What a probability of zero costs: the largest log loss that a row can have.
_MOST = -math.log(np.finfo(np.float64).eps)
_STEPS = 40
# How much of a row each class costs in the variance of a mean over classes.
_CLASS_COST = 0.5


def wilson(share: np.ndarray | float, n: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a share among `n` rows: all of [0, 1] where there are none."""
    z2 = _Z**2
    share, n = np.asarray(share, np.float64), np.asarray(n, np.float64)
    middle = (n * share + z2 / 2) / (n + z2)
    half = np.sqrt(z2 * (n * np.maximum(share * (1 - share), 0.0) + z2 / 4)) / (n + z2)
    low = np.where(share <= 0, 0.0, np.maximum(middle - half, 0.0))
    high = np.where(share >= 1, 1.0, np.minimum(middle + half, 1.0))
    return low, high


class Groups:
    """Groups of duplicate rows, which are no independent evidence; `codes` (n,) names each row's, None if all are alone."""

    def __init__(self, codes: np.ndarray | None, n: int) -> None:
        self.n, self.codes, self.count = n, None, n
        if codes is not None:
            known, of = np.unique(np.asarray(codes), return_inverse=True)
            if len(known) < n:
                self.codes, self.count = of.reshape(-1), len(known)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums by group: values (n,) to (groups,)."""
        if self.codes is None:
            return values
        return np.bincount(self.codes, values, minlength=self.count)

    def effect(self, residuals: np.ndarray) -> float:
        """Design effect of a score with these residuals (n,): how many times larger its variance is than over rows."""
        return float(self.effects(np.arange(self.n), np.zeros(self.n, np.intp), residuals, 1)[0])

    def effects(self, rows: np.ndarray, classes: np.ndarray, residuals: np.ndarray, k: int) -> np.ndarray:
        """Design effects (≥ 1) of k scores (k,): `rows`, `classes`, `residuals` (m,) say which row counts in which."""
        if self.codes is None:
            return np.ones(k)
        keys, at = np.unique(self.codes[rows] * k + classes, return_inverse=True)
        at, owner = at.reshape(-1), keys % k
        sizes, sums = np.bincount(at), np.bincount(at, residuals)
        total, spread = (np.bincount(classes, w, minlength=k) for w in (None, residuals**2))
        whole = np.bincount(owner, sizes.astype(np.float64) ** 2, minlength=k) / np.maximum(total, 1)
        by_group = np.bincount(owner, sums**2, minlength=k)
        effect = np.where(spread > 1e-12, by_group / np.maximum(spread, 1e-12), whole)
        # Few groups cannot tell how alike their rows are: then as if they were the same.
        count = np.bincount(owner, minlength=k)
        return np.maximum((_GROUP_PRIOR * whole + count * effect) / (_GROUP_PRIOR + count), 1.0)


def confusion_intervals(
    true: np.ndarray, predicted: np.ndarray, k: int, groups: Groups
) -> dict[str, tuple[Any, Any]]:
    """Intervals, (low, high), of accuracy and of F1's means over the classes; precision, recall and F1 have arrays (k,).

    Among the `k` classes are some that these rows do not have: the interval of macro-F1 is about them too (their F1 may be
    anything), unless they are more than half of all.
    """
    n, rows = len(true), np.arange(len(true))
    hit = true == predicted
    right = np.bincount(true[hit], minlength=k).astype(np.float64)
    support, found = np.bincount(true, minlength=k), np.bincount(predicted, minlength=k)
    either = support + found - right
    recall, precision, shared = (right / np.maximum(of, 1) for of in (support, found, either))

    def shares(
        share: np.ndarray, of: np.ndarray, rows: np.ndarray, classes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        effects = groups.effects(rows, classes, hit[rows] - share[classes], k)
        low, high = wilson(share, of / effects)
        return low, high, of / effects

    wrong = np.flatnonzero(~hit)
    low_share, high_share, effective = shares(
        shared, either, np.concatenate([rows, wrong]), np.concatenate([true, predicted[wrong]])
    )
    low, high = 2 * low_share / (1 + low_share), 2 * high_share / (1 + high_share)
    accuracy = wilson(hit.mean(), n / groups.effect(hit - hit.mean()))
    f1 = 2 * shared / (1 + shared)
    cells, counts = np.unique(true[wrong] * k + predicted[wrong], return_counts=True)
    errors = (*np.divmod(cells, k), counts)
    of_precision = shares(precision, found, rows, predicted)
    of_recall = shares(recall, support, rows, true)
    return {
        "accuracy": (float(accuracy[0]), float(accuracy[1])),
        "macro_f1": _macro_f1(f1, low, high, right, support + found, effective, errors),
        "weighted_f1": _weighted_f1(f1, true, predicted, right, support, found, errors, groups),
        "precision": of_precision[:2],
        "recall": of_recall[:2],
        "f1": (low, high),
    }


def _macro_f1(
    f1: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    right: np.ndarray,
    marks: np.ndarray,
    effective: np.ndarray,
    errors: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Interval:
    """MOVER over the classes: `marks` are true plus predicted rows, `effective` the rows behind each class's F1."""
    occurs = marks > 0
    value = float(f1[occurs].mean())
    counted = occurs if 2 * occurs.sum() < len(occurs) else np.ones(len(occurs), bool)
    n = counted.sum()
    # Variances and covariances of the classes' F1, of the smoothed matrix: two classes share the errors between them.
    k = len(f1)
    hits, total = right + _RIGHT, marks + 2 * (_RIGHT + _WRONG)
    smooth = 2 * hits / total
    variance = (hits * (2 - 2 * smooth) ** 2 + (total - 2 * hits) * smooth**2) / total**2
    slope = smooth / total / np.sqrt(variance)
    i, j, counts = errors
    spread = 2 * _WRONG / max(k - 1, 1)

    def joined(arms: np.ndarray) -> float:
        arms = np.where(counted, arms, 0.0)
        shared = arms * slope
        squared = (arms**2).sum() + 2 * (counts * shared[i] * shared[j]).sum()
        squared += spread * (shared.sum() ** 2 - (shared**2).sum())
        return math.sqrt(max(float(squared), 0.0)) / n

    # F1 is concave in its share: its mean over samples of few rows lies below that of many.
    share = hits / (total - hits)
    bias = -2 / (1 + share) ** 3 * share * (1 - share) / np.maximum(effective, 1)
    shift = float(bias[occurs].mean())
    below = joined(np.where(occurs, f1 - low, value))
    above = joined(np.where(occurs, high - f1, 1 - value))
    below, above = (_few_rows(arm, len(occurs), marks.sum() / 2) for arm in (below, above))
    # How large the bias is, is not known better than it is large.
    return _within(value, value - math.hypot(below, shift) - shift, value + math.hypot(above, shift) - shift)


def _weighted_f1(
    f1: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    right: np.ndarray,
    support: np.ndarray,
    found: np.ndarray,
    errors: tuple[np.ndarray, np.ndarray, np.ndarray],
    groups: Groups,
) -> Interval:
    """Wilson's interval for as many rows as have the variance of the mean; that by the delta method, smoothed."""
    k, n = len(f1), len(true)
    whole = n + k * (_RIGHT + _WRONG)
    hits, rows, columns = right + _RIGHT, support + _RIGHT + _WRONG, found + _RIGHT + _WRONG
    smooth, share = 2 * hits / (rows + columns), rows / whole
    mean = float((share * smooth).sum())
    # What a row of the cell (a, b) adds: of_true[a] + of_found[b], and as_hit[a] where a is b.
    of_found = -rows * smooth / (rows + columns)
    of_true, as_hit = smooth + of_found, 2 * rows / (rows + columns)
    i, j, counts = errors
    squares = (hits * (of_true + of_found + as_hit) ** 2).sum() + (
        counts * (of_true[i] + of_found[j]) ** 2
    ).sum()
    spread = k * (of_true**2 + of_found**2).sum() + 2 * of_true.sum() * of_found.sum()
    squares += _WRONG / max(k - 1, 1) * (spread - ((of_true + of_found) ** 2).sum())
    variance = max(float(squares) / whole - mean**2, 1e-12)
    residuals = of_true[true] + of_found[predicted] + np.where(true == predicted, as_hit[true], 0.0) - mean
    value = float((support / n * f1).sum())
    low, high = wilson(value, n * mean * (1 - mean) / variance / groups.effect(residuals))
    return float(low), float(high)


class Arms:
    """Mean of the classes' scores, their intervals joined by the correlations of their influence functions."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._values: list[float] = []
        self._below, self._above = np.zeros(groups.count), np.zeros(groups.count)
        self._rest: list[np.ndarray] = []
        self._alone = np.zeros(2)

    def add(self, value: float, interval: Interval, influence: np.ndarray) -> None:
        """Add a class's score with its interval and what each row (n,) adds to it."""
        sums = self._groups.sums(influence)
        length = float(np.linalg.norm(sums))
        arms = np.array([value - interval[0], interval[1] - value])
        self._values.append(value)
        if length > 1e-12:
            self._alone += arms**2
            self._below += arms[0] / length * sums
            self._above += arms[1] / length * sums
        else:  # nothing is known of what it varies with
            self._rest.append(arms)

    def mean(self) -> tuple[float | None, Interval | None]:
        """The mean and its interval; None where no class was added."""
        if not self._values:
            return None, None
        value, n = float(np.mean(self._values)), len(self._values)
        # Classes share their errors: what few rows show of errors that cancel is luck.
        squares = np.maximum([(self._below**2).sum(), (self._above**2).sum()], self._alone)
        if self._rest:
            # As if each class shared its errors alike with all the others.
            rest, shared = np.array(self._rest), 1 / max(n - 1, 1)
            squares += (1 - shared) * (rest**2).sum(axis=0) + shared * rest.sum(axis=0) ** 2
        below, above = (_few_rows(arm, n, self._groups.count) for arm in (np.sqrt(squares) / n).tolist())
        return value, _within(value, value - below, value + above)


def auroc_interval(value: float, influence: np.ndarray, positive: np.ndarray, groups: Groups) -> Interval:
    """Interval of an AUROC, from DeLong's components (`influence`) and which rows are `positive`, both (n,)."""
    sizes = [int(positive.sum()), int((~positive).sum())]
    effect = groups.effect(influence)
    m, n = (max(size / effect, 1.0) for size in sizes)
    delong = sum(
        float((influence[side] ** 2).sum()) * size / (size - 1) * effect
        for side, size in zip((positive, ~positive), sizes, strict=True)
        if size > 1
    )
    edge = 0.5 / (m * n)
    ratio = delong / _hanley_mcneil(min(max(value, edge), 1 - edge), m, n)
    fewest = min(m, n)
    scale = max(ratio, (_AUROC_PRIOR + fewest * ratio) / (_AUROC_PRIOR + fewest))
    z2 = _Z**2

    def bound(end: float) -> float:
        """The value farthest towards `end` that the sample does not reject."""
        inside, outside = value, end
        for _ in range(_STEPS):
            middle = (inside + outside) / 2
            if (value - middle) ** 2 <= z2 * scale * _hanley_mcneil(middle, m, n):
                inside = middle
            else:
                outside = middle
        return inside

    return bound(0.0) if value > 0 else 0.0, bound(1.0) if value < 1 else 1.0


def _hanley_mcneil(value: float, m: float, n: float) -> float:
    """Variance of an AUROC of m positives and n negatives, the two in one another's place (Newcombe 2006)."""
    pairs = (m + n) / 2 - 1
    return value * (1 - value) * (1 + pairs * ((1 - value) / (2 - value) + value / (1 + value))) / (m * n)


def precision_interval(value: float, influence: np.ndarray, positives: int, groups: Groups) -> Interval:
    """Interval of an average precision: by the variance of a share of the positives, and more and more by the sample's."""
    effect = groups.effect(influence)
    m = positives / effect
    bound, own = value * (1 - value) / m, float((influence**2).sum()) * effect
    variance = (_PRECISION_PRIOR * bound + m * own) / (_PRECISION_PRIOR + m)
    low, high = wilson(value, value * (1 - value) / variance if variance > 0 else m)
    return float(low), float(high)


def log_loss_interval(loss: np.ndarray, implied: float, worst: float, groups: Groups) -> Interval:
    """Interval of a mean log loss.

    `implied` is the variance of a row's loss if its label came as the probabilities say, and `worst` the largest loss that
    any label of these rows would have: no mean varies more than one of it and of zero.
    """
    n, mean = len(loss), float(loss.mean())
    own = float(loss.var(ddof=1)) if n > 1 else implied
    variance = (_LOSS_PRIOR * max(own, implied) + n * own) / (_LOSS_PRIOR + n)
    rows = max(n / groups.effect(loss - mean), 1.0)
    half = _student(max(rows - 1, 1.0)) * math.sqrt(variance / rows) / mean
    worst = max(worst, float(loss.max()))
    high = min(mean * math.exp(min(half, _MOST)), worst * float(wilson(mean / worst, rows)[1]))
    return mean * math.exp(-min(half, _MOST)), max(high, mean)


def joined_interval(values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> Interval:
    """Interval of a mean over draws of the training rows: their own intervals averaged, their spread as one more arm."""
    mean, n = float(values.mean()), len(values)
    drawn = _student(n - 1) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    low = mean - math.hypot(mean - float(lows.mean()), drawn)
    high = mean + math.hypot(float(highs.mean()) - mean, drawn)
    top = 1.0 if highs.max() <= 1 else _MOST
    return max(low, 0.0), min(high, top)


def mean_interval(values: np.ndarray) -> Interval:
    """Student's interval of a mean over at least two draws."""
    half = _student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def _student(degrees: float) -> float:
    """Quantile of Student's distribution, by Cornish and Fisher's expansion: within 1% from 4 degrees of freedom on."""
    z, v = _Z, degrees
    terms = (
        z,
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
    )
    return sum(terms)


def _few_rows(arm: float, classes: int, rows: float) -> float:
    """Arm of a mean over classes whose variances come from few rows each: as if a part of them were spent on that."""
    return arm * math.sqrt(1 + _CLASS_COST * classes / max(rows, 1.0)) if classes > 1 else arm


def _within(value: float, low: float, high: float) -> Interval:
    """An interval within [0, 1] that holds the value itself."""
    return max(min(float(low), value), 0.0), min(max(float(high), value), 1.0)
