from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from icehouse.errors import HeadError, SpaceError, UsageError
from icehouse.heads.compare import compare
from icehouse.heads.runs import Run, list_runs, write_folder
from icehouse.heads.trainer import (
    RunSettings,
    evaluate,
    fit_on,
    make_head,
    predict_items,
    prepare,
    save_run,
    train,
)
from icehouse.store.files import write_sums
from icehouse.store.store import Store
from quick import Make


def test_runs_are_found_by_id_part_and_last(make_store: Make) -> None:
    store = make_store(60)
    assert list_runs(store) == []
    with pytest.raises(HeadError, match="icehouse train"):
        Run.load(store, "latest")
    first, second = train(store), train(store, inputs="text")
    assert first.run_id != second.run_id
    assert {run.run_id for run in list_runs(store)} == {first.run_id, second.run_id}
    for name in (first.run_id, first.run_id[-4:]):
        assert Run.load(store, name).run_id == first.run_id
    assert Run.load(store.path, "latest").run_id == list_runs(store.path)[-1].run_id
    with pytest.raises(HeadError, match="fits several runs"):
        Run.load(store, "logreg")
    with pytest.raises(HeadError, match=f"is no run of .*{second.run_id}"):
        Run.load(store, "nosuch")


def test_latest_is_the_run_that_was_started_last(make_store: Make) -> None:
    store = make_store(60)
    rows = prepare(store)
    head = make_head("logreg", {"C": 1.0})
    fitted = fit_on(rows, head)
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def left(started: datetime) -> Run:
        return save_run(rows, head, fitted, RunSettings(draws=0), started=started)

    # The one that was started first ends last, and names sort by chance where the second is the same.
    late, early = left(noon + timedelta(minutes=5)), left(noon)
    assert Run.load(store, "latest").run_id == late.run_id
    same = [left(noon + timedelta(minutes=6)) for _ in range(6)]
    assert [run.record["number"] for run in same] == [3, 4, 5, 6, 7, 8]
    assert [run.run_id for run in list_runs(store)] == [run.run_id for run in (early, late, *same)]
    assert Run.load(store, "latest").run_id == same[-1].run_id
    # A run of before `started_at` and `number` has its place by when it was made.
    record = json.loads((same[2].path / "run.json").read_text())
    del record["started_at"], record["number"]
    record["created_at"] = "2026-01-01T12:01:00+00:00"
    (same[2].path / "run.json").write_text(json.dumps(record))
    write_sums(same[2].path)
    assert [run.run_id for run in list_runs(store)][1] == same[2].run_id


def test_another_space_is_refused_and_both_are_named(make_store: Make) -> None:
    run = train(make_store(60))
    mine = run.specs
    run.check_space({**mine, "caption": {}})
    other = {**mine["text"], "encoder": "other", "fingerprint": "f" * 16}
    with pytest.raises(SpaceError, match=rf"text.*toy.*{mine['text']['fingerprint']}.*other.*{'f' * 16}"):
        run.check_space({**mine, "text": other})
    with pytest.raises(SpaceError, match="joint"):
        run.check_space({**mine, "text": {**mine["text"], "output": "joint"}})
    with pytest.raises(HeadError, match="needs the input 'text'"):
        run.check_space({"image": mine["image"]})


