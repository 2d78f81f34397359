"""Zero-shot heads, `zero-shot` and `tip-adapter` (a cache of labelled rows, Zhang et al. 2022), and their class prompts.

Nothing is learnt from labels: a row's logits are its cosines to the vectors of the class prompts (Radford et al. 2021,
"Learning transferable visual models from natural language supervision"), times a factor that is CLIP's 100 unless there
are rows to fit it on. With several inputs the cosines are averaged over those that a row has.

The heads are arithmetic on vectors. `icehouse train` and a sweep encode the prompts with the encoder that made the feature,
loaded from its spec and checked (fingerprint and probe); the vectors become the parameter `class_vectors`, saved with the
head. Several prompts of a class are averaged at unit length. Without any, the mean direction of a class's training rows
stands in for its prompts: a nearest-mean classifier, for a space that has no texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from ...errors import UsageError
from ..head import Choice, Chosen, Examples, Head, Pair, Validation
from ..inputs import (
    Inputs,
    Labels,
    Weights,
    bank_of,
    directions,
    mean_over_inputs,
    pieces,
    present_directions,
    softmax,
)
from ..metrics import criteria
from ..metrics import temperature as best_factor
from ..registry import ClassWeight, Footprint, ParameterError, did_you_mean, grid_of, shares_of

if TYPE_CHECKING:
    from ...embed.encoder import Encoder
    from ...store.store import Store

# CLIP's logit scale after training, where it is clipped.
_FACTOR = 100.0
# Ways to share the weight between inputs, in steps of 1 / _STEPS.
_STEPS = 10


@dataclass(kw_only=True, eq=False, repr=False)
class ZeroShot(Head):
    """Cosine to class prompts.

    Parameters
    ----------
    class_vectors : mapping of str to mapping of str to sequence of float, optional
        Input to class to vector, such as the function `class_vectors` makes; with a single input its mapping of
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
    arrays: ClassVar[tuple[str, ...]] = ("vectors_", "input_weights_")
    values: ClassVar[tuple[str, ...]] = ("factor_",)

    class_vectors: Mapping[str, Any] | None = None
    prompts: Mapping[str, str | Sequence[str]] | None = None
    template: str | Sequence[str] | None = None
    factor: float | Literal["auto"] = "auto"
    input_weights: Sequence[float] | Literal["auto"] | None = "auto"

    def fit(
        self,
        X: Any,
        y: Labels,
        val: Pair | None = None,
        sample_weight: Weights | None = None,
        groups: Labels | None = None,
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

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        if self.factor != "auto" and (isinstance(self.factor, str) or not 0 < self.factor < np.inf):
            raise ParameterError(f"factor must be 'auto' or positive and finite, not {self.factor!r}")
        shares = shares_of("input_weights", self.input_weights, X.names, _STEPS)
        if val is None and len(shares) > 1:  # nothing to choose on
            shares = shares_of("input_weights", None, X.names, _STEPS)
        if self.class_vectors is not None:
            self.vectors_ = class_matrices(self.class_vectors, X.widths, self.classes_)
        else:
            self.vectors_ = self._means(X, y, np.ones(len(y)) if weight is None else weight)
        factor = _FACTOR if self.factor == "auto" else float(self.factor)
        best: Chosen = {"factor": factor, "input_weights": list(shares[0])}
        choice = Choice("log_loss")
        for share in shares:
            if val is None:
                break
            self.input_weights_ = np.array(share)
            cosines = np.concatenate([self._cosines(part) for part in pieces(val[0])])
            factor = best_factor(cosines, val[1]) if self.factor == "auto" else factor
            chosen = {"factor": factor, "input_weights": list(share)}
            row = {**chosen, **criteria(val[1], softmax(factor * cosines))}
            self.curve_.append(row)
            if choice.offer(row):
                best = chosen
        self.factor_, self.input_weights_ = best["factor"], np.array(best["input_weights"])
        return best

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
        cosines = {name: present_directions(X, name) @ self.vectors_[name].T for name in X.names}
        return mean_over_inputs(X, cosines, self.input_weights_)

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        return np.concatenate([softmax(self.factor_ * self._cosines(part)) for part in pieces(X)])


def class_matrices(
    given: Mapping[str, Any], widths: Mapping[str, int], classes: np.ndarray
) -> dict[str, np.ndarray]:
    """Unit vectors of `classes`, by input: float64, (k, d); `ParameterError` if one is missing or of another width."""
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


# "Tip-Adapter: training-free adaption of CLIP for few-shot classification", ECCV 2022. The training rows are keys,
# their labels values, and a row's logits are
#
#     factor * cosines to the class prompts
#         +  alpha * sum over keys of exp(-beta * (1 - cosine to the key)) * one-hot label.
#
# The paper has equal shots and CLIP; on label sets as they come four things had to differ. The sum over a class's
# keys is a mean, so that a common class does not outshout a rare one, and alpha means the same for one shot and for a
# thousand; the frequencies of the classes enter as the logarithms they are (nothing changes where shots are equal).
# Keys may be centred by their mean first, chosen on dev. And for each beta the alpha (and before it the factor) that
# fits dev best is found exactly, since log loss is convex in it, instead of on a grid. On CrisisMMD's texts this
# takes the cache's log loss on dev from 0.50 to 0.40 (task 1) and from 0.98 to 0.71 (task 2, five classes).
#
# Without class vectors the cache works alone. It holds at most `cache` rows, drawn by class in proportion; Tip-Adapter-F,
# which trains the keys, is not offered: `mlp` and `logreg` learn from the same rows.


#: Values of beta that "auto" tries; the paper's start is 5.5, features that all point one way need more.
BETAS = (0.5, 1.0, 2.0, 5.5, 10.0, 20.0, 50.0, 100.0)

# Where nothing can be held out to choose on.
_DEFAULT_BETA, _DEFAULT_ALPHA, _CACHE_FACTOR = 5.5, 10.0, 100.0
# Largest alpha that is looked for.
_HIGHEST = 1e6
# Rows compared with the cache at a time.
_ROWS = 2048


@dataclass(kw_only=True, eq=False, repr=False)
class TipAdapter(Head):
    """Cache over training features plus zero-shot logits.

    Parameters
    ----------
    beta : "auto", float or sequence of float, default "auto"
        How fast a key's say falls off with its distance; of several, the best on `val` (or on a stratified fifth).
    alpha : "auto" or float, default "auto"
        Weight of the cache; "auto" fits it on the rows that beta is chosen on.
    factor : "auto" or float, default "auto"
        What cosines to the class prompts are multiplied by; "auto" fits it there too, and takes CLIP's 100 without.
    centre : "auto" or bool, default "auto"
        Whether the mean of the kept rows is subtracted before rows are compared with them.
    cache : int, default 4096
        Most rows kept, drawn by class in proportion, one of each class at least.
    class_vectors : mapping, optional
        As `zero-shot` takes them; inputs may be left out. None leaves the cache alone.
    prompts : mapping, False, or None, default None
        What describes the classes, for those who encode them; False to do without.
    template : str or sequence of str, optional
        Such as ``a photo of {class}``.
    class_weight : None, "balanced" or mapping of label to float, default None
        Weight of each class in its frequency and in the choice; within a class's keys there is nothing to weigh.
        "balanced" weighs classes by the inverse of their frequency, which leaves no frequencies.
    select : {"log_loss", "accuracy", "macro_f1"}, default "log_loss"
        What decides between values of beta.
    seed : int, default 0
        Of the rows that are kept, and of the part held out where `val` is not given.

    Attributes
    ----------
    keys_ : dict of str to ndarray of float32, shape (m, d)
        Directions of the kept rows, by input; zeros where a row lacks it.
    codes_ : ndarray of int, shape (m,)
        Their classes.
    values_ : ndarray of float64, shape (m,)
        Their weights, of sum one in each class.
    prior_ : ndarray of float64, shape (k,)
        Logarithms of the classes' frequencies, weighted by class.
    means_ : dict of str to ndarray
        What is subtracted from each input; zeros where nothing is.
    """

    family: ClassVar[str] = "tip-adapter"
    handles_missing: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(rows=0, dev=12, weights=1)
    takes_prompts: ClassVar[Literal["never", "optional", "required"]] = "optional"
    stochastic: ClassVar[bool] = True
    minimum: ClassVar[Mapping[str, int]] = {"cache": 1}
    bulky: ClassVar[tuple[str, ...]] = ("class_vectors",)
    arrays: ClassVar[tuple[str, ...]] = ("keys_", "vectors_", "means_", "codes_", "values_", "prior_")
    values: ClassVar[tuple[str, ...]] = ("alpha_", "beta_", "factor_")
    subsets: ClassVar[Mapping[str, str]] = {"vectors_": "described"}

    beta: float | Sequence[float] | Literal["auto"] = "auto"
    alpha: float | Literal["auto"] = "auto"
    factor: float | Literal["auto"] = "auto"
    centre: bool | Literal["auto"] = "auto"
    cache: int = 4096
    class_vectors: Mapping[str, Any] | None = None
    prompts: Mapping[str, str | Sequence[str]] | Literal[False] | None = None
    template: str | Sequence[str] | None = None
    class_weight: ClassWeight = None
    select: Literal["log_loss", "accuracy", "macro_f1"] = "log_loss"
    seed: int = 0

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        betas = grid_of("beta", self.beta, BETAS)
        for name in ("alpha", "factor"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, str) or not 0 < value < np.inf):
                raise ParameterError(f"{name} must be 'auto' or positive and finite, not {value!r}")
        self.vectors_ = self._described(X)
        examples = self._examples(X, y, weight)
        if not (examples.by_class > 0).all():
            raise ParameterError(f"class_weight of every class must be above zero, not {self.class_weight!r}")
        counts = np.bincount(y, weights=examples.weight, minlength=len(self.classes_)) * examples.by_class
        self.prior_ = np.log(counts / counts.sum())
        undecided = (
            len(betas) > 1 or "auto" in (self.alpha, self.centre) or (self.factor == "auto" and self.vectors_)
        )

        default = {
            "beta": betas[0] if len(betas) == 1 else _DEFAULT_BETA,
            "alpha": _DEFAULT_ALPHA if self.alpha == "auto" else float(self.alpha),
            "factor": _CACHE_FACTOR if self.factor == "auto" else float(self.factor),
            "centre": self.centre is not False,
        }
        choose = partial(self._choose, betas=betas)
        return self._select(examples, val, choose, self._keep, default, undecided=bool(undecided))

    def _keep(self, examples: Examples, chosen: Chosen) -> None:
        """Take what was chosen, and fill the cache."""
        self.beta_, self.alpha_, self.factor_ = chosen["beta"], chosen["alpha"], chosen["factor"]
        self._remember(examples, chosen["centre"])

    def memory_needed(self, rows: int, dev: int) -> int:
        """As `Head.memory_needed`: the cache holds no more than `cache` rows."""
        kept = 2 * min(rows, self.cache) * len(self.classes_)
        return super().memory_needed(rows, dev) + 8 * kept

    def _described(self, X: Inputs) -> dict[str, np.ndarray]:
        """Class vectors of the inputs that have some."""
        if self.class_vectors is None:
            return {}
        by_input = any(isinstance(vectors, Mapping) for vectors in self.class_vectors.values())
        if not by_input and len(X.names) > 1:
            raise ParameterError(f"class_vectors must be given by input: {', '.join(X.names)}")
        widths = {
            name: width for name, width in X.widths.items() if not by_input or name in self.class_vectors
        }
        if not widths:
            raise ParameterError(
                f"class_vectors are of {', '.join(self.class_vectors)}, the inputs are {', '.join(X.names)}"
            )
        return class_matrices(self.class_vectors, widths, self.classes_)

    def _remember(self, examples: Examples, centre: bool) -> None:
        """Fill the cache."""
        X, y, weight, k = examples.X, examples.y, examples.weight, len(self.classes_)
        if len(y) > self.cache:
            rng = np.random.default_rng(self.seed)
            share = self.cache / len(y)
            rows = [rng.permutation(np.flatnonzero(y == c)) for c in range(k)]
            kept = np.sort(np.concatenate([of[: max(1, int(len(of) * share))] for of in rows]))
            X, y, weight = X[kept], y[kept], weight[kept]
        self.means_, self.keys_ = bank_of(X, weight, centre=centre)
        self.codes_ = y.astype(np.int64)
        self.values_ = weight / np.bincount(y, weights=weight, minlength=k)[y]

    def _base(self, X: Inputs) -> np.ndarray:
        """Mean cosine to the class prompts, over the inputs that have prompts and that a row has: (n, k)."""
        return mean_over_inputs(
            X, {name: present_directions(X, name) @ vectors.T for name, vectors in self.vectors_.items()}
        )

    def _near(self, X: Inputs) -> np.ndarray:
        """Mean cosine to each key, over the inputs that a row has: float64, (n, m)."""
        cosines = {}
        for name, keys in self.keys_.items():
            cosines[name] = present_directions(X, name, self.means_[name]) @ keys.astype(np.float64).T
        return mean_over_inputs(X, cosines)

    def _affinity(self, near: np.ndarray, beta: float) -> np.ndarray:
        """Logits of the classes by the cache: (n, k)."""
        values = np.zeros((len(self.codes_), len(self.classes_)))
        values[np.arange(len(self.codes_)), self.codes_] = self.values_
        affinity: np.ndarray = np.exp(-beta * (1 - near)) @ values
        return affinity

    def _choose(self, examples: Examples, val: Validation, betas: list[float]) -> Chosen:
        """For each beta, keys centred and not, the alpha that fits best; the best of those."""
        (V, v), by_class = val, examples.by_class
        base = np.tile(self.prior_, (len(v), 1))
        factor = _CACHE_FACTOR if self.factor == "auto" else float(self.factor)
        if self.vectors_:
            cosines = np.concatenate([self._base(part) for part in pieces(V, _ROWS)])
            factor = best_factor(cosines, v, by_class[v], base=base) if self.factor == "auto" else factor
            base = base + factor * cosines
        best: dict[str, Any] = {}
        choice = Choice(self.select)
        for centre in (False, True) if self.centre == "auto" else (bool(self.centre),):
            self._remember(examples, centre)
            said: dict[float, list[np.ndarray]] = {beta: [] for beta in betas}
            for part in pieces(V, _ROWS):
                near = self._near(part)
                for beta in betas:
                    said[beta].append(self._affinity(near, beta))
            for beta in betas:
                affinity = np.concatenate(said[beta])
                alpha = (
                    best_factor(affinity, v, by_class[v], base=base, high=_HIGHEST)
                    if self.alpha == "auto"
                    else float(self.alpha)
                )
                chosen = {"beta": beta, "alpha": alpha, "factor": factor, "centre": centre}
                row = {**chosen, **criteria(v, softmax(base + alpha * affinity), by_class)}
                self.curve_.append(row)
                if choice.offer(row):
                    best = chosen
        self._keep(examples, best)
        return best

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        parts = []
        for part in pieces(X, _ROWS):
            logits = self.prior_ + self.alpha_ * self._affinity(self._near(part), self.beta_)
            parts.append(softmax(logits + self.factor_ * self._base(part) if self.vectors_ else logits))
        return np.concatenate(parts)


