"""Environment check: encoders, packages, device, Ollama and store of this machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..embed.captions.status import ollama_status
from ..embed.encoder import ALIASES, available, load_encoder
from ..errors import EncoderError, IcehouseError

__all__ = ["examine"]

_PACKAGES = (
    "icehouse",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "pyarrow",
    "duckdb",
    "faiss-cpu",
    "faiss-gpu",
    "scikit-learn",
    "lightgbm",
    "pillow",
    "pillow-heif",
    "httpx",
)


def examine(store: Path | None = None, *, load: bool = True) -> dict[str, Any]:
    """Look at the machine, the encoders, Ollama and the store."""
    advice: list[str] = []
    packages = {name: _version(name) for name in _PACKAGES}
    if packages["faiss-cpu"] and packages["faiss-gpu"]:
        advice.append(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other: pip uninstall one of them"
        )
    if not packages["faiss-cpu"] and not packages["faiss-gpu"]:
        advice.append("no FAISS: pip install 'icehouse[cpu]' (or [gpu])")
    encoders = [_encoder(name, load) for name in ("mini", *ALIASES)] + [
        {"encoder": f"{family}:...", "usable": None, "detail": "installed by another package"}
        for family in sorted(set(available()) - {"mini", "openclip"})
    ]
    advice += [f"{entry['encoder']}: {entry['detail']}" for entry in encoders if entry["usable"] is False]
    ollama = ollama_status()
    if not ollama["answers"]:
        advice.append(
            f"Ollama does not answer at {ollama['host']}: start it with `ollama serve` (only captions need it)"
        )
    elif not ollama["vision"] and not ollama["untold"]:
        advice.append(
            f"Ollama at {ollama['host']} has no vision model: `ollama pull llava:7b` (only captions need it)"
        )
    return {
        "system": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
        },
        "packages": packages,
        "device": _device(),
        "encoders": encoders,
        "ollama": ollama,
        "store": _store(store),
        "advice": advice,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    try:
        from ..embed.encoder import choose_device, choose_precision, describe

        device = choose_device("auto")
        return {"device": device, "precision": choose_precision("auto", device), "detail": describe(device)}
    except (ImportError, OSError) as error:
        return {"device": None, "detail": f"torch cannot be used: {error}"}


def _encoder(name: str, load: bool) -> dict[str, Any]:
    if not load:
        return {"encoder": name, "usable": None, "detail": "not tried"}
    try:
        encoder = load_encoder(name)
    except EncoderError as error:
        return {"encoder": name, "usable": False, "detail": str(error)}
    outputs = ", ".join(f"{o.modality}/{o.name} ({o.dim})" for o in encoder.outputs)
    return {"encoder": name, "usable": True, "detail": outputs}


def _store(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from ..store.store import Store

    try:
        store = Store.open(path)
        return {"path": str(path), "items": store.items.rows, "features": store.feature_names()}
    except IcehouseError as error:
        return {"path": str(path), "detail": str(error)}
