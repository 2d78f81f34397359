"""Work spread over two hosts, one of which dies and comes back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from caption_stores import captions, sent, truth
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.settings import CaptionSettings
from icehouse.errors import CaptionError, SpaceError
from icehouse.store.store import Store
from ollama_server import DIGEST, OllamaServer

MakeStore = Callable[..., Store]
MakeAsking = Callable[..., CaptionSettings]


def test_work_is_spread(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(20)
    together = threading.Barrier(2)

    def wait_for_the_other(n: int) -> None:
        # Each of the first five questions is answered when the other server has one too.
        if n <= 5:
            together.wait(60)

    server.on_question = other.on_question = wait_for_the_other
    report = caption_images(store, asking(server, other, concurrency=1))
    assert report.captioned == 20
    assert captions(store) == truth(store)
    assert server.asked() + other.asked() == Counter(dict.fromkeys(sent(store), 1))
    assert min(report.hosts[server.url], report.hosts[other.url]) >= 5
    hosts = store.query("select host, count(*) as n from captions_default group by host").to_pylist()
    assert {row["host"]: row["n"] for row in hosts} == report.hosts


def test_one_host_dies_and_comes_back(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(60)
    server.delay = other.delay = 0.01
    back = threading.Event()

    def die(n: int) -> None:
        if n == 5:
            server.stop()

    def revive(n: int) -> None:
        # The other one goes on alone for a while; it waits for the first towards the end, so that work is left for it.
        if n == 20:
            server.start()
        if n == 40:
            back.wait(60)

    def serve_again(n: int) -> None:
        die(n)
        if n > 5:
            back.set()

    server.on_question, other.on_question = serve_again, revive
    said: list[str] = []
    report = caption_images(store, asking(server, other, concurrency=1), say=said.append)
    assert report.captioned == 60
    assert captions(store) == truth(store)
    assert len(server.questions) > 5
    assert any(line.startswith(f"{server.url} is left out until it answers again") for line in said)
    assert f"{server.url} answers again" in said
    # The question that the death cut off is the only one that was asked twice.
    asked = server.asked() + other.asked()
    assert sum(asked.values()) == 61


def test_a_host_that_is_down_at_first_joins_later(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(30)
    other.stop()
    server.delay = 0.01
    joined = threading.Event()

    def revive(n: int) -> None:
        if n == 3:
            other.start()
        if n == 20:
            joined.wait(60)

    server.on_question = revive
    other.on_question = lambda n: joined.set()
    report = caption_images(store, asking(server, other, concurrency=1))
    assert report.captioned == 30
    assert report.hosts[other.url] >= 1
    assert report.notes == [f"{other.url} is left out: {other.url} does not answer (connection refused)"]


def test_hosts_with_different_models_are_refused(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    other.models["llava:7b"] = "e" * 64
    with pytest.raises(
        SpaceError, match=f"different models as llava:7b: digest {DIGEST[:12]} and {'e' * 12}"
    ):
        caption_images(make_store(2), asking(server, other))
    assert not server.questions
    assert not other.questions


def test_the_host_that_differs_from_the_table_is_named(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(2)
    caption_images(store, asking(server), limit=1)
    other.models["llava:7b"] = "e" * 64
    for hosts in ((server, other), (other, server)):
        with pytest.raises(SpaceError) as caught:
            caption_images(store, asking(*hosts))
        assert str(caught.value) == (
            f"the captions 'default' and {other.url} have different models as llava:7b: digest {DIGEST[:12]} and "
            f"{'e' * 12}; bring them to one, with `ollama pull llava:7b`, or leave {other.url} out"
        )
    assert not other.questions
    with pytest.raises(SpaceError, match="do not mix"):
        caption_images(store, asking(other))


@pytest.mark.parametrize("api", ["ollama", "openai"])
@pytest.mark.parametrize(
    "trouble", [(503, b'{"error": "loading"}'), (500, b"?"), (200, b"<html>"), (200, b"[]")]
)
def test_trouble_at_the_start_passes(
    api: str, trouble: tuple[int, bytes], make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    server.trouble = [trouble] * 2
    said: list[str] = []
    report = caption_images(make_store(2), asking(server, api=api), say=said.append)
    assert (report.captioned, report.notes) == (2, [])
    assert len(said) == 1
    assert said[0].startswith(server.url)
    assert said[0].endswith("; trying again")


def test_trouble_at_the_start_that_stays(
    make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    server.trouble = [(503, b'{"error": "loading"}')] * 1000
    with pytest.raises(CaptionError, match=rf"^{server.url}: .*loading.* \(status 503\): it is busy$"):
        caption_images(make_store(2), asking(server, patience=0.1))
    assert 1 < server.calls["GET /api/version"] < 1000


def test_a_host_that_joins_later_without_the_model_has_it_pulled(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(30)
    other.stop()
    other.models = {}
    other.pullable = {"llava:7b": DIGEST}
    joined = threading.Event()

    def revive(n: int) -> None:
        if n == 3:
            other.start()
        if n == 20:
            joined.wait(60)

    server.on_question = revive
    other.on_question = lambda n: joined.set()
    said: list[str] = []
    report = caption_images(store, asking(server, other, concurrency=1, pull=True), say=said.append)
    assert report.captioned == 30
    assert report.hosts[other.url] >= 1
    assert other.calls["POST /api/pull"] == 1
    assert any(
        line.startswith(f"{other.url} has no model llava:7b") and line.endswith("it is being pulled")
        for line in said
    )


def test_a_host_without_the_model_is_left_out(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    other.models = {}
    report = caption_images(make_store(4), asking(server, other))
    assert report.captioned == 4
    assert "ollama pull llava:7b" in report.notes[0]
    assert not other.questions


def test_one_of_two_turns_into_another_model(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    def turn(n: int) -> None:
        if n == 4:
            other.stop()
            other.models["llava:7b"] = "e" * 64
            other.answers = lambda question: "another model"
            other.start()

    store = make_store(30)
    server.delay = other.delay = 0.005
    other.on_question = turn
    said: list[str] = []
    report = caption_images(store, asking(server, other, concurrency=1), say=said.append)
    # Answers of the changed host since it was last looked at are thrown away; a rerun asks for those again.
    assert report.captioned + report.discarded == 30
    assert "another model" not in captions(store).values()
    assert any("the model llava:7b has changed" in line for line in said)
    assert caption_images(store, asking(server)).captioned == report.discarded
    assert captions(store) == truth(store)


def test_both_gone(
    make_store: MakeStore, server: OllamaServer, other: OllamaServer, asking: MakeAsking
) -> None:
    server.stop()
    other.stop()
    with pytest.raises(CaptionError, match=rf"{server.url} does not answer .*; {other.url} does not answer"):
        caption_images(make_store(1), asking(server, other))


def test_the_same_host_twice_is_one(make_store: MakeStore, server: OllamaServer, asking: MakeAsking) -> None:
    report = caption_images(make_store(2), asking(server, server))
    assert list(report.hosts) == [server.url]
