"""Clients of vision-language servers: Ollama's protocol, and the chat completions that vLLM, llama.cpp and others offer."""

from __future__ import annotations

import base64
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .transport import (
    CONNECT_S,
    BadAnswerError,
    MissingModelError,
    SetupError,
    Transport,
    hide,
    split_host,
)

#: Where Ollama listens by default.
PORT = 11434

#: Environment variable that holds the key of an OpenAI-compatible server, unless another is named.
KEY_VARIABLE = "OPENAI_API_KEY"

_OLLAMA_KEY = "OLLAMA_API_KEY"
# Most characters of what a server calls itself or its models.
_MOST_NAME = 300


@dataclass(frozen=True)
class Identity:
    """Identity of a server's model: `model`, its full name, `digest` of its weights and template (None if not told).

    `server` is software and version, for the record.
    """

    model: str
    digest: str | None
    server: str


@dataclass(frozen=True)
class Question:
    """One picture and what is asked of it; `options` are in Ollama's names."""

    prompt: str
    image: bytes
    options: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """Answer of a server.

    `cut`: it ended because no more tokens were allowed; `load_s`: seconds of the wait that went into loading the model;
    `reasoning`: what the server told apart from the answer as the model's reasoning.
    """

    text: str
    cut: bool
    tokens: int | None
    load_s: float = 0.0
    reasoning: str = ""


class Api(ABC):
    """A server, as seen by one run. Every method raises only `ServerError` and `CaptionError`."""

    url: str
    model: str

    @abstractmethod
    async def identify(self) -> Identity:
        """Find out who answers; `MissingModelError` if the model is not there, `SetupError` if it cannot see."""

    @abstractmethod
    async def ask(self, question: Question) -> Answer:
        """Ask about one picture."""

    async def pull(self, progress: Callable[[str, int, int], None]) -> None:
        """Have the server fetch the model; `progress` gets (what is done, bytes done, bytes in all)."""
        raise SetupError(f"{self.url} cannot fetch models itself")

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""


def default_hosts() -> list[str]:
    """Address of Ollama: ``OLLAMA_HOST``, else this machine."""
    return [os.environ.get("OLLAMA_HOST") or "127.0.0.1"]


