"""Layers and fusion networks of the torch heads.

A network of this package is a plain `torch.nn.Module` that maps ``(inputs, masks)`` to logits:

- ``inputs[name]``: float, shape (n, t, d); a pooled vector is one token (t = 1).
- ``masks[name]``: bool, shape (n, t), True where a token is real; all False in a row that lacks the input.

so tokens, vectors and missing inputs are one case. Many copies of it, with weights of their own, are trained as
one program (`icehouse.heads.torch.training`), which asks three things of every layer: no control flow that
depends on data, no buffers written to in `forward`, and randomness only through the layers here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import nn

#: Tensors by input.
Named = Mapping[str, torch.Tensor]


class _Noise(nn.Module):
    """A rate, and uniform noise that copies of the layer can share.

    Every copy sees the same draw, moved around the circle by its own `shift`: noise is drawn once however many
    copies there are, and what a copy sees depends on its own seed alone, not on how many train beside it.
    """

    rate: torch.Tensor
    shift: torch.Tensor

    def __init__(self, rate: float | None = None) -> None:
        super().__init__()
        #: Whether the rate stays as written, whatever the head's own says.
        self.fixed = rate is not None
        #: Whether the layer does anything at all; set by `stacked_rates`, for all copies together.
        self.active = bool(rate)
        self.register_buffer("rate", torch.tensor(float(rate or 0.0)), persistent=False)
        self.register_buffer("shift", torch.tensor(0.0), persistent=False)

    def keep(self, like: torch.Tensor) -> torch.Tensor:
        """True with probability ``1 - rate``: bool, of the shape of `like`."""
        noise = torch.rand(like.shape, device=like.device)
        return torch.frac(noise + self.shift) >= self.rate


class Dropout(_Noise):
    """Dropout whose rate is a buffer, so that copies of a network with different rates can be stacked.

    Without a rate of its own a layer has that of the head (`stacked_rates`).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of any shape, with a share of `rate` of its entries set to zero and the rest scaled up."""
        if not self.training or not self.active:
            return x
        return x * (self.keep(x) / (1 - self.rate)).to(x.dtype)


class ModalityDropout(_Noise):
    """Hide whole inputs of a row at random, so that no input is leaned on alone.

    A row that would lose all of its inputs keeps all of them.
    """

    def forward(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`masks`, (n, t) each, with the hidden inputs of each row set to False."""
        if not self.training or len(masks) < 2:
            return dict(masks)
        has = torch.stack([mask.any(dim=1) for mask in masks.values()], dim=1)
        # Drawn also where no copy wants it, so that the noise of the layers behind does not depend on who does.
        keep = self.keep(has)
        if not self.active:
            return dict(masks)
        kept = has & keep
        kept = kept | ~kept.any(dim=1, keepdim=True)
        return {name: mask & kept[:, i, None] for i, (name, mask) in enumerate(masks.items())}


class Linear(nn.Linear):
    """`nn.Linear`, with products that a stack of models can do well.

    Under `vmap` PyTorch would copy the shared features once for each model, and leave gradients transposed in
    memory. The trainer puts this in place of every `nn.Linear` by itself.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias``: (..., d) to (..., h)."""
        y: torch.Tensor = _Product.apply(x, self.weight)
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    """``x @ w.T`` for x (..., d) and w (h, d)."""

    @staticmethod
    def forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w = ctx.saved_tensors
        dx = dy @ w if ctx.needs_input_grad[0] else None
        return dx, dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: torch.Tensor, w: torch.Tensor
    ) -> tuple[torch.Tensor, int | None]:
        if in_dims[1] is None:
            return _Product.apply(x, w), in_dims[0]
        x = x if in_dims[0] is None else x.movedim(in_dims[0], 0)
        return _StackedProduct.apply(x, w.movedim(in_dims[1], 0), in_dims[0] is not None), 0


