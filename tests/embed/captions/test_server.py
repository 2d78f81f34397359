"""The test server speaks Ollama's protocol: the `ollama` package's own types and client are the judge."""

from __future__ import annotations

import json

import httpx
import ollama
import pytest
from ollama_server import DIGEST, OllamaServer


@pytest.fixture
def client(server: OllamaServer) -> ollama.Client:
    return ollama.Client(server.url)


def test_lists_shows_and_tells_what_runs(client: ollama.Client, server: OllamaServer) -> None:
    (model,) = client.list().models
    assert (model.model, model.digest) == ("llava:7b", DIGEST)
    assert model.details is not None
    assert model.details.parameter_size == "7B"
    shown = client.show("llava:7b")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo is not None
    assert [running.model for running in client.ps().models] == ["llava:7b"]
    assert httpx.get(f"{server.url}/api/version").json() == {"version": "0.12.3"}


def test_chat_whole_and_streamed(client: ollama.Client, server: OllamaServer) -> None:
    server.answers = lambda question: "Three words here"
    ask = {"role": "user", "content": "what?", "images": [b"abc"]}
    whole = client.chat("llava:7b", [ask], options={"seed": 5})
    assert isinstance(whole, ollama.ChatResponse)
    assert (whole.message.content, whole.done, whole.done_reason) == ("Three words here", True, "stop")
    for figure in (whole.total_duration, whole.eval_count, whole.eval_duration, whole.prompt_eval_count):
        assert isinstance(figure, int)
        assert figure > 0
    parts = list(client.chat("llava:7b", [ask], stream=True))
    assert "".join(part.message.content or "" for part in parts).strip() == "Three words here"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].done_reason == "stop"
    question = server.questions[0]
    assert (question.image, question.prompt, question.seed) == (b"abc", "what?", 5)


def test_generate_whole_and_streamed(client: ollama.Client, server: OllamaServer) -> None:
    server.answers = lambda question: "One two"
    assert client.generate("llava:7b", "what?", images=[b"abc"]).response == "One two"
    assert (
        "".join(part.response or "" for part in client.generate("llava:7b", "what?", stream=True))
        == "One two "
    )


def test_an_empty_chat_loads_the_model(client: ollama.Client) -> None:
    assert client.chat("llava:7b", []).done_reason == "load"


def test_cut_off_answers_say_so(client: ollama.Client, server: OllamaServer) -> None:
    server.behave("length")
    assert client.chat("llava:7b", [{"role": "user", "content": "what?"}]).done_reason == "length"


def test_answers_keep_to_the_tokens_and_the_schema_asked_for(client: ollama.Client) -> None:
    ask = {"role": "user", "content": "what?"}
    short = client.chat("llava:7b", [ask], options={"num_predict": 2})
    assert (short.message.content, short.done_reason, short.eval_count) == ("A picture", "length", 2)
    for endless in (-1, -2):
        assert client.chat("llava:7b", [ask], options={"num_predict": endless}).done_reason == "stop"
    fields = {"caption": {"type": "string"}, "level": {"type": "string", "enum": ["low", "high"]}}
    schema = {"type": "object", "properties": fields}
    answered = json.loads(client.chat("llava:7b", [ask], format=schema).message.content or "")
    assert answered["level"] == "low"
    assert answered["caption"].startswith("A picture")


def test_a_model_without_eyes_takes_no_picture(client: ollama.Client, server: OllamaServer) -> None:
    server.vision = False
    assert client.chat("llava:7b", [{"role": "user", "content": "what?"}]).done
    with pytest.raises(ollama.ResponseError, match="missing data required for image input"):
        client.chat("llava:7b", [{"role": "user", "content": "what?", "images": [b"abc"]}])


@pytest.mark.parametrize(
    ("fault", "error"), [("cut", httpx.RemoteProtocolError), ("garbage", json.JSONDecodeError)]
)
def test_streams_go_wrong_after_a_part(
    client: ollama.Client, server: OllamaServer, fault: str, error: type[Exception]
) -> None:
    server.behave(fault)
    parts = client.chat("llava:7b", [{"role": "user", "content": "what?"}], stream=True)
    assert next(parts).message.content == "A street"
    with pytest.raises(error):
        list(parts)


def test_pull_tells_its_progress(client: ollama.Client, server: OllamaServer) -> None:
    server.pullable["moondream:latest"] = "f" * 64
    parts = list(client.pull("moondream", stream=True))
    assert next(part.status for part in parts) == "pulling manifest"
    assert parts[-1].status == "success"
    assert [part.completed for part in parts if part.completed] == [1000, 2500, 4000]
    assert "moondream:latest" in {model.model for model in client.list().models}
    assert client.pull("moondream").status == "success"
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
    client: ollama.Client, server: OllamaServer, fault: str, status: int, words: str
) -> None:
    server.behave(fault)
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("llava:7b", [{"role": "user", "content": "what?"}])
    assert caught.value.status_code == status
    assert words in caught.value.error


def test_unknown_models_and_empty_bodies(client: ollama.Client, server: OllamaServer) -> None:
    for call in (
        lambda: client.chat("nothing", [{"role": "user", "content": "?"}]),
        lambda: client.show("nothing"),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert (caught.value.status_code, caught.value.error) == (404, "model 'nothing' not found")
    response = httpx.post(f"{server.url}/api/chat")
    assert (response.status_code, response.json()) == (400, {"error": "missing request body"})


def test_faults_of_the_connection(client: ollama.Client, server: OllamaServer) -> None:
    ask = [{"role": "user", "content": "what?"}]
    for fault in ("cut", "drop"):
        server.behave(fault)
        with pytest.raises(httpx.RemoteProtocolError):
            client.chat("llava:7b", ask)
    server.behave("garbage")
    with pytest.raises(json.JSONDecodeError):
        client.chat("llava:7b", ask)
    server.stop()
    with pytest.raises(ConnectionError):
        client.chat("llava:7b", ask)
    server.start()
    assert client.chat("llava:7b", ask).done


def test_faults_are_for_as_many_questions_as_ordered(client: ollama.Client, server: OllamaServer) -> None:
    server.behave("empty", times=2)
    ask = [{"role": "user", "content": "what?"}]
    assert [bool(client.chat("llava:7b", ask).message.content) for _ in range(3)] == [False, False, True]
