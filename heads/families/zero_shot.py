"""`zero-shot`: the class whose description is nearest, in a space that images and texts share.

Nothing is learnt from labels: a row's logits are its cosines to the vectors of the class prompts (Radford et al. 2021,
"Learning transferable visual models from natural language supervision"), times a factor that is CLIP's 100 unless there
are rows to fit it on. With several inputs the cosines are averaged over those that a row has.

The head is arithmetic on vectors. `icehouse train` and a sweep encode the prompts with the encoder that made the feature
(see `icehouse.heads.prompts`); in Python they are the parameter `class_vectors`. Without any, the mean direction of a
class's training rows stands in for its prompts: a nearest-mean classifier, for a space that has no texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ..calibration import temperature as best_factor
from ..checks import ParameterError
from ..head import Head, Validation
from ..inputs import Inputs
from ..memory import Footprint
from ..vectors import criteria, directions, pieces, shares_of, softmax

__all__ = ["ZeroShot", "class_matrices"]

# CLIP's logit scale after training, where it is clipped.
_FACTOR = 100.0
# Ways to share the weight between inputs, in steps of 1 / _STEPS.
_STEPS = 10


class ZeroShot(Head):
    """Cosine to class prompts.

    Parameters
    ----------
    class_vectors : mapping of str to mapping of str to sequence of float, optional
        Input to class to vector, such as `icehouse.heads.prompts.class_vectors` makes; with a single input its mapping of
        class to vector is enough. None takes the mean direction of the training rows of each class.
    prompts : mapping of str to str or sequence of str, optional
        What describes the classes, for those who encode them; by default their readable names in `template`.
    template : str or sequence of str, optional
        Such as ``a photo of {class}``, which is the default for images; several are averaged.
    factor : "auto" or float, default "auto"
        What cosines are multiplied by, an inverse temperature; "auto" fits it on `val`, and takes 100 without.
    input_weights : "auto", None or sequence of float, default "auto"
        Weight of each input's cosines; None weighs them alike, as does "auto" without `val`.

    Attributes
    ----------
    vectors_ : dict of str to ndarray of float64, shape (k, d)
        Unit vectors of the classes, by input.
    factor_ : float
    input_weights_ : ndarray of float64, shape (inputs,)

    Examples
    --------
    >>> vectors = {"cat": [1, 0, 0], "dog": [0, 1, 0]}
    >>> ZeroShot(class_vectors=vectors).fit([[1, 0.1, 0], [0, 1, 0]], ["cat", "dog"]).predict([[0.9, 0.2, 0]]).tolist()
    ['cat']
    """

    family: ClassVar[str] = "zero-shot"
    handles_missing: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(dev=4, weights=2)
    takes_prompts: ClassVar[Literal["never", "optional", "required"]] = "required"
    bulky: ClassVar[tuple[str, ...]] = ("class_vectors",)

    vectors_: dict[str, np.ndarray]
    factor_: float
    input_weights_: np.ndarray

    def __init__(
        self,
        *,
        class_vectors: Mapping[str, Any] | None = None,
        prompts: Mapping[str, str | Sequence[str]] | None = None,
        template: str | Sequence[str] | None = None,
        factor: float | Literal["auto"] = "auto",
        input_weights: Sequence[float] | Literal["auto"] | None = "auto",
    ) -> None:
        self.class_vectors = class_vectors
        self.prompts = prompts
        self.template = template
        self.factor = factor
        self.input_weights = input_weights

    def fit(
        self,
        X: Any,
        y: Sequence[Any] | np.ndarray,
        val: tuple[Any, Any] | None = None,
        sample_weight: Sequence[float] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
    ) -> Self:
        """As `Head.fit`; with class vectors there may be no training rows at all, and the classes are theirs."""
        if self.class_vectors is None or (inputs := Inputs.of(X)).shape[0] > 0:
            return super().fit(X, y, val, sample_weight, groups)
        self._check_parameters()
        self.widths_ = inputs.widths
        names = [set(vectors) for vectors in _by_input(self.class_vectors, inputs.names).values()]
        if len(set.intersection(*names)) < 2:
            raise ParameterError("class_vectors must hold two classes at least")
        self.classes_ = np.array(sorted(set.intersection(*names)))
        self.curve_, self.notes_ = [], []
        self.chosen_ = dict(self._fit(inputs, np.zeros(0, np.intp), self._validation(val), None))
        return self

    def _fit(
        self, X: Inputs, y: np.ndarray, val: Validation | None, sample_weight: np.ndarray | None
    ) -> Mapping[str, Any]:
        if self.factor != "auto" and (isinstance(self.factor, str) or not 0 < self.factor < np.inf):
            raise ParameterError(f"factor must be 'auto' or positive and finite, not {self.factor!r}")
        shares = shares_of("input_weights", self.input_weights, X.names, _STEPS)
        if val is None and len(shares) > 1:  # nothing to choose on
            shares = shares_of("input_weights", None, X.names, _STEPS)
        if self.class_vectors is not None:
            self.vectors_ = class_matrices(self.class_vectors, X.widths, self.classes_)
        else:
            self.vectors_ = self._means(X, y, np.ones(len(y)) if sample_weight is None else sample_weight)
        best: tuple[float, float, tuple[float, ...]] | None = None
        for share in shares:
            self.input_weights_ = np.array(share)
            self.factor_ = _FACTOR if self.factor == "auto" else float(self.factor)
            if val is None:
                return {"factor": self.factor_, "input_weights": list(share)}
            cosines = np.concatenate([self._cosines(part) for part in pieces(val[0])])
            if self.factor == "auto":
                self.factor_ = best_factor(cosines, val[1])
            row: dict[str, Any] = {"factor": self.factor_, "input_weights": list(share)}
            row |= criteria(val[1], softmax(self.factor_ * cosines))
            self.curve_.append(row)
            if best is None or row["log_loss"] < best[0]:
                best = row["log_loss"], self.factor_, share
        assert best is not None
        self.factor_, self.input_weights_ = best[1], np.array(best[2])
        return {"factor": self.factor_, "input_weights": list(best[2])}

    def _means(self, X: Inputs, y: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Mean direction of each class's rows, by input; zero where no row of a class has the input."""
        found = {}
        for name in X.names:
            rows = directions(X.vectors(name).astype(np.float64)) * (weight * X.present(name))[:, None]
            sums = np.zeros((len(self.classes_), rows.shape[1]))
            np.add.at(sums, y, rows)
            found[name] = directions(sums)
        return found

    def _cosines(self, X: Inputs) -> np.ndarray:
        """Mean cosine to each class, over the inputs that a row has: float64, (n, k)."""
        total, weight = np.zeros((len(X), len(self.classes_))), np.zeros(len(X))
        for name, share in zip(X.names, self.input_weights_, strict=True):
            held = share * X.present(name)
            total += held[:, None] * (directions(X.vectors(name).astype(np.float64)) @ self.vectors_[name].T)
            weight += held
        return total / np.where(weight > 0, weight, 1)[:, None]

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        return np.concatenate([softmax(self.factor_ * self._cosines(part)) for part in pieces(X)])

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"vectors/{name}": vectors for name, vectors in self.vectors_.items()}
        return {**arrays, "weights": self.input_weights_}, {"factor": self.factor_}

    def _restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        self.vectors_ = {name: arrays[f"vectors/{name}"] for name in self.widths_}
        self.input_weights_, self.factor_ = arrays["weights"], float(values["factor"])


