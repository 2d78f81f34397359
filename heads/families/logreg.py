"""`logreg`: multinomial logistic regression on the concatenated inputs, C chosen on dev.

Each input is centred and divided by one number, the root mean square length of its centred rows, so that C means
the same for every encoder and no input drowns another. Scaling every feature by itself (`scale="feature"`) was
measured too: no better on CrisisMMD's texts, a point of accuracy better on ELPV's images, where the deviations of the
features of `mini` span three orders of magnitude.

Whether rows are first brought to unit length is chosen with C (`unit="auto"`): MiniLM's mean-pooled states gain two
points of accuracy from it on CrisisMMD; on ELPV's images it makes no difference.

Both are chosen by log loss, not by accuracy or macro-F1: it uses every row's probability, so its curve is smooth
where macro-F1 jumps with each of a rare class's few rows. The path runs from the strongest penalty to the
weakest, each fit starting from the last, and stops once dev has been getting worse, which spares the slowest
fits.

The fitted weights are folded back over centring and scaling, so predicting takes NumPy alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from ..checks import ParameterError
from ..head import Head, Validation
from ..holdout import held_out
from ..inputs import Inputs

__all__ = ["GRID", "LogReg"]

#: Values of C that "auto" tries: four a decade, from 0.01 to 1000.
GRID = tuple(float(f"{10 ** (step / 4):.3g}") for step in range(-8, 13))

# C where nothing can be held out to choose it on.
_DEFAULT_C = 1.0
# Values of C in a row without improvement after which the path stops: more for the curves that jump.
_PATIENCE = {"log_loss": 3, "accuracy": 6, "macro_f1": 6}
# Smallest scale of a feature, as a share of that of the whole input.
_FLOOR = 1e-3
# Number of classes from which the arithmetic of a fit is worth all threads.
_WIDE = 32
# Rows predicted at a time, which bounds the memory of the float64 copy.
_CHUNK = 16_384


class LogReg(Head):
    """Logistic regression with an L2 penalty (scikit-learn's L-BFGS).

    Parameters
    ----------
    C : "auto", float or sequence of float, default "auto"
        Inverse strength of the penalty. A number is used as it is; of several, or of the default grid, the
        best on `val` is taken (without `val`, the best on a stratified fifth of the rows, and the head is
        then fitted on all of them).
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" weighs classes by the inverse of their frequency.
    scale : {"input", "feature"}, default "input"
        Whether one number scales all of an input, or each feature is scaled by its own deviation.
    unit : "auto" or bool, default "auto"
        Whether each row of each input is divided by its length before anything else; "auto" chooses together
        with C, and leaves lengths alone where there is nothing to choose on.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides between values of C and `unit`; with `class_weight`, log loss and accuracy are weighted alike.
    max_iter : int, default 2000
        Most iterations for one value of C.
    tol : float, default 1e-5
        Largest component of the gradient at which a fit has converged.
    seed : int, default 0
        Of the part held out where `val` is not given.

    Attributes
    ----------
    unit_ : bool
        Whether rows are brought to unit length.
    coef_ : ndarray of float64, shape (k, d)
        Weights on the concatenated features, after `unit_` and before any scaling; one row only if there are two
        classes (of the second).
    intercept_ : ndarray of float64, shape (k,)
    n_iter_ : ndarray of int, shape (1,)
        Iterations of the last fit.
    means_ : dict of str to ndarray
        Mean of each input in training; a row that lacks the input is given it.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> LogReg(C=1.0).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "logreg"
    handles_missing: ClassVar[bool] = True

    unit_: bool
    coef_: np.ndarray
    intercept_: np.ndarray
    means_: dict[str, np.ndarray]
    n_iter_: np.ndarray

    def __init__(
        self,
        *,
        C: float | Sequence[float] | Literal["auto"] = "auto",
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        scale: Literal["input", "feature"] = "input",
        unit: bool | Literal["auto"] = "auto",
        select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss",
        max_iter: int = 2000,
        tol: float = 1e-5,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.scale = scale
        self.unit = unit
        self.select = select
        self.max_iter = max_iter
        self.tol = tol
        self.seed = seed

    def _fit(
        self, X: Inputs, y: np.ndarray, val: Validation | None, sample_weight: np.ndarray | None
    ) -> Mapping[str, Any]:
        grid = self._grid()
        if self.scale not in ("input", "feature"):
            raise ParameterError(f"scale must be input or feature, not {self.scale!r}")
        if self.select not in _PATIENCE:
            raise ParameterError(f"select must be one of {', '.join(_PATIENCE)}, not {self.select!r}")
        if self.unit not in ("auto", True, False):
            raise ParameterError(f"unit must be auto, true or false, not {self.unit!r}")
        by_class = self._class_weights(y, sample_weight)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        if len(grid) == 1 and self.unit != "auto":
            return self._settle(X, y, weight, {"C": grid[0], "unit": bool(self.unit)}, by_class)
        if val is not None:
            return self._choose(X, y, weight, grid, val, by_class)
        part = held_out(y, seed=self.seed) if len(grid) > 1 else None
        if part is None:
            C = grid[0] if len(grid) == 1 else _DEFAULT_C
            return self._settle(X, y, weight, {"C": C, "unit": self.unit is True}, by_class)
        rest = ~part
        best = self._choose(X[rest], y[rest], weight[rest], grid, (X[part], y[part]), by_class)
        return self._settle(X, y, weight, best, by_class)

    def _settle(
        self, X: Inputs, y: np.ndarray, weight: np.ndarray, chosen: dict[str, Any], by_class: np.ndarray
    ) -> dict[str, Any]:
        """Fit with what was chosen."""
        self.unit_ = chosen["unit"]
        self._solve(_lengths(X, self.unit_), y, weight, [chosen["C"]], None, by_class)
        return chosen

    def _choose(
        self,
        X: Inputs,
        y: np.ndarray,
        weight: np.ndarray,
        grid: list[float],
        val: Validation,
        by_class: np.ndarray,
    ) -> dict[str, Any]:
        """Walk the path once for each treatment of lengths, and keep the fit that is best on `val`."""
        best: tuple[float, dict[str, Any], dict[str, Any]] | None = None
        for unit in (False, True) if self.unit == "auto" else (bool(self.unit),):
            self.unit_ = unit
            worth, C = self._solve(
                _lengths(X, unit), y, weight, grid, (_lengths(val[0], unit), val[1]), by_class
            )
            if best is None or worth > best[0]:
                fitted = ("unit_", "coef_", "intercept_", "n_iter_", "means_")
                best = worth, {"C": C, "unit": unit}, {name: getattr(self, name) for name in fitted}
        assert best is not None
        for name, value in best[2].items():
            setattr(self, name, value)
        return best[1]

    def _solve(
        self,
        X: Inputs,
        y: np.ndarray,
        weight: np.ndarray,
        grid: list[float],
        val: Validation | None,
        by_class: np.ndarray,
    ) -> tuple[float, float]:
        """Fit along `grid` and keep the value of C that is best on `val` (the only one, without it).

        Returns
        -------
        float, float
            Its worth, the larger the better, and the value of C.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        self.means_, scales = _statistics(X, weight, by_feature=self.scale == "feature")
        Z = _standardised(X, self.means_, scales)
        model = LogisticRegression(warm_start=True, max_iter=self.max_iter, tol=self.tol)
        # Products with few columns are bound by memory: a second thread gains little, and on a busy machine
        # costs much.
        threads = 1 if len(self.classes_) < _WIDE else None
        best: tuple[float, float] | None = None
        since = 0
        for C in grid:
            model.set_params(C=C)
            with warnings.catch_warnings(), threadpool_limits(limits=threads, user_api="blas"):
                # Reaching max_iter shows in the curve instead.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(Z, y, sample_weight=weight * by_class[y])
            self.n_iter_ = np.atleast_1d(model.n_iter_)
            solution = self._folded(X, model.coef_, model.intercept_, scales)
            if val is None:
                self.coef_, self.intercept_ = solution
                return 0.0, C
            proba = self._proba(val[0], *solution)
            row = {
                "C": C,
                "unit": self.unit_,
                **_criteria(val[1], proba, by_class),
                "iterations": int(self.n_iter_.max()),
            }
            self.curve_.append(row)
            worth = -row["log_loss"] if self.select == "log_loss" else row[self.select]
            if best is None or worth > best[0]:
                best, since = (worth, C), 0
                self.coef_, self.intercept_ = solution
            else:
                since += 1
                if since == _PATIENCE[self.select]:
                    break
        assert best is not None
        return best

    def _folded(
        self, X: Inputs, coef: np.ndarray, intercept: np.ndarray, scales: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights on raw features that give the same logits as `coef` on the standardised ones."""
        scale = np.concatenate([scales[name] for name in X.names])
        raw = coef.astype(np.float64) / scale
        mean = np.concatenate([self.means_[name] for name in X.names])
        return raw, intercept.astype(np.float64) - raw @ mean

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        return self._proba(_lengths(X, self.unit_), self.coef_, self.intercept_)

    def _proba(self, X: Inputs, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        parts = [X[slice(start, start + _CHUNK)] for start in range(0, len(X), _CHUNK)]
        return np.concatenate([_softmax(self._logits(part, coef, intercept)) for part in parts])

    def _logits(self, X: Inputs, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        logits = np.tile(intercept, (len(X), 1))
        start = 0
        for name, width in X.widths.items():
            logits += _filled(X, name, self.means_).astype(np.float64) @ coef[:, start : start + width].T
            start += width
        return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        means = {f"mean/{name}": mean for name, mean in self.means_.items()}
        return {"coef": self.coef_, "intercept": self.intercept_, "n_iter": self.n_iter_, **means}, {
            "unit": self.unit_
        }

    def _restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        self.coef_, self.intercept_, self.n_iter_ = arrays["coef"], arrays["intercept"], arrays["n_iter"]
        self.unit_ = bool(values["unit"])
        self.means_ = {name: arrays[f"mean/{name}"] for name in self.widths_}

    def _grid(self) -> list[float]:
        values: Any = GRID if isinstance(self.C, str) and self.C == "auto" else self.C
        if isinstance(values, (int, float, np.number)):
            values = [values]
        try:
            grid = sorted({float(value) for value in values})
        except (TypeError, ValueError):
            raise ParameterError(f"C must be 'auto', a number or several numbers, not {self.C!r}") from None
        if not grid or not all(0 < C < np.inf for C in grid):
            raise ParameterError(f"C must be positive and finite, not {self.C!r}")
        return grid

    def _class_weights(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
        """Weight of each class: shape (k,)."""
        k = len(self.classes_)
        if self.class_weight is None:
            return np.ones(k)
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                raise ParameterError(
                    f"class_weight must be None, 'balanced' or a mapping, not {self.class_weight!r}"
                )
            counts = np.bincount(y, weights=sample_weight, minlength=k)
            return counts.sum() / (k * counts)
        # JSON has only strings for keys, so a mapping that comes back from a file is looked up by those too.
        given = {str(label): float(value) for label, value in self.class_weight.items()}
        return np.array([given.get(str(label), 1.0) for label in self.classes_.tolist()])


def _criteria(y: np.ndarray, proba: np.ndarray, by_class: np.ndarray) -> dict[str, float]:
    """Log loss, accuracy (both weighted by class) and macro-F1."""
    predicted = proba.argmax(axis=1)
    weight = by_class[y]
    at = np.clip(proba[np.arange(len(y)), y], np.finfo(np.float64).eps, 1.0)
    k = proba.shape[1]
    hits = np.bincount(y[predicted == y], minlength=k)
    marks = np.bincount(y, minlength=k) + np.bincount(predicted, minlength=k)
    return {
        "log_loss": float(np.average(-np.log(at), weights=weight)),
        "accuracy": float(np.average(predicted == y, weights=weight)),
        "macro_f1": float((2 * hits[marks > 0] / marks[marks > 0]).mean()),
    }


def _lengths(X: Inputs, unit: bool) -> Inputs:
    """The same rows, with unit length in each input if `unit`; a row of zeros stays as it is."""
    if not unit:
        return X
    arrays = {}
    for name in X.names:
        array = X.vectors(name)
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        arrays[name] = array / np.where(lengths > 0, lengths, 1)
    return Inputs(arrays, {name: X.present(name) for name in X.names})


def _statistics(
    X: Inputs, weight: np.ndarray, *, by_feature: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean of each input, and what to divide its features by: (d,) each, over the rows that have the input.

    Either way an input's rows then have a mean square length of one.
    """
    means: dict[str, np.ndarray] = {}
    scales: dict[str, np.ndarray] = {}
    for name in X.names:
        array = X.vectors(name)
        share = weight * X.present(name)
        total = share.sum()
        share = share / total if total > 0 else share
        values = np.asarray(array, np.float64 if array.dtype.itemsize > 4 else np.float32)
        mean = share.astype(values.dtype) @ values
        variance = share @ np.square(values - mean)
        length = float(np.sqrt(variance.sum()))
        scale = np.full(len(mean), length)
        if by_feature:
            # A feature that hardly varies is noise, and stays small.
            scale = np.maximum(np.sqrt(variance * len(mean)), _FLOOR * length)
        means[name] = mean.astype(np.float64)
        scales[name] = scale if length > 1e-12 else np.ones(len(mean))
    return means, scales


def _standardised(X: Inputs, means: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]) -> np.ndarray:
    """All inputs side by side, centred and scaled: float32 unless an input came in float64."""
    dtype = np.float32 if all(X.vectors(name).dtype.itemsize <= 4 for name in X.names) else np.float64
    Z = np.empty(X.shape, dtype)
    start = 0
    for name, width in X.widths.items():
        block = Z[:, start : start + width]
        np.subtract(_filled(X, name, means), means[name].astype(dtype), out=block)
        block /= scales[name].astype(dtype)
        start += width
    return Z


def _filled(X: Inputs, name: str, means: Mapping[str, np.ndarray]) -> np.ndarray:
    """Array of an input, with the mean of training in the rows that lack it."""
    array = X.vectors(name)
    present = X.present(name)
    return array if present.all() else np.where(present[:, None], array, means[name].astype(array.dtype))


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    return logits / logits.sum(axis=1, keepdims=True)
