"""Which runs a leaderboard shows, and on which rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.heads.compare import compare
from icehouse.heads.package import stored_rows
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.store.files import write_sums
from icehouse.store.store import Store
from quick import Make
from shell import ran, told
from sklearn.metrics import accuracy_score, f1_score

BASE = 0xB2CDCD3232CDCD30
FIXED = {"C": 1.0, "unit": False}
ONLINE = {"rate": 4.0, "penalty": 1e-4, "max_passes": 3}


def embedded_again(run: Run) -> Run:
    """The run, as if the store's features of that name were meanwhile made by another encoder."""
    record = json.loads((run.path / "run.json").read_text())
    for given in record["inputs"].values():
        given["fingerprint"] = given["spec"]["fingerprint"] = "f" * 16
    (run.path / "run.json").write_text(json.dumps(record))
    write_sums(run.path)
    return Run(run.path)


def rows_of(run: Run) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in run.predictions().to_pylist() if row["split"] == "test"}


def test_runs_on_features_that_were_embedded_again_have_no_latency(make_store: Make) -> None:
    store = make_store(120)
    run = train(store, "logreg", inputs="image")
    assert stored_rows(store, run) is not None
    old = embedded_again(run)
    assert stored_rows(store, old) is None
    board = compare(store, [old, train(store, "logreg", inputs="text")])
    assert {entry.inputs: entry.latency is None for entry in board.entries} == {"image": True, "text": False}
    # Features of another space are another entry.
    assert len(compare(store, [old, train(store, "logreg", inputs="image")], latency=False).entries) == 2


def test_a_run_that_learned_from_dev_too_is_another_entry(make_store: Make) -> None:
    store = make_store(120)
    runs = [train(store, "logreg", refit=refit) for refit in (True, False)]
    board = compare(store, runs)
    assert sorted(entry.refit for entry in board.entries) == [False, True]
    assert not board.notes
    assert ran(store, "compare", *(run.run_id for run in runs)).stdout.count("logreg (refit)") == 1


def test_runs_that_are_not_shown_are_named(make_store: Make) -> None:
    store = make_store(120)
    first, last = train(store, "logreg", inputs="image"), train(store, "logreg", inputs="image")
    untested = train(store, "logreg", where="split <> 'test'")
    board = compare(store, [first, last, untested])
    assert [run.run_id for entry in board.entries for run in entry.runs] == [last.run_id]
    assert any("1 run has no scores on test" in note and untested.run_id in note for note in board.notes)
    assert any(f"{first.run_id} by {last.run_id}" in note for note in board.notes)
    assert not compare(store, [first]).notes
    arguments = ("compare", first.run_id, untested.run_id)
    assert f"cannot be compared: {untested.run_id}" in ran(store, *arguments).stdout
    assert untested.run_id in told(store, *arguments)["notes"][0]


def with_hashes(store: Store, hashes: dict[str, int]) -> None:
    column = pa.array([BASE ^ bits for bits in hashes.values()], pa.uint64())
    store.items.upsert(pa.table({"item_id": list(hashes), "phash": column}), key="item_id")
    find_duplicates(store, feature=None)


