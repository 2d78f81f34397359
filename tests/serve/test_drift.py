"""Drift: no alarm where nothing has changed, one where the mixture has, one where something new has come."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from icehouse.serve.drift import FEWEST, DriftMonitor, Reference, joined, two_sample

DIM = 24


def draw(n: int, seed: int, *, share: float = 0.5, new: float = 0.0) -> np.ndarray:
    """Rows of two kinds in some proportion, and a share of rows of a third that training never saw."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(3, DIM))
    kind = np.where(rng.random(n) < new, 2, rng.random(n) < share)
    return (3 * centres[kind] + rng.normal(size=(n, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference({"image": draw(600, 0)})


def test_nothing_has_changed(reference: Reference) -> None:
    found = [reference.compare(joined([draw(300, seed)])) for seed in range(1, 11)]
    # Two figures at 95%: among ten windows an alarm or two may be chance.
    assert sum(one.drifted for one in found) <= 2
    assert np.mean([one.auroc for one in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([one.unlike for one in found]) == pytest.approx(0.01, abs=0.012)


def test_intervals_hold_half_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(60):
        X = rng.normal(size=(240, DIM)).astype(np.float32)
        _, low, high = two_sample(X[:120], X[120:])
        missed += not low <= 0.5 <= high
    assert missed <= 8  # of 60, three are to be expected


def test_another_mixture_moves_the_test_alone(reference: Reference) -> None:
    found = reference.compare(joined([draw(300, 3, share=0.95)]))
    assert found.drifted
    assert found.auroc_low > 0.6
    assert found.unlike < 0.05


def test_something_new_moves_both(reference: Reference) -> None:
    found = reference.compare(joined([draw(300, 4, new=0.3)]))
    assert found.drifted
    assert found.unlike == pytest.approx(0.3, abs=0.08)
    assert found.unlike_low > 0.15
    assert found.auroc_low > 0.55


def test_copies_of_few_inputs_are_no_proof(reference: Reference) -> None:
    """Ten inputs that come thirty times each: what tells them apart is that they are known by heart."""
    some = joined([draw(10, 5)])
    found = reference.compare(np.repeat(some, 30, axis=0))
    assert found.auroc_low < 0.5


def test_a_window_of_one_content(reference: Reference) -> None:
    found = reference.compare(np.repeat(joined([draw(1, 5)]), 60, axis=0))
    assert (found.auroc, found.auroc_low, found.auroc_high) == (0.5, 0.0, 1.0)


def test_the_monitor_compares_once_there_is_enough(reference: Reference) -> None:
    monitor = DriftMonitor(reference, {"image": "feature"}, "relevancy")
    rows = draw(FEWEST - 1, 6, new=1.0)
    monitor.add(SimpleNamespace(features={"feature": row}) for row in rows)
    monitor.add([SimpleNamespace(features={})])
    monitor.finish()
    assert monitor.latest == {}
    monitor.add([SimpleNamespace(features={"feature": rows[0]})])
    monitor.finish()
    told = monitor.latest
    assert (told["run"], told["inputs"], told["drifted"]) == ("relevancy", FEWEST, True)
    assert told["unlike"] > 0.9
    assert [set(point) for point in told["history"]] == [{"at", "auroc", "unlike"}]
