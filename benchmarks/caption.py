"""What captioning costs on top of the server's own time, and what several slots bring.

    python benchmarks/caption.py [--answers 200] [--delay 0.05] [--slots 8] [--rounds 3]

A server in a process of its own answers after 50 ms, on one slot or on several. Two loops that keep nothing stand against
the whole of `caption_images` (planning, reading and resizing pictures, provenance, journal, commits): the bare loop sends
bodies made beforehand over one kept connection, and no client can be quicker at one question at a time; the client's loop
calls the package `ollama` with pictures prepared beforehand, which is what anybody's script would do.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import ollama
import pyarrow as pa
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.questions import CaptionSettings, Prompt, prepare
from icehouse.store.store import Store
from machine import machine
from PIL import Image

SERVER = Path(__file__).parents[1] / "tests" / "helpers" / "ollama_server.py"


def make_pictures(folder: Path, n: int) -> list[Path]:
    """JPEGs of 640 x 480, each another one."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = folder / f"{i:05d}.jpg"
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=85)
        paths.append(path)
    return paths


def make_store(path: Path, pictures: list[Path]) -> Store:
    store = Store.create(path)
    store.items.append(
        pa.table(
            {
                "item_id": [p.stem for p in pictures],
                "path": [p.name for p in pictures],
                "root": [str(p.parent) for p in pictures],
                "image_sha256": [hashlib.sha256(p.read_bytes()).hexdigest() for p in pictures],
                "missing": [False] * len(pictures),
            }
        )
    )
    return store


@contextlib.contextmanager
def serving(delay: float, slots: int) -> Iterator[str]:
    """A server in a process of its own."""
    command = [sys.executable, str(SERVER), "--delay", str(delay), "--slots", str(slots)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def bare_loop(url: str, pictures: list[Path]) -> float:
    """Seconds of the plainest client there is."""
    options = {"temperature": 0.0, "seed": 0, "num_predict": 200}
    bodies = []
    for path in pictures:
        image = base64.b64encode(prepare(path.read_bytes())).decode()
        message = {"role": "user", "content": Prompt.of(None, None).fill(None), "images": [image]}
        body = {
            "model": "llava:7b",
            "messages": [message],
            "stream": False,
            "think": False,
            "options": options,
        }
        bodies.append(json.dumps(body).encode())
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    begun = time.perf_counter()
    for body in bodies:
        connection.request("POST", "/api/chat", body, {"Content-Type": "application/json"})
        json.loads(connection.getresponse().read())
    seconds = time.perf_counter() - begun
    connection.close()
    return seconds


def client_loop(url: str, pictures: list[Path]) -> float:
    """Seconds of a loop over the client that icehouse uses as well."""
    images = [prepare(path.read_bytes()) for path in pictures]
    prompt = Prompt.of(None, None).fill(None)
    options = {"temperature": 0.0, "seed": 0, "num_predict": 200}

    async def ask() -> float:
        client = ollama.AsyncClient(url)
        begun = time.perf_counter()
        for image in images:
            message = {"role": "user", "content": prompt, "images": [image]}
            await client.chat("llava:7b", [message], stream=False, think=False, options=options)
        return time.perf_counter() - begun

    return asyncio.run(ask())


def icehouse(url: str, folder: Path, pictures: list[Path], concurrency: int | None) -> tuple[float, int]:
    """Seconds of `caption_images` on a fresh store, and the questions at once at its end."""
    path = folder / "store"
    store = make_store(path, pictures)
    begun = time.perf_counter()
    report = caption_images(store, CaptionSettings("llava:7b", hosts=[url], concurrency=concurrency))
    seconds = time.perf_counter() - begun
    assert report.captioned == len(pictures)
    shutil.rmtree(path)
    return seconds, report.concurrency[url]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(machine("ollama", "httpx", "pillow", "pyarrow"))
    folder = Path(tempfile.mkdtemp(prefix="icehouse-caption-"))
    try:
        many = make_pictures(folder / "pictures", args.slots * args.answers)
        few = many[: args.answers]
        with serving(args.delay, 1) as url:
            icehouse(url, folder, few[:8], 1)  # libraries load at first use
            rounds = []
            for _ in range(args.rounds):
                loops = bare_loop(url, few), client_loop(url, few)
                rounds.append((*loops, icehouse(url, folder, few, 1)[0]))
        print(f"\n{args.answers} answers of {args.delay * 1e3:.0f} ms, one at a time, {args.rounds} rounds")
        print("| | ms an answer | over the bare loop | over the client's loop |")
        print("|---|---|---|---|")
        for name, which in (("bare loop", 0), ("the client's loop", 1), ("icehouse caption", 2)):
            seconds = statistics.median(r[which] for r in rounds)
            ratios = [statistics.median(r[which] / r[base] - 1 for r in rounds) for base in (0, 1)]
            shown = " | ".join(f"{ratio:+.1%}" for ratio in ratios)
            print(f"| {name} | {seconds / args.answers * 1e3:.1f} | {shown} |")
        one = statistics.median(args.answers / r[2] for r in rounds)

        with serving(args.delay, args.slots) as url:
            print(f"\n{len(many)} answers, {args.slots} slots")
            print("| concurrency | answers/s | against one at a time | at once at the end |")
            print("|---|---|---|---|")
            print(f"| 1 | {one:.1f} | 1 | 1 |")
            for name, concurrency in ((f"fixed at {args.slots}", args.slots), ("found out", None)):
                runs = [icehouse(url, folder, many, concurrency) for _ in range(args.rounds)]
                rate = len(many) / statistics.median(seconds for seconds, _ in runs)
                print(f"| {name} | {rate:.1f} | {rate / one:.2f} | {runs[-1][1]} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
