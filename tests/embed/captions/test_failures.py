"""Servers that fail, alone and beside others: who is asked how often, what is said of it, and how the run goes on."""

from __future__ import annotations

import re
import threading
from collections import Counter

import pytest
from caption_stores import Lab, captions, sent, truth
from icehouse.errors import CaptionError, SpaceError
from icehouse.store.store import Store
from ollama_server import DIGEST, OllamaServer

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
def test_one_picture_that_always_fails(fault: str, api: str, lab: Lab, server: OllamaServer) -> None:
    store = lab.store(4)
    bad = a_picture(store)
    server.behave(fault, times=None, image=bad)
    report = lab.caption(store, api=api, **IN_TIME.get(fault, {}))
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


@pytest.mark.parametrize("api", ["ollama", "openai"])
@pytest.mark.parametrize("fault", [*PASSING, "503", "429"])
def test_faults_that_pass_cost_a_question_each(fault: str, api: str, lab: Lab, server: OllamaServer) -> None:
    store = lab.store(5)
    bad = a_picture(store)
    times = 1 if fault in IN_TIME else 2  # a second each
    server.behave(fault, image=bad, times=times)
    report = lab.caption(store, api=api, concurrency=4, **IN_TIME.get(fault, {}))
    assert (report.captioned, report.failed) == (5, 0)
    assert captions(store) == truth(store)
    asked, wanted = server.asked(), {picture: 1 + times * (picture == bad) for picture in sent(store)}
    if fault in IN_TIME:  # where a machine is busy, others may not answer in time either
        assert asked.keys() == wanted.keys()
        assert asked[bad] >= wanted[bad]
    else:
        assert asked == Counter(wanted)


@pytest.mark.parametrize(
    ("api", "fault", "words"),
    [
        ("ollama", "401", ": unauthorized (status 401): is the key in OLLAMA_API_KEY right?"),
        ("openai", "401", "/v1: unauthorized (status 401): is the key in OPENAI_API_KEY right?"),
        ("ollama", "404", " has no model llava:7b: run `ollama pull llava:7b` there, or add --pull"),
        ("openai", "404", "/v1 has no model llava:7b: model 'llava:7b' not found (status 404)"),
    ],
)
def test_what_a_person_has_to_mend(api: str, fault: str, words: str, lab: Lab, server: OllamaServer) -> None:
    store = lab.store(4)
    server.behave(fault, times=None)
    with pytest.raises(CaptionError) as caught:
        lab.caption(store, api=api, concurrency=1)
    assert str(caught.value) == server.url + words
    assert max(server.asked().values()) <= 2
    assert len(server.asked()) == 1
    assert store.failures.rows == 0
    server.well()
    assert lab.caption(store, api=api).captioned == 4


