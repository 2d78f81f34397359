"""Scores of predicted probabilities with confidence intervals, and paired differences between runs.

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
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HeadError, UsageError, count_of
from .intervals import (
    LEVEL,
    Arms,
    Groups,
    Interval,
    auroc_interval,
    confusion_intervals,
    log_loss_interval,
    precision_interval,
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
