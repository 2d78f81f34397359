from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from icehouse.heads.inputs import Inputs, Tokens
from icehouse.heads.torch_layers import (
    Align,
    Cross,
    DiffNet,
    Dropout,
    ModalityDropout,
    Perceptron,
    Prepared,
    TwoToken,
    masked_mean,
)
from icehouse.heads.torch_training import (
    SGD,
    AdamW,
    Configuration,
    Outcome,
    Part,
    Plan,
    Rows,
    schedule_factor,
    statistics,
    train_many,
)
from torch import nn

WIDTHS = {"image": 6, "text": 4}
PLAN = Plan(epochs=4, batch_size=16, patience=None, precision="float32")


def part(n: int = 50, seed: int = 0, k: int = 3, noise: float = 1.0) -> Part:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(k, 10))
    y = rng.integers(0, k, n)
    both = (centres[y] + noise * rng.normal(size=(n, 10))).astype(np.float32)
    rows = Rows(Inputs({"image": both[:, :6], "text": both[:, 6:]}))
    return Part(rows, torch.from_numpy(y), torch.ones(n))


NETWORKS = {
    "perceptron": lambda: Perceptron(10, 8, 1, 3),
    "align": lambda: Align(WIDTHS, 8, 8, 3),
    "cross": lambda: Cross(WIDTHS, 4, 8, 3),
    "two-token": lambda: TwoToken(WIDTHS, 8, 1, 2, 8, 3),
}


def perceptron() -> nn.Module:
    return Prepared(NETWORKS["perceptron"](), WIDTHS)


