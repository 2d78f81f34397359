"""Sources of posts, and the JSON of a post: lines of stdin or a file, a watched folder, Redis Streams, Kafka.

A source yields messages as they come, and is told which of them are done once their results are out. What was read and not
told comes again: to this worker when it starts anew, or to another one. `parse` makes a post of a message: an id, a text
and a picture.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import select
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import numpy as np

from ...data.image_files import holds_image, is_image_name
from ...dups.hashing import VIEWS
from ...dups.window import TEXT_CHARS, TURNS, Arrival
from ...errors import UsageError, WatchError, brief
from . import require

#: Bytes of one message, at most.
MAX_BYTES = 32 << 20

#: Characters of an id, an author or a label, at most.
MAX_NAME = 500

#: Further keys under which others send the same thing.
_TEXTS = ("text", "image_path", "image_url", "label", "author")


@dataclass(slots=True)
class Message:
    """Message of a source: bytes, and what it needs to be told once the decision is out."""

    data: bytes
    default_id: str
    token: Any = None
    problem: str | None = None  # why it shall not be tried


@dataclass(slots=True)
class Post:
    """One post of a stream; `error` tells why it cannot be used."""

    id: str
    text: str | None = None
    image_path: str | None = None
    image_url: str | None = None
    image: bytes | None = None
    label: str | None = None
    author: str | None = None
    hashtags: tuple[str, ...] = ()
    coordinates: tuple[float, float] | None = None  # longitude, latitude
    error: str | None = None
    token: Any = None
    received: float = field(default_factory=time.perf_counter)
    ms: dict[str, float] = field(default_factory=dict)
    start: str = ""  # the first characters of what could not be read

    @property
    def content(self) -> bool:
        """Whether there is anything to judge."""
        return any(value is not None for value in (self.text, self.image_path, self.image_url, self.image))


def parse(message: Message) -> Post:
    """Read a message; what is wrong with it ends in the post's `error`, and costs this post only."""
    post = Post(message.default_id, token=message.token)
    try:
        if len(message.data) > MAX_BYTES:
            raise ValueError(f"a message of {len(message.data):,} bytes; at most {MAX_BYTES:,} are read")
        thing = json.loads(message.data)
        if not isinstance(thing, dict):
            raise ValueError(
                f"a JSON {_kind(thing)}, where an object with id, text, image_path or image_url is due"
            )
        _fill(post, thing)
    except RecursionError:
        post.error = "not JSON: nested too deeply"
    except UnicodeDecodeError as error:
        post.error = f"not UTF-8 ({brief(error, 120)})"
    except json.JSONDecodeError as error:
        post.error = f"not JSON: {brief(error, 120)}"
    except ValueError as error:
        post.error = brief(error)
    post.error = message.problem or post.error
    if post.error is not None:
        post.start = message.data[:200].decode("utf-8", "replace")
    return post


def _fill(post: Post, thing: Mapping[str, Any]) -> None:
    given = _whole(thing.get("id"))
    if isinstance(given, (str, int)) and not isinstance(given, bool) and given != "":
        post.id = _name("id", str(given))
    elif given not in (None, ""):
        raise ValueError(f"id is a {_kind(given)}, not a text or a whole number")
    for name in _TEXTS:
        value = _whole(thing.get(name)) if name == "label" else thing.get(name)
        if name == "label" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} is a {_kind(value)}, not a text")
        value.encode()  # halves of surrogate pairs are no text
        setattr(post, name, _name(name, value) if name == "label" else value)
    post.author = post.author and post.author[:MAX_NAME]
    for name in ("image_path", "image_url"):
        if "\0" in (getattr(post, name) or ""):
            raise ValueError(f"{name} has a NUL in it")
    post.id.encode()
    post.image = _picture(thing.get("image_base64"))
    post.hashtags = _hashtags(thing.get("hashtags"))
    post.coordinates = _coordinates(thing)
    if not post.content and post.label is None:
        raise ValueError("nothing to judge: no text, image_path, image_url or image_base64")


