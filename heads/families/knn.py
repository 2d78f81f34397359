"""`knn`: the nearest training rows vote, each by its cosine.

Each input is brought to unit length, centred by the mean of training first if that is better on dev (the features of
`mini` on solar cells all point one way: cosines between unlike images lie at .98, and only the rest tells them
apart). The similarity of two rows is the mean of the cosines of their inputs, weighted; a row that lacks an input is
compared by those it has. A neighbour's vote is ``exp((similarity - the nearest's) / temperature)``, the weighting of
the k-NN protocol of Wu et al. 2018 and DINO. Every class gets a small share of a vote beforehand, so that a label that
none of the neighbours has is unlikely, not impossible.

Rows that are as near as the k-th are neighbours too: which of several copies counts must not depend on the rounding of
a product, and so on the other rows of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from ..head import Choice, Chosen, Examples, Head, Validation
from ..inputs import Inputs, bank_of, mean_over_inputs, pieces, present_directions
from ..metrics import criteria_of
from ..registry import ClassWeight, Footprint, ParameterError, grid_of, shares_of

#: Numbers of neighbours and temperatures that "auto" tries.
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5)

# Where nothing can be held out to choose on.
_DEFAULT_K, _DEFAULT_TEMPERATURE = 10, 0.1
# Similarities nearer than this are the same.
_TIE = 1e-9
# Most numbers of one array of similarities, rows by bank, and of a part of the bank in float64: 16 MB. A few such arrays are
# held at a time: one an input, their mean, and copies while neighbours are sorted.
_HELD = 2_000_000
# Rows that are compared with the bank at a time, at most.
_ROWS = 1024
# Ways to share the weight between inputs, in steps of 1 / _STEPS.
_STEPS = 5


@dataclass(kw_only=True, eq=False, repr=False)
class Knn(Head):
    """k nearest neighbours by cosine, with votes that fall off with distance.

    Parameters
    ----------
    k : "auto", int or sequence of int, default "auto"
        Number of neighbours; of several, or of the default grid, the best on `val` is taken (without `val`, the
        best on a stratified fifth of the rows).
    temperature : "auto", float or sequence of float, default "auto"
        Difference of similarity over which a vote falls by a factor of e.
    input_weights : "auto", None or sequence of float, default "auto"
        Weight of each input's cosine, in the order of the inputs; None weighs them alike.
    centre : "auto" or bool, default "auto"
        Whether the mean of training is subtracted before cosines are taken.
    prior : float, default 1e-3
        Votes that are spread over all classes beforehand, by their frequency.
    class_weight : None, "balanced" or mapping of label to float, default None
        Weight of each class's votes.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides.
    seed : int, default 0
        Of the part held out where `val` is not given.

    Attributes
    ----------
    bank_ : dict of str to ndarray of float32, shape (n, d)
        Directions of the training rows, by input; zeros where a row lacks it.
    codes_ : ndarray of int, shape (n,)
        Their classes.
    votes_ : ndarray of float64, shape (n,)
        Their weights.
    """

    family: ClassVar[str] = "knn"
    handles_missing: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(dev=0.1)
    arrays: ClassVar[tuple[str, ...]] = ("codes_", "votes_", "prior_", "input_weights_", "bank_", "means_")
    values: ClassVar[tuple[str, ...]] = ("k_", "temperature_")

    k: int | Sequence[int] | Literal["auto"] = "auto"
    temperature: float | Sequence[float] | Literal["auto"] = "auto"
    input_weights: Sequence[float] | Literal["auto"] | None = "auto"
    centre: bool | Literal["auto"] = "auto"
    prior: float = 1e-3
    class_weight: ClassWeight = None
    select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss"
    seed: int = 0

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        ks = [int(k) for k in grid_of("k", self.k, NEIGHBOURS)]
        if min(ks) < 1:
            raise ParameterError(f"k must be at least 1, not {self.k!r}")
        temperatures = grid_of("temperature", self.temperature, TEMPERATURES)
        if not np.isfinite(self.prior) or self.prior <= 0:
            raise ParameterError(f"prior must be positive, not {self.prior!r}")
        shares = shares_of("input_weights", self.input_weights, X.names, _STEPS)
        centres = [True, False] if self.centre == "auto" else [bool(self.centre)]
        examples = self._examples(X, y, weight)
        examples = replace(examples, weight=examples.by_class[y] * examples.weight)

        choose = partial(self._choose, ks=ks, temperatures=temperatures, shares=shares, centres=centres)
        default = {
            "k": ks[0] if len(ks) == 1 else _DEFAULT_K,
            "temperature": temperatures[0] if len(temperatures) == 1 else _DEFAULT_TEMPERATURE,
            "input_weights": list(shares[0]),
            "centre": centres[0],
        }
        undecided = max(len(ks), len(temperatures), len(shares), len(centres)) > 1
        val = val if undecided else None
        return self._select(examples, val, choose, self._keep, default, undecided=undecided)

    def _keep(self, examples: Examples, chosen: Chosen) -> None:
        """Take what was chosen, and fill the bank."""
        self.k_, self.temperature_ = chosen["k"], chosen["temperature"]
        self.input_weights_ = np.array(chosen["input_weights"])
        self._remember(examples, chosen["centre"])

    def _remember(self, examples: Examples, centre: bool) -> None:
        """Fill the bank."""
        X, y, weight = examples.X, examples.y, examples.weight
        self.means_, self.bank_ = bank_of(X, weight, centre=centre)
        self.codes_ = y.astype(np.int64)
        self.votes_ = weight / weight.mean()
        counts = np.bincount(y, weights=weight, minlength=len(self.classes_))
        self.prior_ = counts / counts.sum()

    def _cosines(self, X: Inputs, name: str) -> np.ndarray:
        # In float64: in float32 the rounding of a product shows in the votes, and differs with the batch.
        rows, bank = present_directions(X, name, self.means_[name]), self.bank_[name]
        cosines = np.empty((len(rows), len(bank)))
        step = max(1, _HELD // bank.shape[1])
        for start in range(0, len(bank), step):
            block = bank[start : start + step].astype(np.float64)
            np.matmul(rows, block.T, out=cosines[:, start : start + step])
        return cosines

    def _pieces(self, X: Inputs) -> Iterator[Inputs]:
        """Rows in parts so small that an array of their similarities to the bank, or of their votes, is bounded."""
        return pieces(X, max(1, min(_ROWS, _HELD // max(len(self.codes_), len(self.classes_)))))

    def _choose(
        self,
        examples: Examples,
        val: Validation,
        ks: list[int],
        temperatures: list[float],
        shares: list[tuple[float, ...]],
        centres: list[bool],
    ) -> Chosen:
        """Everything with everything: the similarities are computed once for each centring, and shared."""
        V, v = val
        best: dict[str, Any] = {}
        choice = Choice(self.select)
        for centre in centres:
            self._remember(examples, centre)
            # Of each setting two numbers a row are kept: probabilities of many classes would not fit in memory.
            at: dict[tuple[Any, ...], np.ndarray] = {}
            predicted: dict[tuple[Any, ...], np.ndarray] = {}
            start = 0
            for part in self._pieces(V):
                rows = np.arange(start, start + len(part))
                start += len(part)
                cosines = {name: self._cosines(part, name) for name in part.names}
                for share in shares:
                    near = mean_over_inputs(part, cosines, share)
                    for (k, temperature), votes in self._votes(near, ks, temperatures):
                        key = share, k, temperature
                        at.setdefault(key, np.empty(len(v)))[rows] = votes[np.arange(len(rows)), v[rows]]
                        predicted.setdefault(key, np.empty(len(v), np.intp))[rows] = votes.argmax(axis=1)
            for key in at:
                share, k, temperature = key
                row = {
                    "k": k,
                    "temperature": temperature,
                    "input_weights": list(share),
                    "centre": centre,
                    **criteria_of(v, at[key], predicted[key], len(self.classes_), examples.by_class),
                }
                self.curve_.append(row)
                if choice.offer(row):
                    best = {name: row[name] for name in ("k", "temperature", "input_weights", "centre")}
        self._keep(examples, best)
        return best

    def _votes(
        self, near: np.ndarray, ks: Sequence[int], temperatures: Sequence[float]
    ) -> Iterator[tuple[tuple[int, float], np.ndarray]]:
        """Probabilities for each k and temperature, one at a time: (n, classes) each."""
        n, bank = near.shape
        classes = len(self.classes_)
        most = min(max(ks), bank)
        ranked = -np.sort(-np.partition(near, bank - most, axis=1)[:, bank - most :], axis=1)
        rows, columns = np.nonzero(near >= ranked[:, -1:] - _TIE)
        values = near[rows, columns]
        cell = rows * classes + self.codes_[columns]
        for temperature in temperatures:
            strength = np.exp((values - ranked[rows, 0]) / temperature) * self.votes_[columns]
            for k in ks:
                within = values >= ranked[rows, min(k, bank) - 1] - _TIE
                counted = np.bincount(cell[within], strength[within], n * classes).reshape(n, classes)
                counted = counted + self.prior * self.prior_
                yield (k, temperature), counted / counted.sum(axis=1, keepdims=True)

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        parts = []
        for part in self._pieces(X):
            cosines = {name: self._cosines(part, name) for name in part.names}
            near = mean_over_inputs(part, cosines, self.input_weights_)
            parts += [votes for _, votes in self._votes(near, [self.k_], [self.temperature_])]
        return np.concatenate(parts)
