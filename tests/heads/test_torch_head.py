from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from icehouse.errors import HeadError, UsageError
from icehouse.heads import registry
from icehouse.heads.families.fusion import MLP, TwoTokenTransformer
from icehouse.heads.head import Head
from icehouse.heads.inputs import InputError, Inputs, StoredTokens, Tokens
from interaction import equal_or_different
from quick import Data, quick

FAST: dict[str, Any] = {"hidden": 16, "epochs": 6, "lr": 1e-2, "dropout": 0.1}


def test_the_best_configuration_is_kept_with_its_curve(data: Data) -> None:
    val = data(60, seed=1, noise=2.0)
    head = MLP(hidden=16, epochs=8, lr=(1e-4, 1e-2), dropout=(0.0, 0.5), weight_decay=0.1)
    head.fit(*data(90, noise=2.0), val=val)
    tried = [row for row in head.curve_ if "epoch" not in row]
    epochs = [row for row in head.curve_ if "epoch" in row]
    assert len(tried) == 4
    best = min(tried, key=lambda row: row["log_loss"])
    assert {name: best[name] for name in ("lr", "dropout", "weight_decay")} == {
        name: head.chosen_[name] for name in ("lr", "dropout", "weight_decay")
    }
    assert head.chosen_["stop"] == best["best"]
    assert [row["epoch"] for row in epochs] == list(range(1, len(epochs) + 1))
    assert min(row["log_loss"] for row in epochs) == best["log_loss"]
    proba = head.predict_proba(val[0])
    assert -np.log(proba[np.arange(60), val[1]]).mean() == pytest.approx(best["log_loss"], abs=1e-5)
    assert best["accuracy"] == pytest.approx(head.score(*val))


def test_fitting_again_goes_as_far_as_was_best_and_no_further(data: Data) -> None:
    X, y = data(90, noise=2.0)
    head = MLP(**{**FAST, "epochs": 20}).fit(X, y, val=data(60, seed=1, noise=3.0))
    again = head.refit(X, y)
    assert len(again.curve_) == head.chosen_["stop"] < 20
    # The same rows in the same order, so the very same head.
    np.testing.assert_allclose(again.predict_proba(X), head.predict_proba(X), atol=1e-4)


def test_without_dev_a_part_is_held_out_and_everything_learned(data: Data) -> None:
    X, y = data(90, noise=2.0)
    head = MLP(**FAST).fit(X, y)
    assert any("log_loss" in row for row in head.curve_)
    np.testing.assert_array_equal(head.predict_proba(X), head.refit(X, y).predict_proba(X))
    fixed = MLP(**FAST, patience=None).fit(X, y)
    assert fixed.chosen_["stop"] == 6
    assert [set(row) for row in fixed.curve_] == [{"epoch", "lr", "loss"}] * 6


@pytest.mark.parametrize("metric", ["log_loss", "macro_f1", "accuracy"])
def test_each_metric_decides(data: Data, metric: Any) -> None:
    head = MLP(**FAST, metric=metric).fit(*data(60, noise=3.0), val=data(100, seed=1, noise=3.0))
    rows = [row for row in head.curve_ if "epoch" in row]
    sign = -1 if metric == "log_loss" else 1
    best = max(rows, key=lambda row: (sign * row[metric], -row["log_loss"]))
    assert head.chosen_["stop"] == best["epoch"]


