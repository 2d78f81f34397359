"""Clients of vision-language servers: Ollama's protocol, and the chat completions of vLLM, llama.cpp and others.

Both speak through one HTTP transport: answers are bounded, redirects stay within the host, credentials are hidden. What goes
wrong is a `ServerError`, and its class tells what is to be done about it:

- `BusyError`: the server has too much to do; the same question later, and fewer at once
- `UnreachableError`: nobody answers at the address; the question was never heard
- `BadAnswerError`: no usable answer (cut, timed out, status 500, garbage); the server or the picture may be to blame
- `RejectedError`: the server will never answer this question, and goes on with others
- `SetupError`: no question is answered until a person does something, such as give the right key
- `MissingModelError`, a `SetupError`: the server lacks the model, which it can perhaps be made to fetch
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import html
import importlib.util
import json
import os
import re
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ...errors import UsageError

if TYPE_CHECKING:
    import ssl

    import httpx

#: Most bytes of an answer; of a pull, which reports for hours, most bytes of a line.
MAX_ANSWER = 4 << 20

#: Seconds that a connection, or a question about the server itself, may take.
CONNECT_S = 10.0

#: No wait is longer than this, in seconds, whatever a server asks for.
MAX_WAIT_S = 300.0

_HIDDEN = "***"
_LEAST_SECRET = 4
_MAX_REDIRECTS = 20
# Ollama: "model 'x' not found"; vLLM: "The model `x` does not exist."; "404 page not found" is another matter.
_NO_MODEL = re.compile(r"\bmodel\b.*(not exist|not found)", re.DOTALL | re.IGNORECASE)
_ENDPOINT = re.compile(r"/(?:api/\w+|chat/completions|models)$")


class ServerError(Exception):
    """Something went wrong with a question.

    `retry_after`: seconds that the server asked to be left alone, if it did; `status`: the HTTP status, if there was one.
    """

    def __init__(self, message: str, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status


class BusyError(ServerError):
    """The server has too much to do."""


class UnreachableError(ServerError):
    """Nobody answers at the address."""


class BadAnswerError(ServerError):
    """No usable answer."""


class RejectedError(ServerError):
    """The server refuses this question."""


class SetupError(ServerError):
    """Only a person can help."""


class MissingModelError(SetupError):
    """The server does not have the model."""


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date (RFC 9110); None where it says nothing usable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_WAIT_S)
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - (now or datetime.now(UTC))).total_seconds(), 0.0), MAX_WAIT_S)


# Hosts and credentials


def split_host(host: str, default_port: int) -> str:
    """Bring a host as people write it to a URL: scheme and port completed, no slash at the end.

    ``0.0.0.0`` and ``[::]``, which tell a server to listen everywhere, mean this machine to a client. Raises `UsageError`
    without the password where it is no host.
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
    """URL as it may be shown and stored: without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def credentials(url: str) -> tuple[str, str] | None:
    """User and password of `url`, as they are sent; None where it has none."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = user.partition(":")
    return (unquote(name), unquote(password)) if at else None


