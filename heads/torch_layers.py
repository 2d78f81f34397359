"""Layers and networks of the torch heads: fusion networks, guided cross attention, differential attention, as published.

A network of this package is a plain `torch.nn.Module` that maps ``(inputs, masks)`` to logits:

- ``inputs[name]``: float, shape (n, t, d); a pooled vector is one token (t = 1).
- ``masks[name]``: bool, shape (n, t), True where a token is real; all False in a row that lacks the input.

so tokens, vectors and missing inputs are one case. Many copies of it, with weights of their own, are trained as one program
by `torch.func.vmap` over stacked parameters (`icehouse.heads.torch_training`). That asks of every layer: no control flow
that depends on data, no batch norm, no buffers written to in `forward`, nothing in place, and randomness only through the
layers here. A row's result never depends on its batch-mates.

What lies under a mask's False is never attended to, and a row without any token gives zeros: no softmax is ever taken over
nothing. Letters beside the lines of attention: n rows, h heads, i queries, j keys, d width of a head, w width of the model.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

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


#: Weights of the tokens of one input over those of another: (n, t, t') by the two names.
Between = dict[tuple[str, str], Tensor]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among what is under `mask` (broadcastable to `scores`); zeros where nothing is."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Positions 0, 1, ... as sines, and cosines less one, so that position 0 is all zeros: shape (length, width).

    A single vector therefore is what it would be without positions, however long its batch-mates are.
    """
    position = torch.arange(length, dtype=like.dtype, device=like.device)[:, None]
    frequency = torch.arange((width + 1) // 2, dtype=like.dtype, device=like.device)
    angle = position * torch.exp(frequency * (-2 * math.log(10_000.0) / width))
    return torch.cat([angle.sin(), angle.cos() - 1], dim=1)[:, :width]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + 1e-5), times a weight a feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Embed(nn.Module):
    """Features of one input to tokens of the model's width: LayerNorm(W x + b) + p ∘ position.

    W, b and the norm belong to the input alone, which is what tells its tokens from those of others. p starts
    at zero: where a token stands counts as far as that helps.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.norm = nn.LayerNorm(width)
        self.position = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of shape (n, t, w) from features (n, t, features)."""
        tokens = self.norm(self.linear(x))
        if x.shape[1] == 1:
            return tokens
        return tokens + self.position * sinusoids(x.shape[1], tokens.shape[2], tokens)


class CrossAttention(nn.Module):
    """Tokens attend to others: softmax(Q Kᵀ / √d) V in each head, heads side by side.

    There is no output projection: the gate that this feeds begins with one.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, others: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of tokens `x` (n, i, w) over `others` (n, j, w) under `mask` (n, j), and the weights (n, h, i, j)."""
        v = _split(self.value(others), self.heads)  # n h j d
        if others.shape[1] == 1:
            # A softmax over one key is one, whatever the query: its products can be spared.
            a = mask[:, None, None].to(v.dtype).expand(-1, self.heads, x.shape[1], -1)  # n h i 1
        else:
            q = _split(self.query(x), self.heads)  # n h i d
            k = _split(self.key(others), self.heads)  # n h j d
            a = masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask[:, None, None])  # n h i j
        return _merge(a * v if others.shape[1] == 1 else a @ v), a


class DifferentialV1(nn.Module):
    """Differential attention, first version (Ye et al. 2024): two attention maps a head, one less λ of the other.

    A = softmax(Q₁ K₁ᵀ / √d) − λ softmax(Q₂ K₂ᵀ / √d), λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init; each head
    gives (1 − λ_init) RMSNorm(A V). The heads' outputs, 2d wide (d = w / 2h), lie side by side and are projected. `layer`,
    the place in the stack from 1, sets λ_init.
    """

    def __init__(self, width: int, heads: int, layer: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.lambda_init = lambda_init(layer)
        d = width // (2 * heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.lambda_q1 = nn.Parameter(0.1 * torch.randn(d))
        self.lambda_k1 = nn.Parameter(0.1 * torch.randn(d))
        self.lambda_q2 = nn.Parameter(0.1 * torch.randn(d))
        self.lambda_k2 = nn.Parameter(0.1 * torch.randn(d))
        self.norm = RMSNorm(2 * d)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after attention, (n, i, w), and the differential maps A, (n, h, i, j)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = _split(q, self.heads, 2), _split(k, self.heads, 2)  # n h 2 i d, n h 2 j d
        v = _split(v, self.heads)  # n h j 2d
        a = masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask[:, None, None, None])  # n h 2 i j
        lam = (
            torch.exp((self.lambda_q1 * self.lambda_k1).sum())
            - torch.exp((self.lambda_q2 * self.lambda_k2).sum())
            + self.lambda_init
        )
        a = a[:, :, 0] - lam * a[:, :, 1]  # n h i j
        return self.out(_merge(self.norm(a @ v) * (1 - self.lambda_init))), a


