"""Two writers at once on one store: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from icehouse.embed.pipeline import embed_sources
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from toys import ToyEncoder, make_pictures

SCRIPT = Path(__file__).parents[1] / "helpers" / "embed_toy.py"


@pytest.mark.slow
def test_two_writers(tmp_path: Path) -> None:
    make_pictures(tmp_path / "shared", 150, width=16, height=16)
    writers = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / "shared"), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    results = [writer.communicate(timeout=600) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], results
    reports = [json.loads(out) for out, _ in results]
    assert all(report["failed"] == 0 for report in reports)

    store = Store.open(tmp_path / "store")
    embed_sources([tmp_path / "shared"], tmp_path / "alone", encoder=ToyEncoder(batch_size=4))
    alone = Store.open(tmp_path / "alone")
    for name in ("toy-a/image/joint", "toy-a/image/pooled"):
        keys = store.feature_table(name).read(["image_sha256"])["image_sha256"].to_pylist()
        assert len(keys) == len(set(keys)) == 150
        both, one = store.features(name), alone.features(name)
        order = np.argsort(both.ids)
        np.testing.assert_array_equal(both.ids[order], one.ids)
        np.testing.assert_array_equal(both.X[order], one.X)
    ids = store.items.read(["item_id"])["item_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 150
    assert verify(store).ok
