"""Packages: one folder that predicts without its store, verifies itself, and knows its encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.embed import encoder as encoders
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import HeadError, SpaceError
from icehouse.heads.package import Package, is_package, package
from icehouse.heads.registry import available
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.serve.predict import predict
from icehouse.store.files import write_sums
from icehouse.store.store import Store
from PIL import Image
from quick import Make, quick
from shell import ran, refused, told
from toys import TOYS, ToyEncoder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures with words, a run on both, and its package; the store it came from is gone."""
    folder = tmp_path_factory.mktemp("package")
    rng = np.random.default_rng(0)
    rows = ["id,image,text,label,split"]
    (folder / "images").mkdir()
    for i in range(48):
        bright = i % 2 == 0
        pixels = rng.integers(140, 256, (24, 24, 3)) if bright else rng.integers(0, 116, (24, 24, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
        split = ("train", "train", "dev", "test")[i // 2 % 4]
        words = f"{'sun' if bright else 'night'} number{i}"
        rows.append(f"i{i},images/{i:02d}.png,{words},{'day' if bright else 'dark'},{split}")
    (folder / "posts.csv").write_text("\n".join(rows) + "\n")
    embed_sources([folder / "posts.csv"], folder / "store", encoder=ToyEncoder(), dtype="float32")
    store = Store.open(folder / "store")
    run = train(store, "logreg", inputs="image/joint,text", label="label")
    made, _ = package(store, run, folder / "out")
    rows_of = predict(store, made, [folder / "posts.csv"], encoder=ToyEncoder()).table
    stored = predict(store, run).table
    assert rows_of["predicted"].to_pylist() == stored["predicted"].to_pylist()
    store.path.rename(folder / "moved")
    return folder


@pytest.fixture
def copy(work: Path, tmp_path: Path) -> Path:
    """A package to spoil."""
    shutil.copytree(work / "out", tmp_path / "out")
    return tmp_path / "out"


def test_it_predicts_raw_rows_without_a_store(work: Path) -> None:
    made = predict(None, work / "out", [work / "posts.csv"], encoder=ToyEncoder())
    before = predict(work / "moved", "latest", [work / "posts.csv"], encoder=ToyEncoder())
    assert made.table.equals(before.table)
    assert made.failures == []
    assert set(made.table["predicted"].to_pylist()) == {"day", "dark"}


def test_it_is_the_run(work: Path) -> None:
    run, made = Run.load(work / "moved", "latest"), Package.load(work / "out")
    for name in ("run_id", "classes", "features", "specs", "metrics"):
        assert getattr(made, name) == getattr(run, name)
    assert not (made.path / "model.onnx").exists()
    rng = np.random.default_rng(1)
    X = {name: rng.normal(size=(5, made.head.widths_[name])) for name in ("image", "text")}
    np.testing.assert_array_equal(made.predict_features(X).proba, run.predict_features(X).proba)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            ToyEncoder("b"),
            "(?s)toy:a.*fingerprint.*toy:b.*fingerprint|toy:b.*fingerprint.*toy:a.*fingerprint",
        ),
        (ToyEncoder(resample=Image.Resampling.NEAREST), "probe"),
    ],
)
def test_another_encoder_is_refused(work: Path, encoder: ToyEncoder, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        predict(None, work / "out", [work / "posts.csv"], encoder=encoder)


def test_nothing_of_the_items_is_in_it(work: Path) -> None:
    told = json.loads((work / "out" / "encoders.json").read_text())
    assert set(told["image"]["probe"]) == {"builtin:wide", "builtin:tall"}
    assert (told["text"]["encoder"], told["text"]["cleaning"]) == ("toy:a", "social-v1")
    for path in (path for path in (work / "out").rglob("*") if path.is_file()):
        if path.suffix == ".safetensors":
            continue
        text = path.read_text()
        assert str(work) not in text
        assert "number3" not in text
        assert "i13" not in text
    modes = {path.stat().st_mode for path in (work / "out").rglob("*") if path.is_file()}
    assert len(modes) == 1
    lines = (work / "out" / "README.txt").read_text().splitlines()
    assert len(lines) == 3
    assert "icehouse predict out" in lines[1]


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.json", "encoders.json", "head/head.json", "README.txt"]
)
def test_a_file_that_was_changed_is_found(copy: Path, name: str) -> None:
    before = (copy / name).read_text()
    (copy / name).write_text(before + " ")
    with pytest.raises(HeadError, match=f"{name} is not what was written"):
        Package.load(copy)
    (copy / name).unlink()
    with pytest.raises(HeadError, match=f"lacks {name}"):
        Package.load(copy)
    (copy / name).write_text(before)
    Package.load(copy)


