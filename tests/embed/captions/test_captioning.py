"""Every picture is asked about once, whatever the server does; and what it does is said in one line."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from caption_stores import Lab, captions, sent, truth
from icehouse.embed.captions import caption_table, captioner
from icehouse.embed.captions.caption_table import caption_key
from icehouse.embed.captions.questions import COLUMNS, Prompt, plain_picture
from icehouse.errors import CaptionError, IcehouseError, LockedError, SpaceError, UsageError
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from ollama_server import DIGEST, OllamaServer


def failures(store: Store) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.query("select * from failures").to_pylist()
    return rows


def test_each_distinct_picture_once(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(8)
    report = lab.caption(store)
    assert (report.distinct, report.asked, report.captioned, report.known) == (8, 8, 8, 0)
    assert server.asked() == Counter(dict.fromkeys(sent(store), 1))
    assert captions(store) == truth(store)
    (row,) = store.query("select * from captions_default order by created limit 1").to_pylist()
    assert row["caption_key"] == row["image_sha256"] == caption_key(row["image_sha256"])
    assert (row["flags"], row["attempts"], row["seed"], row["model"]) == ("", 1, 0, "llava:7b")
    assert row["host"] == server.url
    assert row["tokens"] == 7
    assert verify(store).ok
    again = lab.caption(store)
    assert (again.asked, again.captioned, again.known) == (0, 0, 8)
    assert len(server.questions) == 8


def test_provenance_tells_everything_that_decides(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(1)
    lab.caption(store, prompt=Prompt.of(None, "crisis"), options={"num_ctx": 8192}, seed=4)
    spec = store.table("captions/default").spec
    provenance = spec["provenance"]
    assert (provenance["model"], provenance["digest"]) == ("llava:7b", DIGEST)
    assert provenance["options"] == {"temperature": 0.0, "seed": 4, "num_predict": 200, "num_ctx": 8192}
    assert provenance["image"]["max_side"] == 672
    assert "disaster" in provenance["prompt"]
    assert (spec["preset"], spec["servers"], spec["key"]) == ("crisis", ["ollama 0.12.3"], "caption_key")
    body = server.questions[0].body
    assert body["options"] == provenance["options"]
    assert (body["stream"], body["think"]) == (False, False)
    server.version = "0.13.0"
    lab.caption(store, prompt=Prompt.of(None, "crisis"), options={"num_ctx": 8192}, seed=4)
    assert store.table("captions/default").spec["servers"] == ["ollama 0.12.3", "ollama 0.13.0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": Prompt.of("Else?", None)}, r"prompt .* against 'Else\?'"),
        ({"seed": 3}, "options.seed 0 against 3"),
        ({"max_side": 336}, "image.max_side 672 against 336"),
        ({"prompt": Prompt.of(None, None, with_text=True)}, "prompt"),
    ],
)
def test_another_way_of_asking_is_refused(
    change: dict[str, Any], words: str, lab: Lab, server: OllamaServer
) -> None:
    store = lab.store(2)
    lab.caption(store)
    with pytest.raises(SpaceError, match=words) as caught:
        lab.caption(store, **change)
    assert "--name" in str(caught.value)
    assert len(server.questions) == 2
    assert lab.caption(store, **change, name="second").captioned == 2


@pytest.mark.parametrize("fault", ["503", "429"])
def test_retry_after_is_heeded(fault: str, lab: Lab, server: OllamaServer) -> None:
    server.behave(fault, retry_after="1")
    assert lab.caption(lab.store(2)).captioned == 2
    first, second = server.questions[:2]
    assert first.sha == second.sha
    assert second.at - first.at >= 1


@pytest.mark.parametrize(
    ("fault", "flag"), [("empty", "empty"), ("repeat", "repeating"), ("refuse", "refusal")]
)
def test_bad_answers_are_asked_for_once_more(fault: str, flag: str, lab: Lab, server: OllamaServer) -> None:
    store = lab.store(4)
    server.behave(fault)
    report = lab.caption(store)
    assert (report.captioned, report.retried, report.flagged) == (4, 1, {})
    assert captions(store) == truth(store)
    first, second = (question for question in server.questions if server.asked()[question.sha] == 2)
    assert (first.seed, second.seed) == (0, 1)
    assert (first.temperature, second.temperature) == (0.0, 0.4)
    (row,) = store.query("select * from captions_default where attempts = 2").to_pylist()
    assert row["seed"] == 1


def test_answers_that_stay_bad_are_flagged_and_never_asked_for_again(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(3)
    bad = sorted(sent(store))[0]
    server.behave("refuse", times=None, image=bad)
    report = lab.caption(store)
    assert (report.captioned, report.retried, report.flagged) == (3, 1, {"refusal": 1})
    rows = store.query(
        "select flags, count(*) as n from captions_default group by flags order by flags"
    ).to_pylist()
    assert rows == [{"flags": "", "n": 2}, {"flags": "refusal", "n": 1}]
    lab.caption(store)
    assert server.asked()[bad] == 2


def test_the_better_of_two_bad_answers_is_kept(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(1)
    server.behave("length")
    server.behave("empty")
    lab.caption(store)
    (row,) = store.query("select * from captions_default").to_pylist()
    assert (row["caption"], row["flags"], row["attempts"], row["seed"]) == ("A picture whose", "cut", 2, 0)


@pytest.mark.parametrize(("fault", "asked"), [("400", 1), ("500", 3), ("cut", 3)])
def test_a_picture_that_gets_no_answer_costs_only_itself(
    fault: str, asked: int, lab: Lab, server: OllamaServer
) -> None:
    store = lab.store(6)
    bad = sorted(sent(store))[2]
    server.behave(fault, times=None, image=bad)
    report = lab.caption(store)
    assert (report.captioned, report.failed) == (5, 1)
    assert server.asked() == Counter({picture: asked if picture == bad else 1 for picture in sent(store)})
    (failure,) = failures(store)
    assert (failure["stage"], failure["encoder"]) == ("caption", "captions/default")
    assert failure["message"]
    server.well()
    assert lab.caption(store).known_failures == 1
    assert server.asked()[bad] == asked
    report = lab.caption(store, retry_failures=True)
    assert (report.captioned, report.known_failures) == (1, 0)
    assert captions(store) == truth(store)
    assert failures(store) == []


def test_unreadable_pictures_cost_only_themselves(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(4, files={"broken.png": b"no picture"})
    (tmp_path / "pictures" / "0001.png").unlink()
    (tmp_path / "pictures" / "0002.png").write_bytes(b"another")
    report = lab.caption(store)
    assert (report.captioned, report.failed) == (2, 3)
    messages = {row["item_id"]: row["message"] for row in failures(store)}
    assert "No such file" in messages["0001"]
    assert "has changed since it was embedded" in messages["0002"]
    assert "not an image" in messages["broken"]


def test_a_copy_stands_in_for_a_file_that_is_gone(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    (tmp_path / "pictures" / "0001.png").unlink()
    assert lab.caption(store).captioned == 2


def test_the_server_goes_for_good(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(8)
    said: list[str] = []
    server.on_question = lambda n: server.stop() if n == 4 else None
    with pytest.raises(CaptionError) as caught:
        lab.caption(store, patience=0.2, say=said.append)
    assert str(caught.value) == (
        f"no host has answered for 0.2 s: {server.url} does not answer (connection refused); "
        "3 captions of this run are kept, run the same command again to go on"
    )
    # Nobody can say whether the model was still the same: they wait in the journal.
    assert len(captions(store)) == 0
    assert any("3 answers wait in the journal" in line for line in said)
    assert failures(store) == []
    server.on_question = lambda n: None
    server.start()
    assert lab.caption(store).captioned == 5
    assert captions(store) == truth(store)
    assert sorted(server.asked().values()) == [1] * 7 + [2]


def test_the_server_goes_and_comes_back(lab: Lab, server: OllamaServer) -> None:
    def restart(n: int) -> None:
        if n == 4:
            server.stop()
            threading.Timer(0.2, server.start).start()

    store = lab.store(8)
    server.on_question = restart
    said: list[str] = []
    report = lab.caption(store, say=said.append)
    assert report.captioned == 8
    assert captions(store) == truth(store)
    assert [line for line in said if "left out until" in line]
    assert f"{server.url} answers again" in said


def test_the_model_changes_with_a_restart(
    lab: Lab, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers from before the last commit stay; nobody knows which of the later ones were still by the first model."""

    def restart(n: int) -> None:
        if n == 3 + 5:
            server.stop()
            server.models["llava:7b"] = "c" * 64
            server.answers = lambda question: "the new model"
            server.start()

    store = lab.store(8)
    lab.caption(store, limit=3)
    kept = captions(store)
    server.on_question = restart
    monkeypatch.setattr(captioner, "COMMIT_S", 3600)
    with pytest.raises(SpaceError, match=f"digest {DIGEST[:12]}.* digest {'c' * 12}"):
        lab.caption(store, concurrency=1)
    assert (captions(store), len(kept), len(server.questions)) == (kept, 3, 8)
    server.on_question = lambda n: None
    server.models["llava:7b"] = DIGEST
    server.answers = None
    again = lab.caption(store)
    assert (again.known, again.captioned) == (3, 5)
    assert captions(store) == truth(store)
    assert {server.asked()[as_sent] for as_sent, own in sent(store).items() if own in kept} == {1}


