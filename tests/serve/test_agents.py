"""Agents: the tools of `icehouse mcp` by a real client, over memory and over pipes."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from icehouse.dups.find import find_duplicates
from icehouse.serve.agents import create_server
from icehouse.serve.app.state import State
from mcp import Client, StdioServerParameters
from served import make_store
from toys import ToyEncoder

READ_ONLY = {"sql", "search", "item", "duplicates", "predict", "runs", "explain", "suggest"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents")
    find_duplicates(make_store(folder), views=False)
    return folder


@pytest.fixture(scope="module")
def state(work: Path) -> Iterator[State]:
    made = State.open(work / "store", encoders=[ToyEncoder()])
    made.start()
    assert made.wait(60) is None
    yield made
    made.close()


def ask(state: State, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        async with Client(create_server(state)) as client:
            return [await client.call_tool(name, given) for name, given in calls]

    return asyncio.run(all_of_them())


def answer(state: State, name: str, **given: Any) -> dict[str, Any]:
    (result,) = ask(state, (name, given))
    assert not result.is_error, result.content
    told: dict[str, Any] = result.structured_content
    return told


def problem(state: State, name: str, **given: Any) -> str:
    (result,) = ask(state, (name, given))
    assert result.is_error
    text: str = result.content[0].text
    assert "\n" not in text
    return text


def test_every_tool_is_described_and_reads_only(state: State) -> None:
    async def listed() -> Any:
        async with Client(create_server(state)) as client:
            return (await client.list_tools()).tools

    tools = asyncio.run(listed())
    assert {tool.name for tool in tools} == READ_ONLY
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)


def test_sql_reads_tables_and_nothing_else(state: State, work: Path) -> None:
    told = answer(state, "sql", query="SELECT label, count(*) AS n FROM items GROUP BY label ORDER BY label")
    assert told["result"] == [{"label": "dark", "n": 30}, {"label": "day", "n": 30}]
    assert answer(state, "sql", query="SELECT item_id FROM items", limit=3)["rows"] == 60
    before = sorted(path.name for path in work.iterdir())
    for query in (
        f"SELECT * FROM read_text('{work}/posts.csv')",
        f"COPY items TO '{work}/stolen.csv'",
        "DROP VIEW items",
        "SELECT 1; SELECT 2",
        "SELECT * FROM '/etc/passwd'",
        "nonsense",
    ):
        assert problem(state, "sql", query=query)
    assert sorted(path.name for path in work.iterdir()) == before


def test_an_argument_that_a_tool_lacks_is_told(state: State) -> None:
    (result,) = ask(state, ("predict", {"image": "AAAA", "text": "sun"}))
    assert result.is_error
    assert "image" in result.content[0].text
    assert "not permitted" in result.content[0].text


def test_search_item_and_duplicates(state: State, work: Path) -> None:
    hits = answer(state, "search", text="night number7", k=3, where="label = 'dark'")["hits"]
    assert len(hits) == 3
    assert {hit["labels"]["label"] for hit in hits} == {"dark"}
    near = answer(state, "search", item_id="i0", k=2)["hits"]
    assert near[0]["item_id"] == "i58"
    assert near[0]["score"] == pytest.approx(1.0)
    picture = base64.b64encode((work / "images" / "09.png").read_bytes()).decode()
    assert answer(state, "search", image_base64=picture, k=1)["hits"][0]["item_id"] == "i9"
    told = answer(state, "item", item_id="i3")
    assert (told["text"], told["label"]) == ("night number3", "dark")
    copies = answer(state, "duplicates", item_id="i58")
    assert {(pair["id_a"], pair["id_b"], pair["kind"]) for pair in copies["pairs"]} >= {
        ("i0", "i58", "exact")
    }
    assert {member["item_id"] for member in copies["group"]} >= {"i0", "i58"}
    assert answer(state, "duplicates")["largest_groups"][0]["size"] >= 2
    assert "no such item" in problem(state, "item", item_id="../../etc/passwd")
    assert "one question" in problem(state, "search", text="a", item_id="i0")
    assert "base64" in problem(state, "search", image_base64="%%%")


def test_predict_runs_explain_and_suggest(state: State, work: Path) -> None:
    picture = base64.b64encode((work / "images" / "03.png").read_bytes()).decode()
    said = answer(state, "predict", image_base64=picture, text="night number3")
    assert said["prediction"] == "dark"
    (run,) = answer(state, "runs")["runs"]
    assert run["answers"] is True
    assert said["run"] == run["run_id"]
    (told,) = answer(state, "explain", item_ids=["i3"])["explanations"]
    assert (told["item_id"], told["predicted"]) == ("i3", "dark")
    chosen = answer(state, "suggest", n=4, pool="split=dev")["items"]
    assert len({item["item_id"] for item in chosen}) == 4
    assert all(answer(state, "item", item_id=item["item_id"])["split"] == "dev" for item in chosen)
    assert "neither" in problem(state, "predict")
    assert "no run" in problem(state, "predict", text="a", run="nothing")
    assert problem(state, "explain", item_ids=["nobody"])


@pytest.mark.slow
def test_over_pipes_nothing_but_the_protocol_comes_out(work: Path) -> None:
    """As an agent's client starts it: `icehouse mcp STORE`, whose encoder here cannot be loaded."""

    async def session() -> tuple[set[str], Any, Any]:
        command = [sys.executable, "-m", "icehouse", "mcp", str(work / "store")]
        parameters = StdioServerParameters(command=command[0], args=command[1:])
        async with Client(parameters) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            counted = await client.call_tool("sql", {"query": "SELECT count(*) AS n FROM items"})
            refused = await client.call_tool("search", {"text": "sun"})
            return names, counted, refused

    names, counted, refused = asyncio.run(asyncio.wait_for(session(), 120))
    assert names == READ_ONLY
    assert counted.structured_content["result"] == [{"n": 60}]
    assert refused.is_error
    assert "toy" in refused.content[0].text
