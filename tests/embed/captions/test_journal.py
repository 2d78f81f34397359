"""Journal, failure log and rows: what is in the journal gets into the table, and nothing in it is ever in the way."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from caption_stores import Lab, captions, sent, truth
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.text import text_sha256
from icehouse.embed.captions.caption_table import (
    Job,
    Journal,
    ensure_captions,
    fit,
    forget_failures,
    make_spec,
    record_failures,
    schema_of,
)
from icehouse.embed.captions.questions import Prompt
from icehouse.errors import StoreError
from icehouse.store.maintain import verify
from icehouse.store.schema import FAILURES
from icehouse.store.store import Store
from icehouse.store.table import Table
from ollama_server import DIGEST, OllamaServer

DIGEST_OF_TABLE = "d" * 64


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return ensure_captions(
        Store.create(tmp_path / "store"), make_spec("default", {"model": "m", "digest": DIGEST_OF_TABLE})
    )


def row(key: str, host: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "caption_key": key,
        "image_sha256": key,
        "caption": f"of {key}",
        "flags": "",
        "host": host,
        "created": datetime.now(UTC),
        **more,
    }


def keys(table: Table) -> list[str]:
    return sorted(table.read(["caption_key"])["caption_key"].to_pylist())


def die(table: Table, *rows: dict[str, Any], firsts: tuple[dict[str, Any], ...] = ()) -> None:
    """A run that leaves these answers in its journal."""
    with Journal.open(table) as journal:
        for first in firsts:
            journal.add(first, first=True)
        for it in rows:
            journal.add(it)


def left(table: Table) -> int:
    """Answers in the journal."""
    with contextlib.closing(sqlite3.connect(table.path / "journal" / "answers.sqlite")) as database:
        (count,) = database.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)


def test_a_dead_runs_answers_are_brought_in_once(table: Table) -> None:
    die(table, row("x"), row("y"))
    for _ in range(2):
        with Journal.open(table) as journal:
            assert (journal.rows, journal.remarks) == ([], [])
        assert keys(table) == ["x", "y"]
        assert left(table) == 0


def test_what_cannot_be_a_row_of_the_table_is_set_aside(table: Table) -> None:
    die(table, *(row(key) for key in ("x", "damaged", "other", "unlike", "never")))
    changes = {
        "damaged": "row = replace(row, 'of damaged', 'of somebody')",
        "other": "digest = 'e'",
        "unlike": "row = '[]', crc = 223132457",
        "never": 'row = \'{"created": "never"}\', crc = 3509330863',
    }
    with contextlib.closing(sqlite3.connect(table.path / "journal" / "answers.sqlite")) as database, database:
        for key, change in changes.items():
            database.execute(f"UPDATE answers SET {change} WHERE caption_key = '{key}'")
    with Journal.open(table) as journal:
        (remark,) = journal.remarks
    assert remark.startswith("4 answers that an earlier run left cannot be read or may be by another model")
    assert keys(table) == ["x"]
    aside = (table.path / "journal" / "set-aside.txt").read_text().splitlines()
    assert ["of somebody" in aside[0], "of other" in aside[1], *aside[2:]] == [
        True,
        True,
        "[]",
        '{"created": "never"}',
    ]
    with Journal.open(table) as journal:
        assert journal.remarks == []


@pytest.mark.parametrize("data", [b"garbage" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_journal_that_is_none_is_set_aside_whole(data: bytes, table: Table) -> None:
    (table.path / "journal").mkdir()
    (table.path / "journal" / "answers.sqlite").write_bytes(data)
    with Journal.open(table) as journal:
        (remark,) = journal.remarks
        journal.add(row("x"))
    assert "its answers are asked for again" in remark
    (aside,) = (table.path / "journal").glob("set-aside-*.sqlite")
    assert aside.read_bytes() == data
    with Journal.open(table) as journal:
        assert journal.remarks == []
    assert keys(table) == ["x"]


@pytest.mark.skipif(os.name == "nt", reason="no links")
def test_a_link_in_the_journal_is_not_followed(table: Table, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious\n")
    (table.path / "journal").mkdir()
    for name in ("set-aside.txt", "answers.sqlite"):
        (table.path / "journal" / name).symlink_to(tmp_path / "precious")
        with pytest.raises(StoreError, match="cannot write"), Journal.open(table):
            pass
    assert (tmp_path / "precious").read_text() == "precious\n"


def test_answers_of_hosts_that_have_changed_are_set_aside(table: Table) -> None:
    die(table, row("x", "a"), row("y", "b"), firsts=(row("z", "b", flags="cut"),))
    with Journal.open(table, changed={"b"}) as journal:
        assert journal.remarks[0].startswith("2 answers")
        assert journal.firsts == {}
    assert keys(table) == ["x"]


def test_void_holds_for_what_came_before_it(table: Table) -> None:
    with Journal.open(table) as journal:
        journal.add(row("x", "a"))
        journal.add(row("y", "b"))
        journal.add(row("z", "b", flags="cut"), first=True)
        journal.void("b")
        assert journal.firsts == {}
        journal.add(row("w", "b"))
    with Journal.open(table) as journal:
        assert journal.firsts == {}
    assert keys(table) == ["w", "x"]


def test_first_answers_outlive_commits_and_deaths(table: Table) -> None:
    with Journal.open(table) as journal:
        journal.add(row("f", flags="cut"), first=True)
        journal.commit([journal.add(row("x"))])
        assert list(journal.firsts) == ["f"]
    for _ in range(3):
        with Journal.open(table) as journal:
            assert [first["flags"] for first in journal.firsts.values()] == ["cut"]
    assert keys(table) == ["x"]
    with Journal.open(table) as journal:
        journal.add(row("f", attempts=2))
        assert journal.firsts == {}
    with Journal.open(table) as journal:
        assert journal.firsts == {}
    assert keys(table) == ["f", "x"]
    assert left(table) == 0


def test_what_is_not_committed_stays(table: Table) -> None:
    with Journal.open(table) as journal:
        first, _, last = (journal.add(row(key)) for key in ("x", "y", "z"))
        journal.commit([first, last])
        assert keys(table) == ["x", "z"]
    assert left(table) == 1
    with Journal.open(table):
        assert keys(table) == ["x", "y", "z"]


# Whole runs


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_half_a_surrogate_pair_in_an_answer(api: str, lab: Lab, server: OllamaServer) -> None:
    store = lab.store(3)
    server.answers = lambda question: f"A \ud83d street {question.sha[:8]}."
    assert lab.caption(store, api=api).captioned == 3
    assert all(caption.startswith("A \ufffd street ") for caption in captions(store).values())
    assert lab.caption(store, api=api).asked == 0


def test_a_first_answer_is_not_asked_for_again_after_a_death(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(2)
    picture = sorted(sent(store))[0]
    server.behave("length", image=picture)

    def at_second(n: int) -> None:
        if server.questions[-1].seed == 1:
            server.stop()

    server.on_question = at_second
    with pytest.raises(Exception, match="no host has answered"):
        lab.caption(store, patience=0.1, concurrency=1)
    server.on_question = lambda n: None
    server.start()
    server.behave("empty", image=picture)
    report = lab.caption(store)
    asked = [(question.sha == picture, question.seed) for question in server.questions]
    assert asked.count((True, 0)) == 1
    # The second question was heard once before the server died, and is asked again.
    assert asked.count((True, 1)) == 2
    assert asked.count((False, 0)) == 1
    (kept,) = store.query("select * from captions_default where flags != ''").to_pylist()
    assert (kept["caption"], kept["flags"], kept["attempts"], kept["seed"]) == (
        "A picture whose",
        "cut",
        2,
        0,
    )
    assert report.flagged == {"cut": 1}


def test_a_failure_is_settled_by_an_answer_that_a_dead_run_left(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(2)
    bad = sorted(sent(store))[0]
    server.behave("400", times=None, image=bad)
    lab.caption(store)
    assert len(store.query("select * from failures").to_pylist()) == 1
    die(store.table("captions/default"), row(sent(store)[bad], server.url))
    report = lab.caption(store)
    assert (report.known, report.known_failures, report.asked) == (2, 0, 0)
    assert store.query("select * from failures").to_pylist() == []


def test_a_model_that_changed_while_the_run_was_dead(lab: Lab, server: OllamaServer) -> None:
    """Nobody knows which of the last answers were still by the first model: they are set aside, and asked for again."""
    store = lab.store(6)
    server.on_question = lambda n: server.stop() if n == 4 else None
    with pytest.raises(Exception, match="3 captions of this run are kept"):
        lab.caption(store, patience=0.1, concurrency=1)
    server.on_question = lambda n: None
    server.models["llava:7b"] = "e" * 64
    server.start()
    said: list[str] = []
    with pytest.raises(Exception, match="do not mix"):
        lab.caption(store, say=said.append)
    assert said[0].startswith("3 answers that an earlier run left")
    server.models["llava:7b"] = DIGEST
    report = lab.caption(store)
    assert (report.known, report.captioned) == (0, 6)
    assert captions(store) == truth(store)


# Rows: whatever a server says becomes one that the table can have

SCHEMA = schema_of(structured=True)
GOOD = {
    "caption_key": "k",
    "image_sha256": "i",
    "caption": "A street.",
    "created": datetime(2026, 1, 1, tzinfo=UTC),
}

any_text = st.text(st.characters(exclude_categories=[]))
anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    any_text,
    st.lists(any_text | st.integers()),
    st.just({}),
)


@given(st.dictionaries(st.sampled_from([name for name in SCHEMA.names if name != "created"]), anything))
@settings(deadline=None)
def test_what_fits_can_be_had(values: dict[str, Any]) -> None:
    row = {**GOOD, **{k: v for k, v in values.items() if k not in ("caption_key", "image_sha256")}}
    fitted = fit({**row, "_more": 1}, SCHEMA)
    assert list(fitted) == SCHEMA.names
    (back,) = pa.Table.from_pylist([fitted], schema=SCHEMA).to_pylist()
    assert back["caption_key"] == "k"
    assert fit(fitted, SCHEMA) == fitted


def test_surrogates() -> None:
    fitted = fit({**GOOD, "caption": "a \ud83d b \ud83d\ude00", "objects": ["\udc00", 3, "car"]}, SCHEMA)
    assert fitted["caption"] == "a \ufffd b \U0001f600"
    assert fitted["objects"] == ["\ufffd", "car"]


def test_numbers_out_of_range_are_null() -> None:
    fitted = fit({**GOOD, "seed": 2**63, "tokens": 2**31, "attempts": True, "seconds": 1e300}, SCHEMA)
    assert [fitted[name] for name in ("seed", "tokens", "attempts", "seconds")] == [None] * 4
    assert fit({**GOOD, "seed": 2**63 - 1}, SCHEMA)["seed"] == 2**63 - 1


def test_a_row_without_its_key_is_none() -> None:
    with pytest.raises(ValueError, match="no caption_key"):
        fit({**GOOD, "caption_key": 7}, SCHEMA)


# Failures: replaced, settled, and never those of another stage


def job(item: str, *others: str) -> Job:
    return Job(item, item, None, None, item, 10, 20, [item, *others])


def rows(store: Store) -> list[tuple[str, str, str]]:
    found = store.query("select item_id, stage, message from failures").to_pylist()
    return sorted((row["item_id"], row["stage"], row["message"]) for row in found)


def of_another_stage(store: Store, item: str) -> None:
    row = {"item_id": item, "stage": "image", "message": "theirs", "at": datetime.now(UTC)}
    store.failures.append(pa.Table.from_pylist([row], schema=FAILURES))


def test_a_failure_takes_the_place_of_an_earlier_one(lab: Lab) -> None:
    store = lab.store(1)
    of_another_stage(store, "a")
    a, b = job("a", "a2"), job("b")
    record_failures(store, "default", [(a, ValueError("first")), (b, ValueError("first"))])
    record_failures(store, "other", [(job("a"), ValueError("under another name"))])
    record_failures(store, "default", [(a, ValueError("second"))])
    assert rows(store) == [
        ("a", "caption", "second"),
        ("a", "caption", "under another name"),
        ("a", "image", "theirs"),
        ("b", "caption", "first"),
    ]
    forget_failures(store, "default", [a, b])
    assert rows(store) == [("a", "caption", "under another name"), ("a", "image", "theirs")]
    forget_failures(store, "other", [a])
    store.failures.delete("item_id", ["a"])
    assert rows(store) == []
    record_failures(store, "default", [(a, ValueError("why"))])
    forget_failures(store, "default", [a])
    assert rows(store) == []
    assert verify(store).ok


def test_a_death_amid_settling_costs_no_other_stage_anything(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling is one commit: at each moment the others' failures are in the ledger."""
    store = lab.store(1)
    of_another_stage(store, "a")
    a = job("a")
    record_failures(store, "default", [(a, ValueError("why"))])
    seen = []
    commit = Table._commit

    def spy(self: Table, *args: object, **more: object) -> object:
        done = commit(self, *args, **more)  # type: ignore[arg-type]
        seen.append(rows(Store.open(store.path)))
        return done

    monkeypatch.setattr(Table, "_commit", spy)
    forget_failures(store, "default", [a])
    assert seen == [[("a", "image", "theirs")]]


def test_a_corrected_text_is_asked_about_again(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(3, texts=[None, "watter!", "fire!"])
    prompt = Prompt.of("Describe. Its post: {text}", None, with_text=True)
    own = store.query("select image_sha256 from items where text = 'watter!'").to_pylist()[0]["image_sha256"]
    bad = next(as_sent for as_sent, mine in sent(store).items() if mine == own)
    server.behave("400", times=None, image=bad)
    assert lab.caption(store, prompt=prompt).failed == 1
    assert lab.caption(store, prompt=prompt).known_failures == 1
    corrected = {"item_id": ["0001"], "text": ["water!"], "text_sha256": [text_sha256("water!")]}
    store.items.upsert(pa.table(corrected), key="item_id")
    server.well()
    report = lab.caption(store, prompt=prompt)
    assert (report.known_failures, report.captioned) == (0, 1)
    assert '"water!"' in server.questions[-1].prompt
    assert rows(store) == []
