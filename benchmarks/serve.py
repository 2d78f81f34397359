"""`icehouse serve` under load: 32 clients on /predict with `mini` against one request at a time; overload; slow clients.

The server is a process of its own on a store of the sample feed, with a head on image and text. Each client sends another
picture and text, over a connection that stays open, as soon as it has its answer. "One at a time" is the same server that
takes a request up when the one before is answered, so that nothing shares a batch. Both are loaded in turns. Clients and
servers share the cores.

    python benchmarks/serve.py                      about five minutes
    python benchmarks/serve.py --minutes 10         memory over ten minutes
    python benchmarks/serve.py --seconds 5          a quick look
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from icehouse.data.sample_feed import make_feed
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from machine import machine

CLIENTS, ROUNDS = 32, 4


def serve_one_at_a_time(store: str, port: int) -> None:
    """Run the very same server with a lock around each answer; batches are of one."""
    from icehouse.serve.app import api, server

    lock, answer = asyncio.Lock(), api.answer

    async def alone(*given: object, **options: object) -> object:
        async with lock:
            return await answer(*given, **options)  # type: ignore[arg-type]

    api.answer = alone  # type: ignore[assignment]
    server.serve(store, port=port)


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


def processor_seconds(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(feed: Path) -> list[bytes]:
    """Requests with a picture of the feed and a text, ready to be sent: clients share the cores, and should cost little."""
    made = []
    for i, path in enumerate(sorted((feed / "images").glob("*.jpg"))):
        parts = httpx.Request(
            "POST",
            "http://127.0.0.1/predict",
            files={"image": path.read_bytes()},
            data={"text": f"Help needed near the harbour, house {i} #flood"},
        )
        head = (
            f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {parts.headers['content-type']}\r\n"
        )
        body = parts.read()
        made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


@dataclass
class Load:
    """What some clients saw: milliseconds of each answer, statuses, and seconds that it took."""

    took: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    processor: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.took) / self.seconds

    def __str__(self) -> str:
        p50, p95 = np.percentile(self.took, [50, 95]) if self.took else (np.nan, np.nan)
        each = 1000 * self.processor / max(len(self.took), 1)
        return (
            f"{self.rate:.1f} answers/s, p50 {p50:.0f} ms, p95 {p95:.0f} ms, {each:.1f} ms of processor an answer, "
            f"statuses {dict(self.statuses)}"
        )


async def load(url: str, sent: list[bytes], clients: int, seconds: float, seen: Load) -> None:
    """Let some clients ask for some seconds, each again as soon as it has its answer."""
    to, begun = urlsplit(url), time.perf_counter()

    async def client(number: int) -> None:
        k = number
        while time.perf_counter() - begun < seconds:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(to.hostname, to.port)
                while time.perf_counter() - begun < seconds:
                    k += clients
                    start = time.perf_counter()
                    writer.write(sent[k % len(sent)])
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    status = int(head[9:12])
                    seen.statuses[status] += 1
                    if status == 200:
                        seen.took.append(1000 * (time.perf_counter() - start))
                    else:
                        await asyncio.sleep(0.05)
                writer.close()

    await asyncio.gather(*map(client, range(clients)))
    seen.seconds += time.perf_counter() - begun


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
        folder = Path(scratch)
        feed = make_feed(folder / "feed", n=400)
        embed_sources([feed.posts], folder / "store", encoder="mini")
        train(Store.open(folder / "store"), "logreg", inputs="image,text", label="label")
        sent = requests(folder / "feed")

        def run(url: str, pid: int, clients: int, seconds: float, seen: Load | None = None) -> Load:
            seen = seen or Load()
            before = processor_seconds(pid)
            asyncio.run(load(url, sent, clients, seconds, seen))
            seen.processor += processor_seconds(pid) - before
            return seen

        with server(folder / "store", alone=True) as alone, server(folder / "store") as together:
            seen = {"one at a time": Load(), "together": Load()}
            for url, pid in (alone, together):
                run(url, pid, CLIENTS, 3)  # what is slow the first time
            for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets both
                for name, (url, pid) in (("one at a time", alone), ("together", together)):
                    run(url, pid, CLIENTS, given.seconds / ROUNDS, seen[name])
            for name, found in seen.items():
                print(f"{name}: {found}")
            print(f"together / one at a time: {seen['together'].rate / seen['one at a time'].rate:.2f}")
            url, pid = together
            slow = crawl(url, 50)
            print(f"beside 50 clients that send no more: {run(url, pid, CLIENTS, given.seconds / 3)}")
            for client in slow:
                client.close()
            print(f"400 clients: {run(url, pid, 400, given.seconds / 3)}")
            print(f"32 again: {run(url, pid, CLIENTS, given.seconds / 3)}")
            memory = [round(resident(pid))]
            for _ in range(round(given.minutes)):
                run(url, pid, CLIENTS, 60)
                memory.append(round(resident(pid)))
            print(f"resident MB, by the minute: {memory}")


if __name__ == "__main__":
    main()
