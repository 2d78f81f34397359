"""For each misbehaviour of a server: who is asked how often, and what is said of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
from caption_stores import captions, sent, truth
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.settings import CaptionSettings
from icehouse.errors import CaptionError
from icehouse.store.store import Store
from ollama_server import OllamaServer

MakeStore = Callable[..., Store]
MakeAsking = Callable[..., CaptionSettings]

#: What passes: fault -> what the ledger says of a picture that always meets it, after the host's address.
PASSING = {
    "cut": r" cut the connection \(peer closed connection without sending complete message body.*\)",
    "drop": r" cut the connection \(Server disconnected without sending a response.*\)",
    "500": r": model runner has unexpectedly stopped, this may be due to resource limitations \(status 500\)",
    "garbage": r" gave an answer that cannot be read \(.*\)",
    "wrong-shape": r"(: an answer without its end| gave an answer that cannot be read \(.*\))",
    "slow": r" gave no answer within 1 s",
    "drip": r" gave no answer within 1 s",
    "deep": r" gave an answer that cannot be read \(.*recursion.*\)",
    "zipped": r" gave an answer that cannot be read \(it is compressed \(gzip\).*\)",
    "circle": r"( sends from one address to the next, without end|.*\(status 307\))",
}

#: Time enough for any other answer, on a busy machine too.
IN_TIME = {"slow": {"timeout": 1.0}, "drip": {"timeout": 1.0}}


def a_picture(store: Store) -> str:
    return sorted(sent(store))[1]


@pytest.mark.slow
@pytest.mark.parametrize("api", ["ollama", "openai"])
@pytest.mark.parametrize("fault", PASSING)
def test_one_picture_that_always_fails(
    fault: str, api: str, make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(4)
    bad = a_picture(store)
    server.behave(fault, times=None, image=bad)
    report = caption_images(store, asking(server, api=api, **IN_TIME.get(fault, {})))
    assert (report.captioned, report.failed) == (3, 1)
    # A redirect is followed by the client, twenty times and more.
    asked = server.asked()
    if fault == "circle":
        assert asked.pop(bad) >= 3
    assert asked == Counter({picture: 3 if picture == bad else 1 for picture in asked})
    (failure,) = store.query("select message from failures").to_pylist()
    url = server.url if api == "ollama" else f"{server.url}/v1"
    assert failure["message"].startswith(url)
    assert re.fullmatch(PASSING[fault], failure["message"].removeprefix(url)), failure["message"]


@pytest.mark.parametrize("fault", [*PASSING, "503", "429"])
def test_one_fault_costs_one_question(
    fault: str, make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(4)
    bad = a_picture(store)
    server.behave(fault, image=bad)
    report = caption_images(store, asking(server, **IN_TIME.get(fault, {})))
    assert (report.captioned, report.failed) == (4, 0)
    assert captions(store) == truth(store)
    assert server.asked() == Counter({picture: 2 if picture == bad else 1 for picture in sent(store)})


@pytest.mark.parametrize(
    ("api", "fault", "words"),
    [
        ("ollama", "401", ": unauthorized (status 401): is the key in OLLAMA_API_KEY right?"),
        ("openai", "401", "/v1: unauthorized (status 401): is the key in OPENAI_API_KEY right?"),
        ("ollama", "404", " has no model llava:7b: run `ollama pull llava:7b` there, or add --pull"),
        (
            "openai",
            "404",
            "/v1 has no model llava:7b: model 'llava:7b' not found (status 404)",
        ),
    ],
)
def test_what_a_person_has_to_mend(
    api: str, fault: str, words: str, make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(4)
    server.behave(fault, times=None)
    with pytest.raises(CaptionError) as caught:
        caption_images(store, asking(server, api=api, concurrency=1))
    assert str(caught.value) == server.url + words
    assert max(server.asked().values()) <= 2
    assert len(server.asked()) == 1
    assert store.query("select * from failures").to_pylist() == []
    server.well()
    assert caption_images(store, asking(server, api=api)).captioned == 4


def test_busy_for_ever(make_store: MakeStore, server: OllamaServer, asking: MakeAsking) -> None:
    store = make_store(2)
    server.behave("503", times=None)
    with pytest.raises(CaptionError) as caught:
        caption_images(store, asking(server, patience=0.02, concurrency=1))
    assert str(caught.value) == (
        f"no host has had time for 0.2 s: {server.url}: server busy, please try again. maximum pending requests exceeded "
        "(status 503): it is busy"
    )
    assert store.query("select * from failures").to_pylist() == []


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({}, 200, 400),
        ({"num_predict": -1}, -1, -1),
        ({"num_predict": -2}, -2, -2),
        ({"num_predict": 30}, 30, 60),
    ],
)
def test_room_of_the_second_question(
    options: dict[str, int],
    first: int,
    second: int,
    make_store: MakeStore,
    server: OllamaServer,
    asking: MakeAsking,
) -> None:
    server.behave("refuse")
    caption_images(make_store(1), asking(server, options=options))
    assert [question.body["options"]["num_predict"] for question in server.questions] == [first, second]


def test_a_rescued_first_answer_counts(
    make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(2)
    bad = a_picture(store)
    server.behave("length", image=bad)
    server.behave("500", times=None, image=bad)
    report = caption_images(store, asking(server))
    assert (report.captioned, report.retried, report.flagged) == (2, 1, {"cut": 1})
    assert report.hosts == {server.url: 2}


def test_discarded_answers_take_their_flags_along(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    """The other host's model changes while it gives bad answers only: none of them counts in the end."""
    store = make_store(12)
    other.behave("length", times=None)
    server.delay = other.delay = 0.01
    other.on_question = lambda n: other.models.update({"llava:7b": "e" * 64}) if n == 4 else None
    report = caption_images(store, asking(server, other, concurrency=1))
    assert report.discarded >= 1
    assert report.flagged == {}
    assert report.captioned == len(captions(store)) == 12 - report.discarded
