"""Looking at captions: `icehouse captions list`, `show`, `sample` and the page of pictures."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from caption_stores import Lab
from html_page import HtmlPage
from icehouse.cli import app
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.importing import import_captions
from icehouse.embed.captions.pictures import prepare
from icehouse.embed.captions.settings import CaptionSettings, Prompt
from icehouse.embed.captions.stats import list_captions, sample_captions, show_captions
from icehouse.errors import CaptionError, UsageError
from icehouse.serve.sheets import caption_sheet, write_caption_sheet
from icehouse.store.store import Store
from ollama_server import DIGEST, REFUSAL, OllamaServer
from typer.testing import CliRunner, Result

HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(1)> </p></li> \x1b[31m\u202egpj.exe'


def imported(store: Store, tmp_path: Path, captions: dict[str, str], name: str = "default") -> None:
    path = tmp_path / f"{name}.jsonl"
    rows = [json.dumps({"item_id": item, "caption": caption}) for item, caption in captions.items()]
    path.write_text("\n".join(rows))
    import_captions(store, path, name=name)


def command(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["captions", arguments[0], "-s", str(store.path), *arguments[1:]])


def sha_of(store: Store, item: str) -> str:
    (row,) = store.query(f"select image_sha256 from items where item_id = '{item}'").to_pylist()
    return str(row["image_sha256"])


def test_every_way_to_name_a_picture(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = lab.store(3)
    imported(store, tmp_path, {"0000": "a house", "0001": "a tree", "0002": "a car"})
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes((tmp_path / "pictures" / "0001.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    sha = sha_of(store, "0001")
    ways = ["0001", "0001.png", "pictures/0001.png", str(tmp_path / "pictures/0001.png"), "elsewhere.png"]
    for way in (*ways, sha, sha[:6].upper()):
        (one,) = show_captions(store, [way])
        assert (one.caption, one.items, one.paths) == ("a tree", ("0001",), ("0001.png",)), way
        assert one.files == (tmp_path / "pictures" / "0001.png",)
    # Copies are one picture, named once however often it is asked for.
    (one,) = show_captions(store, ["copy", "0002", "copy.png"])
    assert (one.caption, one.items) == ("a car", ("0002", "copy"))
    assert [one.caption for one in show_captions(store, ["0002", "0000"])] == ["a car", "a house"]
    for unknown in ("none", "9999.png", "\0", sha[:5], "x" * 5000):
        with pytest.raises(UsageError, match="neither an item's id nor a path or sha256"):
            show_captions(store, [unknown])


def test_all_names_or_one(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    with pytest.raises(CaptionError, match="make some with `icehouse caption`"):
        show_captions(store, ["0000"])
    imported(store, tmp_path, {"0000": "a house", "0001": "a tree"})
    imported(store, tmp_path, {"0000": "no barn"}, "more")
    shown = show_captions(store, ["0000", "0001"])
    assert [(one.items[0], one.name, one.caption) for one in shown] == [
        ("0000", "default", "a house"),
        ("0000", "more", "no barn"),
        ("0001", "default", "a tree"),
        ("0001", "more", None),
    ]
    assert shown[3].problem == "not captioned yet"
    assert [one.caption for one in show_captions(store, ["0000"], ["more"])] == ["no barn"]
    with pytest.raises(CaptionError, match=r"no captions 'mroe' in .*; there are: default, more"):
        show_captions(store, ["0000"], ["mroe"])
    assert [(one.name, one.rows, one.maker) for one in list_captions(store)] == [
        ("default", 2, "imported from default.jsonl"),
        ("more", 1, "imported from more.jsonl"),
    ]


def test_flags_provenance_and_failures(lab: Lab, server: OllamaServer, tmp_path: Path) -> None:
    store = lab.store(3, files={"broken.png": b"none"})
    for fault, item in (("refuse", "0000"), ("400", "0001")):
        sent = prepare((tmp_path / "pictures" / f"{item}.png").read_bytes())
        server.behave(fault, times=None, image=hashlib.sha256(sent).hexdigest())
    lab.caption(store, prompt=Prompt.of(None, "crisis"))
    refused, failed, fine, broken = show_captions(store, ["0000", "0001", "0002", "broken"])
    assert (refused.caption, refused.flags, refused.attempts) == (REFUSAL, ("refusal",), 2)
    assert failed.caption is None
    assert failed.problem is not None
    assert failed.problem.startswith("failed: ")
    assert (fine.flags, fine.model, fine.host, fine.seed) == ((), "llava:7b", server.url, 0)
    assert broken.problem is not None
    (about,) = list_captions(store)
    assert (about.model, about.digest, about.asked) == ("llava:7b", DIGEST, "crisis")
    assert about.options["temperature"] == 0.0
    result = command(store, "show", "0000", "0002")
    assert result.exit_code == 0, result.output
    assert f"default [refusal]:\n    {REFUSAL}" in result.stdout
    assert f"llava:7b ({DIGEST[:12]}); asked: crisis; {server.url}; 20" in result.stdout
    both = json.loads(command(store, "show", "0002", "0001", "--json").stdout)
    assert both[0]["by"]["digest"] == DIGEST
    assert both[0]["caption"] == fine.caption
    assert both[1]["problem"] == failed.problem
    result = command(store, "list")
    assert re.search(rf"default +2 +llava:7b \({DIGEST[:12]}\) +crisis", result.stdout)
    result = command(store, "show", "none")
    assert (result.exit_code, result.stdout) == (2, "")


def test_captions_of_pairs_are_shown_with_their_post(lab: Lab, server: OllamaServer) -> None:
    # "copy" and "0001" are one picture with two texts, so with two captions.
    store = lab.store(2, texts=["calm", "help <b>now</b>", "water"])
    server.answers = lambda question: f"about {question.prompt.split()[-1].strip(chr(34))}"
    lab.caption(store, prompt=Prompt.of("Look. {text}", None, with_text=True), name="post")
    (one,) = show_captions(store, ["copy"])
    assert (one.caption, one.items, one.text) == ("about water", ("copy",), "water")
    both = show_captions(store, [sha_of(store, "copy")])
    assert {shown.caption for shown in both} == {"about water", "about ‹b›now‹/b›"}
    drawn = sample_captions(store, "post")
    assert {(shown.items, shown.text) for shown in drawn} == {
        (("0000",), "calm"),
        (("0001",), "help <b>now</b>"),
        (("copy",), "water"),
    }
    (about,) = list_captions(store)
    assert (about.with_text, about.asked) == (True, "own prompt")
    page = caption_sheet(drawn, about)
    assert "help &lt;b&gt;now&lt;/b&gt;" in page


def test_a_sample_is_the_same_whatever_the_order(lab: Lab, tmp_path: Path) -> None:
    captions = {f"{i:04d}": f"number {i}" for i in range(12)}
    store = lab.store(12)
    imported(store, tmp_path, captions)
    imported(store, tmp_path, dict(reversed(captions.items())), "back")
    first, again = (sample_captions(store, name, n=5, seed=3) for name in ("default", "back"))
    assert [one.caption for one in first] == [one.caption for one in again]
    assert len({one.caption for one in first}) == 5
    assert [one.caption for one in first] != [one.caption for one in sample_captions(store, n=5, seed=4)]
    assert {one.caption for one in sample_captions(store, n=99)} == set(captions.values())
    # More of one seed begins with the same.
    assert [one.caption for one in sample_captions(store, n=9, seed=3)][:5] == [one.caption for one in first]
    assert sample_captions(store, n=5, flagged=True) == []
    for options in ({"n": -1}, {"seed": -1}):
        with pytest.raises(UsageError, match="0 or more"):
            sample_captions(store, **options)


def test_sample_commands(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(4)
    imported(store, tmp_path, {"0000": HOSTILE, "0001": REFUSAL, "0002": "..."})
    result = command(store, "sample")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "<script>alert(1)</script>" in result.stdout
    assert result.stderr == "3 captions, drawn from 3 'default'\n"
    result = command(store, "sample", "--flagged", "-n", "1", "--json")
    (one,) = json.loads(result.stdout)
    assert one["flags"] in (["refusal"], ["empty"])
    out = tmp_path / "sheet.html"
    result = command(store, "sample", "--flagged", "--out", str(out))
    assert (result.stdout, result.stderr) == ("", f"2 captions in {out}\n")
    assert out.read_text(encoding="utf-8").count('class="flag"') == 2
    result = command(store, "sample", "--out", str(tmp_path / "no" / "sheet.html"))
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    result = command(store, "sample", "--name", "none")
    assert result.exit_code == 2
    assert "there are: default" in result.stderr
    empty = command(Store.create(tmp_path / "empty"), "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "icehouse caption" in empty.stderr


def test_the_sheet_is_harmless_whatever_a_model_says(lab: Lab, tmp_path: Path, server: OllamaServer) -> None:
    store = lab.store(3)
    server.answers = lambda question: HOSTILE + question.sha
    asking = CaptionSettings("llava:7b", Prompt.of(f"What is it? {HOSTILE}", None), hosts=[server.url])
    caption_images(store, asking)
    drawn, (about,) = sample_captions(store), list_captions(store)
    page = HtmlPage(write_caption_sheet(tmp_path / "a.html", drawn, about, how=HOSTILE))
    assert len(page.all("img")) == 3
    assert page.scripts == []
    # Three captions, the prompt, how they were chosen.
    assert page.text.count("<script>alert(1)</script>") == 5
    assert not {"\x1b", "\u202e"} & set(page.text)


def test_the_sheet_shows_flags_and_only_the_picture_that_was_described(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(5)
    imported(
        store, tmp_path, {"0000": "a house", "0001": REFUSAL, "0002": "a car", "0003": "", "0004": "a dog"}
    )
    folder = tmp_path / "pictures"
    (folder / "0002.png").write_bytes((folder / "0000.png").read_bytes())
    (folder / "0001.png").unlink()
    store.items.delete("item_id", ["0004", "copy"])
    page = HtmlPage(caption_sheet(sample_captions(store), *list_captions(store)))
    assert (len(page.all("li")), len(page.all("img")), len(page.all("li", "flagged"))) == (5, 2, 2)
    problems = (
        "the file has changed since it was described",
        "the file is gone",
        "no item of the store has this",
    )
    for said in problems:
        assert page.text.count(said) == 1
    for said in ("refusal", "an empty answer", "2 of those shown are flagged", "imported from default.jsonl"):
        assert said in page.text
    assert "There is no caption to show" in caption_sheet([], *list_captions(store))


def test_a_copy_stands_in_for_a_file_that_is_gone(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    imported(store, tmp_path, {"0001": "a tree"})
    (tmp_path / "pictures" / "0001.png").unlink()
    page = caption_sheet(sample_captions(store), *list_captions(store))
    assert page.count("<img ") == 1
    assert "+1" in page
