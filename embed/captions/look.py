"""Whether Ollama answers, and which of its models can see."""

from __future__ import annotations

from typing import Any

from .api import shown, split_host
from .ollama_api import PORT, default_hosts

__all__ = ["look_at_ollama"]

_WAIT_S = 3.0


def look_at_ollama(host: str | None = None) -> dict[str, Any]:
    """Ask a server for its version and its models.

    Parameters
    ----------
    host : str, optional
        ``OLLAMA_HOST``, else this machine, unless given.

    Returns
    -------
    dict
        ``host``, ``answers``, ``version`` (None where it does not answer), ``models``, ``vision`` (those of them that can
        see) and ``detail``, the same in one line. A host that cannot be reached is reported, not refused.
    """
    host = host or default_hosts()[0]
    found: dict[str, Any] = {"host": host, "answers": False, "version": None, "models": [], "vision": []}
    try:
        import httpx
        import ollama

        url = split_host(host, PORT)
        found["host"] = shown(url)
        response = httpx.get(f"{url}/api/version", timeout=_WAIT_S)
        response.raise_for_status()
        client = ollama.Client(url, timeout=_WAIT_S)
        models = [str(model.model) for model in client.list().models]
        seeing = [name for name in models if "vision" in (client.show(name).capabilities or ())]
        version = str(response.json()["version"])
    except (
        Exception
    ) as error:  # the client raises whatever its HTTP library does, and a stranger may listen there
        return {**found, "detail": " ".join(str(error).split())[:200] or type(error).__name__}
    can = f"{len(seeing)} of them can see: {', '.join(seeing)}" if seeing else "none of them can see"
    detail = f"version {version}, {len(models)} models, {can}" if models else f"version {version}, no models"
    return {
        **found,
        "answers": True,
        "version": version,
        "models": models,
        "vision": seeing,
        "detail": detail,
    }
