"""Pictures to stream, some of them again, and streams of a toy encoder that judge them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from icehouse.dups.stream import DuplicateStream
from icehouse.dups.window import Arrival, SlidingWindow, StreamResult
from PIL import Image
from toys import ToyEncoder, make_pictures

COSINE = 0.999


def make_stream(encoder: ToyEncoder | None = None, **options: Any) -> DuplicateStream:
    """A stream that judges by the toy encoder, unless told otherwise."""
    return DuplicateStream(encoder or ToyEncoder(batch_size=5), **{"rule": COSINE, "window": 100, **options})


def make_photos(folder: Path) -> list[Path]:
    """24 pictures; 8 of them again as JPEG, 4 as they are, two files that are no pictures, and one that is not there."""
    paths = make_pictures(folder, 24)
    again = []
    for k in range(0, 24, 3):
        path = folder / f"again-{k}.jpg"
        Image.open(paths[k]).save(path, quality=88)
        again.append(path)
    copies = [Path(shutil.copy(paths[k], folder / f"copy-{k}.png")) for k in (1, 2, 5, 9)]
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>")
    odd = [folder / "empty.png", folder / "page.jpg", folder / "nowhere.png"]
    everything = [*paths, *again, *copies, *odd, *copies]
    order = np.random.default_rng(0).permutation(len(everything))
    return [everything[k] for k in order]


def judged(window: SlidingWindow, stream: list[Arrival], sizes: list[int]) -> list[StreamResult]:
    """Judge a stream in batches of such sizes, in turns."""
    out: list[StreamResult] = []
    while len(out) < len(stream):
        out += window.judge(stream[len(out) : len(out) + sizes[len(out) % len(sizes)]])
    return out
