"""What `icehouse doctor` says of Ollama."""

from __future__ import annotations

import pytest
from icehouse.embed.captions.look import look_at_ollama
from icehouse.serve.doctor import examine
from ollama_server import OllamaServer


def test_a_server_with_a_vision_model(server: OllamaServer) -> None:
    found = look_at_ollama(server.url)
    assert (found["host"], found["answers"], found["version"]) == (server.url, True, "0.12.3")
    assert found["models"] == found["vision"] == ["llava:7b"]
    assert found["detail"] == "version 0.12.3, 1 models, 1 of them can see: llava:7b"


def test_models_without_eyes_and_none_at_all(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.vision = False
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    found = examine(load=False)
    assert found["ollama"]["detail"] == "version 0.12.3, 1 models, none of them can see"
    assert any("`ollama pull llava:7b`" in line for line in found["advice"])
    server.models = {}
    assert look_at_ollama()["detail"] == "version 0.12.3, no models"


def test_nobody_there(server: OllamaServer) -> None:
    server.stop()
    found = look_at_ollama(server.url)
    assert (found["answers"], found["models"]) == (False, [])
    assert found["detail"]
    assert look_at_ollama("ftp://x")["answers"] is False
