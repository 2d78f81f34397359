"""`Head`: the contract of every head.

A head learns classes from frozen features. It speaks scikit-learn: keyword parameters stored unchanged,
fitted state that ends in ``_``, `fit`, `predict_proba`, `predict`, `classes_`; `clone` and `GridSearchCV`
work on it. It differs in three things:

- `X` maps the names of inputs (``image``, ``text``, ``caption``) to arrays or tokens; a plain array is the
  single input ``x``.
- `fit` may be given `val`, on which the head chooses what it has to choose (C, epochs); `chosen_` says what
  it chose, and `refit` fits a new head with that on all rows.
- `save` and `load` use safetensors and JSON, never pickle.

**A prediction never depends on the other rows of its batch.** A contract test runs over every head of the
registry.

Adding one is a new file with a subclass that writes two methods (`_fit`, `_predict_proba`) and names its fitted state
(`arrays`, `values`), and one line in `registry.FAMILIES`, or an entry point of the group ``icehouse.heads`` in a package
of yours. `Head` does the rest: checks of features and labels, the coding of classes, parameters, storage.
"""

from __future__ import annotations

import inspect
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from ..data.splits import held_out
from ..errors import CorruptError, HeadError, IcehouseError, count_of, one_or_many
from ..store.files import check_sums, follow_umask, read_json, write_sums
from .inputs import SINGLE, InputError, Inputs, Labels, Tokens, Weights, concatenate, labels_of, weights_of
from .registry import (
    Footprint,
    ParameterError,
    check_kinds,
    check_memory,
    class_weights,
    did_you_mean,
    head_class,
    plain,
    same,
    scoring_bytes,
)

FORMAT = 1

#: Features and labels.
Pair: TypeAlias = tuple[Any, Any]
#: What `_fit` receives to choose on: inputs and class codes.
Validation: TypeAlias = tuple[Inputs, np.ndarray]
#: Parameters that were chosen, by name.
Chosen: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Examples:
    """Rows to learn from: class codes, weights, the weight of each class, and the rows' groups where they are known."""

    X: Inputs
    y: np.ndarray
    weight: np.ndarray
    by_class: np.ndarray
    groups: np.ndarray | None = None

    def __getitem__(self, rows: Any) -> Examples:
        groups = None if self.groups is None else self.groups[rows]
        return Examples(self.X[rows], self.y[rows], self.weight[rows], self.by_class, groups)


class Choice:
    """The best row of a curve by a criterion, equal scores decided by log loss, and whether to go on along the curve.

    Accuracy and macro-F1 are step functions: they rest where a head still answers with one class. So a row counts against
    `patience` only if its score is below the best and its log loss is no better than the lowest; a plateau ends nothing,
    unless nothing can be better than it. `best` is a score (the larger the better) and a negative log loss; `waited`, the
    rows without progress since the last one with some.
    """

    def __init__(self, select: str, patience: int | None = None) -> None:
        self.select, self.patience = select, patience
        self.best: tuple[float, float] | None = None
        self.waited = 0
        self._lowest = np.inf

    def offer(self, row: Mapping[str, Any]) -> bool:
        """Take the next row of the curve; say whether it is the best so far."""
        loss = float(row["log_loss"])
        score = -loss if self.select == "log_loss" else float(row[self.select])
        better = self.best is None or (score, -loss) > self.best
        highest = 0.0 if self.select == "log_loss" else 1.0
        tied = self.best is not None and score == self.best[0] < highest
        if better or loss < self._lowest:
            self.waited = 0
        elif not tied:
            self.waited += 1
        if better:
            self.best = score, -loss
        self._lowest = min(self._lowest, loss)
        return better

    @property
    def exhausted(self) -> bool:
        """Whether `patience` has run out."""
        return self.patience is not None and self.waited >= self.patience


