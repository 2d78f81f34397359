"""Decisions on posts, and their sinks: lines of JSON, Redis Streams, Kafka, PostgreSQL, the store."""

from __future__ import annotations

import json
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa

from ...console import json_text
from ...data.text import clean
from ...embed.encoder import Tokens
from ...embed.tables import append_features
from ...errors import UsageError, WatchError, brief
from ...store.schema import ITEMS
from ...store.store import Store
from ..predict import Feature, Scorer
from . import require
from .sources import Post, hidden, kafka_settings, quiet_logger, redis_client, redis_errors

if TYPE_CHECKING:
    import psycopg

    from .worker import Work

#: Seconds that a database which is away is waited for.
PATIENCE_S = 60.0


@dataclass(slots=True)
class Decision:
    """Decision on a post.

    `decision` is "classified", "repeat" (of one of the latest), "irrelevant" (stopped by a gate), "filtered" (of no
    collection), "label" (a label for an earlier post) or "error"; `stage` is where that was decided.
    """

    post: Post
    decision: str
    stage: str
    repeat_of: dict[str, Any] | None = None
    variant_of: dict[str, Any] | None = None  # the post whose picture it has, with other words: no repeat
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    collections: list[str] = field(default_factory=list)
    learned: dict[str, Any] | None = None
    error: str | None = None
    sha256: str | None = None
    path: str | None = None  # of the picture, on this machine
    #: What a sink for a store needs: features by (encoder, modality, output), and facts of the picture.
    work: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON values, always with the same keys but `learned`, which comes with a label."""
        told: dict[str, Any] = {
            "id": self.post.id,
            "decision": self.decision,
            "stage": self.stage,
            "repeat_of": self.repeat_of,
            "variant_of": self.variant_of,
            "runs": self.runs,
            "collections": self.collections,
            "error": self.error,
            "ms": {name: round(value, 2) for name, value in self.post.ms.items()},
        }
        if self.learned is not None:
            told["learned"] = self.learned
        if self.error is not None and self.post.start:
            told["message"] = self.post.start
        return told


class Sink(ABC):
    """A place for decisions. What `write` was given is out once `pending` is false, after `flush` at the latest."""

    name = ""
    #: Whether `write` keeps decisions back until `flush`.
    pending = False
    #: Whether lines of statistics go here, too.
    takes_stats = False

    @abstractmethod
    def write(self, decisions: Sequence[Decision]) -> None:
        """Write some decisions."""

    def flush(self) -> None:  # noqa: B027
        """Write what was kept back."""

    def due(self) -> bool:
        """Whether `flush` shall be called now."""
        return self.pending

    def stats(self, told: Mapping[str, Any]) -> None:  # noqa: B027
        """Write a line of statistics, where the sink takes them."""

    def close(self) -> None:  # noqa: B027
        """Close connections."""


class LinesOut(Sink):
    """Lines of JSON on stdout or in a file, which is appended to."""

    takes_stats = True

    def __init__(self, path: str) -> None:
        self.name = "stdout" if path == "-" else path
        try:
            self._file: IO[str] | None = None if path == "-" else Path(path).open("a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"cannot write {path}: {brief(error)}") from error

    def write(self, decisions: Sequence[Decision]) -> None:
        """See `Sink.write`."""
        self._lines(json_text(decision.as_dict()) for decision in decisions)

    def stats(self, told: Mapping[str, Any]) -> None:
        """See `Sink.stats`."""
        self._lines([json_text({"stats": told})])

    def _lines(self, lines: Any) -> None:
        file = sys.stdout if self._file is None else self._file
        try:
            file.writelines(line + "\n" for line in lines)
            file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WatchError(f"cannot write {self.name}: {brief(error)}") from error

    def close(self) -> None:
        """See `Sink.close`."""
        if self._file is not None:
            self._file.close()


class RedisOut(Sink):
    """Entries of a Redis stream, with the fields id, decision and json."""

    def __init__(self, url: str) -> None:
        self.client, self.stream, given = redis_client(url, socket_timeout=30)
        self.name = hidden(url)
        try:
            self.maxlen = int(given.pop("maxlen")) if "maxlen" in given else None
        except ValueError:
            raise UsageError(f"{self.name}: maxlen is a number of entries") from None
        if given:
            raise UsageError(f"{self.name}: no parameter {next(iter(given))!r}; there is maxlen")
        with redis_errors(f"cannot write to {self.name}"):
            self.client.ping()

    def write(self, decisions: Sequence[Decision]) -> None:
        """See `Sink.write`."""
        pipe = self.client.pipeline(transaction=False)
        for decision in decisions:
            told = json.dumps(decision.as_dict())
            fields = {"id": decision.post.id, "decision": decision.decision, "json": told}
            pipe.xadd(self.stream, fields, maxlen=self.maxlen, approximate=True)
        with redis_errors(f"cannot write to {self.name}"):
            pipe.execute()

    def close(self) -> None:
        """See `Sink.close`."""
        self.client.close()


class KafkaOut(Sink):
    """Messages of a Kafka topic, each under the id of its post."""

    def __init__(self, url: str) -> None:
        settings, self.topic = kafka_settings(url, "watch-out")
        self.name = hidden(url)
        from confluent_kafka import KafkaException, Producer

        try:
            self.producer = Producer({"enable.idempotence": True, **settings}, logger=quiet_logger())
        except (KafkaException, ValueError, TypeError) as error:
            raise UsageError(f"--out {self.name}: {brief(error)}") from error

    def write(self, decisions: Sequence[Decision]) -> None:
        """See `Sink.write`."""
        failed: list[str] = []

        def told(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error.str())

        for decision in decisions:
            data = json.dumps(decision.as_dict()).encode()
            while True:
                try:
                    self.producer.produce(self.topic, data, decision.post.id.encode(), on_delivery=told)
                    break
                except BufferError:  # as much as its queue holds is on its way
                    self.producer.poll(0.1)
        left = self.producer.flush(PATIENCE_S)
        if failed or left:
            raise WatchError(f"cannot write to {self.name}: {failed[0] if failed else 'no answer'}")

    def close(self) -> None:
        """See `Sink.close`."""
        self.producer.flush(5)


_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(?:\.[A-Za-z_][A-Za-z0-9_]{0,62})?")

_COLUMNS = (
    "id text PRIMARY KEY",
    "decision text NOT NULL",
    "stage text NOT NULL",
    "repeat_of text",
    "runs jsonb NOT NULL",
    "collections text[] NOT NULL",
    "error text",
    "text text",
    "image_path text",
    "image_url text",
    "image_sha256 text",
    "ms jsonb NOT NULL",
    "worker text",
    "decided_at timestamptz NOT NULL",
)
_NAMES = tuple(column.split()[0] for column in _COLUMNS)


class Postgres(Sink):
    """Rows of a table of PostgreSQL, one a post: what comes again replaces what was there."""

    def __init__(self, url: str, worker: str = "", *, init: bool = False) -> None:
        require("psycopg", "watch", "PostgreSQL is written")
        self.worker, self.name = worker, hidden(url)
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        self.table = given.pop("table", "icehouse_watch")
        if not _TABLE.fullmatch(self.table):
            raise UsageError(f"{self.name}: {self.table!r} is no name of a table (letters, digits, _)")
        self.url = urlunsplit(parts._replace(query=urlencode(given)))
        self._connection: psycopg.Connection[Any] | None = None
        names = ", ".join(_NAMES)
        values = ", ".join(f"%({name})s" for name in _NAMES)
        changed = ", ".join(f"{name} = excluded.{name}" for name in _NAMES[1:])
        self._insert = f"INSERT INTO {self._quoted()} ({names}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {changed}"
        if init:
            self._retry(self._create)
        else:
            self._retry(self._check)

    def _quoted(self) -> str:
        return ".".join(f'"{piece}"' for piece in self.table.split("."))

    def _create(self, connection: psycopg.Connection[Any]) -> None:
        index = f"{self.table.rpartition('.')[2][:40]}_decided_at"
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self._quoted()} ({', '.join(_COLUMNS)})")
        connection.execute(f'CREATE INDEX IF NOT EXISTS "{index}" ON {self._quoted()} (decided_at)')

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        import psycopg

        try:
            connection.execute(f"SELECT {', '.join(_NAMES)} FROM {self._quoted()} LIMIT 0")
        except psycopg.errors.UndefinedTable:
            raise WatchError(
                f"{self.name} has no table {self.table}: make it with `icehouse watch --init {self.name}`"
            ) from None
        except psycopg.errors.UndefinedColumn as error:
            raise WatchError(
                f"the table {self.table} is none of `icehouse watch --init` ({brief(error, 100)}); name another one "
                "with ?table=NAME"
            ) from None

    def write(self, decisions: Sequence[Decision]) -> None:
        """See `Sink.write`."""
        rows = [self._row(decision) for decision in decisions]

        def insert(connection: psycopg.Connection[Any]) -> None:
            with connection.cursor() as cursor:
                cursor.executemany(self._insert, rows)

        if rows:
            self._retry(insert)

    def _row(self, decision: Decision) -> dict[str, Any]:
        from psycopg.types.json import Jsonb

        told, post = decision.as_dict(), decision.post
        row = {
            **{name: told[name] for name in ("id", "decision", "stage", "collections", "error")},
            "repeat_of": (decision.repeat_of or {}).get("id"),
            "runs": told["runs"],
            "ms": told["ms"],
            "text": post.text,
            "image_path": post.image_path,
            "image_url": post.image_url,
            "image_sha256": decision.sha256,
            "worker": self.worker,
            "decided_at": datetime.now(UTC),
        }
        row = {name: _without_nul(value) for name, value in row.items()}
        return {**row, "runs": Jsonb(row["runs"]), "ms": Jsonb(row["ms"])}

    def _retry(self, act: Any) -> None:
        """Do something in a transaction; where the server goes away, wait for it, and do it again."""
        import psycopg

        begun, wait = time.monotonic(), 0.2
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self.url, connect_timeout=5)
                with self._connection.transaction():
                    act(self._connection)
                return
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self._connection is None or time.monotonic() - begun > PATIENCE_S:
                    raise WatchError(f"cannot write to {self.name}: {brief(error)}") from None
                self.close()
                time.sleep(wait)
                wait = min(2 * wait, 5.0)
            except psycopg.Error as error:
                raise WatchError(f"cannot write to {self.name}: {brief(error)}") from None

    def close(self) -> None:
        """See `Sink.close`."""
        if self._connection is not None:
            self._connection.close()


def _without_nul(value: Any) -> Any:
    """A value whose texts PostgreSQL takes: it knows no NUL, and no halves of surrogate pairs."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value


