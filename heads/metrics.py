"""Scores of predicted probabilities, each with a bootstrap interval.

Choices, once and for all heads:

- A label of the evaluated rows that the head never saw in training cannot be predicted: such rows count as
  errors, their label has a recall of zero, the log loss charges them a probability of zero (36.04 each), and `unseen`
  names it.
- Macro averages run over the classes that occur among the true or the predicted labels, as scikit-learn's do.
- AUROC and average precision are one-vs-rest means over the classes that have both positives and negatives;
  for two classes the AUROC is the usual one. Where no class has both, they are None.
- Intervals are percentiles of the bootstrap over rows, seeded, not stratified: how many rows of a class a
  test split holds is chance too, and for a class of nine rows that chance is most of the uncertainty.
- Scores of the confusion matrix need no loop over resampled rows: drawing rows with replacement is drawing
  the matrix's cells from a multinomial distribution, and that is what happens here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import HeadError, UsageError

__all__ = ["DRAWS", "LEVEL", "score"]

#: Bootstrap resamples, and the share of them that an interval covers.
DRAWS = 1000
LEVEL = 0.95

# Most numbers held at once by a block of resamples: 64 MB as float64.
_BLOCK = 8_000_000
# Beyond this many numbers in all, the scores that need resampled rows make do with fewer resamples.
_BUDGET = 1_000_000_000


def score(
    y: Sequence[Any] | np.ndarray,
    proba: np.ndarray,
    classes: Sequence[Any] | np.ndarray,
    *,
    majority: Any = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Any]:
    """Score probabilities against labels.

    Parameters
    ----------
    y : sequence of int or str, shape (n,)
        True labels.
    proba : ndarray of float, shape (n, k)
        A row's probability of each class.
    classes : sequence of int or str, shape (k,)
        Labels of the columns of `proba`.
    majority : label, optional
        The commonest label in train, whose constant prediction is the baseline; the commonest of `y` if None.
    draws : int, default 1000
        Bootstrap resamples; 0 leaves the intervals out (`low` and `high` are None).
    level : float, default 0.95
        Coverage of the intervals.
    seed : int, default 0

    Returns
    -------
    dict
        JSON values. ``accuracy``, ``macro_f1``, ``weighted_f1``, ``auroc``, ``average_precision`` and
        ``log_loss`` are each ``{"value", "low", "high"}`` (None where undefined); ``per_class`` a list with
        ``label``, ``support``, ``precision``, ``recall``, ``f1`` (with intervals), ``auroc`` and
        ``average_precision``; ``confusion`` has ``labels`` and ``matrix`` (rows true, columns predicted);
        ``majority`` the baseline; ``unseen`` the labels that training never held and their rows; ``intervals`` how the
        intervals were made, with ``draws_ranked`` for the resamples of AUROC, average precision and log loss, which
        are fewer for very many rows.

    Raises
    ------
    HeadError
        If there are no rows, or the shapes disagree.
    UsageError
        If `seed` or `draws` is below zero.
    """
    y, classes, proba = np.asarray(y), np.asarray(classes), np.asarray(proba, np.float64)
    if proba.shape != (len(y), len(classes)):
        raise HeadError(
            f"probabilities have shape {proba.shape}; expected {(len(y), len(classes))}: rows × classes"
        )
    if len(y) == 0:
        raise HeadError("no rows to score")
    if seed < 0 or draws < 0:
        raise UsageError(f"seed and draws must be whole numbers from 0 on, not {seed} and {draws}")
    rng = np.random.default_rng(seed)

    # Labels: the head's classes first, then what only the evaluated rows have.
    extra = np.array(sorted(set(y.tolist()) - set(classes.tolist()), key=str), dtype=object)
    labels = [*classes.tolist(), *extra.tolist()]
    code_of = {label: i for i, label in enumerate(labels)}
    true = np.array([code_of[label] for label in y.tolist()], np.intp)
    predicted = proba.argmax(axis=1)
    k = len(labels)
    matrix = np.bincount(true * k + predicted, minlength=k * k).reshape(k, k)

    values = _from_counts(*_margins(matrix[None]))
    spread = _bootstrap_counts(matrix, draws, rng)
    ranked = _ranked_scores(true, proba, len(labels), draws, rng)

    def interval(value: float | None, sample: np.ndarray | None) -> dict[str, float | None]:
        return _interval(value, sample, level)

    result: dict[str, Any] = {"n": len(y)}
    for name in ("accuracy", "macro_f1", "weighted_f1"):
        result[name] = interval(float(values[name][0]), spread[name] if spread else None)
    for name in ("auroc", "average_precision", "log_loss"):
        result[name] = interval(*ranked[name])
    base = majority if majority is not None else labels[int(np.bincount(true, minlength=k).argmax())]
    result["majority"] = _majority(true, code_of.get(base, k), base)
    support, hits = matrix.sum(axis=1), matrix.sum(axis=0)
    result["per_class"] = [
        {
            "label": label,
            "support": int(support[i]),
            "predicted": int(hits[i]),
            **{
                m: interval(float(values[m][0, i]), spread[m][:, i] if spread else None)
                for m in ("precision", "recall", "f1")
            },
            "auroc": ranked["auroc_per_class"][i],
            "average_precision": ranked["average_precision_per_class"][i],
        }
        for i, label in enumerate(labels)
    ]
    result["confusion"] = {"labels": labels, "matrix": matrix.tolist()}
    result["unseen"] = {str(label): int(support[code_of[label]]) for label in extra.tolist()}
    result["intervals"] = {
        "method": "percentile bootstrap over rows",
        "draws": draws,
        "draws_ranked": ranked["draws"],
        "level": level,
        "seed": seed,
    }
    return result


def _interval(value: float | None, sample: np.ndarray | None, level: float) -> dict[str, float | None]:
    """`value` with the percentiles of its resamples; resamples in which the score is undefined are left out."""
    if value is None or sample is None or not np.isfinite(sample).any():
        return {"value": value, "low": None, "high": None}
    low, high = np.nanquantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def _margins(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonal, rows' sums and columns' sums of (b, k, k) confusion matrices: (b, k) each."""
    return np.einsum("bii->bi", matrices), matrices.sum(axis=2), matrices.sum(axis=1)


