from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads import registry
from icehouse.heads.compare import compare, find_runs
from icehouse.heads.families.linear import LogReg
from icehouse.heads.head import Head
from icehouse.heads.inputs import InputError, Inputs
from icehouse.heads.runs import Run, list_runs
from icehouse.heads.sweep import combinations, parse_grid, sweep, trials
from icehouse.heads.trainer import train
from quick import Make


class Noisy(LogReg):
    """A head whose seeds differ, that counts its fits, and refuses a single input if asked to."""

    family = "noisy"
    stochastic = True
    fits: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, *, C: float = 1.0, seed: int = 0, alone: bool = True) -> None:
        super().__init__(C=C, unit=False, seed=seed)
        self.alone = alone

    def _fit(self, X: Inputs, y: np.ndarray, val: Any, sample_weight: Any) -> Mapping[str, Any] | None:
        if not self.alone and len(X.names) < 2:
            raise InputError("noisy takes two inputs: with one there is nothing to fuse")
        Noisy.fits.append(("+".join(X.names), self.seed))
        rng = np.random.default_rng(self.seed)
        kept = np.flatnonzero(rng.random(len(y)) < 0.8)
        super()._fit(X[kept], y[kept], None, None)
        return {}

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        return {"C": 1.0, "seed": 0, "alone": True}


@pytest.fixture(autouse=True)
def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    Noisy.fits.clear()
    families = {"logreg": "families.linear:LogReg", "noisy": "noisy"}
    monkeypatch.setattr(registry, "FAMILIES", families)
    real = registry.head_class

    def head_class(family: str) -> type[Head]:
        return Noisy if family == "noisy" else real(family)

    for module in ("registry", "head", "sweep", "compare"):
        monkeypatch.setattr(f"icehouse.heads.{module}.head_class", head_class)


def test_the_best_on_dev_is_scored_on_test_once_for_every_seed(make_store: Make) -> None:
    store = make_store(240)
    done = sweep(store, ["logreg", "noisy"], inputs="image+text,image,text", seeds=3)
    inputs = ("image+text", "image", "text")
    expected = [f"{family} on {one}" for family in ("logreg", "noisy") for one in inputs]
    assert [str(result.trial) for result in done.results] == expected
    assert {family: len(runs) for family, runs in done.winners.items()} == {"logreg": 1, "noisy": 3}
    for family, runs in done.winners.items():
        own = {r.trial.inputs: r.value("macro_f1") or 0.0 for r in done.results if r.trial.family == family}
        assert "+".join(runs[0].features) == max(own, key=lambda name: own[name])
        assert [run.record["seed"] for run in runs] == list(range(len(runs)))
    assert len(list_runs(store)) == 4
    for run in done.winners["noisy"]:
        result = next(r for r in done.results if r.trial.key == run.record["sweep"]["trial"])
        assert run.metrics["dev"]["macro_f1"]["value"] == result.seeds[run.record["seed"]]["dev"]["macro_f1"]
    assert not (done.record.path / "heads").exists()
    # A winner is what `train` would have made.
    (run,) = done.winners["logreg"]
    alone = train(store, "logreg", inputs=list(run.features))
    assert (run.metrics["test"], run.head.chosen_) == (alone.metrics["test"], alone.head.chosen_)


def test_nothing_is_done_twice(make_store: Make) -> None:
    store = make_store(120)
    first = sweep(store, ["noisy"], inputs="image,text", seeds=2)
    assert len(Noisy.fits) == 4
    runs = len(list_runs(store))
    again = sweep(store, ["noisy"], inputs="image,text", seeds=2)
    assert len(Noisy.fits) == 4
    assert len(list_runs(store)) == runs
    assert [r.as_json() for r in again.results] == [r.as_json() for r in first.results]
    more = sweep(store, ["noisy", "logreg"], inputs="image,text,image+text", seeds=3)
    missing = [("image", 2), ("text", 2), *(("image+text", seed) for seed in range(3))]
    assert sorted(Noisy.fits[4:]) == sorted(missing)
    assert set(more.winners) == {"noisy", "logreg"}


def test_a_kill_loses_nothing_and_shows_test_once(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from icehouse.heads import sweep as module

    store = make_store(120)
    whole = sweep(store, ["noisy"], inputs="image", seeds=3, name="whole")
    Noisy.fits.clear()
    real_fit, real_save, saved = Noisy._fit, module.save_run, []

    def dies_fitting(self: Noisy, *args: Any) -> Any:
        if len(Noisy.fits) == 2:
            raise KeyboardInterrupt
        return real_fit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Noisy, "_fit", dies_fitting)
        with pytest.raises(KeyboardInterrupt):
            sweep(store, ["noisy"], inputs="image", seeds=3)

    def dies_saving(*args: Any, **kwargs: Any) -> Run:
        if saved:
            raise KeyboardInterrupt
        saved.append(real_save(*args, **kwargs))
        return saved[0]

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_run", dies_saving)
        with pytest.raises(KeyboardInterrupt):
            sweep(store, ["noisy"], inputs="image", seeds=3)
    assert [seed for _, seed in Noisy.fits] == [0, 1, 2]
    done = sweep(store, ["noisy"], inputs="image", seeds=3)
    assert [seed for _, seed in Noisy.fits] == [0, 1, 2]
    assert [run.record["seed"] for run in done.winners["noisy"]] == [0, 1, 2]
    assert done.winners["noisy"][0].run_id == saved[0].run_id
    assert len(list_runs(store)) == 3 + 3
    values = [[r.value("macro_f1") for r in one.results] for one in (whole, done)]
    assert values[0] == values[1]


