"""`svm`: a linear support vector machine with probabilities, C chosen on dev.

The loss is the squared hinge, one class against the rest, as in scikit-learn's `LinearSVC`, but the intercept is not
penalised, and the solver is the path of `linear`, since liblinear walks over dense rows one by one:
on CrisisMMD's texts (6,126 x 384, five classes, four values of C, one thread) it took 14 times as long, dual or primal.

Margins are no probabilities. Platt's sigmoid turns one into the other: for two classes one of them; for more, one a class
against the rest, divided by their sum. It was compared with one temperature for the softmax of all margins, and with a
temperature and an offset a class, on halves of CrisisMMD's dev split (task 2, five and eight classes): its log loss is lower
than the temperature's by 0.00 to 0.05. The sigmoids are fitted on rows that the weights did not see then: `val`, or a
stratified fifth, with which the weights, and not the sigmoids, are fitted again. Where nothing can be held out the margins
of training have to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from ..calibration import platt
from ..checks import ParameterError
from ..head import Head, Validation
from ..inputs import Inputs
from ..memory import Footprint
from ..vectors import (
    Choice,
    ClassWeight,
    class_weights,
    criteria,
    filled,
    grid_of,
    pieces,
    softmax,
    standardised,
    statistics,
    unit_length,
)
from .linear import WIDE, SquaredHinge, path

__all__ = ["GRID", "Svm"]

#: Values of C that "auto" tries: two a decade, from 0.001 to 100.
GRID = tuple(float(f"{10 ** (step / 2):.3g}") for step in range(-6, 5))

_DEFAULT_C = 0.1
# Values of C in a row without improvement after which the path stops: more for the curves that jump.
_PATIENCE = {"log_loss": 2, "accuracy": 4, "macro_f1": 4}


class Svm(Head):
    """Linear support vector machine with calibrated probabilities.

    Parameters
    ----------
    C : "auto", float or sequence of float, default "auto"
        Inverse strength of the penalty. Of several, or of the default grid, the best on `val` is taken (without `val`,
        the best on a stratified fifth of the rows, and the head is then fitted on all of them).
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" weighs classes by the inverse of their frequency.
    scale : {"input", "feature"}, default "input"
        Whether one number scales all of an input, or each feature is scaled by its own deviation.
    unit : "auto" or bool, default "auto"
        Whether each row of each input is divided by its length first; "auto" chooses together with C.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides, on the calibrated probabilities.
    tol : float, default 1e-4
        Largest component of the gradient at which a fit has converged.
    seed : int, default 0
        Of the part held out where `val` is not given.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (k, d)
        Weights on the concatenated features, after `unit_` and before any scaling; one row only if there are two classes.
    intercept_ : ndarray of float64, shape (k,)
    calibration_ : ndarray of float64, shape (k, 2)
        Slope and offset of each sigmoid; one row only if there are two classes.
    unit_ : bool
        Whether rows are brought to unit length.
    means_ : dict of str to ndarray
        Mean of each input in training; a row that lacks the input is given it.

    Examples
    --------
    >>> import numpy as np
    >>> Svm(C=1.0).fit(np.eye(6, 3), [0, 0, 1, 1, 0, 1]).predict_proba(np.eye(2, 3)).shape
    (2, 2)
    """

    family: ClassVar[str] = "svm"
    handles_missing: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(rows=6, weights=10, pairs=2)

    unit_: bool
    coef_: np.ndarray
    intercept_: np.ndarray
    calibration_: np.ndarray
    means_: dict[str, np.ndarray]

    def __init__(
        self,
        *,
        C: float | Sequence[float] | Literal["auto"] = "auto",
        class_weight: ClassWeight = None,
        scale: Literal["input", "feature"] = "input",
        unit: bool | Literal["auto"] = "auto",
        select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss",
        tol: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.scale = scale
        self.unit = unit
        self.select = select
        self.tol = tol
        self.seed = seed

    def _fit(
        self, X: Inputs, y: np.ndarray, val: Validation | None, sample_weight: np.ndarray | None
    ) -> Mapping[str, Any]:
        from threadpoolctl import threadpool_limits

        grid = grid_of("C", self.C, GRID)
        if self.scale not in ("input", "feature"):
            raise ParameterError(f"scale must be input or feature, not {self.scale!r}")
        if self.select not in _PATIENCE:
            raise ParameterError(f"select must be one of {', '.join(_PATIENCE)}, not {self.select!r}")
        if self.unit not in ("auto", True, False):
            raise ParameterError(f"unit must be auto, true or false, not {self.unit!r}")
        by_class = class_weights(self.class_weight, self.classes_, y, sample_weight)
        weight = by_class[y] * (1.0 if sample_weight is None else sample_weight)
        units = [False, True] if self.unit == "auto" else [bool(self.unit)]
        # As for `logreg`: products with few columns are bound by memory.
        with threadpool_limits(limits=1 if len(self.classes_) < WIDE else None, user_api="blas"):
            return self._fit_with(X, y, val, weight, grid, units, by_class)

    def _fit_with(
        self,
        X: Inputs,
        y: np.ndarray,
        val: Validation | None,
        weight: np.ndarray,
        grid: list[float],
        units: list[bool],
        by_class: np.ndarray,
    ) -> dict[str, Any]:
        if val is not None:
            return self._choose(X, y, weight, grid, units, val, by_class)
        part = self._held_out(X, y)
        if part is None:
            # Nothing to spare: the margins of training have to do for the calibration.
            C = grid[0] if len(grid) == 1 else _DEFAULT_C
            return self._choose(X, y, weight, [C], units[:1], (X, y), by_class)
        rest = ~part
        chosen = self._choose(X[rest], y[rest], weight[rest], grid, units, (X[part], y[part]), by_class)
        self.unit_ = chosen["unit"]
        ((self.coef_, self.intercept_, _),) = self._path(unit_length(X, self.unit_), y, weight, [chosen["C"]])
        return chosen

    def _choose(
        self,
        X: Inputs,
        y: np.ndarray,
        weight: np.ndarray,
        grid: list[float],
        units: list[bool],
        val: Validation,
        by_class: np.ndarray,
    ) -> dict[str, Any]:
        """Walk the path for each treatment of lengths, calibrate each fit on `val`, and keep the best."""
        best: tuple[dict[str, Any], dict[str, Any]] | None = None
        V, v = val
        whole = Choice(self.select)
        for unit in units:
            self.unit_ = unit
            along = Choice(self.select, _PATIENCE[self.select])
            for coef, intercept, C in self._path(unit_length(X, unit), y, weight, grid):
                self.coef_, self.intercept_ = coef, intercept
                self.calibration_ = self._calibrated(self._margins(V), v, by_class)
                row = {"C": C, "unit": unit, **criteria(v, self._predict_proba(V), by_class)}
                self.curve_.append(row)
                along.offer(row)
                if whole.offer(row):
                    fitted = ("unit_", "coef_", "intercept_", "calibration_", "means_")
                    state = {name: getattr(self, name) for name in fitted}
                    best = {"C": C, "unit": unit}, state
                if along.exhausted:
                    break
        assert best is not None
        for name, value in best[1].items():
            setattr(self, name, value)
        return best[0]

    def _path(
        self, X: Inputs, y: np.ndarray, weight: np.ndarray, grid: list[float]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Weights and intercepts on raw features, for each value of C."""
        self.means_, scales = statistics(X, weight, by_feature=self.scale == "feature")
        Z = standardised(X, self.means_, scales)
        scale = np.concatenate([scales[name] for name in X.names])
        mean = np.concatenate([self.means_[name] for name in X.names])
        fits = path(Z, y, len(self.classes_), weight, grid, SquaredHinge, tol=self.tol)
        for fit in fits:
            coef = fit.coef / scale
            yield coef, fit.intercept - coef @ mean, fit.C

    def _calibrated(self, margins: np.ndarray, y: np.ndarray, by_class: np.ndarray) -> np.ndarray:
        positive = (y == 1)[:, None] if margins.shape[1] == 1 else y[:, None] == np.arange(margins.shape[1])
        fitted = platt(margins, positive, by_class[y])
        there = positive.any(axis=0)
        if 1 < there.sum() < len(there):
            # A class without a row here gets the sigmoid of the others: flat, it would lose to them everywhere.
            pooled = margins[:, there].reshape(-1, 1), positive[:, there].reshape(-1, 1)
            fitted[~there] = platt(*pooled, np.repeat(by_class[y], there.sum()))
        return fitted

    def _margins(self, X: Inputs) -> np.ndarray:
        """Signed distances, one column for two classes: float64."""
        parts = []
        for part in pieces(unit_length(X, self.unit_)):
            margins = np.tile(self.intercept_, (len(part), 1))
            start = 0
            for name, width in part.widths.items():
                margins += (
                    filled(part, name, self.means_).astype(np.float64)
                    @ self.coef_[:, start : start + width].T
                )
                start += width
            parts.append(margins)
        return np.concatenate(parts)

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        logits = self.calibration_[:, 0] * self._margins(X) + self.calibration_[:, 1]
        if logits.shape[1] == 1:
            return softmax(np.concatenate([np.zeros_like(logits), logits], axis=1))
        # Sigmoids divided by their sum, by way of their logarithms, which do not underflow.
        return softmax(-np.logaddexp(0, -logits))

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        means = {f"mean/{name}": mean for name, mean in self.means_.items()}
        arrays = {"coef": self.coef_, "intercept": self.intercept_, "calibration": self.calibration_}
        return {**arrays, **means}, {"unit": self.unit_}

    def _restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        self.coef_, self.intercept_ = arrays["coef"], arrays["intercept"]
        self.calibration_ = arrays["calibration"]
        self.unit_ = bool(values["unit"])
        self.means_ = {name: arrays[f"mean/{name}"] for name in self.widths_}
