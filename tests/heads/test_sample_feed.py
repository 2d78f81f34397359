"""The sample feed, end to end: neither picture nor text alone tells the class; fusion heads do, and the ablation says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from icehouse.data.manifest import SourceOptions
from icehouse.data.sample_feed import make_feed
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.report import ablate
from icehouse.heads.sweep import sweep
from icehouse.store.store import Store

pytest.importorskip("efficientnet_lite_pytorch")

#: One head of each kind that fuses.
FUSING = ("logreg", "late-fusion", "align", "guided-ca")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("feed")
    feed = make_feed(folder / "feed", n=400, seed=0)
    store = Store.create(folder / "store")
    embed_sources([feed.posts], store, encoder="mini", options=SourceOptions(label_columns=["label"]))
    return store


@pytest.mark.slow
def test_fusion_beats_the_best_single_input_by_ten_points(store: Store) -> None:
    shared = {"seeds": 1, "report": False, "draws": 100}
    alone = sweep(store, ["logreg", "knn"], inputs="image,text", name="alone", **shared)
    fused = sweep(store, FUSING, inputs="image+text", name="fused", **shared)
    test = {
        name: {family: runs[0].metrics["test"]["macro_f1"]["value"] for family, runs in done.winners.items()}
        for name, done in (("alone", alone), ("fused", fused))
    }
    assert set(test["fused"]) == set(FUSING)
    # By the best of the single ones on test, which is more than they could claim.
    best = max(test["alone"].values())
    assert {family: score for family, score in test["fused"].items() if score < best + 0.10} == {}
    told = ablate(store, fused.winners["logreg"][0])
    for name in ("image", "text"):
        adds = told["adds"][name]["macro_f1"]
        assert adds["value"] > 0.10
        # On some seventy rows of dev the interval's low end lies about zero.
        assert adds["low"] > -0.05