def test_a_later_sweep_of_less_does_not_dethrone_a_better_trial(make_store: Make) -> None:
    store = make_store(240, no_text=(0, 1, 2))
    (before,) = sweep(store, ["logreg"], inputs="image+text,text").winners["logreg"]
    assert "+".join(before.features) == "image+text"
    again = sweep(store, ["logreg"], inputs="text")
    assert [run.run_id for run in again.winners["logreg"]] == [before.run_id]
    assert len(list_runs(store)) == 1


def test_trials_with_more_seeds_are_compared_by_those_that_all_have(make_store: Make) -> None:
    store = make_store(120)
    done = sweep(store, ["noisy"], inputs="image,text", seeds=2)
    image, text = done.results
    for result, scores in ((image, (0.5, 0.9)), (text, (0.6,))):
        for seed, score in enumerate(scores):
            result.seeds[seed]["dev"]["macro_f1"] = score
        for seed in range(len(scores), 2):
            del result.seeds[seed]
        done.record.save_trial(result.trial, result.as_json())
    # By its mean of two seeds the image leads; by the seed that both have, the text does.
    again = sweep(store, ["noisy"], inputs="image,text", seeds=1)
    assert {run.features.get("text") for run in again.winners["noisy"]} == {"toy/text/pooled"}


def test_trials_that_share_no_seed_are_not_compared(make_store: Make) -> None:
    store = make_store(120)
    # C by name: the first of all trials in the order of names must not win by default.
    first = sweep(store, ["noisy"], inputs="text", seeds=[7], grid={"noisy": {"C": [0.0001]}}, report=False)
    assert first.notes == []
    grid = {"noisy": {"C": [1e-5, 1.0]}}
    done = sweep(store, ["noisy"], inputs="image+text", seeds=[0, 1], grid=grid, report=False)
    good = next(result for result in done.results if result.trial.params["C"] == 1.0)
    assert done.best == {"noisy": good.trial.key}
    assert [run.record["head"]["params"]["C"] for run in done.winners["noisy"]] == [1.0, 1.0]
    (note,) = done.notes
    assert "noisy on text (C=0.0001): not comparable" in note
    assert "seeds 7, and the others with 0, 1" in note
    # What a budget left is chosen by the seeds in common.
    for inputs, seeds in (("text", [0]), ("image", [0, 1, 2])):
        part = sweep(store, ["noisy"], inputs=inputs, seeds=seeds, name="part", report=False)
    assert part.notes == ["noisy: chosen by the seeds that all its trials have: 0"]


def test_a_budget_gives_every_trial_its_first_seed_first(make_store: Make) -> None:
    store = make_store(120)
    done = sweep(store, ["noisy"], seeds=3, budget=1e9)
    assert [seed for _, seed in Noisy.fits[:3]] == [0, 0, 0]
    assert not done.left
    none = sweep(store, ["noisy"], seeds=3, budget=0.0, name="none")
    assert len(none.left) >= 2
    assert sum(len(result.seeds) for result in none.results) <= 1


def test_a_head_that_refuses_costs_the_others_nothing(make_store: Make) -> None:
    grid = {"noisy": {"alone": [False]}}
    done = sweep(make_store(120), ["noisy"], grid=grid, inputs="image+text,image", seeds=1)
    refused = "noisy takes two inputs: with one there is nothing to fuse"
    assert [result.error for result in done.results] == [None, refused]
    assert "+".join(done.winners["noisy"][0].features) == "image+text"


def test_all_trials_learn_from_the_same_rows(make_store: Make) -> None:
    store = make_store(120, no_text=(0, 1, 2, 9, 10))
    done = sweep(store, ["logreg"], inputs="image+text,image")
    rows = {run.record["protocol"]["trained_on"] for runs in done.winners.values() for run in runs}
    alone = sweep(store, ["logreg"], inputs="image", name="alone").winners["logreg"][0]
    assert max(rows) < alone.record["protocol"]["trained_on"]


