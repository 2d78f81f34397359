"""Raw rows to vectors without a store: what a prediction on new data needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.manifest import Manifest
from ..data.text import text_sha256
from .encoder import Encoder, Modality, Tokens
from .extract import Encoded, Extractor, Failure, Work
from .report import StageClock

__all__ = ["RawFeatures", "encode_manifest"]


@dataclass(frozen=True)
class RawFeatures:
    """Vectors of a source's rows.

    Attributes
    ----------
    arrays : dict
        (modality, output) -> (n, dim) float32 array or `Tokens`, row by row with the manifest; NaN where a row has none.
    failures : list of Failure
        What could not be read or encoded.
    """

    arrays: dict[tuple[Modality, str], np.ndarray | Tokens]
    failures: list[Failure]


def encode_manifest(
    manifest: Manifest,
    encoder: Encoder,
    *,
    outputs: Mapping[Modality, Sequence[str]],
    cleaning: str,
    workers: int | None = None,
) -> RawFeatures:
    """Encode a manifest's rows in memory, images decoded whole.

    Parameters
    ----------
    outputs : mapping
        Modality -> names of the outputs wanted.
    cleaning : str
        Name of the text cleaning.
    """
    rows = manifest.table
    image_outputs, text_outputs = outputs.get("image", ()), outputs.get("text", ())
    extractor = Extractor(
        encoder,
        image_outputs=image_outputs,
        text_outputs=text_outputs,
        cleaning=cleaning,
        image_done=set(),
        text_done=set(),
        shortest=None,
        workers=workers or os.cpu_count() or 1,
        batch_size=encoder.batch_size,
        dtype="float32",
        clock=StageClock(),
    )
    texts = rows["text"].to_pylist()
    works = (
        Work(
            item_id,
            None if path is None or not image_outputs else Path(root) / path,
            text if text_outputs else None,
            i,
        )
        for i, (item_id, root, path, text) in enumerate(
            zip(
                rows["item_id"].to_pylist(),
                rows["root"].to_pylist(),
                rows["path"].to_pylist(),
                texts,
                strict=True,
            )
        )
    )
    keys: dict[Modality, list[str | None]] = {
        "image": [None] * len(rows),
        "text": [None if text is None else text_sha256(text) for text in texts],
    }
    batches: dict[Modality, list[Encoded]] = {"image": [], "text": []}
    failures: list[Failure] = []
    for event in extractor.run(works):
        if isinstance(event, Encoded):
            batches[event.modality].append(event)
        elif isinstance(event, Failure):
            failures.append(event)
        elif event.facts is not None:
            keys["image"][event.work.tag] = event.facts.image_sha256
    arrays = {
        (modality, output): _by_row(
            keys[modality], batches[modality], output, encoder.output(modality, output).dim
        )
        for modality, names in outputs.items()
        for output in names
    }
    return RawFeatures(arrays, failures)


def _by_row(keys: list[str | None], batches: list[Encoded], output: str, dim: int) -> np.ndarray | Tokens:
    """Lay encoded contents out in the rows' order."""
    place = {key: i for i, key in enumerate(key for batch in batches for key in batch.keys)}
    rows = np.array([place.get(key, -1) if key is not None else -1 for key in keys], dtype=np.int64)
    found = rows >= 0
    values = [batch.outputs[output] for batch in batches]
    tokens = [v for v in values if isinstance(v, Tokens)]
    if tokens:
        longest = max(v.values.shape[1] for v in tokens)
        states = np.full((len(keys), longest, dim), np.nan, dtype=np.float32)
        mask = np.zeros((len(keys), longest), dtype=bool)
        padded = np.concatenate(
            [np.pad(v.values, ((0, 0), (0, longest - v.values.shape[1]), (0, 0))) for v in tokens]
        )
        masks = np.concatenate([np.pad(v.mask, ((0, 0), (0, longest - v.mask.shape[1]))) for v in tokens])
        states[found], mask[found] = padded[rows[found]], masks[rows[found]]
        return Tokens(states, mask)
    X = np.full((len(keys), dim), np.nan, dtype=np.float32)
    if found.any():
        X[found] = np.concatenate([v for v in values if isinstance(v, np.ndarray)])[rows[found]]
    return X
