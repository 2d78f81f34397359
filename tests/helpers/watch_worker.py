"""The command line, with the toy encoder: ``watch_worker.py watch --run ...``; each batch takes ``TOY_SECONDS``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from icehouse.__main__ import main
from icehouse.embed.tables import load_checked
from icehouse.serve import predict
from toys import ToyEncoder

SECONDS = float(os.environ.get("TOY_SECONDS", "0"))


class SlowToy(ToyEncoder):
    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> Any:
        time.sleep(SECONDS)
        return super().encode_images(pixels, outputs)


def load(spec: Any, encoder: Any = None, **options: Any) -> Any:
    return load_checked(spec, encoder or SlowToy(batch_size=4), **options)


if __name__ == "__main__":
    predict.load_checked = load
    main()
