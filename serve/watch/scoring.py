"""Several heads on one embedding of an input, with gates that stop what the heads behind them need not see."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...data.text import DEFAULT_CLEANING, clean
from ...embed.encoder import Encoder, Tokens
from ...embed.extract import Unencodable, encode_contents
from ...embed.tables import load_checked
from ...errors import HeadError, IcehouseError, SpaceError, UsageError
from ...heads.head import Head
from ...heads.inputs import Inputs
from ...heads.package import Package, is_package
from ...heads.runs import Run
from ...store.store import Store

#: A feature of one content: encoder, modality, output, cleaning of texts ("" for images).
Feature = tuple[str, str, str, str]

#: Classes that say that a post is of no interest. A run that knows one, and stands before others, is a gate.
IRRELEVANT = frozenset(
    {"irrelevant", "not_relevant", "not_informative", "uninformative", "not_humanitarian", "off_topic"}
)


@dataclass
class Model:
    """A run by the name it was asked for; `stops` are the classes that go no further, where it is a gate."""

    name: str
    run: Run
    stops: frozenset[str] = frozenset()
    threshold: float | None = None  # least probability of going on; by default the likeliest class decides
    #: In place of the run's head: one that has learned since.
    head: Head | None = None

    @property
    def modalities(self) -> set[str]:
        """Modalities that it reads of a post."""
        return {str(spec["modality"]) for spec in self.run.specs.values()}

    @property
    def keeps(self) -> bool:
        """Whether one of its inputs is enough."""
        return self.run.missing == "keep" and self.run.head.handles_missing

    def passes(self, proba: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Mask of the rows (n,) that go further, by their probabilities (n, k)."""
        going = np.array([label not in self.stops for label in classes], bool)
        if self.threshold is None:
            return going[proba.argmax(axis=1)]
        found: np.ndarray = proba[:, going].sum(axis=1) >= self.threshold
        return found

    def features(self) -> dict[str, Feature]:
        """Input to feature."""
        return {name: feature_of(spec) for name, spec in self.run.specs.items()}


def feature_of(spec: Any) -> Feature:
    """The feature that a spec describes."""
    cleaning = ""
    if spec["modality"] == "text":
        cleaning = str((spec.get("provenance") or {}).get("cleaning") or DEFAULT_CLEANING)
    return str(spec["encoder"]), str(spec["modality"]), str(spec["output"]), cleaning


def load_models(
    store: Store | None, names: Sequence[str], gates: Sequence[str] = (), *, automatic: bool = True
) -> tuple[list[Model], list[str]]:
    """Load runs and packages by the names given, gates first; and say which are gates.

    A gate is ``RUN=CLASS,...`` (these go on), ``RUN!=CLASS,...`` (all but these) or either with ``@P``: the least
    probability of the classes that go on. With `automatic`, a run that knows a class such as ``not_relevant`` and has
    others behind it is one, too. HeadError if there is no such run, or it takes captions; UsageError if a gate names a
    class that its run has not.
    """
    asked = {name: _parse_gate(name) for name in gates}
    order = list(dict.fromkeys([*(gate[0] for gate in asked.values()), *names]))
    if not order:
        raise UsageError("no run to ask: name one with --run")
    models = [Model(short_name(name), _load(store, name)) for name in order]
    twice = [name for name, n in Counter(model.name for model in models).items() if n > 1]
    if twice:
        raise UsageError(f"two runs would both be called {twice[0]!r}: name each by its id")
    for model in models:
        if captions := [name for name in model.modalities if name.startswith("caption")]:
            raise HeadError(f"run {model.run.run_id} takes captions ({captions[0]}), which a stream has not")
    by_name = dict(zip(order, models, strict=True))
    remarks = []
    for name, negated, classes, threshold in asked.values():
        model = by_name[name]
        if odd := sorted(classes - {*model.run.classes}):
            raise UsageError(
                f"--gate {name}: run {model.run.run_id} has no class {odd[0]!r}; it has {', '.join(model.run.classes)}"
            )
        model.stops = classes if negated else frozenset(model.run.classes) - classes
        model.threshold = threshold
    for place, model in enumerate(models):
        found = [label for label in model.run.classes if is_irrelevant(label)]
        if automatic and not model.stops and found and place < len(models) - 1:
            model.stops = frozenset(found)
            remarks.append(
                f"{model.name} is a gate: what it finds {' or '.join(map(repr, found))} goes no further "
                "(--gate says otherwise, --no-gates lets everything through)"
            )
    return sorted(models, key=lambda model: not model.stops), remarks


