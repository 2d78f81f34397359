from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from icehouse.cli import app
from icehouse.errors import HeadError, UsageError
from icehouse.heads import registry
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import available, describe, families, head_class
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from typer.testing import CliRunner

DOCS = Path(__file__).parents[2] / "docs" / "heads.md"


@pytest.fixture
def centroid(monkeypatch: pytest.MonkeyPatch) -> type[Head]:
    """The head of docs/heads.md, installed as another package would install it."""
    source = next(
        block
        for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
        if "class Centroid" in block
    )
    module = ModuleType("their_package")
    exec(compile(source, str(DOCS), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "their_package", module)
    points = [
        EntryPoint("centroid", "their_package:Centroid", "icehouse.heads"),
        EntryPoint("broken", "nowhere_at_all:Head", "icehouse.heads"),
        EntryPoint("logreg", "their_package:Centroid", "icehouse.heads"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "icehouse.heads" else [])
    kind: type[Head] = module.Centroid
    return kind


def test_the_example_of_the_documentation_is_a_head(
    centroid: type[Head], data: Callable[..., tuple[Inputs, np.ndarray]], tmp_path: Path
) -> None:
    X, y = data(90)
    head = registry.create("centroid").fit(X, y, val=data(60, seed=1))
    assert isinstance(head, centroid)
    assert head.score(*data(60, seed=2)) > 0.8
    assert len(head.curve_) == 3
    assert head.refit(X, y).get_params() == head.chosen_
    head.save(tmp_path)
    np.testing.assert_array_equal(Head.load(tmp_path).predict_proba(X), head.predict_proba(X))


def test_a_run_is_trained_with_a_head_of_another_package(
    centroid: type[Head], make_store: Callable[..., Store]
) -> None:
    run = train(make_store(120), "centroid")
    assert run.family == "centroid"
    assert "-centroid-" in run.run_id
    assert run.metrics["test"]["accuracy"]["value"] > 0.7


def test_a_package_cannot_take_the_name_of_a_head_that_comes_with_icehouse(centroid: type[Head]) -> None:
    assert registry.head_class("logreg").__module__ == "icehouse.heads.families.linear"


def test_a_head_that_cannot_be_imported_is_named(centroid: type[Head]) -> None:
    with pytest.raises(HeadError, match="'broken' cannot be loaded from nowhere_at_all:Head"):
        registry.create("broken")


def test_an_unknown_head_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'logreg'.*known: .*logreg"):
        registry.create("logerg")
    with pytest.raises(UsageError, match=r"known: .*logreg"):
        registry.create("zzz")


def test_the_room_names_what_it_offers() -> None:
    import icehouse.heads as heads

    for name in heads.__all__:
        assert getattr(heads, name) is not None
    with pytest.raises(AttributeError, match="nosuch"):
        _ = heads.nosuch
    assert "logreg" in heads.available()


def test_every_family_has_a_line() -> None:
    rows = {row["family"]: row for row in families()}
    assert rows.keys() == available().keys()
    for row in rows.values():
        assert row["summary"].endswith("."), row
    assert rows["zero-shot"]["prompts"] == "required"
    assert rows["tip-adapter"]["prompts"] == "optional"
    assert not rows["logreg"]["tokens"]


@pytest.mark.parametrize("family", sorted(available()))
def test_every_parameter_has_a_default_that_json_has(family: str) -> None:
    found = describe(family)
    assert [row["name"] for row in found["parameters"]] == list(head_class(family).parameters())
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "family", ["knn", "late-fusion", "lightgbm", "logreg", "online", "svm", "tip-adapter", "zero-shot"]
)
def test_every_parameter_is_documented_with_its_type(family: str) -> None:
    for row in describe(family)["parameters"]:
        assert row["type"], row


def test_the_command_lists_and_shows() -> None:
    listed = CliRunner().invoke(app, ["heads"])
    assert listed.exit_code == 0, listed.output
    for family in available():
        assert family in listed.output
    shown = CliRunner().invoke(app, ["heads", "logreg"], env={"COLUMNS": "200"})
    for expected in ("max_iter", "balanced", "items that lack an input: yes"):
        assert expected in shown.output
    assert json.loads(CliRunner().invoke(app, ["heads", "svm", "--json"]).stdout)["family"] == "svm"
    assert len(json.loads(CliRunner().invoke(app, ["heads", "--json"]).stdout)) == len(available())


def test_a_family_that_cannot_be_imported_is_listed_with_its_error(centroid: type[Head]) -> None:
    assert "cannot be loaded" in next(row for row in families() if row["family"] == "broken")["error"]
    assert "cannot be loaded" in CliRunner().invoke(app, ["heads"], env={"COLUMNS": "200"}).output
