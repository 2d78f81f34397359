"""Networks of the plain families: concatenation, alignment, outer product, a transformer over inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .layers import Dropout, masked_mean

__all__ = ["Perceptron", "pooled"]

#: Tensors by input.
Named = Mapping[str, torch.Tensor]


def pooled(inputs: Named, masks: Named) -> list[torch.Tensor]:
    """One vector a row of each input, (n, d) each: the mean of its tokens, zero where the row lacks it."""
    return [masked_mean(x, masks[name]) for name, x in inputs.items()]


class Perceptron(nn.Module):
    """Layer norm over the concatenated inputs, hidden layers, logits."""

    def __init__(self, width: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        steps: list[nn.Module] = []
        for i in range(layers):
            steps += [nn.Linear(width if i == 0 else hidden, hidden), nn.GELU(), Dropout()]
        self.body = nn.Sequential(*steps, nn.Linear(hidden if layers else width, classes))

    def forward(self, inputs: Named, masks: Named) -> torch.Tensor:
        """Logits (n, classes)."""
        logits: torch.Tensor = self.body(self.norm(torch.cat(pooled(inputs, masks), dim=1)))
        return logits
