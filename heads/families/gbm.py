"""`lightgbm`: gradient-boosted trees, stopped early on dev.

Trees look at one feature at a time, and an encoder's features mean little one at a time: on CrisisMMD's texts they do not
beat a linear head. They earn their place where features interact, where inputs are missing, and as a second opinion.

Each tree sees a random part of the features (`feature_fraction`), which costs no accuracy there and saves most of the
time. Inputs that are wide together are first reduced, each to its leading principal components: on those texts 128 of 384
cost 0.01 of log loss or less and save half of the time and more.

A row that lacks an input has NaN there, which LightGBM learns a direction for at each split. NaN in a feature that is
there is an error, as it is for every head. The model is saved in LightGBM's own text format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ...errors import HeadError
from ..head import Choice, Chosen, Examples, Head, Validation
from ..inputs import CHUNK, Inputs, pieces, statistics
from ..metrics import criteria
from ..registry import ClassWeight, Footprint, ParameterError, grid_of

if TYPE_CHECKING:
    import lightgbm

#: Numbers of leaves that "auto" tries.
LEAVES = (7, 15, 31)

# Width of all inputs together from which they are reduced, and to how many components each.
_WIDE, _COMPONENTS = 512, 128
# Fewest rows of a leaf where there are enough, as LightGBM has it.
_MIN_DATA = 20
# Name of the features that the trees see.
_SEEN = "seen"
# Where nothing can be held out to choose on.
_DEFAULT_LEAVES, _DEFAULT_ROUNDS = 15, 100

# Numbers from which more threads than one are worth it: below, they save a third on an idle machine, and on a busy one
# they wait for each other at every node of every tree.
_WORTH_THREADS = 4_000_000


@dataclass(kw_only=True, eq=False, repr=False)
class Gbm(Head):
    """Gradient-boosted trees (LightGBM).

    Parameters
    ----------
    num_leaves : "auto", int or sequence of int, default "auto"
        Leaves of a tree; of several, or of the default grid, the best on `val` is taken (without `val`, the best on a
        stratified fifth of the rows, and the head is then fitted on all of them).
    min_data : "auto", int or sequence of int, default "auto"
        Fewest rows of a leaf; "auto" takes a twentieth of the training rows, from 1 to 20: with 20, fewer than 40 rows have
        no split at all.
    learning_rate : float or sequence of float, default 0.1
    rounds : "auto" or int, default "auto"
        Rounds of boosting; "auto" stops when `val` has not improved for `patience` rounds.
    max_rounds : int, default 500
        Most rounds of "auto".
    patience : int, default 20
    feature_fraction : float, default 0.3
        Share of the features that a tree sees.
    bagging_fraction : float, default 0.8
        Share of the rows that a tree sees.
    l2 : float, default 1.0
        Penalty on the values of leaves.
    components : "auto", None or int, default "auto"
        Principal components that each input is reduced to; None keeps the features as they are; "auto" takes 128
        where the inputs are wider than 512 together.
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" weighs classes by the inverse of their frequency.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides between settings; rounds are always stopped by log loss.
    seed : int, default 0

    Attributes
    ----------
    booster_ : lightgbm.Booster
    means_ : dict of str to ndarray
        Mean of each input that is reduced.
    axes_ : dict of str to ndarray of float64, shape (d, components)
        Its principal axes.

    References
    ----------
    Ke et al. 2017, "LightGBM: a highly efficient gradient boosting decision tree".
    """

    family: ClassVar[str] = "lightgbm"
    handles_missing: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(rows=4, dev=4)
    stochastic: ClassVar[bool] = True
    minimum: ClassVar[Mapping[str, int]] = {"max_rounds": 1, "patience": 1, "components": 1}
    arrays: ClassVar[tuple[str, ...]] = ("means_", "axes_")
    subsets: ClassVar[Mapping[str, str]] = {"means_": "reduced", "axes_": "reduced"}

    num_leaves: int | Sequence[int] | Literal["auto"] = "auto"
    min_data: int | Sequence[int] | Literal["auto"] = "auto"
    learning_rate: float | Sequence[float] = 0.1
    rounds: int | Literal["auto"] = "auto"
    max_rounds: int = 500
    patience: int = 20
    feature_fraction: float = 0.3
    bagging_fraction: float = 0.8
    l2: float = 1.0
    components: int | Literal["auto"] | None = "auto"
    class_weight: ClassWeight = None
    select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss"
    seed: int = 0

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        settings = self._settings(len(y))
        examples = self._examples(X, y, weight)
        self._reduce(X, examples.weight)

        def fit(examples: Examples, chosen: Chosen) -> None:
            self.booster_ = self._boosted(examples, chosen, chosen["rounds"])

        setting = settings[0] if len(settings) == 1 else {**settings[0], "num_leaves": _DEFAULT_LEAVES}
        rounds = _DEFAULT_ROUNDS if self.rounds == "auto" else int(self.rounds)
        undecided = len(settings) > 1 or self.rounds == "auto"
        # What the trees see is made once for all rows.
        weight = examples.by_class[y] * examples.weight
        Z, groups = Inputs({_SEEN: self._features(X)}), self._row_groups(X)
        examples = replace(examples, X=Z, weight=weight, groups=groups)
        dev = None if val is None else (Inputs({_SEEN: self._features(val[0])}), val[1])
        choose = partial(self._choose, settings=settings)
        return self._select(examples, dev, choose, fit, {**setting, "rounds": rounds}, undecided=undecided)

    def _settings(self, n: int) -> list[dict[str, Any]]:
        """Settings to compare, for `n` rows."""
        leaves = [int(most) for most in grid_of("num_leaves", self.num_leaves, LEAVES)]
        fewest = [int(few) for few in grid_of("min_data", self.min_data, (min(max(n // 20, 1), _MIN_DATA),))]
        rates = grid_of("learning_rate", self.learning_rate, ())
        if min(leaves) < 2:
            raise ParameterError(f"num_leaves must be at least 2, not {self.num_leaves!r}")
        for name in ("feature_fraction", "bagging_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ParameterError(f"{name} must be in (0, 1], not {getattr(self, name)!r}")
        if self.rounds != "auto" and (isinstance(self.rounds, str) or self.rounds < 1):
            raise ParameterError(f"rounds must be 'auto' or at least 1, not {self.rounds!r}")
        return [
            {"num_leaves": most, "min_data": few, "learning_rate": rate}
            for most in leaves
            for few in fewest
            for rate in rates
        ]

    def _choose(self, examples: Examples, val: Validation, settings: Sequence[Mapping[str, Any]]) -> Chosen:
        """Boost with each setting, stopped early; keep the best."""
        best: tuple[dict[str, Any], lightgbm.Booster] | None = None
        choice, by_class = Choice(self.select), examples.by_class
        V, v = val[0][_SEEN], val[1]
        for setting in settings:
            if self.rounds == "auto":
                booster = self._boosted(examples, setting, self.max_rounds, (V, v, by_class[v]))
            else:
                booster = self._boosted(examples, setting, int(self.rounds))
            best_round = booster.best_iteration
            rounds = int(best_round if best_round > 0 else booster.current_iteration())
            row = {**setting, "rounds": rounds, **criteria(v, self._voted(booster, V), by_class)}
            self.curve_.append(row)
            if choice.offer(row):
                best = {**setting, "rounds": rounds}, booster
        assert best is not None
        self.booster_ = best[1]
        return best[0]

    def _boosted(
        self,
        examples: Examples,
        setting: Mapping[str, Any],
        rounds: int,
        stop: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> lightgbm.Booster:
        import lightgbm

        k, Z = len(self.classes_), examples.X[_SEEN]
        params = {
            "objective": "binary" if k == 2 else "multiclass",
            "num_class": 1 if k == 2 else k,
            "num_leaves": setting["num_leaves"],
            "min_data_in_leaf": setting["min_data"],
            "learning_rate": setting["learning_rate"],
            "feature_fraction": self.feature_fraction,
            "bagging_fraction": self.bagging_fraction,
            "bagging_freq": 1,
            "lambda_l2": self.l2,
            # Finer bins find nothing more in an encoder's smooth features.
            "max_bin": 63,
            "min_data_in_bin": min(3, setting["min_data"]),
            "feature_pre_filter": False,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            "num_threads": _threads(Z),
        }
        data = lightgbm.Dataset(Z, examples.y, weight=examples.weight, params=params)
        if stop is None:
            return lightgbm.train(params, data, rounds)
        V, v, importance = stop
        watched = lightgbm.Dataset(V, v, weight=importance, reference=data, params=params)
        early = lightgbm.early_stopping(self.patience, verbose=False)
        return lightgbm.train(params, data, rounds, [watched], callbacks=[early])

    def _reduce(self, X: Inputs, weight: np.ndarray) -> None:
        """Find the principal axes of the inputs that are to be reduced."""
        self.means_, self.axes_ = {}, {}
        wanted = self.components
        if wanted == "auto":
            wanted = _COMPONENTS if X.shape[1] > _WIDE else None
        if wanted is None:
            return
        means, _ = statistics(X, weight)
        for name, width in X.widths.items():
            if width > int(wanted):
                array = X.vectors(name)[X.present(name)]
                share = (weight[X.present(name)] / weight.sum()).astype(array.dtype)
                centred = array - means[name].astype(array.dtype)
                _, axes = np.linalg.eigh((centred.T * share) @ centred)
                self.means_[name] = means[name]
                self.axes_[name] = axes[:, ::-1][:, : int(wanted)].astype(np.float64)

    def _features(self, X: Inputs) -> np.ndarray:
        """Feature matrix for the trees, NaN where a row lacks an input: float64."""
        parts = []
        for name in X.names:
            array = X.vectors(name).astype(np.float64)
            if name in self.axes_:
                array = (array - self.means_[name]) @ self.axes_[name]
            parts.append(np.where(X.present(name)[:, None], array, np.nan))
        return np.concatenate(parts, axis=1)

    def _voted(self, booster: lightgbm.Booster, Z: np.ndarray) -> np.ndarray:
        proba = np.asarray(booster.predict(Z, num_threads=_threads(Z)), np.float64)
        return np.stack([1 - proba, proba], axis=1) if proba.ndim == 1 else proba

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        return np.concatenate([self._voted(self.booster_, self._features(part)) for part in pieces(X, CHUNK)])

    def _save(self, folder: Path) -> dict[str, Any]:
        self.booster_.save_model(folder / "model.txt", num_iteration=self.booster_.best_iteration)
        return super()._save(folder)

    def _load(self, folder: Path, values: dict[str, Any]) -> None:
        import lightgbm

        super()._load(folder, values)
        widths = (self.axes_[name].shape[1] if name in self.axes_ else n for name, n in self.widths_.items())
        try:
            text = (folder / "model.txt").read_bytes().decode("ascii")
            trees = check_model(text, features=sum(widths), classes=len(self.classes_))
        except (HeadError, UnicodeDecodeError) as error:
            raise HeadError(f"the head in {folder} is damaged: {error}") from None
        self.booster_ = lightgbm.Booster(model_str=trees)


def _threads(Z: np.ndarray) -> int:
    """Threads for so much data; 0 stands for all."""
    return 1 if Z.size < _WORTH_THREADS else 0


#: Arrays of a tree by how many values they have: one a split, or one a leaf.
_BY_SPLIT = (
    *("split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child"),
    *("internal_value", "internal_weight", "internal_count"),
)
_BY_LEAF = ("leaf_value", "leaf_weight", "leaf_count")
_INDICES = ("split_feature", "decision_type", "left_child", "right_child")
_WHOLE = re.compile(r"-?\d{1,9}( -?\d{1,9})*")


def check_model(text: str, *, features: int, classes: int) -> str:
    """The text of a LightGBM model without what predicting does not need; `HeadError` if LightGBM would misread it.

    LightGBM's reader believes what the file says of itself: sizes of trees, numbers of children and features. A wrong one
    ends the process or reads foreign memory, so every number that is used as an index is checked here first.
    """
    head, _, rest = text.partition("\n\n")
    first, *lines = head.split("\n")
    about = _pairs(lines, "the header")
    if "\r" in text or "\0" in text:
        raise HeadError("model.txt has line ends of another kind")
    each = 1 if classes == 2 else classes
    objective = "binary sigmoid:1" if classes == 2 else f"multiclass num_class:{classes}"
    wanted = {
        "version": "v4",
        "num_class": str(each),
        "num_tree_per_iteration": str(each),
        "label_index": "0",
        "max_feature_idx": str(features - 1),
        "objective": objective,
    }
    if first != "tree" or set(about) != {*wanted, "feature_names", "feature_infos", "tree_sizes"}:
        raise HeadError("model.txt is no model of LightGBM's, or has a header of another kind")
    for name, value in wanted.items():
        if about.get(name) != value:
            raise HeadError(f"model.txt says {name}={about.get(name)!r}, and the head says {value!r}")
    for name in ("feature_names", "feature_infos"):
        if len(about.get(name, "").split()) != features:
            raise HeadError(f"model.txt lists other {name} than {features}")
    place = 0
    sizes = _whole(about["tree_sizes"])
    if not sizes or len(sizes) % each or min(sizes) < 1:
        raise HeadError("model.txt has no whole number of rounds of trees")
    for i, size in enumerate(sizes):
        tree, place = rest[place : place + size], place + size
        title, *lines = tree.rstrip("\n").split("\n")
        if title != f"Tree={i}" or not tree.endswith("\n\n\n"):
            raise HeadError(f"model.txt: tree {i} is not where tree_sizes says")
        _check_tree(_pairs(lines, f"tree {i}"), features, f"tree {i}")
    if not rest.startswith("end of trees\n", place):
        raise HeadError("model.txt: the trees do not end where tree_sizes says")
    return f"{head}\n\n{rest[:place]}end of trees\n\npandas_categorical:null\n"


def _pairs(lines: Sequence[str], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition("=")
        if name in found:
            raise HeadError(f"model.txt: {where} says {name} twice")
        found[name] = value
    return found


def _whole(text: str) -> list[int]:
    """Whole numbers as LightGBM reads them: its reader stops at an exponent or a point, Python's does not."""
    if text and not _WHOLE.fullmatch(text):
        raise HeadError("model.txt has something else where whole numbers belong")
    return [int(number) for number in text.split()]


