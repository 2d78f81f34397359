"""Scores of predicted probabilities with confidence intervals, and how well the probabilities are calibrated.

Choices, once and for all heads:

- A label of the evaluated rows that the head never saw in training cannot be predicted: such rows count as
  errors, their label has a recall of zero, the log loss charges them a probability of zero (36.04 each), and `unseen`
  names it.
- Macro averages run over the classes that occur among the true or the predicted labels, as scikit-learn's do.
- AUROC is a one-vs-rest mean over the classes that have both positives and negatives; for two classes the usual one.
- Average precision is that of the positive class: of two classes the one that is named, else the rarer one. Of more classes
  it is a mean as for AUROC, unless one is named. What a head without skill has is the share of positives, and is told.
- Where no class has both positives and negatives, AUROC and average precision are None.
- Intervals are those of `icehouse.heads.intervals`: chosen by their coverage, and over groups of duplicates where these are
  known. They never shrink to a point.

How calibration is measured, for all heads alike:

- Confidence is the probability of the likeliest class; bins hold equally many rows (Nguyen, O'Connor 2015; Nixon et al.
  2019), so that no bin is decided by a handful of them. Rows of equal confidence share a bin.
- The expected calibration error (Guo et al. 2017) is a sum of absolute values, and chance alone makes it positive: it is
  too large on few rows, and a resample of the rows is larger still. A percentile interval of a perfectly calibrated
  head never covers its error of zero (tried: 0 of 600). So the interval is the basic one, ``2 value - percentile``,
  which takes the bias off; `by_chance` says what a perfectly calibrated head of the same confidences would show; and
  where the value is no larger than 95 of 100 such heads would show, the interval begins at zero.
- A temperature is fitted on dev, never on test (Guo et al. 2017). **It is reported and nothing else**: predictions stay as
  the head makes them, since a dev part is small, chosen on, and for most heads here little is gained.
- The Brier score is the mean over rows of the squared distance between probabilities and truth, 0 to 2 (Brier 1950).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HeadError, UsageError, count_of
from .inputs import log_softmax, softmax
from .intervals import (
    LEVEL,
    Arms,
    Groups,
    Interval,
    auroc_interval,
    confusion_intervals,
    log_loss_interval,
    precision_interval,
    wilson,
)

#: Scores of a whole set of rows, and whether more is better.
METRICS = {
    "macro_f1": True,
    "accuracy": True,
    "weighted_f1": True,
    "auroc": True,
    "average_precision": True,
    "log_loss": False,
}
#: Those that are taken of predicted classes; the others need probabilities.
SCORES = ("accuracy", "macro_f1", "weighted_f1")
_TITLES = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "log_loss": "log loss",
}

#: Resamples of what is bootstrapped (differences, calibration).
DRAWS = 1000
#: Classes up to which a confusion matrix is kept whole.
MATRIX = 1000
#: Rows below which a reader is warned.
FEW = 30

# Rows of probabilities that are looked at together.
_CHUNK = 1024
_EPS = float(np.finfo(np.float64).eps)
# Share of the commonest label from which its constant prediction looks good by accuracy.
_LOPSIDED = 0.75


def score(
    y: Sequence[Any] | np.ndarray,
    proba: np.ndarray,
    classes: Sequence[Any] | np.ndarray,
    *,
    majority: Any = None,
    positive: Any = None,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    only: str | None = None,
) -> dict[str, Any]:
    """Score probabilities (n, k) against labels (n,): JSON values.

    `majority` is the commonest label of training, whose constant prediction is the baseline; `positive` the class whose
    average precision is meant; `groups` (n,) mark duplicates, which are no independent evidence; `draws=0` leaves intervals
    out; `only` one key of `METRICS` skips what it does not need.
    Returns each metric as ``{"value", "low", "high"}`` (None where undefined), ``per_class``, ``confusion`` (rows true),
    ``majority``, ``positive``, ``one_class``, ``unseen``, ``intervals`` and ``notes``.
    """
    y, classes, proba = np.asarray(y), np.asarray(classes), np.asarray(proba, np.float64)
    if proba.shape != (len(y), len(classes)):
        raise HeadError(
            f"probabilities have shape {proba.shape}; expected {(len(y), len(classes))}: rows × classes"
        )
    if len(y) == 0:
        raise HeadError("no rows to score")
    if draws < 0:
        raise UsageError(f"draws must be a whole number from 0 on, not {draws}")
    intervals = draws > 0
    if groups is not None and len(groups) != len(y):
        raise HeadError(f"{count_of(len(groups), 'group')} for {count_of(len(y), 'row')}")

    # Labels: the head's classes first, then what only the evaluated rows have.
    extra = sorted(set(y.tolist()) - set(classes.tolist()), key=str)
    labels = [*classes.tolist(), *extra]
    code_of = {label: i for i, label in enumerate(labels)}
    true = np.array([code_of[label] for label in y.tolist()], np.intp)
    predicted = proba.argmax(axis=1)
    n, k = len(y), len(labels)
    duplicates = Groups(groups, n)
    support, found = np.bincount(true, minlength=k), np.bincount(predicted, minlength=k)
    right = np.bincount(true[true == predicted], minlength=k)
    chosen = _positive(positive, labels, len(classes), support)
    known = majority if majority is not None else majority_class(y.tolist())

    values = _of_counts(right, support, found)
    spread = confusion_intervals(true, predicted, k, duplicates) if intervals else {}
    result: dict[str, Any] = {"n": n}
    for name in SCORES:
        result[name] = _interval_dict(float(values[name]), spread.get(name))
    if only in SCORES:
        return result
    ranked = _ranked(true, proba, k, chosen, duplicates, intervals)
    result |= {name: ranked[name] for name in ("auroc", "average_precision", "log_loss")}
    result["majority"] = _majority(support, code_of.get(known, k), known, ranked["prevalence"])
    result["per_class"] = [
        {
            "label": label,
            "support": int(support[i]),
            "predicted": int(found[i]),
            **{
                name: _interval_dict(
                    float(values[name][i]), tuple(float(end[i]) for end in spread.get(name, ()))
                )
                for name in ("precision", "recall", "f1")
            },
            "auroc": ranked["auroc_per_class"][i],
            "average_precision": ranked["average_precision_per_class"][i],
        }
        for i, label in enumerate(labels)
    ]
    result["confusion"] = _confusion(true, predicted, labels)
    result["unseen"] = {str(label): int(support[code_of[label]]) for label in extra}
    result["positive"] = (
        None
        if chosen is None
        else {
            "label": labels[chosen],
            "given": positive is not None,
            "rows": int(support[chosen]),
            "prevalence": float(support[chosen] / n),
        }
    )
    given = labels[int(predicted[0])]
    result["one_class"] = given if found.max() == n and support.max() < n else None
    result["intervals"] = {
        "method": "closed form, by groups of duplicates"
        if duplicates.count < n
        else "closed form, over rows",
        "level": LEVEL,
        "groups": duplicates.count,
    }
    result["notes"] = _notes(result, support, labels, intervals)
    return result


def criteria(y: np.ndarray, proba: np.ndarray, by_class: np.ndarray | None = None) -> dict[str, float]:
    """Log loss and accuracy, weighted by class (k,), and macro-F1, of codes (n,) and probabilities (n, k)."""
    return criteria_of(y, proba[np.arange(len(y)), y], proba.argmax(axis=1), proba.shape[1], by_class)


def criteria_of(
    y: np.ndarray, at: np.ndarray, predicted: np.ndarray, k: int, by_class: np.ndarray | None = None
) -> dict[str, float]:
    """The same from each row's probability of its own class and its likeliest class, of `k` classes."""
    weight = np.ones(len(y)) if by_class is None else by_class[y]
    at = np.clip(at, np.finfo(np.float64).eps, 1.0)
    hits = np.bincount(y[predicted == y], minlength=k)
    marks = np.bincount(y, minlength=k) + np.bincount(predicted, minlength=k)
    return {
        "log_loss": float(np.average(-np.log(at), weights=weight)),
        "accuracy": float(np.average(predicted == y, weights=weight)),
        "macro_f1": float((2 * hits[marks > 0] / marks[marks > 0]).mean()),
    }