def test_no_duplicates_is_about_the_shared_rows(make_store: Make) -> None:
    """p011 is a copy of train's p002, p009 and p010 have near-duplicates in train and dev."""
    store = make_store(120, copies={11: 2})
    runs = [train(store, "logreg", inputs="image,text"), train(store, "knn", inputs="text")]
    runs.append(train(store, "logreg", inputs="image", where="item_id <> 'p022'"))
    board = compare(store, runs, latency=False)
    assert board.rows == 29
    assert (board.deduplicated.kind, board.deduplicated.searches, len(board.deduplicated.rows)) == (
        "copies",
        [],
        28,
    )
    with_hashes(store, {"p000": 0, "p009": 0b11, "p006": 0xFF00FF00, "p010": 0xFF00FF01})
    board = compare(store, runs, latency=False)
    assert (board.deduplicated.kind, board.deduplicated.searches, len(board.deduplicated.rows)) == (
        "near-duplicates",
        ["default"],
        26,
    )
    left = sorted(set.intersection(*(set(rows_of(run)) for run in runs)) - {"p009", "p010", "p011"})
    for entry in board.entries:
        rows = [rows_of(entry.runs[0])[item] for item in left]
        expected = f1_score([r["y"] for r in rows], [r["predicted"] for r in rows], average="macro")
        assert entry.deduplicated is not None
        assert entry.deduplicated.value == pytest.approx(expected, abs=1e-6)
        assert entry.deduplicated.low <= entry.deduplicated.value <= entry.deduplicated.high
        assert entry.deduplicated.rows == 26
    found = board.as_json()
    assert found["without_duplicates"]["kind"] == "near-duplicates"
    assert set(found["leaderboard"][0]["without_duplicates"]) == {"value", "low", "high", "rows"}
    assert compare(store, runs, dups="none", latency=False).deduplicated.kind == "copies"
    assert "no near-duplicates (26 rows)" in " ".join(ran(store, "compare").stdout.split())


def test_where_every_row_has_a_duplicate_there_is_no_score_without(make_store: Make) -> None:
    store = make_store(120, copies={i: i % 3 for i in range(120) if i // 3 % 4 == 3})
    run = train(store, "logreg", inputs="image")
    board = compare(store, [run])
    assert board.entries[0].deduplicated is None
    assert board.as_json()["leaderboard"][0]["without_duplicates"] is None
    assert any("every one of the 30 rows has a copy" in note for note in board.notes)
    with_hashes(store, {f"p{i:03d}": i % 2 for i in range(120)})
    board = compare(store, [run])
    assert board.entries[0].deduplicated is None
    assert any("has a near-duplicate" in note for note in board.notes)


def test_groups_have_scores_with_intervals(make_store: Make) -> None:
    store = make_store(240)
    runs = [train(store, "logreg", inputs=inputs) for inputs in ("image", "text")]
    board = compare(store, runs, metric="weighted_f1", group_by="event", latency=False)
    for entry in board.entries:
        rows = list(rows_of(entry.runs[0]).items())
        for value, (scores, n) in entry.groups.items():
            some = [row for item, row in rows if f"event {int(item[1:]) % 2}" == value]
            y, predicted = [row["y"] for row in some], [row["predicted"] for row in some]
            assert len(some) == n
            assert set(scores) == {"weighted_f1", "macro_f1", "accuracy"}
            for name, expected in (
                ("accuracy", accuracy_score(y, predicted)),
                ("macro_f1", f1_score(y, predicted, average="macro")),
                ("weighted_f1", f1_score(y, predicted, average="weighted")),
            ):
                assert scores[name].value == pytest.approx(expected, abs=1e-6)
                assert scores[name].low <= scores[name].value <= scores[name].high
                assert scores[name].low < scores[name].high or expected in (0, 1)
    group = told(store, "compare", "-g", "event")["leaderboard"][0]["groups"]["event 0"]
    assert set(group) == {"rows", "macro_f1", "accuracy"}
    assert set(group["accuracy"]) == {"value", "low", "high", "rows"}


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.json", "predictions.parquet", "training.parquet", "head/head.json"]
)
def test_one_damaged_run_costs_no_other(make_store: Make, name: str) -> None:
    store = make_store(60)
    good, bad = (train(store, "logreg", inputs=one, params={"C": 1.0}, draws=5) for one in ("image", "text"))
    path = bad.path / name
    data = path.read_bytes()
    for harm in ("flipped", "empty", "gone", "older"):
        if harm == "gone":
            path.unlink()
        elif harm == "flipped":
            path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
        else:
            path.write_bytes(b"" if harm == "empty" else b"{}")
        if harm == "older":  # a run without checksums is known by what it lacks
            for sums in bad.path.rglob("SHA256SUMS"):
                sums.unlink()
        board = told(store, "compare", "--draws", "5")
        kept = {run for entry in board["leaderboard"] for run in entry["runs"]}
        if harm == "older" and name.startswith("head"):
            # Compared by its predictions; only its latency is not known.
            assert kept == {good.run_id, bad.run_id}, harm
        else:
            assert kept == {good.run_id}, harm
            assert [note for note in board["notes"] if note.startswith("left out: ") and bad.run_id in note]
        assert good.run_id in {row["run_id"] for row in told(store, "runs")}


def dev_of(run: Run) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in run.predictions().to_pylist() if row["split"] == "dev"}


