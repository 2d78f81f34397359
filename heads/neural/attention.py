"""Attention over the tokens of a row: the pieces that `guided-ca` and `diff-attn` are made of.

Letters beside the lines: n rows, h heads, i queries, j keys, d width of a head, w width of the model. A mask is
True where a token is real. What lies under False is never attended to, and a row without any token gives
zeros: no softmax is ever taken over nothing.

There is no batch norm, no branch on values and nothing in place, so that each module runs under
`torch.func.vmap` over stacked parameters, and a row's result never depends on its batch-mates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .layers import Dropout

__all__ = [
    "AttentionPool",
    "Block",
    "Classifier",
    "CrossAttention",
    "DifferentialV1",
    "DifferentialV2",
    "Embed",
    "RMSNorm",
    "Reader",
    "lambda_init",
    "masked_softmax",
    "sinusoids",
]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among what is under `mask`; zeros where nothing is.

    Parameters
    ----------
    scores : Tensor, shape (..., j)
    mask : Tensor of bool, broadcastable to `scores`

    Returns
    -------
    Tensor, shape (..., j)
    """
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
        """What each token of `x` reads from `others`.

        Parameters
        ----------
        x : Tensor, shape (n, i, w)
        others : Tensor, shape (n, j, w)
        mask : Tensor of bool, shape (n, j)

        Returns
        -------
        Tensor, shape (n, i, w)
        Tensor, shape (n, h, i, j)
            Weights; over the others that are under the mask they sum to one.
        """
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
    gives (1 − λ_init) RMSNorm(A V). The heads' outputs, 2d wide, lie side by side and are projected.

    Parameters
    ----------
    width : int
        w, a multiple of 2h: d = w / 2h.
    heads : int
    layer : int
        Place in the stack, from 1; sets λ_init.
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

    Each head gives attn₁ − σ(λ) attn₂, λ projected from each token for each head. No norm of heads, no λ_init.

    Parameters
    ----------
    width : int
        w, a multiple of h: d = w / h.
    heads : int
        h, the pairs.
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


class Reader(nn.Module):
    """In a network's place, what it attends to instead of its logits: see its method `read`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Any:
        """Weights over tokens, and between inputs."""
        read: Any = self.network.read
        return read(inputs, masks)


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
