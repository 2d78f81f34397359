"""Pictures fetched by URL: once each, bounded in bytes, time and redirects, and never from private addresses.

A URL comes from a stranger, and may lead into the network that this process stands in. So names are resolved here, every
address found is checked, and the connection goes to the very address that was checked: a name that is resolved anew for the
connection (DNS rebinding) could lead elsewhere. Redirects are followed by hand, and each opens a connection that is checked
in the same way. Proxies of the environment are not used, since they would resolve names again.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SourceError, brief
from ...store.files import publish

if TYPE_CHECKING:
    import httpcore

#: Limits of one fetch.
MAX_BYTES, MAX_SECONDS, MAX_REDIRECTS = 20 << 20, 10.0, 5

#: URLs that are remembered, and for how many seconds one that failed is not asked for again.
_URLS, _FAILED_FOR = 100_000, 60.0

_CONNECT_S = 4.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = (301, 302, 303, 307, 308)


class FetchError(SourceError):
    """A picture that could not be fetched, or must not be."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet, whichever way it is written.

    >>> [is_public(a) for a in ("93.184.215.14", "127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "fe80::1%eth0")]
    [True, False, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # An address of the old kind inside one of the new kind is what it says inside.
        inside = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            inside.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if int(ip) >> 32 == 0:  # ::a.b.c.d, which some systems still take
            inside.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(old is not None and not is_public(str(old)) for old in inside):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


_resolvers: ThreadPoolExecutor | None = None


def _addresses(host: str, port: int, seconds: float) -> list[str]:
    """Addresses of a name, as the system finds them; it may take as long as it likes, and is waited for so long."""
    global _resolvers
    if _resolvers is None:
        _resolvers = ThreadPoolExecutor(8, "icehouse-resolve")
    asked = _resolvers.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = asked.result(timeout=max(seconds, 0.0))
    except TooLate:
        raise FetchError(f"{host}: its address was not found in time") from None
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{host}: no such host ({brief(error, 80)})") from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def _backend(deadline: float, allow_private: bool) -> Any:
    """A way to open connections that checks addresses, and lets nothing pass its deadline."""
    import httpcore

    def left() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout("too slow")
        return seconds

    class Bounded(httpcore.NetworkStream):
        """A connection whose every wait ends at the deadline."""

        def __init__(self, stream: httpcore.NetworkStream) -> None:
            self.stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self.stream.read(max_bytes, left())

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self.stream.write(buffer, left())

        def close(self) -> None:
            self.stream.close()

        def start_tls(
            self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Bounded(self.stream.start_tls(ssl_context, server_hostname, min(left(), _CONNECT_S)))

        def get_extra_info(self, info: str) -> Any:
            return self.stream.get_extra_info(info)

    class Checked(httpcore.NetworkBackend):
        """Resolves a name itself, and connects to an address that it has checked."""

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.NetworkStream:
            found = _addresses(host.strip("[]"), port, left())
            private = [address for address in found if not is_public(address)]
            if private and not allow_private:
                raise FetchError(
                    f"{host} is at {private[0]}, a private address; --allow-private fetches from there, too"
                )
            last: Exception = httpcore.ConnectError(f"no address of {host}")
            for address in found:
                try:
                    return Bounded(
                        httpcore.SyncBackend().connect_tcp(
                            address, port, min(left(), _CONNECT_S), None, socket_options
                        )
                    )
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                    last = error
            raise last

        def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
            raise FetchError("a socket of this machine is no address of a picture")

    return Checked()


def fetch(
    url: str,
    *,
    allow_private: bool = False,
    max_bytes: int = MAX_BYTES,
    seconds: float = MAX_SECONDS,
    redirects: int = MAX_REDIRECTS,
) -> bytes:
    """Fetch the bytes behind a URL; FetchError if the address is private, or the answer no success or too large."""
    import httpcore
    import httpx

    deadline = time.monotonic() + seconds
    headers: list[tuple[bytes | str, bytes | str]] = [
        ("User-Agent", "icehouse-watch"),
        ("Accept", "image/*,*/*;q=0.5"),
        ("Accept-Encoding", "identity"),
    ]
    for _ in range(redirects + 1):
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise FetchError(f"{_shown(url)} is no URL ({brief(error, 80)})") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise FetchError(f"{_shown(url)}: only http and https are fetched")
        try:
            # Names and passwords in a URL are nobody's business.
            target = str(parsed.copy_with(username=None, password=None, fragment=None))
            backend = _backend(deadline, allow_private)
            with (
                httpcore.ConnectionPool(_tls(), network_backend=backend, max_connections=1) as pool,
                pool.stream("GET", target, headers=headers) as response,
            ):
                told = {name.lower(): value for name, value in response.headers}
                if response.status in _REDIRECTS:
                    where = told.get(b"location")
                    if where is None:
                        raise FetchError(f"{_shown(url)} redirects to nowhere")
                    url = str(parsed.join(where.decode("latin-1")))
                    continue
                if response.status != 200:
                    raise FetchError(f"{_shown(url)}: status {response.status}")
                length = told.get(b"content-length", b"0")
                if length.isdigit() and int(length) > max_bytes:
                    raise FetchError(f"{_shown(url)} has more than {max_bytes:,} bytes")
                return _body(response, url, max_bytes)
        except FetchError:
            raise
        except (httpcore.TimeoutException, TimeoutError):
            raise FetchError(f"{_shown(url)} took longer than {seconds:g} s") from None
        except (
            Exception
        ) as error:  # of a connection, a certificate, an answer that is no HTTP, a Location that is no URL
            raise FetchError(f"{_shown(url)}: {brief(error, 120)}") from None
    raise FetchError(f"{_shown(url)}: more than {redirects} redirects")


def _body(response: httpcore.Response, url: str, max_bytes: int) -> bytes:
    parts, size = [], 0
    for part in response.iter_stream():
        size += len(part)
        if size > max_bytes:
            raise FetchError(f"{_shown(url)} has more than {max_bytes:,} bytes")
        parts.append(part)
    if not size:
        raise FetchError(f"{_shown(url)} is empty")
    return b"".join(parts)


_contexts: list[Any] = []


def _tls() -> Any:
    """Certificates are read once: that takes longer than many a picture."""
    if not _contexts:
        import httpx

        _contexts.append(httpx.create_ssl_context(trust_env=False))
    return _contexts[0]


def _shown(url: str) -> str:
    """A URL without user and password, and not too long."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    shown = f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"
    return shown if len(shown) <= 200 else shown[:197] + "..."


class Fetcher:
    """Fetches each URL once and keeps each content once, in a folder of its own; several threads may ask.

    Where `keep` is given, the oldest files go when all take more than so many bytes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allow_private: bool = False,
        max_bytes: int = MAX_BYTES,
        seconds: float = MAX_SECONDS,
        keep: int | None = None,
    ) -> None:
        self.folder, self.keep = folder, keep
        self.options: dict[str, Any] = {
            "allow_private": allow_private,
            "max_bytes": max_bytes,
            "seconds": seconds,
        }
        self.fetched = self.known = self.failed = 0
        self._lock = threading.Lock()
        self._urls: OrderedDict[str, tuple[Path | str, float]] = OrderedDict()
        self._asked: dict[str, Future[Path]] = {}
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        old = sorted(folder.glob("??/*"), key=lambda path: path.stat().st_mtime)
        for path in old:
            self._files[path] = path.stat().st_size
            self._bytes += self._files[path]

    def path(self, url: str) -> Path:
        """The file of what is behind a URL; FetchError says why there is none."""
        with self._lock:
            before = self._urls.get(url)
            if before is not None:
                found, at = before
                if isinstance(found, Path) and found.exists():
                    self._urls.move_to_end(url)
                    self.known += 1
                    return found
                if isinstance(found, str) and time.monotonic() - at < _FAILED_FOR:
                    raise FetchError(found)
            waiting = self._asked.get(url)
            if waiting is None:
                mine: Future[Path] = Future()
                self._asked[url] = mine
        if waiting is not None:
            self.known += 1
            return waiting.result()
        try:
            path = self.store(fetch(url, **self.options))
        except FetchError as error:
            self._settle(url, str(error))
            mine.set_exception(error)
            raise
        except BaseException as error:  # of a full disk: told to those who wait for it, too
            with self._lock:
                self._asked.pop(url, None)
            mine.set_exception(error)
            raise
        self._settle(url, path)
        mine.set_result(path)
        return path

    def _settle(self, url: str, found: Path | str) -> None:
        with self._lock:
            self._asked.pop(url, None)
            self._urls[url] = found, time.monotonic()
            if isinstance(found, Path):
                self.fetched += 1
            else:
                self.failed += 1
            while len(self._urls) > _URLS:
                self._urls.popitem(last=False)

    def store(self, data: bytes) -> Path:
        """Keep a content; the file that it is in."""
        sha = hashlib.sha256(data).hexdigest()
        path = self.folder / sha[:2] / sha
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with publish(path) as temp:
                temp.write_bytes(data)
        gone: list[Path] = []
        with self._lock:
            if path not in self._files:
                self._bytes += len(data)
            self._files[path] = len(data)
            self._files.move_to_end(path)
            while self.keep is not None and self._bytes > self.keep and len(self._files) > 1:
                old, size = self._files.popitem(last=False)
                self._bytes -= size
                gone.append(old)
        for old in gone:
            old.unlink(missing_ok=True)
        return path


def inside(path: str, root: Path | None) -> Path:
    """A local path of a post, below `root` where there is one; links are followed before that is judged."""
    if root is None:
        return Path(path)
    full = (root / path).resolve()
    if not full.is_relative_to(root.resolve()):
        raise FetchError(
            f"{path[:200]} lies outside of {root}, the folder that pictures are read from (--root)"
        )
    return Path(os.path.normpath(root / path))