class Head(ABC):
    """A classifier on frozen features.

    A subclass names its parameters in ``__init__``, keyword-only, and stores each unchanged under its own name;
    ``@dataclass(kw_only=True, eq=False, repr=False)`` writes such an ``__init__``.

    Attributes
    ----------
    classes_ : ndarray of int or str, shape (k,)
        Sorted labels; the columns of `predict_proba`.
    widths_ : dict of str to int
        The inputs the head was fitted on, in order, and the width of each.
    chosen_ : dict
        Parameters decided while fitting, such as ``{"C": 0.1}``; empty for a head that had nothing to choose.
    curve_ : list of dict
        What was tried on the way there, one dict a try, as JSON values; the keys are the family's own.
    notes_ : list of str
        What a reader of the head's scores has to know of how it was fitted; a run repeats it.
    """

    #: Name in the registry, in a run's id and in its folder.
    family: ClassVar[str]
    #: Whether an input may be `Tokens`.
    takes_tokens: ClassVar[bool] = False
    #: Whether a row may lack an input (`Inputs.present`).
    handles_missing: ClassVar[bool] = False
    #: Whether another `seed` makes another head though there are rows to choose on; only then several seeds tell something.
    stochastic: ClassVar[bool] = False
    #: False only for a form that exists to reproduce published results; it must say so where it is
    #: documented.
    batch_independent: ClassVar[bool] = True

    #: Whether the head works with texts that describe the classes, encoded into its parameter `class_vectors` (see
    #: `icehouse.heads.families.zero_shot`): never, where the encoder can make them, or always.
    takes_prompts: ClassVar[Literal["never", "optional", "required"]] = "never"
    #: Smallest value of parameters that are whole numbers; a subclass adds its own.
    minimum: ClassVar[Mapping[str, int]] = {"seed": 0}
    #: Fitted attributes to save: those that are arrays, or mappings of input to array, and those that are JSON values.
    arrays: ClassVar[tuple[str, ...]] = ()
    values: ClassVar[tuple[str, ...]] = ()
    #: Of `arrays`, the mappings that need not have every input, each with the name under which it is saved which they have.
    subsets: ClassVar[Mapping[str, str]] = {}
    #: Parameters with too many numbers for ``head.json``; they are saved beside it.
    bulky: ClassVar[tuple[str, ...]] = ()

    #: Arrays of rows × classes and the like that a fit holds at a time, for the estimate of its memory.
    footprint: ClassVar[Footprint] = Footprint(rows=4, weights=4)

    #: Called while fitting with how much is done, of how much, and the best score on dev so far, by heads that take long.
    progress: Callable[[int, int, float], None] | None = None

    classes_: np.ndarray
    widths_: dict[str, int]
    chosen_: dict[str, Any]
    curve_: list[dict[str, Any]]
    notes_: list[str]
    # Group of each row that is learnt from; None where groups are not known.
    _groups: np.ndarray | None = None
    # Where it was loaded from; None for one that was fitted here.
    _folder: Path | None = None

    # ------------------------------------------------------------------ what a family writes

    @abstractmethod
    def _fit(
        self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None
    ) -> Mapping[str, Any] | None:
        """Learn from checked rows.

        Parameters
        ----------
        X : Inputs
            Finite features of n rows.
        y : ndarray of int, shape (n,)
            Codes into `classes_`, which is set already and holds at least two classes.
        val : tuple of Inputs and ndarray of int, optional
            Rows to choose on, coded alike; never to learn from.
        weight : ndarray of float64, shape (n,), optional
            Non-negative weights.

        Returns
        -------
        dict or None
            What was chosen, for `chosen_`: parameters of this head only, as JSON values.
        """

    @abstractmethod
    def _predict_proba(self, X: Inputs) -> np.ndarray:
        """Probabilities of checked rows: float, shape (n, k), each row from that row alone."""

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fitted state as arrays and JSON values, enough for `_restore`; parameters and classes apart."""
        arrays: dict[str, np.ndarray] = {}
        for name in self.arrays:
            key, found = _key(name), getattr(self, name)
            if isinstance(found, Mapping):
                arrays |= {f"{key}/{of}": array for of, array in found.items()}
            else:
                arrays[key] = found
        inputs = {told: list(getattr(self, name)) for name, told in self.subsets.items()}
        return arrays, {_key(name): getattr(self, name) for name in self.values} | inputs

    def _restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """Take back what `_state` gave."""
        for name in self.arrays:
            key = _key(name)
            inputs = values[self.subsets[name]] if name in self.subsets else self.widths_
            # What is missing is missed here: a head without a part of what it learned may still answer.
            found = arrays[key] if key in arrays else {of: arrays[f"{key}/{of}"] for of in inputs}
            setattr(self, name, found)
        for name in self.values:
            setattr(self, name, values[_key(name)])

    def _save(self, folder: Path) -> dict[str, Any]:
        """Write the fitted state; a library with a text format of its own overrides this and `_load`."""
        from safetensors.numpy import save_file

        arrays, values = self._state()
        file = folder / "head.safetensors"
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
        follow_umask(file)
        return values

    def _load(self, folder: Path, values: dict[str, Any]) -> None:
        """Read what `_save` wrote; `values` is what it returned."""
        from safetensors.numpy import load_file

        self._restore(load_file(folder / "head.safetensors"), values)

    # ------------------------------------------------------------------ parameters

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Answer a misspelt parameter before `__init__` would with less."""
        known = cls.parameters()
        for name in kwargs:
            if name not in known:
                raise cls._unknown(name)
        return super().__new__(cls)

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """Names of the parameters, with their defaults."""
        signature = inspect.signature(cls.__init__)
        return {name: p.default for name, p in signature.parameters.items() if name != "self"}

    @classmethod
    def _unknown(cls, name: str) -> ParameterError:
        known = cls.parameters()
        hint = did_you_mean(name, known)
        return ParameterError(
            f"Invalid parameter {name!r} for {cls.__name__};{hint} it takes {', '.join(known)}"
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name, as given; `deep` is there for scikit-learn and changes nothing."""
        return {name: getattr(self, name) for name in self.parameters()}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `ParameterError` with the nearest name if there is no such parameter."""
        known = self.parameters()
        for name, value in params.items():
            if name not in known:
                raise self._unknown(name)
            setattr(self, name, value)
        return self

    def unfitted(self, **params: Any) -> Self:
        """A new, unfitted head with the same parameters, but for `params`."""
        return type(self)(**{**self.get_params(), **params})

    def __repr__(self) -> str:
        defaults = self.parameters()
        changed = {n: v for n, v in self.get_params().items() if not same(v, defaults[n])}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    # ------------------------------------------------------------------ fitting and predicting

    def fit(
        self,
        X: Any,
        y: Labels,
        val: Pair | None = None,
        sample_weight: Weights | None = None,
        groups: Labels | None = None,
    ) -> Self:
        """Learn classes from features.

        A class that has no row in `val` could not be calibrated there, and would lose to all others: what is chosen is then
        chosen on `val` and on a fifth of the training rows of that class, and fitted again on all training rows.

        Parameters
        ----------
        X : Inputs, mapping of str to array, or ndarray of shape (n, d)
            Features by input; tokens have ``values`` (n, t, d) and ``mask`` (n, t).
        y : sequence of int or str, shape (n,)
            Labels.
        val : tuple (X, y), optional
            Rows to choose on and never to learn from. Rows whose label is not in `y` are left out of the
            choice.
        sample_weight : sequence of float, shape (n,), optional
            Weights of the rows; a weight of zero leaves the row out.
        groups : sequence, shape (n,), optional
            Rows of one group (copies, near-duplicates) stay together in every part that the head holds out and every fold
            that it makes; rows with equal features are groups if None.

        Returns
        -------
        Head
            Itself.

        Raises
        ------
        HeadError
            If there are fewer than two classes, features are NaN or infinite, or lengths differ.
        """
        inputs, codes, weight = self._begin(X, y, sample_weight, groups)
        dev = self._validation(val)
        self._check_memory(len(codes), 0 if dev is None else len(dev[1]))
        absent = self._absent(dev)
        if dev is None or not len(absent) or not self.batch_independent:
            if len(absent):
                self.notes_.append(
                    f"dev has no row of {self._named(absent)}, and as published nothing is done about it"
                )
            self.chosen_ = dict(self._fit(inputs, codes, dev, weight) or {})
        else:
            self._fit_with_absent(inputs, codes, dev, weight, absent)
        return self

    def fit_seeds(
        self, seeds: Sequence[int], X: Any, y: Labels, val: Pair | None = None, **given: Any
    ) -> list[Self]:
        """New heads, one fitted with each seed as `fit` does (`given` too); a family that can train them together does."""
        return [self.unfitted(seed=seed).fit(X, y, val, **given) for seed in seeds]

    def _begin(
        self, X: Any, y: Labels, sample_weight: Weights | None = None, groups: Labels | None = None
    ) -> tuple[Inputs, np.ndarray, np.ndarray | None]:
        """Check what is learned from, take its classes and widths; give inputs, class codes and weights."""
        self._check_parameters()
        inputs = self._checked(Inputs.of(X))
        labels = labels_of(y, len(inputs))
        weight = weights_of(sample_weight, len(inputs))
        self._groups = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        if self._groups is not None and self._groups.shape != (len(inputs),):
            raise InputError(
                f"{count_of(len(inputs), 'row')} of features and {count_of(len(self._groups), 'group')}"
            )
        if weight is not None and not weight.any():
            raise InputError("all sample weights are zero: no row is left to learn from")
        if weight is not None and not weight.all():
            kept = weight > 0
            inputs, labels, weight = inputs[kept], labels[kept], weight[kept]
            self._groups = None if self._groups is None else self._groups[kept]
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            only = f"one class, {classes.tolist()[0]!r}"
            raise InputError(
                "a head needs at least two classes to tell apart; "
                f"{count_of(len(labels), 'training row holds', 'training rows hold')} {only}"
            )
        self.classes_ = classes
        self.widths_ = inputs.widths
        self.curve_, self.notes_ = [], []
        return inputs, codes.reshape(-1), weight

    def memory_needed(self, rows: int, dev: int) -> int:
        """Estimate the bytes that `fit` holds at a time, beyond what it is given; `classes_` and `widths_` are set."""
        features = sum(self.widths_.values())
        return self.footprint.bytes(rows, dev or rows // 5, features, len(self.classes_))

    def _check_memory(self, rows: int, dev: int) -> None:
        check_memory(
            self.memory_needed(rows, dev),
            f"{self.family} on {rows:,} rows of {len(self.classes_):,} classes",
            "leave rare classes out, take fewer rows (--where), or a family that needs less, such as knn or zero-shot",
        )

    def _absent(self, dev: Validation | None) -> np.ndarray:
        """Codes of the classes that have no row in `dev`."""
        if dev is None:
            return np.zeros(0, np.intp)
        return np.setdiff1d(np.arange(len(self.classes_)), dev[1])

    def _fit_with_absent(
        self, X: Inputs, y: np.ndarray, dev: Validation, weight: np.ndarray | None, absent: np.ndarray
    ) -> None:
        """Choose on `dev` and on held-out rows of the classes that it lacks; fit the choice on all rows."""
        groups = self._groups = self._row_groups(X)
        part = held_out(y, groups=groups, seed=self._seed)
        held = np.zeros(len(y), bool)
        if part is not None:
            held = part & np.isin(groups, groups[part & np.isin(y, absent)])
        added = np.intersect1d(y[held], absent)
        never = np.setdiff1d(absent, added)
        if len(added):
            self.notes_.append(
                f"dev has no row of {self._named(added)}: choice and calibration took {int(held.sum())} of train's rows "
                "beside dev, and what was chosen was then fitted again on all of train"
            )
        if len(never):
            self.notes_.append(
                f"dev has no row of {self._named(never)}, and train has too few to hold one out: nothing told how sure "
                "the head may be of it"
            )
        if not len(added):
            self.chosen_ = dict(self._fit(X, y, dev, weight) or {})
            return
        rest = ~held
        val = concatenate([dev[0], X[held]]), np.concatenate([dev[1], y[held]])
        self._groups = groups[rest]
        chosen = dict(self._fit(X[rest], y[rest], val, None if weight is None else weight[rest]) or {})
        final = self.unfitted(**chosen)
        final.progress = self.progress
        final.fit(X, self.classes_[y], sample_weight=weight, groups=groups)
        fitted = {name: value for name, value in vars(final).items() if name not in self.parameters()}
        kept = {"chosen_": chosen, "curve_": self.curve_, "notes_": [*self.notes_, *final.notes_]}
        vars(self).update({**fitted, **kept})

    def _named(self, codes: np.ndarray) -> str:
        """Labels for a message, the first few."""
        shown = ", ".join(repr(label) for label in self.classes_[codes[:5]].tolist())
        return shown + (
            f" and {count_of(len(codes) - 5, 'other class', 'other classes')}" if len(codes) > 5 else ""
        )

    @property
    def _seed(self) -> int:
        return int(getattr(self, "seed", 0))

    def _row_groups(self, X: Inputs) -> np.ndarray:
        """Group of each row that `_fit` was given: as given, else rows with equal features are one group."""
        return X.row_groups() if self._groups is None else self._groups

    def _examples(self, X: Inputs, y: np.ndarray, sample_weight: np.ndarray | None) -> Examples:
        """Training rows as given to `_fit`, weighted by `class_weight` where the family has it."""
        by_class = class_weights(getattr(self, "class_weight", None), self.classes_, y, sample_weight)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        return Examples(X, y, weight, by_class, self._groups)

    def _select(
        self,
        examples: Examples,
        val: Validation | None,
        choose: Callable[[Examples, Validation], Chosen],
        fit: Callable[[Examples, Chosen], Chosen | None],
        default: Chosen,
        *,
        undecided: bool = True,
    ) -> Chosen:
        """Given `val`, choose on it; else choose on a held-out fifth of the rows and fit the choice on all of them.

        The fifth is taken by class and in whole groups; where that cannot be, or nothing is `undecided`, `default` is
        fitted. `choose` leaves the head fitted on the rows that it was given; what `fit` returns is chosen too.
        """
        if val is not None:
            return choose(examples, val)
        chosen = default
        if undecided:
            groups = examples.X.row_groups() if examples.groups is None else examples.groups
            examples = replace(examples, groups=groups)
            part = held_out(examples.y, groups=groups, seed=self._seed)
            if part is not None:
                chosen = choose(examples[~part], (examples.X[part], examples.y[part]))
        return {**chosen, **(fit(examples, chosen) or {})}

    def refit(
        self, X: Any, y: Labels, sample_weight: Weights | None = None, groups: Labels | None = None
    ) -> Self:
        """A new head with what this one chose, fitted on `X` and `y`, with nothing held out."""
        self._require_fitted()
        return self.unfitted(**self.chosen_).fit(X, y, sample_weight=sample_weight, groups=groups)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, for each row.

        Parameters
        ----------
        X : Inputs, mapping of str to array, or ndarray of shape (n, d)
            The inputs the head was fitted on; others are ignored.

        Returns
        -------
        ndarray of float64, shape (n, k)
            Columns in the order of `classes_`.

        Raises
        ------
        HeadError
            If the head is not fitted, an input is missing or of another width, features are NaN, or what comes out is no
            probability: the head is damaged, or features are too large for it.
        """
        self._require_fitted()
        inputs = self._conform(Inputs.of(X))
        check_memory(
            scoring_bytes(len(inputs), len(self.classes_)),
            f"predicting {len(inputs):,} rows of {len(self.classes_):,} classes",
            "predict fewer rows at a time",
        )
        try:
            proba = np.asarray(self._predict_proba(inputs), np.float64)
        except (IcehouseError, MemoryError):
            raise
        except Exception as error:
            if self._folder is None:
                raise
            raise _damaged(self._folder, error) from error
        if proba.shape != (len(inputs), len(self.classes_)):
            raise _damaged(self._folder, f"its probabilities are {proba.shape}, not rows × classes")
        if not np.isfinite(proba).all():
            row = int(np.flatnonzero(~np.isfinite(proba).all(axis=1))[0])
            raise HeadError(
                f"{self.family} has no probabilities for row {row}, but NaN: its weights or those features are out of all "
                "proportion; look at the features, or train it again"
            )
        return proba

    def predict(self, X: Any) -> np.ndarray:
        """Likeliest class of each row: shape (n,), of the labels' own type."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def score(self, X: Any, y: Labels, sample_weight: Weights | None = None) -> float:
        """Accuracy on `X` and `y`; what scikit-learn's searches use unless told otherwise."""
        return float(np.average(self.predict(X) == np.asarray(y), weights=sample_weight))

    # ------------------------------------------------------------------ storage

    def save(self, folder: str | Path) -> None:
        """Write the fitted head into `folder`: ``head.json`` and what the family adds, without pickle, and ``SHA256SUMS``.

        Raises
        ------
        HeadError
            If the head is not fitted.
        """
        self._require_fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = self._save(folder)
        params = plain(self.get_params())
        bulky = {name: params.pop(name) for name in self.bulky if params[name] is not None}
        if bulky:
            text = json.dumps(bulky, ensure_ascii=False, separators=(",", ":"))
            (folder / "parameters.json").write_text(text + "\n", encoding="utf-8")
        record = {
            "format": FORMAT,
            "family": self.family,
            "params": params,
            "classes": self.classes_.tolist(),
            "widths": self.widths_,
            "chosen": plain(self.chosen_),
            "curve": plain(self.curve_),
            "notes": self.notes_,
            "state": plain(values),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (folder / "head.json").write_text(text + "\n", encoding="utf-8")
        write_sums(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a head that `save` wrote; ``Head.load`` finds the family by itself.

        Raises
        ------
        HeadError
            If `folder` holds no head, one of another family or of a newer format, or files that are not what was written.
        """
        folder = Path(folder)
        try:
            # Before any library parses them.
            check_sums(folder)
            if not (folder / "head.json").exists():
                raise HeadError(f"no head in {folder}: there is no head.json")
            record = read_json(folder, "head.json")
            version = record.get("format", 0)
            if not isinstance(version, int):
                raise CorruptError("its record has no format")
            if version > FORMAT:
                raise HeadError(
                    f"{folder / 'head.json'} is of format {version}; this icehouse reads up to {FORMAT}: upgrade it"
                )
            kind = head_class(record["family"])
            if not issubclass(kind, cls):
                raise HeadError(
                    f"{folder} holds a {record['family']} head, not {cls.__name__}; Head.load reads any"
                )
            params = record["params"]
            if kind.bulky and (folder / "parameters.json").exists():
                params = {**params, **read_json(folder, "parameters.json")}
            _check_record(record)
            head = kind(**params)
            head._check_parameters()
            head.classes_ = np.asarray(record["classes"])
            head.widths_, head.chosen_ = dict(record["widths"]), record["chosen"]
            head.curve_ = record["curve"]
            head.notes_ = list(record.get("notes", ()))
            head._load(folder, record["state"])
        except (CorruptError, ParameterError) as error:
            raise _damaged(folder, str(error)) from error
        except IcehouseError:
            raise
        except Exception as error:  # safetensors, LightGBM and the rest raise what they like
            raise _damaged(folder, error) from error
        head._folder = folder
        return head

    # ------------------------------------------------------------------ checks

    def _check_parameters(self) -> None:
        """Refuse a parameter of another type than its annotation, or too small; the rest is the family's to check."""
        params = self.get_params()
        check_kinds(type(self), params)
        minimum = {
            name: n for base in type(self).__mro__[::-1] for name, n in vars(base).get("minimum", {}).items()
        }
        for name, n in minimum.items():
            if isinstance(params.get(name), Integral) and params[name] < n:
                raise ParameterError(f"{name} must be a whole number from {n} on, not {params[name]!r}")

    def _require_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            message = f"this {type(self).__name__} is not fitted yet: call fit first"
            exceptions = sys.modules.get("sklearn.exceptions")
            if exceptions is None:
                raise InputError(message)
            # Whoever has scikit-learn loaded may be waiting for its exception.
            raise type("NotFittedError", (InputError, exceptions.NotFittedError), {})(message)

    def _checked(self, X: Inputs) -> Inputs:
        """`X` if this head can take it."""
        if len(X) == 0:
            raise InputError(
                "Found array with 0 sample(s): no rows were given, while a minimum of 1 is required"
            )
        for name, array in X.items():
            if isinstance(array, Tokens) and not self.takes_tokens:
                raise InputError(
                    f"{self.family} takes one vector a row, but input {name!r} is tokens; choose its pooled output instead"
                )
            if array.shape[-1] == 0:
                raise InputError(
                    f"0 feature(s) (shape={array.shape}) while a minimum of 1 is required, in input {name!r}"
                )
        for name, rows in X.bad_rows().items():
            raise InputError(
                f"input {name!r} has NaN or infinity (inf) in {len(rows)} of {count_of(len(X), 'row')}, "
                f"first in row {rows[0]}: "
                "embed them again"
            )
        if X.has_missing and not self.handles_missing:
            n = int((~X.complete()).sum())
            raise InputError(
                f"{n} of {count_of(len(X), 'row')} {one_or_many(n, 'lacks', 'lack')} an input, which "
                f"{self.family} cannot take: leave them out (missing='drop')"
            )
        return X

    def _conform(self, X: Inputs) -> Inputs:
        """The inputs that the head was fitted on, of the widths it was fitted on."""
        if X.names == (SINGLE,) and len(self.widths_) == 1:
            X = Inputs({next(iter(self.widths_)): X[SINGLE]})
        X = X.select(list(self.widths_))
        for name, width in X.widths.items():
            if width != self.widths_[name]:
                what = "" if name == SINGLE else f" (input {name!r})"
                raise InputError(
                    f"X has {width} features, but {type(self).__name__} is expecting "
                    f"{self.widths_[name]} features as input{what}"
                )
        return self._checked(X)

    def _validation(self, val: Pair | None) -> Validation | None:
        if val is None:
            return None
        X = self._conform(Inputs.of(val[0]))
        labels = labels_of(val[1], len(X))
        known = np.isin(labels, self.classes_)
        if not known.any():
            raise InputError(
                f"none of the {count_of(len(labels), 'row')} to choose on has a label that occurs in training"
            )
        if not known.all():
            X, labels = X[known], labels[known]
        return X, np.searchsorted(self.classes_, labels)

    # ------------------------------------------------------------------ scikit-learn's protocol

    _estimator_type = "classifier"

    @property
    def n_features_in_(self) -> int:
        """Widths of all inputs together."""
        if not hasattr(self, "widths_"):
            raise AttributeError("n_features_in_ is there after fit")
        return sum(self.widths_.values())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_") and hasattr(self, "chosen_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            classifier_tags=ClassifierTags(),
            regressor_tags=None,
            input_tags=InputTags(),
        )


def _key(name: str) -> str:
    """Name in the saved head of a fitted attribute."""
    return {"means_": "mean", "input_weights_": "weights"}.get(name, name.removesuffix("_"))


def _damaged(folder: str | Path | None, reason: Exception | str) -> HeadError:
    """One line that says which head cannot be used, and why."""
    said = f"{type(reason).__name__} {reason}" if isinstance(reason, Exception) else reason
    said = " ".join(said.split())
    where = "this head" if folder is None else f"the head in {folder}"
    return HeadError(f"{where} is damaged: {said[:500]}; train it again")


def _check_record(record: Mapping[str, Any]) -> None:
    """Refuse classes, widths and notes of another kind than `Head.save` writes: whoever wrote them may be a stranger."""
    classes, widths = record["classes"], record["widths"]
    if (
        not isinstance(classes, list)
        or len({type(label) for label in classes}) != 1
        or np.asarray(classes).ndim != 1
        or np.asarray(classes).dtype.kind not in "biufU"
        or len(set(classes)) != len(classes)
    ):
        raise CorruptError("its classes are no list of different labels of one kind")
    if (
        not isinstance(widths, dict)
        or not widths
        or any(type(width) is not int or width < 1 for width in widths.values())
    ):
        raise CorruptError("its widths are no whole numbers by input")
    if not isinstance(record["chosen"], dict) or not isinstance(record["state"], dict):
        raise CorruptError("what it chose, or its state, is no object")
    curve, notes = record["curve"], record.get("notes", [])
    if not isinstance(curve, list) or any(not isinstance(row, dict) for row in curve):
        raise CorruptError("its curve is no list of objects")
    if not isinstance(notes, list) or any(not isinstance(note, str) for note in notes):
        raise CorruptError("its notes are no list of texts")