def is_irrelevant(label: str) -> bool:
    """Whether a class says that a post is of no interest."""
    return _plain(label) in IRRELEVANT


def _plain(label: str) -> str:
    return re.sub(r"[^a-z]+", "_", label.lower()).strip("_")


def _parse_gate(text: str) -> tuple[str, bool, frozenset[str], float | None]:
    name, equals, rest = text.partition("=")
    negated = name.endswith("!")
    rest, at, number = rest.partition("@")
    classes = frozenset(label.strip() for label in rest.split(",") if label.strip())
    try:
        threshold = float(number) if at else None
    except ValueError:
        threshold = -1.0
    if (
        not equals
        or not name.rstrip("!")
        or not classes
        or (threshold is not None and not 0 < threshold <= 1)
    ):
        raise UsageError(
            f"--gate {text}: write RUN=CLASS for what goes on, or RUN!=CLASS for all but it, and @P for a probability of "
            "at least P, such as relevancy=informative@0.3"
        )
    return name.rstrip("!"), negated, classes, threshold


def short_name(name: str) -> str:
    """Name of a run in decisions: as it was named, of a package its folder."""
    return Path(name).name if "/" in name or is_package(name) else name


def _load(store: Store | None, name: str) -> Run:
    if is_package(name):
        return Package.load(name)
    if store is None:
        raise HeadError(f"there is no store to look for run {name!r} in, and {name} is no package")
    return Run.load(store, name)


@dataclass(slots=True)
class Contents:
    """Contents of a post by modality, ready for the encoders, and the features that were made of it."""

    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # by encoder
    text: str | None = None
    features: dict[Feature, Any] = field(default_factory=dict)  # (d,), or Tokens of one row
    errors: dict[str, str] = field(default_factory=dict)  # modality to why it has none


