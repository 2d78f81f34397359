"""What `icehouse doctor` says of Ollama."""

from __future__ import annotations

import ollama
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


def test_a_model_that_cannot_be_shown_costs_only_itself(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models = {"broken:1b": "b" * 64, "llava:7b": "a" * 64}
    show = ollama.Client.show

    def fail(self: ollama.Client, model: str) -> ollama.ShowResponse:
        if model == "broken:1b":
            raise ollama.ResponseError("unexpected \x1bEOF", 500)
        return show(self, model)

    monkeypatch.setattr(ollama.Client, "show", fail)
    found = look_at_ollama(server.url)
    assert (found["answers"], found["version"]) == (True, "0.12.3")
    assert (found["vision"], found["untold"]) == (["llava:7b"], ["broken:1b"])
    assert found["detail"].startswith(
        "version 0.12.3, 2 models, 1 of them can see: llava:7b; it cannot show broken:1b (unexpected"
    )
    assert "\x1b" not in found["detail"]


def test_a_server_that_falls_silent_is_not_waited_for_again(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models = {f"m:{n}b": "b" * 64 for n in range(9)}
    asked: list[str] = []

    def silent(_: ollama.Client, model: str) -> None:
        asked.append(model)
        raise TimeoutError("timed out")

    monkeypatch.setattr(ollama.Client, "show", silent)
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    examined = examine(load=False)
    found = examined["ollama"]
    assert (found["answers"], len(asked), len(found["untold"])) == (True, 1, 9)
    assert "it does not tell what they can do" in found["detail"]
    assert not any("vision model" in line for line in examined["advice"])  # nobody knows


def test_models_that_cannot_be_listed(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ollama.Client) -> None:
        raise ollama.ResponseError("no", 500)

    monkeypatch.setattr(ollama.Client, "list", fail)
    found = look_at_ollama(server.url)
    assert (found["answers"], found["models"]) == (True, [])
    assert "does not list its models" in found["detail"]


def test_a_server_from_before_capabilities_is_believed(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = ollama.Client.show
    monkeypatch.setattr(
        ollama.Client, "show", lambda self, name: show(self, name).model_copy(update={"capabilities": None})
    )
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    found = examine(load=False)
    assert found["ollama"]["vision"] == ["llava:7b"]
    assert not any("vision model" in line for line in found["advice"])


def test_nobody_there(server: OllamaServer) -> None:
    server.stop()
    found = look_at_ollama(server.url)
    assert (found["answers"], found["models"]) == (False, [])
    assert found["detail"]
    assert look_at_ollama("ftp://x")["answers"] is False