def _whole(value: Any) -> Any:
    """A whole number as such where a column with gaps has made it a floating-point one, without losing digits."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _name(key: str, value: str) -> str:
    """A name as it is: cut short, two would be one."""
    if len(value) > MAX_NAME:
        raise ValueError(f"{key} has {len(value):,} characters; at most {MAX_NAME} are taken")
    return value


def _picture(value: Any) -> bytes | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str):
        raise ValueError(f"image_base64 is a {_kind(value)}, not a text")
    try:
        return base64.b64decode(
            value.partition(",")[2] if value.startswith("data:") else value, validate=True
        )
    except (binascii.Error, ValueError):
        raise ValueError("image_base64 is not base64") from None


def _hashtags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError(f"hashtags is a {_kind(value)}, not a list of texts")
    return tuple(tag[:MAX_NAME] for tag in value[:100])


def _coordinates(thing: Mapping[str, Any]) -> tuple[float, float] | None:
    """Longitude and latitude, of ``coordinates: [lon, lat]``, a GeoJSON point, or ``lon`` and ``lat``."""
    value = thing.get("coordinates")
    if isinstance(value, dict):
        value = value.get("coordinates")
    if value is None and thing.get("lon") is not None and thing.get("lat") is not None:
        value = [thing["lon"], thing["lat"]]
    if value is None:
        return None
    try:
        lon, lat = (float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("coordinates are no [longitude, latitude]") from None
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ValueError(f"coordinates [{lon:g}, {lat:g}] are nowhere on Earth: longitude comes first")
    return lon, lat


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


#: Times that a server of Redis is asked again, over half a minute in all.
RETRIES = 8

#: Times that an entry is taken over from dead workers before it is taken for what killed them.
MAX_DELIVERIES = 5


class Source(ABC):
    """Messages as they come."""

    #: Whether posts come from others, who shall not name any file of this machine.
    strangers = True
    #: How it is called in the status.
    name = ""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    @abstractmethod
    def __iter__(self) -> Iterator[Message]:
        """Yield messages until `stop`, or the end."""

    def done(self, tokens: Sequence[Any]) -> None:  # noqa: B027
        """Take note that the results of these messages are out."""

    def beat(self) -> None:  # noqa: B027
        """Tell, each second, that what was read is still being worked on."""

    def stop(self) -> None:
        """Read nothing more; what was read is still to be done."""
        self.stopped.set()

    def close(self) -> None:  # noqa: B027
        """Close connections."""

    def lag(self) -> int | None:
        """Messages that wait to be read, as far as is known."""
        return None

    def tell_seen(self, modality: str, space: str, arrivals: Sequence[Arrival], window: int) -> None:  # noqa: B027
        """Tell workers beside this one which contents are new, where they share what they have seen."""

    def seen_by_others(self, modality: str, space: str, dim: int | None) -> list[Arrival]:
        """Arrivals at other workers since the last call; at the first, all that are known."""
        return []


class Lines(Source):
    """Lines of stdin, a pipe or a file, as soon as they are there."""

    def __init__(self, path: str, first: int = 0) -> None:
        super().__init__()
        self.name, self.strangers = "stdin" if path == "-" else path, False
        self._number = first
        try:
            self._file: IO[bytes] | None = None if path == "-" else Path(path).open("rb")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"--in {path}: {brief(error)}") from error
        self._awake, self._wake = os.pipe()

    def stop(self) -> None:
        """See `Source.stop`."""
        super().stop()
        with contextlib.suppress(OSError):
            os.write(self._wake, b"x")

    def close(self) -> None:
        """See `Source.close`."""
        if self._file is not None:
            self._file.close()
        for handle in (self._awake, self._wake):
            with contextlib.suppress(OSError):
                os.close(handle)

    def __iter__(self) -> Iterator[Message]:
        begun = bytearray()
        too_long = False
        for data in self._blocks():
            *lines, rest = data.split(b"\n")
            for line in lines:
                yield from self._message(bytes(begun) + (b"" if too_long else line), too_long)
                begun, too_long = bytearray(), False
            begun += b"" if too_long else rest
            if len(begun) > MAX_BYTES:  # what goes on for ever is not kept until it ends
                begun, too_long = begun[:200], True
        if begun and not self.stopped.is_set():
            yield from self._message(bytes(begun), too_long)

    def _blocks(self) -> Iterator[bytes]:
        try:
            handle = sys.stdin.fileno() if self._file is None else self._file.fileno()
        except (OSError, ValueError):  # not a file: a test's
            for line in sys.stdin:
                if self.stopped.is_set():
                    return
                yield os.fsencode(line)
            return
        while not self.stopped.is_set():
            # Past Python's buffer, so that what can be read is known; Windows waits for sockets only.
            if os.name != "nt" and self._awake in select.select([handle, self._awake], [], [])[0]:
                return
            data = os.read(handle, 1 << 16)
            if not data:
                return
            yield data

    def _message(self, line: bytes, too_long: bool) -> Iterator[Message]:
        line = line.rstrip(b"\r").removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            return
        problem = f"a line of more than {MAX_BYTES:,} bytes" if too_long else None
        yield Message(line, f"#{self._number}", problem=problem)
        self._number += 1


#: Seconds after which a watched folder is looked through as a whole.
RESCAN_SECONDS = 60.0


class Folder(Source):
    """Pictures of a folder, each once it is whole; a text beside it (``a.jpg`` and ``a.txt``) is its text.

    A picture is whole when its size and time have not changed for `settle` seconds; what is being written under another
    name (``.part``, ``.tmp``, hidden) is not looked at until it has its own. A journal says which are done, so that a
    restart goes on with the others.
    """

    def __init__(self, folder: Path, journal: Path | None, settle: float = 0.5) -> None:
        super().__init__()
        require("watchfiles", "watch", "folders are watched")
        self.folder, self.journal, self.settle = folder, journal, settle
        self.name = str(folder)
        self._done: set[tuple[str, int, int]] = set()
        if journal is not None and journal.exists():
            for line in journal.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # a line that a crash has cut
                    name, size, mtime = json.loads(line)
                    self._done.add((name, size, mtime))

    def __iter__(self) -> Iterator[Message]:
        # Since when each file is as it is.
        waiting: dict[Path, tuple[int, int, float]] = {}
        known: set[tuple[str, int, int]] = set(self._done)
        # What is there already was perhaps never seen by a watch.
        again = 0.0
        for found in self._changes():
            # Some file systems tell of nothing, and a queue of changes may run over.
            if found is None or time.monotonic() >= again:
                for path in sorted(self.folder.rglob("*")):
                    self._look(path, waiting, known)
                again = time.monotonic() + RESCAN_SECONDS
            for _, name in found or ():
                self._look(Path(name), waiting, known)
                # A folder may have been filled before it was watched.
                if Path(name).is_dir():
                    for path in sorted(Path(name).rglob("*")):
                        self._look(path, waiting, known)
            for path in list(waiting):
                self._look(path, waiting, known)
                if path in waiting and time.monotonic() - waiting[path][2] >= self.settle:
                    size, mtime, _ = waiting.pop(path)
                    name = path.relative_to(self.folder).as_posix()
                    known.add((name, size, mtime))
                    yield self._message(path, name, (name, size, mtime))
                    if self.stopped.is_set():
                        return

    def _changes(self) -> Iterator[Iterable[tuple[Any, str]] | None]:
        """Changes of the folder, as they come; None where some were not told, so that all has to be looked at."""
        from watchfiles import watch

        while not self.stopped.is_set():
            try:
                yield from watch(
                    self.folder,
                    stop_event=self.stopped,
                    rust_timeout=200,
                    yield_on_timeout=True,
                    debounce=100,
                    step=50,
                    raise_interrupt=False,
                )
            except RuntimeError:
                # A name that is no text ends the watch, and the file need not cost its neighbours.
                if not self.folder.is_dir():
                    raise
                self.stopped.wait(0.2)
                yield None

    def _look(
        self, path: Path, waiting: dict[Path, tuple[int, int, float]], known: set[tuple[str, int, int]]
    ) -> None:
        """Note how a file stands."""
        try:
            status = path.stat()
            name = path.relative_to(self.folder).as_posix()
            wanted = is_image_name(path.name) and path.is_file() and not path.name.startswith((".", "~"))
        except (OSError, ValueError):  # gone, or led elsewhere
            waiting.pop(path, None)
            return
        now = (status.st_size, status.st_mtime_ns)
        if not wanted or (name, *now) in known:
            waiting.pop(path, None)
        elif waiting.get(path, (None, None, 0))[:2] != now:
            waiting[path] = (*now, time.monotonic())

    def _message(self, path: Path, name: str, token: tuple[str, int, int]) -> Message:
        post: dict[str, Any] = {"id": name, "image_path": name}
        beside = path.with_suffix(".txt")
        problem = None
        try:
            name.encode()
            if beside.is_file():
                post["text"] = beside.read_text(encoding="utf-8", errors="replace")[:MAX_BYTES]
            if not holds_image(path):
                problem = "no picture in it"
        except UnicodeEncodeError:
            problem = "its name is no UTF-8: rename it"
        except OSError as error:
            problem = brief(error)
        return Message(json.dumps(post).encode(), name, token, problem)

    def done(self, tokens: Sequence[Any]) -> None:
        """See `Source.done`."""
        if self.journal is not None and tokens:
            with self.journal.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(json.dumps(token) + "\n" for token in tokens)


def redis_client(url: str, **options: Any) -> tuple[Any, str, dict[str, str]]:
    """A client, the name of the stream, and further parameters of ``redis://host:port[/db]/stream?name=value``."""
    require("redis", "watch", "Redis is read")
    import redis
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    parts = urlsplit(url)
    pieces = [unquote(piece) for piece in parts.path.split("/") if piece]
    db = int(pieces.pop(0)) if len(pieces) > 1 and pieces[0].isdigit() else 0
    if len(pieces) != 1 or not parts.hostname:
        raise UsageError(f"{hidden(url)}: name a stream, such as redis://localhost:6379/posts")
    parameters = dict(parse_qsl(parts.query))
    client = redis.Redis.from_url(
        urlunsplit((parts.scheme, parts.netloc, f"/{db}", "", "")),
        protocol=2,  # answers have one form, whichever version of the client there is
        retry=Retry(ExponentialBackoff(cap=5, base=0.1), RETRIES),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError],
        health_check_interval=30,
        socket_connect_timeout=5,
        **options,
    )
    return client, pieces[0], parameters


