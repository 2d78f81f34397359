"""What a server of vision-language models is to the rest: who it is, an answer to a question, and how it can fail.

Two protocols implement `Api`: Ollama's (`ollama_api`) and OpenAI's (`openai_api`). Whatever a server
or its network does wrong becomes one of the faults here, by what is to be done about it. Every message names the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ...errors import UsageError
from .guard import hide

__all__ = [
    "Answer",
    "Api",
    "BrokenError",
    "BusyError",
    "DeniedError",
    "FaultError",
    "GoneError",
    "Identity",
    "MissingError",
    "Question",
    "RejectedError",
    "fault_of_status",
    "shown",
    "split_host",
]


class FaultError(Exception):
    """Something went wrong with a question; `retry_after`: seconds that the server asked to be left alone, if it did."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(FaultError):
    """The server has too much to do: the same question later, and fewer at once."""


class GoneError(FaultError):
    """Nobody answers at the address. The question was never heard."""


class BrokenError(FaultError):
    """No usable answer (cut, timed out, status 500, garbage), and the server or the picture may be to blame."""


class RejectedError(FaultError):
    """The server will never answer this question, and goes on with others."""


class DeniedError(FaultError):
    """The server will answer no question until a person does something: a missing model, a wrong key."""


class MissingError(DeniedError):
    """The server does not have the model; it can perhaps be made to fetch it."""


@dataclass(frozen=True)
class Identity:
    """Who answers.

    Attributes
    ----------
    model : str
        Name, in full.
    digest : str or None
        Of the model's weights and template; None where the protocol has none.
    server : str
        Software and version, for the record.
    """

    model: str
    digest: str | None
    server: str


@dataclass(frozen=True)
class Question:
    """One picture and what is asked of it.

    Attributes
    ----------
    options : mapping
        In Ollama's names: ``temperature``, ``seed``, ``num_predict``, ...
    """

    prompt: str
    image: bytes
    options: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes
    ----------
    cut : bool
        It ended because no more tokens were allowed.
    tokens : int or None
        Tokens of the answer.
    load_s : float
        Seconds of the wait that went into loading the model.
    reasoning : str
        What the server told apart from the answer as the model's reasoning.
    """

    text: str
    cut: bool
    tokens: int | None
    load_s: float = 0.0
    reasoning: str = ""


class Api(ABC):
    """A server, as seen by one run. Every method raises only faults and `CaptionError`."""

    url: str
    model: str
    secrets: tuple[str, ...] = ()

    @abstractmethod
    async def identify(self) -> Identity:
        """Find out who answers; `MissingError` if the model is not there, `DeniedError` if it cannot see."""

    @abstractmethod
    async def ask(self, question: Question) -> Answer:
        """Ask about one picture."""

    async def pull(self, progress: Callable[[str, int, int], None]) -> None:
        """Have the server fetch the model; `progress` gets (what is done, bytes done, bytes in all)."""
        raise DeniedError(f"{self.url} cannot fetch models itself")

    def told(self, text: object, most: int) -> str:
        """The first `most` characters of what the server said; credentials are hidden before one is cut in two."""
        return hide(str(text), self.secrets)[:most]

    @abstractmethod
    async def close(self) -> None:
        """Let go of the connections."""


def fault_of_status(
    url: str, status: int, message: str, retry_after: float | None = None, *, key_variable: str, path: str
) -> FaultError:
    """The fault that an HTTP status stands for, with the server's own words and, where a person has to act, the remedy.

    Parameters
    ----------
    url : str
        Who said so, fit to be shown.
    status : int
    message : str
        The server's words.
    retry_after : float, optional
        Seconds that it asked to be left alone.
    key_variable : str
        Environment variable that holds the key.
    path : str
        An address as the protocol has it, for whoever gave another.
    """
    text = f"{url}: {' '.join(message[:2000].split())[:200] or 'no reason given'} (status {status})"
    if status in (429, 503):
        return BusyError(f"{text}: it is busy", retry_after)
    if status in (401, 403):
        return DeniedError(f"{text}: is the key in {key_variable} right?")
    if status == 404:
        return DeniedError(f"{text}: is the address right? It looks like {path}")
    if status == 402:
        return DeniedError(text)
    if 400 <= status < 500 and status not in (408, 499):
        return RejectedError(text)
    return BrokenError(text, retry_after)


def split_host(host: str, default_port: int) -> str:
    """Bring a host as people write it to a URL: scheme and port completed, no slash at the end.

    ``0.0.0.0`` and ``[::]``, which tell a server to listen everywhere, mean this machine to a client.

    Raises
    ------
    UsageError
        If it is no host.
    """
    scheme, colon, rest = host.strip().partition("://")
    if not colon:
        scheme, rest = "http", host.strip()
    # No message holds a password, or a part of one.
    told = repr(rest.rpartition("@")[2])
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError as error:
        why = "" if "@" in rest else f": {error}"
        raise UsageError(f"{told} is no host{why}; write it as http://name:port") from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise UsageError(f"the password for {told} has /, ? or # in it: write these as %2F, %3F, %23")
    if scheme not in ("http", "https") or any(c.isspace() for c in rest):
        raise UsageError(f"{told} is no host; write it as http://name:port")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    if port is None:
        port = default_port if not colon else {"http": 80, "https": 443}[scheme]
    user = parts.netloc.rpartition("@")[0]
    place = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return urlunsplit((scheme, f"{user}@{place}" if user else place, parts.path.rstrip("/"), "", ""))


def shown(url: str) -> str:
    """URL as it may be shown and stored: without a password in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
