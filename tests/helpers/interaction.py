"""Tasks whose label lies between two inputs: neither says anything by itself, nor does their sum."""

from __future__ import annotations

import numpy as np
from icehouse.heads.inputs import Inputs, Tokens


def equal_or_different(
    n: int, seed: int = 0, *, kinds: int = 3, noise: float = 0.2
) -> tuple[Inputs, np.ndarray]:
    """Image and text of one of `kinds` classes each; the label says whether it is the same class."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99)
    shown, named = _pairs(rng, n, kinds)
    image, text = centres.normal(size=(kinds, 8)), centres.normal(size=(kinds, 6))
    X = {
        "image": image[shown] + noise * rng.normal(size=(n, 8)),
        "text": text[named] + noise * rng.normal(size=(n, 6)),
    }
    return Inputs({k: v.astype(np.float32) for k, v in X.items()}), np.where(
        shown == named, "equal", "different"
    )


def hidden_token(n: int, seed: int = 0, *, kinds: int = 3, noise: float = 0.2) -> tuple[Inputs, np.ndarray]:
    """The same with tokens: one patch of five and one word of up to four carry the class, the rest are noise."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99)
    shown, named = _pairs(rng, n, kinds)
    arrays = {}
    for name, which, length, width in (("image", shown, 5, 8), ("text", named, 4, 6)):
        kind = 2 * centres.normal(size=(kinds, width))
        values = noise * rng.normal(size=(n, length, width))
        lengths = rng.integers(2, length + 1, n) if name == "text" else np.full(n, length)
        values[np.arange(n), rng.integers(0, lengths)] += kind[which]
        mask = np.arange(length) < lengths[:, None]
        arrays[name] = Tokens((values * mask[..., None]).astype(np.float32), mask)
    return Inputs(arrays), np.where(shown == named, "equal", "different")


def _pairs(rng: np.random.Generator, n: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of both inputs, equal in half of the rows."""
    shown = rng.integers(0, kinds, n)
    other = (shown + rng.integers(1, kinds, n)) % kinds
    return shown, np.where(np.arange(n) % 2 == 0, shown, other)
