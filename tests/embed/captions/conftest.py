"""Stores whose items have pictures but no features, servers that answer by picture, and waits cut short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from caption_stores import Lab
from icehouse.embed.captions import scheduler
from ollama_server import OllamaServer


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
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as it:
        yield it


@pytest.fixture
def other() -> Iterator[OllamaServer]:
    """A second server with the same model."""
    with OllamaServer() as it:
        yield it


@pytest.fixture
def lab(tmp_path: Path, server: OllamaServer) -> Lab:
    return Lab(tmp_path, server)
