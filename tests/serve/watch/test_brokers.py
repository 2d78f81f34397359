"""Real servers of Redis and PostgreSQL, and Kafka's own mock of one: acknowledged once results are out, and not before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from icehouse.errors import UsageError, WatchError
from icehouse.serve.watch.commands import Settings
from icehouse.serve.watch.sinks import Postgres
from icehouse.serve.watch.sources import hidden
from icehouse.serve.watch.worker import open_watch

redis = pytest.importorskip("redis")
psycopg = pytest.importorskip("psycopg")

Posts = Callable[..., dict[str, Any]]
WORKER = Path(__file__).parents[2] / "helpers" / "watch_worker.py"


@pytest.fixture
def broker(redis_server: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_server, decode_responses=True)
    client.flushall()
    yield client
    client.close()


def rows_of(postgres: str, what: str) -> list[Any]:
    with psycopg.connect(postgres) as connection:
        return connection.execute(what).fetchall()  # type: ignore[arg-type]


@pytest.fixture
def watch(home: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Watch a source until so many decisions are out; the figures at the end."""

    def run(source: str, *outs: str, until: int, **options: Any) -> dict[str, Any]:
        settings = {
            "runs": ("relevancy", "damage"),
            "store": home / "store",
            "state": tmp_path / "state",
            "window": 1000,
            "threshold": 0.999999,
            "root": tmp_path,
            "drift": False,
            **options,
        }
        with open_watch(Settings(source=source, outs=outs, **settings)) as made:
            before = sum(made.status.counts.values())
            add = made.status.add

            def counted(decision: Any) -> None:
                add(decision)
                if sum(made.status.counts.values()) - before >= until:
                    made.stop()

            made.status.add = counted  # type: ignore[method-assign]
            made.run()
            return made.figures()

    return run


Watching = Callable[..., dict[str, Any]]


def send(broker: Any, posts: list[dict[str, Any]], stream: str = "posts") -> None:
    for number, post in enumerate(posts):
        # Both forms that an entry may have.
        broker.xadd(stream, {"json": json.dumps(post)} if number % 2 else post)


def decisions(broker: Any, stream: str = "results") -> dict[str, dict[str, Any]]:
    return {fields["id"]: json.loads(fields["json"]) for _, fields in broker.xrange(stream)}


def test_redis_to_redis(broker: Any, redis_server: str, watch: Watching, posts: Posts) -> None:
    some = [posts(), posts(bright=False), posts(about=False)]
    send(broker, [*some, {"id": "bad"}])
    watch(f"{redis_server}/posts", f"{redis_server}/0/results", until=4)
    told = decisions(broker)
    assert {key: line["decision"] for key, line in told.items()} == {
        some[0]["id"]: "classified",
        some[1]["id"]: "classified",
        some[2]["id"]: "irrelevant",
        "bad": "error",
    }
    assert broker.xpending("posts", "icehouse")["pending"] == 0


def test_paths_of_strangers_stay_below_the_root(
    broker: Any, redis_server: str, watch: Watching, posts: Posts, tmp_path: Path
) -> None:
    (tmp_path / "way out").symlink_to("/etc")
    inside = posts()
    send(
        broker,
        [
            {"id": "a", "image_path": "/etc/passwd"},
            {"id": "b", "image_path": "../../etc/passwd"},
            {"id": "c", "image_path": "way out/passwd"},
            {"id": "d", "image_path": Path(inside["image_path"]).name, "text": inside["text"]},
        ],
    )
    watch(f"{redis_server}/posts", f"{redis_server}/results", until=4)
    told = decisions(broker)
    for name in "abc":
        assert "outside of" in told[name]["error"], told[name]
    assert told["d"]["decision"] == "classified"


def test_what_a_dead_worker_left_is_taken_over(
    broker: Any, redis_server: str, watch: Watching, posts: Posts
) -> None:
    send(broker, [posts() for _ in range(5)])
    broker.xgroup_create("posts", "icehouse", id="0")
    broker.xreadgroup("icehouse", "dead", {"posts": ">"}, count=3)
    watch(f"{redis_server}/posts?claim=0.3", f"{redis_server}/results", until=5)
    assert len(decisions(broker)) == 5
    assert broker.xpending("posts", "icehouse")["pending"] == 0


