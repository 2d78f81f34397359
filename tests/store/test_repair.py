"""Lost and damaged manifests: nobody writes over what they named, and they are made anew from the parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_store
from icehouse.cli import app
from icehouse.errors import CorruptError, IcehouseError, StoreError
from icehouse.store.files import hold
from icehouse.store.maintain import compact, describe, repair, verify
from icehouse.store.schema import MANIFEST, write_part
from icehouse.store.store import Store
from icehouse.store.table import sweep
from typer.testing import CliRunner

FEATURE = "features/toy/image/pooled"


def again(store: Store) -> Store:
    return Store.open(store.path)


def files(store: Store) -> dict[str, bytes]:
    return {
        path.relative_to(store.path).as_posix(): path.read_bytes()
        for path in store.path.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def busy(busy_once: Path, tmp_path: Path) -> Store:
    """Tables with a history: parts replaced, merged, emptied, cut; most of the replaced ones are still there."""
    return Store.open(shutil.copytree(busy_once, tmp_path / "busy"))


@pytest.fixture(scope="module")
def busy_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = small_store.made(tmp_path_factory.mktemp("busy"))
    more = pa.table({"item_id": ["f", "g"], "label": ["cat", "cat"], "extra": ["1", "2"]})
    store.items.append(more, unique="item_id")
    store.items.append(pa.table({"item_id": ["h"], "label": ["dog"]}), unique="item_id")
    store.items.upsert(pa.table({"item_id": ["b"], "label": ["wolf"]}), key="item_id")
    store.items.delete("item_id", ["g"])
    store.items.append(pa.table({"item_id": ["i"]}), unique="item_id")
    store.items.delete("item_id", ["h"])
    store.failures.append(pa.table({"item_id": ["e"], "stage": ["decode"], "error": ["ImageError"]}))
    store.failures.append(pa.table({"item_id": ["x"], "stage": ["read"], "error": ["ImageError"]}))
    compact(store)
    store.items.append(pa.table({"item_id": ["j"], "label": ["dog"]}), unique="item_id")
    store.items.upsert(pa.table({"item_id": ["a"], "label": ["lion"]}), key="item_id")
    return store.path


@pytest.mark.parametrize("harm", ["gone", "empty", "cut", "garbage", "flipped", "folder"])
@pytest.mark.parametrize("name", ["items", "failures", FEATURE])
def test_a_manifest_is_made_anew_from_the_parts(busy: Store, name: str, harm: str) -> None:
    before, spec = busy.table(name).read(), busy.table(name).spec
    manifest = busy.table(name).path / MANIFEST
    data = manifest.read_bytes()
    if harm in ("gone", "folder"):
        manifest.unlink()
    else:
        at = data.index(b'"rows": ') + 8
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        damaged = {
            "empty": b"",
            "cut": data[: len(data) // 2],
            "garbage": bytes(range(256)),
            "flipped": flipped,
        }
        manifest.write_bytes(damaged[harm])
    if harm == "folder":
        manifest.mkdir()
    report = verify(again(busy))
    assert not report.ok
    assert {found.table for found in report.findings if found.problem} >= {name}
    with pytest.raises(StoreError, match=r"_manifest.json|lost its manifest") as caught:
        again(busy).table(name).read()
    assert "\n" not in str(caught.value)
    (done,) = repair(again(busy))
    assert (done.table, done.rows) == (name, before.num_rows)
    after = again(busy).table(name)
    assert after.read().equals(before), after.read().to_pylist()
    assert after.spec == spec
    assert verify(again(busy)).findings == [] or verify(again(busy)).ok
    assert repair(again(busy)) == []


def test_readers_and_sweepers_leave_parts_without_a_manifest_alone(busy: Store) -> None:
    for name in ("items", FEATURE):
        (busy.table(name).path / MANIFEST).unlink()
    before = files(busy)
    lost = again(busy)
    assert {"items", FEATURE} <= set(lost.table_names())
    for act in (
        lambda: describe(lost),
        lambda: lost.items.read(),
        lambda: lost.vectors("toy/image/pooled"),
        lambda: lost.query("select * from items"),
        lambda: lost.items.append(pa.table({"item_id": ["new"]})),
        lambda: lost.items.upsert(pa.table({"item_id": ["new"]}), key="item_id"),
        lambda: lost.items.delete("item_id", ["a"]),
        lambda: sweep(lost.items),
        lambda: compact(lost),
        lambda: lost.ensure_feature_table("toy/image/pooled", {}, pa.schema([])),
    ):
        with pytest.raises(IcehouseError, match="--repair"):
            act()
    assert Store.open_or_create(busy.path).table_names() == lost.table_names()
    after = {name: data for name, data in files(busy).items() if Path(name).name != ".lock"}
    assert after == {name: data for name, data in before.items() if Path(name).name != ".lock"}


def test_reading_writes_nothing(store: Store) -> None:
    shutil.rmtree(store.path / "tables" / "failures")
    before = files(store)
    fresh = again(store)
    assert fresh.failures.read().num_rows == 0
    assert fresh.query("select count(*) as n from failures").to_pylist() == [{"n": 0}]
    describe(fresh)
    assert verify(fresh).tables == 3
    fresh.features("toy/image/pooled", label="label")
    assert files(store) == before
    assert not (store.path / "tables" / "failures").exists()
    fresh.failures.append(pa.table({"item_id": ["e"], "stage": ["read"]}))
    assert again(store).failures.rows == 1


def test_a_table_that_every_store_has_is_missed(store: Store) -> None:
    shutil.rmtree(store.path / "tables")
    assert [(found.table, found.kind) for found in verify(again(store)).findings] == [
        ("failures", "lost table"),
        ("items", "lost table"),
    ]
    assert [(done.table, done.rows) for done in repair(again(store))] == [("failures", 0), ("items", 0)]
    assert verify(again(store)).ok


def test_links_to_nowhere_are_reported(store: Store) -> None:
    (store.path / "tables" / "captions").symlink_to(store.path.parent / "unmounted")
    (found,) = [found for found in verify(again(store)).findings if found.kind == "unreadable"]
    assert (found.table, found.problem) == ("tables/captions", True)
    assert "is a link to what is not there" in found.detail


def test_a_part_that_does_not_say_what_it_is_is_set_aside(store: Store) -> None:
    store.items.append(pa.table({"item_id": ["f"]}))
    stranger, _ = store.items.snapshot().files
    pq.write_table(pq.read_table(stranger).replace_schema_metadata({}), stranger)
    (store.items.path / MANIFEST).unlink()
    (done,) = repair(again(store))
    assert "does not say which table it is of" in done.remarks[0]
    assert list(store.items.path.glob("set-aside-part-*"))
    assert again(store).items.read()["item_id"].to_pylist() == ["f"]


def test_a_manifest_older_than_its_parts_sweeps_nothing(store: Store) -> None:
    items = store.items
    old = (items.path / MANIFEST).read_bytes()
    for name in "fgh":
        items.append(pa.table({"item_id": [name]}))
    expected = items.read()
    (items.path / MANIFEST).write_bytes(old)  # as a backup of that one file would
    assert not verify(again(store)).ok
    parts = {path.name for path in items.path.glob("part-*")}
    sweep(again(store).items)
    with pytest.raises(CorruptError, match="older than"):
        again(store).items.append(pa.table({"item_id": ["z"]}))
    assert parts <= {path.name for path in items.path.glob("part-*")}
    (done,) = repair(again(store))
    assert again(store).items.read().equals(expected)
    assert "earlier manifest is kept" in " ".join(done.remarks)


def test_a_manifest_without_the_parts_that_are_gone(busy: Store) -> None:
    part = busy.items.snapshot().parts[-1]
    (busy.items.path / part.name).unlink()
    assert not verify(again(busy)).ok
    (done,) = repair(again(busy))
    assert f"{part.rows} row was in 1 part now gone" in done.remarks[0]
    assert verify(again(busy)).ok


def test_a_damaged_part_is_left_out_and_kept(store: Store) -> None:
    store.items.append(pa.table({"item_id": ["f"]}))
    first, second = store.items.snapshot().files
    data = bytearray(first.read_bytes())
    data[len(data) // 3] ^= 64
    first.write_bytes(data)
    (store.items.path / MANIFEST).unlink()
    (done,) = repair(again(store))
    assert again(store).items.read()["item_id"].to_pylist() == ["f"]
    assert "damaged and left out" in done.remarks[0]
    (aside,) = store.items.path.glob("set-aside-*")
    assert aside.read_bytes() == bytes(data)
    sweep(again(store).items)
    assert aside.exists()
    assert [found.kind for found in verify(again(store)).findings if found.table == "items"] == ["set aside"]
    assert second.exists()


def test_the_command_repairs_and_says_so(store: Store) -> None:
    (store.items.path / MANIFEST).unlink()
    (store.path / "icehouse.json").unlink()
    run = CliRunner().invoke
    assert "--repair" in run(app, ["info", "-s", str(store.path)]).output
    done = run(app, ["verify", "--repair", "-s", str(store.path)])
    assert "repaired items" in done.output, done.output
    assert run(app, ["info", "-s", str(store.path)]).exit_code == 0
    assert again(store).items.rows == 5


def test_an_unreadable_folder_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("features"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = verify(again(store))
    assert not report.ok
    (found,) = [found for found in report.findings if found.problem]
    assert (found.table, found.kind) == ("tables/features", "unreadable")


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", "a/b", "part-000001-0123456789ab.parquet/../../x", "..\\x"]
)
@pytest.mark.parametrize("where", ["retired", "parts"])
def test_a_manifest_names_only_parts_of_its_own_folder(store: Store, name: str, where: str) -> None:
    victim = store.path.parent / "x"
    victim.write_text("precious")
    (store.path / "x").write_text("precious")
    manifest = store.items.path / MANIFEST
    content = json.loads(manifest.read_text())
    del content["sha256"]
    entry = {"name": name, "at": 0.0} if where == "retired" else {**content["parts"][0], "name": name}
    content[where] = [*content[where], entry]
    manifest.write_text(json.dumps(content))
    with pytest.raises(CorruptError, match="no name of a part"):
        again(store).items.append(pa.table({"item_id": ["new"]}))
    assert victim.read_text() == "precious"
    assert (store.path / "x").read_text() == "precious"


@pytest.mark.parametrize("name", [".lock.json", ".lock", MANIFEST])
def test_links_are_not_written_through(store: Store, name: str) -> None:
    victim = store.path.parent / "precious.txt"
    victim.write_text("precious")
    place = store.items.path / name
    if name == MANIFEST:
        victim.write_bytes(place.read_bytes())
    before = victim.read_bytes()
    place.unlink(missing_ok=True)
    place.symlink_to(victim)
    if name == ".lock":
        with pytest.raises(StoreError, match="is a link"):
            again(store).items.append(pa.table({"item_id": ["new"]}))
    else:
        again(store).items.append(pa.table({"item_id": ["new"]}))
        assert again(store).items.rows == 6
    assert victim.read_bytes() == before


def test_a_table_that_leads_out_of_the_store_is_not_written(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(store.items.path, elsewhere)
    store.items.path.symlink_to(elsewhere)
    before = {path.name for path in elsewhere.iterdir()}
    linked = again(store)
    assert linked.items.rows == 5
    for act in (
        lambda: linked.items.append(pa.table({"item_id": ["new"]})),
        lambda: linked.items.delete("item_id", ["a"]),
        lambda: write_part(linked.items.read(), linked.items.path, {}),
        lambda: hold(linked.items.path).__enter__(),
    ):
        with pytest.raises(StoreError, match="outside of the store"):
            act()
    assert {path.name for path in elsewhere.iterdir()} == before
    whole = tmp_path / "link-to-the-store"
    whole.symlink_to(store.path)
    Store.open(whole).failures.append(pa.table({"item_id": ["e"]}))