def test_busy_for_ever(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(2)
    server.behave("503", times=None)
    with pytest.raises(CaptionError) as caught:
        lab.caption(store, patience=0.02, concurrency=1)
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
@pytest.mark.parametrize(("api", "key"), [("ollama", "num_predict"), ("openai", "max_tokens")])
def test_room_of_the_second_question(
    api: str, key: str, options: dict[str, int], first: int, second: int, lab: Lab, server: OllamaServer
) -> None:
    server.behave("length")
    store = lab.store(1)
    assert lab.caption(store, api=api, options=options).flagged == {}
    assert captions(store) == truth(store)
    bodies = [question.body for question in server.questions]
    assert [body.get("options", body)[key] for body in bodies] == [first, second]


def test_a_failure_at_the_second_question_does_not_cost_the_first_answer(
    lab: Lab, server: OllamaServer
) -> None:
    store = lab.store(2)
    bad = a_picture(store)
    server.behave("length", image=bad)
    server.behave("500", times=None, image=bad)
    report = lab.caption(store)
    assert (report.captioned, report.failed, report.retried, report.flagged) == (2, 0, 1, {"cut": 1})
    assert report.hosts == {server.url: 2}
    (row,) = store.query("select * from captions_default where flags = 'cut'").to_pylist()
    assert (row["caption"], row["attempts"], row["host"]) == ("A picture whose", 1, server.url)


def test_discarded_answers_take_their_flags_along(
    lab: Lab, server: OllamaServer, other: OllamaServer
) -> None:
    """The other host's model changes while it gives bad answers only: none of them counts in the end."""
    store = lab.store(12)
    other.behave("length", times=None)
    server.delay = other.delay = 0.01
    other.on_question = lambda n: other.models.update({"llava:7b": "e" * 64}) if n == 4 else None
    report = lab.caption(store, server, other, concurrency=1)
    assert report.discarded >= 1
    assert report.flagged == {}
    assert report.captioned == len(captions(store)) == 12 - report.discarded


# Several hosts


def test_work_is_spread(lab: Lab, server: OllamaServer, other: OllamaServer) -> None:
    store = lab.store(20)
    together = threading.Barrier(2)

    def wait_for_the_other(n: int) -> None:
        # Each of the first five questions is answered when the other server has one too.
        if n <= 5:
            together.wait(60)

    server.on_question = other.on_question = wait_for_the_other
    report = lab.caption(store, server, other, concurrency=1)
    assert report.captioned == 20
    assert captions(store) == truth(store)
    assert server.asked() + other.asked() == Counter(dict.fromkeys(sent(store), 1))
    assert min(report.hosts[server.url], report.hosts[other.url]) >= 5
    hosts = store.query("select host, count(*) as n from captions_default group by host").to_pylist()
    assert {row["host"]: row["n"] for row in hosts} == report.hosts


def test_one_host_dies_and_comes_back(lab: Lab, server: OllamaServer, other: OllamaServer) -> None:
    store = lab.store(60)
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
    report = lab.caption(store, server, other, concurrency=1, say=said.append)
    assert report.captioned == 60
    assert captions(store) == truth(store)
    assert len(server.questions) > 5
    assert any(line.startswith(f"{server.url} is left out until it answers again") for line in said)
    assert f"{server.url} answers again" in said
    # The question that the death cut off is the only one that was asked twice.
    asked = server.asked() + other.asked()
    assert sum(asked.values()) == 61


@pytest.mark.parametrize("pull", [False, True])
def test_a_host_that_is_down_at_first_joins_later(
    pull: bool, lab: Lab, server: OllamaServer, other: OllamaServer
) -> None:
    store = lab.store(30)
    other.stop()
    if pull:
        other.models, other.pullable = {}, {"llava:7b": DIGEST}
    server.delay = 0.01
    joined = threading.Event()

    def revive(n: int) -> None:
        if n == 3:
            other.start()
        if n == 20:
            joined.wait(60)

    server.on_question = revive
    other.on_question = lambda n: joined.set()
    said: list[str] = []
    report = lab.caption(store, server, other, concurrency=1, pull=pull, say=said.append)
    assert report.captioned == 30
    assert report.hosts[other.url] >= 1
    assert report.notes == [f"{other.url} is left out: {other.url} does not answer (connection refused)"]
    assert other.calls["POST /api/pull"] == pull
    assert any(line.endswith("it is being pulled") for line in said) == pull


def test_the_host_that_differs_from_the_table_is_named(
    lab: Lab, server: OllamaServer, other: OllamaServer
) -> None:
    store = lab.store(2)
    other.models["llava:7b"] = "e" * 64
    with pytest.raises(SpaceError, match=f"different models .*: digest {DIGEST[:12]} and {'e' * 12}"):
        lab.caption(store, server, other)
    assert not server.questions
    lab.caption(store, limit=1)
    for hosts in ((server, other), (other, server)):
        with pytest.raises(SpaceError) as caught:
            lab.caption(store, *hosts)
        assert str(caught.value) == (
            f"the captions 'default' and {other.url} have different models as llava:7b: digest {DIGEST[:12]} and "
            f"{'e' * 12}; bring them to one, with `ollama pull llava:7b`, or leave {other.url} out"
        )
    assert not other.questions
    with pytest.raises(SpaceError, match=f"{DIGEST[:12]}.* do not mix .*{'e' * 12}"):
        lab.caption(store, other)


@pytest.mark.parametrize("api", ["ollama", "openai"])
@pytest.mark.parametrize(
    "trouble", [(503, b'{"error": "loading"}'), (500, b"?"), (200, b"<html>"), (200, b"[]")]
)
def test_trouble_at_the_start_passes(
    api: str, trouble: tuple[int, bytes], lab: Lab, server: OllamaServer
) -> None:
    server.trouble = [trouble] * 2
    said: list[str] = []
    report = lab.caption(lab.store(2), api=api, say=said.append)
    assert (report.captioned, report.notes) == (2, [])
    assert len(said) == 1
    assert said[0].startswith(server.url)
    assert said[0].endswith("; trying again")


def test_trouble_at_the_start_that_stays(lab: Lab, server: OllamaServer) -> None:
    server.trouble = [(503, b'{"error": "loading"}')] * 1000
    with pytest.raises(CaptionError, match=rf"^{server.url}: .*loading.* \(status 503\): it is busy$"):
        lab.caption(lab.store(2), patience=0.1)
    assert 1 < server.calls["GET /api/version"] < 1000


def test_a_host_without_the_model_is_left_out(lab: Lab, server: OllamaServer, other: OllamaServer) -> None:
    other.models = {}
    report = lab.caption(lab.store(4), server, other)
    assert report.captioned == 4
    assert "ollama pull llava:7b" in report.notes[0]
    assert not other.questions


def test_one_of_two_turns_into_another_model(lab: Lab, server: OllamaServer, other: OllamaServer) -> None:
    def turn(n: int) -> None:
        if n == 4:
            other.stop()
            other.models["llava:7b"] = "e" * 64
            other.answers = lambda question: "another model"
            other.start()

    store = lab.store(30)
    server.delay = other.delay = 0.005
    other.on_question = turn
    said: list[str] = []
    report = lab.caption(store, server, other, concurrency=1, say=said.append)
    # Answers of the changed host since it was last looked at are thrown away; a rerun asks for those again.
    assert report.captioned + report.discarded == 30
    assert "another model" not in captions(store).values()
    assert any("the model llava:7b has changed" in line for line in said)
    assert lab.caption(store).captioned == report.discarded
    assert captions(store) == truth(store)


def test_the_same_host_twice_is_one(lab: Lab, server: OllamaServer) -> None:
    report = lab.caption(lab.store(2), server, server)
    assert list(report.hosts) == [server.url]


@pytest.mark.parametrize("fault", ["500", "400"])
def test_a_host_that_always_fails_uses_up_no_tries_beside_a_good_one(
    fault: str, lab: Lab, server: OllamaServer, other: OllamaServer
) -> None:
    store = lab.store(20)
    other.behave(fault, times=None)
    report = lab.caption(store, other, server)
    assert (report.captioned, report.failed) == (20, 0)
    assert captions(store) == truth(store)
    assert store.failures.rows == 0
    # It is found out by the plain test picture, and left alone.
    assert len(other.questions) < 20


def test_a_picture_that_no_host_takes_is_given_up(
    lab: Lab, server: OllamaServer, other: OllamaServer
) -> None:
    store = lab.store(6)
    bad = sorted(sent(store))[1]
    for host in (server, other):
        host.behave("500", times=None, image=bad)
    report = lab.caption(store, other, server)
    assert (report.captioned, report.failed) == (5, 1)
    assert store.failures.rows == 1
    assert {host.asked()[bad] for host in (server, other)} == {1, 2}
