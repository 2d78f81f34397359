"""Clients of both protocols: hosts, statuses, keys, redirects, and servers that mean no good."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ollama
import pytest
from caption_stores import Lab, captions, truth
from icehouse.cli import app
from icehouse.embed.captions import apis
from icehouse.embed.captions.apis import (
    MAX_WAIT_S,
    BadAnswerError,
    BusyError,
    MissingModelError,
    RejectedError,
    ServerError,
    SetupError,
    Transport,
    UnreachableError,
    parse_retry_after,
    shown,
    split_host,
)
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.questions import CaptionSettings
from icehouse.errors import CaptionError, UsageError
from icehouse.serve.doctor import ollama_status
from icehouse.store import files as lock
from ollama._client import _parse_host
from ollama_server import OllamaServer
from typer.testing import CliRunner


@pytest.mark.parametrize(
    "host",
    ["gpu1", "gpu1:5000", "http://gpu1", "https://gpu1", "http://gpu1:5000", "gpu1/path", "https://gpu1:5/path/", ":5000",
     "1.2.3.4", "[0001:002:003:0004::1]:56789", "example.com/"],
)  # fmt: skip
def test_hosts_mean_what_they_mean_to_the_ollama_package(host: str) -> None:
    assert split_host(host, 11434) == _parse_host(host)


@pytest.mark.parametrize("host", ["ftp://gpu1", "gpu 1", "http://gpu1:port"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError, match="no host"):
        split_host(host, 11434)


def test_hosts_as_they_are_asked_and_shown() -> None:
    # To listen everywhere is to be asked here.
    assert split_host("0.0.0.0:11434", 11434) == "http://127.0.0.1:11434"
    assert shown(split_host("https://me:secret@gpu1", 11434)) == "https://gpu1:443"


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (503, BusyError, ": it is busy"),
        (429, BusyError, ": it is busy"),
        (404, SetupError, ": is the address right? It looks like http://gpu1:8000/v1"),
        (401, SetupError, ": is the key in A_KEY right?"),
        *((status, RejectedError, "") for status in (400, 422)),
        *((status, BadAnswerError, "") for status in (408, 499, 500, 502)),
    ],
)
def test_statuses(status: int, kind: type[ServerError], remedy: str) -> None:
    example = "http://gpu1:8000/v1"
    server = Transport(
        "http://gpu1:1", "m", timeout=1, prefer_key=True, key_variable="A_KEY", example=example
    )
    error = server.error_of_status(status, "")
    assert type(error) is kind
    assert str(error) == f"http://gpu1:1: no reason given (status {status}){remedy}"


def ask(host: str, *, api: str = "ollama") -> ServerError:
    """The error that a host's first call brings."""

    async def main() -> ServerError:
        client = CaptionSettings("llava:7b", api=api, hosts=[host]).connect()[0]  # type: ignore[arg-type]
        try:
            with pytest.raises(ServerError) as caught:
                await client.identify()
            return caught.value
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_why_there_is_no_connection(api: str, server: OllamaServer) -> None:
    # RFC 6761: a name that no resolver knows.
    fault = ask("http://nobody.invalid", api=api)
    assert isinstance(fault, UnreachableError)
    assert "http://nobody.invalid" in str(fault)
    assert "refused" not in str(fault)
    # It speaks no TLS.
    fault = ask(server.url.replace("http:", "https:"), api=api)
    assert isinstance(fault, (UnreachableError, BadAnswerError))
    assert "refused" not in str(fault)
    server.stop()
    fault = ask(server.url, api=api)
    assert isinstance(fault, UnreachableError)
    assert "does not answer (connection refused)" in str(fault)


@pytest.mark.parametrize(
    ("path", "api", "kind", "words"),
    [
        (
            "/elsewhere",
            "ollama",
            SetupError,
            "/elsewhere: 404 page not found (status 404): is the address right? It looks like http://gpu1:11434",
        ),
        ("", "openai", MissingModelError, "/v1 has no model llava:7b; it has: qwen"),
        (
            "",
            "ollama",
            MissingModelError,
            " has no model llava:7b; it has: qwen: run `ollama pull llava:7b` there, or add --pull",
        ),
    ],
)
def test_what_is_missing_is_one_line_with_the_remedy(
    path: str, api: str, kind: type[ServerError], words: str, server: OllamaServer
) -> None:
    server.models = {"qwen": "1"}
    error = ask(f"{server.url}{path}", api=api)
    assert type(error) is kind
    assert str(error) == server.url + words


def test_retry_after() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    read: Callable[[str | None], float | None] = lambda value: parse_retry_after(value, now)  # noqa: E731 (a shorthand)
    assert read("7") == 7
    assert read("Thu, 01 Jan 2026 00:00:30 GMT") == 30
    assert read("Wed, 31 Dec 2025 00:00:00 GMT") == 0
    assert read("99999999999") == MAX_WAIT_S
    for nothing in (None, "", "soon", "-3", "1.5", "٣"):
        assert read(nothing) is None


