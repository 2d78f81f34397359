"""ONNX: what ONNX Runtime says is what the head says, for every family that is a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from icehouse.errors import HeadError
from icehouse.heads import package as module
from icehouse.heads.families.fusion import GuidedCA
from icehouse.heads.inputs import Inputs, Tokens
from icehouse.heads.package import OPSET, TOLERANCE, export_onnx, write_onnx
from icehouse.heads.registry import FAMILIES, head_class
from icehouse.heads.torch_head import TorchHead
from icehouse.heads.trainer import train
from quick import Data, Make, quick
from shell import ran, told

NETWORKS = [family for family in sorted(FAMILIES) if issubclass(head_class(family), TorchHead)]


def with_tokens(X: Inputs, t: int = 4, seed: int = 0) -> Inputs:
    """The image as a few tokens around its vector, the last one or two of most rows not there."""
    rng = np.random.default_rng(seed)
    mask = np.arange(t) < rng.integers(min(2, t), t + 1, len(X))[:, None]
    values = X["image"][:, None] + rng.normal(size=(len(X), t, X["image"].shape[1]))
    return Inputs({"image": Tokens((values * mask[..., None]).astype(np.float32), mask), "text": X["text"]})


def runtime(path: Path, X: Inputs) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {}
    for name, array in X.items():
        feed[name] = array.values if isinstance(array, Tokens) else array
        if isinstance(array, Tokens):
            feed[f"{name}_mask"] = array.mask
    made: np.ndarray = session.run(None, feed)[0]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("family", NETWORKS)
def test_every_network_on_tokens_and_vectors(family: str, data: Data, tmp_path: Path) -> None:
    X, y = data(60)
    head = quick(family).fit(with_tokens(X), np.array(["calm", "flood", "quake"])[y])
    done = write_onnx(head, tmp_path / "head.onnx", tokens=["image"])
    assert done.difference <= TOLERANCE
    assert done.inputs == {
        "image": ["rows", "tokens", 8],
        "image_mask": ["rows", "tokens"],
        "text": ["rows", 5],
    }
    # Rows and tokens of other numbers than any the exporter saw, one of each among them.
    for n, t in ((9, 6), (1, 1), (2, 3)):
        others = with_tokens(data(n, seed=1)[0], t, seed=2)
        np.testing.assert_allclose(runtime(done.path, others), head.predict_proba(others), atol=1e-5)
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET]


@pytest.mark.slow
def test_a_network_on_vectors_alone(data: Data, tmp_path: Path) -> None:
    X, y = data(60)
    head = quick("mlp").fit(X, y)
    done = write_onnx(head, tmp_path / "head.onnx")
    assert done.inputs == {"image": ["rows", 8], "text": ["rows", 5]}
    others, _ = data(17, seed=1)
    np.testing.assert_allclose(runtime(done.path, others), head.predict_proba(others), atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("unit", [False, True])
def test_logreg(k: int, unit: bool, data: Data, tmp_path: Path) -> None:
    X, y = data(60, k=k)
    # Far from zero, where folded weights lose their digits; and a row of zeros, which has no direction.
    X = Inputs({"image": X["image"] + 300, "text": X["text"]})
    head = quick("logreg", C=10.0, unit=unit).fit(X, y)
    done = write_onnx(head, tmp_path / "head.onnx", rows=X)
    assert done.rows == 60
    others = data(9, seed=1)[0]
    others = Inputs({"image": others["image"] + 300, "text": others["text"] * (np.arange(9) > 0)[:, None]})
    others = Inputs({name: np.asarray(array, np.float32) for name, array in others.items()})
    made = runtime(done.path, others)
    assert made.shape == (9, k)
    np.testing.assert_allclose(made, head.predict_proba(others), atol=1e-4)


def test_the_file_says_what_it_is(make_store: Make, tmp_path: Path) -> None:
    run = train(make_store(120), "logreg", inputs="image,text")
    done = export_onnx(run, tmp_path / "deep" / "head.onnx")
    about = {entry.key: entry.value for entry in onnx.load(done.path).metadata_props}
    assert json.loads(about["icehouse.classes"]) == done.classes == ["calm", "flood", "quake"]
    inputs = json.loads(about["icehouse.inputs"])
    assert inputs["text"]["feature"] == "toy/text/pooled"
    assert inputs["image"]["fingerprint"] == run.specs["image"]["fingerprint"]
    assert about["icehouse.run"] == run.run_id
    assert about["icehouse.head"] == "logreg"


def test_a_file_that_differs_is_not_written(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = quick("logreg", C=1.0).fit(*data(60))
    real = module._from_logreg

    def wrong(head: Any) -> onnx.ModelProto:
        model = real(head)
        bias = next(value for value in model.graph.initializer if value.name == "intercept")
        moved = onnx.numpy_helper.to_array(bias) + np.float32([0, 0.01, 0])
        bias.CopyFrom(onnx.numpy_helper.from_array(moved, "intercept"))
        return model

    monkeypatch.setattr(module, "_from_logreg", wrong)
    before = tmp_path / "head.onnx"
    before.write_text("what was there")
    with pytest.raises(HeadError, match="was not written"):
        write_onnx(head, before)
    assert before.read_text() == "what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]


def test_what_cannot_be_exported_is_said(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data(60)
    with pytest.raises(HeadError, match="the torch heads and logreg can"):
        write_onnx(quick("knn").fit(X, y), tmp_path / "head.onnx")
    published = GuidedCA(as_published=True, epochs=1).fit(X, y)
    with pytest.raises(HeadError, match="batch-mates"):
        write_onnx(published, tmp_path / "head.onnx")
    head = quick("logreg", C=1.0).fit(X, y)
    with pytest.raises(HeadError, match="no input 'sound'"):
        write_onnx(head, tmp_path / "head.onnx", tokens=["sound"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(HeadError, match=r"pip install 'icehouse\[onnx\]'"):
        write_onnx(head, tmp_path / "head.onnx")


def test_the_command(make_store: Make, tmp_path: Path) -> None:
    store = make_store(120)
    train(store, "logreg", inputs="image,text")
    target = tmp_path / "head.onnx"
    shown = ran(store, "export-onnx", "latest", str(target)).stdout
    assert target.exists()
    assert f"opset {OPSET}" in shown
    assert "image [rows, 8]" in shown
    found = told(store, "export-onnx", "latest", str(target))
    assert found["difference"] <= TOLERANCE
    assert found["rows"] == 120
