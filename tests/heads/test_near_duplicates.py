"""Scores on the rows without a near-duplicate in training: which rows those are, and which search says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.dups.pair_graph import DuplicateSearches
from icehouse.errors import StoreError
from icehouse.heads.inputs import load_samples, parse_inputs
from icehouse.heads.runs import Run
from icehouse.heads.sweep import sweep
from icehouse.heads.trainer import evaluate, prepare, train
from icehouse.store.files import write_sums
from icehouse.store.store import Store
from quick import Make
from shell import ran, refused, told

#: Items p<i> by threes: train, train, dev, test, train, ...
BASE = 0xB2CDCD3232CDCD30


def set_hashes(store: Store, hashes: dict[str, int]) -> None:
    """Give some items the hash of a picture, so that a search by hashes alone pairs those that are near."""
    column = pa.array(list(hashes.values()), pa.uint64())
    store.items.upsert(pa.table({"item_id": list(hashes), "phash": column}), key="item_id")


@pytest.fixture
def store(make_store: Make) -> Store:
    """Test's p009 has a near-duplicate in train, p010 one in dev, p011 is a copy of train's p002, p021 is like p011."""
    store = make_store(120, copies={11: 2})
    near = {"p000": 0, "p009": 0b11, "p006": 0xFF00FF00, "p010": 0xFF00FF01, "p002": 0xAAAA << 40}
    near |= {"p011": 0xAAAA << 40, "p021": 0xAAAA << 40 | 1}
    set_hashes(store, {item: BASE ^ bits for item, bits in near.items()})
    return store


def apart(run: Run) -> dict[str, Any]:
    return dict(run.metrics["test"]["without_near_duplicates"])


def test_rows_with_a_near_duplicate_in_training_are_left_out(store: Store) -> None:
    find_duplicates(store, feature=None)
    run = train(store, inputs="image,text")
    block = apart(run)
    assert (block["near_duplicates"], block["n"]) == (4, 26)
    assert block["against"] == ["train", "dev"]
    assert block["complete"]
    search = block["searches"][0]
    assert (search["name"], search["feature"], search["content"]) == ("default", None, "image_sha256")
    # Every score, and of those rows alone.
    rows = {row["item_id"]: row for row in run.predictions().to_pylist() if row["split"] == "test"}
    left = [row for item, row in rows.items() if item not in ("p009", "p010", "p011", "p021")]
    hits = np.mean([row["y"] == row["predicted"] for row in left])
    assert block["accuracy"]["value"] == pytest.approx(hits)
    assert set(run.metrics["test"]) - {"without_copies", "without_near_duplicates"} <= set(block)
    assert np.sum(block["confusion"]["matrix"]) == 26
    assert block["macro_f1"]["low"] <= block["macro_f1"]["value"] <= block["macro_f1"]["high"]
    assert run.metrics["test"]["without_copies"]["copies"] == 1
    # Dev is compared with train alone.
    dev = run.metrics["dev"]["without_near_duplicates"]
    assert (dev["against"], dev["near_duplicates"], dev["n"]) == (["train"], 0, 30)
    assert "accuracy" not in dev
    # What train and evaluate say of the same rows is the same.
    again = evaluate(store, run).metrics["without_near_duplicates"]
    assert [again[key] == block[key] for key in ("near_duplicates", "n", "accuracy")] == [True] * 3


def test_a_search_counts_for_the_inputs_it_is_about(store: Store) -> None:
    find_duplicates(store, feature=None)
    assert "without_near_duplicates" not in train(store, inputs="text").metrics["test"]
    assert apart(train(store, inputs="text", dups="default"))["near_duplicates"] == 4
    find_duplicates(store, name="texts", feature="toy/text/pooled", rule=0.9999)
    both = apart(train(store, inputs="image,text"))
    assert [search["name"] for search in both["searches"]] == ["default", "texts"]
    rows = prepare(store, "image,text")
    near = rows.select(["text"]).searches.near(
        rows.select(["text"]).part("test"), {"train": rows.part("train").ids}
    )
    assert near is not None
    assert [search["name"] for search in near.about["searches"]] == ["texts"]


def test_a_sweep_takes_the_searches_that_it_is_told(store: Store) -> None:
    find_duplicates(store, feature=None)
    for dups, expected in (("auto", False), ("default", True), ("none", False)):
        done = sweep(store, ["logreg"], inputs="text", dups=dups, name=dups, report=False, draws=20)
        (run,) = done.winners["logreg"]
        assert ("without_near_duplicates" in run.metrics["test"]) == expected


def test_the_newest_search_by_a_feature_that_is_still_there(store: Store) -> None:
    specs = load_samples(store, parse_inputs("image", store), label="label").specs
    assert DuplicateSearches.of(store, specs).found == []
    for name, made, changes in [
        ("old", "2026-01-01T00:00:00+00:00", {}),
        ("newer", "2026-02-01T00:00:00+00:00", {}),
        ("other-space", "2026-03-01T00:00:00+00:00", {"fingerprint": "0" * 16}),
        ("other-feature", "2026-03-02T00:00:00+00:00", {"feature": "gone/image/pooled"}),
        ("texts", "2026-03-03T00:00:00+00:00", {"content": "text_sha256"}),
    ]:
        found = find_duplicates(store, name=name, feature="toy/image/pooled", rule=0.9999)
        summary = {**found.summary, "created_at": made}
        summary["parameters"] |= changes
        (found.path / "summary.json").write_text(json.dumps(summary))
        write_sums(found.path)
    (store.path / "dups" / "damaged").mkdir()
    (store.path / "dups" / "damaged" / "summary.json").write_text("{")
    assert [found.name for found in DuplicateSearches.of(store, specs).found] == ["newer"]
    assert [found.name for found in DuplicateSearches.of(store, specs, ["old", "texts"]).found] == [
        "old",
        "texts",
    ]
    assert (
        DuplicateSearches.of(store, specs, "none").found
        == DuplicateSearches.of(store, specs, None).found
        == []
    )
    with pytest.raises(StoreError, match="there are: damaged, newer, old"):
        DuplicateSearches.of(store, specs, "never")


def test_what_the_search_did_not_look_at_is_said(store: Store) -> None:
    find_duplicates(store, feature=None, where="item_id not in ('p009', 'p010', 'p000')")
    block = apart(train(store))
    assert not block["complete"]
    search = block["searches"][0]
    assert (search["rows_not_covered"], search["training_not_covered"]) == (2, 1)
    assert block["near_duplicates"] == 2
    find_duplicates(store, feature=None, max_pairs=1)
    capped = apart(train(store))
    assert capped["searches"][0]["capped"]
    assert not capped["complete"]


def test_what_has_changed_since_the_search_is_said(store: Store) -> None:
    find_duplicates(store, feature=None)
    assert apart(train(store))["complete"]
    # Test's p022 gets the picture of train's p000: a copy, which every evaluation knows, and no pair of the search.
    (sha,) = store.query("select image_sha256 from items where item_id = 'p000'")["image_sha256"].to_pylist()
    store.items.upsert(pa.table({"item_id": ["p022"], "image_sha256": [sha]}), key="item_id")
    block = apart(train(store))
    assert (block["complete"], block["searches"][0]["changed"]) == (False, 1)
    assert block["near_duplicates"] == 5
    changed = "note: 1 of these and of training's has changed since the search 'default'"
    assert changed in ran(store, "evaluate").stdout


def test_everything_or_nothing_is_near(make_store: Make) -> None:
    store = make_store(120)
    set_hashes(store, {f"p{i:03d}": BASE for i in range(120)})
    find_duplicates(store, feature=None)
    block = apart(train(store))
    assert (block["near_duplicates"], block["n"]) == (30, 0)
    assert "accuracy" not in block


def test_the_commands_say_it(store: Store) -> None:
    first = ran(store, "train")
    assert "without 1 copy of train" in first.stdout
    assert "hint: only exact copies" in first.stderr
    find_duplicates(store, feature=None, where="item_id <> 'p000'")
    shown = ran(store, "evaluate")
    for said in (
        "without 3 near-duplicates of train",
        "3 of 30 rows have one in train and dev, by the search 'default' (hashes alone)",
        "did not look at 0 of these rows and 1 of training's",
    ):
        assert said in shown.stdout
    assert "hint" not in shown.stderr
    assert "without 3 near-duplicates" in ran(store, "train", "--dups", "default").stdout
    off = ran(store, "train", "--dups", "none")
    assert "near-duplicates" not in off.output
    assert "without 1 copy of train" in off.stdout
    assert told(store, "evaluate", "--dups", "default")["without_near_duplicates"]["n"] == 27
    refused(store, "evaluate", "--dups", "never")