def test_the_test_server_pulls_as_ollama_does(server: OllamaServer) -> None:
    """What the product reads by itself; lists and answers it has from the package."""
    client = ollama.Client(server.url)
    server.pullable["moondream:latest"] = "f" * 64
    parts = list(client.pull("moondream", stream=True))
    assert parts[-1].status == "success"
    assert [part.completed for part in parts if part.completed] == [1000, 2500, 4000]
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("nothing", stream=True))
    assert client.show("llava:7b").capabilities == ["completion", "vision"]


# OpenAI-compatible servers


def test_captions_through_chat_completions(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(4)
    report = lab.caption(store, api="openai", seed=2)
    assert report.captioned == 4
    assert captions(store) == truth(store)
    assert server.calls["POST /v1/chat/completions"] == 4
    assert server.calls["POST /api/chat"] == 0
    body = server.questions[0].body
    assert (body["temperature"], body["seed"], body["max_tokens"], body["stream"]) == (0, 2, 200, False)
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    provenance = store.table("captions/default").spec["provenance"]
    assert (provenance["api"], provenance["digest"]) == ("openai", None)


def test_the_key_comes_from_the_environment(
    lab: Lab, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.api_key = "sesame"
    store = lab.store(1)
    monkeypatch.setenv("OLLAMA_API_KEY", "olive")
    lab.caption(store, limit=0)
    assert server.keys == {"Bearer olive"}
    with pytest.raises(
        CaptionError, match=r"Incorrect API key provided\. \(status 401\): is the key in MY_KEY right"
    ):
        lab.caption(store, api="openai", key_variable="MY_KEY", name="two")
    monkeypatch.setenv("MY_KEY", "sesame")
    assert lab.caption(store, api="openai", key_variable="MY_KEY", name="two").captioned == 1
    everything = json.dumps(store.table("captions/two").spec) + str(
        store.query("from captions_two").to_pylist()
    )
    assert "sesame" not in everything


def test_a_count_of_tokens_that_is_none_costs_no_answer(
    lab: Lab, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lab.store(3)
    counts: list[object] = ["many", 2**40, 12]
    monkeypatch.setattr(server, "count_tokens", lambda text: counts.pop())
    assert lab.caption(store, api="openai").captioned == 3
    assert captions(store) == truth(store)
    rows = store.query("select tokens from captions_default order by tokens").to_pylist()
    assert [row["tokens"] for row in rows] == [12, None, None]


def test_answers_in_parts(lab: Lab, server: OllamaServer) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "A dog?"}]},
        {"type": "text", "text": "A "},
        "cat.",
    ]
    choice = {"message": {"content": parts}, "finish_reason": "stop"}
    server.wrong["/v1/chat/completions llava:7b"] = (200, json.dumps({"choices": [choice]}).encode())
    store = lab.store(1)
    lab.caption(store, api="openai")
    (row,) = store.query("select caption, raw, flags from captions_default").to_pylist()
    assert row == {"caption": "A cat.", "raw": "<think>A dog?</think>\nA cat.", "flags": ""}


# Hostile servers

PASSWORD, KEY = "s3cr%23t-pass", "sk-key-0123456789"
SECRETS = ("s3cr%23t-pass", "s3cr#t-pass", KEY, "dXNlcjpzM2NyI3QtcGFzcw")