class Scorer:
    """The encoders behind some models, and one pass of each over a batch that serves them all."""

    def __init__(
        self,
        store: Store | None,
        models: Sequence[Model],
        *,
        further: Iterable[Any] = (),
        device: str = "auto",
    ) -> None:
        self.models = list(models)
        self.encoders: dict[str, Encoder] = {}
        self.wanted: dict[Feature, int] = {}
        for model in self.models:
            for name, spec in model.run.specs.items():
                probe = _probe(store, model.run, model.run.features[name])
                try:
                    self._load({**spec, "probe": probe}, device)
                except SpaceError as error:
                    raise SpaceError(f"run {model.run.run_id}: {error}") from None
        for spec in further:
            self._load(spec, device)

    def _load(self, spec: Any, device: str) -> None:
        encoder = self.encoders.get(spec["encoder"])
        self.encoders[spec["encoder"]] = load_checked(spec, encoder, device=device)
        self.wanted[feature_of(spec)] = int(spec["dim"])

    @property
    def batch_size(self) -> int:
        """Rows that fill no device beyond its memory."""
        return min(encoder.batch_size for encoder in self.encoders.values())

    def outputs(self, encoder: str, modality: str) -> dict[str, list[str]]:
        """Outputs wanted of an encoder, by cleaning."""
        found: dict[str, list[str]] = {}
        for name, kind, output, cleaning in self.wanted:
            if (name, kind) == (encoder, modality):
                found.setdefault(cleaning, []).append(output)
        return found

    def reads(self, modality: str) -> bool:
        """Whether anything is wanted of a modality."""
        return any(kind == modality for _, kind, _, _ in self.wanted)

    def prepare(self, image: Any) -> dict[str, np.ndarray]:
        """Pixels for each encoder that looks at images; runs in a thread that decodes."""
        return {
            name: encoder.prepare_image(image)
            for name, encoder in self.encoders.items()
            if self.outputs(name, "image")
        }

    def encode(self, batch: Sequence[Contents]) -> None:
        """Fill in the features of contents that lack them; what cannot be encoded costs only itself."""
        for name, encoder in self.encoders.items():
            for outputs in self.outputs(name, "image").values():
                rows = [contents for contents in batch if name in contents.pixels]
                self._run(
                    name,
                    "image",
                    "",
                    rows,
                    [contents.pixels.pop(name) for contents in rows],
                    lambda some, encoder=encoder, outputs=outputs: encoder.encode_images(
                        np.stack(some), outputs
                    ),
                )
            for cleaning, outputs in self.outputs(name, "text").items():
                rows = [contents for contents in batch if contents.text is not None]
                texts = [clean(contents.text or "", cleaning) for contents in rows]
                # Alike in length, so that short ones are not padded to long ones.
                order = np.argsort([len(text) for text in texts], kind="stable").tolist()
                self._run(
                    name,
                    "text",
                    cleaning,
                    [rows[i] for i in order],
                    [texts[i] for i in order],
                    lambda some, encoder=encoder, outputs=outputs: encoder.encode_texts(some, outputs),
                )

    def _run(
        self,
        encoder: str,
        modality: str,
        cleaning: str,
        rows: list[Contents],
        prepared: list[Any],
        encode: Any,
    ) -> None:
        if not rows:
            return
        for places, made in encode_contents(encode, prepared, "float16"):
            for i, contents in enumerate(rows[place] for place in places):
                if isinstance(made, Unencodable):
                    contents.errors[modality] = f"cannot be encoded: {made.message}"
                    continue
                for output, values in made.items():
                    row = (
                        Tokens(values.values[i : i + 1], values.mask[i : i + 1])
                        if isinstance(values, Tokens)
                        else np.asarray(values[i], np.float32)
                    )
                    contents.features[encoder, modality, output, cleaning] = row

    def inputs(self, model: Model, batch: Sequence[Contents]) -> tuple[Inputs | None, np.ndarray]:
        """Inputs of the rows that a model can judge, and which those are: bool, (n,)."""
        features = model.features()
        have = {
            name: np.array([feature in contents.features for contents in batch], bool)
            for name, feature in features.items()
        }
        together = np.logical_or if model.keeps else np.logical_and
        judged = np.asarray(together.reduce(list(have.values())), bool)
        rows = np.flatnonzero(judged)
        if not len(rows):
            return None, judged
        arrays: dict[str, Any] = {}
        for name, feature in features.items():
            values = [batch[row].features.get(feature) for row in rows.tolist()]
            arrays[name] = _stacked(values, self.wanted[feature])
        lacking = {name: here[rows] for name, here in have.items() if not here[rows].all()}
        return Inputs(arrays, lacking), judged

    def score(self, model: Model, batch: Sequence[Contents]) -> list[dict[str, Any]]:
        """Prediction of a model for each row, as JSON values; ``{"error": ...}`` where it lacks an input."""
        begun = time.perf_counter()
        inputs, judged = self.inputs(model, batch)
        told: list[dict[str, Any]] = []
        proba: np.ndarray | None = None
        head = model.head or model.run.head
        if inputs is not None:
            try:
                proba = head.predict_proba(inputs)
            except IcehouseError as error:
                return [{"run": model.run.run_id, "error": str(error)} for _ in batch]
        classes = [str(label) for label in head.classes_.tolist()]
        place = np.cumsum(judged) - 1
        for row, contents in enumerate(batch):
            if proba is None or not judged[row]:
                lacking = sorted(modality for modality in model.modalities if not _has(contents, modality))
                why = "; ".join(contents.errors.get(modality, f"no {modality}") for modality in lacking)
                told.append({"run": model.run.run_id, "error": why})
                continue
            mine = proba[place[row]]
            best = int(mine.argmax())
            entry: dict[str, Any] = {
                "run": model.run.run_id,
                "predicted": classes[best],
                "probability": round(float(mine[best]), 4),
                "probabilities": {label: round(float(p), 4) for label, p in zip(classes, mine, strict=True)},
            }
            if model.stops:
                entry["passes"] = bool(model.passes(mine[None], classes)[0])
            told.append(entry)
        seconds = time.perf_counter() - begun
        for entry in told:
            entry["ms"] = 1000 * seconds
        return told


def _has(contents: Contents, modality: str) -> bool:
    return any(feature[1] == modality for feature in contents.features)


def _stacked(values: Sequence[Any], dim: int) -> Any:
    """Rows of one feature, zero where they lack it; token states padded to the longest."""
    tokens = [value for value in values if isinstance(value, Tokens)]
    if not tokens:
        return np.stack([np.zeros(dim, np.float32) if value is None else value for value in values])
    longest = max(value.values.shape[1] for value in tokens)
    states = np.zeros((len(values), longest, dim), np.float32)
    mask = np.zeros((len(values), longest), bool)
    for row, value in enumerate(values):
        if value is not None:
            n = value.values.shape[1]
            states[row, :n], mask[row, :n] = value.values[0], value.mask[0]
    return Tokens(states, mask)


def _probe(store: Store | None, run: Run, feature: str) -> dict[str, str]:
    """Vectors of the probe's contents by the encoder: as the package says, else as the store does."""
    if isinstance(run, Package):
        return run.probe(feature) or {}
    if store is None or feature not in store.feature_names():
        return {}
    return dict(store.feature_table(feature).spec["probe"])
