"""A hostile server gets no more memory, no other host's address and no credentials into what is kept or shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from icehouse.cli import app
from icehouse.embed.captions import guard
from icehouse.embed.captions.api import split_host
from icehouse.embed.captions.asking import Asking
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.look import look_at_ollama
from icehouse.errors import CaptionError, UsageError
from icehouse.store import files as lock
from icehouse.store.store import Store
from ollama_server import OllamaServer
from typer.testing import CliRunner

MakeStore = Callable[..., Store]
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
def test_credentials_reach_no_file_and_no_screen(
    make_store: MakeStore, hostile: Callable[..., Hostile]
) -> None:
    store = make_store(2)
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
    assert_nothing_told(str(look_at_ollama(server.host)))


@pytest.mark.parametrize(("password", "pieces"), [(PASSWORD, ["s3cr"]), ("p%3Aw", ["p:w", "p%3"])])
@pytest.mark.parametrize(
    ("protocol", "pad"), [("ollama", 0), ("ollama", 192), ("ollama", 1990), ("openai", 192)]
)
def test_no_piece_of_a_secret_is_left_where_an_error_is_cut(
    protocol: str,
    pad: int,
    password: str,
    pieces: list[str],
    make_store: MakeStore,
    hostile: Callable[..., Hostile],
) -> None:
    said = f"{'z' * min(pad, 192)}{' ' * (pad - 192)}{PASSWORD} p:w p%3aw"
    host = hostile(lambda it: it.json({"error": said}, 400)).host.replace(PASSWORD, password)
    store = make_store(1)
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
    kind: str, make_store: MakeStore, hostile: Callable[..., Hostile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_ANSWER", 1 << 20)
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

    store = make_store(1)
    report = caption_images(store, Asking("llava:7b", hosts=[hostile(flood).host], patience=5))
    assert report.failed == 1
    assert "longer than 1 MiB" in store.query("select message from failures").to_pylist()[0]["message"]
    assert sent < 300 << 20


@pytest.mark.parametrize("status", [302, 307, 308])
def test_redirects_to_another_host_are_not_followed(
    status: int, make_store: MakeStore, hostile: Callable[..., Hostile], server: OllamaServer
) -> None:
    def redirect(it: Any) -> None:
        it.send_response(status)
        it.send_header("Location", f"{server.url}/api/chat")
        it.send_header("Content-Length", "0")
        it.end_headers()

    store = make_store(1)
    for protocol in ("ollama", "openai"):
        asking = Asking("llava:7b", hosts=[hostile(redirect).host], patience=5, api=protocol)
        with pytest.raises(CaptionError, match=f"sends its questions on to {server.url}"):
            caption_images(store, asking, name=protocol)
    assert not server.questions
    assert not server.keys


def test_long_answers_are_kept_short(make_store: MakeStore, hostile: Callable[..., Hostile]) -> None:
    store = make_store(1)
    said = " ".join(f"word{n}" for n in range(100_000))
    caption_images(store, Asking("llava:7b", hosts=[hostile(lambda it: it.json(answer(said))).host]))
    (row,) = store.query("select caption, raw, flags from captions_default").to_pylist()
    assert (len(row["caption"]), len(row["raw"]), row["flags"]) == (32_768, 32_768, "cut")
