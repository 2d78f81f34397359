"""Guided cross-attention and differential attention as published, defects and all, to reproduce their results.

From the code to arXiv 2507.05165 (after CrisisKAN): SA(x) = softmax(x xᵀ) x over the (n, d) matrix of a batch, so
that **a prediction depends on its batch-mates**; batch norm; and differential attention over one token, whose
softmax over one element is 1, so that W_q and W_k have no effect. It takes two inputs of one vector each, and none
may be missing. Nothing here runs under vmap.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .attention import DifferentialV1
from .layers import Dropout

__all__ = ["PublishedNet", "batch_attention"]

# Widths in the published code: of CLIP's joint space, of what is mapped from there, of the projections.
_JOINT, _MAPPED, _PROJECTED = 512, 768, 128


def batch_attention(x: Tensor) -> Tensor:
    """softmax(x xᵀ) x over the rows of a batch, (n, d), without any scale: each row becomes a mean of all."""
    return (x @ x.mT).softmax(dim=-1) @ x


class PublishedNet(nn.Module):
    """The published network: without `differential` it is guided cross-attention, with it the other one.

    Parameters
    ----------
    widths : mapping of str to int
        Width of each of two inputs.
    classes : int
    differential : bool
        Whether four heads of differential attention (V1) see z as one token.
    rows : int, default 64
        Rows that see each other in prediction: the published code predicts in batches.
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

    def forward(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Logits, (n, k)."""
        x, y = (inputs[name][:, 0] for name in self.names)
        if self.training:
            return self._batch(x, y)
        batches = zip(x.split(self.rows), y.split(self.rows), strict=True)
        return torch.cat([self._batch(*batch) for batch in batches])

    def _batch(self, *vectors: Tensor) -> Tensor:
        f, e = (step(x) for step, x in zip(self.map, vectors, strict=True))  # n 768
        f_, e_ = (
            torch.relu(norm(project(x)))
            for x, project, norm in zip((f, e), self.project, self.norm, strict=True)
        )  # n 128
        alpha_v = torch.sigmoid(self.gate[1](batch_attention(e)))  # n 128
        alpha_e = torch.sigmoid(self.gate[0](batch_attention(f)))  # n 128
        z = torch.cat([alpha_v * f_, alpha_e * e_], dim=1)  # n 256
        if self.attention is not None:
            one = torch.ones(len(z), 1, dtype=torch.bool, device=z.device)
            z = self.attention(z[:, None], one)[0][:, 0]  # n 256
        return self.out(self.dropout(torch.relu(self.hidden_norm(self.hidden(z)))))
