"""Attention networks: guided cross attention, differential attention, and their published forms.

Letters beside the lines: n rows, h heads, i queries, j keys, d width of a head, w width of the model. A mask is
True where a token is real. What lies under False is never attended to, and a row without any token gives
zeros: no softmax is ever taken over nothing.

There is no batch norm, no branch on values and nothing in place, so that each module runs under
`torch.func.vmap` over stacked parameters, and a row's result never depends on its batch-mates.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .layers import Dropout

#: Weights of the tokens of one input over those of another: (n, t, t') by the two names.
Between = dict[tuple[str, str], Tensor]
#: Tensors by input.
Named = Mapping[str, Tensor]


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
