"""The index as a whole: a flat one against exact search, what makes one stale, commands, life without FAISS."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("faiss")

import faiss
from icehouse.cli import app
from icehouse.errors import IcehouseError, StoreError, UsageError
from icehouse.store import index as index_module
from icehouse.store import index_build as build_module
from icehouse.store.index import (
    KINDS,
    choose_kind,
    find_item,
    find_vectors,
    index_folder,
    list_indexes,
    open_index,
    read_info,
    read_vectors,
    thread_limit,
)
from icehouse.store.index_build import build_index
from icehouse.store.search import search_item, search_vectors
from icehouse.store.store import Store
from index_stores import IMAGES, TEXTS, add, content, like_embeddings, make
from typer.testing import CliRunner, Result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(tmp_path / "store", like_embeddings(200), texts=like_embeddings(40, seed=1))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 70), st.booleans())
def test_flat_equals_exact(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, k: int, grown: bool
) -> None:
    """Few distinct values make ties the rule; some vectors are zero, some contents have no item any more."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, (n + 1, 3)).astype(np.float32)
    X[0] = 1
    store = make(tmp_path_factory.mktemp("flat") / "store", X[: n // 2 + 1])
    if grown:
        build_index(store, IMAGES, kind="flat", threads=1)
    add(store, X[n // 2 + 1 :], start=n // 2 + 1)
    build_index(store, IMAGES, kind="flat", threads=1)
    store.items.delete("item_id", [f"i{row:05d}" for row in np.flatnonzero(rng.random(n + 1) < 0.2) if row])
    query = np.array([1.0, 2.0, -1.0])
    found = find_vectors(store, IMAGES, query, k=k)
    assert found.engine == "flat"
    assert found.hits == search_vectors(store, IMAGES, query, k=k)
    like = find_item(store, IMAGES, "i00000", k=k)
    assert (like.engine, like.hits) == ("flat", search_item(store, IMAGES, "i00000", k=k))


def test_all_alike(tmp_path: Path) -> None:
    store = make(tmp_path / "store", np.tile(like_embeddings(1), (700, 1)))
    info = build_index(store, IMAGES, kind="ivf", threads=1).info
    assert info.recall["image"]["recall@10"] == 1  # whichever ten: all score alike
    build_index(store, IMAGES, kind="flat", threads=1)
    found = find_vectors(store, IMAGES, np.ones(16), k=3)
    assert [hit.item_id for hit in found.hits] == ["i00000", "i00001", "i00002"]


def test_a_flat_index_leaves_out_no_tie(tmp_path: Path) -> None:
    """Of equal hits the lowest item id comes first, and here it belongs to the last row."""
    store = Store.create(tmp_path / "store")
    add(store, np.tile(like_embeddings(1), (300, 1)), ids=[f"i{300 - row:03d}" for row in range(300)])
    build_index(store, IMAGES, kind="flat", threads=1)
    found = find_vectors(store, IMAGES, np.ones(16), k=2)
    assert (found.engine, [hit.item_id for hit in found.hits]) == ("flat", ["i001", "i002"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_few_vectors(tmp_path: Path, kind: str, rows: int) -> None:
    store = make(tmp_path / "store", like_embeddings(rows))
    build_index(store, IMAGES, kind=kind, threads=1)
    found = find_vectors(store, IMAGES, np.ones(16))
    assert (found.engine, len(found.hits)) == (kind, rows)


def test_the_kind_goes_by_size_and_recall() -> None:
    assert choose_kind(100, 0.95) == "flat"
    assert choose_kind(10**6, 1.0) == "flat"
    assert choose_kind(10**6, 0.95) == "ivf"
    assert choose_kind(10**6, 0.99) == "hnsw"


def test_a_chosen_kind_follows_the_size_and_a_given_one_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(store, IMAGES, threads=1)
    build_index(store, TEXTS, kind="flat", threads=1)
    monkeypatch.setattr(index_module, "FLAT_UP_TO", 30)
    built = build_index(store, IMAGES, threads=1)
    assert (built.action, built.reason, built.info.kind) == ("built", "ivf in place of flat", "ivf")
    assert build_index(store, TEXTS, threads=1).action == "unchanged"


def test_ivf_is_made_anew_when_it_has_outgrown_its_cells(store: Store) -> None:
    few = build_index(store, IMAGES, kind="ivf", threads=1).info
    add(store, like_embeddings(900, seed=3), start=200)
    built = build_index(store, IMAGES, threads=1)
    assert (built.action, built.info.trained) == ("built", 1100)
    assert "made for 200 rows" in built.reason
    folder = index_folder(store.path, IMAGES)
    assert read_vectors(folder, built.info).nlist > max(1, int(2 * few.trained**0.5))


def test_another_fingerprint_makes_it_stale_and_anew(store: Store) -> None:
    import shutil

    build_index(store, IMAGES, threads=1)
    shutil.rmtree(store.path / "tables" / "features" / IMAGES)
    again = Store.open(store.path)
    add(again, like_embeddings(200, seed=9), fingerprint="f" * 16)
    found = find_vectors(again, IMAGES, np.ones(16))
    assert (found.engine, "fingerprint" in (found.remark or "")) == ("exact", True)
    built = build_index(again, IMAGES, threads=1)
    assert (built.action, "fingerprint" in built.reason) == ("built", True)
    assert find_vectors(again, IMAGES, np.ones(16)).engine == "flat"


def test_a_changed_vector_makes_it_anew(store: Store) -> None:
    """Same keys, same number of rows: only the vectors tell."""
    build_index(store, IMAGES, threads=1)
    table = store.feature_table(IMAGES)
    rows = table.read()
    table.upsert(
        rows.slice(0, 1).set_column(1, rows.schema.field(1), rows.slice(1, 1)["vector"]), key="image_sha256"
    )
    assert find_vectors(store, IMAGES, np.ones(16)).engine == "exact"
    assert build_index(store, IMAGES, threads=1).reason == "rows that it covered were changed or removed"


def test_another_recall_tunes_without_rebuilding(store: Store) -> None:
    build_index(store, IMAGES, kind="ivf", recall=0.3, threads=1)
    built = build_index(store, IMAGES, recall=1.0, threads=1)
    assert (built.action, built.reason) == ("updated", "the same vectors, tuned and measured anew")
    assert built.info.recall["image"]["recall@10"] == 1


def test_no_text_to_ask_with_is_told(tmp_path: Path) -> None:
    store = make(tmp_path / "store", like_embeddings(50))
    assert build_index(store, IMAGES, threads=1).info.recall["text"] is None


def test_texts_that_come_later_are_asked_with(tmp_path: Path) -> None:
    """An index that was tuned without texts may miss more with them than anybody asked for."""
    store = make(tmp_path / "store", like_embeddings(300))
    build_index(store, IMAGES, kind="ivf", threads=1)
    assert build_index(store, IMAGES, threads=1).action == "unchanged"
    add(store, like_embeddings(40, seed=1), feature=TEXTS)
    built = build_index(store, IMAGES, threads=1)
    assert (built.action, built.reason) == ("updated", "the same vectors, tuned and measured anew")
    assert built.info.recall["text"]["of"] == TEXTS
    assert build_index(store, IMAGES, threads=1).action == "unchanged"


def test_an_index_that_is_replaced_while_it_is_listed_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(store, IMAGES, kind="flat", threads=1)
    real = index_module.check_stamp

    def check(path: Path, known: Any) -> None:
        monkeypatch.setattr(index_module, "check_stamp", real)
        build_index(store, IMAGES, kind="hnsw", threads=1)
        real(path, known)

    monkeypatch.setattr(index_module, "check_stamp", check)
    assert [(entry["kind"], entry["state"]) for entry in list_indexes(store)] == [("hnsw", "fresh")]


@pytest.mark.slow
def test_opening_maps_and_does_not_read(tmp_path: Path) -> None:
    """In a process of its own, since what counts is the memory of the whole process."""
    # Checksums are taken of four blocks of 8 MiB at once, and how much of that is given back is chance.
    store = make(tmp_path / "store", like_embeddings(6_000, dim=4096), texts=like_embeddings(40, dim=4096))
    build_index(store, TEXTS, kind="flat", threads=1)
    info = build_index(store, IMAGES, kind="flat", threads=1).info
    code = f"""
import faiss
from icehouse.store.index import open_index
from icehouse.store.store import Store
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
store = Store.open({str(store.path)!r})
open_index(store, {TEXTS!r})
before = anonymous()
index = open_index(store, {IMAGES!r})
print(anonymous() - before)
"""
    if not Path("/proc/self/status").exists() or not hasattr(faiss, "IO_FLAG_MMAP_IFC"):
        pytest.skip("needs Linux and a FAISS that maps flat indexes")
    output = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert int(output.stdout) * 1024 < 40 * 2**20 < info.bytes / 2


def test_an_index_may_be_replaced_while_it_is_open(store: Store) -> None:
    build_index(store, IMAGES, kind="hnsw", threads=1)
    index = open_index(store, IMAGES)
    assert index is not None
    build_index(store, IMAGES, kind="flat", threads=1)
    assert index.search(store.vectors(IMAGES).X[5], 1)[1].tolist() == [[5]]


def test_what_cannot_be_indexed(store: Store) -> None:
    with pytest.raises(StoreError, match="toy/image/joint"):
        build_index(store, "toy/image/nothing")
    with pytest.raises(UsageError, match="flat, ivf, hnsw"):
        build_index(store, IMAGES, kind="lsh")
    with pytest.raises(UsageError, match="recall"):
        build_index(store, IMAGES, recall=0)
    add(store, np.zeros((3, 16), np.float32), feature="void/text/joint")
    with pytest.raises(StoreError, match="nothing to index"):
        build_index(store, "void/text/joint")
    assert find_vectors(store, "void/text/joint", np.ones(16)).hits == []


def test_threads_are_put_back() -> None:
    before = faiss.omp_get_max_threads()
    with thread_limit(1):
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before


@pytest.fixture
def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "faiss":
            raise ImportError("No module named 'faiss'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_faiss(store: Store, request: pytest.FixtureRequest) -> None:
    build_index(store, IMAGES, threads=1)
    request.getfixturevalue("without_faiss")
    with pytest.raises(IcehouseError, match=r"pip install 'icehouse\[cpu\]'"):
        build_index(store, IMAGES)
    found = find_vectors(store, IMAGES, np.ones(16))
    assert (found.engine, len(found.hits)) == ("exact", 10)
    assert "pip install" in (found.remark or "")
    assert find_vectors(store, TEXTS, np.ones(16), k=3).remark is None
    assert [entry["state"] for entry in list_indexes(store)] == ["fresh"]


def test_states(store: Store) -> None:
    build_index(store, IMAGES, threads=1)
    build_index(store, TEXTS, threads=1)
    add(store, like_embeddings(7, seed=4), start=200)
    folder = index_folder(store.path, TEXTS)
    next(folder.glob("*.faiss")).write_bytes(b"")
    stale, damaged = list_indexes(store)
    assert (stale["state"], stale["reason"]) == ("stale", "the feature has 7 new rows")
    assert (damaged["feature"], damaged["state"]) == (TEXTS, "damaged")
    assert read_info(index_folder(store.path, "toy/image/pooled")) is None


def test_commands(store: Store) -> None:
    at = ["-s", str(store.path)]
    assert "no indexes yet" in run("index", "info", *at).stderr
    made = run("index", "build", "--json", "--threads", "1", *at)
    assert made.exit_code == 0, made.output
    assert [(entry["feature"], entry["action"]) for entry in json.loads(made.stdout)] == [
        (IMAGES, "built"),
        (TEXTS, "built"),
    ]
    (info, _) = json.loads(run("index", "info", "--json", *at).stdout)
    assert (info["kind"], info["state"], info["recall"]["text"]["recall@10"]) == ("flat", "fresh", 1.0)
    assert IMAGES in run("index", "info", *at).stdout
    find = ["search", "--item", "i00003", "-k", "2", "--feature", IMAGES, *at]
    assert "by the flat index" in run(*find).stderr
    assert "exact search" in run(*find, "--exact").stderr
    store.feature_table(IMAGES).delete("image_sha256", [content("image", 9)])
    assert "stale" in run(*find).stderr
    assert "stale" in run("index", "info", *at).stderr
    again = run("index", "build", IMAGES, "--kind", "ivf", "--recall", "0.9", "--threads", "1", *at)
    assert "ivf in place of flat" in again.stderr
    assert "by the ivf index" in run(*find).stderr


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["index", "build", "no/such/thing"], IMAGES, 2),
        (["index", "build", "--kind", "lsh"], "lsh", 2),
        (["index", "build", IMAGES, "--recall", "0"], "recall", 2),
        (["index", "build", "--threads", "0"], "threads", 2),
        (["index", "info", "-s", "nowhere"], "no store", 1),
    ],
)
def test_errors_are_one_line(store: Store, arguments: list[str], says: str, status: int) -> None:
    at = [] if "-s" in arguments else ["-s", str(store.path)]
    result = run(*arguments, *at)
    assert result.exit_code == status, result.output
    assert says in result.output
    assert "Traceback" not in result.output


def test_an_index_that_missed_the_asked_recall_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is built, in info and with every search that goes by it; --exact says nothing, since nothing is missed."""
    rng = np.random.default_rng(0)
    store = make(tmp_path / "noise", rng.standard_normal((3000, 48)).astype(np.float32))
    at = ["-s", str(store.path)]
    monkeypatch.setattr(build_module, "tune", lambda *_: 1)
    command = ["index", "build", IMAGES, "--kind", "ivf", "--recall", "0.9", "--threads", "1", *at]
    built = run(*command)
    assert "the index missed the recall of 0.9 that was asked for: 0." in built.stderr
    (info,) = json.loads(run("index", "info", "--json", *at).stdout)
    assert info["recall"]["image"]["recall@10"] < 0.9
    assert "missed the recall" in info["missed"]
    assert "missed the recall" in run("index", "info", *at).stderr
    find = ["search", "--item", "i00003", "-k", "2", "-f", IMAGES, *at]
    assert "missed the recall" in run(*find).stderr
    assert "missed" not in run(*find, "--exact").stderr
    monkeypatch.undo()
    assert "missed" not in run(*command, "--rebuild").stderr