def test_other_data_under_the_same_name_is_refused(make_store: Make) -> None:
    store = make_store(120)
    sweep(store, ["logreg"], inputs="image")
    with pytest.raises(HeadError, match=r"begun with other data .rows, where differ.*--fresh"):
        sweep(store, ["logreg"], inputs="image", where="event = 'event 0'")
    done = sweep(store, ["logreg"], inputs="image", where="event = 'event 0'", fresh=True)
    assert len(done.winners["logreg"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f2"}, "no metric 'f2'"),
        ({"heads": ["logrge"]}, "did you mean 'logreg'"),
        ({"seeds": 0}, "at least one seed"),
        ({"grid": {"noisy": {"C": [1]}}}, "not among the heads"),
        ({"name": "../out"}, "no name for a sweep"),
    ],
)
def test_what_cannot_be_swept_is_said(make_store: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep(make_store(60), **{"heads": ["logreg"], **options})


def test_grids_and_combinations(make_store: Make) -> None:
    for wrong, message in (("logreg:class_weigth=balanced", "did you mean"), ("C=1", "HEAD:NAME=VALUES")):
        with pytest.raises(UsageError, match=message):
            parse_grid([wrong])
    store = make_store(12, outputs=("pooled", "joint"))
    assert [list(one) for one in combinations(None, store)] == [["image", "text"], ["image"], ["text"]]
    assert combinations("image+text, text+image,text", store) == [
        {"image": "toy/image/pooled", "text": "toy/text/pooled"},
        {"text": "toy/text/pooled"},
    ]
    with pytest.raises(
        UsageError, match="is toy/image/pooled in one combination and toy/image/joint in another"
    ):
        combinations("image,image/joint", store)
    with pytest.raises(UsageError, match="names nothing"):
        combinations(" , ", store)


def test_keys_tell_trials_apart_and_stay() -> None:
    def found(seed: int) -> list[str]:
        inputs = [{"image": "a/image/b"}, {"text": "a/text/b"}]
        return [trial.key for trial in trials(["logreg"], inputs, [seed], {"logreg": {"C": [1, 2]}})]

    assert len(set(found(0))) == 4
    assert found(0)[0].startswith("logreg-image-")
    assert found(0) == found(3)


def test_the_leaderboard(make_store: Make) -> None:
    store = make_store(360)
    sweep(store, ["logreg", "noisy"], inputs="image+text,text", seeds=3)
    for inputs in ("image", "text"):
        train(store, "logreg", inputs=inputs)
    board = compare(store, list_runs(store), group_by="event")
    devs = [entry.dev or 0.0 for entry in board.entries]
    assert devs == sorted(devs, reverse=True)
    leader = board.entries[0]
    assert leader.behind is None
    assert board.rows == 90
    for entry in board.entries:
        if entry is not leader:
            assert entry.behind is not None
            assert entry.behind.value == pytest.approx(entry.test - leader.test)
            assert entry.behind.low <= entry.behind.value <= entry.behind.high
            assert np.isfinite(entry.behind.p)
        assert entry.low <= entry.test <= entry.high
        mean = np.mean([run.metrics["test"]["macro_f1"]["value"] for run in entry.runs])
        assert entry.test == pytest.approx(mean)
        assert (entry.spread is not None) == (len(entry.runs) > 1)
        assert entry.size > 100
        assert entry.latency is not None
        assert 0 < entry.latency < 10
        assert {name: n for name, (_, n) in entry.groups.items()} == {"event 1": 60, "event 0": 30}
    json.dumps([entry.as_json() for entry in board.entries])
    single = next(e for e in board.entries if e.inputs == "image")
    assert single.behind is not None
    assert single.behind.high < 0


def test_seeds_trained_one_by_one_are_one_entry(make_store: Make) -> None:
    # No dev split: what is held out differs with the seed too.
    store = make_store(120, split=lambda i: ("train", "train", "test")[i % 3])
    runs = [train(store, "noisy", inputs="image", seed=seed, draws=20) for seed in range(3)]
    (entry,) = compare(store, runs, draws=50).entries
    assert [run.run_id for run in entry.runs] == [run.run_id for run in runs]
    assert entry.spread is not None


def test_what_cannot_be_compared_is_said(make_store: Make) -> None:
    store = make_store(120)
    with pytest.raises(HeadError, match=r"no runs in .* to compare"):
        find_runs(store)
    with pytest.raises(HeadError, match="no sweep 'x'"):
        find_runs(store, sweep="x")
    whole = train(store, "logreg")
    with pytest.raises(HeadError, match=r"different labels: 'label' .1., 'event' .1."):
        compare(store, [whole, train(store, "logreg", label="event")])
    for options, message in (
        ({"group_by": "x"}, "no column 'x'"),
        ({"metric": "area"}, "no metric 'area'"),
        ({"positive": "x"}, "no class 'x' to take as positive"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(store, [whole], **options)  # type: ignore[arg-type]
    parts = [train(store, "logreg", where=f"event = 'event {i}'") for i in (0, 1)]
    with pytest.raises(HeadError, match="share no test row"):
        compare(store, parts)
    board = compare(store, [whole, parts[0]])
    assert (board.rows, board.left_out) == (10, 20)
    dev_only = train(store, "logreg", where="split <> 'test'")
    with pytest.raises(HeadError, match="none of these runs has test scores"):
        compare(store, [dev_only])
