"""Killed at random moments, nothing is lost and nothing that was answered is asked again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from caption_stores import Lab, sent
from icehouse.embed.captions.caption_table import Journal
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.questions import CaptionSettings, Prompt
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from ollama_server import REFUSAL, OllamaServer, Question

SCRIPT = Path(__file__).parents[2] / "helpers" / "caption_run.py"
KILLS = 10

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


STRUCTURED = {"objects": ["car"], "damage": "mild", "people": 2, "visible_text": "", "sentiment": "neutral"}


def answer(question: Question) -> str:
    """By the picture and by the question's number: some first answers are refusals, and some second ones too."""
    first = question.sha[0]
    if first in "012345" and question.seed == 0:
        return REFUSAL
    if first in "01" and question.seed == 1:
        return ""
    text = f"A picture whose digest begins with {question.sha[:12]}."
    return json.dumps({"caption": text, **STRUCTURED}) if "format" in question.body else text


def kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # one that has just killed itself
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("concurrency", "structured"), [(1, False), (4, False), (4, True)], ids=["one", "four", "structured"]
)
def test_ten_kills(
    concurrency: int, structured: bool, lab: Lab, server: OllamaServer, tmp_path: Path
) -> None:
    store = lab.store(40)
    pictures = sent(store)
    server.delay = 0.01
    server.answers = answer
    # What an uninterrupted run makes of the same pictures.
    whole = tmp_path / "whole"
    shutil.copytree(store.path, whole)
    prompt = Prompt.of(None, None, structured=structured)
    caption_images(Store.open(whole), CaptionSettings("llava:7b", prompt, hosts=[server.url], concurrency=4))
    expected = told(Store.open(whole))
    once = Counter((question.sha, question.seed) for question in server.questions)
    assert set(once.values()) == {1}
    assert {seed for _, seed in once} == {0, 1}
    server.questions.clear()

    rng = random.Random(5)
    arguments = [str(store.path), server.url, str(concurrency), *(["structured"] if structured else [])]
    runner = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    known = threading.Event()
    child, target = 0, -1

    def die(n: int) -> None:
        # At some moment of an answer or after it: the ways into the journal and into the table included.
        if n == target:
            assert known.wait(60)
            threading.Timer(rng.uniform(0, 0.03), kill, (child,)).start()

    server.on_question = die
    runs: list[Counter[tuple[str, int | None]]] = []
    for run in range(KILLS + 1):
        known.clear()
        target = len(server.questions) + rng.randint(1, 4) if run < KILLS else -1
        begun = len(server.questions)
        # Some runs die while they bring in what the one before them left.
        runner.stdin.write("recover\n" if 0 < run < KILLS and run % 3 == 0 else "go\n")
        runner.stdin.flush()
        child = int(runner.stdout.readline())
        known.set()
        status = int(runner.stdout.readline())
        assert status == (-signal.SIGKILL if run < KILLS else 0)
        server.settle()
        runs.append(Counter((question.sha, question.seed) for question in server.questions[begun:]))
    runner.stdin.close()
    assert runner.wait(60) == 0
    store = Store.open(store.path)
    assert told(store) == expected
    asked = Counter((question.sha, question.seed) for question in server.questions)
    assert set(asked) == set(once)
    assert {picture for picture, _ in asked} == set(pictures)
    for at, one in enumerate(runs):
        # Within a run nothing is asked twice, and of what it asked no more is asked again than was under way when it died.
        assert set(one.values()) <= {1}
        again = set(one) & set().union(*runs[at + 1 :])
        assert len(again) <= concurrency
    # So a picture's question is asked once more for each death that it was under way at, and not otherwise.
    assert sum(asked.values()) <= len(once) + KILLS * concurrency
    assert verify(store).ok
    with Journal.open(store.table("captions/default")) as journal:
        assert (journal.remarks, journal.firsts) == ([], {})
        assert not (journal.folder / "set-aside.txt").exists()


def told(store: Store) -> list[dict[str, object]]:
    """What an answer decides about; not when it came and how long it took."""
    rows = store.query("select * from captions_default order by caption_key").to_pylist()
    return [
        {name: value for name, value in row.items() if name not in ("created", "seconds")} for row in rows
    ]