class OllamaApi(Api):
    """One Ollama server: `host` as people write it (``gpu1``, ``http://gpu1:11434``), `model` with or without its tag."""

    def __init__(self, host: str, model: str, *, timeout: float) -> None:
        self.model = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
        self._http = Transport(
            split_host(host, PORT),
            self.model,
            timeout=timeout,
            key=os.environ.get(_OLLAMA_KEY),
            prefer_key=True,
            key_variable=_OLLAMA_KEY,
            example=f"http://gpu1:{PORT}",
        )
        self.url = self._http.url
        import ollama

        self._ollama = ollama.AsyncClient(transport=self._http)
        # Questions about the server itself need no model to be loaded.
        self._brief_s = min(timeout, CONNECT_S)

    async def identify(self) -> Identity:
        """Find out version and digest, and that the model can see."""
        async with self._http.errors(self._brief_s):
            version = await self.version()
            digests = await self.models()
            if self.model not in digests:
                raise self._missing(sorted(digests))
            capabilities = await self.capabilities(self.model)
            # Servers from before capabilities were told are believed.
            if capabilities is not None and "vision" not in capabilities:
                can = ", ".join(capabilities)
                raise SetupError(
                    f"{self.model} at {self.url} cannot see pictures (it can: {can}); take a vision model, such as llava:7b"
                )
            return Identity(self.model, digests[self.model], f"ollama {version}")

    async def version(self) -> str:
        """Version of the server."""
        async with self._http.errors(self._brief_s):
            return self._http.clip((await self._http.json("GET", "/api/version"))["version"], _MOST_NAME)

    async def models(self) -> dict[str, str | None]:
        """Digest of each model that the server has."""
        async with self._http.errors(self._brief_s):
            return {
                hide(str(entry.model), self._http.secrets): None
                if entry.digest is None
                else self._http.clip(entry.digest, _MOST_NAME)
                for entry in (await self._ollama.list()).models
            }

    async def capabilities(self, model: str) -> list[str] | None:
        """Capabilities of a model; None from old servers, which do not list them."""
        async with self._http.errors(self._brief_s):
            try:
                # The package asks more of this answer than old servers tell.
                told = (await self._http.json("POST", "/api/show", {"model": model})).get("capabilities")
            except MissingModelError:
                raise self._missing([]) from None
            return None if told is None else [self._http.clip(one, _MOST_NAME) for one in told]

    async def ask(self, question: Question) -> Answer:
        """Ask `/api/chat`, not streamed: one answer, one JSON object, or none."""
        async with self._http.errors(self._http.timeout):
            try:
                told = await self._ollama.chat(
                    self.model,
                    [{"role": "user", "content": question.prompt, "images": [question.image]}],
                    stream=False,
                    # A model that can think would otherwise think about every picture.
                    think=False,
                    format=dict(question.schema) if question.schema else None,
                    options=dict(question.options),
                )
            except MissingModelError:
                raise self._missing([]) from None
            if not told.done:
                raise BadAnswerError(f"{self.url}: an answer without its end")
            return Answer(
                _text(self._http, told.message.content),
                told.done_reason == "length",
                _count(told.eval_count),
                (told.load_duration or 0) / 1e9,
                _text(self._http, told.message.thinking),
            )

    async def pull(self, progress: Callable[[str, int, int], None]) -> None:
        """Have the server fetch the model."""
        # Takes as long as it takes: only each read has a limit, and each line a length, which the package would not bound.
        async with self._http.errors(None):
            lines = self._http.lines("/api/pull", {"model": self.model, "stream": True})
            async with aclosing(lines):
                async for line in lines:
                    part = json.loads(line)
                    if "error" in part:
                        # Says "file does not exist" for a name that the library does not have.
                        why = self._http.clip(part["error"], 200)
                        raise SetupError(f"{self.url} cannot pull {self.model}: {why}")
                    status = hide(str(part.get("status") or ""), self._http.secrets)
                    progress(status, int(part.get("completed") or 0), int(part.get("total") or 0))

    def _missing(self, there: list[str]) -> MissingModelError:
        have = f"; it has: {self._http.clip(', '.join(there[:10]), _MOST_NAME)}" if there else ""
        return MissingModelError(
            f"{self.url} has no model {self.model}{have}: run `ollama pull {self.model}` there, or add --pull"
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class OpenAiApi(Api):
    """One OpenAI-compatible server: to `host` ``/v1`` is added where it has no path.

    The key is in the environment variable `key_variable`; none is sent where that is not set.
    """

    def __init__(self, host: str, model: str, *, timeout: float, key_variable: str = KEY_VARIABLE) -> None:
        url = split_host(host, 8000)
        self.model = model
        self._http = Transport(
            f"{url}/v1" if url.count("/") == 2 else url,
            model,
            timeout=timeout,
            key=os.environ.get(key_variable),
            prefer_key=False,
            key_variable=key_variable,
            example="http://gpu1:8000/v1",
        )
        self.url = self._http.url

    async def identify(self) -> Identity:
        """Find the model in `/models`, where the server has such a list; the protocol knows no digest."""
        async with self._http.errors(CONNECT_S):
            response = await self._http.request("GET", "/models")
            if response.status_code in (404, 405, 501):
                return Identity(self.model, None, "openai-compatible")
            told = self._http.checked(response).json()["data"]
            entries = {str(entry["id"]): dict(entry) for entry in told}
            if self.model not in entries:
                have = self._http.clip(", ".join(sorted(entries)[:10]), _MOST_NAME) or "none"
                raise MissingModelError(f"{self.url} has no model {self.model}; it has: {have}")
            entry = entries[self.model]
            # vLLM tells the checkpoint behind an alias as "root".
            root, owner = entry.get("root"), entry.get("owned_by") or "openai-compatible"
            clip = self._http.clip
            return Identity(self.model, clip(root, _MOST_NAME) if root else None, clip(owner, _MOST_NAME))

    async def ask(self, question: Question) -> Answer:
        """Ask `/chat/completions`, the picture as a data URI."""
        picture = "data:image/jpeg;base64," + base64.b64encode(question.image).decode()
        content = [
            {"type": "text", "text": question.prompt},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
        options = dict(question.options)
        if "num_predict" in options:
            options["max_tokens"] = options.pop("num_predict")
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "stream": False,
            **options,
        }
        if question.schema:
            schema = {"name": "caption", "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        async with self._http.errors(self._http.timeout):
            told = await self._http.json("POST", "/chat/completions", body)
            choice = told["choices"][0]
            message = choice["message"]
            text = message.get("content")
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            if isinstance(text, list):
                text, thought = _joined(text)
                reasoning = reasoning or thought
            return Answer(
                _text(self._http, text),
                choice.get("finish_reason") == "length",
                _count((told.get("usage") or {}).get("completion_tokens")),
                reasoning=_text(self._http, reasoning if isinstance(reasoning, str) else ""),
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _text(http: Transport, value: Any) -> str:
    if not isinstance(value, (str, type(None))):
        raise BadAnswerError(f"{http.url} gave an answer that is not text")
    return hide((value or "").strip(), http.secrets)


def _count(value: Any) -> int | None:
    # A count that is none is no reason to lose the answer.
    return value if type(value) is int and value >= 0 else None


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
