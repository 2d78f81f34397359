"""Small open_clip models on disk, made once a run and loaded through open_clip's own path."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, str]]:
    """Function from an architecture's name to its model as open_clip made it, and the id of its checkpoint."""
    import checkpoints

    # Its vocabulary is read from a packed file, a tenth of a second for each model.
    factory = pytest.importorskip("open_clip.factory")
    factory.SimpleTokenizer = cache(factory.SimpleTokenizer)
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.install(folder / "configs")

    @cache
    def make(name: str) -> tuple[Any, str]:
        model = checkpoints.make(name)
        path = checkpoints.save(model, folder / f"{name}.pt")
        return model, f"openclip:{name}/{path}"

    return make


@pytest.fixture(scope="session")
def encoders(checkpoint: Callable[[str], tuple[Any, str]]) -> Callable[..., Any]:
    """Function from a name (`mini`, or an architecture of `checkpoints`) and a precision to an encoder."""
    from icehouse.embed.encoder import load_encoder

    @cache
    def load(name: str, precision: str = "float32") -> Any:
        encoder_id = name if name == "mini" else checkpoint(name)[1]
        return load_encoder(encoder_id, device="cpu", precision=precision)

    return load
