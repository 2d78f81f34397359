"""Dockerfile and compose.yaml: the linter's word, and the very commands that they run, against real servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[3]
WORKER = ROOT / "tests" / "helpers" / "watch_worker.py"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


def instruction(name: str) -> list[str]:
    """The arguments of the last instruction of that name, as JSON has them."""
    (*_, last) = re.findall(rf"^\s*(?:HEALTHCHECK [^\n]*\\\n\s*)?{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    found: list[str] = json.loads(last)
    return found


def test_the_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_gets_what_the_package_is_made_of() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = {package.split(".")[1] for package in setup["tool"]["setuptools"]["packages"] if "." in package}
    named = {"pyproject.toml", "constraints.txt", "py.typed", "*.py", setup["project"]["readme"]}
    assert kept == rooms | named | set(setup["project"]["license-files"])
    extras = re.search(r'"\.\[(.*)\]"', DOCKERFILE)
    assert extras is not None
    asked = {extra for extra in extras[1].split(",") if "$" not in extra}
    assert asked | {"cpu", "gpu"} <= set(setup["project"]["optional-dependencies"])


def test_nobody_is_root_and_secrets_have_no_default() -> None:
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)
    for name in ("server", "watch", "table"):
        assert SERVICES[name]["cap_drop"] == ["ALL"]
    secrets = [
        value
        for service in SERVICES.values()
        for key, value in service.get("environment", {}).items()
        if "PASSWORD" in key or "TOKEN" in key
    ]
    assert len(secrets) == 4
    assert all(re.fullmatch(r"\$\{\w+:\?.+\}", value) for value in secrets)
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["server"]["ports"])


@pytest.mark.slow
@pytest.mark.parametrize("command", [instruction("CMD"), SERVICES["server"]["command"]])
def test_the_server_and_its_health_check(command: list[str], home: Path) -> None:
    assert command[:3] == ["serve", "--host", "0.0.0.0"]
    here = [part.replace("8000", "0").replace("0.0.0.0", "127.0.0.1") for part in command]
    server = subprocess.Popen(
        [sys.executable, "-m", "icehouse", *here],
        env={**os.environ, "ICEHOUSE_STORE": str(home / "store"), "ICEHOUSE_TOKEN": "secret"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        said = ""
        while (found := re.search(r"http://\S+", said)) is None:
            said = server.stderr.readline()
            assert said, "it ended without saying where it serves"
        checks = re.findall(r"urlopen\('(http://127\.0\.0\.1:8000/[a-z]+)'", DOCKERFILE)
        assert checks == ["http://127.0.0.1:8000/healthz"]
        with urllib.request.urlopen(found[0] + "healthz", timeout=20) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(found[0] + "runs", timeout=20)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
        server.stderr.close()


@pytest.mark.slow
def test_the_worker_reads_redis_and_writes_postgres(
    redis_server: str, postgres: str, home: Path, tmp_path: Path, posts: Callable[..., dict[str, Any]]
) -> None:
    psycopg, redis = pytest.importorskip("psycopg"), pytest.importorskip("redis")
    shell, flag, line = SERVICES["watch"]["entrypoint"]
    assert (shell, flag) == ("sh", "-c")
    made = (
        line.replace("$$", "$")
        .replace("redis://redis", redis_server)
        .replace("exec icehouse", "exec $ICEHOUSE")
    )
    url = "postgresql://icehouse@postgres/icehouse"
    assert url in made
    env = {
        **os.environ,
        "ICEHOUSE": f"{shlex.quote(sys.executable)} {shlex.quote(str(WORKER))}",
        "ICEHOUSE_STORE": str(home / "store"),
        "RUN": "relevancy",
        "HOSTNAME": "a1b2c3",
        "PGPASSWORD": "secret",
    }
    (_, *init) = SERVICES["table"]["command"]
    assert init == ["--init", url]
    subprocess.run([sys.executable, "-m", "icehouse", "watch", "--init", postgres], check=True, env=env)
    some = [posts() for _ in range(3)]
    client = redis.Redis.from_url(redis_server)
    client.flushall()
    for post in some:
        client.xadd("posts", {"json": json.dumps({"id": post["id"], "text": post["text"]})})
    worker = subprocess.Popen(
        ["sh", "-c", made.replace(url, shlex.quote(postgres))],
        env=env,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        told: list[Any] = []
        while len(told) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            with psycopg.connect(postgres) as connection:
                told = connection.execute("SELECT id, worker FROM icehouse_watch").fetchall()
    finally:
        worker.terminate()
        worker.wait(timeout=30)
        client.close()
    assert {row[0] for row in told} == {post["id"] for post in some}
    assert all(row[1].endswith("a1b2c3") for row in told)