@contextlib.contextmanager
def redis_errors(what: str) -> Iterator[None]:
    """Tell an error of Redis as what could not be done for it."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise WatchError(f"{what}: {brief(error)}") from error


def hidden(url: str) -> str:
    """A URL without its secrets: the password of the user, and parameters such as ``sasl.password``."""
    url = re.sub(r"(?<=://)([^/?#@]*?):[^/?#]*@", r"\1:***@", url, count=1)
    return re.sub(
        r"([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&#]*", r"\1***", url, flags=re.IGNORECASE
    )


class RedisStream(Source):
    """A stream of Redis, read by a consumer group: each entry by one worker, and by another one if that dies.

    An entry holds the post as JSON in its field ``json``, or in fields of its own (id, text, image_url, ...).
    """

    def __init__(self, url: str, consumer: str, *, group: str = "icehouse", claim_s: float = 60.0) -> None:
        super().__init__()
        # Reading waits a second at most, so that an end is noticed.
        self.client, self.stream, given = redis_client(url, socket_timeout=30)
        self.name = hidden(url)
        self.group, self.consumer = given.pop("group", group), given.pop("consumer", consumer)
        try:
            self.claim_ms = int(1000 * float(given.pop("claim", claim_s)))
            self.count = int(given.pop("count", 32))
            self.shares = bool(int(given.pop("share", 0)))
        except ValueError:
            raise UsageError(
                f"{self.name}: claim is seconds, count a number of entries, share 0 or 1"
            ) from None
        start = given.pop("start", "0")
        if given:
            raise UsageError(
                f"{self.name}: no parameter {next(iter(given))!r}; there are group, consumer, claim, count, share, start"
            )
        #: Last entry that was read of each stream of what others have seen.
        self._seen_upto: dict[str, str] = {}
        self._claimed_at = -1e9
        #: Entries that were given and are not done, and when others were last told so.
        self._held: set[str] = set()
        self._beat_at = time.monotonic()
        self._lock = threading.Lock()
        self._open(start)

    def _open(self, start: str) -> None:
        import redis

        try:
            self.client.xgroup_create(self.stream, self.group, id=start, mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise WatchError(f"{self.name}: {brief(error)}") from error
        except redis.RedisError as error:
            raise WatchError(f"no Redis at {self.name}: {brief(error)}") from error

    def __iter__(self) -> Iterator[Message]:
        with redis_errors(f"{self.name} cannot be read any more"):
            yield from self._own()
            while not self.stopped.is_set():
                yield from self._claimed()
                if self.stopped.is_set():
                    return
                found = self.client.xreadgroup(
                    self.group, self.consumer, {self.stream: ">"}, count=self.count, block=500
                )
                for entry, fields in _entries(found):
                    yield self._message(entry, fields)

    def _own(self) -> Iterator[Message]:
        """Messages given to this consumer before it was restarted."""
        last = "0"
        while True:
            found = self.client.xreadgroup(self.group, self.consumer, {self.stream: last}, count=self.count)
            entries = list(_entries(found))
            if not entries:
                return
            for entry, fields in entries:
                last = entry
                if not self.stopped.is_set():
                    yield self._message(entry, fields, again=True)
            if self.stopped.is_set():
                return

    def _claimed(self) -> Iterator[Message]:
        """Messages that other workers have held for so long that these must be dead."""
        if time.monotonic() - self._claimed_at < self.claim_ms / 3000:
            return
        self._claimed_at = time.monotonic()
        start = "0-0"
        while not self.stopped.is_set():
            start, found, *_ = self.client.xautoclaim(
                self.stream, self.group, self.consumer, self.claim_ms, start_id=start, count=self.count
            )
            start = _text(start)
            for entry, fields in found:
                if fields is not None:  # else it was trimmed from the stream meanwhile
                    yield self._message(_text(entry), fields, again=True)
            if start == "0-0":
                return

    def _message(self, entry: str, fields: Mapping[Any, Any], *, again: bool = False) -> Message:
        problem = None
        if again:
            pending = self.client.xpending_range(self.stream, self.group, entry, entry, 1)
            times = pending[0]["times_delivered"] if pending else 0
            if times > MAX_DELIVERIES:
                problem = f"given to workers {times} times, and done by none of them"
        with self._lock:
            self._held.add(entry)
        return Message(_json_of(fields), entry, entry, problem)

    def done(self, tokens: Sequence[Any]) -> None:
        """See `Source.done`."""
        with self._lock:
            self._held.difference_update(tokens)
        with redis_errors(f"{self.name}: results are out, but could not be acknowledged"):
            if tokens:
                self.client.xack(self.stream, self.group, *tokens)

    def tell_seen(self, modality: str, space: str, arrivals: Sequence[Arrival], window: int) -> None:
        """See `Source.tell_seen`."""
        if not self.shares or not arrivals:
            return
        pipe = self.client.pipeline(transaction=False)
        for arrival in arrivals:
            fields: dict[Any, Any] = {
                "by": self.consumer,
                "id": arrival.id.encode("utf-8", "surrogatepass"),
                "key": arrival.key,
                "phash": "" if arrival.phash is None else str(arrival.phash),
                "vector": b"" if arrival.vector is None else arrival.vector.astype("<f2").tobytes(),
                "turned": np.array(arrival.turned or (), "<u8").tobytes(),
                "views": b"" if arrival.views is None else arrival.views.astype("<u8").tobytes(),
                "text": (arrival.text or "")[:TEXT_CHARS].encode("utf-8", "replace"),
                "path": (arrival.path or "").encode("utf-8", "surrogatepass"),
            }
            pipe.xadd(self._seen(modality, space), fields, maxlen=window, approximate=True)
        with redis_errors(f"{self.name}: what was seen could not be shared"):
            pipe.execute()

    def seen_by_others(self, modality: str, space: str, dim: int | None) -> list[Arrival]:
        """See `Source.seen_by_others`."""
        if not self.shares:
            return []
        name = self._seen(modality, space)
        first = name not in self._seen_upto
        found: list[Arrival] = []
        with redis_errors(f"{self.name}: what others have seen cannot be read"):
            while entries := self.client.xrange(name, min=f"({self._seen_upto.get(name, '0-0')}", count=1000):
                self._seen_upto[name] = _text(entries[-1][0])
                # At first also what this worker has told before it was killed.
                found += [
                    arrival
                    for _, fields in entries
                    if (first or _text(fields.get(b"by")) != self.consumer)
                    and (arrival := _arrival(fields, dim)) is not None
                ]
        self._seen_upto.setdefault(name, "0-0")
        return found

    def _seen(self, modality: str, space: str) -> str:
        # Vectors of another encoder have a stream of their own.
        return f"{self.stream}:seen:{modality}:{space}"

    def beat(self) -> None:
        """Start the time anew after which what this worker holds would be taken over."""
        import redis

        if time.monotonic() - self._beat_at < self.claim_ms / 3000:
            return
        self._beat_at = time.monotonic()
        with self._lock:
            held = sorted(self._held)
        # Reading and writing tell of a server that is gone.
        with contextlib.suppress(redis.RedisError):
            for start in range(0, len(held), 256):
                self.client.xclaim(
                    self.stream, self.group, self.consumer, 0, held[start : start + 256], justid=True
                )

    def lag(self) -> int | None:
        """See `Source.lag`."""
        import redis

        try:
            for group in self.client.xinfo_groups(self.stream):
                if _text(group["name"]) == self.group and group.get("lag") is not None:
                    return int(group["lag"])
        except redis.RedisError:  # an old server, or none just now: reading tells
            pass
        return None

    def close(self) -> None:
        """See `Source.close`."""
        self.client.close()


def _arrival(fields: Mapping[Any, Any], dim: int | None) -> Arrival | None:
    """Arrival as told by another worker; None if it is not of the form that workers use."""
    try:
        phash, vector = _text(fields[b"phash"]), np.frombuffer(fields[b"vector"], "<f2")
        if len(vector) not in (0, dim) or not np.isfinite(vector).all():
            return None
        # Workers of before tell neither of these.
        turned, views = (np.frombuffer(fields.get(name, b""), "<u8") for name in (b"turned", b"views"))
        return Arrival(
            fields[b"id"].decode("utf-8", "surrogatepass"),
            _text(fields[b"key"]),
            int(phash) if phash else None,
            vector if len(vector) else None,
            tuple(turned.tolist()) if len(turned) == TURNS + 1 else None,
            views if len(views) == VIEWS else None,
            text=_text(fields.get(b"text", b"")) or None,
            path=fields.get(b"path", b"").decode("utf-8", "surrogatepass") or None,
        )
    except (KeyError, ValueError):
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _entries(found: Any) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
    """Entries of one stream in an answer, but those that were trimmed meanwhile."""
    for _, entries in found or ():
        for entry, fields in entries:
            if fields is not None:
                yield _text(entry), fields


def _json_of(fields: Mapping[bytes, bytes]) -> bytes:
    if b"json" in fields:
        return fields[b"json"]
    return json.dumps({_text(name): _text(value) for name, value in fields.items()}).encode()


def kafka_settings(url: str, role: str) -> tuple[dict[str, Any], str]:
    """Settings of librdkafka and the topic of ``kafka://host:port[,host:port]/topic?group=NAME&setting=value``."""
    require("confluent_kafka", "kafka", "Kafka is read")
    rest = url.partition("://")[2]
    place, _, query = rest.partition("?")
    hosts, _, topic = place.partition("/")
    if not hosts or not topic or "/" in topic:
        raise UsageError(f"{hidden(url)}: name a topic, such as kafka://localhost:9092/posts")
    settings: dict[str, Any] = {"bootstrap.servers": hosts, "client.id": f"icehouse-{role}"}
    for name, value in parse_qsl(query):
        settings["group.id" if name == "group" else name] = value
    return settings, unquote(topic)


