"""Failures in the store's ledger: replaced, settled, and never anybody else's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from caption_stores import sent
from icehouse.data.text import text_sha256
from icehouse.embed.captions import ledger
from icehouse.embed.captions.asking import Asking
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.plan import Job
from icehouse.embed.captions.prompts import Prompt
from icehouse.store.maintain import verify
from icehouse.store.schema import FAILURES
from icehouse.store.store import Store
from icehouse.store.table import Table
from ollama_server import OllamaServer

MakeStore = Callable[..., Store]
MakeAsking = Callable[..., Asking]


def job(item: str, *others: str) -> Job:
    return Job(item, item, None, None, item, 10, 20, [item, *others])


def rows(store: Store) -> list[tuple[str, str, str]]:
    found = store.query("select item_id, stage, message from failures").to_pylist()
    return sorted((row["item_id"], row["stage"], row["message"]) for row in found)


def of_another_stage(store: Store, item: str) -> None:
    row = {"item_id": item, "stage": "image", "message": "theirs", "at": datetime.now(UTC)}
    store.failures.append(pa.Table.from_pylist([row], schema=FAILURES))


def test_a_failure_takes_the_place_of_an_earlier_one(make_store: MakeStore) -> None:
    store = make_store(1)
    of_another_stage(store, "a")
    a, b = job("a", "a2"), job("b")
    ledger.record(store, "default", [(a, ValueError("first")), (b, ValueError("first"))])
    ledger.record(store, "other", [(job("a"), ValueError("under another name"))])
    ledger.record(store, "default", [(a, ValueError("second"))])
    assert rows(store) == [
        ("a", "caption", "second"),
        ("a", "caption", "under another name"),
        ("a", "image", "theirs"),
        ("b", "caption", "first"),
    ]
    ledger.settle(store, "default", [a, b])
    assert rows(store) == [("a", "caption", "under another name"), ("a", "image", "theirs")]
    assert verify(store).ok


def test_the_last_failure_is_settled(make_store: MakeStore) -> None:
    store = make_store(1)
    a = job("a")
    ledger.record(store, "default", [(a, ValueError("why"))])
    ledger.settle(store, "default", [a])
    assert rows(store) == []
    assert verify(store).ok


def test_a_death_amid_settling_costs_no_other_stage_anything(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling is one commit: at each moment the others' failures are in the ledger."""
    store = make_store(1)
    of_another_stage(store, "a")
    a = job("a")
    ledger.record(store, "default", [(a, ValueError("why"))])
    seen = []
    commit = Table._commit

    def spy(self: Table, *args: object, **more: object) -> object:
        done = commit(self, *args, **more)  # type: ignore[arg-type]
        seen.append(rows(Store.open(store.path)))
        return done

    monkeypatch.setattr(Table, "_commit", spy)
    ledger.settle(store, "default", [a])
    assert seen == [[("a", "image", "theirs")]]


def test_a_corrected_text_is_asked_about_again(
    make_store: MakeStore, server: OllamaServer, asking: MakeAsking
) -> None:
    store = make_store(3, texts=[None, "watter!", "fire!"])
    prompt = Prompt.of("Describe. Its post: {text}", None, with_text=True)
    own = store.query("select image_sha256 from items where text = 'watter!'").to_pylist()[0]["image_sha256"]
    bad = next(as_sent for as_sent, mine in sent(store).items() if mine == own)
    server.behave("400", times=None, image=bad)
    assert caption_images(store, asking(server, prompt=prompt)).failed == 1
    assert caption_images(store, asking(server, prompt=prompt)).known_failures == 1
    corrected = {"item_id": ["0001"], "text": ["water!"], "text_sha256": [text_sha256("water!")]}
    store.items.upsert(pa.table(corrected), key="item_id")
    server.well()
    report = caption_images(store, asking(server, prompt=prompt))
    assert (report.known_failures, report.captioned) == (0, 1)
    assert '"water!"' in server.questions[-1].prompt
    assert rows(store) == []
