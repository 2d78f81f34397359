"""Stores whose items have pictures but no features, servers that answer by picture, and waits cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import caption_stores
import pytest
from icehouse.embed.captions import scheduler
from icehouse.embed.captions.settings import CaptionSettings
from icehouse.store.store import Store
from ollama_server import OllamaServer

MakeStore = Callable[..., Store]


@pytest.fixture(autouse=True)
def no_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a server of this machine's own nor a proxy plays a part; nobody waits for seconds."""
    for name in (
        "OLLAMA_HOST",
        "OLLAMA_API_KEY",
        "OPENAI_API_KEY",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr(scheduler, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Function: number of pictures, and texts of their posts -> store; the last picture is there twice."""

    def make(
        n: int = 8, texts: Sequence[str | None] | None = None, files: Mapping[str, bytes] | None = None
    ) -> Store:
        return caption_stores.make(tmp_path, n, texts, files)

    return make


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as it:
        yield it


@pytest.fixture
def other() -> Iterator[OllamaServer]:
    """A second server with the same model."""
    with OllamaServer() as it:
        yield it


@pytest.fixture
def asking() -> Callable[..., CaptionSettings]:
    """Function: servers and options -> settings that suit a test; none runs out because a machine is busy."""

    def make(*servers: OllamaServer, **options: object) -> CaptionSettings:
        settings = {"hosts": [server.url for server in servers], "timeout": 60.0, "patience": 60.0, **options}
        return CaptionSettings("llava:7b", **settings)  # type: ignore[arg-type]

    return make
