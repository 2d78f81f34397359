"""The command line as a whole: quick to answer, one line for every error, JSON wherever something is reported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import icehouse
import pytest
from icehouse.cli import app
from icehouse.console import json_text, printable
from icehouse.embed import encoder as registry
from icehouse.errors import count_of, one_or_many
from icehouse.store.store import Store
from toys import TOYS, make_pictures
from typer.main import get_command
from typer.testing import CliRunner, Result

ROOMS = ("data", "store", "embed", "heads", "serve")


def test_one_is_not_told_as_several() -> None:
    assert [count_of(n, "item") for n in (0, 1, 2, 1200)] == ["0 items", "1 item", "2 items", "1,200 items"]
    assert [count_of(n, "copy", "copies") for n in (1, 3)] == ["1 copy", "3 copies"]
    assert [count_of(n, "row has", "rows have") for n in (0, 1, 2)] == [
        "0 rows have",
        "1 row has",
        "2 rows have",
    ]
    assert [one_or_many(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "available", lambda: TOYS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures in it, as a user would stand in."""
    make_pictures(tmp_path / "photos", 6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ICEHOUSE_STORE", raising=False)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def embedded() -> None:
    assert run("embed", "photos", "-e", "toy:a").exit_code == 0


@pytest.fixture(scope="module")
def embedded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with pictures and a store of them."""
    folder = tmp_path_factory.mktemp("embedded")
    make_pictures(folder / "photos", 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "available", lambda: TOYS)
        patch.chdir(folder)
        patch.delenv("ICEHOUSE_STORE", raising=False)
        embedded()
    return folder


def commands(group: Any = None, *above: str) -> dict[str, Any]:
    """Every command by its words, those of groups too."""
    found: dict[str, Any] = {}
    for name, entry in (group or get_command(app)).commands.items():
        found[" ".join((*above, name))] = entry
        found |= commands(entry, *above, name) if hasattr(entry, "commands") else {}
    return found


def test_the_commands_are_all_there() -> None:
    assert set(commands()) >= {
        "embed", "info", "sql", "search", "join", "train", "evaluate", "predict", "runs", "export", "compact",
        "verify", "doctor", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_and_option_has_help(command: str) -> None:
    assert run(*command.split(), "--help").exit_code == 0
    entry = commands()[command]
    assert entry.help
    for option in entry.params:
        assert getattr(option, "help", None), f"{command} {option.name} has no help"


def test_store_by_default_option_and_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded()
    assert Store.exists(here / "icehouse-store")
    assert run("embed", "photos", "-e", "toy:a", "-s", "other").exit_code == 0
    assert Store.exists(here / "other")
    monkeypatch.setenv("ICEHOUSE_STORE", str(here / "third"))
    assert run("embed", "photos", "-e", "toy:a").exit_code == 0
    assert json.loads(run("info", "--json").stdout)["path"] == str(here / "third")


def test_embed_search_sql(here: Path) -> None:
    embedded()
    hits = json.loads(run("search", "--image", "photos/0003.png", "--json", "-k", "4").stdout)
    assert hits[0]["item_id"] == "0003.png"
    assert {"item_id", "path", "text", "score"} <= hits[0].keys()
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1, abs=1e-3)
    assert len(json.loads(run("search", "--text", "a cat", "--json").stdout)) == 6
    assert json.loads(run("sql", "select count(*) as n from items", "--json").stdout) == [{"n": 6}]
    others = json.loads(run("search", "--item", "0003.png", "--json").stdout)
    assert "0003.png" not in {hit["item_id"] for hit in others}


def test_search_writes_a_sheet(here: Path) -> None:
    embedded()
    assert run("search", "--text", "a cat", "--html", "hits.html").exit_code == 0
    page = (here / "hits.html").read_text()
    assert page.count("data:image/") == 6
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_embed_reports_json(here: Path) -> None:
    report = json.loads(run("embed", "photos", "-e", "toy:a", "--json").stdout)
    assert (report["images"], report["new"], report["failed"]) == (6, 6, 0)


def test_strict_tells_failures(here: Path) -> None:
    (here / "photos" / "bad.png").write_bytes(b"no image")
    assert run("embed", "photos", "-e", "toy:a").exit_code == 0
    assert run("embed", "photos", "-e", "toy:a", "--strict").exit_code == 1
    assert run("embed", "photos", "-e", "toy:a", "--strict", "--retry-failures").exit_code == 1
    # Where not one image could be read, that is no success either.
    (here / "bad").mkdir()
    (here / "bad" / "bad.png").write_bytes(b"no image")
    assert run("embed", "bad", "-e", "toy:a").exit_code == 1
    (here / "texts.csv").write_text("image,text\nnone.png,a text\n")
    assert run("embed", "texts.csv", "-e", "toy:a").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["info"], "no store", 1),
        (["search", "--text", "x"], "no store", 1),
        (["embed", "nowhere", "-e", "toy:a"], "nowhere", 1),
        (["embed", "photos", "-e", "nonsense"], "nonsense", 2),
        (["embed", "photos", "-e", "toy:a", "--clean", "soap"], "soap", 2),
        (["embed", "photos", "-e", "toy:a", "--dtype", "int8"], "int8", 2),
        (["embed", "photos", "-e", "toy:a", "--preset", "unknown"], "unknown", 2),
        (["embed", "posts.csv", "-e", "toy:a", "--text-column", "txet"], "txet", 2),
        (["embed", "photos", "-e", "toy:a", "-s", "photos"], "other things", 1),
        (["train"], "no store", 1),
        (["predict", "latest"], "no store", 1),
        (["frobnicate"], "frobnicate", 2),
        (["embed"], "sources", 2),
    ],
)
def test_errors_are_one_line(here: Path, arguments: list[str], says: str, status: int) -> None:
    (here / "posts.csv").write_text("id,image,text\na,photos/0000.png,hello\n")
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    if status == 1:
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["search"], "one question", 2),
        (["search", "--text", "a", "--item", "b"], "one question", 2),
        (["search", "--item", "nobody"], "nobody", 2),
        (["search", "--text", "a", "--feature", "toy-a/image/pooled"], "joint", 2),
        (["search", "--text", "a", "--feature", "no/such/thing"], "toy-a/image/joint", 2),
        (["search", "--image", "nowhere.jpg"], "nowhere.jpg", 1),
        (["search", "--text", "a", "--where", "nonsense ="], "", 2),
        (["sql", "selekt 1"], "selekt", 2),
        (["train", "--label", "nothing"], "nothing", 2),
        (["train", "lgreg", "--label", "label"], "logreg", 2),
        (["predict", "latest"], "no runs", 1),
        (["export", "toy-a/image/nothing", "-o", "x.npy"], "toy-a/image/joint", 2),
        (["embed", "photos", "-e", "toy:b", "--name", "toy-a"], "toy:a", 1),
    ],
)
def test_errors_in_a_store_are_one_line(
    embedded_once: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str, status: int
) -> None:
    monkeypatch.chdir(embedded_once)
    monkeypatch.delenv("ICEHOUSE_STORE", raising=False)
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert says in result.output
    assert "Traceback" not in result.output


def test_an_unforeseen_error_is_one_line_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("icehouse.embed.pipeline.embed_sources", broken)
    result = run("embed", "photos", "-e", "toy:a")
    assert result.exit_code == 1
    assert "unexpected KeyError" in result.stderr
    monkeypatch.setenv("ICEHOUSE_DEBUG", "1")
    assert isinstance(run("embed", "photos", "-e", "toy:a").exception, KeyError)


def test_a_full_or_read_only_place_is_one_line(here: Path) -> None:
    if os.geteuid() == 0:
        (here / "file").write_text("in the way")
        result = run("embed", "photos", "-e", "toy:a", "-s", "file/store")
    else:
        (here / "locked").mkdir(mode=0o500)
        result = run("embed", "photos", "-e", "toy:a", "-s", "locked/store")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1


def test_everything_is_printed_through_the_sanitiser() -> None:
    root = Path(icehouse.__file__).parent
    rooms = [root / "cli.py", *(p for room in ROOMS for p in (root / room).rglob("*.py"))]
    raw = re.compile(r"typer\.s?echo\(|(?<![\w.])print\((?!verdict)|sys\.std(out|err)\.write")
    found = [
        f"{path}: {line.strip()}"
        for path in rooms
        for line in path.read_text(encoding="utf-8").splitlines()
        if raw.search(line) and ">>>" not in line and "json_text" not in line
    ]
    assert not found, "use icehouse.console.echo, say, print_table or print_json"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\x1b[31mb\x07\x9b2J\x7f", "a\ufffd[31mb\ufffd\ufffd2J\ufffd"),
        ("a\u202eb\u2066c\u200fd\ufeff", "a\ufffdb\ufffdc\ufffdd\ufffd"),
        ("two\nlines\r\tand\u2028more\x85", "two lines  and more "),
        ("joined \U0001f468\u200d\U0001f469", "joined \U0001f468\u200d\U0001f469"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("x\n" + text.replace("\n", " "), lines=True) == "x\n" + shown


def test_json_is_valid_and_lossless_whatever_it_holds() -> None:
    hostile = 'a\x1b[31m\x9b\x7f"\\\u202e\u2028 漢字 \ud83d \U0001f64f\n'
    text = json_text({hostile: [hostile]}, indent=2)
    assert json.loads(text) == {hostile: [hostile]}
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "漢字" in text


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("module", ["icehouse.cli", "icehouse.errors", "typer"])
def test_ctrl_c_amid_the_first_imports_is_one_line(module: str) -> None:
    code = f"""
import os, signal, sys, icehouse.__main__ as entry
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError from None  # as libraries swallow it
sys.modules.pop("icehouse.errors")
sys.meta_path.insert(0, Interrupt())
entry.main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.returncode == 130
    assert result.stderr == "icehouse: interrupted; what was finished is kept\n"


@pytest.mark.parametrize("status", [None, 0, 3, "what went wrong"])
def test_libraries_are_not_taken_down_at_the_end_and_all_else_is_done(status: int | str | None) -> None:
    code = f"""
import atexit, sys, threading, time
import icehouse.__main__ as entry, icehouse.cli
def run():
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.1), print("a thread"))).start()
    print("x" * 200_000)
    raise SystemExit({status!r})
class Library:
    def __del__(self):
        sys.stderr.write("taken down")
sys.modules[Library.__module__].library = Library()
icehouse.cli.main = run
entry.main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    told = isinstance(status, str)
    assert result.returncode == (1 if told else status or 0)
    assert result.stdout == "x" * 200_000 + "\na thread\nat exit\n"
    assert ("taken down" in result.stderr) == told
    assert (str(status) in result.stderr) == told


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-"])
def test_a_command_runs_with_its_streams_closed(closed: str, here: Path) -> None:
    assert run("embed", "photos", "-s", "st", "-e", "toy").exit_code == 0
    shell = f'exec "$0" -m icehouse sql "select count(*) as n from items" -s st --json {closed}'
    result = subprocess.run(["sh", "-c", shell, sys.executable], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0
    assert result.stderr == ""
    assert (">&-" in closed.split()) == (result.stdout == "")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_csv_is_sanitised_on_a_terminal_and_as_it_is_in_a_pipe(here: Path) -> None:
    assert run("embed", "photos", "-s", "st", "-e", "toy").exit_code == 0
    query = "select chr(27) || '[31m' || chr(155) || chr(8238) as a, 1 as \"b" + chr(27) + '"'
    command = [sys.executable, "-m", "icehouse", "sql", "-s", "st", "--format", "csv", query]
    piped = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    assert piped.stdout == "a,b\x1b\n\x1b[31m\x9b\u202e,1\n"
    terminal, end = os.openpty()
    with os.fdopen(terminal, "rb") as seen:
        subprocess.run(command, stdout=end, stderr=subprocess.PIPE, timeout=600, check=True)
        shown = os.read(seen.fileno(), 1 << 16).decode()
        os.close(end)
    assert shown.split() == ["a,b\ufffd", "\ufffd[31m\ufffd\ufffd,1"]