class _StackedProduct(torch.autograd.Function):
    """``x @ w[i].T`` for every model i: x (..., d) shared or (m, ..., d), w (m, h, d), to (m, ..., h)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, own: bool) -> torch.Tensor:
        m, h, d = w.shape
        rows = x.shape[int(own) : -1]
        x = x.reshape(m, -1, d) if own else x.reshape(-1, d)
        ctx.save_for_backward(x, w)
        ctx.shape = (m, *rows, d) if own else (*rows, d)
        if own:
            y = torch.bmm(x, w.transpose(1, 2))
        else:  # one product with the weights of all models side by side
            y = torch.mm(x, w.reshape(m * h, d).T).view(-1, m, h).transpose(0, 1).contiguous()
        return y.view(m, *rows, h)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w = ctx.saved_tensors
        m, h, d = w.shape
        dy = dy.reshape(m, -1, h)
        own = x.dim() == 3
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.bmm(dy, w)
            dx = (dx if own else dx.sum(dim=0)).view(ctx.shape)
        if own:
            return dx, torch.bmm(dy.transpose(1, 2), x), None
        return dx, torch.mm(dy.transpose(1, 2).reshape(m * h, -1), x).view(m, h, d), None


class Prepared(nn.Module):
    """A network behind what it does to raw features: centre and scale each input, hide what the mask hides."""

    def __init__(self, network: nn.Module, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.network = network
        self.hide = ModalityDropout()
        # By number: not every name of an input can be that of a buffer.
        for i, width in enumerate(widths.values()):
            self.register_buffer(f"centre_{i}", torch.zeros(width))
            self.register_buffer(f"scale_{i}", torch.ones(()))

    def prepare(self, inputs: Named, masks: Named) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What the network is given of raw features: inputs and masks."""
        ready, shown = {}, self.hide(masks)
        for i, (name, x) in enumerate(inputs.items()):
            x = (x - self.get_buffer(f"centre_{i}")) * self.get_buffer(f"scale_{i}")
            ready[name] = x * shown[name][..., None].to(x.dtype)
        return ready, shown

    def forward(self, inputs: Named, masks: Named) -> torch.Tensor:
        """Logits of raw features: shape (n, k)."""
        logits: torch.Tensor = self.network(*self.prepare(inputs, masks))
        return logits


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens, zero where there are none: (n, t, d) and (n, t) to (n, d)."""
    share = mask.to(x.dtype)
    return (x * share[..., None]).sum(dim=1) / share.sum(dim=1, keepdim=True).clamp(min=1)


def perceptron(width: int, hidden: int, classes: int) -> nn.Sequential:
    """Linear, GELU, dropout, linear: from (n, width) to logits (n, classes)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), Dropout(), nn.Linear(hidden, classes))


