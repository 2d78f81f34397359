"""What heads that multiply inputs can do, and a linear one provably cannot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import create
from interaction import equal_or_different

SMALL: dict[str, dict[str, Any]] = {
    "align": {"width": 32, "hidden": 32},
    "cross": {"width": 8, "hidden": 32},
    "two-token": {"width": 32, "heads": 4, "layers": 1, "hidden": 32},
    "mlp": {"hidden": 64},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(SMALL))
def test_fusion_sees_whether_inputs_agree(family: str) -> None:
    head = create(family, lr=1e-2, dropout=0.1, epochs=15, batch_size=32, **SMALL[family])
    head.fit(*equal_or_different(500, 0), val=equal_or_different(200, 1))
    assert head.score(*equal_or_different(400, 2)) > 0.95


def test_a_linear_head_cannot() -> None:
    head = create("logreg").fit(*equal_or_different(500, 0), val=equal_or_different(200, 1))
    assert 0.4 < head.score(*equal_or_different(400, 2)) < 0.65


@pytest.mark.parametrize("family", ["align", "cross"])
def test_one_input_leaves_nothing_to_multiply(family: str) -> None:
    X, y = equal_or_different(40, 0)
    with pytest.raises(HeadError, match=f"{family} multiplies inputs .* only 'text': add an input"):
        create(family).fit({"text": X["text"]}, y)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["align", "cross"])
def test_three_inputs(family: str) -> None:
    X, y = equal_or_different(300, 0)
    rng = np.random.default_rng(0)
    more = Inputs({**dict(X.items()), "caption": rng.normal(size=(300, 5)).astype(np.float32)})
    head = create(family, lr=1e-2, dropout=0.1, epochs=12, batch_size=32, **SMALL[family]).fit(more, y)
    assert head.score(more, y) > 0.8


def reference_product(vectors: list[np.ndarray], present: np.ndarray) -> np.ndarray:
    out = np.ones_like(vectors[0])
    for i in range(len(out)):
        for vector, here in zip(vectors, present, strict=True):
            if here[i]:
                out[i] *= vector[i]
    return out


def test_align_is_the_product_of_what_is_there() -> None:
    import torch
    from icehouse.heads.torch_layers import Align

    torch.manual_seed(0)
    widths = {"image": 5, "text": 3, "caption": 4}
    network = Align(widths, 6, 7, 2).double().eval()
    inputs = {name: torch.randn(4, 1, d).double() for name, d in widths.items()}
    present = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)
    masks = {name: torch.from_numpy(present[i])[:, None] for i, name in enumerate(widths)}
    vectors = []
    for x, project, norm in zip(inputs.values(), network.project, network.norms, strict=True):
        p = (x[:, 0] @ project.weight.T + project.bias).detach().numpy()
        scale = np.sqrt((p**2).mean(axis=1, keepdims=True) + torch.finfo(torch.float64).eps)
        vectors.append(p / scale * norm.weight.detach().numpy())
    product = torch.from_numpy(reference_product(vectors, present))
    with torch.inference_mode():
        np.testing.assert_allclose(network(inputs, masks), network.body(product), atol=1e-9)


def weights(module: Any) -> tuple[np.ndarray, np.ndarray]:
    return module.weight.detach().numpy(), module.bias.detach().numpy()


def affine(module: Any, row: np.ndarray) -> np.ndarray:
    W, b = weights(module)
    return np.array([sum(W[o, i] * row[i] for i in range(len(row))) + b[o] for o in range(len(W))])


def layer_norm(module: Any, row: np.ndarray) -> np.ndarray:
    scale, shift = weights(module)
    centred = row - row.mean()
    return np.asarray(centred / np.sqrt((centred**2).mean() + module.eps) * scale + shift)


def gelu(row: np.ndarray) -> np.ndarray:
    return np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in row])


def perceptron(body: Any, row: np.ndarray) -> np.ndarray:
    """Linear, GELU, (dropout,) linear."""
    return affine(body[3], gelu(affine(body[0], row)))


def tokens_of(
    widths: dict[str, int], n: int, lengths: dict[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows of one to several tokens an input, some of which lack one."""
    import torch

    rng = np.random.default_rng(5)
    inputs, masks = {}, {}
    for number, (name, width) in enumerate(widths.items()):
        mask = np.arange(lengths[name]) < 1 + np.arange(n)[:, None] % lengths[name]
        mask[number + 1] = False
        inputs[name] = torch.from_numpy(rng.normal(size=(n, lengths[name], width)) * mask[..., None])
        masks[name] = torch.from_numpy(mask)
    return inputs, masks