def test_a_store_of_another_space_is_refused(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(make_store(60))
    record = json.loads((run.path / "run.json").read_text())
    record["inputs"]["image"]["spec"]["fingerprint"] = "0" * 16
    (run.path / "run.json").write_text(json.dumps(record))
    write_sums(run.path)
    store = Store.open(run.path.parents[1])
    for attempt in (lambda: evaluate(store, run.run_id), lambda: predict_items(store, run.run_id)):
        with pytest.raises(SpaceError, match="0000000000000000"):
            attempt()


def test_evaluating_again_gives_the_same(make_store: Make) -> None:
    store = make_store(120, copies={9: 0, 10: 1, 11: 2})
    run = train(store)
    result = evaluate(store, run.run_id, split="test")
    for name in ("accuracy", "macro_f1", "auroc", "log_loss", "without_copies", "per_class", "majority"):
        assert result.metrics[name] == run.metrics["test"][name], name
    assert result.metrics["in_training"] == 0
    assert result.path.parent == run.path / "evaluations"
    assert json.loads((result.path / "metrics.json").read_text()) == result.metrics
    assert (result.path / "predictions.parquet").exists()


def test_evaluating_other_rows_and_labels(make_store: Make) -> None:
    store = make_store(120)
    run = train(store)
    everything = evaluate(store, run, split=None)
    assert everything.metrics["n"] == 120
    assert everything.metrics["in_training"] == 90
    some = evaluate(store, run, split=["validation", "test"], where="event = 'event 0'")
    assert some.metrics["n"] == 30
    assert some.metrics["in_training"] == 20
    with pytest.raises(UsageError, match="'final'; there are: dev, test, train"):
        evaluate(store, run, split="final")
    with pytest.raises(HeadError, match="did you mean 'event'"):
        evaluate(store, run, label="evnt")


def test_predicting_items_needs_no_label(make_store: Make) -> None:
    store = make_store(60, no_text=(2,))
    run = train(store)
    table = predict_items(store, run, where="item_id < 'p005'")
    assert table["item_id"].to_pylist() == ["p000", "p001", "p003", "p004"]
    assert predict_items(store, "latest").num_rows == 59


def test_a_feature_that_is_gone_is_named(make_store: Make) -> None:
    run = train(make_store(60), inputs="text")
    other = make_store(12, outputs=("joint",), name="other")
    with pytest.raises(HeadError, match=r"needs toy/text/pooled .* this store has: toy/image/joint"):
        predict_items(other, run)


def test_a_run_is_whole_or_not_there(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(60)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(HeadError, match="No space left"):
            train(store)
    assert [path.name for path in (store.path / "runs").iterdir()] == [".lock"]
    assert list_runs(store) == []


def test_names_of_folders_are_not_taken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("icehouse.heads.runs.secrets.token_hex", lambda n: next(draws))
    paths = [write_folder(tmp_path, "x", lambda folder: None) for _ in range(2)]
    assert [path.name for path in paths] == ["x-aaaa", "x-bbbb"]


def test_damaged_runs_are_one_line(make_store: Make) -> None:
    store = make_store(60)
    run = train(store)
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**record, "format": 99}))
    write_sums(run.path)
    with pytest.raises(HeadError, match="format 99"):
        Run.load(store, "latest")
    (run.path / "run.json").write_text("{")
    with pytest.raises(HeadError, match="cannot be read"):
        Run.load(store, "latest")
    (run.path / "run.json").write_text(json.dumps(record))
    write_sums(run.path)
    (run.path / "metrics.json").unlink()
    with pytest.raises(HeadError, match=r"no metrics\.json"):
        Run.load(store, "latest")


def test_labels_of_another_task_are_refused(make_store: Make) -> None:
    store = make_store(120)
    run = train(store, params={"C": 1.0, "unit": False})
    another = r"'event' is about another task .*'calm', 'flood', 'quake'.*'event 0'"
    with pytest.raises(HeadError, match=another):
        evaluate(store, run, label="event")
    assert evaluate(store, run, label="label").metrics["n"] == 30
    # Of the run's own column, labels that it never saw are errors, not another task.
    again = train(store, params={"C": 1.0, "unit": False}, where="split != 'train' or label != 'quake'")
    assert evaluate(store, again).metrics["unseen"] == {"quake": 10}


def test_the_majority_is_that_of_training_wherever_it_is_scored(make_store: Make) -> None:
    """Though the scored rows have another commonest label, or none of training's."""
    store = make_store(
        120, label=lambda i: "flood" if i // 3 % 4 == 3 and i % 3 else "calm" if i % 3 else "quake"
    )
    run = train(store, "logreg", inputs="image", draws=5)
    assert (run.majority, run.metrics["test"]["majority"]["accuracy"]) == ("calm", 0)
    again = evaluate(store, run, draws=5).metrics["majority"]
    assert again == run.metrics["test"]["majority"]
    held = evaluate(store, run, split=None, where="label = 'quake'", draws=5).metrics
    assert (held["majority"]["label"], held["majority"]["accuracy"]) == ("calm", 0)
    assert evaluate(store, run, split="train", draws=5).metrics["majority"]["accuracy"] == pytest.approx(
        2 / 3
    )
    board = compare(store, [run], metric="accuracy", draws=5, latency=False)
    assert (board.majority_label, board.majority) == ("calm", 0)