def secrets_of(url: str, *keys: str | None) -> tuple[str, ...]:
    """Strings to redact from messages: credentials in `url` and `keys`, as written, decoded, and in base64.

    Of a few letters or digits only, nothing is a secret that could be hidden.
    """
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = user.partition(":")
    # A name alone is a token.
    told = {user, password or name} if at else set()
    told |= {key for key in keys if key}
    forms = told | {unquote(secret) for secret in told}
    if at:
        forms.add(base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode().rstrip("="))
    kept = (form for form in forms if len(form) >= (_LEAST_SECRET if form.isalnum() else 2))
    return tuple(sorted(kept, key=len, reverse=True))


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without `secrets`, also as addresses, HTML and JSON write them.

    >>> hide("pa&amp;ss pa%26ss pass", ["pa&ss"])
    '*** *** pass'
    """
    for secret in secrets:
        text = _pattern(secret).sub(_HIDDEN, text)
    return text


@functools.cache
def _pattern(secret: str) -> re.Pattern[str]:
    return re.compile(
        "".join(char if char.isalnum() and char.isascii() else _escapes(char) for char in secret)
    )


def _escapes(char: str) -> str:
    """Pattern of a character, written plainly or escaped."""
    code, name = ord(char), html.escape(char)
    units = re.findall("..", char.encode("utf-16-be", "replace").hex(), re.DOTALL)
    in_json = "".join(rf"\\u{high}{low}" for high, low in zip(units[::2], units[1::2], strict=True))
    in_address = "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "replace"))
    found = [
        in_address,
        rf"&#0*{code};",
        rf"&#x0*{code:x};",
        re.escape(name),
        in_json,
        rf"\\?{re.escape(char)}",
    ]
    return f"(?i:{'|'.join(found)})"


# The client


class Transport:
    """HTTP client of one server; every method raises only `ServerError`s, whose messages name the host and no secret.

    `url` may hold credentials; the key is sent as a bearer token, and `prefer_key` tells which of the two is, where there
    are both. `key_variable` names the environment variable that holds it; `example`, an address as the protocol has it, is
    for messages.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float,
        prefer_key: bool,
        key_variable: str,
        example: str,
    ) -> None:
        import httpx

        _skip_sniffio()
        key = os.environ.get(key_variable)
        self.url = shown(url)
        self.secrets = secrets_of(url, key)
        self.timeout = timeout
        self._model, self._key_variable, self._example = model, key_variable, example
        basic = credentials(url)
        bearer = bool(key) and (prefer_key or basic is None)
        # A compressed answer could be of any size once unpacked: none is asked for, and one that comes is refused.
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if bearer else {})}
        self._client = httpx.AsyncClient(
            headers=headers,
            auth=None if bearer else basic,
            timeout=httpx.Timeout(timeout, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            verify=_certificates(),
        )

    async def request(
        self, method: str, path: str, body: Any = None, content: bytes | None = None
    ) -> httpx.Response:
        """Send `body` as JSON, or `content` that is JSON, to `path` below the server's address, whatever the status."""
        import httpx

        async with self._open(method, path, body, content) as response:
            answer = bytearray()
            async for chunk in response.aiter_raw():
                answer += chunk
                _bound(answer)
            return httpx.Response(response.status_code, headers=response.headers, content=bytes(answer))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Be the transport of another httpx client, such as the `ollama` package's: its requests get the same guards."""
        async with self.errors(None):
            path, content = request.url.raw_path.decode(), await request.aread()
            return self.checked(await self.request(request.method, path, content=content or None))

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and read the answer, which has to be JSON and a success."""
        return self.checked(await self.request(method, path, body)).json()

    async def lines(self, path: str, body: Any) -> AsyncGenerator[bytes, None]:
        """Send a request and read the answer line by line, without blank ones; each is bounded."""
        async with self._open("POST", path, body) as response:
            rest = b""
            async for chunk in response.aiter_raw():
                *lines, rest = (rest + chunk).split(b"\n")
                _bound(rest)
                for line in filter(bytes.strip, lines):
                    yield line
            if rest.strip():
                yield rest

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, path: str, body: Any, content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Response to a request, before its body; redirects are followed within the host, or from http to https."""
        kind = {"Content-Type": "application/json"} if content else None
        request = self._client.build_request(
            method, self.url + path, json=body, content=content, headers=kind
        )
        home = request.url
        # httpx leaves out a port that is the scheme's own.
        allowed = {(home.scheme, home.host, home.port), ("https", home.host, None)}
        for _ in range(_MAX_REDIRECTS):
            response = await self._client.send(request, stream=True)
            try:
                if response.next_request is None:
                    encoding = response.headers.get("content-encoding", "identity").strip().lower()
                    if encoding not in ("", "identity"):
                        raise ValueError(f"it is compressed ({encoding[:20]}), which was not asked for")
                    yield response
                    return
            finally:
                await response.aclose()
            request = response.next_request
            there = request.url
            if (there.scheme, there.host, there.port) not in allowed:
                onward = _ENDPOINT.sub("", shown(str(there.copy_with(query=None, fragment=None))))
                raise SetupError(
                    f"{self.url} sends its questions on to {onward}: give that as --host, if it is to have the pictures"
                )
        raise BadAnswerError(f"{self.url} sends from one address to the next, without end")

    def checked(self, response: httpx.Response) -> httpx.Response:
        """Return a response that is a success; raises what its status stands for."""
        if response.is_success:
            return response
        status, message = response.status_code, self.said(response)
        if status == 404 and _NO_MODEL.search(message):
            raise MissingModelError(f"{self.url} has no model {self._model}: {message[:200]} (status 404)")
        raise self.error_of_status(status, message, parse_retry_after(response.headers.get("retry-after")))

    def error_of_status(self, status: int, message: str, retry_after: float | None = None) -> ServerError:
        """Error that an HTTP status stands for, with the server's words and, where a person has to act, the remedy."""
        text = f"{self.url}: {' '.join(message[:2000].split())[:200] or 'no reason given'} (status {status})"
        if status in (429, 503):
            return BusyError(f"{text}: it is busy", retry_after, status)
        if status in (401, 403):
            return SetupError(f"{text}: is the key in {self._key_variable} right?", status=status)
        if status == 404:
            return SetupError(f"{text}: is the address right? It looks like {self._example}", status=status)
        if status == 402:
            return SetupError(text, status=status)
        if 400 <= status < 500 and status not in (408, 499):
            return RejectedError(text, status=status)
        return BadAnswerError(text, retry_after, status)

    def said(self, response: httpx.Response) -> str:
        """Reason given by the server."""
        try:
            reason = response.json()["error"]
            message = reason["message"] if isinstance(reason, dict) else str(reason)
        except (ValueError, KeyError, TypeError, RecursionError):
            message = response.text
        return self.clip(message, 2000)

    def clip(self, text: object, most: int) -> str:
        """The first `most` characters of what the server said; credentials are hidden before one is cut in two."""
        return hide(str(text), self.secrets)[:most]

    @contextlib.asynccontextmanager
    async def errors(self, limit: float | None) -> AsyncIterator[None]:
        """Give requests and the reading of their answers `limit` seconds in all; raise what goes wrong as `ServerError`."""
        try:
            # The client's own limit is for each read: a server that drips would never reach it.
            async with asyncio.timeout(limit):
                yield
        except ServerError as error:
            error.args = (hide(str(error), self.secrets),)
            raise
        except Exception as error:
            found = self._error_of(error, limit or self.timeout)
            if found is None:
                raise
            found.args = (hide(str(found), self.secrets),)
            raise found from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _error_of(self, error: Exception, limit: float) -> ServerError | None:
        """`ServerError` for an exception of the HTTP client or of reading an answer; None for any other."""
        import httpx

        url, brief = self.url, self.clip(_words(error), 100)
        unread = (httpx.DecodingError, httpx.InvalidURL, RecursionError)
        if isinstance(error, httpx.ConnectTimeout):
            return UnreachableError(f"{url} does not answer (no connection in time)")
        if isinstance(error, httpx.ConnectError):
            return UnreachableError(f"{url} does not answer ({_cause(error)})")
        if isinstance(error, (TimeoutError, httpx.TimeoutException)):
            return BadAnswerError(f"{url} gave no answer within {limit:g} s")
        if isinstance(error, (httpx.RequestError, httpx.StreamError)) and not isinstance(error, unread):
            return BadAnswerError(f"{url} cut the connection ({brief})")
        # json's errors are ValueErrors.
        if isinstance(error, (*unread, ValueError, LookupError, TypeError, AttributeError)):
            return BadAnswerError(f"{url} gave an answer that cannot be read ({brief})")
        return None


def _bound(content: bytes | bytearray) -> None:
    if len(content) > MAX_ANSWER:
        raise ValueError(f"it is longer than {MAX_ANSWER >> 20} MiB")


@functools.cache
def _skip_sniffio() -> None:
    """Have the HTTP library's vain imports fail quickly.

    httpcore asks for `sniffio` some seven times a request, and where that is not installed, each time looks through all of
    ``sys.path``: more time than the rest of the request takes. None in `sys.modules` says the same at once.
    """
    if "sniffio" not in sys.modules and importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # a documented value that the stubs do not know


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Authorities that are trusted; read once for all hosts."""
    import httpx

    return httpx.create_ssl_context()


def _cause(error: BaseException) -> str:
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


# The two protocols

#: Where Ollama listens by default.
PORT = 11434

#: Environment variable that holds the key of an OpenAI-compatible server, unless another is named.
KEY_VARIABLE = "OPENAI_API_KEY"

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

    def __init__(self, url: str, model: str, **transport: Any) -> None:
        self.model = model
        self._http = Transport(url, model, **transport)

    @property
    def url(self) -> str:
        """Address, fit to be shown."""
        return self._http.url

    @abstractmethod
    async def identify(self) -> Identity:
        """Find out who answers; `MissingModelError` if the model is not there, `SetupError` if it cannot see."""

    @abstractmethod
    async def ask(self, question: Question) -> Answer:
        """Ask about one picture."""

    async def pull(self, progress: Callable[[str, int, int], None]) -> None:
        """Have the server fetch the model; `progress` gets (what is done, bytes done, bytes in all)."""
        raise SetupError(f"{self.url} cannot fetch models itself")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def default_hosts() -> list[str]:
    """Address of Ollama: ``OLLAMA_HOST``, else this machine."""
    return [os.environ.get("OLLAMA_HOST") or "127.0.0.1"]


class OllamaApi(Api):
    """One Ollama server: `host` as people write it (``gpu1``, ``http://gpu1:11434``), `model` with or without its tag."""

    def __init__(self, host: str, model: str, *, timeout: float) -> None:
        import ollama

        super().__init__(
            split_host(host, PORT),
            model if ":" in model.rpartition("/")[2] else f"{model}:latest",
            timeout=timeout,
            prefer_key=True,
            key_variable="OLLAMA_API_KEY",
            example=f"http://gpu1:{PORT}",
        )

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
            async with contextlib.aclosing(lines):
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


class OpenAiApi(Api):
    """One OpenAI-compatible server: to `host` ``/v1`` is added where it has no path.

    The key is in the environment variable `key_variable`; none is sent where that is not set.
    """

    def __init__(self, host: str, model: str, *, timeout: float, key_variable: str = KEY_VARIABLE) -> None:
        url = split_host(host, 8000)
        super().__init__(
            f"{url}/v1" if url.count("/") == 2 else url,
            model,
            timeout=timeout,
            prefer_key=False,
            key_variable=key_variable,
            example="http://gpu1:8000/v1",
        )

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
