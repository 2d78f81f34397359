"""Predictions on raw rows: embedded with the run's own encoder, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data import image_files
from ..data.manifest import Manifest, SourceOptions, read_sources
from ..data.paths import why_missing
from ..embed.encoder import Encoder, Modality, Tokens
from ..embed.extract import Failure, encode_manifest
from ..errors import HeadError, count_of
from ..heads.inputs import Inputs
from ..heads.package import Package, is_package
from ..heads.runs import Prediction, Run
from ..heads.trainer import predict_items
from ..store.store import Store
from .scoring import cleaning_of, judged_rows, keeps_rows, own_encoder, refuse_captions

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