#: Rows that are committed together at most, and the table of what was decided.
ROWS, DECISIONS = 512, "decisions"

_DECISIONS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("watch", pa.string()),
        pa.field("decision", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("repeat_of", pa.string()),
        pa.field("runs", pa.string()),  # JSON
        pa.field("collections", pa.list_(pa.string())),
        pa.field("error", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)


class StoreOut(Sink):
    """The store itself: posts become items, with the features that were made of them and a row in the table `decisions`.

    Commits are few and large, so that decisions are kept back for some seconds; they are acknowledged after that.
    `features` names the store's table of each feature.
    """

    def __init__(self, store: Store, scorer: Scorer, features: Mapping[Feature, str], watch: str) -> None:
        self.store, self.scorer, self.features, self.watch = store, scorer, dict(features), watch
        self.name = f"store {store.path}"
        self._held: list[tuple[Decision, Work]] = []

    @property
    def pending(self) -> bool:  # type: ignore[override]
        """See `Sink.pending`."""
        return bool(self._held)

    def due(self) -> bool:
        """See `Sink.due`."""
        return len(self._held) >= ROWS

    def write(self, decisions: Sequence[Decision]) -> None:
        """See `Sink.write`."""
        self._held += [(one, one.work) for one in decisions if one.decision not in ("filtered", "label")]

    def flush(self) -> None:
        """See `Sink.flush`; features first, then items, so that a crash in between leaves no item without them."""
        held, self._held = self._held, []
        sound = [(one, work) for one, work in held if one.decision != "error"]
        for feature, name in self.features.items():
            self._append(feature, name, [work for _, work in sound])
        if sound:
            self.store.items.upsert(self._items(sound), key="item_id")
        if held:
            table = self.store.ensure_table(DECISIONS, _DECISIONS, {"kind": "decisions", "key": "item_id"})
            table.upsert(self._decisions([one for one, _ in held]), key="item_id")

    def _append(self, feature: Feature, name: str, works: Sequence[Work]) -> None:
        encoder, modality, _, cleaning = feature
        keys: list[str] = []
        values: list[Any] = []
        texts: list[str] = []
        for work in works:
            key = work.image_key if modality == "image" else work.text_key
            if key is not None and feature in work.contents.features:
                keys.append(key)
                values.append(work.contents.features[feature])
                texts.append(clean(work.post.text or "", cleaning) if modality == "text" else "")
        if not keys:
            return
        columns = {}
        if modality == "text":
            model = self.scorer.encoders[encoder]
            columns["truncated"] = pa.array(model.count_tokens(texts) > model.context_length)
        vectors = [value if isinstance(value, Tokens) else value[None] for value in values]
        append_features(self.store.feature_table(name), keys, vectors, columns)

    def _items(self, held: Sequence[tuple[Decision, Work]]) -> pa.Table:
        rows: dict[str, dict[str, Any]] = {}
        for one, work in held:
            facts = work.facts
            has = facts is not None and work.image_key is not None
            rows[one.post.id] = {
                "item_id": one.post.id,
                "path": None if one.path is None else Path(one.path).name,
                "root": None if one.path is None else str(Path(one.path).parent),
                "source": f"watch/{self.watch}",
                "text": one.post.text,
                "image_sha256": work.image_key,
                "text_sha256": work.text_key,
                **{name: getattr(facts, name) if has else None for name in _FACTS},
                "missing": False,
                "added": datetime.now(UTC),
            }
        return pa.Table.from_pylist(
            list(rows.values()), schema=pa.schema([ITEMS.field(name) for name in next(iter(rows.values()))])
        )

    def _decisions(self, decisions: Sequence[Decision]) -> pa.Table:
        rows = {
            one.post.id: {
                "item_id": one.post.id,
                "watch": self.watch,
                "decision": one.decision,
                "stage": one.stage,
                "repeat_of": (one.repeat_of or {}).get("id"),
                "runs": json.dumps(one.runs),
                "collections": one.collections,
                "error": one.error,
                "at": datetime.now(UTC),
            }
            for one in decisions
        }
        return pa.Table.from_pylist(list(rows.values()), schema=_DECISIONS)


_FACTS = ("width", "height", "format", "bytes", "mtime_ns", "phash")


def open_sink(where: str, *, worker: str) -> Sink:
    """Open what ``--out`` or ``--errors`` names; UsageError if decisions cannot go there."""
    scheme = where.partition("://")[0] if "://" in where else ""
    if scheme in ("redis", "rediss"):
        return RedisOut(where)
    if scheme == "kafka":
        return KafkaOut(where)
    if scheme in ("postgresql", "postgres"):
        return Postgres(where, worker)
    if scheme:
        raise UsageError(f"{where}: decisions go to -, a file, store, redis://, kafka:// or postgresql://")
    return LinesOut(where)
