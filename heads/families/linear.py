"""Linear heads along a path of C: `logreg` (logistic regression) and `svm` (support vector machine).

Each input is centred and divided by one number, the root mean square length of its centred rows, so that C means the same
for every encoder and no input drowns another. Scaling every feature by itself (`scale=feature`) was measured too: no better
on CrisisMMD's texts, a point of accuracy better on ELPV's images, where the deviations of the features of `mini` span three
orders of magnitude. Whether rows are first brought to unit length is chosen with C (`unit=auto`): MiniLM's mean-pooled
states gain two points of accuracy from it on CrisisMMD; on ELPV's images it makes no difference.

Both are chosen by log loss, not by accuracy or macro-F1: it uses every row's probability, so its curve is smooth where
macro-F1 jumps with each of a rare class's few rows. The path runs from the strongest penalty to the weakest and stops once
dev has been getting worse, which spares the slowest fits. The fitted weights are folded back over centring and scaling, so
predicting takes NumPy alone.

Minimised is, for weights ``W`` (d, k) and intercepts ``b`` (k,), with row weights ``s`` that sum to ``S``,

    sum(s * loss(Z @ W + b)) / S + sum(W ** 2) / (2 * C * S),

which has its minimum where scikit-learn's ``C * sum(s * loss) + sum(W ** 2) / 2`` has it. Three things make a path
of 45 values of C an order of magnitude faster than as many fits from scratch:

- **One rotation for all values.** In the eigenbasis of the features' second moments the Hessian is nearly a
  product, eigenvalues times mean curvature of the classes, and that product is a preconditioner which costs nothing to
  invert, for any C. What slows scikit-learn's L-BFGS down is the spread of those eigenvalues.
- **Newton's method with conjugate gradients** (Lin, Weng, Keerthi 2008, "Trust region Newton method for large-scale
  logistic regression"; here with a line search): two or three steps of a handful of products each.
- **Starting where the last two values point to**: the path is smooth in log C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, Literal

import numpy as np

from ..head import Choice, Chosen, Examples, Head, Validation
from ..inputs import Inputs, filled, pieces, softmax, standardised, statistics, unit_length
from ..metrics import criteria, platt
from ..registry import ClassWeight, Footprint, grid_of

# Products with few columns are bound by memory: below so many classes a second thread gains little, and on a busy
# machine costs much.
_MANY_CLASSES = 32
# Largest number of features or rows (the smaller counts) for which the eigenbasis pays.
_ROTATE = 4096
# Products of conjugate gradients in one step of Newton's method, at most.
_PRODUCTS = 250
# Share of the promised decrease that a step must keep (Armijo), and how often it is halved before giving up.
_DECREASE, _HALVINGS = 1e-4, 20


class Loss(ABC):
    """Loss of the rows as a function of their logits (n, columns): one column for two classes, otherwise `k`.

    `share` are the weights of the rows, of sum one; the arithmetic has their dtype.
    """

    #: Whether the loss is a sum over columns, so that `curvature` is diagonal.
    separate: bool = False

    def __init__(self, y: np.ndarray, k: int, share: np.ndarray) -> None:
        self.y, self.share = y, share
        self.columns = 1 if k == 2 else k

    @abstractmethod
    def at(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Value, and its derivative by the logits (n, columns); remembered for `curved` and `curvature`."""

    @abstractmethod
    def curved(self, change: np.ndarray) -> np.ndarray:
        """The Hessian by the logits, applied to a change of them: (n, columns)."""

    @abstractmethod
    def curvature(self) -> np.ndarray:
        """Mean Hessian by the logits of one row: (columns, columns)."""


