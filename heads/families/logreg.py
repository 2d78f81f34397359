"""`logreg`: multinomial logistic regression on the concatenated inputs, C chosen on dev.

Each input is centred and divided by one number, the root mean square length of its centred rows, so that C means
the same for every encoder and no input drowns another. Scaling every feature by itself (`scale="feature"`) was
measured too: no better on CrisisMMD's texts, a point of accuracy better on ELPV's images, where the deviations of the
features of `mini` span three orders of magnitude.

Whether rows are first brought to unit length is chosen with C (`unit="auto"`): MiniLM's mean-pooled states gain two
points of accuracy from it on CrisisMMD; on ELPV's images it makes no difference.

Both are chosen by log loss, not by accuracy or macro-F1: it uses every row's probability, so its curve is smooth
where macro-F1 jumps with each of a rare class's few rows. The path (`linear`) runs from the strongest penalty to
the weakest, each fit starting from the last, and stops once dev has been getting worse, which spares the slowest fits.

The fitted weights are folded back over centring and scaling, so predicting takes NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

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
from .linear import WIDE, path

__all__ = ["GRID", "LogReg"]

#: Values of C that "auto" tries: four a decade, from 0.01 to 1000.
GRID = tuple(float(f"{10 ** (step / 4):.3g}") for step in range(-8, 13))

# C where nothing can be held out to choose it on.
_DEFAULT_C = 1.0
# Values of C in a row without improvement after which the path stops: more for the curves that jump.
_PATIENCE = {"log_loss": 3, "accuracy": 6, "macro_f1": 6}


class LogReg(Head):
    """Logistic regression with an L2 penalty.

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
    max_iter : int, default 200
        Most steps of Newton's method for one value of C.
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
        Steps of Newton's method in the fit that was kept.
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
    footprint: ClassVar[Footprint] = Footprint(rows=8, dev=3, weights=10, pairs=6)

    unit_: bool
    coef_: np.ndarray
    intercept_: np.ndarray
    means_: dict[str, np.ndarray]
    n_iter_: np.ndarray

    def __init__(
        self,
        *,
        C: float | Sequence[float] | Literal["auto"] = "auto",
        class_weight: ClassWeight = None,
        scale: Literal["input", "feature"] = "input",
        unit: bool | Literal["auto"] = "auto",
        select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss",
        max_iter: int = 200,
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
        grid = grid_of("C", self.C, GRID)
        if self.scale not in ("input", "feature"):
            raise ParameterError(f"scale must be input or feature, not {self.scale!r}")
        if self.select not in _PATIENCE:
            raise ParameterError(f"select must be one of {', '.join(_PATIENCE)}, not {self.select!r}")
        if self.unit not in ("auto", True, False):
            raise ParameterError(f"unit must be auto, true or false, not {self.unit!r}")
        by_class = class_weights(self.class_weight, self.classes_, y, sample_weight)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        if len(grid) == 1 and self.unit != "auto":
            return self._settle(X, y, weight, {"C": grid[0], "unit": bool(self.unit)}, by_class)
        if val is not None:
            return self._choose(X, y, weight, grid, val, by_class)
        part = self._held_out(X, y) if len(grid) > 1 else None
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
        self._solve(unit_length(X, self.unit_), y, weight, [chosen["C"]], None, by_class)
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
        best: tuple[tuple[float, float], dict[str, Any], dict[str, Any]] | None = None
        for unit in (False, True) if self.unit == "auto" else (bool(self.unit),):
            self.unit_ = unit
            score, C = self._solve(
                unit_length(X, unit), y, weight, grid, (unit_length(val[0], unit), val[1]), by_class
            )
            if best is None or score > best[0]:
                fitted = ("unit_", "coef_", "intercept_", "n_iter_", "means_")
                best = score, {"C": C, "unit": unit}, {name: getattr(self, name) for name in fitted}
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
    ) -> tuple[tuple[float, float], float]:
        """Fit along `grid` and keep the value of C that is best on `val` (the only one, without it).

        Returns
        -------
        tuple of float, float
            Its score and negative log loss, the larger the better, and the value of C.
        """
        from threadpoolctl import threadpool_limits

        self.means_, scales = statistics(X, weight, by_feature=self.scale == "feature")
        Z = standardised(X, self.means_, scales)
        k = len(self.classes_)
        fits = path(Z, y, k, weight * by_class[y], grid, tol=self.tol, max_iter=self.max_iter)
        # Products with few columns are bound by memory: a second thread gains little, and on a busy machine
        # costs much.
        threads = 1 if k < WIDE else None
        choice, chosen = Choice(self.select, _PATIENCE[self.select]), grid[0]
        with threadpool_limits(limits=threads, user_api="blas"):
            for fit in fits:
                iterations = np.array([fit.iterations])
                solution = self._folded(X, fit.coef, fit.intercept, scales)
                if val is None:
                    (self.coef_, self.intercept_), self.n_iter_ = solution, iterations
                    return (0.0, 0.0), fit.C
                proba = self._proba(val[0], *solution)
                # Reaching max_iter shows here, in place of a warning.
                row = {
                    "C": fit.C,
                    "unit": self.unit_,
                    **criteria(val[1], proba, by_class),
                    "iterations": fit.iterations,
                }
                self.curve_.append(row)
                if choice.offer(row):
                    chosen = fit.C
                    (self.coef_, self.intercept_), self.n_iter_ = solution, iterations
                if choice.exhausted:
                    break
        assert choice.best is not None
        return choice.best, chosen

    def _folded(
        self, X: Inputs, coef: np.ndarray, intercept: np.ndarray, scales: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights on raw features that give the same logits as `coef` on the standardised ones."""
        scale = np.concatenate([scales[name] for name in X.names])
        raw = coef.astype(np.float64) / scale
        mean = np.concatenate([self.means_[name] for name in X.names])
        return raw, intercept.astype(np.float64) - raw @ mean

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        return self._proba(unit_length(X, self.unit_), self.coef_, self.intercept_)

    def _proba(self, X: Inputs, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        return np.concatenate([softmax(self._logits(part, coef, intercept)) for part in pieces(X)])

    def _logits(self, X: Inputs, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        logits = np.tile(intercept, (len(X), 1))
        start = 0
        for name, width in X.widths.items():
            logits += filled(X, name, self.means_).astype(np.float64) @ coef[:, start : start + width].T
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
