"""Penalised linear models along a path of C: what logistic regression and the linear SVM share.

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

import numpy as np

__all__ = ["WIDE", "Fit", "Logistic", "Loss", "SquaredHinge", "path"]

#: Number of classes from which the arithmetic of a fit is worth more than one thread.
WIDE = 32

# Largest number of features or rows (the smaller counts) for which the eigenbasis is worth its price.
_ROTATE = 4096
# Products of conjugate gradients in one step of Newton's method, at most.
_PRODUCTS = 250
# Share of the promised decrease that a step must keep (Armijo), and how often it is halved before giving up.
_DECREASE, _HALVINGS = 1e-4, 20


class Loss(ABC):
    """Loss of the rows as a function of their logits.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        Codes of the classes.
    k : int
        Number of classes.
    share : ndarray of float, shape (n,)
        Weights of the rows, of sum one; also the dtype of the arithmetic.

    Attributes
    ----------
    columns : int
        Columns of logits: one for two classes, otherwise `k`.
    separate : bool
        Whether the loss is a sum over columns, so that `curvature` is diagonal.
    """

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
        """Mean log loss, and its derivative."""
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
        """Mean squared hinge, summed over the columns, and its derivative."""
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
    """The minimum for one value of C.

    Attributes
    ----------
    C : float
    coef : ndarray of float64, shape (columns, d)
    intercept : ndarray of float64, shape (columns,)
    iterations : int
        Steps of Newton's method.
    products : int
        Products of conjugate gradients in all of them.
    value : float
        What was minimised.
    """

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
    """Fit along `grid`, each value starting from the last ones; a caller may stop whenever it has seen enough.

    Parameters
    ----------
    Z : ndarray of float32 or float64, shape (n, d)
        Features, best centred. The arithmetic over rows has their dtype.
    y : ndarray of int, shape (n,)
        Codes of `k` classes.
    k : int
    weight : ndarray of float64, shape (n,)
        Weights of the rows.
    grid : sequence of float
        Values of C, increasing.
    loss : type, default Logistic
    tol : float, default 1e-5
        Largest component of the gradient (of the mean loss) at which a fit has converged.
    max_iter : int, default 200
        Most steps of Newton's method for one value of C.

    Yields
    ------
    Fit
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
        """What a slope by the logits means for weights and intercepts: float64, (d + 1, columns)."""
        slope = slope.astype(self.R.dtype, copy=False)
        return np.vstack([self.R.T @ slope, slope.sum(axis=0, dtype=np.float64)[None]]).astype(np.float64)

    def at(self, theta: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        value, slope = self.loss.at(self.logits(theta))
        gradient = self.back(slope)
        gradient[:-1] += penalty * theta[:-1]
        return value + penalty / 2 * float(np.square(theta[:-1]).sum()), gradient

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
