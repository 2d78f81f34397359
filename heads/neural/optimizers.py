"""Optimizers over stacked parameters: every model of the stack with a learning rate and a decay of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, TypeAlias

import torch

__all__ = ["SGD", "AdamW", "Optimizer", "Schedule", "schedule_factor"]

#: Tensors by name, each with the models in front: (m, ...).
Stacked: TypeAlias = Mapping[str, torch.Tensor]
Schedule: TypeAlias = Literal["cosine", "plateau", "constant"]


def schedule_factor(schedule: Schedule, epoch: float, epochs: float, warmup: float) -> float:
    """What the learning rate is multiplied by, `epoch` (a fraction too) into training.

    It rises in a straight line over the first `warmup` epochs; "cosine" then falls along half a wave, to zero
    after `epochs`. "plateau" falls by the trainer's hand, and here is constant.
    """
    if epoch < warmup:
        return epoch / warmup
    if schedule != "cosine" or epochs <= warmup:
        return 1.0
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW` computes it.

    PyTorch's own kernel passes over a parameter once, where the formula written out in tensor operations would
    pass over it some twenty times; but it takes one rate for all it is given. So it is given runs of
    neighbouring models that share their rates: sort configurations, and there are few.

    Parameters
    ----------
    parameters : mapping of str to Tensor, (m, ...) each
        Updated in place.
    """

    def __init__(
        self, parameters: Stacked, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.parameters, self.betas, self.eps = parameters, betas, eps
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Stacked, lrs: Sequence[float], decays: Sequence[float]) -> None:
        """Update every model by its gradient, with its rate and its decay."""
        self.steps += 1
        names = list(self.parameters)
        for (lr, decay), rows in _runs(lrs, decays):
            device = self.parameters[names[0]].device
            torch._fused_adamw_(
                [self.parameters[name].detach()[rows] for name in names],
                [gradients[name][rows] for name in names],
                [self.first[name][rows] for name in names],
                [self.second[name][rows] for name in names],
                [],
                [torch.tensor(float(self.steps), device=device)] * len(names),
                lr=lr,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def select(self, parameters: Stacked, models: torch.Tensor) -> None:
        """Go on with some of the models, whose `parameters` have moved together."""
        self.parameters = parameters
        self.first = {name: state[models] for name, state in self.first.items()}
        self.second = {name: state[models] for name, state in self.second.items()}


class SGD:
    """Stochastic gradient descent with momentum and (coupled) weight decay, as `torch.optim.SGD`."""

    def __init__(self, parameters: Stacked, *, momentum: float = 0.9) -> None:
        self.parameters, self.momentum = parameters, momentum
        self.velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, gradients: Stacked, lrs: Sequence[float], decays: Sequence[float]) -> None:
        """Update every model by its gradient, with its rate and its decay."""
        for (lr, decay), rows in _runs(lrs, decays):
            for name, stacked in self.parameters.items():
                p, velocity = stacked.detach()[rows], self.velocity[name][rows]
                velocity.mul_(self.momentum).add_(gradients[name][rows]).add_(p, alpha=decay)
                p.sub_(velocity, alpha=lr)

    def select(self, parameters: Stacked, models: torch.Tensor) -> None:
        """Go on with some of the models, whose `parameters` have moved together."""
        self.parameters = parameters
        self.velocity = {name: state[models] for name, state in self.velocity.items()}


Optimizer: TypeAlias = AdamW | SGD


def _runs(lrs: Sequence[float], decays: Sequence[float]) -> list[tuple[tuple[float, float], slice]]:
    """Neighbours that share both rates, and where they are."""
    runs, start = [], 0
    for rates, members in groupby(zip(lrs, decays, strict=True)):
        stop = start + sum(1 for _ in members)
        runs.append((rates, slice(start, stop)))
        start = stop
    return runs