class Hostile(ThreadingHTTPServer):
    """Ollama's protocol, as somebody speaks it who means no good: `reply` makes the answer to a question."""

    daemon_threads = True

    def __init__(self, reply: Callable[[Any], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.sent = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"http://user:{PASSWORD}@127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hostile

    def log_message(self, *_: Any) -> None:
        pass

    def json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @property
    def echo(self) -> str:
        return f"you are {self.headers.get('Authorization')} {' '.join(SECRETS)}"

    def do_GET(self) -> None:
        if self.path == "/api/version":
            return self.json({"version": f"0.12 {self.echo}"})
        if self.path == "/v1/models":
            return self.json({"data": [{"id": "llava:7b"}]})
        return self.json({"models": [{"model": "llava:7b", "digest": "a" * 64}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/show":
            return self.json({"capabilities": ["vision"], "details": {}, "model_info": {}})
        return self.server.reply(self)


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hostile]]:
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    made: list[Hostile] = []

    def make(reply: Callable[[Any], None]) -> Hostile:
        made.append(Hostile(reply))
        return made[-1]

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


def answer(text: str) -> dict[str, Any]:
    return {"model": "llava:7b", "message": {"role": "assistant", "content": text}, "done": True}


def assert_nothing_told(*places: Path | str) -> None:
    for place in places:
        files = [path for path in place.rglob("*") if path.is_file()] if isinstance(place, Path) else []
        texts = [path.read_bytes() for path in files] if files else [str(place).encode()]
        for text in texts:
            assert not [secret for secret in SECRETS if secret.encode() in text]


@pytest.mark.slow
def test_credentials_reach_no_file_and_no_screen(lab: Lab, hostile: Callable[..., Hostile]) -> None:
    store = lab.store(2)
    server = hostile(lambda it: it.json(answer(f"A cat. {it.echo}")))
    bad = hostile(lambda it: it.json({"error": it.echo}, 400))
    for host, name in ((server.host, "good"), (bad.host, "bad")):
        result = CliRunner().invoke(
            app, ["caption", "-s", str(store.path), "-m", "llava:7b", "--host", host, "--name", name]
        )
        assert result.exit_code == (0 if name == "good" else 1), result.output
        assert_nothing_told(store.path, result.output)
    texts = store.query("select caption from captions_good").to_pylist()
    assert all(row["caption"].startswith("A cat. you are Bas") or "***" in row["caption"] for row in texts)
    assert "***" in store.query("select message from failures").to_pylist()[0]["message"]
    assert_nothing_told(str(ollama_status(server.host)))


@pytest.mark.parametrize(("password", "pieces"), [(PASSWORD, ["s3cr"]), ("p%3Aw", ["p:w", "p%3"])])
@pytest.mark.parametrize(
    ("protocol", "pad"), [("ollama", 0), ("ollama", 192), ("ollama", 1990), ("openai", 192)]
)
def test_no_piece_of_a_secret_is_left_where_an_error_is_cut(
    protocol: str, pad: int, password: str, pieces: list[str], lab: Lab, hostile: Callable[..., Hostile]
) -> None:
    said = f"{'z' * min(pad, 192)}{' ' * (pad - 192)}{PASSWORD} p:w p%3aw"
    host = hostile(lambda it: it.json({"error": said}, 400)).host.replace(PASSWORD, password)
    store = lab.store(1)
    arguments = ["-m", "llava:7b", "--host", host, "--api", protocol]
    result = CliRunner().invoke(app, ["caption", "-s", str(store.path), *arguments])
    assert result.exit_code == 1
    told = result.output + str(store.query("select message from failures").to_pylist())
    assert not [piece for piece in pieces if piece in told]


def test_a_host_that_is_none_is_told_without_its_password() -> None:
    for host in (
        f"http://user:{PASSWORD}@gpu 1",
        "user:12/34@gpu1",
        "http://user:pa/ss@gpu1:x",
        "user:a?b@gpu1",
    ):
        with pytest.raises(UsageError) as raised:
            split_host(host, 1)
        assert "pa" not in str(raised.value).replace("password", "")
        assert "user" not in str(raised.value)


def test_a_lock_tells_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "icehouse",
        "caption",
        "--host",
        f"user:{PASSWORD}@gpu1",
        f"--host=http://user:{PASSWORD}@gpu2",
        "a@b",
    ]
    monkeypatch.setattr("sys.argv", words)
    with lock.hold(tmp_path):
        told = (tmp_path / ".lock.json").read_text()
    assert json.loads(told)["command"] == "icehouse caption --host gpu1 --host=http://gpu2 a@b"


@pytest.mark.parametrize("kind", ["length", "chunks"])
def test_an_endless_answer_is_cut_off(
    kind: str, lab: Lab, hostile: Callable[..., Hostile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apis, "MAX_ANSWER", 1 << 20)
    sent = 0

    def flood(it: Any) -> None:
        nonlocal sent
        it.send_response(200)
        if kind == "length":
            it.send_header("Content-Length", str(400 << 20))
        it.end_headers()
        try:
            for _ in range(400):
                it.wfile.write(b"x" * (1 << 20))
                sent += 1 << 20
        except OSError:
            pass

    store = lab.store(1)
    report = caption_images(store, CaptionSettings("llava:7b", hosts=[hostile(flood).host], patience=5))
    assert report.failed == 1
    assert "longer than 1 MiB" in store.query("select message from failures").to_pylist()[0]["message"]
    assert sent < 300 << 20


@pytest.mark.parametrize("status", [302, 307, 308])
def test_redirects_to_another_host_are_not_followed(
    status: int, lab: Lab, hostile: Callable[..., Hostile], server: OllamaServer
) -> None:
    def redirect(it: Any) -> None:
        it.send_response(status)
        it.send_header("Location", f"{server.url}/api/chat")
        it.send_header("Content-Length", "0")
        it.end_headers()

    store = lab.store(1)
    for protocol in ("ollama", "openai"):
        asking = CaptionSettings("llava:7b", hosts=[hostile(redirect).host], patience=5, api=protocol)
        with pytest.raises(CaptionError, match=f"sends its questions on to {server.url}"):
            caption_images(store, asking, name=protocol)
    assert not server.questions
    assert not server.keys


def test_long_answers_are_kept_short(lab: Lab, hostile: Callable[..., Hostile]) -> None:
    store = lab.store(1)
    said = " ".join(f"word{n}" for n in range(100_000))
    caption_images(store, CaptionSettings("llava:7b", hosts=[hostile(lambda it: it.json(answer(said))).host]))
    (row,) = store.query("select caption, raw, flags from captions_default").to_pylist()
    assert (len(row["caption"]), len(row["raw"]), row["flags"]) == (32_768, 32_768, "cut")
