"""Fetching by URL: bounded in bytes, time and redirects; private addresses refused however they are spelled."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from icehouse.serve.watch import fetch as fetching
from icehouse.serve.watch.fetch import Fetcher, FetchError, fetch, inside, is_public
from toys import picture

asked: Counter[str] = Counter()
hosts: list[str] = []


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers of every kind of badness."""

    def do_GET(self) -> None:
        asked[self.path] += 1
        hosts.append(self.headers["Host"])
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(301)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/lost":
            self.send_response(302)
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path == "/silent":
            time.sleep(5)
        elif self.path == "/claims":
            self.send_response(200)
            self.send_header("Content-Length", "5000000000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif self.path.startswith("/404"):
            self.send_error(404)
        elif self.path == "/empty":
            self.send_response(200)
            self.end_headers()
        elif self.path == "/junk":
            self.wfile.write(b"\0\1\2 no HTTP\r\n\r\n")
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"content of " + self.path.partition("?")[0].encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::",
        "2002:a00:1::1", "2001:db8::1", "nonsense", "",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_this_machine_is_refused_in_each_of_its_spellings(site: str, host: str) -> None:
    port = site.rpartition(":")[2]
    before = asked.total()
    with pytest.raises(FetchError):
        fetch(f"http://{host}:{port}/secret", seconds=10)
    assert asked.total() == before


def test_a_redirect_to_a_private_address_is_refused(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public host redirects to the metadata of a cloud: that connection is never made."""
    opened: list[str] = []
    public = {"127.0.0.1"}
    monkeypatch.setattr(fetching, "is_public", lambda address: opened.append(address) or address in public)
    with pytest.raises(FetchError, match="private address"):
        fetch(f"{site}/to?http://169.254.169.254/latest/meta-data", seconds=3)
    assert opened == ["127.0.0.1", "169.254.169.254"]
    with pytest.raises(FetchError, match="only http"):
        fetch(f"{site}/to?file:///etc/passwd")
    with pytest.raises(FetchError, match="only http"):
        fetch(f"{site}/to?gopher://127.0.0.1:6379/_FLUSHALL")


def test_a_name_is_resolved_once_and_its_checked_address_called(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: whatever the name leads to a moment later, the connection goes where the check went."""
    port = int(site.rpartition(":")[2])
    answers = iter([["93.184.215.14"], ["127.0.0.1"], ["127.0.0.1"]])
    resolved: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if host != "rebind.example":
            return real(host, *rest, **more)
        resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    called: list[str] = []
    import httpcore

    def connect(self: Any, host: str, *_: Any, **__: Any) -> Any:
        called.append(host)
        raise httpcore.ConnectError("not from here")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    with pytest.raises(FetchError, match="not from here"):
        fetch(f"http://rebind.example:{port}/x")
    assert (resolved, called) == (["rebind.example"], ["93.184.215.14"])
    with pytest.raises(FetchError, match="private address"):
        fetch(f"http://rebind.example:{port}/x")
    assert called == ["93.184.215.14"]


def test_a_name_with_a_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_addresses", lambda *_: ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(FetchError, match=r"10\.0\.0\.1, a private address"):
        fetch("http://two.example/")


def test_what_is_allowed_is_fetched_under_its_own_name(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_addresses", lambda *_: ["127.0.0.1"])
    port = site.rpartition(":")[2]
    assert fetch(f"http://me:secret@pictures.example:{port}/a#b", allow_private=True) == b"content of /a"
    assert hosts[-1] == f"pictures.example:{port}"
    assert fetch(f"{site}/to?/b", allow_private=True) == b"content of /b"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/loop", "more than 5 redirects"),
        ("/lost", "redirects to nowhere"),
        ("/endless", "more than 1,000,000 bytes"),
        ("/drip", "took longer than 0.7 s"),
        ("/silent", "took longer than 0.7 s"),
        ("/claims", "more than 1,000,000 bytes"),
        ("/404", "status 404"),
        ("/empty", "is empty"),
        ("/junk", "illegal status line"),
        ("/to?http://[::1", "Invalid port"),
    ],
)
def test_bad_servers_cost_no_more_than_allowed(site: str, path: str, what: str) -> None:
    seconds = 0.7 if "0.7" in what else 20
    with pytest.raises(FetchError, match=what) as told:
        fetch(f"{site}{path}", allow_private=True, max_bytes=1_000_000, seconds=seconds)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "http:///x", "http://[", "ftp://a/b", "http://a\x00b/", "http://\ud800/"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(FetchError):
        fetch(url, seconds=3)


def test_a_url_and_a_content_are_fetched_once(site: str, tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "images", allow_private=True)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(fetcher.path, [f"{site}/once"] * 8))
    assert len({*paths}) == 1
    assert asked["/once"] == 1
    assert paths[0].read_bytes() == b"content of /once"
    # Another URL of the same content takes no second place.
    assert fetcher.path(f"{site}/once?2") == paths[0]
    assert (fetcher.fetched, fetcher.known) == (2, 7)
    for _ in range(3):
        with pytest.raises(FetchError, match="404"):
            fetcher.path(f"{site}/404-once")
    assert asked["/404-once"] == 1


def test_the_oldest_go_where_there_is_a_limit(site: str, tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "images", allow_private=True, keep=40)
    paths = [fetcher.path(f"{site}/page{number}") for number in range(5)]
    # Of 17 bytes each.
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    # What is there counts after a restart, too.
    again = Fetcher(tmp_path / "images", allow_private=True, keep=40)
    again.path(f"{site}/page9")
    assert sum(path.stat().st_size for path in (tmp_path / "images").glob("*/*")) <= 40


def test_paths_lie_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    assert inside("in/a.png", tmp_path) == tmp_path / "in" / "a.png"
    assert inside("in/../in/a.png", tmp_path) == tmp_path / "in" / "a.png"
    for path in ("/etc/passwd", "../x", "in/../../x"):
        with pytest.raises(FetchError, match="outside of"):
            inside(path, tmp_path)


@pytest.mark.slow
def test_posts_by_url(
    site: str, run_lines: Callable[..., Any], posts: Callable[..., Any], tmp_path: Path
) -> None:
    """One that cannot be fetched holds nobody up, and costs only itself."""
    picture(5).save(tmp_path / "served.png")

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/served.png"
        lines = [
            {"id": "slow", "image_url": f"{site}/silent"},
            {"id": "there", "image_url": url, "text": "storm flood"},
            {"id": "gone", "image_url": f"{url}x"},
            {**posts(), "id": "path"},
        ]
        told = run_lines(lines, allow_private=True, fetch_seconds=3.0)
        by_id = {line["id"]: line for line in told}
        assert by_id["there"]["decision"] == "classified"
        assert by_id["there"]["ms"]["fetch"] > 0
        assert by_id["gone"]["decision"] == "error"
        assert "status 404" in by_id["gone"]["error"]
        assert "took longer" in by_id["slow"]["error"]
        assert [line["id"] for line in told][-1] == "slow"
        refused = run_lines([{"id": "a", "image_url": url}], name="other")[0]
        assert "private address" in refused["error"]
        off = run_lines([{"id": "a", "image_url": url}], fetch=False, name="third")[0]
        assert "not fetched" in off["error"]
    finally:
        server.shutdown()
        server.server_close()
