"""`online`: softmax regression by stochastic gradient descent, for labels that keep coming.

`fit` makes shuffled passes over the rows and stops on dev. `partial_fit` takes a batch of labels, now or next week, on a
head fresh or loaded: it continues where the last one ended.

- **Averaged.** What predicts is the mean of the weights over the steps (Ruppert 1988, Polyak and Juditsky 1992; Xu 2011,
  "Towards optimal one pass large scale learning with averaged stochastic gradient descent"), in which the last steps
  count more (`fading`), so that early ones are forgotten.
- **Standardised as it goes.** Mean and length of each input are learnt from all rows so far. When they move, weights
  and intercepts are rewritten so that no prediction of a row that has its inputs moves with them.
- **New classes** may come at any time, named in `classes` or met in a batch. A new class has no weights yet, and an
  intercept as if it had been seen once among all rows so far: it is unlikely, until its rows have taught otherwise. What
  the head says of the odds between the classes it knew is not changed.

The same batches in the same order give the same head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ..head import Choice, Chosen, Examples, Head, Validation
from ..inputs import (
    InputError,
    Inputs,
    Labels,
    Weights,
    filled,
    labels_of,
    pieces,
    softmax,
    unit_length,
    weights_of,
)
from ..metrics import criteria
from ..registry import ClassWeight, Footprint, ParameterError, class_weights, grid_of

#: Learning rates and penalties that "auto" tries.
RATES = (4.0, 16.0)
PENALTIES = (1e-5, 1e-4, 1e-3)

_DEFAULT_RATE, _DEFAULT_PENALTY, _DEFAULT_PASSES = 4.0, 1e-4, 10
# The rate falls as (1 + step / _STEADY) ** -_POWER.
_STEADY, _POWER = 100.0, 0.5


@dataclass(kw_only=True, eq=False, repr=False)
class Online(Head):
    """Softmax regression by averaged stochastic gradient descent, with `partial_fit`.

    Parameters
    ----------
    rate : "auto", float or sequence of float, default "auto"
        Learning rate of the first steps, for rows of mean square length one.
    penalty : "auto", float or sequence of float, default "auto"
        Strength of the L2 penalty on the weights.
    passes : "auto" or int, default "auto"
        Passes over the rows in `fit`; "auto" stops when `val` has not improved for `patience` passes.
    max_passes : int, default 30
        Most passes of "auto".
    patience : int, default 3
    batch : int, default 16
        Rows of a step.
    fading : float, default 4.0
        How much more the last steps count in the average: weights of the steps grow as their number to this power.
    unit : bool, default True
        Whether each row of each input is divided by its length first, which keeps a single odd row from throwing the
        weights about.
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" is for `fit` alone: `partial_fit` cannot know what is still to come.
    seed : int, default 0
        Of the order of the rows, and of the part held out where `val` is not given.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (k, d)
        Averaged weights on the concatenated, centred and scaled features.
    intercept_ : ndarray of float64, shape (k,)
    steps_ : int
        Steps so far; after `fit`, those of one pass.
    rows_ : float
        Weight of the rows so far.

    Examples
    --------
    >>> import numpy as np
    >>> head = Online().fit(np.eye(6, 4), ["calm", "flood"] * 3)
    >>> head.partial_fit(np.ones((1, 4)), ["quake"]).classes_.tolist()
    ['calm', 'flood', 'quake']
    """

    family: ClassVar[str] = "online"
    handles_missing: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(dev=3, weights=8)
    stochastic: ClassVar[bool] = True
    minimum: ClassVar[Mapping[str, int]] = {"max_passes": 1, "patience": 1, "batch": 1}
    arrays: ClassVar[tuple[str, ...]] = ("coef_", "intercept_", "last_", "means_")
    values: ClassVar[tuple[str, ...]] = ("steps_", "rows_", "rate_", "penalty_", "squares_", "seen_")

    rate: float | Sequence[float] | Literal["auto"] = "auto"
    penalty: float | Sequence[float] | Literal["auto"] = "auto"
    passes: int | Literal["auto"] = "auto"
    max_passes: int = 30
    patience: int = 3
    batch: int = 16
    fading: float = 4.0
    unit: bool = True
    class_weight: ClassWeight = None
    seed: int = 0
    intercept_: np.ndarray = field(init=False)

    # ------------------------------------------------------------------ all rows at once

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        rates, penalties = self._grids()
        examples = self._examples(X, y, weight)
        if weight is not None:
            examples = replace(examples, weight=weight / weight.mean())
        settings = [(rate, penalty) for rate in rates for penalty in penalties]
        rate, penalty = settings[0]

        def fit(examples: Examples, chosen: Chosen) -> None:
            self._start(examples.X, chosen["rate"], chosen["penalty"])
            rng = np.random.default_rng(self.seed)
            for number in range(chosen["passes"]):
                self._pass(examples, rng.permutation(len(examples.y)), first=number == 0)
            self._forget_passes(len(examples.y))

        default = {
            "rate": rate if len(rates) == 1 else _DEFAULT_RATE,
            "penalty": penalty if len(penalties) == 1 else _DEFAULT_PENALTY,
            "passes": _DEFAULT_PASSES if self.passes == "auto" else int(self.passes),
        }
        undecided = len(settings) > 1 or self.passes == "auto"
        choose = partial(self._choose, settings=settings)
        return self._select(examples, val, choose, fit, default, undecided=undecided)

    def _grids(self) -> tuple[list[float], list[float]]:
        if self.passes != "auto" and (isinstance(self.passes, str) or self.passes < 1):
            raise ParameterError(f"passes must be 'auto' or at least 1, not {self.passes!r}")
        return grid_of("rate", self.rate, RATES), grid_of("penalty", self.penalty, PENALTIES)

    def _choose(self, examples: Examples, val: Validation, settings: Sequence[tuple[float, float]]) -> Chosen:
        """Passes with each setting until `val` gets no better; keep the best state of all."""
        best = Choice("log_loss")
        chosen: Chosen = {}
        state: tuple[dict[str, np.ndarray], dict[str, Any]] = {}, {}
        for rate, penalty in settings:
            self._start(examples.X, rate, penalty)
            rng = np.random.default_rng(self.seed)
            along = Choice("log_loss", self.patience)
            for number in range(1, (self.max_passes if self.passes == "auto" else int(self.passes)) + 1):
                self._pass(examples, rng.permutation(len(examples.y)), first=number == 1)
                if self.passes != "auto" and number < self.passes:
                    continue
                setting = {"rate": rate, "penalty": penalty, "passes": number}
                row = {**setting, **criteria(val[1], self._predict_proba(val[0]), examples.by_class)}
                self.curve_.append(row)
                if best.offer(row):
                    chosen, (arrays, values) = setting, self._state()
                    state = {name: array.copy() for name, array in arrays.items()}, deepcopy(values)
                along.offer(row)
                if along.exhausted:
                    break
        self._restore(*state)
        self._forget_passes(len(examples.y))
        return chosen

    def _forget_passes(self, n: int) -> None:
        """Count the rows of `fit` once, however many passes there were: a later row shall weigh as much as one of them."""
        self.steps_ = -(-n // self.batch)

    # ------------------------------------------------------------------ batch by batch

    def partial_fit(
        self, X: Any, y: Labels, classes: Labels | None = None, sample_weight: Weights | None = None
    ) -> Self:
        """Learn from one batch of rows, in the order given.

        Parameters
        ----------
        X : Inputs, mapping of str to array, or ndarray of shape (n, d)
        y : sequence of int or str, shape (n,)
            Labels; one that was never seen before adds a class.
        classes : sequence, optional
            Classes to expect, beside those of `y`.
        sample_weight : sequence of float, shape (n,), optional

        Returns
        -------
        Online
            Itself.

        Raises
        ------
        HeadError
            If the first batch shows one class only and `classes` names no other, labels are of another kind than before,
            or features do not fit.
        """
        if isinstance(self.class_weight, str):
            raise ParameterError(
                "class_weight='balanced' needs all rows at once: give partial_fit a mapping, or none"
            )
        self._check_parameters()
        started = self.__sklearn_is_fitted__()
        inputs = self._conform(Inputs.of(X)) if started else self._checked(Inputs.of(X))
        labels = labels_of(y, len(inputs))
        weight = weights_of(sample_weight, len(inputs))
        weight = np.ones(len(labels)) if weight is None else weight
        kept = weight > 0
        inputs, labels, weight = inputs[kept], labels[kept], weight[kept]
        expected = [labels] if classes is None else [labels, labels_of(classes, len(classes))]
        if len({_kind(part) for part in expected}) > 1:
            raise InputError(
                f"labels are {_kind(labels)} and classes are {_kind(expected[1])}: give both alike"
            )
        known = np.unique(np.concatenate(expected))
        if not started:
            if len(known) < 2:
                raise InputError(
                    "a head needs at least two classes to tell apart; this first batch shows one class: name the others "
                    "in classes=[...]"
                )
            rates, penalties = self._grids()
            self.classes_, self.widths_, self.curve_, self.chosen_ = known, inputs.widths, [], {}
            self.notes_ = []
            self._start(
                inputs,
                rates[0] if len(rates) == 1 else _DEFAULT_RATE,
                penalties[0] if len(penalties) == 1 else _DEFAULT_PENALTY,
            )
        else:
            self._meet(known)
        codes = np.searchsorted(self.classes_, labels)
        by_class = class_weights(self.class_weight, self.classes_, codes)
        if len(labels):
            self._pass(Examples(inputs, codes, weight, by_class), np.arange(len(labels)))
        return self

    def _meet(self, known: np.ndarray) -> None:
        """Add the classes of `known` that are new."""
        if len(known) and _kind(known) != _kind(self.classes_):
            raise InputError(f"labels were {_kind(self.classes_)} before, and are {_kind(known)} now")
        if known.dtype.kind == "f" and self.classes_.dtype.kind in "iu":
            known = known.astype(self.classes_.dtype)  # whole numbers, as `labels_of` makes sure
        together = np.union1d(self.classes_, known)
        if len(together) == len(self.classes_):
            return
        old = np.searchsorted(together, self.classes_)
        new = np.setdiff1d(np.arange(len(together)), old)
        self.classes_ = together
        for name, is_last in (("coef_", False), ("last_", True)):
            before = getattr(self, name)
            after = np.zeros((len(together), before.shape[1]))
            after[old] = before
            if is_last:
                after[new, -1] = self._unseen(before[:, -1])
            setattr(self, name, after)
        intercept = np.zeros(len(together))
        intercept[old], intercept[new] = self.intercept_, self._unseen(self.intercept_)
        self.intercept_ = intercept

    def _unseen(self, intercepts: np.ndarray) -> float:
        """Intercept of a class as if it had been seen once: its odds against all others at the centre of the features."""
        top = float(intercepts.max())
        everything = top + float(np.log(np.exp(intercepts - top).sum()))
        return everything - float(np.log(self.rows_ + 1))

    # ------------------------------------------------------------------ the arithmetic

    def _start(self, X: Inputs, rate: float, penalty: float) -> None:
        """No step yet."""
        k = len(self.classes_)
        self.coef_, self.intercept_ = np.zeros((k, X.shape[1])), np.zeros(k)
        #: Weights and, in the last column, intercepts of the last step; the mean of all is what predicts.
        self.last_ = np.zeros((k, X.shape[1] + 1))
        self.means_ = {name: np.zeros(width) for name, width in X.widths.items()}
        self.squares_ = dict.fromkeys(X.names, 0.0)
        self.seen_ = dict.fromkeys(X.names, 0.0)
        self.steps_, self.rows_ = 0, 0.0
        self.rate_, self.penalty_ = rate, penalty

    def _pass(self, examples: Examples, order: np.ndarray, *, first: bool = True) -> None:
        """Steps over all rows once, in `order`; on their first pass they move the statistics too."""
        X, y = unit_length(examples.X, self.unit), examples.y
        if first:
            self._observe(X, examples.weight)
        arrays = self._standardised(X)
        importance = examples.weight * examples.by_class[y]
        mean_weights, mean_intercepts = self.coef_, self.intercept_
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            Z, target = arrays[rows], y[rows]
            slope = softmax(Z @ self.last_[:, :-1].T + self.last_[:, -1])
            slope[np.arange(len(rows)), target] -= 1
            slope *= importance[rows, None]
            rate = self.rate_ * (1 + self.steps_ / _STEADY) ** -_POWER
            # A proximal step on the penalty: a large one shrinks the weights, and cannot turn them over.
            self.last_[:, :-1] -= rate * (slope.T @ Z) / len(rows)
            self.last_[:, :-1] /= 1 + rate * self.penalty_
            self.last_[:, -1] -= rate * slope.mean(axis=0)
            self.steps_ += 1
            share = (self.fading + 1) / (self.fading + self.steps_)
            mean_weights += share * (self.last_[:, :-1] - mean_weights)
            mean_intercepts += share * (self.last_[:, -1] - mean_intercepts)

    def _observe(self, X: Inputs, weight: np.ndarray) -> None:
        """Update the running statistics by rows, and rescale weights and intercepts so that no logit changes."""
        start = 0
        for name, width in X.widths.items():
            share = weight * X.present(name)
            total = float(share.sum())
            columns = slice(start, start + width)
            start += width
            if total == 0:
                continue
            array = X.vectors(name).astype(np.float64)
            mean, scale = self.means_[name], self._scale(name)
            fresh = share @ array / total
            spread = float(share @ np.square(array - fresh).sum(axis=1))
            before = self.seen_[name]
            moved = fresh - mean
            self.seen_[name] = before + total
            self.means_[name] = mean + moved * total / self.seen_[name]
            self.squares_[name] += spread + float(moved @ moved) * before * total / self.seen_[name]
            factor, shift = self._scale(name) / scale, (self.means_[name] - mean) / scale
            self.intercept_ = self.intercept_ + self.coef_[:, columns] @ shift
            self.last_[:, -1] += self.last_[:, columns] @ shift
            self.coef_[:, columns] *= factor
            self.last_[:, columns] *= factor
        self.rows_ += float(weight.sum())

    def _scale(self, name: str) -> float:
        """Root mean square length of the centred rows of an input so far; 1 where they do not differ yet."""
        if self.seen_[name] == 0:
            return 1.0
        length = float(np.sqrt(self.squares_[name] / self.seen_[name]))
        return length if length > 1e-12 else 1.0

    def _standardised(self, X: Inputs) -> np.ndarray:
        parts = [
            (filled(X, name, self.means_).astype(np.float64) - self.means_[name]) / self._scale(name)
            for name in X.names
        ]
        return np.concatenate(parts, axis=1)

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        parts = (self._standardised(unit_length(part, self.unit)) for part in pieces(X))
        return np.concatenate([softmax(Z @ self.coef_.T + self.intercept_) for Z in parts])

    def _restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        kinds = {"steps": int, "squares": dict, "seen": dict}  # `partial_fit` counts on; the others are float
        # Copies: the steps of `partial_fit` write into them.
        super()._restore(
            {name: array.copy() for name, array in arrays.items()},
            {name: kinds.get(name, float)(value) for name, value in values.items()},
        )


def _kind(labels: np.ndarray) -> str:
    """Kind of the labels; all numbers are one kind."""
    return "numbers" if labels.dtype.kind in "iubf" else "strings"
