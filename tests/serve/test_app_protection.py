"""What the server refuses: strangers' hosts, pages of other sites, no token, bodies that are too large or too slow."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from icehouse.cli import app
from icehouse.serve.app import protection
from icehouse.serve.app.protection import COOKIE, session
from icehouse.serve.app.server import sections
from served import HOST, client
from typer.testing import CliRunner

TOKEN = "a token of some length"

#: Every route that the application has.
ROUTES: list[Any] = [route for section in sections() for route in section.router.routes]


@pytest.fixture(scope="module")
def store(work: Path) -> Path:
    return work / "store"


@pytest.fixture(scope="module")
def open_client(store: Path) -> Iterator[Any]:
    with client(store, max_body=10_000) as made:
        yield made


@pytest.fixture
def guarded(store: Path) -> Iterator[Any]:
    with client(store, token=TOKEN) as made:
        yield made


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "10.0.0.7", "a.localhost:80"])
def test_addresses_and_own_names_are_known(open_client: Any, host: str) -> None:
    assert open_client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", ""]
)
def test_a_name_that_could_be_pointed_here_is_refused(open_client: Any, host: str) -> None:
    answer = open_client.get("/healthz", headers={"host": host})
    assert answer.status_code == 421
    assert "--allow-host" in answer.json()["detail"]


def test_a_host_that_is_allowed(store: Path) -> None:
    with client(store, hosts=("box.example",)) as made:
        assert made.get("/healthz", headers={"host": "box.example:8000"}).status_code == 200
        assert made.get("/healthz", headers={"host": "other.example"}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_pages_of_other_sites_change_nothing(open_client: Any, headers: dict[str, str]) -> None:
    assert open_client.post("/login", data={"token": "x"}, headers=headers).status_code == 403


def test_no_route_that_changes_anything_takes_what_another_site_sends(open_client: Any) -> None:
    changing = [
        (method, route.path.replace("{item_id:path}", "i1"))
        for route in ROUTES
        for method in route.methods
        if method not in ("GET", "HEAD", "OPTIONS")
    ]
    assert {
        ("POST", "/label"),
        ("POST", "/label/undo"),
        ("POST", "/duplicates/apply"),
        ("POST", "/predict"),
    } <= {*changing}
    for method, path in changing:
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert open_client.request(method, path, headers=headers).status_code == 403, path


def test_the_token_is_compared_in_constant_time(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []
    real = protection.hmac.compare_digest
    monkeypatch.setattr(
        protection.hmac, "compare_digest", lambda a, b: (compared.append((a, b)), real(a, b))[1]
    )
    asked = {"authorization": f"Bearer {TOKEN}x"}
    assert guarded.get("/runs", headers=asked).status_code == 401
    assert guarded.get("/runs?token=guess").status_code == 401
    assert guarded.get("/runs", headers={"cookie": f"{protection.COOKIE}=guess"}).status_code == 401
    assert guarded.post("/login", data={"token": "guess"}).status_code == 401
    assert [given for given, _ in compared] == [f"{TOKEN}x".encode(), b"guess", b"guess", b"guess"]


def test_own_pages_and_scripts_may_post(open_client: Any) -> None:
    for headers in ({}, {"origin": HOST}, {"origin": HOST, "sec-fetch-site": "same-origin"}):
        answer = open_client.post("/login", data={"token": "x"}, headers=headers, follow_redirects=False)
        assert answer.status_code == 303


def test_other_sites_may_link_here_and_embed_nothing(open_client: Any) -> None:
    follow = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    embed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert open_client.get("/runs", headers=follow).status_code == 200
    assert open_client.get("/runs", headers=embed).status_code == 403


def test_every_answer_carries_the_policy(open_client: Any) -> None:
    for path in ("/runs", "/static/style.css", "/no/such/page"):
        headers = open_client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src 'self';" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_the_token_guards_every_route_but_health(guarded: Any) -> None:
    assert guarded.get("/healthz").status_code == 200
    known = [route.path for route in ROUTES if route.path not in ("/healthz", "/readyz", "/login")]
    paths = ["/nothing", "/openapi.json", *known]
    assert len(paths) > 25
    for path in paths:
        answer = guarded.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        wrong = guarded.get(path, headers={"authorization": "Bearer nonsense"})
        assert wrong.status_code == 401, path
    assert guarded.get("/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert (
        guarded.get(
            "/runs", headers={"authorization": "Bearer \udcff".encode("utf-8", "surrogateescape")}
        ).status_code
        == 401
    )


def test_a_browser_logs_in_by_the_form(guarded: Any) -> None:
    asked = guarded.get("/runs", headers={"accept": "text/html"}, follow_redirects=False)
    assert (asked.status_code, asked.headers["location"]) == (303, "/login")
    assert 'type="password"' in guarded.get("/login").text
    assert guarded.post("/login", data={"token": "wrong"}).status_code == 401
    let_in = guarded.post("/login", data={"token": TOKEN}, follow_redirects=False)
    cookie = let_in.headers["set-cookie"]
    assert let_in.status_code == 303
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert guarded.get("/runs").status_code == 200


def test_a_token_in_the_address_moves_into_the_cookie(guarded: Any) -> None:
    answer = guarded.get("/runs", params={"token": TOKEN, "q": "ü&x"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?q=%C3%BC%26x")
    assert guarded.get("/runs").status_code == 200
    guarded.cookies.clear()
    assert guarded.get("/runs", params={"token": TOKEN[:-1]}).status_code == 401
    assert guarded.get("/runs", headers={"cookie": f"{COOKIE}={session('another')}"}).status_code == 401


def test_a_body_that_is_too_large_is_refused_before_it_is_read(open_client: Any) -> None:
    answer = open_client.post("/login", content=b"token=" + b"x" * 20_000)
    assert answer.status_code == 413
    assert "larger than" in answer.json()["detail"]


def test_a_body_of_unknown_length_is_cut_off(open_client: Any) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}

    def endless() -> Iterator[bytes]:
        yield b"token="
        for _ in range(100):
            yield b"x" * 1000

    assert open_client.post("/login", content=endless(), headers=form).status_code == 413


def test_a_static_file_is_one_of_those_there_are(open_client: Any) -> None:
    assert open_client.get("/static/style.css").headers["content-type"].startswith("text/css")
    for name in (
        "../render.py",
        "%2e%2e%2frender.py",
        "..%2f..%2fpyproject.toml",
        "style.css%00",
        "nothing.js",
    ):
        assert open_client.get(f"/static/{name}").status_code == 404


def test_without_the_extra_one_line_names_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["serve", str(store)])
    assert result.exit_code == 1
    assert result.stderr == 'icehouse: icehouse serve needs uvicorn: pip install "icehouse[serve]"\n'


def test_a_port_that_is_taken_is_one_line(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", str(store), "--port", str(port)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"icehouse: cannot listen on 127.0.0.1:{port}: Address already in use")


@pytest.mark.parametrize("arguments", [["--token", " "], ["--run", "nothing"], ["--port", "70000"]])
def test_wrong_usage_ends_before_anything_is_served(store: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["serve", str(store), *arguments])
    assert result.exit_code == 2, result.output