def test_workers_share_what_they_have_seen(
    broker: Any, redis_server: str, watch: Watching, posts: Posts, tmp_path: Path
) -> None:
    """A repeat is found by another worker, one without any state, and bad entries harm nobody."""
    first, second = posts(), posts()
    again = [{**posts(), "image_path": post["image_path"]} for post in (first, second)]
    source = f"{redis_server}/posts?share=1"
    send(broker, [first, second])
    watch(source, f"{redis_server}/results", until=2, name="a", state=tmp_path / "a")
    (seen,) = broker.keys("posts:seen:image:*")
    assert broker.xlen(seen) == 2
    broker.xadd(seen, {"by": "x", "id": "i", "key": "k", "phash": "no number", "vector": "abc"})
    broker.xadd(seen, {"odd": "fields"})
    send(broker, again)
    watch(source, f"{redis_server}/results", until=2, name="b", state=tmp_path / "b")
    told = decisions(broker)
    assert [told[post["id"]]["decision"] for post in again] == ["repeat", "repeat"]
    assert [told[post["id"]]["repeat_of"]["id"] for post in again] == [first["id"], second["id"]]
    # Alone, a worker does not see it.
    broker.delete("posts")
    send(broker, again)
    watch(f"{redis_server}/posts", f"{redis_server}/alone", until=2, name="c", state=tmp_path / "c")
    assert {line["decision"] for line in decisions(broker, "alone").values()} == {"classified"}


def test_what_kills_every_worker_is_given_up(
    broker: Any, redis_server: str, watch: Watching, posts: Posts
) -> None:
    post = posts()
    send(broker, [post])
    broker.xgroup_create("posts", "icehouse", id="0")
    ((_, ((entry, _),)),) = broker.xreadgroup("icehouse", "dead", {"posts": ">"}, count=1)
    broker.xclaim("posts", "icehouse", "dead", 0, [entry], retrycount=6)
    watch(f"{redis_server}/posts?claim=0.1", f"{redis_server}/results", until=1)
    assert "given to workers 7 times" in decisions(broker)[post["id"]]["error"]


@pytest.mark.slow
def test_nothing_is_acknowledged_before_its_decision_is_out(
    broker: Any, redis_server: str, watch: Watching, posts: Posts, postgres: str
) -> None:
    Postgres(f"{postgres}&table=gone", init=True).close()
    send(broker, [posts() for _ in range(5)])
    with pytest.raises(WatchError, match="cannot write"):
        # The table goes once the watch has begun.
        watch_and_drop(watch, redis_server, postgres)
    assert broker.xpending("posts", "icehouse")["pending"] == 5


def watch_and_drop(watch: Watching, redis_server: str, postgres: str) -> None:
    write = Postgres.write

    def dropping(self: Postgres, decisions: Any) -> None:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS gone")
        write(self, decisions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Postgres, "write", dropping)
        watch(f"{redis_server}/posts", f"{postgres}&table=gone", until=5)


def test_rows_of_postgresql(
    broker: Any, redis_server: str, watch: Watching, posts: Posts, postgres: str
) -> None:
    url = f"{postgres}&table=rows"
    with pytest.raises(WatchError, match="has no table rows: make it with"):
        Postgres(url)
    Postgres(url, init=True).close()
    Postgres(url, init=True).close()  # twice is once
    first = posts()
    odd = posts(text=f"storm \0 {first['text']}")
    send(broker, [first, odd, {**posts(), "image_path": first["image_path"]}, {"id": "x\0y"}, first])
    watch(f"{redis_server}/posts", url, until=5)
    told = rows_of(postgres, "SELECT id, decision, repeat_of, runs->'damage'->>'predicted', text FROM rows")
    by_id = {row[0]: row[1:] for row in told}
    assert len(told) == 4
    assert by_id[first["id"]][:3] == ("classified", None, "severe")
    assert by_id[odd["id"]][3] == odd["text"].replace("\0", "\ufffd")
    assert ("repeat", first["id"]) in {row[:2] for row in by_id.values()}
    assert by_id["x\ufffdy"][0] == "error"


def test_a_cut_connection_is_made_again(watch: Watching, postgres: str, home: Path) -> None:
    url = f"{postgres}&table=cut"
    Postgres(url, init=True).close()
    sink = Postgres(url)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    from icehouse.serve.watch.sinks import Decision
    from icehouse.serve.watch.sources import Post

    sink.write([Decision(Post("a"), "error", "read", error="x")])
    sink.close()
    assert rows_of(postgres, "SELECT id FROM cut") == [("a",)]


@pytest.mark.parametrize(
    "url",
    ["postgresql://localhost:1/x", "redis://127.0.0.1:1/posts", "redis://127.0.0.1:1", "redis://a/b/c/d"],
)
def test_servers_that_are_not_there_are_told_in_one_line(watch: Watching, url: str, monkeypatch: Any) -> None:
    from icehouse.serve.watch import sources

    monkeypatch.setattr(sources, "RETRIES", 0)
    with pytest.raises((WatchError, UsageError)) as told:
        watch(os.devnull, url, until=1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:1/posts", "redis://:***@host:1/posts"),
        ("postgresql://me:sec@ret@host/x?table=a", "postgresql://me:***@host/x?table=a"),
        ("postgresql://host/x?password=secret&table=a", "postgresql://host/x?password=***&table=a"),
        (
            "kafka://a:1,b:2/t?sasl.username=me&sasl.password=secret",
            "kafka://a:1,b:2/t?sasl.username=me&sasl.password=***",
        ),
        ("redis://host:1/a@b", "redis://host:1/a@b"),
    ],
)
def test_secrets_of_urls_are_hidden(url: str, shown: str) -> None:
    assert hidden(url) == shown


