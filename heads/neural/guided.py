"""Networks of `guided-ca` and `guided-ca+diff-attn`: each input gated by what it reads in the others.

With one vector an input these are the published equations, but for the norm and for what the gates read: V·LN(W e + b)
where they read e (docs/attention-heads.md). f̃ = ReLU(norm(W_v f)), ẽ alike;
α_v = σ(W'_t CA(f, e)), α_e = σ(W'_v CA(e, f)); z = [α_v ∘ f̃ ; α_e ∘ ẽ]; then FC, norm, ReLU, dropout, linear.
What is published as SA(e), an attention among the rows of a batch, is here CA(f, e): each token of one input
attends to the tokens of the others *in its own row*.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .attention import AttentionPool, Block, Classifier, CrossAttention, Embed

__all__ = ["Between", "GuidedDiffNet", "GuidedGates", "GuidedNet"]

#: Weights of the tokens of one input over those of another: (n, t, t') by the two names.
Between = dict[tuple[str, str], Tensor]


class GuidedGates(nn.Module):
    """Gated tokens α ∘ f̃ of every input.

    Parameters
    ----------
    widths : mapping of str to int
        Width of each input's features.
    width : int
        w, of the model.
    heads : int
        Of the attention between inputs.
    """

    def __init__(self, widths: Mapping[str, int], width: int, heads: int) -> None:
        super().__init__()
        self.names = tuple(widths)
        self.embed = nn.ModuleList(Embed(features, width) for features in widths.values())
        self.attend = nn.ModuleList(CrossAttention(width, heads) for _ in widths)
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in widths)

    def guides(self, name: str) -> list[str]:
        """The inputs that guide `name`: all others; a single input guides itself."""
        return [other for other in self.names if other != name] or [name]

    def forward(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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

    def between(self, maps: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Between:
        """The weights cut by guide, as a mean over heads; a token that is not there looks at nothing."""
        pairs: Between = {}
        for name, a in maps.items():
            guides = self.guides(name)
            parts = (a.mean(1) * masks[name][..., None]).split([masks[g].shape[1] for g in guides], dim=-1)
            pairs |= {(name, guide): part for guide, part in zip(guides, parts, strict=True)}
        return pairs


class GuidedNet(nn.Module):
    """Guided cross-attention: gates, one pooled vector an input, side by side, classifier."""

    def __init__(self, widths: Mapping[str, int], classes: int, *, width: int, heads: int) -> None:
        super().__init__()
        self.gates = GuidedGates(widths, width, heads)
        self.pool = nn.ModuleList(AttentionPool(width) for _ in widths)
        self.classifier = Classifier(len(widths) * width, classes)

    def forward(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Logits, (n, k)."""
        return self.classifier(self._fused(inputs, masks)[0])

    def read(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Between]:
        """Weights of the pool over the tokens of each input, (n, t), and of the gates between inputs."""
        _, weights, maps = self._fused(inputs, masks)
        return weights, self.gates.between(maps, masks)

    def _fused(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        gated, maps = self.gates(inputs, masks)
        vectors, weights = {}, {}
        for (name, x), pool in zip(gated.items(), self.pool, strict=True):
            vectors[name], weights[name] = pool(x, masks[name])  # n w, n t
        return torch.cat(list(vectors.values()), dim=1), weights, maps  # n (inputs · w)


class GuidedDiffNet(nn.Module):
    """Guided gates, then differential attention over the gated tokens of all inputs."""

    def __init__(
        self,
        widths: Mapping[str, int],
        classes: int,
        *,
        width: int,
        heads: int,
        depth: int,
        version: str,
    ) -> None:
        super().__init__()
        self.gates = GuidedGates(widths, width, heads)
        # After a ReLU, tokens of one input no longer differ from those of another by where they lie.
        self.kind = nn.Parameter(0.1 * torch.randn(len(widths), width))
        self.blocks = nn.ModuleList(
            Block(width, heads, version=version, layer=layer) for layer in range(1, depth + 1)
        )
        self.pool = AttentionPool(width)
        self.classifier = Classifier(width, classes)

    def forward(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Logits, (n, k)."""
        return self.classifier(self._fused(inputs, masks)[0])

    def read(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Between]:
        """Weights of the pool over the tokens of each input, (n, t), and of the gates between inputs."""
        _, weight, maps = self._fused(inputs, masks)
        parts = weight.split([masks[name].shape[1] for name in maps], dim=1)
        return dict(zip(maps, parts, strict=True)), self.gates.between(maps, masks)

    def _fused(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        gated, maps = self.gates(inputs, masks)
        x = torch.cat([g + kind for g, kind in zip(gated.values(), self.kind, strict=True)], dim=1)  # n t w
        mask = torch.cat([masks[name] for name in gated], dim=1)  # n t
        for block in self.blocks:
            x, _ = block(x, mask)
        return *self.pool(x, mask), maps  # n w, n t