def test_weights_and_strangers_are_found(copy: Path) -> None:
    weights = copy / "head" / "head.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(HeadError, match=r"head/head\.safetensors is not what was written"):
        Package.load(copy)
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    (copy / ".DS_Store").write_text("a file manager was here")
    Package.load(copy)
    (copy / "head" / "parameters.json").write_text('{"C": 1}')
    with pytest.raises(HeadError, match=r"head/parameters\.json, which SHA256SUMS does not list"):
        Package.load(copy)
    (copy / "head" / "parameters.json").unlink()
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(HeadError, match="cannot be verified"):
        Package.load(copy)


def test_a_newer_format_is_not_guessed_at(copy: Path) -> None:
    import hashlib

    mark, sums = copy / "package.json", copy / "SHA256SUMS"
    before = hashlib.sha256(mark.read_bytes()).hexdigest()
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "format": 99}))
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(mark.read_bytes()).hexdigest()))
    with pytest.raises(HeadError, match=r"of format 99.*upgrade"):
        Package.load(copy)


def test_only_a_package_is_replaced(make_store: Make, tmp_path: Path) -> None:
    store = make_store(60)
    run = train(store, "logreg", inputs="image")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(HeadError, match="not a package, and is left as it is"):
        package(store, run, other)
    with pytest.raises(HeadError, match="no folder, not a package"):
        package(store, run, other / "thesis.txt")
    assert (other / "thesis.txt").read_text() == "years of work"
    empty = tmp_path / "empty"
    empty.mkdir()
    package(store, run, empty)
    second = train(store, "logreg", inputs="text")
    made, _ = package(store, second, empty)
    assert Package.load(empty).run_id == made.run_id == second.run_id
    with pytest.raises(HeadError, match=r"is no package.*icehouse package"):
        Package.load(other)
    assert not is_package(other)


def test_a_failure_leaves_what_was_there(
    make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(60)
    first = train(store, "logreg", inputs="image")
    package(store, first, tmp_path / "out")

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("icehouse.heads.package._readme", full)
    with pytest.raises(HeadError, match="No space left"):
        package(store, train(store, "logreg", inputs="text"), tmp_path / "out")
    assert Package.load(tmp_path / "out").run_id == first.run_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(available()))
def test_every_family(family: str, make_store: Make, tmp_path: Path) -> None:
    store = make_store(60)
    params = {"prompts": False} if family == "tip-adapter" else {}
    if family == "zero-shot":
        rng = np.random.default_rng(0)
        widths = {"image": 8, "text": 5}
        params["class_vectors"] = {
            name: {label: rng.normal(size=width).tolist() for label in ("calm", "flood", "quake")}
            for name, width in widths.items()
        }
    run = train(store, quick(family, **params), inputs="image,text", draws=2)
    made, _ = package(store, run, tmp_path / "out")
    # Folders stay folders for those who are not root, and files are for all who may read the first.
    for path in (tmp_path / "out").rglob("*"):
        like = tmp_path / "out" if path.is_dir() else tmp_path / "out" / "README.txt"
        assert path.stat().st_mode & 0o111 == like.stat().st_mode & 0o111, path
    # A package can be packaged, and says the same of a store's items.
    again, _ = package(store, made, tmp_path / "again")
    tables = [predict(store, one).table for one in (run, made, again)]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_the_commands(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "available", lambda: TOYS)
    store, out, posts = Store.open(work / "moved"), str(tmp_path / "out"), str(work / "posts.csv")
    shown = ran(store, "package", "latest", out, "--onnx").stdout
    for said in ("toy:a", "probe kept", "compared on 48 rows"):
        assert said in shown
    assert (Package.load(out).path / "model.onnx").exists()
    assert len(told(store, "predict", out, posts)) == 48
    assert "toy:b" in refused(store, "predict", out, posts, "--encoder", "toy:b", status=1)
    ran(store, "export-onnx", out, str(tmp_path / "again.onnx"))
    assert (tmp_path / "again.onnx").exists()
    assert "is left as it is" in refused(store, "package", "latest", str(work / "images"), status=1)
    assert told(store, "package", "latest", out)["onnx"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), {}),
        (("format",), "x"),
        (("data",), []),
        (("data",), {}),
        (("inputs",), []),
        (("inputs", "image", "spec"), 3),
        (("inputs", "image", "spec", "encoder"), ["mini"]),
        (("inputs", "image", "spec", "provenance"), None),
        (("inputs", "image", "spec", "provenance"), {"cleaning": 3}),
    ],
)
def test_a_record_of_another_kind_is_refused(path: tuple[str, ...], value: Any, copy: Path) -> None:
    """Though its checksums are right: whoever changes a package can change them too."""
    record = json.loads((copy / "run.json").read_text())
    first = next(iter(record["inputs"]))
    at = record
    for name in path[:-1]:
        at = at[first if name == "image" else name]
    at[path[-1]] = value
    (copy / "run.json").write_text(json.dumps(record))
    write_sums(copy)
    with pytest.raises(HeadError, match="is damaged"):
        Package.load(copy)
