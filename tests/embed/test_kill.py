"""Killed anywhere, nothing lost: SIGKILL at more than twenty random moments, with a real (small, random) CLIP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from toys import make_pictures

SCRIPT = Path(__file__).parents[1] / "helpers" / "killrun.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("kill")
    make_pictures(folder / "pictures", 80, suffix=".jpg", width=96, height=80)
    (folder / "pictures" / "bad.jpg").write_bytes(b"not an image")
    words = ["flood", "help", "street", "water", "rescue", "food", "night", "roof", "calm", "sun"]
    rng = np.random.default_rng(3)
    rows = ["id,text,label"]
    for i in range(60):
        text = " ".join(rng.choice(words, rng.integers(1, 14)))
        rows.append(f"t{i},{text} {i},{'a' if i % 3 else 'b'}")
    (folder / "texts.csv").write_text("\n".join(rows) + "\n")
    return folder / "pictures", folder / "texts.csv"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of model configs, and the id of a small CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    checkpoints.install(folder / "configs")
    path = checkpoints.save(checkpoints.make("tiny-vit"), folder / "tiny.safetensors")
    return folder / "configs", f"openclip:tiny-vit/{path}"


def rows_of(store: Store, name: str, column: str) -> dict[str, np.ndarray]:
    vectors = store.vectors(name)
    return dict(zip(vectors.keys.to_pylist(), np.asarray(vectors.X), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "kills"), [("float32", 21), ("bfloat16", 6)])
def test_killed_anywhere(
    precision: str, kills: int, sources: tuple[Path, Path], clip: tuple[Path, str], tmp_path: Path
) -> None:
    output = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, sources), *map(str, (tmp_path, *clip, precision, kills))],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=3000,  # so that what hangs ends; a busy machine may take many times the usual minute
    ).stdout
    result = json.loads(output.splitlines()[-1])
    assert result["kills"] >= kills
    for attempt in result["attempts"]:
        assert attempt["encoded"] <= result["everything"] - attempt["before"], (
            "a committed part was computed again"
        )
    whole = Store.open(tmp_path / "whole")
    expected_items = whole.query("select * exclude (added) from items order by item_id")
    for path in result["stores"]:
        store = Store.open(path)
        report = verify(store)
        assert report.ok, report.findings
        assert store.feature_names() == whole.feature_names()
        for name in whole.feature_names():
            key = f"{name.split('/')[1]}_sha256"
            expected, found = rows_of(whole, name, key), rows_of(store, name, key)
            assert found.keys() == expected.keys()
            for content, vector in expected.items():
                if precision == "float32":
                    np.testing.assert_array_equal(found[content], vector)
                else:
                    norms = np.linalg.norm(vector) * np.linalg.norm(found[content])
                    assert vector @ found[content] / norms >= 0.9999
        items = store.query("select * exclude (added) from items order by item_id")
        assert items.equals(expected_items)
        assert store.query("select item_id, stage from failures").to_pylist() == [
            {"item_id": "bad.jpg", "stage": "decode"}
        ]
