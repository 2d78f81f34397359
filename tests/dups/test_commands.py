"""`icehouse dups` as a user types it, on the sample feed with its planted reposts."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from dup_stores import family_rows, family_store
from icehouse.cli import app
from icehouse.data.sample_feed import Feed, make_feed
from icehouse.dups.evaluate import Score, Truth, evaluate_duplicates, read_truth
from icehouse.dups.find import find_duplicates
from icehouse.dups.pair_graph import Duplicates
from icehouse.dups.results import STAGES
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SourceError
from icehouse.store.store import Store
from toys import ToyEncoder
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return make_feed(tmp_path_factory.mktemp("feed"), n=120, seed=1)


@pytest.fixture(scope="module")
def embedded(feed: Feed, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("store") / "s"
    embed_sources([feed.posts], path, encoder=ToyEncoder(), workers=1)
    return Store.open(path)


@pytest.fixture(scope="module")
def truth(feed: Feed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("truth") / "pairs.csv"
    planted = json.loads(feed.truth.read_text())["duplicates"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b"])
        writer.writerows([pair["item"], pair["of"]] for pair in planted)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dups", *arguments])


@pytest.mark.slow
def test_planted_reposts_are_found(feed: Feed, embedded: Store, truth: Path) -> None:
    found = find_duplicates(embedded, feature="toy-a/image/joint", rule=0.9995)
    scores = evaluate_duplicates(found, read_truth(truth))
    planted = json.loads(feed.truth.read_text())["duplicates"]
    how = {frozenset((pair["item"], pair["of"])): pair["transform"] for pair in planted}
    pairs = {frozenset((row["id_a"], row["id_b"])): row for row in found.pairs().to_pylist()}
    exact = {pair for pair, transform in how.items() if transform == "exact"}
    assert exact
    assert {pair for pair, row in pairs.items() if row["kind"] == "exact"} == exact
    # What the hash is made to withstand, it finds.
    for pair, transform in how.items():
        if transform in ("recompress", "resize", "format"):
            assert pairs[pair]["perceptual"], transform
            assert pairs[pair]["cosine"] > 0.9
    assert scores["exact"]["precision"] == scores["perceptual"]["precision"] == 1
    assert scores["cascade"]["recall"] >= max(
        scores[kind]["recall"] for kind in ("exact", "perceptual", "embedding")
    )
    assert scores["positives"] >= len(planted)


@pytest.mark.slow
def test_find_and_evaluate(embedded: Store, truth: Path) -> None:
    arguments = ["-s", str(embedded.path), "--name", "cli", "--no-embedding"]
    result = run("find", *arguments)
    assert result.exit_code == 0, result.output
    assert "exact" in result.stdout
    assert "drop.csv" in result.stdout
    assert "no embedding stage" in result.stderr
    summary = json.loads(run("find", *arguments, "--json").stdout)
    assert summary["path"] == str(embedded.path / "dups" / "cli")
    assert summary["pairs"]["by_kind"]["embedding"] == 0
    assert summary["pairs"]["by_kind"]["exact"] > 0
    shown = run("evaluate", "-s", str(embedded.path), "-n", "cli", "--truth", str(truth))
    assert shown.exit_code == 0, shown.output
    assert "perceptual" in shown.stdout
    scores = json.loads(
        run("evaluate", "-s", str(embedded.path), "-n", "cli", "--truth", str(truth), "--json").stdout
    )
    assert scores["embedding"]["found"] == 0
    assert scores["cascade"]["right"] + scores["cascade"]["missed"] == scores["positives"]


@pytest.mark.slow
def test_what_decides_is_told(embedded: Store) -> None:
    result = run("find", "-s", str(embedded.path), "--name", "own", "--json")
    assert result.exit_code == 0
    assert "stand out among their own neighbours" in result.stderr
    assert "dups calibrate" in result.stderr
    assert json.loads(result.stdout)["parameters"]["feature"] == "toy-a/image/pooled"
    result = run("find", "-s", str(embedded.path), "--name", "given", "-t", "0.99", "--json")
    assert "neighbours" not in result.stderr
    assert json.loads(result.stdout)["parameters"]["cosine_from"] == "given"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["find", "--group", "louvain"], "louvain", 2),
        (["find", "--keeper", "beauty"], "beauty", 2),
        (["find", "--hamming", "50"], "Hamming", 2),
        (["find", "--feature", "no/such/thing"], "toy-a/image/pooled", 2),
        (["find", "--no-embedding", "-t", "0.9"], "--no-embedding", 2),
        (["find", "--no-embedding", "--engine", "faiss"], "--no-embedding", 2),
        (["find", "--no-perceptual", "--hamming", "4"], "--no-perceptual", 2),
        (["find", "--no-perceptual", "--views"], "left out", 2),
        (["find", "--where", "nonsense ="], "nonsense", 2),
        (["evaluate", "--truth", "nowhere.csv"], "nowhere.csv", 1),
        (["evaluate", "--name", "never", "--truth", "x"], "never", 2),
    ],
)
def test_errors_are_one_line(embedded: Store, arguments: list[str], says: str, status: int) -> None:
    if arguments[-1] == "nowhere.csv":
        find_duplicates(embedded, feature=None)
    result = run(*arguments, "-s", str(embedded.path))
    assert result.exit_code == status, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    if status == 1:
        assert len(result.stderr.strip().splitlines()) == 1


def known(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_truth_is_closed_and_a_labelled_one_is_not(tmp_path: Path) -> None:
    whole = read_truth(known(tmp_path / "w.csv", "a,b\ny,x\ny,z\nx,x\n"))
    assert whole.positive == {("x", "y"), ("y", "z"), ("x", "z")}
    assert whole.negative is None
    labelled = read_truth(known(tmp_path / "l.csv", "a,b,label\ny,x,1\ny,z,yes\nx,z,0\n"))
    assert labelled.positive == {("x", "y"), ("y", "z")}
    assert labelled.negative == {("x", "z")}


def test_scores() -> None:
    score = Score.of(found=8, right=6, positives=10)
    assert (score.precision, score.recall, score.missed) == (0.75, 0.6, 4)
    assert score.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert Score.of(0, 0, 3).precision is None
    assert Score.of(0, 0, 0).f1 is None


@pytest.mark.slow
def test_copies_count_with_all_their_pairs(embedded: Store, tmp_path: Path) -> None:
    """Three copies are two rows of pairs.parquet, and three pairs to be right about."""
    store = Store.create(tmp_path / "s")
    import pyarrow as pa

    ids, contents = ["a", "b", "c", "d", "e"], ["1", "1", "1", "2", "3"]
    hashes = pa.array([0xB2CDCD3232CDCD30] * 3 + [0xB2CDCD3232CDCD31, 0x4D3232CDCD3232CF], pa.uint64())
    store.items.append(
        pa.table({"item_id": ids, "image_sha256": contents, "phash": hashes, "missing": [False] * 5})
    )
    found = find_duplicates(store)
    assert found.pairs().num_rows == 3
    scores = evaluate_duplicates(
        Duplicates.open(store), read_truth(known(tmp_path / "t.csv", "a,b\na,b\na,c\nc,d\n"))
    )
    assert scores["positives"] == 6
    assert (scores["exact"]["found"], scores["exact"]["right"]) == (3, 3)
    assert (scores["perceptual"]["found"], scores["perceptual"]["right"]) == (6, 6)
    assert scores["cascade"]["f1"] == 1
    labelled = read_truth(known(tmp_path / "l.csv", "a,b,label\nb,d,0\na,b,1\nd,e,1\n"))
    judged = evaluate_duplicates(found, labelled)
    assert (judged["cascade"]["found"], judged["cascade"]["right"], judged["negatives"]) == (2, 1, 1)


def test_a_pair_by_pair_count_says_the_same(tmp_path: Path) -> None:
    """Copies beside near-duplicates of copies, and truths that cut across contents."""
    rows = family_rows(90, families=4)
    store = family_store(tmp_path / "s", rows)
    found = find_duplicates(store, rule=0.97, hamming=3)
    best = {row["item_id"]: row["copy_of"] or row["item_id"] for row in found.clusters().to_pylist()}
    flags = {}
    for row in found.pairs().to_pylist():
        ends = [best.get(row[side], row[side]) for side in ("id_a", "id_b")]
        flags[frozenset(ends)] = {kind for kind in STAGES if row[kind]} | {"cascade"}
    ids = [row["item_id"] for row in rows]
    every = {
        pair: flags.get(frozenset(best.get(item, item) for item in pair), set())
        for pair in itertools.combinations(sorted(ids), 2)
    }
    rng = np.random.default_rng(0)
    some = [pair for pair in every if rng.random() < 0.1]
    labels = {pair: rng.random() < 0.5 for pair in some}
    whole = Truth(frozenset(some), None)
    listed = Truth(
        frozenset(p for p in some if labels[p]) | {("item 0001", "nobody")},
        frozenset(p for p in some if not labels[p]),
    )
    for truth in (whole, listed):
        scores = evaluate_duplicates(found, truth)
        judged = every if truth.negative is None else {p: every[p] for p in some}
        for name in (*STAGES, "cascade"):
            hits = {pair for pair, stages in judged.items() if name in stages}
            assert scores[name]["found"] == len(hits) > 0
            assert scores[name]["right"] == len(hits & truth.positive)
    assert scores["unknown"] == ["nobody"]


@pytest.mark.slow
def test_a_truth_of_another_store_is_told_so(embedded: Store, truth: Path, tmp_path: Path) -> None:
    find_duplicates(embedded, name="some", feature=None, where="item_id < 'post-0060'")
    named = known(tmp_path / "t.csv", truth.read_text() + "post-0001,images/post-0002.jpg\n")
    result = run("evaluate", "-s", str(embedded.path), "-n", "some", "--truth", str(named), "--json")
    assert "1 id of" in result.stderr
    assert "'images/post-0002.jpg'" in result.stderr
    assert "only items where item_id < 'post-0060'" in result.stderr
    assert json.loads(result.stdout)["unknown"] == ["images/post-0002.jpg"]
    other = known(tmp_path / "o.csv", "a,b\nx.jpg,y.jpg\n")
    result = run("evaluate", "-s", str(embedded.path), "-n", "some", "--truth", str(other))
    assert result.exit_code == 1
    assert "none of the truth's ids, such as 'x.jpg'" in result.stderr


def test_a_truth_so_large_that_its_pairs_fill_memory_is_refused(tmp_path: Path) -> None:
    chain = "".join(f"{k},{k + 1}\n" for k in range(3200))
    with pytest.raises(SourceError, match="5,121,600 pairs follow"):
        read_truth(known(tmp_path / "t.csv", "a,b\n" + chain))


@pytest.mark.parametrize(
    "text",
    [
        "a,b,label\n1,2,\n",
        "a,b,label\n1,2,1\n2,1,0\n",
        "",
        "a,c\n1,2\n",
        "a,b,label\n1,2,perhaps\n",
        "a,b\n1,\n",
    ],
)
def test_a_truth_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"t\.csv"):
        read_truth(known(tmp_path / "t.csv", text))


def test_a_truth_has_one_spelling_in_every_format(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known_ids = pa.chunked_array([["1", "2", "e\u0301.jpg"]])
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [2, 1], "label": [True, True]}), tmp_path / "t.parquet")
    (tmp_path / "t.tsv").write_text("a\tb \tlabel\n1.0\t 2\t1.0\n")
    for name in ("t.parquet", "t.tsv"):
        assert read_truth(tmp_path / name, known_ids).positive == {("1", "2")}, name
    (tmp_path / "p.csv").write_text("a,b\n\u00e9.jpg,1\n", encoding="utf-8")
    assert read_truth(tmp_path / "p.csv", known_ids).positive == {("1", "e\u0301.jpg")}
    (tmp_path / "f.csv").write_text("a,b\n9.177910441581855e+17,1\n")
    with pytest.raises(SourceError, match=r"f\.csv, row 2: the id .* lost digits"):
        read_truth(tmp_path / "f.csv")
