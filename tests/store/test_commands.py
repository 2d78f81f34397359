"""The room's commands, as a shell sees them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.cli import app as everything
from icehouse.console import EXCEL_SAFE
from icehouse.errors import IcehouseError, UsageError
from icehouse.store import sql as results
from icehouse.store.commands import app
from icehouse.store.maintain import remove_items
from icehouse.store.sql import json_values
from icehouse.store.store import Store
from typer.testing import CliRunner


@pytest.fixture
def shell(store: Store) -> Any:
    def run(*arguments: str, exit_code: int = 0, stdin: str | None = None) -> str:
        result = CliRunner().invoke(app, [*arguments, "-s", str(store.path)], input=stdin)
        if isinstance(result.exception, IcehouseError):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result.stdout

    return run


def test_info(shell: Any) -> None:
    assert "toy/image/pooled" in shell("info")
    assert json.loads(shell("info", "--json"))["items"]["total"] == 5


def test_sql_in_every_format(shell: Any, tmp_path: Path) -> None:
    query = "select item_id, width, vector from items left join toy_image_pooled using (image_sha256) order by 1 limit 2"
    expected = [
        {"item_id": "a", "width": 64, "vector": [1.0, 2.0, 3.0, 4.0]},
        {"item_id": "b", "width": 32, "vector": [5.0, 6.0, 7.0, 8.0]},
    ]
    assert json.loads(shell("sql", query, "--json")) == expected
    assert json.loads(shell("sql", "-", "--format", "json", stdin=query)) == expected
    rows = list(csv.DictReader(io.StringIO(shell("sql", query, "-f", "csv"))))
    assert [
        {**row, "width": int(row["width"]), "vector": json.loads(row["vector"])} for row in rows
    ] == expected
    assert "[5, 6, 7, 8]" in shell("sql", query)
    for suffix in ("csv", "json", "parquet"):
        shell("sql", query, "-o", str(tmp_path / f"x.{suffix}"))
    assert json.loads((tmp_path / "x.json").read_text()) == expected
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == expected
    assert (tmp_path / "x.csv").read_text() == shell("sql", query, "-f", "csv")


def test_sql_wants_a_file_for_parquet_and_a_known_suffix(shell: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="add -o FILE"):
        shell("sql", "select 1", "--format", "parquet")
    with pytest.raises(UsageError, match="cannot tell the format"):
        shell("sql", "select 1", "-o", str(tmp_path / "x.doc"))
    with pytest.raises(UsageError, match="for the screen"):
        shell("sql", "select 1", "-o", str(tmp_path / "x.csv"), "-f", "table")


def test_results_become_plain_json(store: Store) -> None:
    rows = store.query(
        """
        select 1 as a, 2 as a, sum(i) as s, 2.5::decimal(4, 1) as d, date '2020-01-02' as t, 'ab'::blob as b,
               {'x': [1, null]} as n, 'nan'::float as f, null as z
        from range(3) t(i)
        """
    )
    (row,) = json_values(rows)
    assert row == {
        "a": 2, "s": 3, "d": 2.5, "t": "2020-01-02", "b": "6162", "n": {"x": [1, None]}, "f": None, "z": None,
    }  # fmt: skip
    assert isinstance(row["s"], int)


def test_join_and_export(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("post,event\na,flood\nq,fire\n")
    report = json.loads(shell("join", str(tmp_path / "more.csv"), "--on", "item_id=post", "--json"))
    assert (report["matched"], report["first_unmatched_rows"]) == (1, ["q"])
    assert "event: 1 item matched, 0 changed" in shell(
        "join", str(tmp_path / "more.csv"), "--on", "item_id=post"
    )
    out = tmp_path / "x.csv"
    assert "wrote" in shell(
        "export", "toy/image/pooled", "-o", str(out), "--columns", "event, split", "--split", "train"
    )
    assert out.read_text().splitlines()[1] == "a,flood,train,1.0,2.0,3.0,4.0"


def test_verify_exits_1_where_something_is_wrong(shell: Any, store: Store) -> None:
    report = json.loads(shell("verify", "--json", exit_code=1))
    assert report["ok"] is False
    assert report["findings"][0]["kind"] == "missing features"
    assert "NOT sound" in shell("verify", exit_code=1)
    store.failures.append(pa.table({"item_id": ["e"], "stage": ["read"], "error": ["OSError"]}))
    assert json.loads(shell("verify", "--json"))["ok"] is True
    assert "sound" in shell("verify")


def test_remove(shell: Any, store: Store) -> None:
    store.items.upsert(pa.table({"item_id": ["a", "c"], "missing": [True, True]}), key="item_id")
    store.failures.append(pa.table({"item_id": ["a", "b"], "stage": ["read"] * 2, "error": ["OSError"] * 2}))
    version = store.items.snapshot().version

    def left() -> list[str]:
        return sorted(Store.open(store.path).items.read(["item_id"])["item_id"].to_pylist())

    with pytest.raises(UsageError, match=r"--where SQL, --missing"):
        shell("remove", "--yes")
    with pytest.raises(UsageError, match="does not work on items"):
        shell("remove", "--where", "nothing > 1", "--yes")
    assert json.loads(shell("remove", "--missing", "--dry-run", "--json"))["items"] == ["a", "c"]
    shell("remove", "--missing", exit_code=1)  # nobody answers
    shell("remove", "--missing", exit_code=1, stdin="n\n")
    assert "no item to remove" in shell("remove", "--where", "width > 10000", "--yes")
    assert (left(), store.items.snapshot().version) == (list("abcde"), version)
    assert "1 item removed" in shell("remove", "--missing", "--where", "item_id = 'a'", stdin="y\n")
    assert (left(), store.items.snapshot().version) == (list("bcde"), version + 1)
    assert store.failures.read(["item_id"])["item_id"].to_pylist() == ["b"]
    assert (
        json.loads(shell("remove", "--where", "item_id in ('b', 'd', 'e')", "-y", "--json"))["removed"] == 3
    )
    assert left() == ["c"]
    assert remove_items(store, "item_id = 'c'", among=["z"]) == []  # came to meet it after it was asked
    shell("remove", "--missing", "--yes")
    assert left() == []
    assert json.loads(shell("info", "--json"))["items"]["total"] == 0
    assert store.feature_table("toy/image/pooled").rows > 0


def test_compact(shell: Any, store: Store) -> None:
    store.items.append(pa.table({"item_id": ["f"]}))
    done = {entry["table"]: entry for entry in json.loads(shell("compact", "--json"))}
    assert (done["items"]["before"], done["items"]["after"]) == (2, 1)
    assert "items" in shell("compact")


def test_every_command_says_what_it_is_for() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__


def test_excel_safe_leaves_no_formula_in_csv(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "=name": ["=1+1", "+a", "-b", "@c", "\tx", " =d", "＝e", "-5", "1e-3", "plain", "a=b", None],
            "n": [-1.5] * 12,
        }
    )
    for safe in (False, True):
        token = EXCEL_SAFE.set(safe)
        try:
            results.save(rows, tmp_path / "out.csv")
            assert (results.csv_table(rows) is rows) is not safe
        finally:
            EXCEL_SAFE.reset(token)
        with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
            header, *found = csv.reader(file)
        guard = "'" if safe else ""
        assert header == [f"{guard}=name", "n"]
        names = [row[0] for row in found]
        assert names[:7] == [f"{guard}{name}" for name in rows["=name"].to_pylist()[:7]]
        assert names[7:] == ["-5", "1e-3", "plain", "a=b", ""]
        assert {row[1] for row in found} == {"-1.5"}


def test_a_carriage_return_in_a_cell_begins_no_row(tmp_path: Path) -> None:
    names = ["\rfirst", "amid\rit", 'quo"te\r\n', None, "plain"]
    results.save(pa.table({"na\rme": names, "n": [1, 2, 3, 4, 5]}), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["na\rme", "n"],
            *([name or "", str(n)] for n, name in enumerate(names, 1)),
        ]


@pytest.mark.parametrize(
    "command",
    [["sql"], ["export"], ["split"], ["predict"], ["suggest"], ["dups", "find"], ["dups", "leakage"]],
)
def test_every_command_that_writes_csv_has_the_guard(command: list[str]) -> None:
    assert "--excel-safe" in CliRunner().invoke(everything, [*command, "--help"], terminal_width=200).stdout