def assert_close(a: Outcome, b: Outcome, tolerance: float = 1e-3) -> None:
    assert a.epochs == b.epochs
    for name, tensor in a.state.items():
        if name.endswith("qkv.bias"):
            # The bias of keys changes nothing, its gradient is nothing but rounding, and Adam divides by its size.
            continue
        torch.testing.assert_close(tensor, b.state[name], rtol=0, atol=tolerance)
    for ours, theirs in zip(a.curve, b.curve, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def grid(dropouts: Sequence[float] = (0.0,), seeds: Sequence[int] = (0,)) -> list[Configuration]:
    return [
        Configuration(lr, decay, dropout, 0.0, seed)
        for seed in seeds
        for lr in (1e-3, 1e-2)
        for decay in (0.0, 0.1)
        for dropout in dropouts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("seeds", [(0,), (0, 3)])
def test_a_stack_learns_what_each_learns_alone(network: str, seeds: tuple[int, ...]) -> None:
    def build() -> nn.Module:
        return Prepared(NETWORKS[network](), WIDTHS)

    configurations = grid(dropouts=(0.0, 0.4), seeds=seeds)
    together = train_many(build, configurations, part(), part(30, 1), PLAN)
    alone = train_many(build, configurations, part(), part(30, 1), PLAN, batched=False)
    for a, b in zip(together, alone, strict=True):
        assert_close(a, b)
    # A decay of 0.1 at a rate of 1e-3 may change nothing that float32 shows; all else does.
    assert len({outcome.score for outcome in together}) > len(configurations) * 3 / 4


def test_neighbours_do_not_matter() -> None:
    configurations = grid(dropouts=(0.0, 0.5), seeds=(1, 2))
    configurations += [replace(one, modality_dropout=0.5) for one in configurations]
    whole = train_many(perceptron, configurations, part(), part(30, 1), PLAN)
    some = train_many(perceptron, configurations[::-3], part(), part(30, 1), PLAN)
    for a, b in zip(whole[::-3], some, strict=True):
        assert a.configuration == b.configuration
        assert_close(a, b)


@pytest.mark.slow
def test_neighbours_with_longer_texts_do_not_matter() -> None:
    # Rows of another seed's batch are longer: what is cut to the longest row of a batch is cut to that of one's own.
    rng = np.random.default_rng(0)
    mask = np.arange(9) < rng.integers(1, 10, 48)[:, None]
    values = rng.normal(size=(48, 9, 6)).astype(np.float32) * mask[..., None]
    rows = Rows(Inputs({"image": Tokens(values, mask)}))
    train = Part(rows, torch.from_numpy(rng.integers(0, 3, 48)), torch.ones(48))

    def build() -> nn.Module:
        return Prepared(DiffNet({"image": 6}, 3, width=8, heads=2, depth=1, version="v2"), {"image": 6})

    configurations = [Configuration(3e-3, 0.0, rate, 0.0, seed) for seed in (1, 2) for rate in (0.2, 0.5)]
    plan = replace(PLAN, batch_size=4)
    for outcome in train_many(build, configurations, train, train, plan):
        (alone,) = train_many(build, [outcome.configuration], train, train, plan)
        assert_close(outcome, alone)


def test_those_that_stop_leave_and_the_others_go_on() -> None:
    plan = replace(PLAN, epochs=25, patience=2)
    configurations = [Configuration(lr=lr) for lr in (1e-4, 3e-3, 3e-2, 0.3)]
    train, val = part(40, noise=2.0), part(40, 1, noise=2.0)
    together = train_many(perceptron, configurations, train, val, plan)
    lengths = [len(outcome.curve) for outcome in together]
    assert len(set(lengths)) > 1
    for outcome, configuration in zip(together, configurations, strict=True):
        (alone,) = train_many(perceptron, [configuration], train, val, plan)
        assert len(alone.curve) == len(outcome.curve)
        losses = [row["log_loss"] for row in outcome.curve]
        assert outcome.epochs == 1 + losses.index(min(losses))
        assert len(losses) == min(25, outcome.epochs + 2)
        assert outcome.score == -min(losses)


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    train, val = part(30, noise=3.0), part(60, 1, noise=3.0)
    plan = replace(PLAN, epochs=20, schedule="constant")
    configurations = [Configuration(lr=0.03), Configuration(lr=0.1)]
    for outcome in train_many(perceptron, configurations, train, val, plan):
        assert outcome.epochs < 20
        stopped = replace(plan, stop=outcome.epochs)
        (again,) = train_many(perceptron, [outcome.configuration], train, None, stopped)
        for name, tensor in outcome.state.items():
            torch.testing.assert_close(tensor, again.state[name], rtol=0, atol=1e-4)
        network = perceptron()
        network.load_state_dict(outcome.state)
        logits = network.eval()(*val.rows.take(slice(None)))
        loss = nn.functional.cross_entropy(logits, val.y)
        assert float(loss.detach()) == pytest.approx(-outcome.score, abs=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_other_ones() -> None:
    def states(seed: int) -> list[torch.Tensor]:
        configurations = [Configuration(lr, dropout=0.5, seed=seed) for lr in (1e-3, 1e-2)]
        outcomes = train_many(perceptron, configurations, part(), part(30, 1), PLAN)
        return [tensor for outcome in outcomes for tensor in outcome.state.values()]

    state = torch.get_rng_state()
    first = states(0)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, states(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, states(1), strict=True))
    torch.set_rng_state(state)
    states(0)
    assert torch.equal(torch.get_rng_state(), state)  # whose numbers the caller draws is not our business


@pytest.mark.slow
def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    val = part(40, 1)
    val = replace(val, weight=torch.rand(40, generator=torch.Generator().manual_seed(0)))
    outcomes = train_many(perceptron, grid(), part(), val, replace(PLAN, epochs=1))
    for outcome in outcomes:
        network = perceptron()
        network.load_state_dict(outcome.state)
        proba = network.eval()(*val.rows.take(slice(None))).softmax(dim=1).detach().double().numpy()
        proba /= proba.sum(axis=1, keepdims=True)
        y, weight, row = val.y.numpy(), val.weight.numpy(), outcome.curve[0]
        assert row["log_loss"] == pytest.approx(log_loss(y, proba, sample_weight=weight), abs=1e-5)
        assert row["accuracy"] == pytest.approx(
            accuracy_score(y, proba.argmax(1), sample_weight=weight), abs=1e-5
        )
        assert row["macro_f1"] == pytest.approx(f1_score(y, proba.argmax(1), average="macro"), abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_weighted_mean(smoothing: float) -> None:
    train = part(12)
    weight = np.linspace(0, 2, 12)
    train = replace(train, weight=torch.from_numpy(weight).float())
    plan = replace(PLAN, epochs=1, batch_size=12, label_smoothing=smoothing)
    configurations = [Configuration(seed=5), Configuration(seed=6)]
    for outcome in train_many(perceptron, configurations, train, None, plan):
        torch.manual_seed(outcome.configuration.seed)
        proba = perceptron()(*train.rows.take(slice(None))).softmax(dim=1).detach().double().numpy()
        total = 0.0
        for i in range(12):
            for c in range(3):
                target = (1 - smoothing) * (c == int(train.y[i])) + smoothing / 3
                total -= weight[i] * target * math.log(proba[i, c]) / 12
        assert outcome.curve[0]["loss"] == pytest.approx(total, abs=1e-5)


def test_a_model_that_diverges_stops_and_the_others_do_not() -> None:
    train = part(30)
    configurations = [Configuration(lr=1e30), Configuration(lr=1e-2)]
    broken, fine = train_many(perceptron, configurations, train, part(30, 1), replace(PLAN, epochs=6))
    assert broken.epochs < 6
    assert len(broken.curve) < 6
    assert fine.epochs > 0
    assert len(fine.curve) == 6


def test_batch_norm_is_trained_one_at_a_time() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(10), nn.Linear(10, 3)

        def forward(self, inputs: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> torch.Tensor:
            logits: torch.Tensor = self.out(self.norm(torch.cat([x[:, 0] for x in inputs.values()], dim=1)))
            return logits

    train = part(40)
    first, second = train_many(
        Normed, [Configuration(1e-3), Configuration(1e-2)], train, None, PLAN, batched=False
    )
    both = np.concatenate([train.rows.X["image"], train.rows.X["text"]], axis=1)
    # After 4 epochs of batches of about 13 rows each the running mean is near that of the rows.
    np.testing.assert_allclose(first.state["norm.running_mean"], both.mean(axis=0), atol=0.6)
    assert int(second.state["norm.num_batches_tracked"]) == 12
    assert not torch.equal(first.state["out.weight"], second.state["out.weight"])


# ---------------------------------------------------------------------------------- optimizers and schedules


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimizers_are_those_of_pytorch(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    lrs, decays = [1e-3, 1e-3, 3e-2, 1e-2], [0.1, 0.1, 0.1, 0.0]
    shapes = {"w": (4, 5, 3), "b": (4, 7)}
    ours = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    theirs = [{name: nn.Parameter(tensor[i].clone()) for name, tensor in ours.items()} for i in range(4)]
    optimizers: list[torch.optim.Optimizer] = []
    for i, parameters in enumerate(theirs):
        if kind == "adamw":
            optimizers.append(torch.optim.AdamW(parameters.values(), lr=lrs[i], weight_decay=decays[i]))
        else:
            optimizers.append(
                torch.optim.SGD(parameters.values(), lr=lrs[i], weight_decay=decays[i], momentum=0.9)
            )
    optimizer = AdamW(ours) if kind == "adamw" else SGD(ours)
    for _ in range(20):
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        optimizer.step(gradients, lrs, decays)
        for i, parameters in enumerate(theirs):
            for name, p in parameters.items():
                p.grad = gradients[name][i].clone()
            optimizers[i].step()
    for i, parameters in enumerate(theirs):
        for name, p in parameters.items():
            torch.testing.assert_close(ours[name][i], p.detach(), rtol=1e-6, atol=1e-6)


def test_a_stack_that_shrinks_keeps_its_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(3, 4, generator=generator) for _ in range(6)]
    whole = {"w": torch.ones(3, 4)}
    optimizer = AdamW(whole)
    small = {"w": torch.ones(3, 4)}
    shrinking = AdamW(small)
    for i, gradient in enumerate(steps):
        optimizer.step({"w": gradient}, [0.1] * 3, [0.0] * 3)
        if i == 3:
            small = {"w": small["w"][[0, 2]]}
            shrinking.select(small, torch.tensor([0, 2]))
        rows = gradient if i < 3 else gradient[[0, 2]]
        shrinking.step({"w": rows}, [0.1] * len(rows), [0.0] * len(rows))
    torch.testing.assert_close(small["w"], whole["w"][[0, 2]], rtol=1e-6, atol=1e-6)


def test_schedules() -> None:
    for schedule in ("cosine", "constant", "plateau"):
        assert schedule_factor(schedule, 0.5, 10, 2) == 0.25
        assert schedule_factor(schedule, 2, 10, 2) == 1.0
    for epoch in np.linspace(2, 10, 30):
        angle = math.pi * (epoch - 2) / 8
        assert schedule_factor("cosine", epoch, 10, 2) == pytest.approx(0.5 * (1 + math.cos(angle)))
        assert schedule_factor("constant", epoch, 10, 2) == 1.0
    assert schedule_factor("cosine", 10, 10, 0) == pytest.approx(0)
    assert schedule_factor("cosine", 1, 1, 1) == 1.0


def test_plateau_lowers_the_rate_of_the_model_that_waits() -> None:
    plan = replace(PLAN, epochs=14, schedule="plateau", warmup=0.0)
    configurations = [Configuration(lr=1e-5), Configuration(lr=0.1)]
    slow, fast = train_many(perceptron, configurations, part(30, noise=3.0), part(40, 1, noise=3.0), plan)
    assert {row["lr"] for row in slow.curve} == {1e-5}
    expected, best, waited = 0.1, math.inf, 0
    for row in fast.curve:
        assert row["lr"] == pytest.approx(expected)
        waited = 0 if row["log_loss"] < best else waited + 1
        best = min(best, row["log_loss"])
        if waited and waited % 2 == 0:
            expected *= 0.3
    assert fast.curve[-1]["lr"] < 0.1


# ---------------------------------------------------------------------------------- layers and batches


def test_dropout_leaves_the_mean_and_each_its_rate() -> None:
    layer = Dropout(0.3).train()
    torch.manual_seed(0)
    x = torch.ones(200, 500)
    dropped = layer(x)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    layer.shift.fill_(0.37)
    assert float((layer(x) == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(layer.eval()(x), x)


def test_modality_dropout_never_takes_everything() -> None:
    layer = ModalityDropout(0.8).train()
    torch.manual_seed(0)
    masks = {"image": torch.ones(2000, 3, dtype=torch.bool), "text": torch.arange(2000)[:, None] % 2 > 0}
    hidden = layer(masks)
    had = torch.stack([mask.any(dim=1) for mask in masks.values()])
    has = torch.stack([mask.any(dim=1) for mask in hidden.values()])
    assert (has <= had).all()
    assert has.any(dim=0).all()
    only = ~masks["text"][:, 0]
    assert has[0][only].all()  # a row's only input stays
    # Kept if drawn so, or if nothing else was: 0.2 + 0.8².
    assert float(has[1][~only].float().mean()) == pytest.approx(0.2 + 0.64, abs=0.04)
    assert layer.eval()(masks) == masks


def test_masked_mean_of_nothing_is_zero() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_what_lies_under_the_mask_does_not_matter(network: str) -> None:
    torch.manual_seed(0)
    model = Prepared(NETWORKS[network](), WIDTHS).double().eval()
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    inputs = {"image": torch.randn(3, 1, 6).double(), "text": torch.randn(3, 3, 4).double()}
    masks = {"image": torch.ones(3, 1, dtype=torch.bool), "text": mask}
    logits = model(inputs, masks)
    assert torch.isfinite(logits).all()
    other = {**inputs, "text": torch.where(mask[..., None], inputs["text"], torch.tensor(7.0).double())}
    torch.testing.assert_close(model(other, masks), logits)
    # Padding is not there at all.
    short = {**inputs, "text": inputs["text"][:, :2]}
    torch.testing.assert_close(model(short, {**masks, "text": mask[:, :2]}), logits)
    changed = {**inputs, "text": inputs["text"] + mask[..., None]}
    assert (model(changed, masks) - logits).abs()[:2].max() > 1e-3


def test_rows_come_as_batches(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    mask = np.arange(5) < np.array([2, 5, 1, 3])[:, None]
    tokens = (rng.normal(size=(4, 5, 3)) * mask[..., None]).astype(np.float16)
    X = Inputs(
        {"image": rng.normal(size=(4, 6)), "text": Tokens(tokens, mask)},
        {"image": np.array([True, True, False, True])},
    )
    rows = Rows(X)
    inputs, masks = rows.take(np.array([2, 0]))
    assert inputs["image"].shape == (2, 1, 6)
    assert inputs["text"].shape == (2, 2, 3)  # no longer than its longest
    assert inputs["text"].dtype == torch.float32
    assert masks["image"].tolist() == [[False], [True]]
    np.testing.assert_array_equal(inputs["text"][1], tokens[0, :2])
    inputs, masks = rows.take(np.array([[0, 1], [2, 3], [1, 1]]))
    assert inputs["text"].shape == (3, 2, 5, 3)
    np.testing.assert_array_equal(masks["text"][1], mask[[2, 3]])


def test_statistics_are_those_of_the_rows_that_are_there() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, size=(500, 4)).astype(np.float32) + 1e4
    weight = rng.random(500)
    present = np.arange(500) % 3 > 0
    mask = rng.random((500, 6)) < 0.5
    tokens = rng.normal(-1, 0.1, size=(500, 6, 3)).astype(np.float16)
    X = Inputs({"image": values, "text": Tokens(tokens * mask[..., None], mask)}, {"image": present})
    found = statistics(X, weight)
    share = weight[present] / weight[present].sum()
    mean = share @ values[present].astype(np.float64)
    spread = np.sqrt((share @ (values[present] - mean) ** 2).mean())
    np.testing.assert_allclose(found["image"][0], mean, rtol=1e-9)
    assert found["image"][1] == pytest.approx(1 / spread, rel=1e-6)
    real = tokens[mask].astype(np.float64)
    share = np.repeat(weight, mask.sum(axis=1)) / (weight @ mask.sum(axis=1))
    np.testing.assert_allclose(found["text"][0], share @ real, rtol=1e-6)
