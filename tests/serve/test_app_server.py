"""The server as a process on a real port: slow clients, overload, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from icehouse.cli import app
from icehouse.errors import IcehouseError
from icehouse.serve.app import inference, server
from icehouse.serve.app.inference import Inference
from icehouse.serve.app.monitoring import Monitor
from icehouse.serve.app.state import Settings
from served import make_store, running
from toys import ToyEncoder
from typer.testing import CliRunner


class SlowEncoder(ToyEncoder):
    """Encodes a batch when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def encode_texts(self, texts: Any, outputs: Any) -> Any:
        self.gate.wait(30)
        return super().encode_texts(texts, outputs)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("server")).path


@pytest.fixture
def slow(store: Path) -> Iterator[tuple[str, SlowEncoder]]:
    encoder = SlowEncoder()
    with running(store, encoder=encoder, queue=8, body_seconds=1.0, head_seconds=1.0) as url:
        yield url, encoder
        encoder.gate.set()


def begun(url: str, body: bytes, length: int) -> socket.socket:
    """A request whose body has only begun to come."""
    to = urlsplit(url)
    client = socket.create_connection((str(to.hostname), int(to.port or 0)))
    head = f"POST /search HTTP/1.1\r\nHost: {to.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def test_slow_bodies_hold_nobody_up_and_end(slow: tuple[str, SlowEncoder]) -> None:
    url, _ = slow
    clients = [begun(url, b'{"text"', 1000) for _ in range(40)]
    assert httpx.get(f"{url}/search?text=sun").status_code == 200
    for client in clients:
        client.settimeout(20)
        answer = client.recv(4000)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not come within 1 seconds" in answer + client.recv(4000)
        client.close()


@pytest.mark.slow
def test_heads_that_come_too_slowly_end(slow: tuple[str, SlowEncoder]) -> None:
    url, _ = slow
    to = urlsplit(url)
    address = (str(to.hostname), int(to.port or 0))
    dripping, silent, idle = (socket.create_connection(address) for _ in range(3))
    # A connection that has been answered once has as long for its next head.
    idle.sendall(f"GET /healthz HTTP/1.1\r\nHost: {to.netloc}\r\n\r\n".encode())
    answer = idle.recv(4000)
    assert answer.startswith(b"HTTP/1.1 200")
    while not answer.endswith(b"}"):
        answer += idle.recv(4000)
    idle.sendall(b"GET /he")
    head, answer = iter(f"GET /healthz HTTP/1.1\r\nHost: {to.netloc}\r\nX-Slow: {'x' * 1000}"), b""
    dripping.settimeout(0.1)
    for _ in range(200):
        dripping.sendall(next(head).encode())
        with contextlib.suppress(TimeoutError):
            answer = dripping.recv(4000)
            break
    assert answer.startswith(b"HTTP/1.1 408")
    assert answer.endswith(b'{"detail":"the head of the request did not come within 1 seconds"}')
    for client in (silent, idle):
        client.settimeout(20)
    assert idle.recv(4000).startswith(b"HTTP/1.1 408")
    assert silent.recv(4000) == b"", "what never asked is closed without a word"
    # A request whose head is there has its own time, and one after the other may come on a connection.
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(f"{url}/healthz").status_code == 200
            time.sleep(0.5)
    for each in (dripping, silent, idle):
        each.close()


