"""Photographs to measure on: crops and resizes of the ones that scikit-image ships, saved as JPEGs of ordinary sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: Sizes as social media serves them.
SIZES = ((1200, 900), (1080, 1080), (1024, 768), (1200, 675), (800, 600), (680, 510), (640, 480), (600, 800))
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg",
               "motorcycle_left.png", "motorcycle_right.png", "ihc.png")  # fmt: skip


def make_jpegs(folder: Path, n: int, *, seed: int = 0) -> list[Path]:
    """Write `n` different JPEGs, or find them from an earlier call."""
    import skimage

    paths = [folder / f"{i:06d}.jpg" for i in range(n)]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(skimage.__file__).parent / "data"
    photographs = [
        Image.open(source / name).convert("RGB") for name in PHOTOGRAPHS if (source / name).exists()
    ]
    rng = np.random.default_rng(seed)
    for path in paths:
        photograph = photographs[rng.integers(len(photographs))]
        width, height = SIZES[rng.integers(len(SIZES))]
        share = rng.uniform(0.4, 1.0)
        w, h = int(photograph.width * share), int(photograph.height * share)
        left, top = rng.integers(photograph.width - w + 1), rng.integers(photograph.height - h + 1)
        crop = photograph.crop((left, top, left + w, top + h)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # Grain keeps an enlarged crop from being smoother, and so cheaper to decode, than a photograph of that size.
        grain = rng.normal(0, 6, (height, width, 1))
        noisy = np.clip(np.asarray(crop) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=int(rng.integers(75, 93)))
    return paths
