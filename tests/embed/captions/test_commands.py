"""The command line: `icehouse caption` and `icehouse embed --captions`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from caption_stores import Lab, captions, truth
from icehouse.cli import app
from icehouse.embed import encoder as registry
from icehouse.store.store import Store
from ollama_server import OllamaServer
from toys import TOYS
from typer.testing import CliRunner, Result


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "available", lambda: TOYS)


def run(store: Store, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [command, "-s", str(store.path), *arguments])


def ask(lab: Lab, store: Store, *arguments: str) -> Result:
    return run(store, "caption", "-m", "llava:7b", "--host", lab.server.url, *arguments)


def test_caption_and_embed(lab: Lab, server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = lab.store(6)
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    result = run(store, "caption", "--model", "llava:7b", "--preset", "crisis")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("6 captions by llava:7b in ")
    (remark,) = result.stderr.splitlines()  # where nobody looks, the estimate and nothing else
    assert remark.startswith("the first 5 took ")
    assert captions(store) == truth(store)
    assert "disaster" in server.questions[0].prompt
    result = run(store, "embed", "--captions", "default", "-e", "toy:a")
    assert result.exit_code == 0, result.output
    assert "embedded 6 captions 'default' with toy:a" in result.stdout
    assert "longer than the context, pooled over sentences: 0 (0.0%)" in result.stdout
    result = run(store, "embed", "--captions", "default", "--json")
    (report,) = json.loads(result.stdout)["captions"]
    assert (report["known"], report["embedded"], report["encoder"]) == (6, 0, "toy:a")


@pytest.mark.slow
def test_sources_and_captions_in_one_go(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(3)
    ask(lab, store)
    result = run(store, "embed", str(tmp_path / "pictures"), "--captions", "default", "-e", "toy:a")
    assert result.exit_code == 0, result.output
    assert "toy-a/image/pooled" in result.stdout
    assert "toy-a/caption/pooled" in result.stdout


def test_reports_as_json(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(3)
    server.behave("length", times=2)
    result = ask(lab, store, "--limit", "2", "--json")
    report = json.loads(result.stdout)
    assert (report["captioned"], report["flagged"], report["retried"]) == (2, {"cut": 1}, 1)
    assert report["hosts"] == {server.url: 2}
    plan = json.loads(run(store, "caption", "--dry-run", "--json").stdout)
    assert (plan["distinct"], plan["known"], plan["to_ask"]) == (3, 2, 1)
    assert "1 would be asked about" in run(store, "caption", "--dry-run").stdout


def test_flags_and_failures_are_told(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(4, files={"broken.png": b"none"})
    server.behave("refuse", times=2)
    result = ask(lab, store)
    assert "flagged: 1 refusal; see: icehouse sql" in result.stdout
    assert "failed: 1; see: icehouse sql" in result.stdout
    assert run(store, "sql", "select * from failures where stage = 'caption'").exit_code == 0
    assert "1 failed before and were left alone" in ask(lab, store).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "which model? give --model"),
        (("-m", "x", "--prompt", "a", "--preset", "meme"), 2, "not both"),
        (("-m", "x", "--prompt", "a {text}"), 2, "--with-text"),
        (("-m", "x", "--prompt-file", "none.txt"), 2, "cannot be read"),
        (("-m", "x", "--api", "openai"), 2, "--host"),
        (("-m", "x", "--option", "top_k"), 2, "NAME=VALUE"),
        (("-m", "x", "--option", "seed=x"), 2, "a number"),
        (("-m", "x", "--host", "http://127.0.0.1:1"), 1, "ollama serve"),
        (("-m", "x", "--import", "a.csv"), 2, "leave out --model\n"),
        (
            ("--import", "a.csv", "--where", "true", "--limit", "2", "--host", "h", "--pull", "--seed", "0"),
            2,
            "leave out --host, --pull, --seed, --where, --limit\n",
        ),
        (
            ("-m", "x", "--api", "openai", "--host", "http://127.0.0.1:1", "--pull"),
            2,
            "load it on the server",
        ),
        (("--import", "none.csv"), 1, "none.csv"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], status: int, words: str, lab: Lab) -> None:
    result = run(lab.store(1), "caption", *arguments)
    assert result.exit_code == status
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_name_that_is_none(lab: Lab, server: OllamaServer) -> None:
    result = ask(lab, lab.store(1), "--name", "../x")
    assert result.exit_code == 1
    assert "is no name for captions" in result.stderr
    assert not server.questions


def test_options_and_prompt_file_reach_the_model(lab: Lab, server: OllamaServer, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("What is here?\n")
    options = ["--option", "num_ctx=8192", "--option", "stop=END", "--max-tokens", "50", "--seed", "9"]
    ask(lab, lab.store(1), "--prompt-file", str(tmp_path / "prompt.txt"), *options)
    (question,) = server.questions
    assert question.prompt == "What is here?"
    told = {"temperature": 0.0, "seed": 9, "num_predict": 50, "num_ctx": 8192, "stop": "END"}
    assert question.body["options"] == told


def test_embed_needs_something(lab: Lab) -> None:
    result = run(lab.store(1), "embed")
    assert result.exit_code == 2
    assert "--captions NAME" in result.stderr


def test_an_interrupt_is_one_line(lab: Lab, server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icehouse.embed.captions.captioner.caption_images", interrupt)
    result = run(lab.store(1), "caption", "-m", "llava:7b", "--host", server.url)
    assert result.exit_code == 130
    assert "run the same command again to go on" in result.stderr


def test_import_and_its_dry_run(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(3)
    file = tmp_path / "made.csv"
    file.write_text("image,caption\n0000.png,a house\n0001.png,a tree\nnone.png,nothing\n")
    result = run(store, "caption", "--import", str(file), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "2 captions would be imported from 3 rows of" in result.stdout
    assert "captions/default" not in store.table_names()
    result = run(store, "caption", "--import", str(file))
    assert "2 captions imported from 3 rows of" in result.stdout
    assert "rows that fit no item: 1; none.png" in result.stdout
    before = store.table("captions/default").snapshot().parts
    report = json.loads(run(store, "caption", "--import", str(file), "--dry-run", "--json").stdout)
    assert (report["dry_run"], report["imported"], report["known"]) == (True, 0, 2)
    assert report["matched_by"] == "image (path)"
    assert store.table("captions/default").snapshot().parts == before
    file.write_text("image,caption\n0002.png,a sea\n")
    result = run(store, "caption", "--import", str(file), "--dry-run")
    assert result.exit_code == 1
    assert "give these another --name" in result.stderr


def test_rows_without_an_item_are_listed_as_far_as_they_can_be_read(lab: Lab, tmp_path: Path) -> None:
    rows = [{"item_id": "0000", "caption": "a house"}]
    rows += [{"item_id": f"no\x1b[31m\n[red]{n}", "caption": "x"} for n in range(25)]
    file = tmp_path / "made.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = lab.store(1)
    told = run(store, "caption", "--import", str(file)).stdout
    (line,) = (line for line in told.splitlines() if line.startswith("rows that fit no item: 25; "))
    assert line.endswith(" [red]19, and 5 more (--json lists all)")
    assert "\x1b" not in told
    report = json.loads(run(store, "caption", "--import", str(file), "--json").stdout)
    assert len(report["unmatched_rows"]) == report["unmatched"] == 25


def test_the_hint_names_the_view(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(1)
    server.behave("refuse", times=None)
    result = ask(lab, store, "--name", "my-run")
    assert 'see: icehouse sql "select * from captions_my_run where' in result.stdout
    result = run(store, "embed", "--captions", "my-run", "-e", "toy:a")
    query = result.stderr.partition('icehouse sql "')[2].partition('"')[0]
    assert run(store, "sql", query).exit_code == 0, result.stderr


def test_pulling_is_told(lab: Lab, server: OllamaServer) -> None:
    server.pullable, server.models = {"llava:7b": "d" * 64}, {}
    store = lab.store(2)
    result = ask(lab, store)
    assert "or add --pull" in result.stderr
    result = ask(lab, store, "--pull")
    assert result.exit_code == 0, result.output
    assert "pulling: pulling manifest\n" in result.stderr
    assert "pulling: pulling dddddddddddd, 0.0 of 0.0 MB" in result.stderr
    assert "pulling: success" in result.stderr
    assert captions(store) == truth(store)
