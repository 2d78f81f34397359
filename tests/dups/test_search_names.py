"""Names of searches: after their feature, never in place of another, and which one is meant where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from galleries import embedded
from icehouse.cli import app
from icehouse.dups.find import find_duplicates
from icehouse.dups.leakage import split_items
from icehouse.dups.pair_graph import Duplicates, current_searches, list_duplicates, searches_for
from icehouse.errors import StoreError, UsageError
from icehouse.store.store import Store
from toys import picture
from typer.testing import CliRunner


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Pictures 0 and 1 are copies; so are the texts of 1 and 2."""
    texts = ["flood in town", "fire on hill", "fire on hill", "calm day", "wide sea", "old tree"]
    for k in range(6):
        picture(max(k, 1) * 7).save(tmp_path / f"{k}.png")
    rows = [f"{k},{k}.png,{text},{'ab'[k % 2]}" for k, text in enumerate(texts)]
    (tmp_path / "posts.csv").write_text("id,image,text,label\n" + "\n".join(rows) + "\n")
    return embedded(tmp_path / "posts.csv", tmp_path / "store")


def test_a_search_has_the_name_of_its_feature(store: Store) -> None:
    images = find_duplicates(store, hamming=None)
    (images.path / "gallery").mkdir()
    texts = find_duplicates(store, feature="toy-a/text/pooled")
    assert (images.name, texts.name) == ("toy-a-image-pooled", "toy-a-text-pooled")
    assert find_duplicates(store, feature=None).name == "default"
    assert (images.path / "gallery").is_dir()
    assert Duplicates.open(store).name == "toy-a-image-pooled"
    assert Duplicates.open(store, "toy-a-text-pooled").feature == "toy-a/text/pooled"
    assert find_duplicates(store, hamming=None).path == images.path  # its own kind it replaces


def test_another_feature_is_never_replaced(store: Store) -> None:
    old = find_duplicates(store, hamming=None, name="default")  # as an older version called every search
    before = (old.path / "summary.json").read_bytes()
    with pytest.raises(
        UsageError, match=r"is by toy-a/image/pooled, and one by toy-a/text/pooled does not replace it"
    ):
        find_duplicates(store, name="default", feature="toy-a/text/pooled")
    assert find_duplicates(store, feature=None).name == "hashes"
    assert (old.path / "summary.json").read_bytes() == before
    # Read as ever, until there is one by its feature's name.
    assert Duplicates.open(store).name == "default"
    shown = CliRunner().invoke(app, ["dups", "gallery", "-s", str(store.path)])
    assert "makes 'toy-a-image-pooled' beside it" in " ".join(shown.stderr.split())
    find_duplicates(store, hamming=None)
    assert Duplicates.open(store).name == "toy-a-image-pooled"
    assert Duplicates.open(store, "default").path == old.path


def test_which_is_meant(store: Store) -> None:
    with pytest.raises(StoreError, match="find some with `icehouse dups find`"):
        Duplicates.open(store)
    find_duplicates(store, feature="toy-a/text/pooled")
    assert Duplicates.open(store, "default").name == "toy-a-text-pooled"
    find_duplicates(store, hamming=None)
    find_duplicates(store, hamming=None, name="strict", rule=0.9999)
    assert Duplicates.open(store).name == "toy-a-image-pooled"
    shown = CliRunner().invoke(app, ["dups", "gallery", "-s", str(store.path)])
    assert shown.exit_code == 0, shown.output
    assert "--name takes another: strict, toy-a-text-pooled" in shown.stderr
    (store.path / "dups" / "toy-a-image-pooled" / "summary.json").write_text("{")
    assert Duplicates.open(store).name == "strict"
    for name in list_duplicates(store):
        (store.path / "dups" / name / "summary.json").write_text("{")
    with pytest.raises(StoreError, match="is not what was written"):
        Duplicates.open(store)


def test_splits_go_by_all_current_searches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    find_duplicates(store, hamming=None, rule=0.99999)
    find_duplicates(store, feature="toy-a/text/pooled", rule=0.999)
    assert [found.feature for found in current_searches(store)] == ["toy-a/image/pooled", "toy-a/text/pooled"]
    report = split_items(store, keep_together=["duplicates"], ratios={"train": 0.5, "test": 0.5})
    assert report.groups["largest"] == 3  # by picture and by text
    assert "toy-a-image-pooled" in report.notes[-1]
    assert "toy-a-text-pooled" in report.notes[-1]
    only = split_items(
        store,
        keep_together=["duplicates"],
        dups=["toy-a-text-pooled"],
        column="texts",
        ratios={"train": 0.5, "test": 0.5},
    )
    assert only.groups["largest"] == 2
    monkeypatch.setattr(Duplicates, "is_current", lambda *_: False)  # as if both features had been made anew
    with pytest.raises(StoreError, match="have changed since"):
        split_items(store, keep_together=["duplicates"], column="third")


def test_the_hint_of_train_names_the_search_it_needs(store: Store) -> None:
    assert searches_for({"text": "toy-a/text/tokens"}) == "`icehouse dups find --feature toy-a/text/pooled`"
    asked = ["train", "logreg", "-s", str(store.path), "--inputs", "text", "--label", "label", "--no-report"]
    assert (
        "after `icehouse dups find --feature toy-a/text/pooled` near" in CliRunner().invoke(app, asked).output
    )