def influence_of(
    name: str, y: np.ndarray, proba: np.ndarray, classes: np.ndarray, positive: str | None = None
) -> tuple[float, np.ndarray]:
    """AUROC, average precision or log loss (NaN where undefined), and what each row adds to it (n,), summing to zero."""
    codes = {label: i for i, label in enumerate(classes.tolist())}
    true = np.array([codes.get(label, len(codes)) for label in y.tolist()], np.intp)
    if name == "log_loss":
        loss = row_losses(true, proba)
        return float(loss.mean()), (loss - loss.mean()) / len(loss)
    support = np.bincount(true, minlength=len(codes) + 1)[: len(codes)]
    defined = np.flatnonzero((support > 0) & (support < len(true))).tolist()
    if name == "average_precision":
        chosen = _positive(positive, classes.tolist(), len(codes), support)
        defined = defined if chosen is None else [c for c in defined if c == chosen]
    elif len(codes) == 2:
        defined = defined[-1:]
    if not defined:
        return float("nan"), np.full(len(true), np.nan)
    at = 0 if name == "auroc" else 2
    value, influence = 0.0, np.zeros(len(true))
    for c in defined:  # one at a time: of thousands of classes no array of rows × classes is held
        one = ranking(proba[:, c], true == c)
        value += float(one[at]) / len(defined)
        influence += np.asarray(one[at + 1]) / len(defined)
    return value, influence


