"""Any OpenAI-compatible chat endpoint: vLLM, llama.cpp's server, LM Studio, a hosted service."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from typing import Any

from ...errors import CaptionError
from .api import (
    Answer,
    Api,
    BrokenError,
    FaultError,
    Identity,
    MissingError,
    Question,
    fault_of_status,
    shown,
    split_host,
)
from .backoff import parse_retry_after
from .guard import HEADERS, RedirectedError, hiding, hooks, secrets_of
from .ollama_api import certificates, fault_of_transport, settle_imports

__all__ = ["KEY_VARIABLE", "OpenAiApi"]

#: Environment variable that holds the key, unless another is named.
KEY_VARIABLE = "OPENAI_API_KEY"

_CONNECT_S = 10.0
_MOST_NAME = 300
# vLLM: "The model `x` does not exist."; a server that is asked at the wrong address does not speak of models.
_NO_MODEL = re.compile(r"\bmodel\b.*(not exist|not found)", re.DOTALL | re.IGNORECASE)
_NAMES = {"num_predict": "max_tokens"}


class OpenAiApi(Api):
    """One OpenAI-compatible server.

    Parameters
    ----------
    host : str
        ``http://gpu1:8000``; ``/v1`` is added where there is no path.
    model : str
        As the server calls it.
    timeout : float
        Seconds an answer may take.
    key_variable : str, default "OPENAI_API_KEY"
        Environment variable with the key; none is sent where it is not set.
    """

    def __init__(self, host: str, model: str, *, timeout: float, key_variable: str = KEY_VARIABLE) -> None:
        try:
            import httpx
        except ImportError as error:
            raise CaptionError(f"captions need the ollama package: pip install ollama ({error})") from error
        settle_imports()
        full = split_host(host, 8000)
        if full.count("/") == 2:
            full += "/v1"
        self._full = full
        self.url = shown(full)
        self.model = model
        self._timeout = timeout
        self._key_variable = key_variable
        key = os.environ.get(key_variable)
        self.secrets = secrets_of(full, key)
        self._client = httpx.AsyncClient(
            headers={**HEADERS, **({"Authorization": f"Bearer {key}"} if key else {})},
            event_hooks=hooks(full),
            timeout=httpx.Timeout(timeout, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            verify=certificates(),
        )

    @hiding
    async def identify(self) -> Identity:
        """Find the model in `/models`, where the server has such a list; the protocol knows no digest."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                response = await self._client.get(f"{self._full}/models", timeout=_CONNECT_S)
            if response.status_code in (404, 405, 501):
                return Identity(self.model, None, "openai-compatible")
            self._check(response)
            entries = {str(entry["id"]): dict(entry) for entry in response.json()["data"]}
        except FaultError:
            raise
        except Exception as error:
            raise self._fault(error, _CONNECT_S) from None
        if self.model not in entries:
            have = self.told(", ".join(sorted(entries)[:10]), _MOST_NAME) or "none"
            raise MissingError(f"{self.url} has no model {self.model}; it has: {have}")
        entry = entries[self.model]
        # vLLM tells the checkpoint behind an alias as "root".
        root = entry.get("root")
        return Identity(
            self.model,
            self.told(root, _MOST_NAME) if root else None,
            self.told(entry.get("owned_by") or "openai-compatible", _MOST_NAME),
        )

    @hiding
    async def ask(self, question: Question) -> Answer:
        """Ask `/chat/completions`, the picture as a data URI."""
        picture = "data:image/jpeg;base64," + base64.b64encode(question.image).decode()
        content = [
            {"type": "text", "text": question.prompt},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "stream": False,
            **{_NAMES.get(name, name): value for name, value in question.options.items()},
        }
        if question.schema:
            payload["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "caption", "strict": True, "schema": dict(question.schema)},
            }
        try:
            # The client's own limit is for each read: a server that drips would never reach it.
            async with asyncio.timeout(self._timeout):
                response = await self._client.post(f"{self._full}/chat/completions", json=payload)
            self._check(response)
            body = response.json()
            choice = body["choices"][0]
            text = choice["message"].get("content") or ""
            reasoning = choice["message"].get("reasoning_content") or choice["message"].get("reasoning")
            if isinstance(text, list):
                text, thought = _joined(text)
                reasoning = reasoning or thought
            if not isinstance(text, str):
                raise BrokenError(f"{self.url} gave an answer that is not text")
            tokens = (body.get("usage") or {}).get("completion_tokens")
            cut = choice.get("finish_reason") == "length"
        except FaultError:
            raise
        except Exception as error:
            raise self._fault(error, self._timeout) from None
        # A count that is none is no reason to lose the answer.
        return Answer(
            text.strip(),
            cut,
            tokens if type(tokens) is int and tokens >= 0 else None,
            reasoning=reasoning.strip() if isinstance(reasoning, str) else "",
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    def _check(self, response: Any) -> None:
        if response.is_success:
            return
        onward = response.next_request
        # A server that only sends from one of its own addresses to the next is no other host.
        if onward is not None and _origin(onward.url) != _origin(response.url):
            there = shown(str(onward.url))
            raise RedirectedError(there.removesuffix("/chat/completions").removesuffix("/models"))
        try:
            said = response.json()["error"]
            message = said["message"] if isinstance(said, dict) else str(said)
        except (ValueError, KeyError, TypeError, RecursionError):
            message = response.text
        message = self.told(message, 2000)
        if response.status_code == 404 and _NO_MODEL.search(message):
            raise MissingError(f"{self.url} has no model {self.model}: {message[:200]} (status 404)")
        raise fault_of_status(
            self.url,
            response.status_code,
            message,
            parse_retry_after(response.headers.get("retry-after")),
            key_variable=self._key_variable,
            path="http://gpu1:8000/v1",
        )

    def _fault(self, error: Exception, timeout: float) -> FaultError:
        import httpx

        return fault_of_transport(error, self, timeout, httpx)


def _joined(parts: list[Any]) -> tuple[str, str]:
    """Text of an answer in parts, and the reasoning among them."""
    texts, thoughts = [], []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif part.get("type") in ("text", "output_text"):
            texts.append(str(part["text"]))
        elif part.get("type") in ("thinking", "reasoning"):
            thought = part.get("thinking") or part.get("text") or ""
            thoughts.append(_joined(thought)[0] if isinstance(thought, list) else str(thought))
    return "".join(texts), "".join(thoughts)


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
