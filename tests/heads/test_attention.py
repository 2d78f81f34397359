"""Attention against references written as loops over numbers, and what every network of it has to keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from icehouse.heads.torch_layers import (
    AttentionPool,
    Block,
    DifferentialV1,
    DifferentialV2,
    DiffNet,
    Embed,
    GuidedDiffNet,
    GuidedNet,
    PublishedNet,
    batch_attention,
    lambda_init,
    masked_softmax,
    sinusoids,
)
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

WIDTHS = {"image": 5, "text": 3, "caption": 4}
LENGTHS = {"image": 4, "text": 3, "caption": 1}
Matrix = list[list[float]]

NETWORKS: dict[str, Callable[[dict[str, int]], Any]] = {
    "guided": lambda widths: GuidedNet(widths, 3, width=8, heads=2),
    "guided and differential": lambda widths: GuidedDiffNet(
        widths, 3, width=8, heads=2, depth=1, version="v1"
    ),
    "differential v1": lambda widths: DiffNet(widths, 3, width=8, heads=2, depth=2, version="v1"),
    "differential v2": lambda widths: DiffNet(widths, 3, width=8, heads=2, depth=2, version="v2"),
}
networks = pytest.mark.parametrize("kind", sorted(NETWORKS))


# ---------------------------------------------------------------------- references, one number at a time


def numbers(tensor: Tensor) -> Any:
    return tensor.detach().tolist()


def times(W: Matrix, x: list[float]) -> list[float]:
    return [sum(w * a for w, a in zip(row, x, strict=True)) for row in W]


def plus(a: list[float], b: list[float]) -> list[float]:
    return [p + q for p, q in zip(a, b, strict=True)]


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(s - max(scores)) for s in scores]
    return [p / sum(powers) for p in powers]


def weights_over(query: list[float], keys: Matrix, real: list[bool]) -> list[float]:
    """Softmax of the scaled products with the keys that are real; zero for the others."""
    at = [j for j, here in enumerate(real) if here]
    found = softmax([times([query], keys[j])[0] / math.sqrt(len(query)) for j in at]) if at else []
    return [found[at.index(j)] if j in at else 0.0 for j in range(len(keys))]


def mixed(weights: list[float], values: Matrix) -> list[float]:
    total = [0.0] * len(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = plus(total, [weight * v for v in value])
    return total


def cut(x: list[float], part: int, parts: int) -> list[float]:
    size = len(x) // parts
    return x[part * size : (part + 1) * size]


def rms_normed(x: list[float], weight: list[float]) -> list[float]:
    length = math.sqrt(sum(a * a for a in x) / len(x) + 1e-5)
    return [w * a / length for w, a in zip(weight, x, strict=True)]


def layer_normed(x: list[float], norm: nn.LayerNorm) -> list[float]:
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in x) / len(x) + norm.eps)
    scale, shift = numbers(norm.weight), numbers(norm.bias)
    return [w * (a - mean) / deviation + b for w, a, b in zip(scale, x, shift, strict=True)]


def linear(layer: Any, x: list[float]) -> list[float]:
    out = times(numbers(layer.weight), x)
    return out if layer.bias is None else plus(out, numbers(layer.bias))


def sigmoid(x: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-a)) for a in x]


def relu(x: list[float]) -> list[float]:
    return [max(a, 0.0) for a in x]


def product(a: list[float], b: list[float]) -> list[float]:
    return [p * q for p, q in zip(a, b, strict=True)]


def classified(layer: Any, z: list[float]) -> list[float]:
    return linear(layer.out, relu(layer_normed(linear(layer.hidden, z), layer.norm)))


def embedded(layer: Any, x: Matrix) -> Matrix:
    p = numbers(layer.position)
    half = (len(p) + 1) // 2
    tokens = []
    for i, row in enumerate(x):
        token = layer_normed(linear(layer.linear, row), layer.norm)
        for k in range(len(p)):
            angle = i / 10_000 ** (2 * (k % half) / len(p))
            token[k] += p[k] * (math.sin(angle) if k < half else math.cos(angle) - 1)
        tokens.append(token)
    return tokens


def v1_reference(layer: DifferentialV1, x: Matrix, real: list[bool], place: int) -> Matrix:
    """Ye et al. 2024, equations 1 to 4, for one row."""
    h, w = layer.heads, len(x[0])
    W = numbers(layer.qkv.weight)
    q, k, v = ([times(W[part * w : (part + 1) * w], token) for token in x] for part in range(3))
    first = 0.8 - 0.6 * math.exp(-0.3 * (place - 1))
    lq1, lk1, lq2, lk2 = (
        numbers(p) for p in (layer.lambda_q1, layer.lambda_k1, layer.lambda_q2, layer.lambda_k2)
    )
    lam = math.exp(times([lq1], lk1)[0]) - math.exp(times([lq2], lk2)[0]) + first
    out = []
    for i in range(len(x)):
        side_by_side: list[float] = []
        for head in range(h):
            values = [cut(token, head, h) for token in v]
            one, two = (
                weights_over(
                    cut(q[i], 2 * head + half, 2 * h),
                    [cut(token, 2 * head + half, 2 * h) for token in k],
                    real,
                )
                for half in (0, 1)
            )
            a = [p - lam * r for p, r in zip(one, two, strict=True)]
            normed = rms_normed(mixed(a, values), numbers(layer.norm.weight))
            side_by_side += [(1 - first) * y for y in normed]
        out.append(linear(layer.out, side_by_side))
    return out


def v2_reference(layer: DifferentialV2, x: Matrix, real: list[bool]) -> Matrix:
    """Two queries a head on the same keys and values; the second's result taken off, σ(λ) of it."""
    h, w = layer.heads, len(x[0])
    W = numbers(layer.kv.weight)
    k, v = ([times(W[part * w : (part + 1) * w], token) for token in x] for part in range(2))
    q = [linear(layer.query, token) for token in x]
    out = []
    for i, token in enumerate(x):
        lam = sigmoid(linear(layer.lam, token))
        side_by_side: list[float] = []
        for head in range(h):
            keys, values = [cut(t, head, h) for t in k], [cut(t, head, h) for t in v]
            one = mixed(weights_over(cut(q[i], 2 * head, 2 * h), keys, real), values)
            two = mixed(weights_over(cut(q[i], 2 * head + 1, 2 * h), keys, real), values)
            side_by_side += [a - lam[head] * b for a, b in zip(one, two, strict=True)]
        out.append(linear(layer.out, side_by_side))
    return out