#: What a class's name becomes, by the modality that it is compared with.
TEMPLATES = {"image": ("a photo of {class}",), "text": ("a post about {class}",)}

#: Input to class to vector, as JSON values.
ClassVectors: TypeAlias = dict[str, dict[str, list[float]]]


def readable_label(label: str) -> str:
    """A label as a person would write it: "utility damage" for ``utility_damage``, "so what" for ``soWhat``."""
    words = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\-./]+", " ", label)).split())
    return words.lower() if words and words != label else label


def texts_of(
    labels: Sequence[str],
    *,
    prompts: Mapping[str, str | Sequence[str]] | None = None,
    template: str | Sequence[str] | None = None,
    modality: str = "image",
) -> dict[str, list[str]]:
    """The texts of each class: its prompts, or its readable name in a `template` with ``{class}``.

    With a template, `prompts` are the words that take the place of ``{class}``; without, they are taken as they are.

    >>> texts_of(["rescue_effort", "calm"], prompts={"calm": ["a quiet street", "nothing of note"]})
    {'rescue_effort': ['a photo of rescue effort'], 'calm': ['a quiet street', 'nothing of note']}
    """
    given = {
        str(label): [text] if isinstance(text, str) else list(text) for label, text in (prompts or {}).items()
    }
    for label, texts in given.items():
        if label not in labels:
            raise UsageError(
                f"prompts name a class {label!r} that no item has;{did_you_mean(label, labels)} "
                f"there are: {', '.join(labels)}"
            )
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UsageError(f"prompts of class {label!r} must be one text or several, not {texts!r}")
    templates = [template] if isinstance(template, str) else list(template or ())
    for pattern in templates:
        if "{class}" not in pattern:
            raise UsageError(f"template {pattern!r} has no {{class}} to put the class in")
    found: dict[str, list[str]] = {}
    for label in labels:
        words = given.get(label, [readable_label(label)])
        patterns = templates or (["{class}"] if label in given else list(TEMPLATES[modality]))
        found[label] = [pattern.replace("{class}", word) for pattern in patterns for word in words]
    return found


