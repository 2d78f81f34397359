"""Splits that keep near-duplicates together, made from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from icehouse.dups.leakage import find_leakage, parse_ratios, split_items
from icehouse.errors import UsageError
from icehouse.store.schema import items_schema
from icehouse.store.sql import left_out_note
from icehouse.store.store import Store
from leaky_stores import leaky_store, run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return leaky_store(tmp_path / "s")


def test_copies_that_came_after_the_search_stay_together(store: Store) -> None:
    rows = [
        {"item_id": f"z{k}", "image_sha256": f"{content:064d}", "missing": False}
        for k, content in enumerate([0, 0, 77, 77, 77])
    ]
    store.items.append(pa.Table.from_pylist(rows, schema=items_schema(["label"])))
    report = split_items(
        store, keep_together=["duplicates"], column="fresh", ratios={"train": 0.5, "test": 0.5}
    )
    fresh = dict(zip(*store.items.read(["item_id", "fresh"]).to_pydict().values(), strict=True))
    assert len({fresh[item] for item in ("i00", "i01", "i03", "z0", "z1")}) == 1
    assert len({fresh[item] for item in ("z2", "z3", "z4")}) == 1
    assert "did not look at 5 of 13 items, of which only copies are kept together" in report.notes[0]


def test_split_command(store: Store, tmp_path: Path) -> None:
    refused = run("split", "-s", store.path, "--keep-together", "duplicates")
    assert refused.exit_code == 2
    assert "7 items have a 'split' already; --overwrite" in refused.stderr
    how = ["-s", str(store.path), "--stratify", "label", "--keep-together", "duplicates", "-r", "0.6,0.4"]
    path = tmp_path / "split.csv"
    report = json.loads(run("split", *how, "-o", str(path), "--json").stdout)
    assert sum(report["splits"].values()) == 8
    assert report["groups"] == {"kept": ["duplicates"], "of_several": 3, "items": 8, "largest": 4}
    assert {row["label"] for row in report["balance"]} == {"calm", "flood", None}
    assert path.read_text().startswith("item_id,split\ni00,")
    assert find_leakage(store).splits["dev"] == 1  # the store is as it was
    shown = run("split", *how, "--column", "fresh")
    assert shown.exit_code == 0, shown.output
    assert "3 groups of two items or more, 8 items in them, 4 in the largest" in shown.stdout
    assert "train (60.0%)" in shown.stdout
    again = run("split", *how, "--column", "fresh", "--where", "label is not null", "--overwrite")
    assert again.exit_code == 0, again.output
    rows = store.items.read(["item_id", "label", "fresh"]).to_pylist()
    assert [row["item_id"] for row in rows if row["fresh"] is None] == ["i05"]


def test_a_column_keeps_together_and_joins_with_duplicates(store: Store) -> None:
    split_items(store, keep_together=["label", "duplicates"], column="one", ratios={"train": 1.0})
    with pytest.raises(UsageError, match="replaces it"):
        split_items(store, column="one")
    report = split_items(store, keep_together=["label"], column="two", ratios={"train": 0.5, "test": 0.5})
    rows = store.items.read(["label", "two"]).to_pylist()
    assert all(len({row["two"] for row in rows if row["label"] == label}) == 1 for label in ("calm", "flood"))
    assert report.groups["of_several"] == 2
    giant = split_items(
        store, keep_together=["label", "duplicates"], column="three", ratios={"train": 0.9, "test": 0.1}
    )
    assert giant.groups["largest"] == 8
    assert giant.splits == {"train": 8, "test": 0}
    assert any("larger than the smallest split" in note for note in giant.notes)
    assert any("'test' has no items: there is 1 group for" in note for note in giant.notes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-r", "0.8,0.3"], "not shares of 1"),
        (["-r", "0.25,0.25,0.25,0.25"], "need names"),
        (["-r", "train=0.8,0.2"], "name all of them or none"),
        (["-r", "dev=0.8,val=0.2"], "name of its own"),
        (["-r", "most,rest"], "no numbers"),
        (["--stratify", "colour"], "no column 'colour'"),
        (["--keep-together", "colour"], "no column 'colour'"),
        (["--column", "phash"], "choose another name"),
        (["--where", "label = 'storm'"], "no items to split that meet"),
        (["--dups", "default"], "--keep-together duplicates"),
        (["--keep-together", "duplicates", "--dups", "never"], "there are: default"),
    ],
)
def test_what_cannot_be_split_is_said(store: Store, arguments: list[str], says: str) -> None:
    result = run("split", "-s", store.path, "--overwrite", *arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert find_leakage(store).splits == {"train": 2, "dev": 1, "test": 4, "": 1}


def test_many_ratios_with_names() -> None:
    assert parse_ratios("train=0.7, dev=0.1,test=0.1,test_unseen=0.1")["test_unseen"] == 0.1
    assert parse_ratios("0.9,0.1") == {"train": 0.9, "test": 0.1}


def test_vanished_items_get_no_split(store: Store) -> None:
    gone = ["i00", "i03"]
    store.items.upsert(pa.table({"item_id": gone, "missing": [True, True]}), key="item_id")
    report = split_items(
        store, keep_together=["duplicates"], column="fresh", ratios={"train": 0.5, "test": 0.5}
    )
    rows = store.items.read(["item_id", "fresh"]).to_pylist()
    assert sorted(row["item_id"] for row in rows if row["fresh"] is None) == gone
    assert report.notes[0].startswith("2 items that have vanished are left out")
    assert sum(report.splits.values()) == len(rows) - 2
    told = split_items(store, column="all", where="missing or true")
    assert sum(told.splits.values()) == len(rows)
    assert not any("vanished" in note for note in told.notes)


def test_vanished_items_leak_nothing(store: Store) -> None:
    before = find_leakage(store)
    gone = (
        store.items.read(["item_id", "split"]).filter(pc.field("split") == "test")["item_id"].to_pylist()[:1]
    )
    store.items.upsert(pa.table({"item_id": gone, "missing": [True]}), key="item_id")
    found = find_leakage(store)
    assert found.splits["test"] == before.splits["test"] - 1
    assert found.notes[0] == left_out_note(1)
    assert not any("run `icehouse dups find` again" in note for note in found.notes)