def stacked_rates(
    network: nn.Module, dropouts: torch.Tensor, modality_dropouts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Buffers with the rate of each copy of `network`, (m,) each; layers that no copy wants are switched off in it."""
    rates = {}
    for name, layer in network.named_modules():
        if isinstance(layer, _Noise) and not layer.fixed:
            values = modality_dropouts if isinstance(layer, ModalityDropout) else dropouts
            layer.active = bool(values.any())
            rates[f"{name}.rate" if name else "rate"] = values
    return rates


# Width from which a row is divided by its own length.
_NORMED = 8


def pooled(inputs: Named, masks: Named) -> list[torch.Tensor]:
    """One vector a row of each input, (n, d) each: the mean of its tokens, zero where the row lacks it."""
    return [masked_mean(x, masks[name]) for name, x in inputs.items()]


class Perceptron(nn.Module):
    """Layer norm over the concatenated inputs, hidden layers, logits.

    Rows of a few numbers keep their lengths: of one number a norm leaves nothing, and of two only which is larger.
    """

    def __init__(self, width: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if width >= _NORMED else nn.Identity()
        steps: list[nn.Module] = []
        for i in range(layers):
            steps += [nn.Linear(width if i == 0 else hidden, hidden), nn.GELU(), Dropout()]
        self.body = nn.Sequential(*steps, nn.Linear(hidden if layers else width, classes))

    def forward(self, inputs: Named, masks: Named) -> torch.Tensor:
        """Logits (n, classes)."""
        logits: torch.Tensor = self.body(self.norm(torch.cat(pooled(inputs, masks), dim=1)))
        return logits


class Align(nn.Module):
    """Elementwise product of the inputs, each projected to the same width, then a perceptron."""

    def __init__(self, widths: Mapping[str, int], width: int, hidden: int, classes: int) -> None:
        super().__init__()
        layers = [nn.Linear(d, width) for d in widths.values()]
        # (1 + a)(1 + b): the product begins with each input by itself in it, as an outer product with a one appended does.
        for layer in layers:
            nn.init.ones_(layer.bias)
        self.project = nn.ModuleList(layers)
        # Without centring: the mean of a product is what tells whether two vectors agree.
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in widths)
        self.drop = Dropout()
        self.body = perceptron(width, hidden, classes)

    def forward(self, inputs: Named, masks: Named) -> torch.Tensor:
        """Logits (n, classes); an input that a row lacks takes no part in its product."""
        product = torch.ones(())
        for x, mask, project, norm in zip(
            pooled(inputs, masks), masks.values(), self.project, self.norms, strict=True
        ):
            here = mask.any(dim=1)[:, None]
            product = product.to(x) * torch.where(here, norm(project(x)), torch.ones_like(x[:, :1]))
        logits: torch.Tensor = self.body(self.drop(product))
        return logits


class Cross(nn.Module):
    """Flattened outer products of low-width projections, of every pair of inputs, then a perceptron.

    Each projection has a one appended, so that the products hold the projections themselves too: a row that
    lacks an input still has the others.
    """

    def __init__(self, widths: Mapping[str, int], width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(d, width) for d in widths.values())
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in widths)
        self.pairs = list(combinations(range(len(widths)), 2))
        self.drop = Dropout()
        self.body = perceptron(len(self.pairs) * (width + 1) ** 2, hidden, classes)

    def forward(self, inputs: Named, masks: Named) -> torch.Tensor:
        """Logits (n, classes)."""
        vectors = []
        for x, mask, project, norm in zip(
            pooled(inputs, masks), masks.values(), self.project, self.norms, strict=True
        ):
            here = mask.any(dim=1)[:, None].to(x.dtype)
            vectors.append(torch.cat([norm(project(x)) * here, torch.ones_like(x[:, :1])], dim=1))
        products = [(vectors[i][:, :, None] * vectors[j][:, None, :]).flatten(1) for i, j in self.pairs]
        logits: torch.Tensor = self.body(self.drop(torch.cat(products, dim=1)))
        return logits


class TwoToken(nn.Module):
    """Transformer encoder over the inputs' vectors as tokens, masked mean, perceptron."""

    def __init__(
        self, widths: Mapping[str, int], width: int, layers: int, heads: int, hidden: int, classes: int
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(d, width) for d in widths.values())
        self.kinds = nn.Parameter(0.02 * torch.randn(len(widths), width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if width >= _NORMED else nn.Identity()
        self.body = perceptron(width, hidden, classes)

    def forward(self, inputs: Named, masks: Named) -> torch.Tensor:
        """Logits (n, classes)."""
        tokens = [
            project(x) + kind
            for x, project, kind in zip(inputs.values(), self.project, self.kinds, strict=True)
        ]
        x, mask = torch.cat(tokens, dim=1), torch.cat(list(masks.values()), dim=1)
        for block in self.blocks:
            x = block(x, mask)
        logits: torch.Tensor = self.body(masked_mean(self.norm(x), mask))
        return logits


class _Block(nn.Module):
    """Pre-norm encoder layer: attention, then a perceptron twice as wide, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.body = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), Dropout(), nn.Linear(2 * width, width)
        )
        self.drop = Dropout()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Tokens (n, t, d) to tokens; those under a False mask are not attended to."""
        x = x + self.drop(self.attend(self.before(x), mask))
        result: torch.Tensor = x + self.drop(self.body(self.between(x)))
        return result

    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # n h t e
        scores = q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5  # n h t t
        # Not minus infinity: a row without any token would become NaN.
        scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, t, d)
        result: torch.Tensor = self.out(mixed)
        return result
