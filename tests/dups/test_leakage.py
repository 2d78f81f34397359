"""Leaks between splits are those of comparing everything, and what cleans or makes splits leaves none."""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dup_stores import IMAGES, family_rows, family_store
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.manifest import SourceOptions
from icehouse.dups.apply import apply_judgements
from icehouse.dups.find import find_duplicates
from icehouse.dups.leakage import (
    LEAKED,
    Affected,
    Leakage,
    find_leakage,
    parse_ratios,
    split_items,
    write_cleaned,
)
from icehouse.dups.pair_graph import PairGraph
from icehouse.errors import StoreError, UsageError
from icehouse.store.annotate import join
from icehouse.store.schema import items_schema
from icehouse.store.sql import left_out_note
from icehouse.store.store import Store
from leaky_stores import BASES, Row, leaky_store, make_store, run

CRISISMMD = Path(__file__).parents[3] / "shared" / "data" / "crisismmd"


def kind_of(a: dict[str, Any], b: dict[str, Any], radius: int) -> str | None:
    if a["image_sha256"] == b["image_sha256"]:
        return "exact"
    return "perceptual" if (a["phash"] ^ b["phash"]).bit_count() <= radius else None


def brute(store: Store, radius: int) -> dict[tuple[str, str], str]:
    items = store.items.read().to_pylist()
    pairs = {(a["item_id"], b["item_id"]): kind_of(a, b, radius) for a, b in itertools.combinations(items, 2)}
    return {pair: kind for pair, kind in pairs.items() if kind}


