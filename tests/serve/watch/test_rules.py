"""Collections: keywords, hashtags, authors, boxes, languages; files that are no rules are told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from icehouse.errors import UsageError
from icehouse.serve.watch.filters import Collections
from icehouse.serve.watch.sources import Message, parse
from icehouse.serve.watch.status import read_status

pytest.importorskip("py3langid")


def rules(tmp_path: Path, text: str) -> Collections:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return Collections.read(path)


def of(made: Collections, **post: Any) -> list[str]:
    import json

    return made.of(parse(Message(json.dumps({"id": "a", **post}).encode(), "a")))


def test_keywords_are_whole_words_in_any_case(tmp_path: Path) -> None:
    made = rules(
        tmp_path,
        '[[collection]]\nname="w"\nkeywords=["flood", "water level", "#Storm", "Überschwemmung", "洪水"]',
    )
    for text in (
        "FLOOD!",
        "a flood.",
        "the Water\n Level rises",
        "x #storm y",
        "ÜBERSCHWEMMUNG",
        "今日は洪水です",
        "ｆｌｏｏｄ",
    ):
        assert of(made, text=text) == ["w"], text
    for text in ("floodlight", "bloodflood", "water, level", "storm", ""):
        assert of(made, text=text or "x") == [], text
    assert made.counts == {"w": 7}


def test_any_and_all_and_not(tmp_path: Path) -> None:
    made = rules(
        tmp_path,
        """
        [[collection]]
        name = "any"
        keywords = ["flood"]
        hashtags = ["Kerala"]
        authors = ["@NDRF"]
        box = [74.0, 8.0, 78.0, 13.0]
        not_keywords = ["tears"]
        [[collection]]
        name = "all"
        keywords = ["flood"]
        hashtags = ["kerala"]
        match = "all"
        """,
    )
    assert of(made, text="flood") == ["any"]
    assert of(made, text="a flood of tears") == []
    assert of(made, text="in #KERALA") == ["any"]
    assert of(made, text="x", hashtags=["#kerala"]) == ["any"]
    assert of(made, text="x", author="ndrf") == ["any"]
    assert of(made, text="x", coordinates=[76.2, 9.9]) == ["any"]
    assert of(made, text="x", coordinates={"type": "Point", "coordinates": [76.2, 9.9]}) == ["any"]
    assert of(made, text="x", lon=76.2, lat=9.9) == ["any"]
    assert of(made, text="x", coordinates=[9.9, 76.2]) == []
    assert of(made, text="x") == []
    assert of(made, text="flood in #Kerala") == ["any", "all"]


def test_a_box_across_the_date_line(tmp_path: Path) -> None:
    made = rules(tmp_path, '[[collection]]\nname="fiji"\nbox=[176.0, -20.0, -178.0, -15.0]')
    assert of(made, text="x", coordinates=[179.5, -17.0]) == ["fiji"]
    assert of(made, text="x", coordinates=[-179.5, -17.0]) == ["fiji"]
    assert of(made, text="x", coordinates=[0.0, -17.0]) == []


def test_languages(tmp_path: Path) -> None:
    made = rules(tmp_path, '[[collection]]\nname="de"\nlanguages=["de"]')
    assert of(made, text="Die Straße steht nach dem Sturm völlig unter Wasser, bitte helft uns") == ["de"]
    assert of(made, text="The street is under water after the storm, please help us all") == []
    assert of(made, text="https://t.co/xyz @someone #tag 123") == []
    assert of(made, image_path="a.png") == []
    assert made.languages["de"] == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nonsense", "no TOML"),
        ("", "tables"),
        ("x = 1", "tables"),
        ("[[collection]]\nkeywords=['a']", "no name"),
        ("[[collection]]\nname='a'\nkeyword=['a']", "no key 'keyword'"),
        ("[[collection]]\nname='a'", "says nothing"),
        ("[[collection]]\nname='a'\nkeywords=[1]", "list of words"),
        ("[[collection]]\nname='a'\nkeywords=['']", "list of words"),
        ("[[collection]]\nname='a'\nbox=[1,2,3]", "west, south, east, north"),
        ("[[collection]]\nname='a'\nbox=[0,10,0,-10]", "west, south, east, north"),
        ("[[collection]]\nname='a'\nlanguages=['xx']", "no language 'xx'"),
        ("[[collection]]\nname='a'\nkeywords=['x']\nmatch='some'", "match is"),
        (
            "[[collection]]\nname='a'\nkeywords=['x']\n[[collection]]\nname='a'\nkeywords=['x']",
            "both|two collections",
        ),
        ("[[collection]]\nname='a'\nkeywords=['(((']", ""),
    ],
)
def test_what_is_no_rule(tmp_path: Path, text: str, what: str) -> None:
    if not what:
        assert of(rules(tmp_path, text), text="a ((( b") == ["a"]
        return
    with pytest.raises(UsageError, match=what) as told:
        rules(tmp_path, text)
    assert "\n" not in str(told.value)


def test_what_is_in_no_collection_goes_no_further(
    run_lines: Callable[..., Any], posts: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "rules.toml").write_text('[[collection]]\nname="storms"\nkeywords=["storm"]')
    told = run_lines(
        [posts(), posts(about=False), {"id": "t", "text": "lunch"}], collect=tmp_path / "rules.toml"
    )
    assert [line["decision"] for line in told] == ["classified", "filtered", "filtered"]
    assert told[0]["collections"] == ["storms"]
    assert "decode" not in told[1]["ms"]
    status = read_status(tmp_path / "state" / "status.json")
    assert status is not None
    assert status["collections"] == {"storms": 1}
