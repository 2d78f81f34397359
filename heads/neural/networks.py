"""Networks of the plain families: concatenation, alignment, outer product, a transformer over inputs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import nn

from .layers import Dropout, masked_mean, perceptron

__all__ = ["Align", "Cross", "Perceptron", "TwoToken", "pooled"]

# Width from which a row is divided by its own length.
_NORMED = 8
#: Tensors by input.
Named = Mapping[str, torch.Tensor]


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
