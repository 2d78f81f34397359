"""Diagnosis of the machine, the encoders, Ollama and the store: `icehouse doctor`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..console import one_line
from ..embed.captions.apis import OllamaApi, ServerError, default_hosts
from ..embed.captions.scheduler import run_async
from ..embed.encoder import ALIASES, Encoder, available, load_encoder
from ..errors import EncoderError, IcehouseError, count_of

#: Seconds that each answer may take.
WAIT_S = 3.0


def ollama_status(host: str | None = None) -> dict[str, Any]:
    """Ask a server (``OLLAMA_HOST``, else this machine, unless given) for its version and its models.

    Returns ``host``, ``answers``, ``version`` (None where it does not answer), ``models``, ``vision`` (those of them that
    can see, or of which the server tells nothing, as old ones do: captioning believes them too), ``untold`` (those that
    it could not show) and ``detail``, the same in one line. A host that cannot be reached is reported, not refused.
    """
    host = host or default_hosts()[0]
    found: dict[str, Any] = {
        "host": host.rpartition("@")[2],
        "answers": False,
        "version": None,
        "models": [],
        "vision": [],
        "untold": [],
    }
    try:
        api = OllamaApi(host, "", timeout=WAIT_S)
    except IcehouseError as error:
        return {**found, "detail": one_line(str(error))}
    found["host"] = api.url
    run_async(_ask(api, found))
    return found


async def _ask(api: OllamaApi, found: dict[str, Any]) -> None:
    try:
        found["detail"] = one_line(await _look(api, found))
    except ServerError as error:
        found["detail"] = one_line(str(error))
    finally:
        await api.close()


async def _look(api: OllamaApi, found: dict[str, Any]) -> str:
    """Fill `found`; returns what it amounts to."""
    version = await api.version()
    found |= {"version": version, "answers": True}
    try:
        found["models"] = models = list(await api.models())
    except ServerError as error:
        return f"version {version}, but it does not list its models: {error}"
    why = ""
    for at, name in enumerate(models):
        try:
            capabilities = await api.capabilities(name)
        except ServerError as error:
            why = why or str(error)
            if error.status is None:
                # It has stopped answering: do not wait for it once for each model.
                found["untold"] += models[at:]
                break
            found["untold"].append(name)
        else:
            found["vision"] += [name] if capabilities is None or "vision" in capabilities else []
    seeing, untold = found["vision"], found["untold"]
    if not models:
        return f"version {version}, no models"
    can = f"{len(seeing)} of them can see: {', '.join(seeing)}" if seeing else "none of them can see"
    if untold:
        can = can if seeing or len(untold) < len(models) else "it does not tell what they can do"
        can += f"; it cannot show {', '.join(untold)} ({why})"
    return f"version {version}, {count_of(len(models), 'model')}, {can}"


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
        _try(encoder)
    except EncoderError as error:
        return {"encoder": name, "usable": False, "detail": str(error)}
    outputs = ", ".join(f"{o.modality}/{o.name} ({o.dim})" for o in encoder.outputs)
    return {"encoder": name, "usable": True, "detail": outputs}


def _try(encoder: Encoder) -> None:
    """Encode a picture and a text, whichever the encoder takes: a tower may be loaded only then."""
    first = {output.modality: output.name for output in encoder.outputs[::-1]}
    if "image" in first:
        from PIL import Image

        picture = encoder.prepare_image(Image.new("RGB", (64, 64), (90, 120, 150)))
        encoder.encode_images(picture[None], [first["image"]])
    if "text" in first:
        encoder.encode_texts(["ice"], [first["text"]])


def _store(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from ..store.store import Store

    try:
        store = Store.open(path)
        return {"path": str(path), "items": store.items.rows, "features": store.feature_names()}
    except IcehouseError as error:
        return {"path": str(path), "detail": str(error)}
