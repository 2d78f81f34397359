"""Ollama's protocol, through the `ollama` package."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from ...errors import CaptionError
from .api import (
    Answer,
    Api,
    BrokenError,
    DeniedError,
    FaultError,
    GoneError,
    Identity,
    MissingError,
    Question,
    fault_of_status,
    shown,
    split_host,
)
from .backoff import parse_retry_after
from .guard import HEADERS, RedirectedError, credentials, hide, hiding, hooks, secrets_of

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["PORT", "OllamaApi", "certificates", "default_hosts", "fault_of_transport", "settle_imports"]

#: Where Ollama listens by default.
PORT = 11434
_KEY_VARIABLE = "OLLAMA_API_KEY"
_CONNECT_S = 10.0
# Most characters of what a server calls itself or its models.
_MOST_NAME = 300
# Ollama's words; a stranger's "404 page not found" is another matter.
_NO_MODEL = re.compile(r"model\b.*\bnot found", re.DOTALL | re.IGNORECASE)
# The package's errors carry no headers, so a hook of the HTTP client keeps this one for whoever sent the request.
_retry_after: ContextVar[float | None] = ContextVar("retry_after", default=None)


def default_hosts() -> list[str]:
    """Where Ollama is: ``OLLAMA_HOST``, else this machine."""
    return [os.environ.get("OLLAMA_HOST") or "127.0.0.1"]


@cache
def settle_imports() -> None:
    """Have the HTTP library's vain imports fail quickly.

    httpcore asks for `sniffio` some seven times a request, and where that is not installed, each time looks through all of
    ``sys.path``: more time than the rest of the request takes. None in `sys.modules` says the same at once.
    """
    if "sniffio" not in sys.modules and importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # a documented value that the stubs do not know


@cache
def certificates() -> ssl.SSLContext:
    """Authorities that are trusted; read once for all hosts."""
    import httpx

    return httpx.create_ssl_context()


async def _keep_retry_after(response: httpx.Response) -> None:
    _retry_after.set(parse_retry_after(response.headers.get("retry-after")))


class OllamaApi(Api):
    """One Ollama server.

    Parameters
    ----------
    host : str
        As people write it: ``gpu1``, ``gpu1:11434``, ``http://gpu1``.
    model : str
        Name with or without its tag.
    timeout : float
        Seconds an answer may take.

    Raises
    ------
    CaptionError
        If the package is not installed.
    """

    def __init__(self, host: str, model: str, *, timeout: float) -> None:
        try:
            import httpx
            import ollama
        except ImportError as error:
            raise CaptionError(f"captions need the ollama package: pip install ollama ({error})") from error
        settle_imports()
        self._full = split_host(host, PORT)
        self.url = shown(self._full)
        self.model = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
        self._timeout = timeout
        key = os.environ.get(_KEY_VARIABLE)
        self.secrets = secrets_of(self._full, key)
        guards = hooks(self._full)
        guards["response"].append(_keep_retry_after)
        self._client = ollama.AsyncClient(
            self._full,
            timeout=httpx.Timeout(timeout, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers=HEADERS,
            event_hooks=guards,
            auth=None if key else credentials(self._full),  # the package drops them from the address
            verify=certificates(),
        )
        # The package has no call for the version; whatever stands before the server must take this one for the same client.
        self._http = httpx.AsyncClient(
            headers={**HEADERS, **({"Authorization": f"Bearer {key}"} if key else {})},
            event_hooks=hooks(self._full),
            follow_redirects=True,
            timeout=_CONNECT_S,
            verify=certificates(),
        )

    @hiding
    async def identify(self) -> Identity:
        """Find out version and digest, and that the model can see."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                response = await self._http.get(f"{self._full}/api/version")
                response.raise_for_status()
                version = self.told(response.json()["version"], _MOST_NAME)
                models = (await self._client.list()).models
                digests = {str(entry.model): entry.digest for entry in models}
                if self.model not in digests:
                    raise self._missing(sorted(digests))
                capabilities = (await self._client.show(self.model)).capabilities
        except DeniedError:
            raise
        except Exception as error:
            raise self._fault(error, _CONNECT_S) from None
        # Servers from before capabilities were told are believed.
        if capabilities is not None and "vision" not in capabilities:
            can = ", ".join(capabilities)
            raise DeniedError(
                f"{self.model} at {self.url} cannot see pictures (it can: {can}); take a vision model, such as llava:7b"
            )
        return Identity(self.model, digests[self.model], f"ollama {version}")

    @hiding
    async def ask(self, question: Question) -> Answer:
        """Ask `/api/chat`, not streamed: one answer, one JSON object, or none."""
        token = _retry_after.set(None)
        try:
            # The client's own limit is for each read: a server that drips would never reach it.
            async with asyncio.timeout(self._timeout):
                response = await self._client.chat(
                    self.model,
                    [{"role": "user", "content": question.prompt, "images": [question.image]}],
                    stream=False,
                    # A model that can think would otherwise think about every picture.
                    think=False,
                    format=dict(question.schema) if question.schema else None,
                    options=dict(question.options),
                )
        except Exception as error:
            raise self._fault(error, self._timeout) from None
        finally:
            _retry_after.reset(token)
        if not response.done:
            raise BrokenError(f"{self.url}: an answer without its end")
        return Answer(
            (response.message.content or "").strip(),
            response.done_reason == "length",
            response.eval_count,
            (response.load_duration or 0) / 1e9,
            (response.message.thinking or "").strip(),
        )

    @hiding
    async def pull(self, progress: Callable[[str, int, int], None]) -> None:
        """Have the server fetch the model."""
        try:
            async for part in await self._client.pull(self.model, stream=True):
                progress(hide(part.status or "", self.secrets), part.completed or 0, part.total or 0)
        except Exception as error:
            import ollama

            if isinstance(error, ollama.ResponseError):
                # Says "file does not exist" for a name that the library does not have.
                raise DeniedError(
                    f"{self.url} cannot pull {self.model}: {self.told(error.error, 200)}"
                ) from None
            raise self._fault(error, self._timeout) from None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()
        await self._http.aclose()

    def _missing(self, there: list[str]) -> MissingError:
        have = f"; it has: {self.told(', '.join(there[:10]), _MOST_NAME)}" if there else ""
        return MissingError(
            f"{self.url} has no model {self.model}{have}: run `ollama pull {self.model}` there, or add --pull"
        )

    def _fault(self, error: Exception, timeout: float) -> FaultError:
        import httpx
        import ollama

        retry_after = _retry_after.get()
        if isinstance(error, httpx.HTTPStatusError):
            retry_after = parse_retry_after(error.response.headers.get("retry-after"))
            error = ollama.ResponseError(error.response.text, error.response.status_code)
        if isinstance(error, ollama.ResponseError):
            said = self.told(error.error, 2000)
            if error.status_code == 404 and _NO_MODEL.search(said):
                return self._missing([])
            return fault_of_status(
                self.url,
                error.status_code,
                said,
                retry_after,
                key_variable=_KEY_VARIABLE,
                path=f"http://gpu1:{PORT}",
            )
        return fault_of_transport(error, self, timeout, httpx)