def require_positive(positive: str | None, labels: Iterable[Any]) -> None:
    """Raise UsageError, with the labels there are, if `positive` is none of them; before anything is fitted."""
    known = sorted({str(label) for label in labels})
    if positive is not None and positive not in known:
        listed = ", ".join(map(repr, known[:20])) + (", …" if len(known) > 20 else "")
        raise UsageError(f"no class {positive!r} to take as positive; there are: {listed}")


def _confusion(true: np.ndarray, predicted: np.ndarray, labels: list[Any]) -> dict[str, Any]:
    """The matrix; of more than `MATRIX` classes the cells that are not zero, since their square does not fit."""
    k = len(labels)
    if k <= MATRIX:
        matrix = np.bincount(true * k + predicted, minlength=k * k).reshape(k, k)
        return {"labels": labels, "matrix": matrix.tolist()}
    cells, counts = np.unique(true * k + predicted, return_counts=True)
    listed = np.stack([*np.divmod(cells, k), counts], axis=1).tolist()
    return {"labels": labels, "matrix": None, "cells": listed}


def minority_class(y: Sequence[Any] | np.ndarray) -> Any:
    """The rarer of two labels, the later one by name where both are as many; None unless there are two."""
    labels, counts = np.unique(np.asarray(y), return_counts=True)
    if len(labels) != 2:
        return None
    return labels.tolist()[0 if counts[0] < counts[1] else 1]


def majority_class(y: Iterable[Any]) -> Any:
    """The commonest of some labels, the first by name of several that are as common; None of none."""
    counts = Counter(y)
    return min(counts, key=lambda label: (-counts[label], str(label)), default=None)


def majority_note(support: Mapping[str, int], metric: str | None = None) -> list[str]:
    """Note that scores by predicted class mislead on rows of which most have one label; `support` is rows by label."""
    common, most = max(support.items(), key=lambda one: one[1])
    share = most / sum(support.values())
    if (
        share < _LOPSIDED
        or most == sum(support.values())
        or metric in ("auroc", "average_precision", "log_loss")
    ):
        return []
    look = (
        "macro-F1, which depends on where the classes are cut, may rank a head last whose AUROC is the best; see too"
        if metric == "macro_f1"
        else "accuracy and weighted F1 say little here; look at macro-F1,"
    )
    note = f"{share:.0%} of the rows are {common!r}: {look} AUROC and average precision"
    return [f"{note}, choose by them (--metric auroc), or weigh classes alike (--class-weight balanced)"]


