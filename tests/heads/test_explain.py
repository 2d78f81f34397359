from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from html_page import HtmlPage
from icehouse.errors import HeadError, UsageError
from icehouse.heads.explain import (
    explain,
    explain_page,
    heat_level,
    patch_grid,
    seen_box,
    shapley,
    training_means,
)
from icehouse.heads.inputs import Inputs, Tokens
from icehouse.heads.registry import create
from icehouse.heads.trainer import train
from icehouse.store.schema import features_schema, items_schema
from icehouse.store.store import Store
from icehouse.store.vectors import tokens_to_arrow
from quick import QUICK, Data, Make
from shell import ran, refused, told
from toys import make_pictures


def _sum(one: dict[str, Any], scale: str) -> float:
    """What the contributions add up to."""
    return float(one["base"][scale] + sum(added[scale] for added in one["contributions"].values()))


def test_of_a_linear_head_they_are_the_linear_decomposition(data: Data) -> None:
    X, y = data(90)
    head: Any = create("logreg", C=1.0, unit=False).fit(X, y)
    means = training_means(X)
    proba = head.predict_proba(X)
    order = np.argsort(-proba, axis=1)
    for row, one in enumerate(shapley(head, X[:20], means)):
        first, second, *_ = proba[row, order[row]]
        assert _sum(one, "log_odds") == pytest.approx(np.log(first / second), abs=1e-6)
        weights = head.coef_[order[row, 0]] - head.coef_[order[row, 1]]
        start = 0
        for name, width in X.widths.items():
            part = weights[start : start + width]
            expected = float(part @ (X[name][row] - np.asarray(means[name])[0]))
            assert one["contributions"][name]["log_odds"] == pytest.approx(expected, abs=1e-4)
            start += width


def test_with_three_inputs_they_are_the_mean_over_all_orders(data: Data) -> None:
    X, y = data(90)
    X = Inputs({**dict(X.items()), "caption": X["image"][:, :4] * X["text"][:, :4]})
    head = create("lightgbm", **QUICK["lightgbm"]).fit(X, y)
    means = training_means(X)
    row = X[[4]]
    best = int(head.predict_proba(row)[0].argmax())

    def value(known: tuple[str, ...]) -> float:
        arrays = {name: row[name] if name in known else means[name] for name in X.names}
        return float(head.predict_proba(arrays)[0, best])

    slow = dict.fromkeys(X.names, 0.0)
    orders = list(itertools.permutations(X.names))
    for order in orders:
        for i, name in enumerate(order):
            slow[name] += (value(order[: i + 1]) - value(order[:i])) / len(orders)
    one = shapley(head, row, means)[0]
    assert _sum(one, "probability") == pytest.approx(value(tuple(X.names)))
    for name, mean in slow.items():
        assert one["contributions"][name]["probability"] == pytest.approx(mean, abs=1e-9)


def test_an_input_that_is_not_there_contributes_nothing(data: Data) -> None:
    X, y = data(60)
    head = create("logreg", C=1.0).fit(X, y)
    lacking = Inputs(
        {"image": X["image"][:2], "text": np.zeros((2, 5), np.float32)}, {"text": np.array([False, False])}
    )
    for one in shapley(head, lacking, training_means(X)):
        assert one["contributions"]["text"] == {"probability": 0.0, "log_odds": 0.0}
        assert one["contributions"]["image"]["probability"] != 0.0


