"""What heads that multiply inputs can do, and a linear one provably cannot."""

from __future__ import annotations

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
    from icehouse.heads.neural.networks import Align, Cross

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

    crossed = Cross(widths, 2, 7, 2).double().eval()
    assert crossed.body[0].in_features == 3 * 3 * 3  # three pairs of (2 + 1) by (2 + 1)
    with torch.inference_mode():
        none = crossed(inputs, {name: torch.zeros_like(mask) for name, mask in masks.items()})
        expected = torch.zeros(1, 27).double()
        expected[0, [8, 17, 26]] = 1  # the ones alone are left
        np.testing.assert_allclose(none, crossed.body(expected).expand(4, 2), atol=1e-9)
