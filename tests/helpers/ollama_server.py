"""A vision-language server for tests: Ollama's protocol, and OpenAI's, over real HTTP on loopback, that can misbehave.

The wire format is Ollama's (its API page and ``server/routes.go``), as far as icehouse speaks it: questions are not
streamed, pulls are JSON lines, errors are ``{"error": "..."}`` with a status, durations are nanoseconds.
`OllamaServer.behave` orders faults for coming questions; every question is recorded, so a test can count that each
picture was asked for exactly once.

Run as a script it serves until its standard input closes: ``ollama_server.py --delay 0.05 --slots 8`` prints its URL.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What `OllamaServer.behave` takes. "slow" waits `slow_s` first; "drip" sends a byte every `drip_s` without end; "cut"
#: closes the connection amid the answer; "drop" closes it before a byte; "wrong-shape" is JSON that is no answer; "deep" is
#: JSON too deep to be read; "zipped" says that it is compressed, and is not; "circle" redirects to itself.
FAULTS = (
    "slow", "drip", "cut", "drop", "deep", "zipped", "circle", "404", "400", "401", "500", "503", "429", "garbage",
    "wrong-shape", "empty", "repeat", "refuse", "length",
)  # fmt: skip

#: Faults that look the same whatever was asked for, with body and headers.
_BODIES = {
    "deep": (b"[" * 200_000, {}),
    "zipped": (b"{}", {"Content-Encoding": "gzip"}),
}

DIGEST = hashlib.sha256(b"llava:7b").hexdigest()
REFUSAL = "I'm sorry, but I can't assist with that request."


@dataclass(frozen=True)
class Question:
    """One question as it arrived."""

    path: str
    model: str
    prompt: str
    image: bytes
    seed: int | None
    temperature: float | None
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def sha(self) -> str:
        return hashlib.sha256(self.image).hexdigest()


@dataclass
class _Fault:
    kind: str
    times: int | None
    image: str | None
    headers: dict[str, str] = field(default_factory=dict)


Answers = Mapping[str, str] | Callable[[Question], str]


class OllamaServer:
    """A server in threads of this process.

    Parameters
    ----------
    models : mapping of str to str
        Model name to digest.
    answers : mapping or callable
        sha256 of the picture as sent -> answer, or a function of the `Question`. By default an answer that names the sha256.
    delay : float
        Seconds an answer takes.
    slots : int, optional
        Answers that are worked on at once; further ones queue, as Ollama has it.
    """

    def __init__(
        self,
        models: Mapping[str, str] | None = None,
        *,
        answers: Answers | None = None,
        delay: float = 0.0,
        slots: int | None = None,
        version: str = "0.12.3",
        vision: bool = True,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self.models = dict(models) if models is not None else {"llava:7b": DIGEST}
        self.answers = answers
        self.delay = delay
        self.slow_s = 30.0
        self.drip_s = 0.02
        #: Status and body of coming answers to `/api/version` and `/v1/models`.
        self.trouble: list[tuple[int, bytes]] = []
        #: Status and body of every answer to a path, or to a path and a model ("/api/show llava:7b"); None: no answer.
        self.wrong: dict[str, tuple[int, bytes] | None] = {}
        self.version = version
        self.vision = vision
        self.api_key = api_key
        self.pullable: dict[str, str] = {}
        self.questions: list[Question] = []
        self.calls: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.most_at_once = 0
        self.on_question: Callable[[int], None] = lambda n: None
        self._at_once = 0
        self._slots = threading.Semaphore(slots) if slots else None
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._http: _Http | None = None
        self._stopped = threading.Event()
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._http = _Http(self, self.port)
        self.port = self._http.server_address[1]
        self._stopped.clear()
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Die: stop listening and cut every connection."""
        http, self._http = self._http, None
        if http is None:
            return
        self._stopped.set()
        http.shutdown()
        http.server_close()
        with self._lock:
            connections, self._open = list(self._open), set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> OllamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def behave(
        self, kind: str, *, times: int | None = 1, image: str | None = None, retry_after: str | None = None
    ) -> None:
        """Answer the next `times` questions (None: all) with a fault; with `image`, only those for that picture (sha256)."""
        assert kind in FAULTS, kind
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        with self._lock:
            self._faults.append(_Fault(kind, times, image, headers))

    def well(self) -> None:
        """Forget the faults that were ordered."""
        with self._lock:
            self._faults.clear()

    def settle(self) -> None:
        """Wait until every question of a client that has died has been read: some may still be in a socket's buffer."""
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while last.recv(4096):
                pass
        while self._open:
            time.sleep(0.002)

    def asked(self) -> Counter[str]:
        """How often each picture (sha256 as sent) was asked for."""
        return Counter(question.sha for question in self.questions)

    def _take_fault(self, question: Question) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.image in (None, question.sha) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            with self._slots or contextlib.nullcontext():
                if self.delay:
                    time.sleep(self.delay)
                yield
        finally:
            with self._lock:
                self._at_once -= 1

    def count_tokens(self, text: str) -> int:
        """Tokens of an answer: here words."""
        return max(1, len(text.split()))

    def answer(self, question: Question) -> str:
        if callable(self.answers):
            return self.answers(question)
        if self.answers is not None:
            return self.answers[question.sha]
        return f"A picture whose digest begins with {question.sha[:12]}."


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: OllamaServer, port: int) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are part of the tests."""


class _CutError(Exception):
    """Close the connection now."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Http

    @property
    def owner(self) -> OllamaServer:
        return self.server.owner

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def setup(self) -> None:
        super().setup()
        with self.owner._lock:
            self.owner._open.add(self.connection)

    def finish(self) -> None:
        with self.owner._lock:
            self.owner._open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    # Plumbing

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._bytes(status, json.dumps(value).encode(), "application/json; charset=utf-8", headers)

    def _bytes(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._json(status, {"error": message}, headers)

    def _stream(self, parts: Iterator[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            line = json.dumps(part).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _body(self) -> dict[str, Any] | None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not raw:
            self._error(400, "missing request body")
            return None
        try:
            body = json.loads(raw)
        except ValueError as error:
            self._error(400, str(error))
            return None
        return body if isinstance(body, dict) else {}

    # Endpoints

    def do_GET(self) -> None:
        self.owner.calls[f"GET {self.path}"] += 1
        self.owner.keys.add(self.headers.get("Authorization"))
        if self._is_wrong(self.path):
            return
        if self.path in ("/api/version", "/v1/models") and self.owner.trouble:
            status, body = self.owner.trouble.pop(0)
            self._bytes(status, body, "application/json")
        elif self.path == "/":
            self._bytes(200, b"Ollama is running", "text/plain; charset=utf-8")
        elif self.path == "/api/version":
            self._json(200, {"version": self.owner.version})
        elif self.path == "/api/tags":
            models = [{"model": name, "digest": digest} for name, digest in self.owner.models.items()]
            self._json(200, {"models": models})
        elif self.path == "/v1/models":
            if self._authorized():
                self._json(200, {"data": [{"id": name, "owned_by": "library"} for name in self.owner.models]})
        else:
            self._bytes(404, b"404 page not found", "text/plain")

    def do_POST(self) -> None:
        self.owner.calls[f"POST {self.path}"] += 1
        self.owner.keys.add(self.headers.get("Authorization"))
        body = self._body()
        if body is None:
            return
        if self._is_wrong(f"{self.path} {body.get('model')}"):
            return
        try:
            if self.path == "/api/show":
                self._show(body)
            elif self.path == "/api/pull":
                self._pull(body)
            elif self.path == "/api/chat":
                self._ask(body)
            elif self.path == "/v1/chat/completions":
                if self._authorized():
                    self._complete(body)
            else:
                self._bytes(404, b"404 page not found", "text/plain")
        except _CutError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _is_wrong(self, what: str) -> bool:
        """Answer what a test has ordered for this path and model, if it has."""
        if what not in self.owner.wrong:
            return False
        ordered = self.owner.wrong[what]
        if ordered is None:
            self.owner._stopped.wait(30)
            self.close_connection = True
        else:
            self._bytes(*ordered, "application/json")
        return True

    def _authorized(self) -> bool:
        key = self.owner.api_key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._json(
            401, {"error": {"message": "Incorrect API key provided.", "type": "invalid_request_error"}}
        )
        return False

    def _show(self, body: dict[str, Any]) -> None:
        name = _full(str(body.get("model", "")))
        if name not in self.owner.models:
            self._error(404, f"model '{body.get('model')}' not found")
            return
        capabilities = ["completion", "vision"] if self.owner.vision else ["completion"]
        self._json(200, {"capabilities": capabilities, "details": {}, "model_info": {}})

    def _pull(self, body: dict[str, Any]) -> None:
        name = _full(str(body.get("model", "")))
        if name not in self.owner.pullable:
            parts = iter(
                [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
            )
        else:
            parts = self._pulling(name, self.owner.pullable[name])
        self._stream(parts)

    def _pulling(self, name: str, digest: str) -> Iterator[dict[str, Any]]:
        layer = f"sha256:{digest}"
        yield {"status": "pulling manifest"}
        yield {"status": f"pulling {digest[:12]}", "digest": layer, "total": 4000}
        for completed in (1000, 2500, 4000):
            yield {"status": f"pulling {digest[:12]}", "digest": layer, "total": 4000, "completed": completed}
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self.owner.models[name] = digest
        yield {"status": "success"}

    def _ask(self, body: dict[str, Any]) -> None:
        name = str(body.get("model", ""))
        if _full(name) not in self.owner.models:
            self._error(404, f"model '{name}' not found")
            return
        options = body.get("options") or {}
        prompt, images = body["messages"][-1]["content"], body["messages"][-1].get("images")
        image = base64.b64decode(images[0]) if images else b""
        question = Question(
            self.path, name, prompt, image, options.get("seed"), options.get("temperature"), body
        )
        done = self._before_answer(question, self._error)
        if done is None:
            return
        text, reason = done
        text, reason = self._by_options(text, reason, body.get("format"), options.get("num_predict"))
        end = {"done": True, "done_reason": reason, "load_duration": 1_000_000}
        self._json(200, {**_head(name, text), **end, "eval_count": self.owner.count_tokens(text)})

    def _before_answer(
        self, question: Question, error: Callable[[int, str, Mapping[str, str]], None]
    ) -> tuple[str, str] | None:
        """Text and reason of the answer; None where a fault has answered already."""
        with self.owner._lock:
            self.owner.questions.append(question)
            count = len(self.owner.questions)
        self.owner.on_question(count)
        fault = self.owner._take_fault(question)
        kind = fault.kind if fault else ""
        if kind == "drop":
            raise _CutError
        if kind == "slow":
            self.owner._stopped.wait(self.owner.slow_s)
        if kind.isdigit() and fault is not None:
            messages = {
                "404": f"model '{question.model}' not found",
                "400": "Failed to load image or audio file",
                "401": "unauthorized",
                "500": "model runner has unexpectedly stopped, this may be due to resource limitations",
                "503": "server busy, please try again.  maximum pending requests exceeded",
                "429": "too many requests",
            }
            error(int(kind), messages[kind], fault.headers)
            return None
        if question.image and not self.owner.vision:
            error(400, "this model is missing data required for image input", {})
            return None
        with self.owner._answering():
            if kind == "circle":
                self._bytes(307, b"", "text/plain", {"Location": self.path})
                return None
            if kind in _BODIES:
                wrong, headers = _BODIES[kind]
                self._bytes(200, wrong, "application/json", headers)
                return None
            if kind in ("garbage", "wrong-shape", "cut", "drip"):
                self._spoil(question, kind)
                return None
            text = {"empty": "", "repeat": "the the the the the the", "refuse": REFUSAL}.get(kind)
            if text is None:
                text = self.owner.answer(question)
            if kind == "length":
                return " ".join(text.split()[:3]), "length"
            return text, "stop"

    def _by_options(self, text: str, reason: str, schema: Any, most: int | None) -> tuple[str, str]:
        """An answer as a model gives it that must keep to a schema, and to so many tokens (here: words).

        What a test has ordered word for word keeps its shape.
        """
        if isinstance(schema, dict) and text and self.owner.answers is None:
            kinds: dict[str, Any] = {"array": [], "integer": 0, "string": ""}
            filled = {
                name: kind["enum"][0] if "enum" in kind else kinds[kind["type"]]
                for name, kind in schema["properties"].items()
            }
            text = json.dumps({**filled, next(iter(filled)): text})
        words = text.split(" ")
        if most is not None and 0 < most < len(words):
            return " ".join(words[:most]), "length"
        return text, reason

    def _spoil(self, question: Question, kind: str) -> None:
        """Begin to answer as the protocol has it, and go wrong."""
        head: dict[str, Any] = {"model": question.model}
        if question.path.startswith("/v1"):
            good = {**head, "choices": [{"message": {"role": "assistant", "content": "A street"}}]}
        else:
            good = {**_head(question.model, "A street"), "done": False}
        if kind == "wrong-shape":
            self._json(200, {**head, "done": True})
            return
        text = json.dumps(good).encode()
        if kind == "garbage":
            self._bytes(200, text[:40] + b"<html>", "application/json")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text) + 100_000))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()
        while kind == "drip" and self.owner._http is not None:
            time.sleep(self.owner.drip_s)
            self.wfile.write(b" ")
            self.wfile.flush()
        raise _CutError

    def _complete(self, body: dict[str, Any]) -> None:
        name = str(body.get("model", ""))

        def error(status: int, message: str, headers: Mapping[str, str]) -> None:
            self._json(status, {"error": {"message": message, "type": "api_error", "code": None}}, headers)

        if _full(name) not in self.owner.models and name not in self.owner.models:
            error(404, f"The model `{name}` does not exist.", {})
            return
        content = body["messages"][-1]["content"]
        prompt = " ".join(part["text"] for part in content if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        image = base64.b64decode(urls[0].partition("base64,")[2]) if urls else b""
        question = Question(self.path, name, prompt, image, body.get("seed"), body.get("temperature"), body)
        done = self._before_answer(question, error)
        if done is None:
            return
        wanted = body.get("response_format") or {}
        schema = (wanted.get("json_schema") or {}).get("schema")
        text, reason = self._by_options(*done, schema, body.get("max_tokens"))
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
        usage = {"completion_tokens": self.owner.count_tokens(text)}
        self._json(200, {"model": name, "choices": [choice], "usage": usage})


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _head(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "message": {"role": "assistant", "content": text}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=None)
    arguments = parser.parse_args()
    with OllamaServer(delay=arguments.delay, slots=arguments.slots) as server:
        print(server.url, flush=True)
        sys.stdin.read()