def test_dev_scores_of_other_rows_are_taken_again_on_common_ones(make_store: Make) -> None:
    store = make_store(240)
    whole = train(store, inputs="image", params=FIXED)
    part = train(store, inputs="text", params=FIXED, where="split != 'dev' or event = 'event 0'")
    common = sorted(dev_of(part))
    assert 0 < len(common) < len(dev_of(whole))
    board = compare(store, [whole, part], latency=False)
    expected = {}
    for run in (whole, part):
        rows = dev_of(run)
        y, said = ([rows[item][name] for item in common] for name in ("y", "predicted"))
        expected[run.run_id] = f1_score(y, said, average="macro")
    assert {entry.runs[0].run_id: entry.dev for entry in board.entries} == pytest.approx(expected)
    assert board.entries[0].dev == max(expected.values())
    assert expected[whole.run_id] != pytest.approx(whole.metrics["dev"]["macro_f1"]["value"])
    assert any(f"share: {len(common)} (seed 0)" in note for note in board.notes)
    assert board.as_json()["dev_comparable"] is True


def test_dev_scores_without_a_common_row_are_not_comparable(make_store: Make) -> None:
    store = make_store(240)
    image, text = (
        train(store, inputs=inputs, params=FIXED, where=f"split != 'dev' or event = '{event}'")
        for inputs, event in (("image", "event 0"), ("text", "event 1"))
    )
    board = compare(store, [image, text], latency=False)
    assert not board.dev_comparable
    assert any("NOT COMPARABLE" in note for note in board.notes)
    tests = [entry.test for entry in board.entries]
    assert tests == sorted(tests, reverse=True)
    out = ran(store, "compare", image.run_id, text.run_id).stdout
    assert "dev (not comparable)" in out
    assert "on test, since dev scores are not comparable" in out


def test_runs_whose_dev_was_held_out_by_seed_are_compared_seed_by_seed(make_store: Make) -> None:
    store = make_store(240, split=lambda i: "test" if i % 4 == 3 else "train")
    runs = [
        train(store, "online", params=ONLINE, inputs=inputs, seed=seed)
        for inputs in ("image", "text")
        for seed in (0, 1)
    ]
    board = compare(store, runs, latency=False)
    # Of one seed the rows are the same, of two they are not.
    assert board.dev_comparable
    for entry in board.entries:
        own = [run.metrics["dev"]["macro_f1"]["value"] for run in entry.runs]
        assert entry.dev == pytest.approx(np.mean(own), abs=1e-6)
    apart = compare(store, [runs[0], runs[3]], latency=False)
    assert apart.dev_comparable == bool(set(dev_of(runs[0])) & set(dev_of(runs[3])))
    assert any("dev rows" in note or "NOT COMPARABLE" in note for note in apart.notes)


def test_means_are_over_the_seeds_that_all_have(make_store: Make) -> None:
    store = make_store(120)
    one = [train(store, "online", params=ONLINE, inputs="text", seed=seed) for seed in (0, 1)]
    two = train(store, "online", params=ONLINE, inputs="image", seed=1)
    board = compare(store, [*one, two], latency=False)
    dev = {entry.inputs: entry.dev for entry in board.entries}
    assert dev["text"] == pytest.approx(one[1].metrics["dev"]["macro_f1"]["value"])
    assert any("seeds that all of them have: 1" in note for note in board.notes)
    board = compare(store, [one[0], two], latency=False)
    assert any("no seed in common (0; 1)" in note for note in board.notes)
