"""Predictions of raw rows by a run's own encoders, and what predicting is made of wherever heads are asked.

`predict` embeds sources and judges them. A server and a watch have their contents already: `Scorer` passes each through the
encoders once for all heads. Both know from here which features a run reads, which encoder makes them, which rows it can
judge, and which runs are gates.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data import image_files
from ..data.manifest import Manifest, SourceOptions, read_sources
from ..data.paths import why_missing
from ..data.text import DEFAULT_CLEANING, clean
from ..embed.encoder import Encoder, Modality, Tokens
from ..embed.extract import Failure, Unencodable, encode_contents, encode_manifest
from ..embed.tables import load_checked
from ..errors import HeadError, IcehouseError, SpaceError, UsageError, count_of
from ..heads.head import Head
from ..heads.inputs import Inputs
from ..heads.package import Package, is_package
from ..heads.runs import Prediction, Run
from ..heads.trainer import predict_items
from ..store.schema import tower_of
from ..store.store import Store

#: Column of a manifest that holds what a modality needs.
_COLUMNS = {"image": "path", "text": "text"}
_A = {"image": "an image", "text": "a text"}


@dataclass(frozen=True)
class Predictions:
    """Predictions of a run for some rows."""

    table: pa.Table
    failures: list[Failure]
    rejected: pa.Table | None
    notes: tuple[str, ...] = ()


def predict(
    store: Store | str | Path | None,
    run: Run | str | Path,
    sources: Sequence[str | Path] | None = None,
    *,
    options: SourceOptions | None = None,
    where: str | None = None,
    encoder: Encoder | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Predictions:
    """Predict raw rows, or the items of the store.

    Parameters
    ----------
    store : Store, str, Path or None
        Where the run lies; a package that predicts raw rows needs none.
    run : Run, str or Path
        A run, its id, an unambiguous part of it, or "latest"; or a package, or its folder.
    sources : sequence of str or Path, optional
        Folders, images and annotation files, as `icehouse.embed_sources` takes them; by default the items of the store.
    where : str, optional
        SQL condition over the items, where the store is predicted.
    encoder : Encoder, optional
        An encoder that is loaded already; refused unless it is the run's own.

    Returns
    -------
    Predictions

    Raises
    ------
    SpaceError
        If the encoder is not, or no longer, the one that the run was trained on.
    HeadError
        If there is no such run, or no row has what it needs: that shows before anything is encoded.
    """
    if not isinstance(run, Run) and is_package(run):
        run = Package.load(run)
    if sources is None or not isinstance(run, Package):
        if store is None:
            raise HeadError("there is no store: only a package predicts without one, and only raw rows")
        store = Store.of(store)
        run = run if isinstance(run, Run) else Run.load(store, str(run))
    if sources is None:
        assert isinstance(store, Store)
        predicted = predict_items(store, run, where=where)
        return Predictions(_with_the_rest(store, run, where, predicted), [], None)
    refuse_captions(
        run, "new sources have not: embed and caption them into the store, then predict its items"
    )
    manifest = read_sources(sources, options=options or SourceOptions())
    _check_needs(run, manifest)
    inputs: dict[str, np.ndarray | Tokens] = {}
    failures: list[Failure] = []
    for cleaning, specs in _by_encoder(run.specs):
        model = encoder
        for name in specs:
            model = own_encoder(store if isinstance(store, Store) else None, run, name, model, device)
        assert model is not None
        outputs: dict[Modality, list[str]] = {}
        for spec in specs.values():
            outputs.setdefault(spec["modality"], []).append(spec["output"])
        raw = encode_manifest(manifest, model, outputs=outputs, cleaning=cleaning, workers=workers)
        failures += raw.failures
        for name, spec in specs.items():
            inputs[name] = raw.arrays[spec["modality"], spec["output"]]
    table = _table(run, manifest, inputs, failures)
    return Predictions(table, failures, manifest.rejected, manifest.notes)


def _check_needs(run: Run, manifest: Manifest) -> None:
    """Refuse sources of which no row has what the run needs."""
    table, needed = manifest.table, sorted({spec["modality"] for spec in run.specs.values()})
    have = {name: pc.is_valid(table[_COLUMNS[name]]).to_numpy() for name in needed}
    enough = (np.logical_or if keeps_rows(run) else np.logical_and).reduce(list(have.values()))
    inputs = (" or " if keeps_rows(run) else " and ").join(_A[name] for name in needed)
    if not enough.any():
        lacking = [name for name in needed if not have[name].any()] or needed
        both = (
            "both" if len(lacking) > 1 and not keeps_rows(run) else " or ".join(_A[name] for name in lacking)
        )
        flags = " and ".join(f"--{name}-column" for name in lacking)
        unread = "".join(f"; {note}" for note in manifest.notes if "not read" in note)
        raise HeadError(
            f"run {run.run_id} needs {inputs}, and none of the {count_of(len(table), 'row')} has {both}: {flags} names the "
            f"column of an annotation file{unread}"
        )
    if "image" not in needed or (
        keeps_rows(run) and any(have[name].any() for name in needed if name != "image")
    ):
        return
    files = [
        Path(root) / path
        for root, path, here in zip(table["root"].to_pylist(), table["path"].to_pylist(), enough, strict=True)
        if here
    ]
    if not any(map(image_files.exists, files)):
        why = why_missing(files[0])
        raise HeadError(
            f"run {run.run_id} needs {inputs}, and none of {count_of(len(files), 'image file')} is there, such as {files[0]}"
            f"{f' ({why})' if why else ''}: --root names the folder that paths start from"
        )


def _with_the_rest(store: Store, run: Run, where: str | None, predicted: pa.Table) -> pa.Table:
    """Predictions, and the items that have none, each with the reason, in the order of the table `items`."""
    keys = {name: str(store.feature_table(feature).spec["key"]) for name, feature in run.features.items()}
    items, _ = store.present_items(["path", *keys.values()], where)
    place = pc.index_in(items["item_id"], value_set=predicted["item_id"].combine_chunks())
    rest = items.filter(pc.is_null(place)).to_pylist()
    told: dict[str, str] = {}
    lacking = {row["item_id"] for row in rest}
    for failure in store.failures.read(["item_id", "stage", "message"]).to_pylist() if rest else ():
        if failure["item_id"] in lacking:
            told[failure["item_id"]] = f"{failure['stage']}: {failure['message']}"
    known = {
        name: set(store.feature_table(feature).read([keys[name]])[keys[name]].to_pylist()) if rest else set()
        for name, feature in run.features.items()
    }
    reasons: dict[str, str] = {}
    for row in rest:
        found = []
        for name, feature in run.features.items():
            modality = run.specs[name]["modality"]
            if row[keys[name]] is None and not (keys[name] == "image_sha256" and row["path"] is not None):
                found.append(f"no {modality}")
            elif row[keys[name]] not in known[name]:
                found.append(told.get(row["item_id"]) or f"not in {feature}")
        reasons[row["item_id"]] = "; ".join(dict.fromkeys(found))
    ids = items["item_id"]
    table = predicted.drop_columns(["item_id"]).take(place).add_column(0, "item_id", ids)
    return table.append_column(
        "reason", pa.array([reasons.get(item) for item in ids.to_pylist()], pa.string())
    )


def _by_encoder(specs: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Group inputs that one pass over the rows can serve: same encoder, and the cleaning they agree on."""
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    cleanings = {spec["encoder"]: cleaning_of(spec) for spec in specs.values() if spec["modality"] == "text"}
    for name, spec in specs.items():
        cleaning = cleaning_of(spec) if spec["modality"] == "text" else cleanings.get(spec["encoder"], "none")
        groups.setdefault((spec["encoder"], cleaning), {})[name] = spec
    return [(cleaning, group) for (_, cleaning), group in groups.items()]


