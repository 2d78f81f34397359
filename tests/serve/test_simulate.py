"""Budget simulation: what each strategy labels, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.errors import UsageError
from icehouse.serve.simulate import _chosen, _Pool, _spent, _useful, simulate
from icehouse.store.store import Store
from served import make_store
from shell import ran, refused, told


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("simulate"))


def test_what_each_strategy_labels() -> None:
    unit = np.array([0, 0, 1, 2, 2, 3])
    relevant = np.array([1, 1, 0, 1, 1, 0], bool)
    drawn = _Pool(np.array([1, 2, 0, 5, 4, 3]), np.array([1, 1, 1, 1, 0, 0], bool), 1.0, 1.0)
    assert _chosen("S1", drawn, unit).tolist() == [1, 2, 0, 5, 4, 3]
    assert _chosen("S2", drawn, unit).tolist() == [1, 2, 0, 3]
    assert _chosen("S3", drawn, unit).tolist() == [1, 2, 5, 4]
    assert _chosen("S4", drawn, unit).tolist() == [1, 2, 3]  # 4 is rejected, its copy is not
    rows = np.array([1, 2, 0, 5, 4, 3])
    assert _useful(rows, unit, relevant).tolist() == [True, False, False, False, True, False]
    assert _spent(rows, unit, relevant) == {"useful": 2, "repeats": 2, "irrelevant": 2}


def test_a_search_is_needed_and_numbers_are_checked(store: Store, tmp_path: Path) -> None:
    assert "icehouse dups find" in refused(store, "label", "--simulate", "label")
    with pytest.raises(UsageError, match="at least 8 labels"):
        simulate(store, "label", budget=4)


@pytest.mark.slow
def test_the_funnel_on_a_store(store: Store, tmp_path: Path) -> None:
    find_duplicates(store, name="dups")
    with pytest.raises(UsageError, match="no item has the label 'x'"):
        simulate(store, "third", irrelevant=["x"])
    with pytest.raises(UsageError, match="no two relevant classes"):
        simulate(store, "label", irrelevant=["day"])
    given = ("--simulate", "third", "--irrelevant", "c", "--budget", "20", "--draws", "2")
    plot = tmp_path / "plot.png"
    found = told(store, "label", *given, "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    by = {one["strategy"]: one for one in found["strategies"]}
    assert [*by] == ["S1", "S2", "S3", "S4"]
    for one in by.values():
        parts = [one[name]["value"] for name in ("useful", "repeats", "irrelevant")]
        assert sum(parts) == pytest.approx(one["labels"]["value"])
        assert [point["labels"] for point in one["scores"]] == [5, 10, 20]
        for point in one["scores"]:
            for test in ("with", "without"):
                assert 0 <= point[test]["low"] <= point[test]["value"] <= point[test]["high"] <= 1
    assert by["S3"]["repeats"]["value"] == by["S4"]["repeats"]["value"] == 0
    assert by["S1"]["saving"] is None
    assert found["test"]["without"] <= found["test"]["with"]
    assert 0 <= found["filter"]["recall"]["value"] <= 1
    assert found == told(store, "label", *given)
    shown = ran(store, "label", *given)
    assert "S4 relevant and unique" in shown.stdout
    without = simulate(store, "third", budget=20, draws=2)
    assert [one["strategy"] for one in without["strategies"]] == ["S1", "S3"]
    assert "no class means irrelevant" in without["notes"][0]
