"""Ollama status, for `icehouse doctor`: whether it answers, and which of its models can see."""

from __future__ import annotations

from typing import Any

from ...console import one_line
from ...errors import IcehouseError
from .apis import OllamaApi, default_hosts
from .scheduler import run_async
from .transport import ServerError

__all__ = ["WAIT_S", "ollama_status"]

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
    return f"version {version}, {len(models)} models, {can}"