def test_weights_of_classes_and_rows_are_the_same_thing(data: Data) -> None:
    X, y = data(60, k=2, noise=2.0)
    y = np.where(np.arange(60) % 5 == 0, 1, 0)
    counts = np.bincount(y)
    # Centring is by the rows' own weights, not by those of their classes.
    params = {**FAST, "stop": 6, "standardize": False}
    balanced = MLP(**params, class_weight="balanced").fit(X, y)
    given = MLP(**params).fit(X, y, sample_weight=60 / (2 * counts[y]))
    mapped = MLP(**params, class_weight={0: 60 / (2 * counts[0]), "1": 60 / (2 * counts[1])}).fit(X, y)
    np.testing.assert_allclose(balanced.predict_proba(X), given.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(balanced.predict_proba(X), mapped.predict_proba(X), atol=1e-6)
    plain = MLP(**params).fit(X, y)
    assert balanced.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean() + 0.05


def test_the_scale_of_an_encoder_does_not_matter(data: Data) -> None:
    X, y = data(60)
    scaled = Inputs({"image": 1000 * X["image"] + 5, "text": X["text"]})
    proba = MLP(**FAST).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(MLP(**FAST).fit(scaled, y).predict_proba(scaled), proba, atol=1e-2)
    raw = MLP(**FAST, standardize=False)
    assert abs(raw.fit(scaled, y).predict_proba(scaled) - proba).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mlp", "two-token", "align", "cross"])
def test_a_row_that_lacks_an_input_is_predicted_from_the_others(family: str, data: Data) -> None:
    X, y = data(240, noise=0.5)
    present = np.arange(240) % 4 > 0
    some = Inputs({"image": X["image"], "text": X["text"] * present[:, None]}, {"text": present})
    head = quick(family, modality_dropout=0.2, epochs=15).fit(some, y)
    junk = X["text"] * present[:, None] + 100 * ~present[:, None]
    other = Inputs({"image": X["image"], "text": junk}, {"text": present})
    np.testing.assert_allclose(head.predict_proba(other), head.predict_proba(some))
    image_tells = y % 2  # class 1 against 0 and 2
    right = (head.predict(some) % 2 == image_tells)[~present]
    assert right.mean() > 0.75


def tokens_of(X: Inputs, rng: np.random.Generator) -> Tokens:
    """Text vectors as tokens: the vector itself at a random place among short noise, then padding."""
    n, d = X["text"].shape
    values = 0.1 * rng.normal(size=(n, 7, d))
    mask = np.arange(7) < rng.integers(3, 8, n)[:, None]
    values[np.arange(n), rng.integers(0, 3, n)] = 3 * X["text"]
    return Tokens((values * mask[..., None]).astype(np.float16), mask)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mlp", "two-token"])
def test_memory_mapped_tokens_are_gathered_batch_by_batch(
    family: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    X, y = data(200)
    tokens = tokens_of(X, rng)
    lengths = tokens.mask.sum(axis=1)
    np.save(tmp_path / "states.npy", tokens.values[tokens.mask])
    monkeypatch.setattr("icehouse.heads.inputs._BLOCK", 16 * tokens.values[0].size)
    monkeypatch.setattr("icehouse.heads.torch_training._BLOCK", 16 * tokens.values[0].size)

    class Watched(np.memmap):
        """A mapped array that counts how many states are taken at a time."""

        taken: list[int] = []  # noqa: RUF012

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            Watched.taken.append(len(part))
            return np.asarray(part)

    mapped = np.load(tmp_path / "states.npy", mmap_mode="r").view(Watched)
    lazy = Inputs({"image": X["image"], "text": StoredTokens(mapped, np.cumsum(lengths) - lengths, lengths)})
    Watched.taken.clear()
    head = quick(family, epochs=8, stop=8).fit(lazy, y)
    assert head.score(lazy, y) > 0.8
    # To be checked, to be centred, eight times to be learned from, and to be predicted: always sixteen rows or fewer.
    assert sum(Watched.taken) >= 10 * lengths.sum()
    assert max(Watched.taken) <= 16 * lengths.max()
    held = Inputs({"image": X["image"], "text": tokens})
    np.testing.assert_array_equal(
        quick(family, epochs=8, stop=8).fit(held, y).predict_proba(held), head.predict_proba(held)
    )


def test_progress_is_told(data: Data) -> None:
    told: list[tuple[int, int, float]] = []
    head = MLP(**FAST)
    head.progress = lambda epoch, total, best: told.append((epoch, total, best))
    head.fit(*data(60), val=data(30, seed=1))
    assert [epoch for epoch, _, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total, _ in told} == {6}
    assert [best for *_, best in told] == sorted(best for *_, best in told)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lr": 0}, "lr must be a number or several numbers above zero"),
        ({"lr": ()}, "lr must be"),
        ({"lr": "fast"}, "lr must be"),
        ({"dropout": 1.0}, r"dropout must be .* in \[0, 1\)"),
        ({"weight_decay": -1}, "weight_decay must be"),
        ({"schedule": "cosin"}, "schedule must be 'cosine', 'plateau' or 'constant', not 'cosin'"),
        ({"metric": "f1"}, "metric must be 'log_loss', "),
        ({"epochs": 0}, "epochs must be a whole number from 1 on, not 0"),
        ({"batch_size": None}, "batch_size must be"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"warmup": -1}, "warmup"),
        ({"device": "abacus"}, "device must be auto"),
        ({"class_weight": "even"}, "class_weight must be"),
    ],
)
def test_what_cannot_be_meant_is_said(params: dict[str, Any], message: str, data: Data) -> None:
    with pytest.raises(UsageError, match=message):
        MLP(**{**FAST, **params}).fit(*data(60))