def block_reference(block: Block, x: Matrix, real: list[bool], place: int) -> Matrix:
    normed = [rms_normed(token, numbers(block.norm1.weight)) for token in x]
    if isinstance(block.attention, DifferentialV1):
        read = v1_reference(block.attention, normed, real, place)
    else:
        read = v2_reference(block.attention, normed, real)
    out = []
    for token, more in zip(x, read, strict=True):
        token = plus(token, more)
        up = linear(block.up, rms_normed(token, numbers(block.norm2.weight)))
        gate, value = cut(up, 0, 2), cut(up, 1, 2)
        hidden = [g * s * u for g, s, u in zip(gate, sigmoid(gate), value, strict=True)]
        out.append(plus(token, linear(block.down, hidden)))
    return out


def pool_reference(pool: AttentionPool, x: Matrix, real: list[bool]) -> list[float]:
    return mixed(weights_over(numbers(pool.query), x, real), x)


def gates_reference(gates: Any, row: dict[str, Matrix], real: dict[str, list[bool]]) -> dict[str, Matrix]:
    """α ∘ f̃ of every token of every input, for one row."""
    names = list(row)
    tokens = {name: embedded(layer, row[name]) for name, layer in zip(names, gates.embed, strict=True)}
    gated: dict[str, Matrix] = {}
    for name, attend, gate in zip(names, gates.attend, gates.gate, strict=True):
        guides = [other for other in names if other != name] or [name]
        others = [token for guide in guides for token in tokens[guide]]
        here = [r for guide in guides for r in real[guide]]
        gated[name] = []
        for token in tokens[name]:
            q = linear(attend.query, token)
            k, v = ([linear(layer, e) for e in others] for layer in (attend.key, attend.value))
            read: list[float] = []
            for head in range(attend.heads):
                a = weights_over(
                    cut(q, head, attend.heads), [cut(key, head, attend.heads) for key in k], here
                )
                read += mixed(a, [cut(value, head, attend.heads) for value in v])
            gated[name].append(product(sigmoid(linear(gate, read)), relu(token)))
    return gated


