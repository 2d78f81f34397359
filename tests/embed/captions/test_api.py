"""Hosts as people write them, waits, and what a server's faults are taken for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.api import (
    BrokenError,
    BusyError,
    DeniedError,
    FaultError,
    GoneError,
    RejectedError,
    fault_of_status,
    shown,
    split_host,
)
from icehouse.embed.captions.asking import Asking
from icehouse.embed.captions.backoff import MOST_S, parse_retry_after, wait_s
from icehouse.errors import UsageError
from ollama._client import _parse_host
from ollama_server import OllamaServer


@pytest.mark.parametrize(
    "host",
    ["gpu1", "gpu1:5000", "http://gpu1", "https://gpu1", "http://gpu1:5000", "gpu1/path", "https://gpu1:5/path/", ":5000",
     "1.2.3.4", "[0001:002:003:0004::1]:56789", "example.com/"],
)  # fmt: skip
def test_hosts_mean_what_they_mean_to_the_ollama_package(host: str) -> None:
    assert split_host(host, 11434) == _parse_host(host)


def test_listening_everywhere_is_asking_here() -> None:
    assert split_host("0.0.0.0:11434", 11434) == "http://127.0.0.1:11434"


@pytest.mark.parametrize("host", ["ftp://gpu1", "gpu 1", "http://gpu1:port"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError, match="no host"):
        split_host(host, 11434)


def test_passwords_are_not_shown() -> None:
    assert shown(split_host("https://me:secret@gpu1", 11434)) == "https://gpu1:443"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, BusyError), (429, BusyError), (404, DeniedError), (401, DeniedError), (400, RejectedError), (422, RejectedError),
     (500, BrokenError), (502, BrokenError), (408, BrokenError), (499, BrokenError)],
)  # fmt: skip
def test_statuses(status: int, kind: type[FaultError]) -> None:
    fault = fault_of_status("http://gpu1:1", status, "why", key_variable="A_KEY", path="http://gpu1:8000/v1")
    assert type(fault) is kind
    assert str(fault).startswith(f"http://gpu1:1: why (status {status})")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "is the key in A_KEY right?"), (404, "is the address right? It looks like http://gpu1:8000/v1"),
     (503, "it is busy")],
)  # fmt: skip
def test_statuses_name_the_remedy(status: int, remedy: str) -> None:
    fault = fault_of_status("http://gpu1:1", status, "", key_variable="A_KEY", path="http://gpu1:8000/v1")
    assert str(fault) == f"http://gpu1:1: no reason given (status {status}): {remedy}"


def ask(host: str, *, api: str = "ollama") -> FaultError:
    """The fault that a host's first call brings."""

    async def main() -> FaultError:
        client = Asking("llava:7b", api=api, hosts=[host]).connect()[0]  # type: ignore[arg-type]
        try:
            with pytest.raises(FaultError) as caught:
                await client.identify()
            return caught.value
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_why_there_is_no_connection(api: str, server: OllamaServer) -> None:
    # RFC 6761: a name that no resolver knows.
    fault = ask("http://nobody.invalid", api=api)
    assert isinstance(fault, GoneError)
    assert "http://nobody.invalid" in str(fault)
    assert "refused" not in str(fault)
    # It speaks no TLS.
    fault = ask(server.url.replace("http:", "https:"), api=api)
    assert isinstance(fault, (GoneError, BrokenError))
    assert "refused" not in str(fault)
    server.stop()
    fault = ask(server.url, api=api)
    assert isinstance(fault, GoneError)
    assert "does not answer (connection refused)" in str(fault)


def test_an_unknown_page_is_no_missing_model(server: OllamaServer) -> None:
    fault = ask(f"{server.url}/elsewhere")
    assert type(fault) is DeniedError
    assert str(fault) == (
        f"{server.url}/elsewhere: 404 page not found (status 404): is the address right? It looks like http://gpu1:11434"
    )


def test_the_key_and_redirects_reach_the_version_too(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "sesame")
    client = Asking("llava:7b", hosts=[server.url]).connect()[0]

    async def main() -> None:
        try:
            await client.identify()
        finally:
            await client.close()

    asyncio.run(main())
    assert server.keys == {"Bearer sesame"}


def test_retry_after() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    read: Callable[[str | None], float | None] = lambda value: parse_retry_after(value, now)  # noqa: E731 (a shorthand)
    assert read("7") == 7
    assert read("Thu, 01 Jan 2026 00:00:30 GMT") == 30
    assert read("Wed, 31 Dec 2025 00:00:00 GMT") == 0
    assert read("99999999999") == MOST_S
    for nothing in (None, "", "soon", "-3", "1.5", "٣"):
        assert read(nothing) is None


@given(st.integers(0, 10_000), st.none() | st.floats(0, 1e9), st.integers())
@settings(deadline=None, max_examples=100)
def test_waits_grow_within_bounds(attempt: int, asked: float | None, seed: int) -> None:
    wait = wait_s(attempt, random.Random(seed), asked=asked)
    assert 0 < wait <= MOST_S
    if asked is not None:
        assert wait >= min(asked, MOST_S)
    else:
        assert wait <= 30
        assert wait >= min(30, 0.5 * 2 ** min(attempt, 6)) / 2