def test_heads_that_cannot_share_a_width(data: Data) -> None:
    with pytest.raises(UsageError, match=r"width \(10\) must be a multiple of heads \(4\)"):
        TwoTokenTransformer(width=10, heads=4).fit(*data(60))


def test_a_rate_beyond_reason_is_one_line(data: Data) -> None:
    with pytest.raises(HeadError, match="training mlp diverged"):
        MLP(**{**FAST, "lr": 1e38}).fit(*data(60), val=data(30, seed=1))


@pytest.mark.parametrize("family", ["guided-ca", "diff-attn", "guided-ca+diff-attn"])
def test_seeds_together_refuse_what_one_refuses(family: str, data: Data) -> None:
    X, y = data(40)
    alone = X.select(["image"])
    for fit in (
        lambda head: head.fit(alone, y),
        lambda head: head.fit_seeds([0, 1], alone, y, val=(alone, y)),
    ):
        with pytest.raises(InputError, match="nothing to attend to: 'image' is one vector a row"):
            fit(quick(family, epochs=1))


def test_a_plateau_comes_again_without_dev(data: Data) -> None:
    X, y = data(60)
    given = {"lr": 0.1, "schedule": "plateau", "epochs": 16, "patience": None, "warmup": 0.0, "dropout": 0.0}
    head = MLP(hidden=8, **given).fit(X, y, val=data(40, seed=1))
    rates = [row["lr"] for row in head.curve_ if "epoch" in row]
    chosen = head.chosen_
    assert all(epoch < chosen["stop"] for epoch in chosen["drops"])
    again = MLP(hidden=8, **{**given, **chosen}).fit(X, y)
    assert [row["lr"] for row in again.curve_ if "epoch" in row] == rates[: chosen["stop"]]
    # Whatever was best here: the rate falls where it is told to.
    told = MLP(hidden=8, **{**given, "stop": 5, "drops": [2, 4]}).fit(X, y)
    assert [row["lr"] for row in told.curve_ if "epoch" in row] == pytest.approx(
        [0.1, 0.1, 0.03, 0.03, 0.009]
    )


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_fastest_device_is_taken(
    cuda: int, mps: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert MLP()._device().type == expected
    assert MLP(device="cpu")._device().type == "cpu"


ACCELERATORS = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


@pytest.mark.parametrize("device", [name for name, there in ACCELERATORS.items() if there])
@pytest.mark.parametrize("family", ["mlp", "guided-ca"])
def test_a_head_learns_on_an_accelerator_and_loads_anywhere(
    family: str, device: str, data: Data, tmp_path: Path
) -> None:
    X, y = data(120)
    head = quick(family, device=device, epochs=10, lr=(1e-2, 3e-2)).fit(X, y, val=data(40, seed=1))
    assert head.score(X, y) > 0.8
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head").set_params(device="cpu")
    np.testing.assert_allclose(loaded.predict_proba(X), head.predict_proba(X), atol=1e-4)


@pytest.mark.slow
def test_the_example_of_the_documentation_is_a_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = ModuleType("their_heads")
    monkeypatch.setitem(sys.modules, "their_heads", module)
    exec(compile(source, "training.md", "exec"), module.__dict__)
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group: [EntryPoint("difference", "their_heads:DifferenceHead", group)],
    )
    X, y = equal_or_different(400)
    head = registry.create("difference", width=32, lr=(3e-3, 1e-2), dropout=0.1, epochs=12).fit(X, y)
    assert head.score(*equal_or_different(200, 1)) > 0.9
    head.save(tmp_path)
    np.testing.assert_array_equal(Head.load(tmp_path).predict_proba(X), head.predict_proba(X))