def fault_of_transport(error: Exception, api: Api, timeout: float, httpx: Any) -> FaultError:
    """The fault that an exception of the HTTP client of `api`, or of reading its answer, stands for.

    Raises
    ------
    Exception
        `error` itself, where it is none of these.
    """
    url, brief = api.url, api.told(_words(error), 100)
    if isinstance(error, RedirectedError):
        return DeniedError(
            f"{url} sends its questions on to {error}: give that as --host, if it is to have the pictures"
        )
    if isinstance(error, httpx.ConnectTimeout):
        return GoneError(f"{url} does not answer (no connection in time)")
    if isinstance(error, (ConnectionError, httpx.ConnectError)):
        return GoneError(f"{url} does not answer ({_root(error)})")
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return BrokenError(f"{url} gave no answer within {timeout:g} s")
    if isinstance(error, httpx.TooManyRedirects):
        return BrokenError(f"{url} sends from one address to the next, without end")
    if isinstance(error, (httpx.DecodingError, httpx.InvalidURL, RecursionError)):
        return BrokenError(f"{url} gave an answer that cannot be read ({brief})")
    if isinstance(error, (httpx.RequestError, httpx.StreamError)):
        return BrokenError(f"{url} cut the connection ({brief})")
    # pydantic's and json's errors are ValueErrors.
    if isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
        return BrokenError(f"{url} gave an answer that cannot be read ({brief})")
    raise error


def _root(error: BaseException) -> str:
    """Why there is no connection, in the system's words: the client's own hide them several causes deep."""
    words = _words(error)[:100]
    for cause in _causes(error):
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno):
            words = " ".join(str(cause.strerror or cause).split())[:150]
    return words


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    # pydantic quotes pieces of the answer after this.
    return " ".join(str(error).partition(" [type=")[0].split()) or type(error).__name__