def _table(
    run: Run, manifest: Manifest, inputs: Mapping[str, np.ndarray | Tokens], failures: list[Failure]
) -> pa.Table:
    """Predictions of the rows that the run can judge; null and a reason for the others, in the rows' order."""
    ids = manifest.table["item_id"]
    present = {name: _there(values) for name, values in inputs.items()}
    rows, lacking = judged_rows(run, present)
    if len(rows):
        arrays = {name: _taken(values, rows, present[name][rows]) for name, values in inputs.items()}
        prediction = run.predict_features(Inputs(arrays, lacking))
    else:
        classes = run.head.classes_
        prediction = Prediction(classes, np.zeros((0, len(classes))))
    predicted = prediction.to_arrow(ids.take(pa.array(rows)).to_pylist())
    place = np.full(len(ids), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    taken = predicted.drop_columns(["item_id"]).take(pa.array(place, mask=place < 0))
    reasons = _reasons(run, manifest, present, rows, failures)
    return taken.add_column(0, "item_id", ids).append_column("reason", pa.array(reasons, pa.string()))


def _reasons(
    run: Run,
    manifest: Manifest,
    present: Mapping[str, np.ndarray],
    judged: np.ndarray,
    failures: list[Failure],
) -> list[str | None]:
    """Why each row that was not judged was not."""
    said = {
        (failure.item_id, "text" if failure.file is None else "image"): f"{failure.stage}: {failure.message}"
        for failure in failures
    }
    table = manifest.table
    reasons: list[str | None] = [None] * len(table)
    for row in np.setdiff1d(np.arange(len(table)), judged).tolist():
        item, found = table["item_id"][row].as_py(), []
        for name in present:
            modality = run.specs[name]["modality"]
            if present[name][row]:
                continue
            if not table[_COLUMNS[modality]][row].is_valid:
                found.append(f"no {modality}")
            else:
                found.append(said.get((item, modality), f"its {modality} could not be encoded"))
        reasons[row] = "; ".join(dict.fromkeys(found))
    return reasons


def _there(values: np.ndarray | Tokens) -> np.ndarray:
    """Whether each row has an input: bool, (n,); a row that has none is NaN."""
    array = values.values[:, 0] if isinstance(values, Tokens) else values
    found: np.ndarray = np.isfinite(array).all(axis=1)
    return found


def _taken(values: np.ndarray | Tokens, rows: np.ndarray, here: np.ndarray) -> np.ndarray | Tokens:
    """Some of the rows, zero where they lack the input, as heads expect it."""
    if isinstance(values, Tokens):
        mask = values.mask[rows] & here[:, None]
        return Tokens(np.where(here[:, None, None], values.values[rows], 0), mask)
    return np.where(here[:, None], values[rows], 0)


#: A feature of one content: encoder, tower ("image" or "text"), output, cleaning of texts ("" for images).
Feature = tuple[str, str, str, str]


def feature_of(spec: Mapping[str, Any]) -> Feature:
    """The feature that a spec describes."""
    tower = tower_of(spec["modality"])
    return spec["encoder"], tower, spec["output"], cleaning_of(spec) if tower == "text" else ""


def cleaning_of(spec: Mapping[str, Any]) -> str:
    """Cleaning of the texts of a feature."""
    return str((spec.get("provenance") or {}).get("cleaning") or DEFAULT_CLEANING)


def load_run(store: Store | None, name: str) -> Run:
    """A run of the store, or a package by its folder."""
    if is_package(name):
        return Package.load(name)
    if store is None:
        raise HeadError(f"there is no store to look for run {name!r} in, and {name} is no package")
    return Run.load(store, name)


def refuse_captions(run: Run, why: str) -> None:
    """HeadError for a run that takes captions, where there are none."""
    captions = [name for name, spec in run.specs.items() if spec["modality"].startswith("caption")]
    if captions:
        raise HeadError(f"run {run.run_id} takes captions (input {', '.join(captions)}), which {why}")


def own_encoder(
    store: Store | None, run: Run, name: str, encoder: Encoder | None, device: str = "auto"
) -> Encoder:
    """Load the encoder of an input of a run, unless it is there already; held against fingerprint and probe."""
    feature, probe = run.features[name], {}
    if isinstance(run, Package):
        probe = run.probe(feature) or {}
    elif store is not None and feature in store.feature_names():
        probe = store.feature_table(feature).spec["probe"]
    try:
        return load_checked({**run.specs[name], "probe": probe}, encoder, device=device)
    except SpaceError as error:
        raise SpaceError(f"run {run.run_id}: {error}") from None


def keeps_rows(run: Run) -> bool:
    """Whether one of the run's inputs is enough: it was trained on rows that lack some, by a head that bears it."""
    return run.missing == "keep" and run.head.handles_missing


def judged_rows(run: Run, present: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows that a run can judge, given which (n,) have each input; and of the inputs that some lack, which have them."""
    together = np.logical_or if keeps_rows(run) else np.logical_and
    rows = np.flatnonzero(together.reduce(list(present.values())))
    return rows, {name: here[rows] for name, here in present.items() if not here[rows].all()}


def inputs_of(run: Run, batch: Sequence[Mapping[Feature, Any]]) -> tuple[Inputs | None, list[int]]:
    """Inputs of the rows of a batch that a run can judge, from the features of each; and which rows these are."""
    features = {name: feature_of(spec) for name, spec in run.specs.items()}
    present = {name: np.array([key in made for made in batch], bool) for name, key in features.items()}
    rows, lacking = judged_rows(run, present)
    if not len(rows):
        return None, []
    arrays = {
        name: _stacked([batch[row].get(features[name]) for row in rows], spec)
        for name, spec in run.specs.items()
    }
    return Inputs(arrays, lacking), rows.tolist()


def _stacked(values: Sequence[Any], spec: Mapping[str, Any]) -> Any:
    """Rows of one feature, zero where they lack it; token states padded to the longest."""
    dim = int(spec["dim"])
    if spec["output"] != "tokens":
        return np.stack([np.zeros(dim, np.float32) if value is None else value for value in values])
    longest = max(1 if value is None else value.values.shape[1] for value in values)
    states = np.zeros((len(values), longest, dim), np.float32)
    mask = np.zeros((len(values), longest), bool)
    for row, value in enumerate(values):
        if value is not None:
            n = value.values.shape[1]
            states[row, :n], mask[row, :n] = value.values[0], value.mask[0]
    return Tokens(states, mask)


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

    def passes(self, proba: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Mask of the rows (n,) that go further, by their probabilities (n, k)."""
        going = np.array([label not in self.stops for label in classes], bool)
        if self.threshold is None:
            return going[proba.argmax(axis=1)]
        found: np.ndarray = proba[:, going].sum(axis=1) >= self.threshold
        return found


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
    models = [Model(short_name(name), load_run(store, name)) for name in order]
    twice = [name for name, n in Counter(model.name for model in models).items() if n > 1]
    if twice:
        raise UsageError(f"two runs would both be called {twice[0]!r}: name each by its id")
    for model in models:
        refuse_captions(model.run, "a stream has not")
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
        #: Features that each input is encoded in, in the order of the runs.
        self.wanted: list[Feature] = []
        for model in self.models:
            for name, spec in model.run.specs.items():
                known = self.encoders.get(spec["encoder"])
                self.encoders[spec["encoder"]] = own_encoder(store, model.run, name, known, device)
                self.wanted.append(feature_of(spec))
        for spec in further:
            if feature_of(spec) not in self.wanted:
                known = self.encoders.get(spec["encoder"])
                self.encoders[spec["encoder"]] = load_checked(spec, known, device=device)
                self.wanted.append(feature_of(spec))
        self.wanted = list(dict.fromkeys(self.wanted))

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

    def score(self, model: Model, batch: Sequence[Contents]) -> list[dict[str, Any]]:
        """Prediction of a model for each row, as JSON values; ``{"error": ...}`` where it lacks an input."""
        begun = time.perf_counter()
        head = model.head or model.run.head
        inputs, rows = inputs_of(model.run, [contents.features for contents in batch])
        try:
            proba: Any = [] if inputs is None else head.predict_proba(inputs)
        except IcehouseError as error:
            return [{"run": model.run.run_id, "error": str(error)} for _ in batch]
        judged = dict(zip(rows, proba, strict=True))
        classes = [str(label) for label in head.classes_.tolist()]
        told: list[dict[str, Any]] = []
        for row, contents in enumerate(batch):
            if row not in judged:
                lacking = sorted(modality for modality in model.modalities if not _has(contents, modality))
                why = "; ".join(contents.errors.get(modality, f"no {modality}") for modality in lacking)
                told.append({"run": model.run.run_id, "error": why})
                continue
            mine = judged[row]
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
        ms = 1000 * (time.perf_counter() - begun)
        return [{**entry, "ms": ms} for entry in told]


def _has(contents: Contents, modality: str) -> bool:
    return any(feature[1] == modality for feature in contents.features)
