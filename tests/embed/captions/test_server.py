"""The test server speaks Ollama's protocol: the `ollama` package's own types and client are the judge."""

from __future__ import annotations

import json

import httpx
import ollama
import pytest
from ollama_server import DIGEST, OllamaServer

ASK = {"role": "user", "content": "what?"}


@pytest.fixture
def client(server: OllamaServer) -> ollama.Client:
    return ollama.Client(server.url)


def test_lists_and_shows(client: ollama.Client, server: OllamaServer) -> None:
    (model,) = client.list().models
    assert (model.model, model.digest) == ("llava:7b", DIGEST)
    assert model.details is not None
    assert model.details.parameter_size == "7B"
    assert client.show("llava:7b").capabilities == ["completion", "vision"]
    assert httpx.get(f"{server.url}/api/version").json() == {"version": "0.12.3"}


def test_chat(client: ollama.Client, server: OllamaServer) -> None:
    server.answers = lambda question: "Three words here"
    whole = client.chat("llava:7b", [{**ASK, "images": [b"abc"]}], options={"seed": 5})
    assert (whole.message.content, whole.done, whole.done_reason) == ("Three words here", True, "stop")
    for figure in (whole.total_duration, whole.eval_count, whole.eval_duration, whole.prompt_eval_count):
        assert isinstance(figure, int)
        assert figure > 0
    question = server.questions[0]
    assert (question.image, question.prompt, question.seed) == (b"abc", "what?", 5)
    server.behave("length")
    assert client.chat("llava:7b", [ASK]).done_reason == "length"


def test_answers_keep_to_the_tokens_and_the_schema_asked_for(client: ollama.Client) -> None:
    short = client.chat("llava:7b", [ASK], options={"num_predict": 2})
    assert (short.message.content, short.done_reason, short.eval_count) == ("A picture", "length", 2)
    for endless in (-1, -2):
        assert client.chat("llava:7b", [ASK], options={"num_predict": endless}).done_reason == "stop"
    fields = {"caption": {"type": "string"}, "level": {"type": "string", "enum": ["low", "high"]}}
    schema = {"type": "object", "properties": fields}
    answered = json.loads(client.chat("llava:7b", [ASK], format=schema).message.content or "")
    assert answered["level"] == "low"
    assert answered["caption"].startswith("A picture")


def test_pull_tells_its_progress(client: ollama.Client, server: OllamaServer) -> None:
    server.pullable["moondream:latest"] = "f" * 64
    parts = list(client.pull("moondream", stream=True))
    assert parts[-1].status == "success"
    assert [part.completed for part in parts if part.completed] == [1000, 2500, 4000]
    assert "moondream:latest" in {model.model for model in client.list().models}
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("nothing", stream=True))


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("404", 404, "model 'llava:7b' not found"),
        ("500", 500, "model runner has unexpectedly stopped"),
        ("503", 503, "server busy, please try again.  maximum pending requests exceeded"),
        ("400", 400, "Failed to load image"),
    ],
)
def test_errors_have_ollamas_bodies(
    fault: str, status: int, words: str, client: ollama.Client, server: OllamaServer
) -> None:
    server.behave(fault)
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("llava:7b", [ASK])
    assert caught.value.status_code == status
    assert words in caught.value.error
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found"):
        client.show("nothing")


def test_faults_of_the_connection(client: ollama.Client, server: OllamaServer) -> None:
    for fault, error in (
        ("cut", httpx.RemoteProtocolError),
        ("drop", httpx.RemoteProtocolError),
        ("garbage", json.JSONDecodeError),
    ):
        server.behave(fault)
        with pytest.raises(error):
            client.chat("llava:7b", [ASK])
    server.stop()
    with pytest.raises(ConnectionError):
        client.chat("llava:7b", [ASK])
    server.start()
    server.behave("empty", times=2)
    assert [bool(client.chat("llava:7b", [ASK]).message.content) for _ in range(3)] == [False, False, True]