def test_a_password_is_not_shown() -> None:
    with pytest.raises(WatchError) as told:
        Postgres("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(told.value)


@pytest.mark.slow
def test_kafka_commits_what_is_out(watch: Watching, posts: Posts) -> None:
    kafka = pytest.importorskip("confluent_kafka")
    # The mock cluster lives as long as this producer.
    producer = kafka.Producer({"test.mock.num.brokers": 1})
    brokers = producer.list_topics(timeout=10).brokers.values()
    hosts = ",".join(f"{one.host}:{one.port}" for one in brokers)
    some = [posts() for _ in range(6)]
    for post in [*some, {"id": "bad"}]:
        producer.produce("posts", json.dumps(post).encode())
    assert producer.flush(10) == 0
    watch(f"kafka://{hosts}/posts?group=g", f"kafka://{hosts}/results", until=7)
    found: dict[str, Any] = {}
    reader = kafka.Consumer({"bootstrap.servers": hosts, "group.id": "r", "auto.offset.reset": "earliest"})
    reader.subscribe(["results"])
    begun = time.monotonic()
    while len(found) < 7 and time.monotonic() - begun < 30:
        message = reader.poll(1)
        if message is not None and message.error() is None:
            found[message.key().decode()] = json.loads(message.value())
    reader.close()
    assert {name: line["decision"] for name, line in found.items()} == {
        **{post["id"]: "classified" for post in some},
        "bad": "error",
    }
    asked = kafka.Consumer({"bootstrap.servers": hosts, "group.id": "g"})
    partitions = [
        kafka.TopicPartition("posts", number)
        for number in asked.list_topics("posts", timeout=10).topics["posts"].partitions
    ]
    committed = sum(max(one.offset, 0) for one in asked.committed(partitions, timeout=10))
    asked.close()
    assert committed == 7


def start(home: Path, tmp_path: Path, name: str, source: str, out: str, seconds: float) -> Any:
    command = [
        sys.executable,
        str(WORKER),
        "watch",
        "--in",
        source,
        "--out",
        out,
        "--name",
        name,
        "--no-drift",
    ]
    command += [
        "-s",
        str(home / "store"),
        "--state",
        str(tmp_path / name),
        "--run",
        "relevancy",
        "--run",
        "damage",
    ]
    command += ["--root", str(tmp_path), "--window", "1000", "--threshold", "0.999999"]
    environment = {**os.environ, "TOY_SECONDS": str(seconds)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_kill_one_of_three_workers(
    broker: Any, redis_server: str, posts: Posts, postgres: str, home: Path, tmp_path: Path
) -> None:
    """Nothing is lost, nothing is there twice, and what the dead one was given is done by the others."""
    url = f"{postgres}&table=killed"
    Postgres(url, init=True).close()
    some = [posts(bright=number % 2 == 0) for number in range(150)]
    source = f"{redis_server}/posts?claim=4&count=8"
    workers = [start(home, tmp_path, f"w{number}", source, url, 0.2) for number in range(3)]
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ResponseError):  # no group yet
                if len(broker.xinfo_consumers("posts", "icehouse")) == 3:
                    break
            time.sleep(0.1)
        send(broker, some)
        while time.monotonic() < deadline:
            if rows_of(postgres, "SELECT count(*) FROM killed WHERE worker LIKE '%w0'")[0][0] >= 8:
                break
            time.sleep(0.05)
        os.kill(workers[0].pid, signal.SIGKILL)
        workers[0].wait(timeout=10)
        pending = broker.xpending("posts", "icehouse")
        held = {entry["name"]: entry["pending"] for entry in pending["consumers"] or ()}
        assert any(name.endswith("-w0") and n > 0 for name, n in held.items()), held
        while time.monotonic() < deadline:
            info = next(group for group in broker.xinfo_groups("posts"))
            if info["pending"] == 0 and not info.get("lag"):
                break
            time.sleep(0.2)
    finally:
        for worker in workers[1:]:
            worker.terminate()
        ended = [worker.wait(timeout=30) for worker in workers]
        said = [worker.stderr.read() for worker in workers]
        for worker in workers:
            worker.stderr.close()
    assert ended[1:] == [128 + signal.SIGTERM] * 2, said
    told = rows_of(postgres, "SELECT id, decision, worker FROM killed")
    assert len(told) == len({row[0] for row in told}) == 150
    assert {row[0] for row in told} == {post["id"] for post in some}
    assert {row[1] for row in told} == {"classified"}
    assert broker.xpending("posts", "icehouse")["pending"] == 0
    assert len({row[2] for row in told}) == 3