def _check_tree(about: dict[str, str], features: int, where: str) -> None:
    """Make sure that a tree is one: arrays as long as it has splits and leaves, each node reached once from the root."""
    plain = {"num_cat": "0", "is_linear": "0"}
    if set(about) != {"num_leaves", *plain, *_BY_SPLIT, *_BY_LEAF, "shrinkage"}:
        raise HeadError(f"model.txt: {where} has other entries than a tree of numbers")
    leaves = sum(_whole(about["num_leaves"]))
    splits = leaves - 1
    numbers = {
        name: np.array(_whole(about[name]) if name in _INDICES else about[name].split(), np.float64)
        for name in (*_BY_SPLIT, *_BY_LEAF)
    }
    # A tree that is a single leaf leaves most arrays empty, and a constant one that was never weighed too.
    wrong = [name for name in _BY_SPLIT if len(numbers[name]) != splits]
    wrong += [name for name in _BY_LEAF if len(numbers[name]) not in ((leaves,) if splits else (0, 1))]
    if (
        leaves < 1
        or wrong
        or len(numbers["leaf_value"]) != leaves
        or any(about[k] != v for k, v in plain.items())
    ):
        raise HeadError(f"model.txt: {where} contradicts itself in {wrong[0] if wrong else 'num_leaves'}")
    left, right, feature, kind = (
        numbers[name].astype(np.int64)
        for name in ("left_child", "right_child", "split_feature", "decision_type")
    )
    children = np.concatenate([left, right])
    reached = np.sort(np.where(children < 0, splits + ~children, children))
    own = np.tile(np.arange(splits), 2)
    # Each split but the root, and each leaf, hangs from one split that comes before it.
    if (
        not np.array_equal(reached, np.arange(1, splits + leaves) if splits else [])
        or ((children >= 0) & (children <= own)).any()
        or ((feature < 0) | (feature >= features)).any()
        or ((kind < 0) | (kind > 10) | (kind % 2 == 1)).any()
        or not np.isfinite(numbers["leaf_value"]).all()
    ):
        raise HeadError(f"model.txt: the splits of {where} make no tree")
