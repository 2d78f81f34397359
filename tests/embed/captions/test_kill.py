"""Killed at random moments, nothing is lost and nothing that was answered is asked again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from caption_stores import captions, sent, truth
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from ollama_server import OllamaServer

SCRIPT = Path(__file__).parents[2] / "helpers" / "caption_run.py"
KILLS = 10

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_ten_kills(make_store: Callable[..., Store], server: OllamaServer) -> None:
    store = make_store(40)
    expected = truth(store)
    pictures = sent(store)
    server.delay = 0.01
    rng = random.Random(5)
    runner = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(store.path), server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    known = threading.Event()
    child, target = 0, -1

    def die(n: int) -> None:
        # At some moment of an answer or after it: the ways into the journal and into the table included.
        if n == target:
            assert known.wait(10)
            threading.Timer(rng.uniform(0, 0.03), os.kill, (child, signal.SIGKILL)).start()

    server.on_question = die
    for run in range(KILLS + 1):
        known.clear()
        target = len(server.questions) + rng.randint(1, 4) if run < KILLS else -1
        runner.stdin.write("go\n")
        runner.stdin.flush()
        child = int(runner.stdout.readline())
        known.set()
        status = int(runner.stdout.readline())
        assert status == (-signal.SIGKILL if run < KILLS else 0)
    runner.stdin.close()
    assert runner.wait(10) == 0
    store = Store.open(store.path)
    assert captions(store) == expected
    asked = server.asked()
    assert set(asked) == set(pictures)
    # One answer is under way when a run dies, and only that one is asked for again.
    assert sum(asked.values()) <= len(pictures) + KILLS
    assert sum(count - 1 for count in asked.values()) <= KILLS
    assert verify(store).ok
    assert list((store.path / "tables/captions/default/journal").glob("*.jsonl")) == []
