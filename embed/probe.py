"""The probe: a few contents, re-encoded before anything is appended, must land where they landed before.

Metadata says what a writer believes of itself; the probe says what it does. It catches what metadata cannot: another
resize, a quick-GELU mismatch, a library that changed underneath. Two built-in contents need no file, so a store that was
copied without its images is still guarded; up to four of the user's own join them while their files or texts are there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SpaceError
from .encoder import Encoder, Modality, Tokens

__all__ = ["MIN_COSINE", "builtin_contents", "check_probe", "make_probe", "probe_vectors"]

#: Below this cosine two encodings of one content are not of one space.
MIN_COSINE = 0.999

#: At most this many of the user's own contents are kept.
OWN_CONTENTS = 4


def builtin_contents(modality: Modality) -> dict[str, Any]:
    """Contents every installation can make: id -> upright RGB image, or cleaned text."""
    if modality == "text":
        return {
            "builtin:flood": "flooded streets after the storm, families wait for help on their roofs",
            "builtin:lunch": "a photo of my lunch: rice, beans and a cup of coffee",
        }
    return {"builtin:wide": _pattern(640, 427, seed=1), "builtin:tall": _pattern(375, 520, seed=2)}


def _pattern(width: int, height: int, seed: int) -> Image.Image:
    """Picture with detail at every scale, so that each way to resize it leaves its own trace."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rng = np.random.default_rng(seed)
    channels = []
    for _ in range(3):
        field = np.zeros((height, width))
        for octave in range(1, 8):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            wave = 2**octave * np.pi / max(width, height)
            field += np.sin(wave * (x * np.cos(angle) + y * np.sin(angle)) + phase) / octave
        # Hard edges and single-pixel stripes alias under nearest-neighbour or unfiltered bilinear resizing.
        field += np.sign(np.sin(x / 5.0 + y / 11.0)) * 0.8 + ((x + y) % 3 - 1) * 0.7
        channels.append(field)
    stacked = np.stack(channels, axis=-1)
    low, high = stacked.min(), stacked.max()
    return Image.fromarray(np.rint((stacked - low) / (high - low) * 255).astype(np.uint8))


def probe_vectors(
    encoder: Encoder, modality: Modality, contents: Sequence[Any], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Encode probe contents, always whole and one at a time, so that neither decoding nor batching plays a part.

    Parameters
    ----------
    contents : sequence
        Upright RGB images, or cleaned texts.

    Returns
    -------
    dict
        Each output's (n, dim) float32 array; token states are averaged over the real tokens.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for content in contents:
        if modality == "image":
            encoded = encoder.encode_images(encoder.prepare_image(content)[None], outputs)
        else:
            encoded = encoder.encode_texts([content], outputs)
        for name in outputs:
            rows[name].append(_pooled(encoded[name]))
    return {name: np.stack(vectors) for name, vectors in rows.items()}


def _pooled(encoded: np.ndarray | Tokens) -> np.ndarray:
    if isinstance(encoded, Tokens):
        mean: np.ndarray = encoded.values[0][encoded.mask[0]].mean(axis=0)
        return mean
    return encoded[0]


def make_probe(
    encoder: Encoder, modality: Modality, own: Mapping[str, Any], outputs: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Probe of a new table: for each output, content id -> its vector (float16, base64).

    Parameters
    ----------
    own : mapping
        sha256 -> content, of the user's own; the first `OWN_CONTENTS` are taken.
    """
    contents = {**builtin_contents(modality), **dict(list(own.items())[:OWN_CONTENTS])}
    vectors = probe_vectors(encoder, modality, list(contents.values()), outputs)
    return {
        name: {
            key: base64.b64encode(row.astype("<f2").tobytes()).decode()
            for key, row in zip(contents, rows, strict=True)
        }
        for name, rows in vectors.items()
    }


def check_probe(
    encoder: Encoder,
    modality: Modality,
    table: str,
    probes: Mapping[str, Mapping[str, str]],
    find: Callable[[str], Any] | None = None,
) -> None:
    """Re-encode a table's probe contents and compare.

    Parameters
    ----------
    table : str
        What the message calls the table.
    probes : mapping
        Output -> probe, as `make_probe` returned it.
    find : callable, optional
        sha256 -> content, or None where it is gone; without it only the built-in contents are compared.

    Raises
    ------
    SpaceError
        If a cosine falls below `MIN_COSINE`.
    """
    contents = builtin_contents(modality)
    for key in dict.fromkeys(key for probe in probes.values() for key in probe):
        if find is not None and key not in contents and not key.startswith("builtin:"):
            content = find(key)
            if content is not None:
                contents[key] = content
    outputs = list(probes)
    keys = [key for key in contents if all(key in probe for probe in probes.values())]
    if not keys or not outputs:
        return
    now = probe_vectors(encoder, modality, [contents[key] for key in keys], outputs)
    for name in outputs:
        for key, vector in zip(keys, now[name], strict=True):
            cosine = _cosine(_decoded(probes[name][key]), vector)
            if not cosine >= MIN_COSINE:
                raise SpaceError(
                    f"{table}: {encoder.id} no longer encodes as it did: probe {key[:20]} of {name} comes back at cosine "
                    f"{cosine:.4f} (at least {MIN_COSINE} is needed); use the versions the table was made with "
                    "(see `icehouse info --json`), or start another table with --name"
                )


def _decoded(text: str) -> np.ndarray:
    """Vector of a probe; none at all, which is like no other, where the text is no vector."""
    try:
        return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)
    except (ValueError, TypeError):
        return np.empty(0, np.float32)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("nan")
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
