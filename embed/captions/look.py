"""Whether Ollama answers, and which of its models can see."""

from __future__ import annotations

import os
from typing import Any

from ...console import one_line
from .api import shown, split_host
from .guard import HEADERS, credentials, hide, hooks, secrets_of
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
        see, or of which the server tells nothing, as old ones do: captioning believes them too), ``untold`` (those that it
        could not show) and ``detail``, the same in one line. A host that cannot be reached is reported, not refused.
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
    secrets: tuple[str, ...] = ()
    # The client raises whatever its HTTP library does, and a stranger may listen there: hence every `except Exception`.
    try:
        import httpx
        import ollama

        url = split_host(host, PORT)
        found["host"] = shown(url)
        key = os.environ.get("OLLAMA_API_KEY")
        secrets = secrets_of(url, key)
        guards = hooks(url, sync=True)
        headers = {**HEADERS, **({"Authorization": f"Bearer {key}"} if key else {})}
        with httpx.Client(
            headers=headers, follow_redirects=True, timeout=_WAIT_S, event_hooks=guards
        ) as http:
            response = http.get(f"{url}/api/version")
        response.raise_for_status()
        found |= {"version": hide(str(response.json()["version"]), secrets)[:100], "answers": True}
    except Exception as error:
        return _hidden({**found, "detail": _brief(error)}, secrets)
    # The client drops user and password from the URL.
    client = ollama.Client(
        url, timeout=_WAIT_S, headers=HEADERS, event_hooks=guards, auth=None if key else credentials(url)
    )
    return _hidden(_models(client, found), secrets)


def _models(client: Any, found: dict[str, Any]) -> dict[str, Any]:
    """`found` with the server's models, and which of them can see."""
    import ollama

    try:
        found["models"] = [str(model.model) for model in client.list().models]
    except Exception as error:
        return {
            **found,
            "detail": f"version {found['version']}, but it does not list its models: {_brief(error)}",
        }
    why = ""
    for at, name in enumerate(found["models"]):
        try:
            capabilities = client.show(name).capabilities
        except ollama.ResponseError as error:
            found["untold"].append(name)
            why = why or _brief(error)
        except Exception as error:
            # It has stopped answering: do not wait for it once for each model.
            found["untold"] += found["models"][at:]
            why = why or _brief(error)
            break
        else:
            found["vision"] += [name] if capabilities is None or "vision" in capabilities else []
    return {**found, "detail": _detail(found, why)}


def _detail(found: dict[str, Any], why: str) -> str:
    models, seeing, untold = found["models"], found["vision"], found["untold"]
    if not models:
        return f"version {found['version']}, no models"
    can = f"{len(seeing)} of them can see: {', '.join(seeing)}" if seeing else "none of them can see"
    if untold:
        can = can if seeing or len(untold) < len(models) else "it does not tell what they can do"
        can += f"; it cannot show {', '.join(untold)} ({why})"
    return f"version {found['version']}, {len(models)} models, {can}"


def _hidden(found: dict[str, Any], secrets: tuple[str, ...]) -> dict[str, Any]:
    """`found` without the credentials that a server, or an error, may repeat."""
    return {
        key: hide(value, secrets)
        if isinstance(value, str)
        else [hide(one, secrets) for one in value]
        if isinstance(value, list)
        else value
        for key, value in found.items()
    }


def _brief(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__