class Kafka(Source):
    """A topic of Kafka, read by a consumer group; offsets are committed once results are out.

    Results may come out in another order than messages went in, so that of each partition the offset below which all is
    done is committed.
    """

    def __init__(self, url: str, *, group: str = "icehouse") -> None:
        super().__init__()
        settings, self.topic = kafka_settings(url, "watch")
        self.name = hidden(url)
        from confluent_kafka import Consumer, KafkaException

        settings = {
            "group.id": group,
            "auto.offset.reset": "earliest",
            **settings,
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 1000,
            "enable.auto.offset.store": False,
        }
        #: Offsets by partition that were read, in order, and those of them that are done.
        self._read: dict[int, deque[int]] = defaultdict(deque)
        self._finished: dict[int, set[int]] = defaultdict(set)
        self._lock = threading.Lock()
        try:
            self.consumer = Consumer(settings, logger=quiet_logger())
            self.consumer.subscribe([self.topic], on_revoke=self._revoked)
        except (KafkaException, ValueError, TypeError) as error:
            raise UsageError(f"--in {self.name}: {brief(error)}") from error

    def __iter__(self) -> Iterator[Message]:
        from confluent_kafka import KafkaError

        while not self.stopped.is_set():
            message = self.consumer.poll(0.2)
            self._store()
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART) or (
                    error.retriable() or not error.fatal()
                ):
                    continue
                raise WatchError(f"{self.name} cannot be read any more: {brief(Exception(error.str()))}")
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            with self._lock:
                self._read[partition].append(offset)
            yield Message(message.value() or b"", f"{self.topic}-{partition}-{offset}", (partition, offset))

    def _revoked(self, _: Any, partitions: Any) -> None:
        """Partitions went to another worker, which begins at what was committed."""
        with self._lock:
            for partition in partitions:
                self._read.pop(partition.partition, None)
                self._finished.pop(partition.partition, None)

    def done(self, tokens: Sequence[Any]) -> None:
        """See `Source.done`; the thread that reads tells the broker, since the client bears no second one."""
        with self._lock:
            for partition, offset in tokens:
                self._finished[partition].add(offset)

    def _store(self) -> None:
        """Store the offsets below which all is done."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        stored = []
        with self._lock:
            for partition, finished in self._finished.items():
                read = self._read[partition]
                upto = None
                while read and read[0] in finished:
                    upto = read.popleft()
                    finished.discard(upto)
                if upto is not None:
                    stored.append(TopicPartition(self.topic, partition, upto + 1))
        if not stored:
            return
        try:
            # librdkafka commits what is stored each second, when partitions go to others, and at the end.
            self.consumer.store_offsets(offsets=stored)
        except KafkaException as error:
            # Of partitions that others have meanwhile: they do it again, which doubles nothing where results are kept by id.
            if error.args[0].code() not in (KafkaError._STATE, KafkaError._UNKNOWN_PARTITION):
                raise WatchError(f"{self.name}: offsets could not be stored: {brief(error)}") from error

    def close(self) -> None:
        """See `Source.close`."""
        with contextlib.suppress(WatchError):  # what is not stored is done again
            self._store()
        self.consumer.close()


def quiet_logger() -> Any:
    """Messages of librdkafka go to a logger that shows none: what matters comes as an error."""
    import logging

    logger = logging.getLogger("icehouse.kafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def open_source(where: str, *, consumer: str, journal: Path | None, first: int = 0) -> Source:
    """Open what ``--in`` names; UsageError if posts cannot come from there."""
    scheme = where.partition("://")[0] if "://" in where else ""
    if scheme in ("redis", "rediss"):
        return RedisStream(where, consumer)
    if scheme == "kafka":
        return Kafka(where)
    if scheme:
        raise UsageError(f"--in {where}: posts come from -, a file, a folder, redis:// or kafka://")
    if where != "-" and Path(where).is_dir():
        return Folder(Path(where).resolve(), journal)
    return Lines(where, first)


def default_name() -> str:
    """Name of this machine, which tells workers apart where none is given."""
    return socket.gethostname().split(".")[0] or "watch"
