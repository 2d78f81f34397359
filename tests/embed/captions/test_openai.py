"""Any OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from caption_stores import captions, truth
from icehouse.embed.captions.asking import Asking
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.openai_api import _joined
from icehouse.embed.captions.prompts import Prompt
from icehouse.errors import CaptionError, UsageError
from icehouse.store.store import Store
from ollama_server import OllamaServer

MakeStore = Callable[..., Store]
MakeAsking = Callable[..., Asking]


def test_captions_through_chat_completions(
    make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(4)
    report = caption_images(store, asking(server, api="openai", seed=2))
    assert report.captioned == 4
    assert captions(store) == truth(store)
    assert server.calls["POST /v1/chat/completions"] == 4
    assert server.calls["POST /api/chat"] == 0
    body = server.questions[0].body
    assert (body["temperature"], body["seed"], body["max_tokens"], body["stream"]) == (0, 2, 200, False)
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    provenance = store.table("captions/default").spec["provenance"]
    assert (provenance["api"], provenance["digest"]) == ("openai", None)


@pytest.mark.parametrize("fault", ["cut", "500", "503", "garbage", "wrong-shape", "deep", "zipped"])
def test_faults_that_pass(
    fault: str, make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(3)
    server.behave(fault)
    assert caption_images(store, asking(server, api="openai")).captioned == 3
    assert captions(store) == truth(store)


def test_cut_answers_are_recognised(make_store: MakeStore, server: OllamaServer, asking: MakeAsking) -> None:
    server.behave("length", times=None)
    report = caption_images(make_store(1), asking(server, api="openai"))
    assert report.flagged == {"cut": 1}
    assert [question.body["max_tokens"] for question in server.questions] == [200, 400]


def test_structured(make_store: MakeStore, server: OllamaServer, asking: MakeAsking) -> None:
    answer: dict[str, Any] = {
        "caption": "A lawn.", "objects": [], "damage": "none", "people": 0, "visible_text": "", "sentiment": "neutral",
    }  # fmt: skip
    server.answers = lambda question: json.dumps(answer)
    store = make_store(1)
    caption_images(store, asking(server, api="openai", prompt=Prompt.of(None, None, structured=True)))
    assert server.questions[0].body["response_format"]["json_schema"]["schema"]["required"][0] == "caption"
    assert store.query("select damage, people from captions_default").to_pylist() == [
        {"damage": "none", "people": 0}
    ]


def test_the_key_comes_from_the_environment(
    make_store: MakeStore, server: OllamaServer, asking: MakeAsking, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.api_key = "sesame"
    store = make_store(1)
    with pytest.raises(
        CaptionError, match=r"Incorrect API key provided\. \(status 401\): is the key in MY_KEY right"
    ):
        caption_images(store, asking(server, api="openai", key_variable="MY_KEY"))
    monkeypatch.setenv("MY_KEY", "sesame")
    assert caption_images(store, asking(server, api="openai", key_variable="MY_KEY")).captioned == 1
    everything = json.dumps(store.table("captions/default").spec) + str(
        store.query("from captions_default").to_pylist()
    )
    assert "sesame" not in everything


def test_an_unknown_model(make_store: MakeStore, server: OllamaServer, asking: MakeAsking) -> None:
    server.models = {"qwen": "1"}
    with pytest.raises(CaptionError, match=f"{server.url}/v1 has no model llava:7b; it has: qwen"):
        caption_images(make_store(1), asking(server, api="openai"))


def test_a_count_of_tokens_that_is_none_costs_no_answer(
    make_store: MakeStore, server: OllamaServer, asking: MakeAsking, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(3)
    counts: list[object] = ["many", 2**40, 12]
    monkeypatch.setattr(server, "count_tokens", lambda text: counts.pop())
    assert caption_images(store, asking(server, api="openai")).captioned == 3
    assert captions(store) == truth(store)
    rows = store.query("select tokens from captions_default order by tokens").to_pylist()
    assert [row["tokens"] for row in rows] == [12, None, None]


def test_it_needs_a_host() -> None:
    with pytest.raises(UsageError, match="--host"):
        Asking("llava", api="openai")


def test_answers_in_parts() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "A cat?"}]},
        {"type": "text", "text": "A "},
        "cat.",
    ]
    assert _joined(parts) == ("A cat.", "A cat?")
