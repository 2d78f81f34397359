from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest
from icehouse.cli import app
from icehouse.heads import registry
from icehouse.heads.registry import available, describe, families, head_class
from typer.testing import CliRunner


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


def test_an_unknown_family_is_one_line() -> None:
    result = CliRunner().invoke(app, ["heads", "lgreg"])
    assert result.exit_code == 2
    assert "did you mean 'logreg'" in result.stderr


def test_a_family_that_cannot_be_imported_is_listed_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("broken", "nowhere_at_all:Head", group)]

    monkeypatch.setattr(registry, "entry_points", points)
    assert "cannot be loaded" in next(row for row in families() if row["family"] == "broken")["error"]
    assert "cannot be loaded" in CliRunner().invoke(app, ["heads"], env={"COLUMNS": "200"}).output