def test_an_answer_that_nobody_reads_ends(
    slow: tuple[str, SlowEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_S", 0.5)
    url, _ = slow
    to = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((str(to.hostname), int(to.port or 0)))
        # More answers than the system holds for a client that reads none.
        ask = f"GET /openapi.json HTTP/1.1\r\nHost: {to.netloc}\r\n\r\n".encode()
        client.settimeout(20)
        with pytest.raises(ConnectionError):
            client.sendall(ask * 100_000)
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_client_that_goes_away_leaves_no_trace(slow: tuple[str, SlowEncoder]) -> None:
    url, encoder = slow
    encoder.gate.clear()
    body = b'{"text": "sun"}'
    clients = [begun(url, body, len(body)) for _ in range(8)]
    _until(lambda: "icehouse_queue 8.0" in httpx.get(f"{url}/metrics").text)
    for client in clients:
        client.close()
    encoder.gate.set()
    _until(lambda: "icehouse_queue 0.0" in httpx.get(f"{url}/metrics").text)
    assert httpx.get(f"{url}/search?text=sun").status_code == 200


def test_overload_answers_503_and_recovers(slow: tuple[str, SlowEncoder]) -> None:
    url, encoder = slow
    encoder.gate.clear()
    with ThreadPoolExecutor(40) as pool, httpx.Client(timeout=30) as client:
        asked = [pool.submit(client.get, f"{url}/search", params={"text": f"sun {i}"}) for i in range(40)]
        _until(lambda: sum(future.done() for future in asked) == 32)
        encoder.gate.set()
        answers = [future.result() for future in asked]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 32
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert [answer.status_code for answer in answers].count(200) == 8
    assert httpx.get(f"{url}/search?text=sun").status_code == 200


def test_many_at_once_share_batches(store: Path) -> None:
    encoder = SlowEncoder()
    with running(store, encoder=encoder) as url:
        encoder.gate.clear()
        with ThreadPoolExecutor(16) as pool, httpx.Client(timeout=30) as client:
            first = pool.submit(client.get, f"{url}/search?text=first")
            _until(lambda: "icehouse_queue 1.0" in httpx.get(f"{url}/metrics").text)
            rest = [pool.submit(client.get, f"{url}/search", params={"text": f"sun {i}"}) for i in range(15)]
            _until(lambda: "icehouse_queue 16.0" in httpx.get(f"{url}/metrics").text)
            time.sleep(0.2)  # until the last has been cleaned and handed over
            encoder.batches.clear()
            encoder.gate.set()
            assert {future.result().status_code for future in [first, *rest]} == {200}
        assert encoder.batches[0] == 1
        assert sum(encoder.batches) == 16
        assert len(encoder.batches) <= 4, "eight rows fit into a batch of this encoder"


def test_a_batch_waits_for_what_is_on_its_way_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "NEXT_S", 60.0)
    monkeypatch.setattr(inference, "PATIENCE", 60.0)
    encoder, coming = ToyEncoder(), 5
    batcher = inference.Batcher(encoder, coming=lambda: coming, size=4)
    waiting = [batcher.submit("text", f"sun {i}", ["pooled"]) for i in range(3)]
    assert not wait(waiting, timeout=0.1).done
    full = [*waiting, batcher.submit("text", "sun 3", ["pooled"])]
    rows = [future.result(30)["pooled"] for future in full]
    alone = encoder.encode_texts([f"sun {i}" for i in range(4)], ["pooled"])["pooled"]
    np.testing.assert_allclose(np.stack(rows), alone)  # type: ignore[arg-type]
    coming = 0
    batcher.submit("text", "nobody else", ["pooled"]).result(30)
    batcher.close()
    assert encoder.batches == [4, 4, 1], "the second by hand"


def test_a_batch_does_not_wait_for_ever_for_what_never_comes() -> None:
    encoder = ToyEncoder()
    batcher = inference.Batcher(encoder, coming=lambda: 1, size=4)
    assert batcher.submit("text", "sun", ["pooled"]).result(30)["pooled"].shape == (24,)  # type: ignore[union-attr]
    batcher.close()


def test_what_comes_together_is_answered_together_and_one_failure_costs_only_itself() -> None:
    serving, calls = Inference(None, [], Settings(), Monitor()), []

    def halves(numbers: list[int]) -> list[Any]:
        calls.append(numbers)
        if 3 in numbers:
            raise IcehouseError("three")
        return [number / 2 if number else IcehouseError("nothing") for number in numbers]

    async def all_of(*numbers: int) -> list[Any]:
        asked = (serving.together("halves", halves, number) for number in numbers)
        return await asyncio.gather(*asked, return_exceptions=True)

    assert asyncio.run(all_of(1, 2, 4)) == [0.5, 1, 2]
    assert calls == [[1, 2, 4]]
    one, nothing, three = asyncio.run(all_of(1, 0, 3))
    assert (one, str(nothing), str(three)) == (0.5, "nothing", "three")
    serving.close()


def test_an_encoder_that_fails_costs_one_input(store: Path) -> None:
    class Broken(ToyEncoder):
        def encode_texts(self, texts: Any, outputs: Any) -> Any:
            if any("poison" in text for text in texts):
                raise RuntimeError("the model choked\non it")
            return super().encode_texts(texts, outputs)

        def encode_images(self, pixels: np.ndarray, outputs: Any) -> Any:
            return super().encode_images(pixels, outputs)

    with running(store, encoder=Broken()) as url:
        body = {"items": [{"text": "sun"}, {"text": "poison"}, {"text": "sun"}]}
        bad = httpx.get(f"{url}/search?text=poison")
        assert bad.status_code == 422
        assert bad.json()["detail"] == "the text cannot be encoded: the model choked on it"
        assert httpx.post(f"{url}/predict/batch", json=body).status_code == 200
        assert httpx.get(f"{url}/search?text=sun").status_code == 200


@pytest.mark.slow
def test_the_command_serves_what_it_can_until_it_is_interrupted(store: Path) -> None:
    """Without the weights of an encoder the store can still be looked at."""
    command = [sys.executable, "-m", "icehouse", "serve", str(store), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().partition(" served at ")[2].split()[0]
        _until(lambda: "toy" in httpx.get(f"{url}readyz").json()["detail"], 60)
        ready = httpx.get(f"{url}readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
        assert httpx.get(f"{url}search?text=sun").json() == ready.json()
        assert httpx.get(f"{url}items/i0").json()["labels"]["label"] == "day"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert (process.wait(30), rest) == (0, "")


def _until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


@pytest.mark.parametrize("command", [["serve"], ["label", "--classes", "a,b"]])
def test_whoever_serves_guards_the_door(
    command: list[str], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    runner, given = CliRunner(), [command[0], str(copy), *command[1:], "--port", "0"]
    refused = runner.invoke(app, [*given, "--token", " "])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "token is empty" in refused.stderr
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    for more, warned in (
        ([], False),
        (["--host", "localhost"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--token", "secret"], False),
    ):
        done = runner.invoke(app, [*given, *more])
        assert done.exit_code == 0, done.stderr
        assert ("--token guards it" in done.stderr) == warned, (more, done.stderr)