def network_reference(network: Any, row: dict[str, Matrix], real: dict[str, list[bool]]) -> list[float]:
    if isinstance(network, GuidedNet):
        gated = gates_reference(network.gates, row, real)
        pools = zip(gated.items(), network.pool, strict=True)
        return classified(
            network.classifier, [a for (name, x), pool in pools for a in pool_reference(pool, x, real[name])]
        )
    if isinstance(network, GuidedDiffNet):
        gated = gates_reference(network.gates, row, real)
        kinds = zip(gated.values(), numbers(network.kind), strict=True)
        x = [plus(token, kind) for tokens, kind in kinds for token in tokens]
    else:
        pairs = zip(row.values(), network.embed, strict=True)
        x = [token for tokens, layer in pairs for token in embedded(layer, tokens)]
    here = [r for mask in real.values() for r in mask]
    for place, block in enumerate(network.blocks, start=1):
        x = block_reference(block, x, here, place)
    return classified(network.classifier, pool_reference(network.pool, x, here))


# ---------------------------------------------------------------------- what is compared


def shaken(module: Any, seed: int = 0) -> Any:
    """The module in float64, with no parameter left at a start that hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def rows(
    n: int = 6, seed: int = 0, widths: dict[str, int] = WIDTHS
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random rows: the first has everything, the second lacks an input, the third has nothing at all."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: torch.randn(n, LENGTHS[name], width, generator=generator, dtype=torch.float64)
        for name, width in widths.items()
    }
    masks = {name: torch.rand(x.shape[:2], generator=generator) < 0.7 for name, x in inputs.items()}
    for name, mask in masks.items():
        mask[0] = True
        mask[1] = name != "text"
        mask[2] = False
    return inputs, masks


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(
        np.asarray(a.detach() if isinstance(a, Tensor) else a), np.asarray(b), rtol=1e-9, atol=1e-12
    )


def test_a_softmax_over_nothing_is_zero_and_has_a_gradient() -> None:
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    a = masked_softmax(scores, mask)
    close(a[0, [0, 2]], softmax(numbers(scores[0, [0, 2]])))
    assert numbers(a[1]) == [0, 0, 0]
    assert a[0, 1] == 0
    a.square().sum().backward()
    assert scores.grad is not None
    assert numbers(scores.grad[1]) == [0, 0, 0]
    assert scores.grad.isfinite().all()


def test_lambda_starts_as_in_the_paper() -> None:
    assert lambda_init(1) == pytest.approx(0.2)
    assert lambda_init(2) == pytest.approx(0.8 - 0.6 * math.exp(-0.3))
    assert lambda_init(100) == pytest.approx(0.8)
    torch.manual_seed(0)
    layer = DifferentialV1(1024, 1)
    drawn = torch.cat([layer.lambda_q1, layer.lambda_k1, layer.lambda_q2, layer.lambda_k2])
    assert drawn.std().item() == pytest.approx(0.1, rel=0.1)
    assert abs(drawn.mean().item()) < 0.01


@pytest.mark.parametrize("place", [1, 3, None], ids=["v1, first", "v1, third", "v2"])
def test_differential_attention_is_its_equation(place: int | None) -> None:
    layer = shaken(DifferentialV2(8, 2) if place is None else DifferentialV1(8, 2, place))
    x, real = torch.randn(3, 5, 8, dtype=torch.float64), torch.rand(3, 5) < 0.7
    real[0], real[1] = True, False
    y, a = layer(x, real)
    assert a.shape == (3, 2, 5, 5)
    expected = [
        v2_reference(layer, row, mask) if place is None else v1_reference(layer, row, mask, place)
        for row, mask in zip(numbers(x), real.tolist(), strict=True)
    ]
    close(y, expected)
    assert numbers(y[1]) == np.zeros((5, 8)).tolist()


def test_maps_of_differential_attention_add_up() -> None:
    x, real = (
        torch.randn(2, 4, 8, dtype=torch.float64),
        torch.tensor([[True] * 4, [True, False, True, False]]),
    )
    first, second = shaken(DifferentialV1(8, 2)), shaken(DifferentialV2(8, 2))
    lam = (
        (first.lambda_q1 * first.lambda_k1).sum().exp()
        - (first.lambda_q2 * first.lambda_k2).sum().exp()
        + 0.2
    )
    a = first(x, real)[1]
    close(a.sum(-1), np.full((2, 2, 4), 1 - lam.item()))
    assert (a[1, :, :, [1, 3]] == 0).all()
    close(second(x, real)[1].sum(-1), 1 - torch.sigmoid(second.lam(x)).mT.detach())


@networks
@pytest.mark.parametrize("names", [("image", "text"), ("image", "text", "caption"), ("image",)])
def test_networks_are_their_equations(kind: str, names: tuple[str, ...]) -> None:
    widths = {name: WIDTHS[name] for name in names}
    network = shaken(NETWORKS[kind](widths))
    inputs, masks = rows(widths=widths)
    expected = [
        network_reference(
            network,
            {name: numbers(inputs[name][i]) for name in names},
            {name: masks[name][i].tolist() for name in names},
        )
        for i in range(6)
    ]
    close(network(inputs, masks), expected)


@networks
def test_gradients_of_networks(kind: str) -> None:
    network = shaken(NETWORKS[kind]({"image": 3, "text": 2}))
    inputs, masks = rows(4, widths={"image": 3, "text": 2})
    parameters = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}

    def run(*values: Tensor) -> Tensor:
        return functional_call(network, dict(zip(parameters, values, strict=True)), (inputs, masks))

    assert torch.autograd.gradcheck(run, tuple(parameters.values()), fast_mode=True)


def test_gradients_of_the_published_form() -> None:
    network = shaken(PublishedNet({"image": 3, "text": 2}, 2, differential=True)).train()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    masks = {name: torch.ones(5, 1, dtype=torch.bool) for name in ("image", "text")}

    def run(x: Tensor) -> Tensor:
        return network({"image": x[:, None, :3], "text": x[:, None, 2:]}, masks)

    assert torch.autograd.gradcheck(run, x, fast_mode=True)


@networks
def test_what_lies_under_a_mask_does_not_matter(kind: str) -> None:
    network = shaken(NETWORKS[kind](WIDTHS))
    inputs, masks = rows()
    noise = {
        name: torch.where(masks[name][..., None], x, 50 * torch.randn_like(x)) for name, x in inputs.items()
    }
    close(network(noise, masks), network(inputs, masks).detach())
    longer = {name: torch.cat([x, torch.ones_like(x)], dim=1) for name, x in inputs.items()}
    wider = {name: torch.cat([mask, torch.zeros_like(mask)], dim=1) for name, mask in masks.items()}
    close(network(longer, wider), network(inputs, masks).detach())


@networks
def test_rows_do_not_see_each_other(kind: str) -> None:
    network = shaken(NETWORKS[kind](WIDTHS))
    inputs, masks = rows()
    whole = network(inputs, masks).detach()
    order = torch.randperm(6)
    close(network(*({k: v[order] for k, v in part.items()} for part in (inputs, masks))), whole[order])
    for i in range(6):
        # Alone, a row is as long as its own tokens: one position may be all that is left.
        length = {
            name: max([1, *(torch.nonzero(mask[i])[:, 0] + 1).tolist()]) for name, mask in masks.items()
        }
        alone = network(
            {name: x[i : i + 1, : length[name]] for name, x in inputs.items()},
            {name: mask[i : i + 1, : length[name]] for name, mask in masks.items()},
        )
        close(alone, whole[i : i + 1])


@pytest.mark.slow
@networks
def test_many_networks_run_as_one(kind: str) -> None:
    several = [shaken(NETWORKS[kind](WIDTHS), seed) for seed in range(3)]
    inputs, masks = rows()
    parameters, buffers = stack_module_state(several)  # type: ignore[arg-type]  # modules of one class

    def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(several[0], (parameters, buffers), (inputs, masks))

    close(vmap(run)(parameters, buffers), np.stack([network(inputs, masks).detach() for network in several]))
    slopes = vmap(grad(lambda p, b: run(p, b).square().sum()))(parameters, buffers)
    for i, network in enumerate(several):
        network.zero_grad()
        network(inputs, masks).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert slopes[name][i].isfinite().all()
            if parameter.grad is not None:
                close(slopes[name][i], parameter.grad)


@networks
def test_missing_inputs_leave_numbers_and_slopes_finite(kind: str) -> None:
    network = NETWORKS[kind](WIDTHS)
    inputs, masks = rows()
    inputs = {name: x.float() for name, x in inputs.items()}
    logits = network(inputs, {name: torch.zeros_like(mask) for name, mask in masks.items()})
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    without = dict(masks, text=torch.zeros_like(masks["text"]))
    with torch.no_grad():
        assert (network(inputs, masks)[0] - network(inputs, without)[0]).abs().max() > 1e-6


@networks
def test_attention_that_is_shown_adds_up(kind: str) -> None:
    network = shaken(NETWORKS[kind](WIDTHS))
    inputs, masks = rows()
    weights, between = network.read(inputs, masks)
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        name: (6, t) for name, t in LENGTHS.items()
    }
    for name, weight in weights.items():
        assert (weight[~masks[name]] == 0).all()
        assert (weight >= 0).all()
    per_input = torch.stack([w.sum(1) for w in weights.values()], dim=1)
    if kind == "guided":
        close(per_input, torch.stack([mask.any(1) for mask in masks.values()], dim=1).double())
    else:
        close(per_input.sum(1), torch.stack([mask.any(1) for mask in masks.values()]).any(0).double())
    for (name, other), a in between.items():
        assert a.shape == (6, LENGTHS[name], LENGTHS[other])
        assert (a[~masks[name]] == 0).all()
        assert (a.mT[~masks[other]] == 0).all()
    if kind.startswith("guided"):
        assert set(between) == {(a, b) for a in WIDTHS for b in WIDTHS if a != b}
        read = between["image", "text"].sum(2) + between["image", "caption"].sum(2)
        has = (masks["text"].any(1) | masks["caption"].any(1))[:, None] & masks["image"]
        close(read, has.double())


def test_position_zero_is_nothing() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    assert (sinusoids(3, 7, like)[0] == 0).all()
    assert sinusoids(3, 7, like).shape == (3, 7)
    embed = shaken(Embed(4, 6))
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    close(embed(x[:, :1]), embed(x)[:, :1].detach())
    swapped = x[:, [1, 0, 2]]
    assert (embed(swapped)[:, 0] - embed(x)[:, 1]).abs().max() > 1e-3


# ---------------------------------------------------------------------- the published forms


def batch_attention_reference(x: Matrix) -> Matrix:
    return [mixed(softmax([times([row], other)[0] for other in x]), x) for row in x]


def test_published_self_attention_is_its_equation_and_crosses_the_batch() -> None:
    x = torch.randn(5, 3, dtype=torch.float64)
    close(batch_attention(x), batch_attention_reference(numbers(x)))
    assert (batch_attention(x)[:2] - batch_attention(x[:2])).abs().max() > 1e-2


@pytest.mark.parametrize("differential", [False, True])
def test_the_published_form_is_its_equations(differential: bool) -> None:
    network = shaken(PublishedNet({"image": 5, "text": 3}, 2, differential=differential))
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(4, 1, width, generator=generator, dtype=torch.float64)
        for name, width in (("image", 5), ("text", 3))
    }
    masks = {name: torch.ones(4, 1, dtype=torch.bool) for name in inputs}

    def normed(x: list[float], norm: Any) -> list[float]:
        columns = zip(
            x,
            *(numbers(t) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)),
            strict=True,
        )
        return [w * (a - mean) / math.sqrt(var + norm.eps) + b for a, mean, var, w, b in columns]

    f, e = (
        [linear(step[2], relu(linear(step[0], row[0]))) for row in numbers(inputs[name])]
        for name, step in zip(inputs, network.map, strict=True)
    )
    over_f, over_e = batch_attention_reference(f), batch_attention_reference(e)
    for i in range(4):
        f_ = relu(normed(linear(network.project[0], f[i]), network.norm[0]))
        e_ = relu(normed(linear(network.project[1], e[i]), network.norm[1]))
        z = [
            *product(sigmoid(linear(network.gate[1], over_e[i])), f_),
            *product(sigmoid(linear(network.gate[0], over_f[i])), e_),
        ]
        if differential:
            (z,) = v1_reference(network.attention, [z], [True], 2)
        hidden = relu(normed(linear(network.hidden, z), network.hidden_norm))
        close(network(inputs, masks)[i], linear(network.out, hidden))


def test_the_published_form_depends_on_the_other_rows() -> None:
    torch.manual_seed(0)
    network = PublishedNet({"image": 5, "text": 3}, 2, differential=False).eval()
    # Near-duplicates, of which crisis data are full: unlike rows have products so large that a softmax without
    # scale is nearly one-hot.
    inputs = {
        name: torch.randn(1, 1, w) + 0.3 * torch.randn(6, 1, w) for name, w in (("image", 5), ("text", 3))
    }
    masks = {name: torch.ones(6, 1, dtype=torch.bool) for name in inputs}
    whole = network(inputs, masks)
    alone = network({name: x[:1] for name, x in inputs.items()}, {name: m[:1] for name, m in masks.items()})
    assert (whole[:1] - alone).abs().max() > 1e-4
    in_twos = PublishedNet({"image": 5, "text": 3}, 2, differential=False, rows=2).eval()
    in_twos.load_state_dict(network.state_dict())
    pair = in_twos({name: x[2:4] for name, x in inputs.items()}, {name: m[2:4] for name, m in masks.items()})
    close(in_twos(inputs, masks)[2:4].double(), pair.detach().double())


def test_differential_attention_over_one_token_is_a_linear_map() -> None:
    """Softmax over one element is 1: queries and keys have no effect, and A V is (1 − λ) W_v x."""
    real = torch.ones(4, 1, dtype=torch.bool)
    x = torch.randn(4, 1, 8, dtype=torch.float64)
    first, second = shaken(DifferentialV1(8, 2)), shaken(DifferentialV2(8, 2))
    before = first(x, real)[0].detach(), second(x, real)[0].detach()
    with torch.no_grad():
        first.qkv.weight[:16] = torch.randn(16, 8)
        second.query.weight[:] = torch.randn(16, 8)
        second.kv.weight[:8] = torch.randn(8, 8)
    close(first(x, real)[0], before[0])
    close(second(x, real)[0], before[1])

    # V1: (1 − λ) is lost in the norm of the head, but for its sign: what is left is W_v x, normalised.
    lam = (
        (first.lambda_q1 * first.lambda_k1).sum().exp()
        - (first.lambda_q2 * first.lambda_k2).sum().exp()
        + 0.2
    )
    v = (1 - lam) * (x @ first.qkv.weight[16:].mT).unflatten(-1, (2, 4))
    close(first(x, real)[0], first.out(0.8 * first.norm(v).flatten(-2)).detach())
    # V2, with λ the same for all tokens: linear throughout.
    with torch.no_grad():
        second.lam.weight.zero_()
    close(second(x, real)[0], (0.5 * x @ second.kv.weight[8:].mT @ second.out.weight.mT).detach())
