"""`late-fusion`: a probe for each input, and what they say put together.

Each input gets a head of its own, of any family that takes one input (`logreg` unless told), which chooses for itself
on dev. Their probabilities are then

- **averaged**, with weights chosen on dev: the arithmetic mean, in which one probe that is sure cannot veto the other;
- or **stacked**: a logistic regression on the logarithms of their probabilities (Wolpert 1992, "Stacked generalization"). It
  learns from probabilities of training rows by probes that never saw them, nor a copy of them (cross-fitting in five folds
  of whole groups of duplicates), so dev stays what it is elsewhere: where choices are made.

"auto" takes the one with the lower log loss on dev. A row that lacks an input is averaged over the inputs that it has; the
stack is told the classes' frequencies in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ...data.splits import folds
from ..head import Choice, Chosen, Examples, Head, Validation
from ..inputs import Inputs, mean_over_inputs
from ..metrics import criteria
from ..registry import ClassWeight, Footprint, ParameterError, create, grid_of, head_class, shares_of
from .linear import LogReg

#: Values of C that the stack tries.
STACK_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)

# Where nothing can be held out to choose on.
_DEFAULT_STACK_C = 0.1
# Ways to share the weight between inputs, in steps of 1 / _STEPS.
_STEPS = 10
_FOLDS = 5
# Smallest probability whose logarithm the stack is shown.
_SMALLEST = 1e-6


@dataclass(kw_only=True, eq=False, repr=False)
class LateFusion(Head):
    """Per-input probes, averaged or stacked.

    Parameters
    ----------
    head : str, default "logreg"
        Family of the probes.
    head_params : mapping, optional
        Their parameters.
    each : mapping of str to mapping, optional
        Further parameters by input; what was chosen goes here when the head is fitted again.
    combine : {"auto", "mean", "stack"}, default "auto"
        How probabilities are put together; "auto" decides on `val` (without it, on a stratified fifth of the rows; the
        head is then fitted on all of them).
    weights : "auto", None or sequence of float, default "auto"
        Weights of the mean, in the order of the inputs; None weighs them alike.
    stack_C : "auto" or float, default "auto"
        Inverse strength of the stack's penalty.
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" weighs classes by the inverse of their frequency, in the probes (but for those whose `head_params` have a
        `class_weight` of their own), the stack, the choice, and what is said of a row that lacks an input.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides.
    seed : int, default 0
        Of the folds, of the part held out where `val` is not given, and of probes that draw.

    Attributes
    ----------
    heads_ : dict of str to Head
        Probes by input; an input whose rows show one class only has none, and says the classes' frequencies.
    combine_ : str
    weights_ : ndarray of float64, shape (inputs,)
    stack_ : LogReg or None
    prior_ : ndarray of float64, shape (k,)
        The classes' frequencies, weighted by class.
    """

    family: ClassVar[str] = "late-fusion"
    handles_missing: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = ("prior_", "weights_")
    values: ClassVar[tuple[str, ...]] = ("combine_",)

    head: str = "logreg"
    head_params: Mapping[str, Any] | None = None
    each: Mapping[str, Mapping[str, Any]] | None = None
    combine: Literal["auto", "mean", "stack"] = "auto"
    weights: Sequence[float] | Literal["auto"] | None = "auto"
    stack_C: float | Literal["auto"] = "auto"  # noqa: N815  # C, as everywhere
    class_weight: ClassWeight = None
    select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss"
    seed: int = 0

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        shares, penalties = self._checked_parameters(X)
        examples = self._examples(X, y, weight)
        self._by_class = examples.by_class
        counts = np.bincount(y, weights=examples.weight, minlength=len(self.classes_)) * self._by_class
        self.prior_ = counts / counts.sum()
        examples = replace(examples, groups=self._row_groups(X))
        each = {name: dict((self.each or {}).get(name, {})) for name in X.names}

        def fit(examples: Examples, chosen: Chosen) -> Chosen:
            # An input that showed one class in the part that the choice learnt from may show more in all rows.
            given = {**each, **chosen["each"]}
            self.heads_ = self._probes(examples, None, given)
            probes = {name: {**given[name], **probe.chosen_} for name, probe in self.heads_.items()}
            self.combine_, self.weights_, self.stack_ = chosen["combine"], np.array(chosen["weights"]), None
            if self.combine_ == "stack":
                self.stack_ = self._stacked(examples, probes, chosen["stack_C"])
            return {"each": probes}

        default = {
            "combine": "stack" if self.combine == "stack" else "mean",
            "weights": list(shares[0]),
            "stack_C": penalties[0] if len(penalties) == 1 else _DEFAULT_STACK_C,
            "each": each,
        }
        ways = {"mean": len(shares), "stack": len(penalties)}.get(self.combine, 2)
        choose = partial(self._choose, shares=shares, penalties=penalties)
        return self._select(examples, val, choose, fit, default, undecided=ways > 1)

    def memory_needed(self, rows: int, dev: int) -> int:
        """As `Head.memory_needed`: the probes' probabilities, and a logistic regression on all of them."""
        k, inputs = len(self.classes_), len(self.widths_)
        said = Footprint(rows=4 * inputs, dev=4 * inputs).bytes(rows, dev or rows // 5, 0, k)
        stack = 0 if self.combine == "mean" else LogReg.footprint.bytes(rows, dev, inputs * k, k)
        return max(said + stack, super().memory_needed(rows, dev))

    def _checked_parameters(self, X: Inputs) -> tuple[list[tuple[float, ...]], list[float]]:
        if head_class(self.head).family == self.family:
            raise ParameterError("the probes of late-fusion cannot be late-fusion themselves")
        unknown = set(self.each or {}) - set(X.names)
        if unknown:
            raise ParameterError(f"each names {sorted(unknown)[0]!r}; the inputs are {', '.join(X.names)}")
        penalties = grid_of("stack_C", self.stack_C, STACK_GRID)
        return shares_of("weights", self.weights, X.names, _STEPS), penalties

    # ------------------------------------------------------------------ the probes

    def _probes(
        self, examples: Examples, val: Validation | None, each: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Head]:
        """A fitted probe for each input that shows more than one class."""
        X, found = examples.X, {}
        for name in X.names:
            rows = np.flatnonzero(X.present(name))
            having = examples[rows]
            y, rows_weight = having.y, having.weight
            if len(np.unique(y)) < 2:
                continue
            given = {**(self.head_params or {}), **each.get(name, {})}
            probe = create(self.head, **given)
            if self.class_weight is not None and "class_weight" not in given:
                if "class_weight" in probe.parameters():
                    probe.set_params(class_weight=self._weight_of_codes())
                else:
                    rows_weight = rows_weight * self._by_class[y]
            if "seed" in probe.parameters() and "seed" not in given:
                probe.set_params(seed=self.seed)
            held = None
            if val is not None:
                dev = np.flatnonzero(val[0].present(name) & np.isin(val[1], y))
                if len(dev):
                    held = _alone(val[0][dev], name), val[1][dev]
            found[name] = probe.fit(_alone(having.X, name), y, held, rows_weight, having.groups)
        return found

    def _weight_of_codes(self) -> dict[int, float] | None:
        """Weights of the classes for heads that are given their codes as labels."""
        return None if self.class_weight is None else dict(enumerate(self._by_class.tolist()))

    def _said(self, heads: Mapping[str, Head], X: Inputs) -> dict[str, np.ndarray]:
        """Probabilities by input, (n, k) each: the classes' frequencies where a row lacks the input."""
        said = {}
        for name in X.names:
            proba = np.tile(self.prior_, (len(X), 1))
            rows = np.flatnonzero(X.present(name))
            if name in heads and len(rows):
                head = heads[name]
                proba[rows] = 0.0
                proba[np.ix_(rows, head.classes_.astype(int))] = head.predict_proba(_alone(X[rows], name))
            said[name] = proba
        return said

    def _mean(
        self, X: Inputs, said: Mapping[str, np.ndarray], shares: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """Mean of the probabilities, over the inputs that a row has; the frequencies where it has none that counts."""
        mean = mean_over_inputs(X, said, shares)
        return np.where(mean.any(axis=1, keepdims=True), mean, self.prior_)

    # ------------------------------------------------------------------ the stack

    def _crossed(self, examples: Examples, each: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
        """Logarithms of the probabilities of every row by probes that saw neither it nor a row of its group."""
        fold = folds(examples.y, _FOLDS, groups=examples.groups, seed=self.seed)
        crossed = np.empty((len(fold), len(self.classes_) * len(examples.X.names)))
        for number in range(_FOLDS):
            inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            if len(inside):
                heads = self._probes(examples[outside], None, each) if len(outside) else {}
                crossed[inside] = _logarithms(self._said(heads, examples.X[inside]))
        return crossed

    def _stacked(
        self,
        examples: Examples,
        each: Mapping[str, Mapping[str, Any]],
        C: float | Sequence[float],
        val: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> LogReg:
        stack = LogReg(C=C, unit=False, select=self.select, class_weight=self._weight_of_codes())
        return stack.fit(self._crossed(examples, each), examples.y, val=val, sample_weight=examples.weight)

    # ------------------------------------------------------------------ the choice

    def _choose(
        self,
        examples: Examples,
        val: Validation,
        shares: list[tuple[float, ...]],
        penalties: list[float],
    ) -> dict[str, Any]:
        """Fit the probes, compare the means and the stack on `val`, and keep the best."""
        (V, v), by = val, self._by_class
        self.heads_ = self._probes(examples, val, self.each or {})
        each = {
            name: {**(self.each or {}).get(name, {}), **probe.chosen_} for name, probe in self.heads_.items()
        }
        said = self._said(self.heads_, V)
        best: Chosen = {"combine": "mean", "weights": list(shares[0]), "stack_C": penalties[0]}
        choice = Choice(self.select)
        self.stack_ = None
        for share in shares if self.combine != "stack" else []:
            row = {"combine": "mean", "weights": list(share), **criteria(v, self._mean(V, said, share), by)}
            self.curve_.append(row)
            if choice.offer(row):
                best["weights"] = list(share)
        if self.combine != "mean" and self.heads_:
            stack = self._stacked(examples, each, penalties, (_logarithms(said), v))
            C = float(stack.chosen_["C"])
            scores = criteria(v, stack.predict_proba(_logarithms(said)), by)
            row = {"combine": "stack", "stack_C": C, **scores}
            self.curve_.append(row)
            if choice.offer(row):
                best = {"combine": "stack", "weights": list(shares[0]), "stack_C": C}
                self.stack_ = stack
        self.combine_, self.weights_ = str(best["combine"]), np.array(best["weights"])
        return {**best, "each": each}

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        said = self._said(self.heads_, X)
        if self.stack_ is None:
            return self._mean(X, said, self.weights_)
        return self.stack_.predict_proba(_logarithms(said))

    # ------------------------------------------------------------------ storage

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, values = super()._state()
        return arrays, {**values, "probes": list(self.heads_)}

    def _save(self, folder: Path) -> dict[str, Any]:
        # By number: the name of an input may be a feature's, with slashes.
        for number, probe in enumerate(self.heads_.values()):
            probe.save(folder / f"probe-{number}")
        if self.stack_ is not None:
            self.stack_.save(folder / "stack")
        return super()._save(folder)

    def _load(self, folder: Path, values: dict[str, Any]) -> None:
        super()._load(folder, values)
        self.heads_ = {
            name: Head.load(folder / f"probe-{number}") for number, name in enumerate(values["probes"])
        }
        self.stack_ = LogReg.load(folder / "stack") if self.combine_ == "stack" else None


def _alone(X: Inputs, name: str) -> Inputs:
    """One input of rows that all have it."""
    return Inputs({name: X[name]})


def _logarithms(said: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log probabilities, the input of the stack: (n, inputs × k)."""
    return np.log(np.maximum(np.concatenate(list(said.values()), axis=1), _SMALLEST))
