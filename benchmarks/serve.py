"""`icehouse serve` under load: 32 clients on /predict with `mini` against one request at a time; overload; slow clients.

The server is a process of its own on a store of the sample feed, with a head on image and text. Each client sends another
picture and text, over a connection that stays open, as soon as it has its answer. "One at a time" is the same server that
takes a request up when the one before is answered, so that nothing shares a batch. Clients and server share the cores.

    python benchmarks/serve.py                      about five minutes
    python benchmarks/serve.py --minutes 10         memory over ten minutes
    python benchmarks/serve.py --seconds 5          a quick look
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from icehouse.data.sample.feed import make_feed
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from machine import machine

CLIENTS = 32


def serve_one_at_a_time(store: str, port: int) -> None:
    """Run the server with a lock around each answer; batches are of one."""
    import uvicorn
    from icehouse.serve.app import api
    from icehouse.serve.app.application import create_app
    from icehouse.serve.app.state import State

    lock, answer = asyncio.Lock(), api.answer

    async def alone(*given: object, **options: object) -> object:
        async with lock:
            return await answer(*given, **options)  # type: ignore[arg-type]

    api.answer = alone  # type: ignore[assignment]
    uvicorn.run(create_app(State.open(store)), port=port, log_level="error")


@contextlib.contextmanager
def server(store: Path, *, alone: bool = False) -> Iterator[tuple[str, int]]:
    """A server process; its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "icehouse", "serve", str(store), "--port", str(port)]
    if alone:
        command = [sys.executable, __file__, "--alone", str(store), str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                time.sleep(0.2)
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
            else:
                raise SystemExit("the server did not become ready")
            yield url, process.pid
        finally:
            process.send_signal(signal.SIGINT)


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def bodies(feed: Path) -> list[tuple[bytes, str]]:
    """Pictures of the feed, each with a text."""
    files = sorted((feed / "images").glob("*.jpg"))
    return [
        (path.read_bytes(), f"Help needed near the harbour, house {i} #flood") for i, path in enumerate(files)
    ]


async def load(url: str, sent: list[tuple[bytes, str]], clients: int, seconds: float) -> dict[str, object]:
    """Answers a second, latencies in milliseconds and statuses of some clients for some seconds."""
    took: list[float] = []
    statuses: dict[int, int] = {}
    begun = time.perf_counter()

    async def client(number: int) -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            k = number
            while time.perf_counter() - begun < seconds:
                image, text = sent[k % len(sent)]
                k += clients
                start = time.perf_counter()
                answer = await http.post(
                    f"{url}/predict", files={"image": image}, data={"text": f"{text} {k}"}
                )
                if answer.status_code == 200:
                    took.append(1000 * (time.perf_counter() - start))
                else:
                    await asyncio.sleep(0.05)
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

    await asyncio.gather(*map(client, range(clients)))
    spent = time.perf_counter() - begun
    p50, p95 = np.percentile(took, [50, 95]) if took else (np.nan, np.nan)
    return {"rate": len(took) / spent, "p50": float(p50), "p95": float(p95), "statuses": statuses}


def crawl(url: str, clients: int) -> list[socket.socket]:
    """Clients that begin a request with a body and do not go on."""
    to = urlsplit(url)
    opened = []
    for _ in range(clients):
        client = socket.create_connection((str(to.hostname), int(to.port or 0)))
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: 1000000\r\n\r\n{")
        opened.append(client)
    return opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--minutes", type=float, default=0, help="watch memory under load for so long")
    parser.add_argument("--alone", nargs=2, metavar=("STORE", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        serve_one_at_a_time(given.alone[0], int(given.alone[1]))
        return
    print(machine("fastapi", "uvicorn", "torch"))
    with tempfile.TemporaryDirectory() as scratch:
        feed = make_feed(Path(scratch) / "feed", n=400)
        embed_sources([feed.posts], Path(scratch) / "store", encoder="mini")
        train(Store.open(Path(scratch) / "store"), "logreg", inputs="image,text", label="label")
        sent, found = bodies(Path(scratch) / "feed"), {}
        for name, alone in (("one at a time", True), ("together", False)):
            with server(Path(scratch) / "store", alone=alone) as (url, pid):
                asyncio.run(load(url, sent, CLIENTS, 3))  # what is slow the first time
                found[name] = asyncio.run(load(url, sent, CLIENTS, given.seconds))
                print(name, json.dumps(found[name]))
                if alone:
                    continue
                slow = crawl(url, 50)
                beside = asyncio.run(load(url, sent, CLIENTS, given.seconds / 2))
                print("beside 50 clients that send nothing more", json.dumps(beside))
                for client in slow:
                    client.close()
                over = asyncio.run(load(url, sent, 400, given.seconds / 2))
                print("400 clients", json.dumps(over))
                after = asyncio.run(load(url, sent, CLIENTS, given.seconds / 2))
                print("32 again", json.dumps(after))
                memory = [round(resident(pid))]
                for _ in range(round(given.minutes)):
                    asyncio.run(load(url, sent, CLIENTS, 60))
                    memory.append(round(resident(pid)))
                print("resident MB by the minute", memory)
        ratio = found["together"]["rate"] / found["one at a time"]["rate"]
        print(f"together / one at a time: {ratio:.2f} times the answers a second")


if __name__ == "__main__":
    main()