def _positive(positive: Any, labels: Sequence[Any], k: int, support: np.ndarray) -> int | None:
    """Number of the class whose average precision is meant; None for the mean over all."""
    if positive is not None:
        for i, label in enumerate(labels):
            if str(label) == str(positive):
                return i
        require_positive(str(positive), labels)
    if k != 2:
        return None
    return 0 if support[0] < support[1] else 1


def _interval_dict(
    value: float | None, interval: Interval | tuple[float, ...] | None
) -> dict[str, float | None]:
    if not interval or value is None:
        return {"value": value, "low": None, "high": None}
    # Whatever rounding does, the value lies within.
    return {"value": value, "low": min(interval[0], value), "high": max(interval[1], value)}


def _of_counts(right: np.ndarray, support: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of counts by class: right rows, rows that have it, rows that were given it."""
    n = support.sum()
    f1 = 2 * right / np.maximum(support + found, 1)
    return {
        "accuracy": right.sum() / n,
        "macro_f1": f1.sum() / max((support + found > 0).sum(), 1),
        "weighted_f1": (f1 * support).sum() / n,
        "precision": right / np.maximum(found, 1),
        "recall": right / np.maximum(support, 1),
        "f1": f1,
    }


def _ranked(
    true: np.ndarray, proba: np.ndarray, k_all: int, chosen: int | None, groups: Groups, intervals: bool
) -> dict[str, Any]:
    """Scores that need the probabilities themselves: AUROC, average precision, log loss."""
    n, k = proba.shape
    support = np.bincount(true, minlength=k_all)
    defined = np.flatnonzero((support[:k] > 0) & (support[:k] < n))
    areas: list[float | None] = [None] * k_all
    precisions: list[float | None] = [None] * k_all
    auroc, average = Arms(groups), Arms(groups)
    for c in defined.tolist():
        positive = true == c
        area, area_influence, precision, influence = ranking(proba[:, c], positive)
        areas[c], precisions[c] = area, precision
        if k > 2 or c == defined[-1]:  # of two classes one says it all
            auroc.add(area, auroc_interval(area, area_influence, positive, groups), area_influence)
        if chosen is None or c == chosen:
            interval = precision_interval(precision, influence, int(support[c]), groups)
            average.add(precision, interval, influence)
    loss = row_losses(true, proba)
    spread = log_loss_interval(loss, implied_variance(proba), worst_loss(proba), groups)
    counted = defined if chosen is None else np.array([chosen])
    return {
        **{
            name: _interval_dict(value, interval if intervals else None)
            for name, (value, interval) in (
                ("auroc", auroc.mean()),
                ("average_precision", average.mean()),
                ("log_loss", (float(loss.mean()), spread)),
            )
        },
        "auroc_per_class": areas,
        "average_precision_per_class": precisions,
        "prevalence": float(support[counted].mean() / n) if len(counted) else None,
    }


def ranking(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray, float, np.ndarray]:
    """AUROC and average precision of one class against the rest, each with its influence function (n,).

    Ties count half in AUROC (DeLong's components); average precision is without interpolation. The squares of an influence
    function sum to the variance of its score.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    tie = np.cumsum(starts) - 1  # number of the threshold, from the highest
    mine = positive[order]
    hits, ones = np.bincount(tie[mine], minlength=tie[-1] + 1), np.bincount(tie)
    above_hits, above = np.cumsum(hits), np.cumsum(ones)
    m, others = int(above_hits[-1]), int(above[-1] - above_hits[-1])
    # Of each positive the share of negatives below it, of each negative that of positives above it, ties half.
    false = ones - hits
    below = others - (above - above_hits) + false / 2
    beaten = np.where(mine, below[tie] / others, (above_hits - hits / 2)[tie] / m)
    area = float(beaten[mine].mean())
    area_influence = np.empty(len(scores))
    area_influence[order] = (beaten - area) / np.where(mine, m, others)
    # A row counts in the mean, if positive, and in the precision at every threshold from its own down.
    precision = above_hits / above
    average = float((precision * hits).sum() / m)
    gain = np.cumsum((hits / above)[::-1])[::-1][tie]
    loss = np.cumsum((hits / above * precision)[::-1])[::-1][tie]
    influence = np.empty(len(scores))
    influence[order] = (mine * (precision[tie] - average + gain) - loss) / m
    return area, area_influence, average, influence


def row_losses(true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Log loss of each row (n,): as in scikit-learn a probability of zero costs -log(eps), and so does an unseen label."""
    loss = np.full(len(true), -np.log(_EPS))
    known = np.flatnonzero(true < proba.shape[1])
    at = proba[known, true[known]] / np.maximum(proba[known].sum(axis=1), _EPS)
    loss[known] = -np.log(np.clip(at, _EPS, 1 - _EPS))
    return loss


def implied_variance(proba: np.ndarray) -> float:
    """Variance of a row's log loss if labels came as the probabilities say."""
    means, spreads = [], []
    for start in range(0, len(proba), _CHUNK):
        part = proba[start : start + _CHUNK]
        share = np.clip(part / np.maximum(part.sum(axis=1, keepdims=True), _EPS), _EPS, 1.0)
        logs = np.log(share)
        means.append(-(share * logs).sum(axis=1))
        spreads.append((share * logs**2).sum(axis=1) - means[-1] ** 2)
    return float(np.concatenate(spreads).mean() + np.concatenate(means).var())


def worst_loss(proba: np.ndarray) -> float:
    """The largest log loss that any label of these rows would have."""
    return -float(np.log(max(float(proba.min()), _EPS)))


def _majority(support: np.ndarray, code: int, label: Any, prevalence: float | None) -> dict[str, Any]:
    """Scores of always answering `label`, and of ranking by chance."""
    n, present = int(support.sum()), int((support > 0).sum())
    hits = int(support[code]) if code < len(support) else 0
    # A label that is predicted but absent counts as a class of F1 zero.
    f1, classes = 2 * hits / (hits + n), present if hits else present + 1
    return {
        "label": label,
        "accuracy": hits / n,
        "macro_f1": f1 / classes,
        "weighted_f1": f1 * hits / n,
        **({} if prevalence is None else {"auroc": 0.5, "average_precision": prevalence}),
    }


def _notes(result: dict[str, Any], support: np.ndarray, labels: Sequence[Any], intervals: bool) -> list[str]:
    """Remarks for a reader of the scores."""
    n, notes = result["n"], []
    if result["one_class"] is not None:
        notes.append(
            f"every row was given {str(result['one_class'])!r}: by predicted classes this head knows no more than the "
            "majority does; what its probabilities know is in AUROC, average precision and log loss"
        )
    notes += majority_note(dict(zip(map(str, labels), support.tolist(), strict=True)))
    groups = result["intervals"]["groups"]
    if n < FEW:
        notes.append(
            f"only {count_of(n, 'row was', 'rows were')} scored: below {FEW}, a score says little, and its interval is rough"
        )
    elif groups < FEW:
        notes.append(
            f"the {n:,} rows are {count_of(groups, 'group')} of duplicates: below {FEW}, a score says little, "
            "and its interval is rough"
        )
    elif intervals and len(labels) > 2 and groups < 5 * int((support > 0).sum()):
        notes.append(
            f"{groups} rows for {int((support > 0).sum())} classes: with fewer than five each, the intervals of macro-F1 "
            "and AUROC are rough"
        )
    return notes


def title(name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """A score's name for readers; with `metrics` it says of which class the average precision is."""
    chosen = (metrics or {}).get("positive")
    plain = _TITLES.get(name, name)
    return f"{plain} of {str(chosen['label'])!r}" if chosen and name == "average_precision" else plain


def value_text(value: float | None, name: str) -> str:
    """A score as readers see it: in percent, but for log loss; nothing for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if name == "log_loss" else f"{100 * value:.1f}"


def interval_text(low: float | None, high: float | None, name: str, joint: str = "–") -> str:
    """An interval as readers see it, rounded outwards, so that it never looks like a point."""
    if low is None or high is None:
        return ""
    scale, digits = (1, 3) if name == "log_loss" else (100, 1)
    step = 10**digits
    ends = math.floor(low * scale * step + 1e-9) / step, math.ceil(high * scale * step - 1e-9) / step
    return joint.join(f"{end:.{digits}f}" for end in ends)


def intervals_text(metrics: Mapping[str, Any]) -> str:
    """Description of how the intervals of some scores were made."""
    about = metrics["intervals"]
    if "groups" not in about:  # by an earlier version
        return f"bootstrap over the rows, {count_of(about['draws'], 'draw')}"
    if about["groups"] < metrics["n"]:
        return f"in closed form, over {count_of(about['groups'], 'group')} of duplicates"
    return "in closed form, over the rows"


@dataclass(frozen=True)
class Predicted:
    """Predictions of one fit for some rows."""

    labels: np.ndarray  # (n,) str
    classes: np.ndarray  # (k,) str
    proba: np.ndarray  # (n, k)

    def __getitem__(self, rows: np.ndarray) -> Predicted:
        return Predicted(self.labels[rows], self.classes, self.proba[rows])


# Fewest rows of a bin, and most bins.
_BIN_ROWS, _BINS = 15, 10
# Below this a probability is rounding, and its logarithm noise.
_MIN_PROBABILITY = 1e-12
# A factor of the logits at one of these bounds was not found, but run into.
_MIN_FACTOR, _MAX_FACTOR = 0.02, 50.0
# Fewest rows of dev to fit a temperature on.
_MIN_DEV_ROWS = 20
# Draws times rows held at once.
_BLOCK = 4_000_000


def platt(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Slope and offset for which ``1 / (1 + exp(-(slope * score + offset)))`` fits best, for each column of scores.

    `positive` has the shape of `scores`, (n, k), which are larger for positive rows. Platt 1999, "Probabilistic outputs
    for support vector machines", with his smoothed targets, so that classes which are told apart without an error do
    not get certainty; by Newton's method with halved steps (Lin, Lin, Weng 2007). A slope is never negative: scores
    that point the wrong way become flat, not reversed. Returns (k, 2).
    """
    scores = np.asarray(scores, np.float64)
    w = np.ones((len(scores), 1)) if weight is None else np.asarray(weight, np.float64)[:, None]
    above, below = (w * positive).sum(axis=0), (w * ~positive).sum(axis=0)
    target = np.where(positive, (above + 1) / (above + 2), 1 / (below + 2))
    spread = scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    z = scores / spread
    start = np.log((above + 1) / (below + 1))
    slope, offset = np.zeros(len(start)), start.copy()

    def loss(slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        logits = slope * z + offset
        return np.asarray((w * (np.logaddexp(0, logits) - target * logits)).sum(axis=0))

    value = loss(slope, offset)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(slope * z + offset, -500, 500)))
        off, bend = w * (p - target), w * p * (1 - p)
        g0, g1 = (off * z).sum(axis=0), off.sum(axis=0)
        h00, h01, h11 = (bend * z * z).sum(axis=0) + 1e-10, (bend * z).sum(axis=0), bend.sum(axis=0) + 1e-10
        determinant = np.maximum(h00 * h11 - h01 * h01, 1e-300)
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        length = np.ones(len(start))
        for _ in range(40):
            new = loss(slope - length * step0, offset - length * step1)
            # Where a column has converged, rounding alone decides: that is not worse.
            worse = ~(new <= value + 1e-12 * np.maximum(value, 1))
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        length = np.where(worse, 0, length)
        slope, offset, new = slope - length * step0, offset - length * step1, np.where(worse, value, new)
        done = value - new < 1e-12 * np.maximum(value, 1)
        value = new
        if done.all():
            break
    right = slope > 0
    return np.stack([np.where(right, slope / spread, 0), np.where(right, offset, start)], axis=1)


def temperature(
    scores: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    base: np.ndarray | float = 0.0,
    low: float = 1e-3,
    high: float = 1e4,
) -> float:
    """Factor for which ``softmax(base + factor * scores)`` has the least log loss.

    Without `base`, logits that are there already, an inverse temperature (Guo et al. 2017). Where all rows are right,
    or all wrong, the least loss lies at a bound, `low` or `high`.
    """
    scores = np.asarray(scores, np.float64)
    weight = np.ones(len(y)) if weight is None else weight
    rows = np.arange(len(y))

    def slope(factor: float) -> float:
        """Derivative of the loss by the factor, which grows with it: the loss is convex."""
        p = np.exp(log_softmax(base + factor * scores))
        return float((weight * ((p * scores).sum(axis=1) - scores[rows, y])).sum())

    below, above = np.log(low), np.log(high)
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(60):
        middle = (below + above) / 2
        if slope(float(np.exp(middle))) < 0:
            below = middle
        else:
            above = middle
    return float(np.exp((below + above) / 2))


def measure_calibration(
    proba: np.ndarray,
    true: np.ndarray,
    dev: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibration of probabilities (n, k) on some rows, as it is and with a temperature fitted on other rows, `dev`.

    `true` has the code of each row's label; `k` or more, or below zero, for one that the head does not know. `groups`
    are of rows that are duplicates of one another: the bootstrap draws them together. 0 `draws` leave the intervals
    out.

    The JSON values returned: ``n``, and of ``ece`` (with ``by_chance``: what a calibrated head would show, as ``mean``
    and ``high``), ``brier`` and ``log_loss`` value and interval; ``bins`` as `reliability` returns them;
    ``temperature`` with its ``value``, the rows it was fitted on, and the three scores and bins ``after`` it, or
    ``why`` there is none. ``change`` is log loss after less before, with its paired interval.
    """
    rng = np.random.default_rng(seed)
    alike = Groups(groups, len(true))
    weights = _resamples(alike, draws, rng)
    told = _scores(proba, true, weights, alike, np.random.default_rng(seed + 1))
    told["temperature"] = _measure_temperature(proba, true, dev, weights, alike, seed)
    return told


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Bins of equally many rows, by rising confidence: what was said, and how often it was `right`.

    ``from`` and ``to`` are the least and greatest confidence, ``confidence`` their mean, ``low`` and ``high`` the
    interval of the accuracy (Wilson 1927).
    """
    bins = _bins(confidence)
    found = []
    for number in np.unique(bins):
        held = bins == number
        n, share = int(held.sum()), float(right[held].mean())
        low, high = map(float, wilson(share, n))
        found.append(
            {
                "rows": n,
                "from": float(confidence[held].min()),
                "to": float(confidence[held].max()),
                "confidence": float(confidence[held].mean()),
                "accuracy": share,
                "low": low,
                "high": high,
            }
        )
    return found


def _scores(
    proba: np.ndarray,
    true: np.ndarray,
    weights: list[np.ndarray],
    groups: Groups,
    rng: np.random.Generator,
) -> dict[str, Any]:
    n = len(true)
    proba = np.asarray(proba, np.float64)
    confidence, right = proba.max(axis=1), proba.argmax(axis=1) == true
    bins = _bins(confidence)
    value, sample, chance = _ece(confidence, right, bins, weights, rng)
    tail = (1 - LEVEL) / 2
    by_chance = {"mean": float(chance.mean()), "high": float(np.quantile(chance, LEVEL))}
    ece: dict[str, Any] = {"value": value, "low": None, "high": None, "by_chance": by_chance}
    if len(sample):
        low, high = np.quantile(sample, [tail, 1 - tail])
        ece["low"] = 0.0 if value <= by_chance["high"] else float(max(2 * value - high, 0.0))
        ece["high"] = float(max(2 * value - low, ece["low"]))
    losses = _losses(proba, true)
    told = {"value": float(losses.mean()), "low": None, "high": None}
    if weights:
        told["low"], told["high"] = log_loss_interval(
            losses, implied_variance(proba), worst_loss(proba), groups
        )
    return {
        "n": n,
        "ece": ece,
        "brier": _mean(_brier(proba, true), weights),
        "log_loss": told,
        "bins": reliability(confidence, right),
    }


def _measure_temperature(
    proba: np.ndarray,
    true: np.ndarray,
    dev: tuple[np.ndarray, np.ndarray] | None,
    weights: list[np.ndarray],
    groups: Groups,
    seed: int,
) -> dict[str, Any]:
    if dev is None:
        return {"value": None, "why": "there are no other rows to fit it on"}
    given, codes = np.asarray(dev[0], np.float64), dev[1]
    known = (codes >= 0) & (codes < given.shape[1])
    given, codes = given[known], codes[known]
    if len(codes) < _MIN_DEV_ROWS:
        return {"value": None, "why": f"dev has {count_of(len(codes), 'row')}, which is too few to fit it on"}
    factor = temperature(_logits(given), codes, low=_MIN_FACTOR, high=_MAX_FACTOR)
    if factor in (_MIN_FACTOR, _MAX_FACTOR):
        why = "every row of dev is right" if factor == _MAX_FACTOR else "on dev the probabilities say nothing"
        return {"value": None, "why": f"{why}, so that the best temperature is without bounds"}
    after = softmax(factor * _logits(np.asarray(proba, np.float64)))
    change = _losses(after, true) - _losses(np.asarray(proba, np.float64), true)
    return {
        "value": 1 / factor,
        "fitted_on": len(codes),
        "after": _scores(after, true, weights, groups, np.random.default_rng(seed + 2)),
        "change": {"log_loss": _mean(change, weights)},
    }


def _ece(
    confidence: np.ndarray,
    right: np.ndarray,
    bins: np.ndarray,
    weights: list[np.ndarray],
    rng: np.random.Generator,
) -> tuple[float, np.ndarray, np.ndarray]:
    """The error, that of each resample, and those of heads for which the confidences are true."""
    n, k = len(bins), int(bins.max()) + 1
    member = np.eye(k)[bins]
    gap = member * (right - confidence)[:, None]
    value = float(np.abs(gap.sum(axis=0)).sum() / n)
    sample = [np.abs(counts @ gap).sum(axis=1) / counts.sum(axis=1) for counts in weights]
    draws = max(sum(map(len, weights)), 200)
    chance = []
    for size in _blocks(draws, n):
        happened = (rng.random((size, n)) < confidence) - confidence
        chance.append(np.abs(happened @ member).sum(axis=1) / n)
    return value, np.concatenate(sample) if sample else np.empty(0), np.concatenate(chance)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Number of each row's bin, from 0, without gaps: int, shape (n,)."""
    count = int(np.clip(len(confidence) // _BIN_ROWS, 2, _BINS))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="left"), return_inverse=True)[1].reshape(-1)


def _brier(proba: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Squared distance of each row; a label that the head does not know was given a probability of zero."""
    k = proba.shape[1]
    truth = (true[:, None] == np.arange(k)).astype(np.float64)
    unknown = ((true < 0) | (true >= k)).astype(np.float64)
    return np.asarray(np.square(proba - truth).sum(axis=1) + unknown)


def _losses(proba: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Log loss of each row, as in the table of scores; a label that the head does not know had a probability of zero."""
    k = proba.shape[1]
    return row_losses(np.where((true < 0) | (true >= k), k, true), proba)


def _logits(proba: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(proba, _MIN_PROBABILITY))


def _mean(values: np.ndarray, weights: list[np.ndarray]) -> dict[str, Any]:
    """Mean of the rows, with a percentile interval."""
    value = float(values.mean())
    means = [part @ values / part.sum(axis=1) for part in weights]
    if not means:
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def _resamples(groups: Groups, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Count of each of the n rows in each draw of whole groups, in blocks of (size, n)."""
    # What is held is bounded: with very many rows, fewer draws tell as much.
    n, count = groups.n, groups.count
    draws = min(draws, max(200, 50 * _BLOCK // max(n, 1)))
    blocks = []
    for size in _blocks(draws, n):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)
        blocks.append(drawn if groups.codes is None else drawn[:, groups.codes])
    return blocks


def _blocks(draws: int, width: int) -> list[int]:
    block = max(1, _BLOCK // max(width, 1))
    return [min(block, draws - start) for start in range(0, draws, block)]
