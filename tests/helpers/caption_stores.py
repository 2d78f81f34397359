"""Stores whose items have pictures but no features, servers that describe them, and what is true of their captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from icehouse.data.text import text_sha256
from icehouse.embed.captions.caption_table import captions_of, import_captions
from icehouse.embed.captions.captioner import CaptionReport, caption_images
from icehouse.embed.captions.questions import CaptionSettings, prepare
from icehouse.store.store import Store
from ollama_server import OllamaServer
from toys import make_pictures


def make(
    tmp_path: Path,
    n: int = 8,
    texts: Sequence[str | None] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Store:
    """Store of `n` pictures and further `files`, with texts; the last picture is there twice. No features."""
    folder = tmp_path / "pictures"
    make_pictures(folder, n)
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
    (folder / "copy.png").write_bytes((folder / f"{n - 1:04d}.png").read_bytes())
    paths = sorted(folder.iterdir())
    told = [None] * len(paths) if texts is None else [*texts, *[None] * len(paths)][: len(paths)]
    store = Store.create(tmp_path / "store")
    store.items.append(
        pa.table(
            {
                "item_id": [path.stem for path in paths],
                "path": [path.name for path in paths],
                "root": [str(folder)] * len(paths),
                "text": pa.array(told, pa.string()),
                "text_sha256": pa.array([None if t is None else text_sha256(t) for t in told], pa.string()),
                "image_sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
                "bytes": pa.array([path.stat().st_size for path in paths], pa.int64()),
                "mtime_ns": pa.array([path.stat().st_mtime_ns for path in paths], pa.int64()),
                "missing": [False] * len(paths),
                "added": pa.array([datetime.now(UTC)] * len(paths), pa.timestamp("us", tz="UTC")),
            }
        )
    )
    return store


def sent(store: Store) -> dict[str, str]:
    """sha256 of each picture as it is sent -> sha256 of its file."""
    found = {}
    for row in store.items.read(["root", "path"]).to_pylist():
        data = (Path(row["root"]) / row["path"]).read_bytes()
        found[_as_sent(data)] = hashlib.sha256(data).hexdigest()
    return found


@cache
def _as_sent(data: bytes) -> str:
    return hashlib.sha256(prepare(data)).hexdigest()


def captions(store: Store, name: str = "default") -> dict[str, str]:
    """Caption of each picture (sha256 of its file)."""
    rows = captions_of(store, name).read(["image_sha256", "caption"]).to_pylist()
    return {row["image_sha256"]: row["caption"] for row in rows}


def truth(store: Store) -> dict[str, str]:
    """What the server answers by default, by the picture's own sha256."""
    return {
        own: f"A picture whose digest begins with {as_sent[:12]}." for as_sent, own in sent(store).items()
    }


class Lab:
    """A folder for a store, and a server for it; `store` and `caption` take what `make` and `caption_images` do."""

    RUN = ("name", "where", "limit", "retry_failures", "progress", "say")

    def __init__(self, folder: Path, server: OllamaServer) -> None:
        self.folder = folder
        self.server = server

    def store(self, *arguments: Any, **options: Any) -> Store:
        """A store of some pictures; the last one is there twice."""
        return make(self.folder, *arguments, **options)

    def settings(self, *servers: OllamaServer, **options: Any) -> CaptionSettings:
        """Settings that suit a test; none runs out because a machine is busy."""
        hosts = [server.url for server in servers or (self.server,)]
        return CaptionSettings("llava:7b", **{"hosts": hosts, "timeout": 60.0, "patience": 60.0, **options})

    def imported(self, store: Store, captions: Mapping[str, str], name: str = "default") -> None:
        """Captions by item, as if they had been made elsewhere."""
        path = self.folder / f"{name}.jsonl"
        rows = [json.dumps({"item_id": item, "caption": caption}) for item, caption in captions.items()]
        path.write_text("\n".join(rows))
        import_captions(store, path, name=name)

    def caption(self, store: Store, *servers: OllamaServer, **options: Any) -> CaptionReport:
        """Caption a store; options of the run and of its settings."""
        run = {name: options.pop(name) for name in self.RUN if name in options}
        return caption_images(store, self.settings(*servers, **options), **run)
