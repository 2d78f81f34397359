"""Captions help: on the sample feed, heads that read what a server says from the ground truth are better."""

from __future__ import annotations

import html
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feed_captions import true_answers, true_items
from icehouse.cli import app
from icehouse.data.manifest import SourceOptions
from icehouse.data.sample_feed import CLASSES, Feed, make_feed
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.features import embed_captions
from icehouse.embed.captions.questions import CaptionSettings
from icehouse.embed.captions.stats import show_captions, words_of
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.compare import Resampling
from icehouse.heads.report import known_ablation
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from ollama_server import OllamaServer
from typer.testing import CliRunner

pytest.importorskip("efficientnet_lite_pytorch")

POSTS, FOLDS = 120, 3


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return make_feed(tmp_path_factory.mktemp("feed"), n=POSTS, seed=0)


@pytest.mark.slow
def test_captions_hold_the_picture_and_nothing_of_the_text(feed: Feed) -> None:
    """A class is what picture and text say together: a caption tells the one half and must not tell the other."""
    facts = [facts for facts in true_items(feed).values() if facts["repost_of"] is None]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts:
        caption = str(fact["caption"])
        assert not any(name in caption.lower().replace(" ", "_") for name in CLASSES.values())
        for word in words_of(caption):
            kinds[word][str(fact["text_kind"])] += 1
    often = {word: counts for word, counts in kinds.items() if counts.total() >= 10}
    assert len(often) > 20
    assert [word for word, counts in often.items() if min(counts["call"], counts["remark"]) < 2] == []


def folds(feed: Feed) -> dict[str, int]:
    """Fold of each post: every class in equal shares, reposts with their originals."""
    facts = json.loads(feed.truth.read_text(encoding="utf-8"))["items"]
    originals = sorted((fact["label"], item) for item, fact in facts.items() if fact["repost_of"] is None)
    fold = {item: at % FOLDS for at, (_, item) in enumerate(originals)}
    return {item: fold[fact["repost_of"] or item] for item, fact in facts.items()}


@pytest.mark.slow
def test_macro_f1_rises(feed: Feed, tmp_path: Path) -> None:
    """Every post is predicted once, by a head that has seen neither it nor a copy: a small feed's test split is too few."""
    store = Store.create(tmp_path / "store")
    embed_sources([feed.posts], store, encoder="mini", options=SourceOptions(label_columns=["label"]))
    with OllamaServer(answers=true_answers(feed)) as server:
        report = caption_images(store, CaptionSettings("llava:7b", hosts=[server.url]))
    assert (report.failed, report.flagged) == (0, {})
    truth = true_items(feed)
    said = {item: one.caption for one in show_captions(store, sorted(truth)) for item in one.items}
    assert said == {item: fact["caption"] for item, fact in truth.items()}
    assert embed_captions(store, encoder="mini").pooled == 0

    fold = folds(feed)
    predicted: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    for held in range(FOLDS):
        part = ["test" if at == held else "train" for at in fold.values()]
        store.items.upsert(pa.table({"item_id": list(fold), f"part{held}": part}), key="item_id")
        for inputs in ("image,text", "image,text,caption"):
            run = train(
                store,
                inputs=inputs,
                split_column=f"part{held}",
                where="image_sha256 is not null",
                dups=None,
                draws=10,
            )
            for row in run.predictions().to_pylist():
                if row["split"] == "test":
                    predicted.setdefault(inputs, {})[row["item_id"]] = row["predicted"]
                    labels[row["item_id"]] = row["y"]
    assert sorted(labels) == sorted(truth)
    resampling = Resampling([labels[item] for item in sorted(labels)], "macro_f1", draws=500)
    without, with_caption = (
        [np.array([of[item] for item in sorted(labels)])]
        for of in (predicted["image,text"], predicted["image,text,caption"])
    )
    gain = resampling.difference(with_caption, without)
    assert gain.value > 0.02
    assert gain.p < 0.2
    the_report_says_what_the_caption_adds(store, run)


def the_report_says_what_the_caption_adds(store: Store, run: Run) -> None:
    """As a person asks for it, of the last fold's run."""
    result = CliRunner().invoke(app, ["report", run.run_id, "-s", str(store.path), "--ablation"])
    assert result.exit_code == 0, result.output
    told = known_ablation(run)
    assert told is not None
    assert set(told["adds"]) == {"image", "text", "caption"}
    adds = told["adds"]["caption"]["macro_f1"]
    assert adds["value"] > 0
    assert adds["low"] < adds["value"] < adds["high"]
    page = html.unescape(re.sub("<[^>]*>", "", (run.path / "report.html").read_text(encoding="utf-8")))
    low, value, high = (f"{100 * adds[key]:+.1f}" for key in ("low", "value", "high"))
    assert f"caption adds {value} points of macro-F1 to image + text ({low} to {high})" in page