class DifferentialV2(nn.Module):
    """Differential attention, second version (January 2026): 2h queries, each pair on the same keys and values.

    Each of h heads, d = w / h wide, gives attn₁ − σ(λ) attn₂, λ projected from each token for each head. No norm of heads,
    no λ_init.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, 2 * width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.lam = nn.Linear(width, heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after attention, (n, i, w), and the differential maps A, (n, h, i, j)."""
        k, v = self.kv(x).chunk(2, dim=-1)
        q = _split(self.query(x), self.heads, 2)  # n h 2 i d
        k, v = _split(k, self.heads, 1), _split(v, self.heads)  # n h 1 j d, n h j d
        a = masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask[:, None, None, None])  # n h 2 i j
        lam = torch.sigmoid(self.lam(x)).mT[..., None]  # n h i 1
        a = a[:, :, 0] - lam * a[:, :, 1]  # n h i j
        return self.out(_merge(a @ v)), a


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm x), then x + W₂(silu(W₁ norm x) ∘ W₃ norm x)."""

    def __init__(self, width: int, heads: int, *, version: str, layer: int) -> None:
        super().__init__()
        self.attention = (
            DifferentialV1(width, heads, layer) if version == "v1" else DifferentialV2(width, heads)
        )
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.dropout = Dropout()

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, i, w) and the attention maps (n, h, i, j)."""
        read, a = self.attention(self.norm1(x), mask)
        x = x + self.dropout(read)
        gate, up = self.up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(nn.functional.silu(gate) * up)), a


class AttentionPool(nn.Module):
    """One vector from the tokens of a row: Σ a x, a = softmax(x·u / √w). u starts at zero: a mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The vector, (n, w), and the weights, (n, t)."""
        a = masked_softmax((x @ self.query) / math.sqrt(x.shape[-1]), mask)  # n t
        return (a[..., None] * x).sum(1), a


