"""A calibration leaves a store as one file, and is taken by another store of the same encoder only."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from icehouse.cli import app
from icehouse.dups.calibration import Calibration, export_calibration, fit_tail, import_calibration
from icehouse.errors import CorruptError, SourceError, SpaceError, StoreError, UsageError
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from typer.testing import CliRunner

DIM = 6


def with_feature(path: Path, name: str, fingerprint: str) -> Store:
    """A store with one feature of one content."""
    store = Store.create(path)
    add_feature(store, name, fingerprint)
    return store


def add_feature(store: Store, name: str, fingerprint: str) -> None:
    spec = {"encoder": "toy", "name": "toy", "modality": "image", "output": "pooled", "dim": DIM, "dtype": "float16",
            "key": "image_sha256", "provenance": {"family": "toy"}, "fingerprint": fingerprint}  # fmt: skip
    table = store.ensure_feature_table(name, spec, features_schema("image", "pooled", DIM, "float16"))
    vectors = vectors_to_arrow(np.ones((1, DIM), np.float16), "float16")
    table.append(pa.table({"image_sha256": ["0" * 64], "vector": vectors}), unique="image_sha256")


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """A store with a calibration."""
    store = with_feature(tmp_path / "home", "toy/image/pooled", "a" * 16)
    tail = fit_tail(np.tanh(np.random.default_rng(0).normal(0.2, 0.1, 3000)), 3000)
    matrix = np.eye(DIM, dtype=np.float32) + 0.25
    Calibration(
        "toy/image/pooled", "a" * 16, np.arange(DIM) / 7, matrix, tail, 300, {"contents": 300}, (0.5, 0.75),
        {"whole": (-6.5, 0.25)},
    ).save(store)  # fmt: skip
    return store


@pytest.fixture
def file(home: Store, tmp_path: Path) -> Path:
    return export_calibration(home, tmp_path / "made.calibration")


def test_another_store_has_the_same_from_then_on(home: Store, file: Path, tmp_path: Path) -> None:
    # There the same encoder goes by another name.
    other = with_feature(tmp_path / "other", "mine/image/pooled", "a" * 16)
    add_feature(other, "theirs/image/pooled", "b" * 16)
    taken = import_calibration(other, file)
    original = Calibration.open(home, "toy/image/pooled")
    read, why = Calibration.current(other, "mine/image/pooled")
    assert why == ""
    assert read is not None
    assert taken.feature == read.feature == "mine/image/pooled"
    assert np.array_equal(read.mean, original.mean)
    assert np.array_equal(read.matrix, original.matrix)  # type: ignore[arg-type]
    assert (read.tail, read.copies, read.bits, read.rows) == (
        original.tail,
        original.copies,
        original.bits,
        300,
    )
    assert read.threshold(10_000) == original.threshold(10_000)
    assert read.report == {"contents": 300, "imported_from": "made.calibration"}
    assert file.read_bytes() == export_calibration(home, tmp_path / "again").read_bytes()


def test_another_encoder_is_refused_and_keeps_its_own(file: Path, tmp_path: Path) -> None:
    other = with_feature(tmp_path / "other", "toy/image/pooled", "b" * 16)
    for feature in ("toy/image/pooled", None):
        with pytest.raises(SpaceError, match=r"a{16}.*b{16}"):
            import_calibration(other, file, feature=feature)
    assert not Calibration.folder(other, "toy/image/pooled").exists()


@pytest.mark.parametrize("member", ["mean.npy", "matrix.npy", "calibration.json"])
def test_a_changed_member_is_noticed_before_anything_is_replaced(
    home: Store, file: Path, member: str
) -> None:
    before = Calibration.open(home, "toy/image/pooled")
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    changed = bytearray(held[member])
    changed[-9] ^= 1
    held[member] = bytes(changed)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    with pytest.raises(CorruptError, match="is damaged; export it again"):
        import_calibration(home, file)
    assert Calibration.open(home, "toy/image/pooled").report == before.report


def test_what_is_no_calibration_is_said(home: Store, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        import_calibration(home, tmp_path / "none")
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(SourceError, match="no calibration"):
        import_calibration(home, other)
    with pytest.raises(UsageError, match="give another name"):
        export_calibration(home, other)
    assert other.read_text() == "mine"
    strange = tmp_path / "strange.zip"
    with zipfile.ZipFile(strange, "w") as archive:
        for name in ("calibration.json", "SHA256SUMS", "../evil.npy"):
            archive.writestr(name, "{}")
    with pytest.raises(SourceError, match="is no calibration"):
        import_calibration(home, strange)
    assert not (tmp_path / "evil.npy").exists()


def test_a_store_without_one_has_nothing_to_export(tmp_path: Path) -> None:
    other = with_feature(tmp_path / "other", "toy/image/pooled", "b" * 16)
    with pytest.raises(StoreError, match="no calibration; make one with"):
        export_calibration(other, tmp_path / "file")


def test_command(home: Store, tmp_path: Path) -> None:
    other = with_feature(tmp_path / "other", "toy/image/pooled", "a" * 16)
    made = str(tmp_path / "made")
    command = ["dups", "calibrate", "--feature", "toy/image/pooled", "--json"]
    assert CliRunner().invoke(app, [*command, "-s", str(home.path), "--export", made]).exit_code == 0
    done = CliRunner().invoke(app, [*command, "-s", str(other.path), "--import", made])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["contents"] == 300
    assert Calibration.open(other, "toy/image/pooled").rows == 300
    both = CliRunner().invoke(app, [*command, "-s", str(other.path), "--import", made, "--export", made])
    assert isinstance(both.exception, UsageError) or both.exit_code != 0