def test_the_model_changes_under_a_running_server(
    lab: Lab, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull replaces the model, and no connection ever fails: answers since the last look are thrown away."""
    looked = threading.Event()

    def swap(n: int) -> None:
        # The tenth question waits until the first nine answers are in the table, and each later one for a look at the model.
        if n == 10:
            while len(captions(store)) < 9:
                time.sleep(0.01)
            server.models["llava:7b"] = "c" * 64
            looked.set()

    monkeypatch.setattr(captioner, "COMMIT_S", 0.05)
    store = lab.store(40)
    server.answers = lambda question: "new" if looked.is_set() else "old"
    server.on_question = swap
    server.delay = 0.02
    with pytest.raises(SpaceError, match="has changed"):
        lab.caption(store, concurrency=1)
    assert Counter(captions(store).values()) == {"old": 9}
    assert 10 <= len(server.questions) < 40
    before = server.asked()
    server.on_question = lambda n: None
    server.models["llava:7b"] = DIGEST
    server.answers = lambda question: "old"
    again = lab.caption(store)
    assert (again.known, again.captioned) == (9, 31)
    assert set(captions(store).values()) == {"old"}
    assert sum(server.asked().values()) == sum(before.values()) + 31


def test_servers_that_cannot_be_used(lab: Lab, server: OllamaServer, other: OllamaServer) -> None:
    store = lab.store(1)
    server.models = {}
    with pytest.raises(CaptionError, match="cannot pull llava:7b: pull model manifest: file does not exist"):
        lab.caption(store, pull=True)
    server.models, server.vision = {"llava:7b": DIGEST}, False
    with pytest.raises(CaptionError, match=r"cannot see pictures \(it can: completion\)"):
        lab.caption(store)
    server.stop()
    other.stop()
    gone = "{} does not answer \\(connection refused\\)"
    with pytest.raises(CaptionError, match=gone.format(server.url) + ": start it with `ollama serve`"):
        lab.caption(store)
    with pytest.raises(CaptionError, match=f"{gone.format(server.url)}; {gone.format(other.url)}"):
        lab.caption(store, server, other)
    assert store.table_names() == ["failures", "items"]


def test_a_missing_model_is_pulled(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(1)
    server.models = {}
    server.pullable = {"llava:7b": DIGEST}
    seen: list[tuple[int, int, str]] = []
    report = lab.caption(store, pull=True, progress=lambda *args: seen.append(args))
    assert report.captioned == 1
    assert (2500, 4000, f"pulling {DIGEST[:12]}") in seen


def test_a_model_that_vanishes_amid_the_run(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(5)
    server.on_question = lambda n: server.models.clear() if n == 3 else None
    with pytest.raises(
        CaptionError,
        match=r"run `ollama pull llava:7b` there, or add --pull; 3 captions of this run are kept",
    ):
        lab.caption(store)
    server.on_question = lambda n: None
    server.models["llava:7b"] = DIGEST
    again = lab.caption(store)
    assert (again.known, again.captioned) == (3, 2)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_model_that_vanishes_amid_the_run_is_pulled(
    concurrency: int, lab: Lab, server: OllamaServer
) -> None:
    store = lab.store(5)
    server.pullable = {"llava:7b": DIGEST}
    server.on_question = lambda n: server.models.clear() if n == 3 else None
    report = lab.caption(store, pull=True, concurrency=concurrency)
    assert server.calls["POST /api/pull"] == 1
    assert (report.captioned, report.discarded) == (5, 0)
    assert captions(store) == truth(store)


def test_picture_after_picture_without_answer_ends_the_run(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(12)
    server.behave("400", times=None)
    with pytest.raises(
        CaptionError,
        match=r"5 pictures in a row got no answer.*Failed to load image.*nor did a plain test picture .*look at its log",
    ):
        lab.caption(store, concurrency=1)
    assert len(server.questions) == 6
    assert failures(store) == []


@pytest.mark.parametrize(("fault", "asked"), [("400", 1), ("500", 3)])
def test_bad_pictures_at_the_beginning_do_not_stop_every_run(
    fault: str, asked: int, lab: Lab, server: OllamaServer
) -> None:
    store = lab.store(12)
    own = {own: as_sent for as_sent, own in sent(store).items()}
    first = [
        own[row["image_sha256"]]
        for row in store.query("select image_sha256 from items order by item_id limit 7").to_pylist()
    ]
    for picture in first:
        server.behave(fault, times=None, image=picture)
    said: list[str] = []
    report = lab.caption(store, concurrency=1, say=said.append)
    assert (report.captioned, report.failed) == (5, 7)
    assert len(failures(store)) == 7
    plain = hashlib.sha256(plain_picture()).hexdigest()
    expected = {picture: asked if picture in first else 1 for picture in own.values()}
    asked_of = server.asked()
    # A picture that is asked about again waits a little, and a good one may come in between.
    probes = asked_of.pop(plain, 0)
    assert probes == 1 if fault == "400" else probes <= 1
    assert asked_of == Counter(expected)
    assert sum("a plain test picture gets one" in line for line in said) == probes
    again = lab.caption(store)
    assert (again.asked, again.known_failures) == (0, 7)


def test_concurrency_follows_the_server(lab: Lab, server: OllamaServer) -> None:
    together = threading.Barrier(4)  # the first four questions are answered when all of them are there
    server.on_question = lambda n: together.wait(60) if n <= 4 else None
    lab.caption(lab.store(16), concurrency=4)
    assert server.most_at_once <= 4


def test_where_and_limit(lab: Lab) -> None:
    store = lab.store(6)
    report = lab.caption(store, where="item_id < '0004'", limit=3)
    assert (report.distinct, report.asked, report.captioned) == (4, 3, 3)
    report = lab.caption(store, limit=0)
    assert (report.distinct, report.known, report.captioned) == (6, 3, 0)
    for wrong in ({"where": "no_column = 1"}, {"limit": -1}):
        with pytest.raises(UsageError):
            lab.caption(store, **wrong)


def test_with_text_a_caption_belongs_to_the_pair(lab: Lab, server: OllamaServer) -> None:
    # The last picture is there twice, first as "copy": with other words, so it is asked about twice.
    store = lab.store(2, texts=["water!", None, "fire!"])
    prompt = Prompt.of("Describe. Its post: {text}", None, with_text=True)
    report = lab.caption(store, prompt=prompt)
    assert (report.distinct, report.captioned) == (3, 3)
    assert sorted(question.prompt for question in server.questions) == [
        'Describe. Its post: "" (it has no text)',
        'Describe. Its post: "fire!"',
        'Describe. Its post: "water!"',
    ]
    rows = store.query("select * from captions_default").to_pylist()
    assert {row["caption_key"] for row in rows} == {
        caption_key(row["image_sha256"], row["text_sha256"]) for row in rows
    }
    assert sum(row["text_sha256"] is None for row in rows) == 1


STRUCTURED = {
    "caption": "A flooded street.",
    "objects": ["car", "house"],
    "damage": "severe",
    "people": 3,
    "visible_text": "",
    "sentiment": "negative",
}


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_structured_answers_become_columns(api: str, lab: Lab, server: OllamaServer) -> None:
    store = lab.store(3)
    server.answers = lambda question: json.dumps(STRUCTURED)
    report = lab.caption(store, api=api, prompt=Prompt.of(None, "crisis", structured=True))
    assert (report.captioned, report.flagged) == (3, {})
    body = server.questions[0].body
    schema = body["format"] if api == "ollama" else body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["damage"]["enum"] == ["none", "mild", "severe"]
    rows = store.query("select * from captions_default").to_pylist()
    assert [{name: row[name] for name in STRUCTURED} for row in rows] == [STRUCTURED] * 3


def test_structured_answers_that_break_the_schema(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(2)
    bad = sorted(sent(store))[0]

    def answer(question: Any) -> str:
        wrong = question.sha == bad or question.seed == 0
        return json.dumps(STRUCTURED | ({"damage": "total"} if wrong else {}))

    server.answers = answer
    report = lab.caption(store, prompt=Prompt.of(None, "crisis", structured=True))
    assert (report.retried, report.flagged) == (2, {"invalid": 1})
    (row,) = store.query("select * from captions_default where flags = 'invalid'").to_pylist()
    assert [row[name] for name in COLUMNS.names] == [None] * len(COLUMNS.names)
    assert "total" in row["caption"]


def test_two_runs_under_one_name(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(2)
    lab.caption(store, limit=1)
    failure: list[IcehouseError] = []

    def second() -> None:
        try:
            lab.caption(Store.open(store.path))
        except IcehouseError as error:
            failure.append(error)

    # In a thread, as another process would: the lock lets the thread that holds it in twice.
    thread = threading.Thread(target=second)
    with caption_table.Journal.open(store.table("captions/default")):
        thread.start()
        thread.join()
    assert isinstance(failure[0], LockedError)
    assert "another run is captioning under this name" in str(failure[0])
    assert len(server.questions) == 1


def test_interrupted_runs_finish_what_is_under_way(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(8)
    server.delay = 0.05
    server.on_question = lambda n: os.kill(os.getpid(), signal.SIGINT) if n == 4 else None
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        lab.caption(store, concurrency=1, say=said.append)
    assert said == ["finishing 1 answers under way; Ctrl-C again leaves at once"]
    assert len(captions(store)) == len(server.questions) == 4
    server.on_question = lambda n: None
    lab.caption(store)
    assert set(server.asked().values()) == {1}


def test_works_where_a_loop_is_running(lab: Lab) -> None:
    store = lab.store(2)

    async def notebook() -> int:
        return lab.caption(store).captioned

    assert asyncio.run(notebook()) == 2


def test_failures_do_not_count_for_the_estimate(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(9)
    for name in ("0000.png", "0004.png"):
        (tmp_path / "pictures" / name).unlink()
    said: list[str] = []
    seen: list[tuple[int, int, str]] = []
    report = lab.caption(store, say=said.append, progress=lambda *args: seen.append(args))
    assert (report.captioned, report.failed) == (7, 2)
    assert [line.split(":")[0].split(" took")[0] for line in said] == ["the first 5"]
    assert seen[-1][:2] == (9, 9)


def test_what_is_stripped_is_kept_raw_and_an_open_end_is_flagged(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(1)
    server.answers = lambda question: "<think>Hm.</think>\nA cat.<|im_end|>"
    lab.caption(store, name="closed")
    (row,) = store.query("select caption, raw, flags from captions_closed").to_pylist()
    assert row == {"caption": "A cat.", "raw": "<think>Hm.</think>\nA cat.<|im_end|>", "flags": ""}
    server.answers = lambda question: "<think>Hm."
    report = lab.caption(store, name="open")
    (row,) = store.query("select caption, raw, flags from captions_open").to_pylist()
    assert row == {"caption": "", "raw": "<think>Hm.", "flags": "empty,reasoning"}
    assert report.retried == 1
    server.answers = lambda question: "A cat."
    lab.caption(store, name="plain")
    assert store.query("select raw from captions_plain").to_pylist() == [{"raw": None}]


def test_small_pictures_are_told(lab: Lab) -> None:
    store = lab.store(files={"dot.png": _png(3, 3), "line.png": _png(900, 9)})
    report = lab.caption(store)
    assert report.sent_as["enlarged"] == 1
    assert report.sent_as["in strips"] == 1


def _png(width: int, height: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (width, height), "blue").save(out, "PNG")
    return out.getvalue()