def read_prompts(path: str | Path) -> dict[str, list[str]]:
    """Prompts from a JSON file: an object of class to text or list of texts; UsageError if it is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(
            f'{path} must hold an object such as {{"flood": ["a flooded street", "high water"]}}'
        )
    return {label: [texts] if isinstance(texts, str) else texts for label, texts in value.items()}


def text_comparable(spec: Mapping[str, Any]) -> bool:
    """Whether a text can be compared with the vectors of a feature: its space is joint, or of texts."""
    return spec["output"] == "joint" or (spec["modality"] == "text" and spec["output"] != "tokens")


def class_vectors(
    store: Store,
    specs: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    *,
    prompts: Mapping[str, str | Sequence[str]] | None = None,
    template: str | Sequence[str] | None = None,
) -> ClassVectors:
    """Encode the classes into the space of each input: input to class to a vector of unit length.

    `specs` are those of the inputs' features, whose texts' cleaning is applied to the prompts; see `texts_of` for the
    others. UsageError if a feature is in no space that texts share, SpaceError if the encoder is no longer the one that a
    feature was made with.
    """
    from ...data.text import clean
    from ...embed.tables import cleaning_beside

    found: ClassVectors = {}
    for name, spec in specs.items():
        feature = f"{spec['name']}/{spec['modality']}/{spec['output']}"
        if not text_comparable(spec):
            raise UsageError(
                f"class prompts cannot be compared with {feature}: choose a joint space, such as "
                f"--inputs {spec['modality']}/joint"
            )
        texts = texts_of(labels, prompts=prompts, template=template, modality=spec["modality"])
        model = _loaded(json.dumps(spec))
        cleaning = cleaning_beside(store, spec)
        flat = [clean(text, cleaning) for label in labels for text in texts[label]]
        encoded = model.encode_texts(flat, [spec["output"]])[spec["output"]]
        if not isinstance(encoded, np.ndarray):
            raise UsageError(f"class prompts cannot be compared with {feature}: it is tokens")
        rows = directions(encoded.astype(np.float64))
        counts = [len(texts[label]) for label in labels]
        means = [part.mean(axis=0) for part in np.split(rows, np.cumsum(counts)[:-1])]
        # Seven digits are what the encoder's float32 has.
        found[name] = {
            label: [float(f"{number:.7g}") for number in vector]
            for label, vector in zip(labels, directions(np.stack(means)).tolist(), strict=True)
        }
    return found


@lru_cache(maxsize=1)
def _loaded(spec: str) -> Encoder:
    """The encoder of a spec, checked; a sweep asks for the same one again and again."""
    from ...embed.tables import load_checked

    return load_checked(json.loads(spec), texts_only=True)


def prompt_notes(
    kind: type[Head], params: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Note where a head that can do without class prompts gets none for an input."""
    if kind.takes_prompts != "optional" or params.get("class_vectors") or params.get("prompts") is False:
        return []
    bare = [name for name, spec in specs.items() if not text_comparable(spec)]
    if not bare:
        return []
    what = (
        "no class prompts, only labelled rows"
        if len(bare) == len(specs)
        else "class prompts for the others alone"
    )
    named = ", ".join(f"{specs[n]['name']}/{specs[n]['modality']}/{specs[n]['output']}" for n in bare)
    remedy = " or ".join(dict.fromkeys(f"{specs[n]['modality']}/joint" for n in bare))
    note = (
        f"{kind.family} compares with {what}: texts share no space with {named}; an encoder with a joint space has "
        f"--inputs {remedy} (-p prompts=false: none are wanted)"
    )
    return [note]


def with_prompts(
    head: Head, store: Store, specs: Mapping[str, Mapping[str, Any]], labels: Sequence[str]
) -> Head:
    """An unfitted head like `head`; with class vectors, where it takes prompts, has none, and texts can be compared."""
    if head.takes_prompts == "never":
        return head
    params = head.get_params()
    if params["class_vectors"] is not None or params["prompts"] is False:
        return head
    wanted = dict(specs)
    if head.takes_prompts == "optional":
        asked = params["prompts"] is not None or params["template"] is not None
        wanted = {name: spec for name, spec in specs.items() if text_comparable(spec)}
        if not wanted and not asked:
            return head
        wanted = wanted or dict(specs)
    vectors = class_vectors(store, wanted, labels, prompts=params["prompts"], template=params["template"])
    return head.unfitted(class_vectors=vectors)
