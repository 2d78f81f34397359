"""Predictions on raw rows: embedded with the run's own encoder, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.manifest import SourceOptions, read_sources
from ..embed.checked import load_checked
from ..embed.encoder import Encoder, Modality, Tokens
from ..embed.extract import Failure
from ..embed.raw import encode_manifest
from ..errors import HeadError, SpaceError
from ..heads.evaluate import predict_items
from ..heads.inputs import Inputs
from ..heads.package import Package, is_package
from ..heads.runs import Prediction, Run
from ..store.store import Store

__all__ = ["Predictions", "predict"]


@dataclass(frozen=True)
class Predictions:
    """What a run says of some rows.

    Attributes
    ----------
    table : pyarrow.Table
        item_id, predicted, and ``p_<class>`` for each class; null where a row lacks an input of the run, or, of a run that
        was trained with ``missing="keep"``, where it lacks all of them.
    failures : list of Failure
        Files and texts that could not be encoded.
    rejected : pyarrow.Table
        Source rows that could not be taken at all.
    """

    table: pa.Table
    failures: list[Failure]
    rejected: pa.Table | None


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
        If there is no such run.
    """
    if not isinstance(run, Run) and is_package(run):
        run = Package.load(run)
    if sources is None or not isinstance(run, Package):
        if store is None:
            raise HeadError("there is no store: only a package predicts without one, and only raw rows")
        store = store if isinstance(store, Store) else Store.open(store)
        run = run if isinstance(run, Run) else Run.load(store, str(run))
    if sources is None:
        assert isinstance(store, Store)
        return Predictions(predict_items(store, run, where=where), [], None)
    manifest = read_sources(sources, options=options or SourceOptions())
    captions = [name for name, spec in run.specs.items() if spec["modality"].startswith("caption")]
    if captions:
        raise HeadError(
            f"run {run.run_id} takes captions (input {', '.join(captions)}), which new sources have not: embed and caption "
            "them into the store, then predict its items"
        )
    inputs: dict[str, np.ndarray | Tokens] = {}
    failures: list[Failure] = []
    for cleaning, specs in _by_encoder(run.specs):
        model = _own_encoder(store, run, specs, encoder, device)
        outputs: dict[Modality, list[str]] = {}
        for spec in specs.values():
            outputs.setdefault(spec["modality"], []).append(spec["output"])
        raw = encode_manifest(manifest, model, outputs=outputs, cleaning=cleaning, workers=workers)
        failures += raw.failures
        for name, spec in specs.items():
            inputs[name] = raw.arrays[spec["modality"], spec["output"]]
    return Predictions(_table(run, manifest.table["item_id"], inputs), failures, manifest.rejected)


def _by_encoder(specs: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Group inputs that one pass over the rows can serve: same encoder, and the cleaning they agree on."""
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    cleanings = {spec["encoder"]: _cleaning(spec) for spec in specs.values() if spec["modality"] == "text"}
    for name, spec in specs.items():
        cleaning = _cleaning(spec) if spec["modality"] == "text" else cleanings.get(spec["encoder"], "none")
        groups.setdefault((spec["encoder"], cleaning), {})[name] = spec
    return [(cleaning, group) for (_, cleaning), group in groups.items()]


def _cleaning(spec: Mapping[str, Any]) -> str:
    return str(spec["provenance"]["cleaning"])


def _own_encoder(
    store: Store | str | Path | None,
    run: Run,
    specs: Mapping[str, dict[str, Any]],
    encoder: Encoder | None,
    device: str,
) -> Encoder:
    """Load the encoder of these inputs and hold it against fingerprint and probe of each."""
    model = encoder
    for name, spec in specs.items():
        feature = run.features[name]
        try:
            probe = _probe(store, run, feature)
            model = load_checked({**spec, "probe": probe}, model, device=device)
        except SpaceError as error:
            raise SpaceError(f"run {run.run_id}: {error}") from None
    if model is None:
        raise HeadError(f"run {run.run_id} has no inputs")
    return model


def _probe(store: Store | str | Path | None, run: Run, feature: str) -> dict[str, str]:
    """What the encoder made of the probe's contents: as the package says, else as the store does."""
    if isinstance(run, Package):
        return run.probe(feature) or {}
    assert isinstance(store, Store)
    return store.feature_table(feature).spec["probe"] if feature in store.feature_names() else {}


def _table(run: Run, ids: pa.ChunkedArray, inputs: Mapping[str, np.ndarray | Tokens]) -> pa.Table:
    """Predictions of the rows that the run can judge; null for the others, in the rows' order."""
    present = {name: _there(values) for name, values in inputs.items()}
    # As with the items of a store: see `icehouse.heads.samples.load_samples`.
    keeps = run.record["data"]["missing"] == "keep" and run.head.handles_missing
    together = np.logical_or if keeps else np.logical_and
    judged = np.asarray(together.reduce(list(present.values())), bool)
    rows = np.flatnonzero(judged)
    if len(rows):
        arrays = {name: _taken(values, rows, present[name][rows]) for name, values in inputs.items()}
        lacking = {name: here[rows] for name, here in present.items() if not here[rows].all()}
        prediction = run.predict_features(Inputs(arrays, lacking))
    else:
        classes = run.head.classes_
        prediction = Prediction(classes, np.zeros((0, len(classes))))
    predicted = prediction.to_arrow(ids.take(pa.array(rows)).to_pylist())
    place = np.full(len(ids), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    taken = predicted.drop_columns(["item_id"]).take(pa.array(place, mask=~judged))
    return taken.add_column(0, "item_id", ids)


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