def mean_of(x: Any, mask: Any, row: int) -> np.ndarray:
    real = [token.numpy() for token, here in zip(x[row], mask[row], strict=True) if here]
    return np.asarray(np.mean(real, axis=0)) if real else np.zeros(x.shape[2])


def random_norms(network: Any) -> None:
    """Scales and shifts that are not one and zero, so that leaving them out shows."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)


WIDTHS = {"image": 5, "text": 3, "caption": 4}


def test_cross_is_the_outer_products_of_every_pair() -> None:
    import torch
    from icehouse.heads.torch_layers import Cross

    torch.manual_seed(0)
    network = Cross(WIDTHS, 2, 7, 2).double().eval()
    random_norms(network)
    inputs, masks = tokens_of(WIDTHS, 6, {"image": 3, "text": 1, "caption": 2})
    assert network.body[0].in_features == 3 * 3 * 3  # three pairs of (2 + 1) by (2 + 1)
    with torch.inference_mode():
        found = network(inputs, masks).numpy()
    for row in range(6):
        vectors = []
        for name, project, norm in zip(WIDTHS, network.project, network.norms, strict=True):
            vector = layer_norm(norm, affine(project, mean_of(inputs[name], masks[name], row)))
            here = bool(masks[name][row].any())
            vectors.append([*(vector if here else np.zeros(2)), 1.0])
        products = []
        for first, second in ((0, 1), (0, 2), (1, 2)):
            for a in vectors[first]:
                for b in vectors[second]:
                    products.append(a * b)
        np.testing.assert_allclose(found[row], perceptron(network.body, np.array(products)), atol=1e-9)


def test_mlp_is_a_perceptron_on_the_normed_means() -> None:
    import torch
    from icehouse.heads.torch_layers import Perceptron

    torch.manual_seed(0)
    inputs, masks = tokens_of(WIDTHS, 6, {"image": 3, "text": 1, "caption": 2})
    for layers in (0, 1, 2):
        network = Perceptron(12, 7, layers, 3).double().eval()
        random_norms(network)
        with torch.inference_mode():
            found = network(inputs, masks).numpy()
        linear = [module for module in network.body if isinstance(module, torch.nn.Linear)]
        assert len(linear) == layers + 1
        for row in range(6):
            x = np.concatenate([mean_of(inputs[name], masks[name], row) for name in WIDTHS])
            x = layer_norm(network.norm, x)
            for module in linear[:-1]:
                x = gelu(affine(module, x))
            np.testing.assert_allclose(found[row], affine(linear[-1], x), atol=1e-9)


def attended(block: Any, tokens: list[np.ndarray]) -> list[np.ndarray]:
    """Self-attention of every token to all of them, head by head, then a perceptron: pre-norm, each added."""
    d, heads = len(tokens[0]), block.heads
    e = d // heads
    normed = [layer_norm(block.before, token) for token in tokens]
    qkv = [affine(block.qkv, token) for token in normed]
    out = []
    for i, token in enumerate(tokens):
        mixed = np.zeros(d)
        for h in range(heads):
            part = slice(h * e, (h + 1) * e)
            q = qkv[i][:d][part]
            scores = np.array([q @ other[d : 2 * d][part] / math.sqrt(e) for other in qkv])
            share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            for weight, other in zip(share, qkv, strict=True):
                mixed[part] += weight * other[2 * d :][part]
        x = token + affine(block.out, mixed)
        out.append(x + perceptron(block.body, layer_norm(block.between, x)))
    return out


def test_two_token_is_a_pre_norm_transformer_over_the_real_tokens() -> None:
    import torch
    from icehouse.heads.torch_layers import TwoToken

    torch.manual_seed(0)
    network = TwoToken(WIDTHS, 12, 2, 3, 7, 2).double().eval()
    random_norms(network)
    torch.nn.init.normal_(network.kinds)
    inputs, masks = tokens_of(WIDTHS, 6, {"image": 3, "text": 1, "caption": 2})
    with torch.inference_mode():
        found = network(inputs, masks).numpy()
    for row in range(6):
        tokens = []
        for name, project, kind in zip(WIDTHS, network.project, network.kinds, strict=True):
            for token, here in zip(inputs[name][row], masks[name][row], strict=True):
                if here:
                    tokens.append(affine(project, token.numpy()) + kind.detach().numpy())
        for block in network.blocks:
            tokens = attended(block, tokens)
        mean = np.mean([layer_norm(network.norm, token) for token in tokens], axis=0)
        np.testing.assert_allclose(found[row], perceptron(network.body, mean), atol=1e-9)
