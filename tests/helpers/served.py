"""A served store: bright and dark pictures with words, a head on both, and a client of the application."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder

#: Host by which the tests call the server; that of starlette's client is none of its names.
HOST = "http://127.0.0.1:8000"

#: What a browser sends for a page.
HTML = {"accept": "text/html"}


def make_store(folder: Path, rows: int = 60) -> Store:
    """Posts ``i0`` to ``i59``, bright ones labelled day, dark ones dark; the last two are copies of the first two."""
    shutil.copytree(_template(rows), folder, dirs_exist_ok=True)
    return Store.open(folder / "store")


@functools.cache
def _template(rows: int) -> Path:
    """The same, embedded and trained once a process; paths of pictures lead here from all copies."""
    folder = Path(tempfile.mkdtemp(prefix="icehouse-served-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    lines = ["id,image,text,label,third,split"]
    (folder / "images").mkdir(parents=True)
    for i in range(rows):
        bright = i % 2 == 0
        if i < rows - 2:
            pixels = rng.integers(140, 256, (24, 24, 3)) if bright else rng.integers(0, 116, (24, 24, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
        file = f"{i if i < rows - 2 else i - rows + 2:02d}.png"
        split = ("train", "train", "dev", "test")[i // 2 % 4]
        label = "day" if bright else "dark"
        lines.append(
            f"i{i},images/{file},{'sun' if bright else 'night'} number{i},{label},{'abc'[i % 3]},{split}"
        )
    (folder / "posts.csv").write_text("\n".join(lines) + "\n")
    options = SourceOptions(label_columns=("label", "third"))
    embed_sources(
        [folder / "posts.csv"], folder / "store", encoder=ToyEncoder(), dtype="float32", options=options
    )
    store = Store.open(folder / "store")
    train(store, "logreg", inputs="image/joint,text", label="label")
    return folder


@contextlib.contextmanager
def client(
    path: Path, *runs: str, headers: dict[str, str] | None = None, encoder: Any = None, **settings: Any
) -> Iterator[Any]:
    """A client of the application on a store or a package, which runs as long as the context."""
    from fastapi.testclient import TestClient
    from icehouse.serve.app.server import create_app
    from icehouse.serve.app.state import Settings, State

    state = State.open(path, runs, Settings(**settings), [encoder or ToyEncoder()])
    app = create_app(state)
    with TestClient(app, base_url=HOST, headers=headers) as made:
        made.problem = state.wait(60)  # why there is no model, if there is none
        yield made


@contextlib.contextmanager
def running(path: Path, *runs: str, encoder: Any = None, **settings: Any) -> Iterator[str]:
    """A server in a thread of this process, as `icehouse serve` runs it; its address."""
    import uvicorn
    from icehouse.serve.app.server import configured
    from icehouse.serve.app.state import Settings, State

    state = State.open(path, runs, Settings(**settings), [encoder or ToyEncoder()])
    server = uvicorn.Server(configured(state, log_level="error", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        assert state.wait(120) is None
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
