"""What `icehouse doctor` says of Ollama."""

from __future__ import annotations

import pytest
from icehouse.serve import doctor
from icehouse.serve.doctor import examine, ollama_status
from ollama_server import OllamaServer


def test_a_server_with_a_vision_model(server: OllamaServer) -> None:
    found = ollama_status(server.url)
    assert (found["host"], found["answers"], found["version"]) == (server.url, True, "0.12.3")
    assert found["models"] == found["vision"] == ["llava:7b"]
    assert found["detail"] == "version 0.12.3, 1 model, 1 of them can see: llava:7b"


def test_models_without_eyes_and_none_at_all(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.vision = False
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    found = examine(load=False)
    assert found["ollama"]["detail"] == "version 0.12.3, 1 model, none of them can see"
    assert any("`ollama pull llava:7b`" in line for line in found["advice"])
    server.models = {}
    assert ollama_status()["detail"] == "version 0.12.3, no models"


def test_a_model_that_cannot_be_shown_costs_only_itself(server: OllamaServer) -> None:
    server.models = {"broken:1b": "b" * 64, "llava:7b": "a" * 64}
    server.wrong["/api/show broken:1b"] = (500, b'{"error": "unexpected \\u001bEOF"}')
    found = ollama_status(server.url)
    assert (found["answers"], found["version"]) == (True, "0.12.3")
    assert (found["vision"], found["untold"]) == (["llava:7b"], ["broken:1b"])
    assert found["detail"].startswith(
        "version 0.12.3, 2 models, 1 of them can see: llava:7b; it cannot show broken:1b ("
    )
    assert "unexpected" in found["detail"]
    assert "\x1b" not in found["detail"]


def test_a_server_that_falls_silent_is_not_waited_for_again(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WAIT_S", 1.0)
    server.models = {f"m:{n}b": "b" * 64 for n in range(9)}
    server.wrong = {f"/api/show {name}": None for name in server.models}
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    examined = examine(load=False)
    found = examined["ollama"]
    assert (found["answers"], server.calls["POST /api/show"], len(found["untold"])) == (True, 1, 9)
    assert "it does not tell what they can do" in found["detail"]
    assert not any("vision model" in line for line in examined["advice"])  # nobody knows


def test_models_that_cannot_be_listed(server: OllamaServer) -> None:
    server.wrong["/api/tags"] = (500, b'{"error": "no"}')
    found = ollama_status(server.url)
    assert (found["answers"], found["models"]) == (True, [])
    assert "does not list its models" in found["detail"]


def test_a_server_from_before_capabilities_is_believed(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.wrong["/api/show llava:7b"] = (200, b'{"details": {}}')
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    found = examine(load=False)
    assert found["ollama"]["vision"] == ["llava:7b"]
    assert not any("vision model" in line for line in found["advice"])


@pytest.mark.parametrize("host", [None, "ftp://x", "http://me:secret@gpu 1"])
def test_nobody_there(host: str | None, server: OllamaServer) -> None:
    server.stop()
    found = ollama_status(host or server.url)
    assert (found["answers"], found["models"]) == (False, [])
    assert found["detail"]
    assert "secret" not in str(found)