@pytest.fixture
def token_store(tmp_path: Path, spec: Callable[..., dict[str, Any]]) -> Store:
    """60 posts whose class is told by one patch of six and one word of up to three."""
    rng = np.random.default_rng(0)
    n, folder = 60, tmp_path / "pictures"
    files = make_pictures(folder, 3, width=90, height=60)
    y = np.arange(n) % 2
    rows = [
        {
            "item_id": f"p{i:02d}",
            "text": " ".join(f"w{j}" for j in range(1 + i % 3)),
            "image_sha256": f"{i:064x}",
            "text_sha256": f"{i:064x}",
            "split": ("train", "train", "dev", "test")[i // 2 % 4],
            "label": ("no", "yes")[y[i]],
            **({"root": str(folder), "path": files[i].name} if i < 3 else {}),
        }
        for i in range(n)
    ]
    store = Store.create(tmp_path / "store")
    store.items.append(pa.Table.from_pylist(rows, schema=items_schema(["label"])), unique="item_id")
    preprocessing = {"size": [64, 96], "mode": "squash"}
    for modality, length in (("image", 6), ("text", 3)):
        values = 0.1 * rng.normal(size=(n, length, 4)).astype(np.float32)
        values[:, 0] += np.where(y == 1, 1.5, -1.5)[:, None]
        mask = (
            np.ones((n, length), bool)
            if modality == "image"
            else np.arange(3) < (1 + np.arange(n) % 3)[:, None]
        )
        schema = features_schema(modality, "tokens", 4, "float16")
        provenance = {"family": "toy", "preprocessing": preprocessing}
        about = spec(modality, "tokens", 4, dtype="float16", provenance=provenance)
        table = store.ensure_feature_table(f"toy/{modality}/tokens", about, schema)
        columns: dict[str, Any] = {
            f"{modality}_sha256": [row[f"{modality}_sha256"] for row in rows],
            "tokens": tokens_to_arrow(values * mask[..., None], mask),
        }
        if modality == "text":
            columns["truncated"] = [False] * n
        table.append(pa.table(columns).select(schema.names).cast(schema))
    return store


def test_tokens_have_effects_and_attention_where_they_lie(token_store: Store) -> None:
    inputs = {"image": "toy/image/tokens", "text": "toy/text/tokens"}
    params = {**QUICK["guided-ca"], "epochs": 40}
    # Where both inputs tell the class a head may lean on one of them: by itself the picture has to be read.
    alone = train(token_store, "guided-ca", inputs={"image": inputs["image"]}, params=params)
    effects = [one.tokens["image"].effect for one in explain(token_store, alone, ["p00", "p01", "p02"])]
    # The patch that tells; by how much depends on the class that a picture without it would be given.
    first, *others = np.abs(effects).mean(axis=0)
    assert first > 0.2 > 5 * max(others)
    run = train(token_store, "guided-ca", inputs=inputs, params=params)
    found = explain(token_store, run, ["p00", "p01", "p02"])
    X = {name: token_store.features(feature) for name, feature in inputs.items()}
    for row, one in enumerate(found):
        image, text = one.tokens["image"], one.tokens["text"]
        assert image.grid == (2, 3)
        assert len(image.effect) == len(image.attention or []) == 6
        assert text.words == [f" {i}" for i in range(1, row + 2)]
        assert sum(image.attention or []) == pytest.approx(1, abs=1e-5)
        # The third patch left out; patches know their places, so the gap has to stay a gap.
        values = {
            "image": Tokens(X["image"].X[[row]], np.arange(6)[None] != 2),
            "text": Tokens(X["text"].X[[row]], np.asarray(X["text"].mask)[[row]]),
        }
        whole = np.array([one.proba[c] for c in run.classes])
        order = np.argsort(-whole)
        odds = [np.log(p[order[0]] / p[order[1]]) for p in (whole, run.head.predict_proba(values)[0])]
        assert image.effect[2] == pytest.approx(odds[0] - odds[1], abs=1e-6)
    html = explain_page(token_store, run, found)
    page = HtmlPage(html)
    assert page.text.count("What the answer rests on: text") == 3
    assert html.count('class="heat"') >= 3
    assert "left:0.00%;top:0.00%;width:100.00%;height:100.00%" in html


def test_command_and_page(make_store: Make, tmp_path: Path) -> None:
    store = make_store(60, label=lambda i: ("<script>1</script>", '"x', "c")[i % 3])
    run = train(store, "logreg")

    target = tmp_path / "why.html"
    out = ran(store, "explain", run.run_id, "p009", "p000", "-k", "3", "--out", str(target)).stdout
    assert "p009 (test)" in out
    assert "all at their means" in out
    page = HtmlPage(target.read_text())
    assert "<script>1</script>" in page.text
    (one,) = told(store, "explain", run.run_id, "p009")["items"]
    assert _sum(one, "probability") == pytest.approx(one["proba"][one["predicted"]])
    assert len(one["nearest"]) == 5
    assert "no item 'nosuch'" in refused(store, "explain", run.run_id, "nosuch")


def test_what_cannot_be_explained_says_why(make_store: Make) -> None:
    store = make_store(60, no_text=(9,))
    run = train(store, "logreg")
    with pytest.raises(UsageError, match="'p009' has no toy/text/pooled"):
        explain(store, run, ["p009"])
    with pytest.raises(UsageError, match="at least one"):
        explain(store, run, [])
    store.items.delete("item_id", list(run.training_items()["train"]))
    with pytest.raises(HeadError, match="none of the items that run"):
        explain(store, run, ["p010"])


def test_grids_of_patches() -> None:
    assert patch_grid(49, {"size": [224, 224]}) == (7, 7)
    assert patch_grid(196, {"size": 224}) == (14, 14)
    assert patch_grid(2 * 3, {"size": [64, 96]}) == (2, 3)
    assert patch_grid(50, {"size": [224, 224]}) is None
    assert patch_grid(17, {}) is None
    assert seen_box({"mode": "fisheye", "size": [8, 8]}, 10, 10) is None


def test_equal_factors_are_equal_steps_of_colour() -> None:
    assert [heat_level(times) for times in (0.1, 0.25, 8.0, 50.0)] == [0.0, 0.0, 1.0, 1.0]
    assert heat_level(2.0) - heat_level(1.0) == pytest.approx(heat_level(4.0) - heat_level(2.0))