def class_matrices(
    given: Mapping[str, Any], widths: Mapping[str, int], classes: np.ndarray
) -> dict[str, np.ndarray]:
    """Unit vectors of the classes, by input, in the order of `classes`: float64, (k, d) each.

    Raises
    ------
    ParameterError
        If an input or a class has no vector, or one of another width.
    """
    found = {}
    for name, vectors in _by_input(given, tuple(widths)).items():
        known = {str(label): np.asarray(vector, np.float64) for label, vector in vectors.items()}
        missing = [str(label) for label in classes.tolist() if str(label) not in known]
        if missing:
            raise ParameterError(f"class_vectors have none for {', '.join(missing)} (input {name!r})")
        rows = [known[str(label)] for label in classes.tolist()]
        if any(row.shape != (widths[name],) or not np.isfinite(row).all() for row in rows):
            raise ParameterError(
                f"class_vectors of input {name!r} must be finite and of its width, {widths[name]}, not "
                f"{rows[0].shape}: encode the prompts with the encoder of the feature"
            )
        found[name] = directions(np.stack(rows))
    return found


def _by_input(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Class vectors by input, where those of a single input may have been given alone."""
    if any(isinstance(vectors, Mapping) for vectors in given.values()):
        lacking = [name for name in names if name not in given]
        if lacking:
            raise ParameterError(
                f"class_vectors have none for input {lacking[0]!r}; they have {', '.join(given)}"
            )
        return {name: given[name] for name in names}
    if len(names) > 1:
        raise ParameterError(f"class_vectors must be given for each input: {', '.join(names)}")
    return {names[0]: given}
