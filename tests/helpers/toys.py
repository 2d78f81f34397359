"""A toy encoder and toy pictures: everything real but the model, which is arithmetic a reader can do by hand."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from icehouse.embed.encoder import Encoder, Modality, Output, Tokens
from PIL import Image

WORDS = 24


class ToyEncoder(Encoder):
    """Image: the colours of a 2 x 2 grid; text: a histogram of its words' checksums.

    Parameters
    ----------
    resample : PIL.Image.Resampling
        Not part of the provenance, on purpose: changing it is what only the probe can notice.
    poison : int or None
        An image whose top left pixel has this red value makes the whole batch fail.
    """

    family = "toy"
    device = "cpu"
    precision = "float32"
    image_side = 32
    context_length = 16  # type: ignore[assignment]
    outputs = (
        Output("image", "joint", WORDS),
        Output("image", "pooled", 12),
        Output("image", "tokens", 3),
        Output("text", "joint", WORDS),
        Output("text", "pooled", WORDS),
        Output("text", "tokens", 4),
    )

    def __init__(
        self,
        model: str = "a",
        *,
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        poison: int | None = None,
        batch_size: int = 8,
        **_: Any,
    ) -> None:
        self.id = f"toy:{model}"
        self.name = f"toy-{model}"
        self.resample = resample
        self.poison = poison
        self.batch_size = batch_size
        self.batches: list[int] = []

    def provenance(self, modality: Modality) -> dict[str, Any]:
        return {"family": "toy", "model": self.id, "weights_sha256": "0" * 64, "modality": modality}

    def prepare_image(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((32, 32), self.resample))

    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        self.batches.append(len(pixels))
        if self.poison is not None and (pixels[:, 0, 0, 0] == self.poison).any():
            raise RuntimeError("the model choked")
        cells = pixels.reshape(len(pixels), 2, 16, 2, 16, 3).astype(np.float32).mean(axis=(2, 4))
        # The last columns see single pixels, so that another way to resize shows.
        fine = pixels[:, ::8, ::8].reshape(len(pixels), -1)[:, :12].astype(np.float32)
        joint = np.concatenate([cells.reshape(len(pixels), 12), fine], axis=1) - 128
        joint /= np.linalg.norm(joint, axis=1, keepdims=True) + 1e-6
        made: dict[str, np.ndarray | Tokens] = {
            "joint": joint,
            "pooled": cells.reshape(len(pixels), 12) / 255,
            "tokens": Tokens(cells.reshape(len(pixels), 4, 3), np.ones((len(pixels), 4), dtype=bool)),
        }
        return {name: made[name] for name in outputs}

    def encode_texts(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        self.batches.append(len(texts))
        counts = np.zeros((len(texts), WORDS), dtype=np.float32)
        longest = max((min(len(t.split()), self.context_length) for t in texts), default=0)
        states = np.zeros((len(texts), max(longest, 1), 4), dtype=np.float32)
        mask = np.zeros(states.shape[:2], dtype=bool)
        for i, text in enumerate(texts):
            for j, word in enumerate(text.split()[: self.context_length]):
                counts[i, zlib.crc32(word.lower().encode()) % WORDS] += 1
                states[i, j] = np.frombuffer(zlib.crc32(word.encode()).to_bytes(4, "big"), np.uint8)
                mask[i, j] = True
        mask[:, 0] = True
        norms = np.linalg.norm(counts, axis=1, keepdims=True)
        made: dict[str, np.ndarray | Tokens] = {
            "joint": counts / np.maximum(norms, 1),
            "pooled": counts,
            "tokens": Tokens(states, mask),
        }
        return {name: made[name] for name in outputs}

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(text.split()) for text in texts], dtype=np.int32)


#: What `icehouse.embed.encoder.available` finds where a package offers the toy as a family.
TOYS = {"toy": SimpleNamespace(load=lambda: ToyEncoder)}


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth random colours with some detail; another seed, another picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


@cache
def shapes(seed: int, width: int = 240, height: int = 200) -> Image.Image:
    """Shapes on a ground: another seed, another picture, with detail of all sizes. Drawn once; not to be drawn on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), rng.integers(60, 200, 3), float) + (x / width * 40)[..., None]
    for _ in range(60):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        wide, high = rng.uniform(4, 45, 2)
        inside = (
            (np.abs(x - cx) < wide) & (np.abs(y - cy) < high)
            if rng.random() < 0.5
            else (((x - cx) / wide) ** 2 + ((y - cy) / high) ** 2 < 1)
        )
        pixels[inside] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def make_pictures(folder: Path, n: int, *, seed: int = 0, suffix: str = ".png", **size: int) -> list[Path]:
    """Write `n` different pictures, named in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(n):
        path = folder / f"{i:04d}{suffix}"
        path.write_bytes(_file(seed * 100_003 + i, suffix, tuple(size.items())))
        paths.append(path)
    return paths


@cache
def _file(seed: int, suffix: str, size: tuple[tuple[str, int], ...]) -> bytes:
    """The bytes of a picture's file, which many tests begin with."""
    written = io.BytesIO()
    picture(seed, **dict(size)).save(written, Image.registered_extensions()[suffix])
    return written.getvalue()