class Logistic(Loss):
    """Log loss: logistic for two classes, softmax for more."""

    def __init__(self, y: np.ndarray, k: int, share: np.ndarray) -> None:
        super().__init__(y, k, share)
        self._rows = np.arange(len(y))
        self._target = (y == 1).astype(share.dtype)

    def at(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """See `Loss`."""
        share = self.share
        if self.columns == 1:
            z = logits[:, 0]
            with np.errstate(over="ignore"):
                p = 1 / (1 + np.exp(-z))
            self._p = p[:, None]
            losses = np.logaddexp(0, z) - self._target * z
            return _dot(share, losses), (share * (p - self._target))[:, None]
        shifted = logits - logits.max(axis=1, keepdims=True)
        p = np.exp(shifted)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        self._p = p
        losses = np.log(total[:, 0]) - shifted[self._rows, self.y]
        slope = p * share[:, None]
        slope[self._rows, self.y] -= share
        return _dot(share, losses), slope

    def curved(self, change: np.ndarray) -> np.ndarray:
        """See `Loss`."""
        p = self._p
        if self.columns == 1:
            return change * (p * (1 - p) * self.share[:, None])
        change = change * p
        return (change - p * change.sum(axis=1, keepdims=True)) * self.share[:, None]

    def curvature(self) -> np.ndarray:
        """See `Loss`."""
        p = self._p.astype(np.float64)
        weighted = p * self.share[:, None]
        if self.columns == 1:
            return np.array([[float((weighted * (1 - p)).sum())]])
        return np.diag(weighted.sum(axis=0)) - weighted.T @ p


class SquaredHinge(Loss):
    """Squared hinge loss of a linear SVM; of more than two classes, one against the rest each.

    Twice differentiable but where a row meets the margin, which is where Newton's method takes the one-sided value
    (Keerthi and DeCoste 2005).
    """

    separate = True

    def __init__(self, y: np.ndarray, k: int, share: np.ndarray) -> None:
        super().__init__(y, k, share)
        positive = (y == 1)[:, None] if self.columns == 1 else y[:, None] == np.arange(k)
        self._sign = np.where(positive, 1, -1).astype(share.dtype)

    def at(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """See `Loss`."""
        short = np.maximum(1 - self._sign * logits, 0)
        self._active = (short > 0) * (2 * self.share[:, None])
        return _dot(self.share, np.square(short).sum(axis=1)), -2 * self._sign * short * self.share[:, None]

    def curved(self, change: np.ndarray) -> np.ndarray:
        """See `Loss`."""
        return change * self._active

    def curvature(self) -> np.ndarray:
        """See `Loss`."""
        return np.diag(self._active.sum(axis=0, dtype=np.float64))


@dataclass(frozen=True)
class Fit:
    """The minimum for one value of C: weights (columns, d), intercepts (columns,), Newton steps, products, value."""

    C: float
    coef: np.ndarray
    intercept: np.ndarray
    iterations: int
    products: int
    value: float


def path(
    Z: np.ndarray,
    y: np.ndarray,
    k: int,
    weight: np.ndarray,
    grid: Sequence[float],
    loss: type[Loss] = Logistic,
    *,
    tol: float = 1e-5,
    max_iter: int = 200,
) -> Iterator[Fit]:
    """Fit along `grid` (increasing), each value starting from the last ones; a caller may stop whenever it has enough.

    `Z` are features (n, d), best centred, float32 or float64, which the arithmetic over rows then has; a fit has converged
    when no component of the gradient of the mean loss is above `tol`.
    """
    total = float(weight.sum())
    share = (weight / total).astype(Z.dtype)
    R, basis, moments = _rotated(Z, share)
    problem = _Problem(R, loss(y, k, share), moments)
    columns = problem.loss.columns
    here = np.zeros((R.shape[1] + 1, columns))  # the last row holds the intercepts
    before: np.ndarray | None = None
    for number, C in enumerate(grid):
        start = here
        if before is not None and number > 1:
            start = here + (here - before) * (
                np.log(C / grid[number - 1]) / np.log(grid[number - 1] / grid[number - 2])
            )
        before = here
        here, value, iterations, products = problem.minimum(start, 1 / (C * total), tol, max_iter)
        W, b = here[:-1], here[-1]
        raw = W if basis is None else basis @ W
        yield Fit(
            C,
            raw.T.copy(),
            b - b.mean() if columns > 1 and loss is Logistic else b.copy(),
            iterations,
            products,
            value,
        )


class _Problem:
    """The loss over one set of rotated features, for any penalty."""

    def __init__(self, R: np.ndarray, loss: Loss, moments: np.ndarray) -> None:
        self.R, self.loss, self.moments = R, loss, moments

    def logits(self, theta: np.ndarray) -> np.ndarray:
        """Logits of all rows: (n, columns)."""
        theta = theta.astype(self.R.dtype)
        logits: np.ndarray = self.R @ theta[:-1] + theta[-1]
        return logits

    def back(self, slope: np.ndarray) -> np.ndarray:
        """Gradient by weights and intercepts from the gradient by logits: float64, (d + 1, columns)."""
        slope = slope.astype(self.R.dtype, copy=False)
        return np.vstack([self.R.T @ slope, slope.sum(axis=0, dtype=np.float64)[None]]).astype(np.float64)

    def at(self, theta: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        value, slope = self.loss.at(self.logits(theta))
        gradient = self.back(slope)
        gradient[:-1] += penalty * theta[:-1]
        return value + penalty / 2 * float(np.square(theta[:-1]).sum()), gradient

    @np.errstate(invalid="ignore")  # BLAS raises the flag for the padding of a product
    def minimum(
        self, theta: np.ndarray, penalty: float, tol: float, max_iter: int
    ) -> tuple[np.ndarray, float, int, int]:
        """Newton's method from `theta`: the minimum, its value, steps and products."""
        value, gradient = self.at(theta, penalty)
        products = 0
        for iteration in range(max_iter):
            slope = float(np.abs(gradient).max())
            if slope <= tol:
                return theta, value, iteration, products
            # A rough direction far away, a good one near the end; never better than what `tol` asks for.
            step, used = self._direction(gradient, penalty, max(min(0.25, slope**0.5), 0.3 * tol / slope))
            products += used
            descent, length = float((gradient * step).sum()), 1.0
            # Rounding hides a decrease smaller than this.
            noise = 4 * float(np.finfo(self.R.dtype).eps) * abs(value)
            for _ in range(_HALVINGS):
                moved = theta + length * step
                new_value, new_gradient = self.at(moved, penalty)
                if new_value <= value + _DECREASE * length * descent + noise:
                    break
                length /= 2
            else:
                self.at(theta, penalty)
                return theta, value, iteration, products
            stuck = new_value >= value - noise and np.abs(new_gradient).max() >= slope
            if stuck:
                return theta, value, iteration, products
            theta, value, gradient = moved, new_value, new_gradient
        return theta, value, max_iter, products

    def _direction(self, gradient: np.ndarray, penalty: float, accuracy: float) -> tuple[np.ndarray, int]:
        """Newton's step by preconditioned conjugate gradients, to a relative `accuracy`."""
        mean = self.loss.curvature()
        curvature, turn = (np.diag(mean), None) if self.loss.separate else np.linalg.eigh(mean)
        curvature = np.maximum(curvature, 0)
        # Softmax does not see a shift of all intercepts: the floor keeps that direction still.
        floor = max(1e-6 * float(curvature.max()), 1e-12)
        diagonal = np.vstack(
            [np.outer(self.moments, curvature) + penalty, np.maximum(curvature, floor)[None]]
        )

        def preconditioned(residual: np.ndarray) -> np.ndarray:
            if turn is None:
                return residual / diagonal
            applied: np.ndarray = ((residual @ turn) / diagonal) @ turn.T
            return applied

        step = np.zeros_like(gradient)
        residual = -gradient
        towards = preconditioned(residual)
        direction = towards
        size = first = float((residual * towards).sum())
        for number in range(1, _PRODUCTS + 1):
            curved = self.back(self.loss.curved(self.logits(direction)))
            curved[:-1] += penalty * direction[:-1]
            bend = float((direction * curved).sum())
            if bend <= 0:  # flat within rounding
                return (step if step.any() else direction), number
            step = step + size / bend * direction
            residual = residual - size / bend * curved
            towards = preconditioned(residual)
            size, last = float((residual * towards).sum()), size
            if size <= accuracy**2 * first:
                break
            direction = towards + size / last * direction
        return step, number


def _rotated(Z: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Features in the eigenbasis of their second moments, the basis (d, r), and the moments (r,).

    With fewer rows than features, r is the number of rows: what is orthogonal to all rows has no weight at the minimum.
    Too large for an eigenbasis, the features stay as they are, the basis is None, and the moments are their own.
    """
    n, d = Z.shape
    if min(n, d) > _ROTATE:
        return Z, None, np.asarray(share @ np.square(Z), np.float64)
    if d <= n:
        moments, basis = np.linalg.eigh((Z.T * share) @ Z)
        return Z @ basis, basis, np.maximum(moments.astype(np.float64), 0)
    exact = Z * np.sqrt(share.astype(np.float64))[:, None]
    moments, sides = np.linalg.eigh(exact @ exact.T)
    kept = moments > 1e-12 * max(float(moments[-1]), 1e-300)
    if not kept.any():
        return Z, None, np.asarray(share @ np.square(Z), np.float64)
    basis = exact.T @ (sides[:, kept] / np.sqrt(moments[kept]))
    return (Z @ basis).astype(Z.dtype), basis, moments[kept]


def _dot(share: np.ndarray, values: np.ndarray) -> float:
    return float(np.dot(share.astype(np.float64), values))


@cache
def _blas() -> Any:
    """The libraries whose threads are limited; finding them takes longer than many a fit."""
    import scipy.linalg  # noqa: F401 (it brings a BLAS of its own, which has to be there to be found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@dataclass(kw_only=True, eq=False, repr=False)
class LinearHead(Head):
    """Linear head whose weights are fitted along a path of C; a subclass names the loss and makes probabilities of logits.

    Parameters
    ----------
    C : "auto", float or sequence of float, default "auto"
        Inverse strength of the penalty. A number is used as it is; of several, or of the default grid, the best on `val` is
        taken (without `val`, the best on a stratified fifth of the rows, and the head is then fitted on all of them).
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" weighs classes by the inverse of their frequency.
    scale : {"input", "feature"}, default "input"
        Whether one number scales all of an input, or each feature is scaled by its own deviation.
    unit : "auto" or bool, default "auto"
        Whether each row of each input is divided by its length before anything else; "auto" chooses together with C, and
        leaves lengths alone where there is nothing to choose on.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides between values of C and `unit`; with `class_weight`, log loss and accuracy are weighted alike.
    tol : float
        Largest component of the gradient at which a fit has converged.
    seed : int, default 0
        Of the part held out where `val` is not given.
    """

    handles_missing: ClassVar[bool] = True

    loss: ClassVar[type[Loss]]
    #: Values of C that "auto" tries, and the one where nothing can be held out to choose on.
    grid: ClassVar[tuple[float, ...]]
    fallback: ClassVar[float]
    #: Values of C without improvement after which the path stops; twice as many for the curves that jump.
    patience: ClassVar[int]
    #: Whether probabilities are calibrated, which takes rows that the weights have not learnt from.
    calibrated: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ("unit_",)

    C: float | Sequence[float] | Literal["auto"] = "auto"
    class_weight: ClassWeight = None
    scale: Literal["input", "feature"] = "input"
    unit: bool | Literal["auto"] = "auto"
    select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss"
    tol: float = 1e-5
    seed: int = 0

    @abstractmethod
    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (n, k) of logits (n, columns)."""

    def _calibrate(self, logits: np.ndarray, y: np.ndarray, by_class: np.ndarray) -> None:
        """Fit what `_probabilities` needs, on rows of known class."""

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        grid = grid_of("C", self.C, self.grid)
        units = [False, True] if self.unit == "auto" else [bool(self.unit)]

        def fit(examples: Examples, chosen: Chosen) -> None:
            if self.calibrated and not self.curve_:  # nothing to spare: the rows of training have to do
                self._choose(examples, (examples.X, examples.y), [chosen["C"]], [chosen["unit"]])
                return
            self.unit_ = chosen["unit"]
            for _ in self._path(examples, [chosen["C"]]):
                pass

        default = {"C": grid[0] if len(grid) == 1 else self.fallback, "unit": units[0]}
        if len(grid) == len(units) == 1 and not self.calibrated:
            val = None
        undecided = len(grid) > 1 or self.calibrated
        threads = 1 if len(self.classes_) < _MANY_CLASSES else None
        with _blas().limit(limits=threads, user_api="blas"):
            examples = self._examples(X, y, weight)
            choose = partial(self._choose, grid=grid, units=units)
            return self._select(examples, val, choose, fit, default, undecided=undecided)

    def _choose(self, examples: Examples, val: Validation, grid: list[float], units: list[bool]) -> Chosen:
        """Walk the path once for each treatment of lengths, and keep the fit that is best on `val`."""
        best, chosen, state = Choice(self.select), {}, {}
        by_class = examples.by_class
        for unit in units:
            self.unit_ = unit
            V, v = unit_length(val[0], unit), val[1]
            along = Choice(self.select, self.patience * (1 if self.select == "log_loss" else 2))
            for C in self._path(examples, grid):
                logits = self._logits(V)
                self._calibrate(logits, v, by_class)
                row = {"C": C, "unit": unit, **criteria(v, self._probabilities(logits), by_class)}
                if "n_iter_" in self.arrays:  # reaching max_iter shows here, in place of a warning
                    row["iterations"] = int(self.n_iter_[0])
                self.curve_.append(row)
                along.offer(row)
                if best.offer(row):
                    chosen = {"C": C, "unit": unit}
                    state = {name: getattr(self, name) for name in ("unit_", *self.arrays)}
                if along.exhausted:
                    break
        vars(self).update(state)
        return chosen

    def _path(self, examples: Examples, grid: list[float]) -> Iterator[float]:
        """Each value of C, while the head has the weights for it: on raw features, centring and scaling folded in."""
        X, y, weight = unit_length(examples.X, self.unit_), examples.y, examples.weight
        total = weight * examples.by_class[y]
        # `svm` centres with the weights of the classes.
        centred_by = total if self.calibrated else weight
        self.means_, scales = statistics(X, centred_by, by_feature=self.scale == "feature")
        Z = standardised(X, self.means_, scales)
        scale = np.concatenate([scales[name] for name in X.names])
        mean = np.concatenate([self.means_[name] for name in X.names])
        k = len(self.classes_)
        # A parameter of `logreg` only; scikit-learn sets it wherever it finds an attribute of that name.
        max_iter = getattr(self, "max_iter", 200)
        for fit in path(Z, y, k, total, grid, self.loss, tol=self.tol, max_iter=max_iter):
            self.coef_ = fit.coef / scale
            self.intercept_ = fit.intercept - self.coef_ @ mean
            self.n_iter_ = np.array([fit.iterations])
            yield fit.C

    def _logits(self, X: Inputs) -> np.ndarray:
        """One column for two classes: float64."""
        parts = []
        for part in pieces(X):
            logits = np.tile(self.intercept_, (len(part), 1))
            start = 0
            for name, width in part.widths.items():
                array = filled(part, name, self.means_).astype(np.float64)
                logits += array @ self.coef_[:, start : start + width].T
                start += width
            parts.append(logits)
        return np.concatenate(parts)

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        X = unit_length(X, self.unit_)
        return np.concatenate([self._probabilities(self._logits(part)) for part in pieces(X)])


def _both(logits: np.ndarray) -> np.ndarray:
    """Logits of two classes from one column: the first one's are zero."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


#: Values of C that "auto" tries: four a decade, from 0.01 to 1000.
GRID = tuple(float(f"{10 ** (step / 4):.3g}") for step in range(-8, 13))


@dataclass(kw_only=True, eq=False, repr=False)
class LogReg(LinearHead):
    """Logistic regression with an L2 penalty.

    Parameters
    ----------
    max_iter : int, default 200
        Most steps of Newton's method for one value of C.
    **shared
        See `LinearHead`; `tol` is 1e-5.

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
    footprint: ClassVar[Footprint] = Footprint(rows=8, dev=3, weights=10, pairs=6)
    loss: ClassVar[type[Loss]] = Logistic
    grid: ClassVar[tuple[float, ...]] = GRID
    fallback: ClassVar[float] = 1.0
    patience: ClassVar[int] = 3
    arrays: ClassVar[tuple[str, ...]] = ("coef_", "intercept_", "n_iter_", "means_")

    max_iter: int = 200

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(_both(logits))


#: Values of C that "auto" tries: two a decade, from 0.001 to 100.
SVM_GRID = tuple(float(f"{10 ** (step / 2):.3g}") for step in range(-6, 5))


# As scikit-learn's `LinearSVC`, but the intercept is not penalised, and liblinear walks over dense rows one by one: on
# CrisisMMD's texts (6,126 x 384, five classes, four values of C, one thread) it took 14 times as long, dual or primal.
#
# Margins are no probabilities. Platt's sigmoid turns one into the other: for two classes one of them; for more, one a
# class against the rest, divided by their sum. On halves of CrisisMMD's dev split (task 2, five and eight classes) its log
# loss is lower by 0.00 to 0.05 than that of one temperature for the softmax of all margins.
@dataclass(kw_only=True, eq=False, repr=False)
class Svm(LinearHead):
    """Linear support vector machine with calibrated probabilities.

    The loss is the squared hinge, one class against the rest. The sigmoids are fitted on rows that the weights did not see:
    `val`, or a stratified fifth, with which the weights, and not the sigmoids, are fitted again.

    Parameters
    ----------
    tol : float, default 1e-4
        Largest component of the gradient at which a fit has converged.
    **shared
        See `LinearHead`.

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
    footprint: ClassVar[Footprint] = Footprint(rows=6, weights=10, pairs=2)
    loss: ClassVar[type[Loss]] = SquaredHinge
    grid: ClassVar[tuple[float, ...]] = SVM_GRID
    fallback: ClassVar[float] = 0.1
    patience: ClassVar[int] = 2
    calibrated: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = ("coef_", "intercept_", "calibration_", "means_")

    tol: float = 1e-4

    def _calibrate(self, logits: np.ndarray, y: np.ndarray, by_class: np.ndarray) -> None:
        positive = (y == 1)[:, None] if logits.shape[1] == 1 else y[:, None] == np.arange(logits.shape[1])
        self.calibration_ = platt(logits, positive, by_class[y])
        there = positive.any(axis=0)
        if 1 < there.sum() < len(there):
            # A class without a row here gets the sigmoid of the others: flat, it would lose to them everywhere.
            pooled = logits[:, there].reshape(-1, 1), positive[:, there].reshape(-1, 1)
            self.calibration_[~there] = platt(*pooled, np.repeat(by_class[y], there.sum()))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        logits = self.calibration_[:, 0] * logits + self.calibration_[:, 1]
        # Of more than two, sigmoids divided by their sum, by way of their logarithms, which do not underflow.
        return softmax(_both(logits) if logits.shape[1] == 1 else -np.logaddexp(0, -logits))