class Classifier(nn.Module):
    """FC, norm, ReLU, dropout, linear: what stands at the end of every published form, too."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout()
        self.out = nn.Linear(width, classes)

    def forward(self, z: Tensor) -> Tensor:
        """Logits (n, k) from vectors (n, w)."""
        return self.out(self.dropout(torch.relu(self.norm(self.hidden(z)))))


def lambda_init(layer: int) -> float:
    """0.8 − 0.6 exp(−0.3 (layer − 1)), layers counted from 1: 0.2 in the first, towards 0.8 in deep ones.

    The paper writes l − 1 for layers 1 to L; its code passes the layer's index from 0 as `depth` instead.
    """
    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))


def _split(x: Tensor, *heads: int) -> Tensor:
    """(n, t, h·…·d) as (n, h, …, t, d)."""
    return x.unflatten(-1, (*heads, -1)).movedim(1, -2)


def _merge(x: Tensor) -> Tensor:
    """(n, h, t, d) as (n, t, h·d)."""
    return x.movedim(1, -2).flatten(-2)


# With one vector an input these are the published equations, but for the norm and for what the gates read: V·LN(W e + b)
# where they read e (docs/attention-heads.md). What is published as SA(e), an attention among the rows of a batch, is here
# CA(f, e): each token of one input attends to the tokens of the others *in its own row*.
class GuidedGates(nn.Module):
    """Gated tokens α ∘ f̃ of every input, f̃ = ReLU(LN(W_v f)), α = σ(W' CA(f, e)), of the model's width w."""

    def __init__(self, widths: Mapping[str, int], width: int, heads: int) -> None:
        super().__init__()
        self.names = tuple(widths)
        self.embed = nn.ModuleList(Embed(features, width) for features in widths.values())
        self.attend = nn.ModuleList(CrossAttention(width, heads) for _ in widths)
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in widths)

    def guides(self, name: str) -> list[str]:
        """The inputs that guide `name`: all others; a single input guides itself."""
        return [other for other in self.names if other != name] or [name]

    def forward(self, inputs: Named, masks: Named) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gated tokens of each input, (n, i, w), and its weights over its guides' tokens, (n, h, i, j)."""
        tokens = {name: embed(inputs[name]) for name, embed in zip(self.names, self.embed, strict=True)}
        gated, maps = {}, {}
        for name, attend, gate in zip(self.names, self.attend, self.gate, strict=True):
            f = tokens[name]  # n i w
            e = torch.cat([tokens[guide] for guide in self.guides(name)], dim=1)  # n j w
            mask = torch.cat([masks[guide] for guide in self.guides(name)], dim=1)  # n j
            read, maps[name] = attend(f, e, mask)
            alpha = torch.sigmoid(gate(read))  # n i w
            gated[name] = alpha * torch.relu(f)
        return gated, maps

    def between(self, maps: Named, masks: Named) -> Between:
        """The weights cut by guide, as a mean over heads; a token that is not there looks at nothing."""
        pairs: Between = {}
        for name, a in maps.items():
            guides = self.guides(name)
            parts = (a.mean(1) * masks[name][..., None]).split([masks[g].shape[1] for g in guides], dim=-1)
            pairs |= {(name, guide): part for guide, part in zip(guides, parts, strict=True)}
        return pairs


class _Network(nn.Module):
    """A network that classifies one fused vector a row, and can `read` what it attends to."""

    classifier: nn.Module
    pool: Any  # of all tokens together, or one for each input

    def forward(self, inputs: Named, masks: Named) -> Tensor:
        """Logits, (n, k)."""
        logits: Tensor = self.classifier(self._fused(inputs, masks)[0])
        return logits

    def _add_blocks(self, width: int, classes: int, heads: int, depth: int, version: str) -> None:
        """Differential blocks over all tokens, one pooled vector, classifier."""
        self.blocks = nn.ModuleList(
            Block(width, heads, version=version, layer=layer) for layer in range(1, depth + 1)
        )
        self.pool = AttentionPool(width)
        self.classifier = Classifier(width, classes)

    @abstractmethod
    def read(self, inputs: Named, masks: Named) -> tuple[dict[str, Tensor], Between]:
        """Weights of the pool over the tokens of each input, (n, t), and those between inputs."""

    @abstractmethod
    def _fused(self, inputs: Named, masks: Named) -> tuple[Tensor, Any, Any]:
        """The vectors (n, w), the pool's weights, and the attention maps."""


class GuidedNet(_Network):
    """Guided cross-attention: gates, one pooled vector an input, side by side, classifier."""

    def __init__(self, widths: Mapping[str, int], classes: int, *, width: int, heads: int) -> None:
        super().__init__()
        self.gates = GuidedGates(widths, width, heads)
        self.pool = nn.ModuleList(AttentionPool(width) for _ in widths)
        self.classifier = Classifier(len(widths) * width, classes)

    def read(self, inputs: Named, masks: Named) -> tuple[dict[str, Tensor], Between]:
        """See `_Network`; between inputs are the weights of the gates."""
        _, weights, maps = self._fused(inputs, masks)
        return weights, self.gates.between(maps, masks)

    def _fused(self, inputs: Named, masks: Named) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        gated, maps = self.gates(inputs, masks)
        vectors, weights = {}, {}
        for (name, x), pool in zip(gated.items(), self.pool, strict=True):
            vectors[name], weights[name] = pool(x, masks[name])  # n w, n t
        return torch.cat(list(vectors.values()), dim=1), weights, maps  # n (inputs · w)


class GuidedDiffNet(_Network):
    """Guided gates, then differential attention over the gated tokens of all inputs."""

    def __init__(
        self, widths: Mapping[str, int], classes: int, *, width: int, heads: int, depth: int, version: str
    ) -> None:
        super().__init__()
        self.gates = GuidedGates(widths, width, heads)
        # After a ReLU, tokens of one input no longer differ from those of another by where they lie.
        self.kind = nn.Parameter(0.1 * torch.randn(len(widths), width))
        self._add_blocks(width, classes, heads, depth, version)

    def read(self, inputs: Named, masks: Named) -> tuple[dict[str, Tensor], Between]:
        """See `_Network`; between inputs are the weights of the gates."""
        _, weight, maps = self._fused(inputs, masks)
        parts = weight.split([masks[name].shape[1] for name in maps], dim=1)
        return dict(zip(maps, parts, strict=True)), self.gates.between(maps, masks)

    def _fused(self, inputs: Named, masks: Named) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        gated, maps = self.gates(inputs, masks)
        x = torch.cat([g + kind for g, kind in zip(gated.values(), self.kind, strict=True)], dim=1)  # n t w
        mask = torch.cat([masks[name] for name in gated], dim=1)  # n t
        for block in self.blocks:
            x, _ = block(x, mask)
        return *self.pool(x, mask), maps  # n w, n t


class DiffNet(_Network):
    """Embedding of each input, a stack of differential blocks, one pooled vector, classifier."""

    def __init__(
        self, widths: Mapping[str, int], classes: int, *, width: int, heads: int, depth: int, version: str
    ) -> None:
        super().__init__()
        self.names = tuple(widths)
        self.embed = nn.ModuleList(Embed(features, width) for features in widths.values())
        self._add_blocks(width, classes, heads, depth, version)

    def read(self, inputs: Named, masks: Named) -> tuple[dict[str, Tensor], Between]:
        """See `_Network`; between inputs are the last block's differential maps, a mean over heads, maybe negative."""
        _, weight, a = self._fused(inputs, masks)
        lengths = [masks[name].shape[1] for name in self.names]
        weights = dict(zip(self.names, weight.split(lengths, dim=1), strict=True))
        rows = dict(zip(self.names, a.mean(1).split(lengths, dim=1), strict=True))  # n t_name j
        between = {
            (name, other): part * masks[name][..., None]
            for name in self.names
            for other, part in zip(self.names, rows[name].split(lengths, dim=2), strict=True)
        }
        return weights, between

    def _fused(self, inputs: Named, masks: Named) -> tuple[Tensor, Tensor, Tensor]:
        tokens = [embed(inputs[name]) for name, embed in zip(self.names, self.embed, strict=True)]
        x = torch.cat(tokens, dim=1)  # n t w
        mask = torch.cat([masks[name] for name in self.names], dim=1)  # n t
        for block in self.blocks:
            x, a = block(x, mask)  # n t w, n h i j
        return *self.pool(x, mask), a  # n w, n t, n h i j


# The published forms, from the code to arXiv 2507.05165 (after CrisisKAN): SA(x) = softmax(x xᵀ) x over the (n, d)
# matrix of a batch, so that **a prediction depends on its batch-mates**; batch norm; and differential attention over
# one token, whose softmax over one element is 1, so that W_q and W_k have no effect. It takes two inputs of one
# vector each, and none may be missing. Nothing here runs under vmap.

# Widths in the published code: of CLIP's joint space, of what is mapped from there, of the projections.
_JOINT, _MAPPED, _PROJECTED = 512, 768, 128


def batch_attention(x: Tensor) -> Tensor:
    """softmax(x xᵀ) x over the rows of a batch, (n, d), without any scale: each row becomes a mean of all."""
    return (x @ x.mT).softmax(dim=-1) @ x


class PublishedNet(nn.Module):
    """The published network of two inputs: guided cross-attention; `differential` adds four heads of V1 over z as one token.

    `rows` see each other in prediction: the published code predicts in batches.
    """

    def __init__(
        self, widths: Mapping[str, int], classes: int, *, differential: bool, rows: int = 64
    ) -> None:
        super().__init__()
        self.names, self.rows = tuple(widths), rows
        both = len(self.names) * _PROJECTED
        # The published code starts the first of these at CLIP's own projection, and trains it on.
        self.map = nn.ModuleList(
            nn.Sequential(nn.Linear(features, _JOINT), nn.ReLU(), nn.Linear(_JOINT, _MAPPED))
            for features in widths.values()
        )
        self.project = nn.ModuleList(nn.Linear(_MAPPED, _PROJECTED) for _ in self.names)
        self.norm = nn.ModuleList(nn.BatchNorm1d(_PROJECTED) for _ in self.names)
        self.gate = nn.ModuleList(nn.Linear(_MAPPED, _PROJECTED) for _ in self.names)
        # It passes depth=1 where depth counts from 0: λ_init is that of a second layer.
        self.attention = DifferentialV1(both, heads=4, layer=2) if differential else None
        self.hidden = nn.Linear(both, both)
        self.hidden_norm = nn.BatchNorm1d(both)
        self.dropout = Dropout()
        self.out = nn.Linear(both, classes)

    def forward(self, inputs: Named, masks: Named) -> Tensor:
        """Logits, (n, k)."""
        x, y = (inputs[name][:, 0] for name in self.names)
        if self.training:
            return self._batch(x, y)
        batches = zip(x.split(self.rows), y.split(self.rows), strict=True)
        return torch.cat([self._batch(*batch) for batch in batches])

    def _batch(self, *vectors: Tensor) -> Tensor:
        f, e = (step(x) for step, x in zip(self.map, vectors, strict=True))  # n 768
        layers = zip((f, e), self.project, self.norm, strict=True)
        f_, e_ = (torch.relu(norm(project(x))) for x, project, norm in layers)  # n 128
        alpha_v = torch.sigmoid(self.gate[1](batch_attention(e)))  # n 128
        alpha_e = torch.sigmoid(self.gate[0](batch_attention(f)))  # n 128
        z = torch.cat([alpha_v * f_, alpha_e * e_], dim=1)  # n 256
        if self.attention is not None:
            one = torch.ones(len(z), 1, dtype=torch.bool, device=z.device)
            z = self.attention(z[:, None], one)[0][:, 0]  # n 256
        return self.out(self.dropout(torch.relu(self.hidden_norm(self.hidden(z)))))