def _from_counts(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of (b, k) counts: true positives, true rows and predicted rows of each class."""
    occurs = (support + predicted) > 0
    n = support.sum(axis=1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return {
        "accuracy": hits.sum(axis=1) / n,
        "macro_f1": f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1),
        "weighted_f1": (f1 * support).sum(axis=1) / n,
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": f1,
    }


def _bootstrap_counts(
    matrix: np.ndarray, draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """Scores of `draws` resampled confusion matrices, by name: (draws,) or (draws, k)."""
    if not draws:
        return None
    k, n = len(matrix), int(matrix.sum())
    rows, columns = np.nonzero(matrix)
    share = matrix[rows, columns] / n
    # One column a class: which cells add to its diagonal, its row and its column.
    true, guess = np.eye(k)[rows], np.eye(k)[columns]
    collected: list[dict[str, np.ndarray]] = []
    for size in _blocks(draws, len(share)):
        cells = rng.multinomial(n, share, size=size).astype(np.float64)
        collected.append(_from_counts(cells @ (true * guess), cells @ true, cells @ guess))
    return {name: np.concatenate([part[name] for part in collected]) for name in collected[0]}


def _ranked_scores(
    true: np.ndarray, proba: np.ndarray, k_all: int, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Scores that need the probabilities themselves: AUROC, average precision, log loss, with their resamples."""
    n, k = proba.shape
    positive = true[:, None] == np.arange(k)[None]
    counts = positive.sum(axis=0)
    defined = np.flatnonzero((counts > 0) & (counts < n))
    # As in scikit-learn, a probability of zero costs -log(eps), 36.04: so does a label that training never held.
    eps = np.finfo(np.float64).eps
    known = np.flatnonzero(true < k)
    loss = np.full(n, -np.log(eps))
    at = proba[known, true[known]] / np.maximum(proba[known].sum(axis=1), eps)
    loss[known] = -np.log(np.clip(at, eps, 1 - eps))

    orders = [_descending(proba[:, c]) for c in defined]
    ones = np.ones((1, n))
    auroc = np.array([_auroc(ones, positive[:, c], o)[0] for c, o in zip(defined, orders, strict=True)])
    precision = np.array(
        [_average_precision(ones, positive[:, c], o)[0] for c, o in zip(defined, orders, strict=True)]
    )

    affordable = int(_BUDGET // max(n * (len(defined) + 1), 1))
    draws = min(draws, max(affordable, 100)) if draws else 0
    samples: dict[str, list[np.ndarray]] = {"auroc": [], "average_precision": [], "log_loss": []}
    for size in _blocks(draws, n):
        weights = _resampled(n, size, rng)
        if len(defined):
            for name, function in (("auroc", _auroc), ("average_precision", _average_precision)):
                by_class = [
                    function(weights, positive[:, c], o) for c, o in zip(defined, orders, strict=True)
                ]
                samples[name].append(_mean_defined(np.stack(by_class)))
        samples["log_loss"].append(weights @ loss / n)

    def sampled(name: str) -> np.ndarray | None:
        return np.concatenate(samples[name]) if samples[name] else None

    def per_class(values: np.ndarray) -> list[float | None]:
        by_class: list[float | None] = [None] * k_all
        for c, value in zip(defined, values, strict=True):
            by_class[c] = float(value)
        return by_class

    return {
        "auroc": (float(auroc.mean()) if len(defined) else None, sampled("auroc")),
        "average_precision": (
            float(precision.mean()) if len(defined) else None,
            sampled("average_precision"),
        ),
        "log_loss": (float(loss.mean()), sampled("log_loss")),
        "draws": draws,
        "auroc_per_class": per_class(auroc),
        "average_precision_per_class": per_class(precision),
    }


def _descending(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of falling scores, and the position at which each run of equal scores ends."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return order, ends


def _sums(
    weights: np.ndarray, positive: np.ndarray, order: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each distinct threshold, from the highest: (b, t) each."""
    rows, ends = order
    ranked, hit = weights[:, rows], positive[rows]
    return np.cumsum(ranked * hit, axis=1)[:, ends], np.cumsum(ranked * ~hit, axis=1)[:, ends]


def _auroc(weights: np.ndarray, positive: np.ndarray, order: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Area under the ROC curve for each row of weights (b, n); NaN where a side is empty. Ties count half."""
    hits, false = _sums(weights, positive, order)
    before = np.concatenate([np.zeros((len(hits), 1)), hits[:, :-1]], axis=1)
    step = np.diff(false, axis=1, prepend=0.0)
    area = (step * (hits + before) / 2).sum(axis=1)
    whole = hits[:, -1] * false[:, -1]
    return np.divide(area, whole, out=np.full(len(area), np.nan), where=whole > 0)


def _average_precision(
    weights: np.ndarray, positive: np.ndarray, order: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Mean of the precision at each threshold, weighted by the rise in recall (no interpolation)."""
    hits, false = _sums(weights, positive, order)
    precision = hits / np.maximum(hits + false, 1e-12)
    rise = np.diff(hits, axis=1, prepend=0.0)
    whole = hits[:, -1]
    return np.divide((rise * precision).sum(axis=1), whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the classes (first axis) that are defined; NaN where none is."""
    there = np.isfinite(values)
    total, count = np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0)
    return np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)


def _resampled(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n rows occurs in each of `size` resamples: float64, shape (size, n)."""
    drawn = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _majority(true: np.ndarray, code: int, label: Any) -> dict[str, Any]:
    """Scores of always answering `label`."""
    hits = int((true == code).sum())
    n, present = len(true), len(np.unique(true))
    classes = (
        present if hits else present + 1
    )  # a label that is predicted but absent counts as a class of F1 zero
    return {
        "label": label,
        "accuracy": hits / n,
        "macro_f1": 2 * hits / (hits + n) / classes if hits else 0.0,
    }


def _blocks(draws: int, width: int) -> Iterator[int]:
    """Sizes of the blocks in which `draws` rows of `width` numbers fit in memory."""
    block = max(1, _BLOCK // max(width, 1))
    for start in range(0, draws, block):
        yield min(block, draws - start)