def affected(found: Leakage) -> dict[str, Affected]:
    return {a.split: a for a in found.affected}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Test's i03 is a copy of train's i00, its i04 a recompression of it; test's i05 is one of dev's i02."""
    return leaky_store(tmp_path / "s")


def test_pairs_between_splits(store: Store) -> None:
    found = find_leakage(store)
    assert found.splits == {"train": 2, "dev": 1, "test": 4, "": 1}
    pairs = {(p["split_a"], p["split_b"]): (p["exact"], p["perceptual"]) for p in found.pairs if p["pairs"]}
    assert pairs == {
        ("train", "train"): (1, 0),
        ("train", "test"): (2, 2),
        ("dev", "test"): (0, 1),
        ("test", "test"): (0, 1),
        ("test", ""): (0, 1),
    }
    dev, test = affected(found)["dev"], affected(found)["test"]
    assert (dev.against, dev.ids, dev.share) == (["train"], [], 0)
    assert (test.against, test.ids, test.share) == (["train", "dev"], ["i03", "i04", "i05"], 0.75)
    assert test.by_split == {"train": 2, "dev": 1}
    assert found.worst == test
    assert not found.lower_bound
    assert found.notes == []


def test_pairs_that_only_people_call_duplicates_leak_and_are_told_as_such(
    store: Store, tmp_path: Path
) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text("a,b,label\ni00,i02,1\n")
    apply_judgements(store, judged)
    found = find_leakage(store)
    cells = {(pair.pop("split_a"), pair.pop("split_b")): pair for pair in found.pairs}
    assert cells["train", "dev"]["judged"] == 2  # i01 is a copy of i00
    for cell in cells.values():
        assert cell.pop("pairs") == sum(cell.values())
    assert affected(found)["dev"].ids == ["i02"]
    assert "judged" in run("dups", "leakage", "-s", store.path).output


def test_the_command_that_is_told_can_be_pasted(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "clean it.csv"
    said = run("dups", "leakage", "-s", store.path, "--out", out, "--column", "fresh").output
    words = shlex.split(said.partition("bring it with `icehouse ")[2].partition("`")[0])
    assert run(*words, "-s", store.path).exit_code == 0
    assert "fresh" in store.items.snapshot().schema.names


def test_labels_that_differ_across_splits(store: Store) -> None:
    labels = find_leakage(store).labels
    assert labels is not None
    examples = labels.pop("examples")
    # i03 against i00 and i01 differs twice, i04 agrees twice, i05 has no label.
    assert labels == {"column": "label", "pairs": 4, "differing": 2, "items": 2, "disagreeing": 1}
    assert examples == [
        {
            "item": "i03", "item_split": "test", "item_label": "calm",
            "of": "i00", "of_split": "train", "of_label": "flood",
        }
    ]  # fmt: skip


def test_a_chain_is_no_leak(tmp_path: Path) -> None:
    rows: list[Row] = [(0, 0, "train", None), (3, 3, None, None), (6, 6, "test", None)]
    made = make_store(tmp_path / "s", rows)
    found = find_duplicates(made, feature=None, hamming=3, grouping_by="components")
    assert found.summary["groups"]["largest"] == 3
    assert affected(find_leakage(made))["test"].ids == []
    assert len(set(PairGraph(found).groups().tolist())) == 1


ROWS = st.lists(
    st.tuples(
        st.integers(0, 14),
        st.integers(0, 8),
        st.sampled_from(["train", "train", "dev", "test", None]),
        st.sampled_from(["a", "b", None]),
    ),
    min_size=3,
    max_size=30,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    rows=ROWS,
    radius=st.sampled_from([2, 6]),
    drop=st.sampled_from(["train", "test"]),
    cap=st.sampled_from([3, 10**6]),
)
def test_leaks_are_those_of_comparing_everything(rows: list[Row], radius: int, drop: Any, cap: int) -> None:
    rows[:2] = [(*rows[0][:2], "train", "a"), (*rows[1][:2], "test", "b")]
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "s", rows)
        search = find_duplicates(store, feature=None, hamming=radius, max_pairs=cap)
        pairs = brute(store, radius)
        split = {f"i{k:02d}": row[2] or "" for k, row in enumerate(rows)}
        label = {f"i{k:02d}": row[3] for k, row in enumerate(rows)}
        found = find_leakage(store)
        against = {"dev": {"train"}, "test": {"train", "dev"}}
        leaks = {
            (a, b)
            for pair in pairs
            for a, b in (pair, pair[::-1])
            if split[b] in against.get(split[a], set())
        }
        matrix = Counter((*sorted((split[a], split[b])), kind) for (a, b), kind in pairs.items())
        reported = {
            (*sorted((p["split_a"], p["split_b"])), kind): p[kind]
            for p in found.pairs
            for kind in ("exact", "perceptual")
            if p[kind]
        }
        ids = {a.split: set(a.ids) for a in found.affected}
        everything = {name: {a for a, _ in leaks if split[a] == name} for name in ids}
        labelled = {pair for pair in leaks if label[pair[0]] and label[pair[1]]}
        if search.summary["capped"]:
            assert found.lower_bound
            assert any("lower bounds" in note for note in found.notes)
            assert all(ids[name] <= everything[name] for name in ids)
            assert all(count <= matrix[key] for key, count in reported.items())
        else:
            assert ids == everything
            assert reported == matrix
            assert found.labels is not None
            assert found.labels["pairs"] == len(labelled)
            assert found.labels["differing"] == sum(label[a] != label[b] for a, b in labelled)
        before = Counter(split.values())
        path = Path(folder) / "clean.csv"
        left = write_cleaned(store, path, drop=drop, column="clean")
        join(store, path)
        cleaned = dict(
            zip(*(store.items.read(["item_id", "clean"])[c].to_pylist() for c in (0, 1)), strict=True)
        )
        after = Counter(cleaned.values())
        assert all(before[name] - count == after[name] for name, count in left.items())
        assert after[LEAKED] == sum(left.values())
        assert left["test" if drop == "train" else "train"] == 0
        if {after["train"], after["test"] + after["dev"]}.isdisjoint({0}):
            assert all(a.ids == [] for a in find_leakage(store, split_column="clean").affected)
        for item, value in cleaned.items():
            assert (value or "") in (split[item], LEAKED)


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(rows=ROWS, seed=st.integers(0, 3), data=st.data())
def test_no_pair_straddles_a_split_made_to_keep_duplicates_together(
    rows: list[Row], seed: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    made: list[dict[str, str] | None] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, places in (("a", range(len(rows))), ("b", order)):
            store = make_store(Path(folder) / name, rows, places)
            find_duplicates(store, feature=None)
            try:
                split_items(
                    store, stratify="label", keep_together=["duplicates"], seed=seed, column="fresh",
                    ratios={"train": 0.7, "test": 0.3},
                )  # fmt: skip
            except UsageError as error:
                assert "small enough" in str(error)  # noqa: PT017
                made.append(None)
                continue
            fresh = store.items.read(["item_id", "fresh"]).to_pydict()
            split = dict(zip(fresh["item_id"], fresh["fresh"], strict=True))
            made.append(split)
            assert set(split.values()) <= {"train", "test"}
            assert all(split[a] == split[b] for a, b in brute(store, 6))
            if len(set(split.values())) == 2:
                assert affected(find_leakage(store, split_column="fresh"))["test"].ids == []
    assert made[0] == made[1]


def test_items_that_the_search_did_not_see_are_counted(store: Store) -> None:
    late = {"item_id": "z", "image_sha256": f"{0:064d}", "split": "test", "missing": False}
    rows = pa.Table.from_pylist([late], schema=items_schema(["label"]))
    store.items.append(
        rows.set_column(
            rows.schema.get_field_index("added"), "added", pa.array([2**52], pa.timestamp("us", "UTC"))
        )
    )
    store.items.delete("item_id", ["i00"])
    found = find_leakage(store)
    assert found.lower_bound
    assert "did not look at 1 item of train, dev, test (1 added since)" in found.notes[0]
    test = affected(found)["test"]
    assert (test.items, test.covered, test.share) == (5, 4, 0.75)
    assert found.splits["train"] == 1
    find_duplicates(store, feature=None, name="none", where="item_id = 'i01'")
    unknown = run("dups", "leakage", "-s", store.path, "-n", "none", "--max-leakage", "0.5")
    assert unknown.exit_code == 1
    assert "unknown: the search looked at none" in unknown.stderr


def test_a_limit_is_not_met_by_a_search_that_cannot_tell(store: Store) -> None:
    """Too few pairs written, or items that came or changed since: a small share proves nothing."""
    asked = ("dups", "leakage", "-s", store.path, "--max-leakage", "0.75")
    assert run(*asked).exit_code == 0
    find_duplicates(store, feature=None, max_pairs=1)
    capped = run(*asked)
    assert capped.exit_code == 1
    assert "at least 75.00%" in capped.stderr
    assert "stopped at its cap on pairs\n" in capped.stderr
    find_duplicates(store, feature=None)
    # Dev's i02 gets the content of train's i00: neither side of it was looked at as it is now.
    store.items.upsert(pa.table({"item_id": ["i02"], "image_sha256": [f"{0:064d}"]}), key="item_id")
    changed = run(*asked)
    assert changed.exit_code == 1
    report = split_items(store, keep_together=["duplicates"], column="fresh")
    assert "1 of 8 items has another content" in report.notes[0]
    assert (
        "1 item of train, dev, test with another content than the search 'default' compared" in changed.stderr
    )
    assert "is older than some items\n" in changed.stderr
    find_duplicates(store, feature=None)
    assert run(*asked).exit_code == 0
    # A file that was written again as it was is the same; a content that no other item has is another all the same.
    store.items.upsert(
        pa.table({"item_id": ["i06"], "mtime_ns": pa.array([2**62], pa.int64())}), key="item_id"
    )
    assert not find_leakage(store).outdated
    store.items.upsert(pa.table({"item_id": ["i06"], "image_sha256": ["e" * 64]}), key="item_id")
    found = find_leakage(store)
    assert (found.outdated, found.capped, found.lower_bound) == (True, False, True)


def test_items_without_what_is_compared_are_not_covered(store: Store) -> None:
    """A text beside no image is not shown to be clean by a search among images."""
    store.items.append(
        pa.Table.from_pylist(
            [{"item_id": "t", "text": "flood", "split": "test", "missing": False}],
            schema=items_schema(["label"]),
        )
    )
    find_duplicates(store, feature=None)
    found = find_leakage(store)
    test = affected(found)["test"]
    assert (test.items, test.covered, test.share) == (5, 4, 0.75)
    assert "1 item of train, dev, test without image" in found.notes[0]
    assert not found.lower_bound


def test_contents_that_had_no_vector_are_told(tmp_path: Path) -> None:
    rows = family_rows(20)
    store = family_store(tmp_path / "s", rows)
    find_duplicates(store, rule=0.9)
    column = pa.array(["train", "test"] * 10)
    splits = pa.table({"item_id": [row["item_id"] for row in rows], "split": column})
    store.items.upsert(splits, key="item_id")
    assert not any("no vector" in note for note in find_leakage(store).notes)
    new = {"item_id": "new", "image_sha256": "f" * 64, "phash": BASES[0], "split": "test", "missing": False}
    store.items.append(pa.Table.from_pylist([new], schema=items_schema()))
    find_duplicates(store, rule=0.9)
    found = find_leakage(store)
    assert any(f"1 item of train, test without a vector of {IMAGES}" in note for note in found.notes)
    assert found.lower_bound


@pytest.mark.parametrize("drop", ["train", "test"])
def test_no_more_leaves_than_leaks(tmp_path: Path, drop: Any) -> None:
    """A second dev split is judged against train alone, whatever letter case its name is in."""
    rows: list[Row] = [(0, 0, "train", None), (1, 0, "dev", None), (4, 1, "Dev_unseen", None)]
    store = make_store(tmp_path / "s", [*rows, (2, 0, "Test_unseen", None), (5, 1, "train", None)])
    find_duplicates(store, feature=None)
    found = find_leakage(store)
    assert [(a.split, a.against) for a in found.affected] == [
        ("dev", ["train"]),
        ("Dev_unseen", ["train"]),
        ("Test_unseen", ["train", "dev"]),
    ]
    assert found.worst is not None
    assert (found.worst.split, found.worst.ids) == ("Test_unseen", ["i03"])
    left = write_cleaned(store, tmp_path / "clean.csv", drop=drop)
    assert {split: count for split, count in left.items() if count} == (
        {"train": 1} if drop == "train" else {"Test_unseen": 1}
    )


@pytest.mark.parametrize("command", [["dups", "leakage"], ["split"]])
@pytest.mark.parametrize(
    ("column", "file", "says"),
    [
        ("item_id", "a.csv", "fills the column 'item_id' itself"),
        ("PHash", "a.csv", "fills the column 'PHash' itself"),
        ("", "a.csv", "a name that is not empty"),
        ("Label", "a.csv", "already there as 'label'"),
        ("clean", "a.json", "name it .csv or .parquet"),
        ("clean", "a", "name it .csv or .parquet"),
    ],
)
def test_files_are_such_as_join_takes(
    store: Store, tmp_path: Path, command: list[str], column: str, file: str, says: str
) -> None:
    result = run(*command, "-s", store.path, "--column", column, "-o", tmp_path / file)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert not (tmp_path / file).exists()


def test_the_command(store: Store, tmp_path: Path) -> None:
    shown = run("dups", "leakage", "-s", store.path, "--max-leakage", "0.75")
    assert shown.exit_code == 0, shown.output
    for expected in ("train + dev", "75.00%", "i03, i04, i05", "label: 2 of 4 labelled pairs"):
        assert expected in shown.stdout, expected
    over = run("dups", "leakage", "-s", store.path, "--max-leakage", "0.74")
    assert over.exit_code == 1
    assert "leakage of test is 75.00%, more than the 74.00% allowed" in over.stderr
    path = tmp_path / "clean.csv"
    report = json.loads(run("dups", "leakage", "-s", store.path, "-o", path, "--json").stdout)
    assert report["affected"][1]["ids"] == ["i03", "i04", "i05"]
    assert report["cleaned"] == {
        "path": str(path),
        "drop": "train",
        "left": {"train": 2, "dev": 1, "test": 0},
    }
    assert path.read_text().splitlines()[:3] == ["item_id,split", "i00,leaked", "i01,leaked"]
    other = json.loads(
        run("dups", "leakage", "-s", store.path, "-o", path, "--drop", "test", "--json").stdout
    )
    assert other["cleaned"]["left"] == {"train": 0, "dev": 0, "test": 3}
    assert run("join", path, "-s", store.path).exit_code == 0
    clean = run("dups", "leakage", "-s", store.path, "--max-leakage", "0")
    assert clean.exit_code == 0, clean.output


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["-n", "never"], 2, "there are: default"),
        (["--split-column", "fold"], 2, "no column 'fold' in items; there are: split, label"),
        (["--split-column", "label"], 2, "does not tell train from test; it has: calm (4), flood (3)"),
        (["--max-leakage", "15"], 2, "0 to 1"),
        (["--column", "clean"], 2, "--out"),
        (["--label", "colour"], 2, "no column 'colour'"),
    ],
)
def test_what_cannot_be_answered_is_said(store: Store, arguments: list[str], status: int, says: str) -> None:
    result = run("dups", "leakage", "-s", store.path, *arguments)
    assert result.exit_code == status, result.output
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_damaged_results_are_said(store: Store) -> None:
    (store.path / "dups" / "default" / "items.parquet").unlink()
    with pytest.raises(StoreError, match="dups find --name default"):
        find_leakage(store)


@pytest.mark.skipif(not CRISISMMD.is_dir(), reason="no annotation files of CrisisMMD")
def test_crisismmd_task_3_has_tweets_on_both_sides(tmp_path: Path) -> None:
    from icehouse.embed.pipeline import embed_sources
    from toys import ToyEncoder

    files = sorted(CRISISMMD.glob("task_damage_*.tsv"))
    options = SourceOptions(preset="crisismmd")
    embed_sources(files, tmp_path / "s", encoder=ToyEncoder(), options=options, only="text", workers=1)
    store = Store.open(tmp_path / "s")
    find_duplicates(store, feature="toy-a/text/pooled", rule=1.0)
    shared = store.query(
        "select count(*) as n from items where split = 'test' and tweet_id in "
        "(select tweet_id from items where split = 'train')"
    )["n"][0].as_py()
    test = affected(find_leakage(store))["test"]
    assert shared == 67
    assert test.by_split["train"] >= 67
    split_items(store, stratify="label", keep_together=["tweet_id", "duplicates"], column="fresh")
    assert all(a.ids == [] for a in find_leakage(store, split_column="fresh").affected)


def test_ids_may_hold_anything(tmp_path: Path) -> None:
    ids = ['a,"b"', "line\nend", "NULL", "007", " blank ", "", "é", "=1+1"]
    store = Store.create(tmp_path / "s")
    store.items.append(
        pa.table({"item_id": ids, "image_sha256": ["f" * 64] * len(ids), "split": ["train"] * 7 + ["test"]})
    )
    near = PairGraph(find_duplicates(store, feature=None))
    assert near.ids.to_pylist() == sorted(ids)
    assert near.near(ids, ["007"]).tolist() == [item != "007" for item in ids]
    assert near.near(["stranger", "007"], ["stranger", "007"]).tolist() == [False, False]
    write_cleaned(store, tmp_path / "clean.csv")
    assert join(store, tmp_path / "clean.csv").unmatched_rows == 0
    alone = PairGraph(find_duplicates(store, feature=None, where="item_id = '007'"))
    assert alone.ids.to_pylist() == ["007"]
    assert not alone.near(ids, ids).any()
    nothing = PairGraph(find_duplicates(Store.create(tmp_path / "empty"), feature=None))
    assert len(nothing.ids) == 0
    assert not nothing.near(ids, ids).any()
    # Copies need no search.
    assert split_items(store, keep_together=["duplicates"], column="fresh").groups["largest"] == 8
    assert affected(find_leakage(store, split_column="split"))["test"].share is None


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
