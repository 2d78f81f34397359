"""Whether a head's probabilities mean what they say: reliability, expected calibration error, Brier score, temperature.

Choices, once and for all heads:

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

from typing import Any

import numpy as np

from ..calibration import temperature as fitted_factor
from ..intervals import Groups, log_loss_interval, wilson
from ..metrics import DRAWS, LEVEL, implied_variance, row_losses, worst_loss
from ..vectors import softmax

__all__ = ["calibration", "reliability"]

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


def calibration(
    proba: np.ndarray,
    true: np.ndarray,
    dev: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
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
    told = _scores(proba, true, weights, alike, level, np.random.default_rng(seed + 1))
    told["temperature"] = _temperature(proba, true, dev, weights, alike, level, seed)
    return told


def reliability(confidence: np.ndarray, right: np.ndarray, level: float = LEVEL) -> list[dict[str, Any]]:
    """Bins of equally many rows, by rising confidence: what was said, and how often it was `right`.

    ``from`` and ``to`` are the least and greatest confidence, ``confidence`` their mean, ``low`` and ``high`` the
    interval of the accuracy (Wilson 1927).
    """
    bins = _bins(confidence)
    found = []
    for number in np.unique(bins):
        held = bins == number
        n, share = int(held.sum()), float(right[held].mean())
        low, high = map(float, wilson(share, n, level))
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
    level: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    n = len(true)
    proba = np.asarray(proba, np.float64)
    confidence, right = proba.max(axis=1), proba.argmax(axis=1) == true
    bins = _bins(confidence)
    value, sample, chance = _ece(confidence, right, bins, weights, rng)
    tail = (1 - level) / 2
    by_chance = {"mean": float(chance.mean()), "high": float(np.quantile(chance, level))}
    ece: dict[str, Any] = {"value": value, "low": None, "high": None, "by_chance": by_chance}
    if len(sample):
        low, high = np.quantile(sample, [tail, 1 - tail])
        ece["low"] = 0.0 if value <= by_chance["high"] else float(max(2 * value - high, 0.0))
        ece["high"] = float(max(2 * value - low, ece["low"]))
    losses = _losses(proba, true)
    told = {"value": float(losses.mean()), "low": None, "high": None}
    if weights:
        told["low"], told["high"] = log_loss_interval(
            losses, implied_variance(proba), worst_loss(proba), groups, level
        )
    return {
        "n": n,
        "ece": ece,
        "brier": _mean(_brier(proba, true), weights, level),
        "log_loss": told,
        "bins": reliability(confidence, right, level),
    }


def _temperature(
    proba: np.ndarray,
    true: np.ndarray,
    dev: tuple[np.ndarray, np.ndarray] | None,
    weights: list[np.ndarray],
    groups: Groups,
    level: float,
    seed: int,
) -> dict[str, Any]:
    if dev is None:
        return {"value": None, "why": "there are no other rows to fit it on"}
    given, codes = np.asarray(dev[0], np.float64), dev[1]
    known = (codes >= 0) & (codes < given.shape[1])
    given, codes = given[known], codes[known]
    if len(codes) < _MIN_DEV_ROWS:
        return {"value": None, "why": f"dev has {len(codes)} rows, which is too few to fit it on"}
    factor = fitted_factor(_logits(given), codes, low=_MIN_FACTOR, high=_MAX_FACTOR)
    if factor in (_MIN_FACTOR, _MAX_FACTOR):
        why = "every row of dev is right" if factor == _MAX_FACTOR else "on dev the probabilities say nothing"
        return {"value": None, "why": f"{why}, so that the best temperature is without bounds"}
    after = softmax(factor * _logits(np.asarray(proba, np.float64)))
    change = _losses(after, true) - _losses(np.asarray(proba, np.float64), true)
    return {
        "value": 1 / factor,
        "fitted_on": len(codes),
        "after": _scores(after, true, weights, groups, level, np.random.default_rng(seed + 2)),
        "change": {"log_loss": _mean(change, weights, level)},
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


def _mean(values: np.ndarray, weights: list[np.ndarray], level: float) -> dict[str, Any]:
    """Mean of the rows, with a percentile interval."""
    value = float(values.mean())
    means = [part @ values / part.sum(axis=1) for part in weights]
    if not means:
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def _resamples(groups: Groups, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """How often each of the n rows occurs in each draw of whole groups, in blocks of (size, n)."""
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
