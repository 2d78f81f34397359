"""Network of `diff-attn`: differential transformer blocks over the tokens of all inputs together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .attention import AttentionPool, Block, Classifier, Embed
from .guided import Between

__all__ = ["DiffNet"]


class DiffNet(nn.Module):
    """Embedding of each input, a stack of differential blocks, one pooled vector, classifier.

    Parameters
    ----------
    widths : mapping of str to int
        Width of each input's features.
    classes : int
    width, heads, depth : int
        Of the model, of its attention, and the number of blocks.
    version : {"v1", "v2"}
    """

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
        self.names = tuple(widths)
        self.embed = nn.ModuleList(Embed(features, width) for features in widths.values())
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
        """Weights of the pool over the tokens of each input, (n, t), and of the last block between inputs.

        The last are differential maps as a mean over heads; they may be negative.
        """
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

    def _fused(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = [embed(inputs[name]) for name, embed in zip(self.names, self.embed, strict=True)]
        x = torch.cat(tokens, dim=1)  # n t w
        mask = torch.cat([masks[name] for name in self.names], dim=1)  # n t
        for block in self.blocks:
            x, a = block(x, mask)  # n t w, n h i j
        return *self.pool(x, mask), a  # n w, n t, n h i j
