"""What is asked, of whom, and how: the settings of a captioning run, and the provenance that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import UsageError
from . import pictures
from .api import Api, Identity
from .cleaning import CLEANING
from .ollama_api import OllamaApi, default_hosts
from .openai_api import KEY_VARIABLE, OpenAiApi
from .prompts import QUOTING, TEXT_BUDGET, Prompt
from .structured import SCHEMA

__all__ = ["PATIENCE_S", "Asking"]

#: Seconds to go on when no host answers.
PATIENCE_S = 120.0

#: The second question about a picture: with temperature 0 another seed alone would bring the same answer.
_RETRY_TEMPERATURE = 0.4


@dataclass(frozen=True)
class Asking:
    """What is asked, of whom, and how.

    Parameters
    ----------
    model : str
        As the server calls it: ``llava:7b``.
    prompt : Prompt
    api : {"ollama", "openai"}, default "ollama"
    hosts : sequence of str
        By default ``OLLAMA_HOST``, else this machine.
    options : mapping
        In Ollama's names, added to temperature 0, the seed and the most tokens.
    seed : int, default 0
    max_tokens : int, default 200
    max_side : int, default 672
        Longest side of a picture, in pixels, as it is sent.
    concurrency : int, optional
        Questions at once for each host; found out by measuring unless given.
    timeout : float, default 300
        Seconds an answer may take.
    patience : float, default 120
        Seconds to go on trying when no host answers.
    pull : bool, default False
        Have a server that lacks the model fetch it.
    """

    model: str
    prompt: Prompt = field(default_factory=lambda: Prompt.of(None, None))
    api: Literal["ollama", "openai"] = "ollama"
    hosts: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_tokens: int = 200
    max_side: int = pictures.MAX_SIDE
    concurrency: int | None = None
    timeout: float = 300.0
    patience: float = PATIENCE_S
    pull: bool = False
    key_variable: str = KEY_VARIABLE

    def __post_init__(self) -> None:
        if self.api not in ("ollama", "openai"):
            raise UsageError(f"no protocol {self.api!r}; there are ollama and openai")
        if self.api == "openai" and not self.hosts:
            raise UsageError("--api openai needs --host URL")
        if self.api == "openai" and self.pull:
            raise UsageError(
                "--pull: only Ollama can be told to fetch a model; load it on the server, and leave --pull out"
            )
        for name, value, least in (
            ("max_tokens", self.max_tokens, 1),
            ("max_side", self.max_side, 32),
            ("timeout", self.timeout, 0.001),
            ("concurrency", self.concurrency or 1, 1),
        ):
            if value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: at least {least}")
        for name, most in (("seed", 2**63 - 2), ("num_predict", 2**31 - 1)):
            value = self.sampling(0)[name]
            if not (-most <= value <= most and float(value).is_integer()):
                raise UsageError(f"{name} {value}: a whole number, at most {most}")

    def connect(self) -> list[Api]:
        """Make a client for each host, once each."""
        clients: dict[str, Api] = {}
        for host in self.hosts or default_hosts():
            client: Api
            if self.api == "ollama":
                client = OllamaApi(host, self.model, timeout=self.timeout)
            else:
                client = OpenAiApi(host, self.model, timeout=self.timeout, key_variable=self.key_variable)
            clients.setdefault(client.url, client)
        return list(clients.values())

    def sampling(self, attempt: int) -> dict[str, Any]:
        """Options of the first question (0) or the second (1): another seed, some temperature, room for a longer answer."""
        first = {"temperature": 0.0, "seed": self.seed, "num_predict": self.max_tokens, **self.options}
        if attempt == 0:
            return first
        room = int(first["num_predict"])
        return {
            **first,
            "seed": int(first["seed"]) + 1,
            "temperature": max(float(first["temperature"]), _RETRY_TEMPERATURE),
            # Negative ones mean "without end" and "to the context's end".
            "num_predict": 2 * room if room > 0 else room,
        }

    def provenance(self, identity: Identity) -> dict[str, Any]:
        """Everything that decides about an answer."""
        return {
            "api": self.api,
            "model": identity.model,
            "digest": identity.digest,
            "prompt": self.prompt.full_template,
            "text": {"budget": TEXT_BUDGET, "quoting": QUOTING} if self.prompt.with_text else None,
            "structured": SCHEMA if self.prompt.structured else None,
            "options": self.sampling(0),
            "retry": self.sampling(1),
            "image": {
                "max_side": self.max_side,
                "min_side": pictures.MIN_SIDE,
                "max_ratio": pictures.MAX_RATIO,
                "format": "JPEG",
                "quality": pictures.QUALITY,
            },
            "cleaning": CLEANING,
        }
