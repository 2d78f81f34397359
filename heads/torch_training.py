"""Training of torch heads: batches, optimisers, and a trainer of many configurations as one program.

The weights of m models are stacked, (m, ...) each. `torch.func.vmap` runs the network over the stack, one
backward pass gives all gradients (the sum of the losses has each model's own gradient in its own slice), and
one optimizer step moves all models, each by a learning rate of its own. What one model becomes does not depend
on which others are in the stack:

- its initial weights and the order of its rows follow from its own seed;
- models of one seed see the same batches, so the features of a batch are read and multiplied once for all;
- dropout noise is drawn once for all, and moved by each model's own seed (`layers.Dropout`).

After each epoch dev is scored. A model that has not improved for `patience` epochs (see `head.Choice`) leaves the
stack, and costs nothing from then on. The weights of each model's best epoch are what is returned.

Networks that cannot be stacked (batch norm) take `batched=False`: the same loop over one model at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from .head import Choice
from .inputs import Inputs, Tokens
from .torch_layers import Linear, stacked_rates

#: Tensors of inputs (n, t, d) and masks (n, t), by name.
Batch: TypeAlias = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
#: Tensors by name, each with the models in front: (m, ...).
Stacked: TypeAlias = Mapping[str, torch.Tensor]
Schedule: TypeAlias = Literal["cosine", "plateau", "constant"]
#: Called after each epoch with its number, the number there will be at most, and the best dev score so far.
Progress: TypeAlias = Callable[[int, int, float], None]

# Operations of one step below which a second thread costs more in waiting than it does in work.
_MIN_THREADED = 5e7
# Bytes up to which all vectors of an input are kept on the device as float32.
_RESIDENT = 4 * 2**30
# Numbers of one input that are gathered at a time where all rows are passed over.
_BLOCK = 2**23
# Rows from which the centre and scale of tokens are estimated.
_SAMPLE = 4096
# Weights, in numbers, up to which models are trained side by side on a CPU. Larger stacks share a step's overhead among
# more models, until moving their weights, gradients and moments through memory takes as long.
_STACKED = 2**23
# Likewise where memory alone is the limit.
_MEMORY = 2**28
# Rows of dev that are scored at a time, times models.
_SCORED = 2**16
# "plateau": what the learning rate is multiplied by, and after how many epochs without a better score.
_PLATEAU, _PLATEAU_AFTER = 0.3, 2


@contextmanager
def limited_threads(work: float) -> Iterator[None]:
    """One thread where a step is of few operations; as many as PyTorch has otherwise."""
    before = torch.get_num_threads()
    if work < _MIN_THREADED and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def products_in(precision: Literal["auto", "float32"]) -> Iterator[None]:
    """Matrix products of float32 by way of bfloat16, summed in float32, on CPUs with instructions for it.

    Elsewhere, and with "float32", nothing changes.
    """
    backend: Any = torch.backends.mkldnn
    products = backend.matmul
    before = products.fp32_precision
    if precision == "auto":
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


class Rows:
    """Inputs, ready to be taken in batches.

    Vectors that fit are kept as one tensor on the device. Tokens, and vectors that do not fit, stay where they are
    (memory-mapped, float16): each batch is gathered and cast by itself, so features larger than memory can be learnt from.
    """

    def __init__(
        self, X: Inputs, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.X, self.device, self.dtype = X, torch.device(device), dtype
        self.present = {name: torch.from_numpy(X.present(name).copy()).to(self.device) for name in X.names}
        self.resident = {
            name: self._tensor(array)[:, None]
            for name, array in X.items()
            if not isinstance(array, Tokens) and array.size * dtype.itemsize <= _RESIDENT
        }

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray | slice) -> Batch:
        """Some rows, in the order of `rows`; an array (m, n) gives a batch for each of m models, m in front."""
        if isinstance(rows, np.ndarray) and rows.ndim > 1:
            inputs, masks = self.take(rows.reshape(-1))
            shape = rows.shape
            return (
                {name: x.view(*shape, *x.shape[1:]) for name, x in inputs.items()},
                {name: mask.view(*shape, mask.shape[1]) for name, mask in masks.items()},
            )
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.device)
        inputs, masks = {}, {}
        for name, array in self.X.items():
            here = self.present[name][index]
            if name in self.resident:
                inputs[name], masks[name] = self.resident[name][index], here[:, None]
            elif isinstance(array, Tokens):
                values, mask = array.take(rows)
                inputs[name] = self._tensor(values)
                masks[name] = torch.from_numpy(mask.copy()).to(self.device) & here[:, None]
            else:
                inputs[name], masks[name] = self._tensor(array[rows])[:, None], here[:, None]
        return inputs, masks

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        # Cast before it is copied to the device, and never a view of an array that may be read-only.
        return torch.tensor(array, dtype=self.dtype, device=self.device)


def blocks(X: Inputs, rows: int) -> Iterator[slice]:
    """All rows in order, at most `rows` at a time, and fewer where tokens would fill the memory."""
    widest = max(int(np.prod(array.shape[1:])) for _, array in X.items())
    step = max(1, min(rows, _BLOCK // widest))
    return (slice(start, start + step) for start in range(0, len(X), step))


def statistics(X: Inputs, weight: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """Centre (d,) of each input, over the rows that have it, and the factor that brings its mean square to one."""
    found = {}
    for name, array in X.items():
        rows: Any = np.flatnonzero(X.present(name))
        if isinstance(array, Tokens) or len(rows) * array.shape[1] > _BLOCK * 16:
            rows = rows[:: max(1, len(rows) // _SAMPLE)]
        total, first, second = 0.0, np.zeros(array.shape[-1]), np.zeros(array.shape[-1])
        step = max(1, _BLOCK // int(np.prod(array.shape[1:])))
        # Squares are taken about the first block's mean: about zero they would lose all digits of features
        # that lie far from it.
        about: np.ndarray | None = None
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            if isinstance(array, Tokens):
                values, mask = array.take(some)
                values = np.asarray(values, np.float32)[mask].astype(np.float64)
                share = np.repeat(weight[some], mask.sum(axis=1))
            else:
                values, share = np.asarray(array[some], np.float64), weight[some]
            if about is None:
                about = values.mean(axis=0) if len(values) else first.copy()
            values -= about
            total += share.sum()
            first += share @ values
            second += share @ np.square(values)
        if total == 0 or about is None:
            found[name] = (first, 1.0)
            continue
        mean = first / total
        spread = float(np.sqrt(np.mean(second / total - mean**2).clip(min=0)))
        found[name] = (about + mean, 1 / spread if spread > 1e-12 else 1.0)
    return found


def schedule_factor(schedule: Schedule, epoch: float, epochs: float, warmup: float) -> float:
    """Factor of the learning rate, `epoch` (a fraction too) into training: warm-up, then half a cosine wave.

    "plateau" is lowered by the trainer, and here constant.
    """
    if epoch < warmup:
        return epoch / warmup
    if schedule != "cosine" or epochs <= warmup:
        return 1.0
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


class Optimizer:
    """Update of stacked parameters in place, each model by its own rates; `slots` tensors are kept for each parameter."""

    def __init__(self, parameters: Stacked, slots: int) -> None:
        self.parameters = parameters
        self.state = [{name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(slots)]

    def step(self, gradients: Stacked, lrs: Sequence[float], decays: Sequence[float]) -> None:
        """Update every model by its gradient, with its rate and its decay."""
        raise NotImplementedError

    def select(self, parameters: Stacked, models: torch.Tensor) -> None:
        """Go on with some of the models, whose `parameters` have moved together."""
        self.parameters = parameters
        self.state = [{name: tensor[models] for name, tensor in part.items()} for part in self.state]


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW` computes it, in place.

    PyTorch's own kernel passes over a parameter once, where the formula written out in tensor operations would
    pass over it some twenty times; but it takes one rate for all it is given. So it is given runs of
    neighbouring models that share their rates: sort configurations, and there are few.
    """

    def __init__(self, parameters: Stacked) -> None:
        super().__init__(parameters, slots=2)  # first and second moments of the gradients
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Stacked, lrs: Sequence[float], decays: Sequence[float]) -> None:
        """Update every model by its gradient, with its rate and its decay."""
        self.steps += 1
        device = next(iter(self.parameters.values())).device
        for (lr, decay), rows in _runs(lrs, decays):
            own, slopes, first, second = (
                [tensors[name].detach()[rows] for name in self.parameters]
                for tensors in (self.parameters, gradients, *self.state)
            )
            torch._fused_adamw_(
                own,
                slopes,
                first,
                second,
                [],
                [torch.tensor(float(self.steps), device=device)] * len(self.parameters),
                lr=lr,
                beta1=0.9,
                beta2=0.999,
                weight_decay=decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and (coupled) weight decay, as `torch.optim.SGD`."""

    def __init__(self, parameters: Stacked, *, momentum: float = 0.9) -> None:
        super().__init__(parameters, slots=1)  # velocity
        self.momentum = momentum

    @torch.no_grad()
    def step(self, gradients: Stacked, lrs: Sequence[float], decays: Sequence[float]) -> None:
        """Update every model by its gradient, with its rate and its decay."""
        for (lr, decay), rows in _runs(lrs, decays):
            for name, stacked in self.parameters.items():
                p, velocity = stacked.detach()[rows], self.state[0][name][rows]
                velocity.mul_(self.momentum).add_(gradients[name][rows]).add_(p, alpha=decay)
                p.sub_(velocity, alpha=lr)


def _runs(lrs: Sequence[float], decays: Sequence[float]) -> list[tuple[tuple[float, float], slice]]:
    """Neighbours that share both rates, and where they are."""
    runs, start = [], 0
    for rates, members in groupby(zip(lrs, decays, strict=True)):
        stop = start + sum(1 for _ in members)
        runs.append((rates, slice(start, stop)))
        start = stop
    return runs


@dataclass(frozen=True)
class Configuration:
    """Settings that differ between the models of a stack."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.0
    modality_dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """Settings that the models of a stack share; see `TorchHead` for each."""

    epochs: int = 40
    batch_size: int = 64
    patience: int | None = 8
    stop: int | None = None
    warmup: float = 1.0
    schedule: Schedule = "cosine"
    drops: tuple[int, ...] = ()
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    label_smoothing: float = 0.0
    metric: Literal["log_loss", "macro_f1", "accuracy"] = "log_loss"
    precision: Literal["auto", "float32"] = "auto"


@dataclass(frozen=True)
class Part:
    """Rows with their class codes and weights, both of shape (n,)."""

    rows: Rows
    y: torch.Tensor
    weight: torch.Tensor


@dataclass
class Outcome:
    """Result of one configuration.

    `state` is the network's after its best epoch (the last, without dev), on the CPU; `epochs` the number of that epoch
    from 1, or 0 if the loss was never finite; `score` the dev metric then, the larger the better; `curve` has a row for
    every epoch, and `drops` the epochs after which "plateau" lowered the learning rate.
    """

    configuration: Configuration
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    epochs: int = 0
    score: float = -math.inf
    log_loss: float = math.inf
    curve: list[dict[str, Any]] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key of results."""
        return self.score, -self.log_loss, self.epochs


def train_many(
    build: Callable[[], nn.Module],
    configurations: Sequence[Configuration],
    train: Part,
    val: Part | None,
    plan: Plan,
    *,
    batched: bool = True,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Train a network once for each configuration; the outcomes are in their order.

    `build` makes the network and is called with PyTorch's random numbers seeded by the configuration's seed. Without `val`
    all epochs are trained. `batched=False` trains one after the other, without `vmap`.
    """
    with torch.random.fork_rng(devices=[]):
        size = sum(p.numel() for p in build().parameters())
    most = _STACKED if train.rows.device.type == "cpu" else _MEMORY
    at_once = max(1, most // size) if batched else 1
    # Neighbours share their batches, and the optimizer's passes.
    order = sorted(
        range(len(configurations)),
        key=lambda i: (configurations[i].seed, configurations[i].lr, configurations[i].weight_decay),
    )
    groups = [order]
    if any(isinstance(array, Tokens) for _, array in train.rows.X.items()):
        # Tokens are large: a stack of several seeds would gather each seed's own rows, for every model anew.
        groups = [list(group) for _, group in groupby(order, key=lambda i: configurations[i].seed)]
    stacks = [
        part for group in groups for part in np.array_split(np.array(group), math.ceil(len(group) / at_once))
    ]
    outcomes: dict[int, Outcome] = {}
    for number, members in enumerate(stacks):
        some = [configurations[i] for i in members]
        work = 6 * size * len(some) * min(plan.batch_size, len(train.rows))

        def report(epoch: int, epochs: int, best: float, number: int = number) -> None:
            if progress is not None:
                progress(number * epochs + epoch, len(stacks) * epochs, best)

        # One model alone has nothing to gain from being a stack.
        stacked = batched and len(some) > 1
        with limited_threads(work):
            done = _train_stack(build, some, train, val, plan, stacked, report)
        outcomes.update(zip(members, done, strict=True))
    return [outcomes[i] for i in range(len(configurations))]


def _train_stack(
    build: Callable[[], nn.Module],
    configurations: Sequence[Configuration],
    train: Part,
    val: Part | None,
    plan: Plan,
    batched: bool,
    progress: Progress,
) -> list[Outcome]:
    """Train the models of one stack: the algorithm, from top to bottom."""
    outcomes = [Outcome(configuration) for configuration in configurations]
    device = train.rows.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        stack = Stack(build, configurations, device, batched)
        torch.manual_seed(0)
        optimizer: Optimizer = AdamW(stack.parameters)
        if plan.optimizer == "sgd":
            optimizer = SGD(stack.parameters, momentum=plan.momentum)
        alive = list(outcomes)
        reduced = [1.0] * len(alive)
        choices = [Choice(plan.metric, plan.patience) for _ in alive]
        epochs = plan.epochs if plan.stop is None else plan.stop
        for epoch in range(epochs):
            losses = torch.zeros(len(alive), device=device)
            stack.network.train()
            batches = _batches(stack.seeds, epoch, len(train.rows), plan.batch_size)
            for step, rows in enumerate(batches):
                index = torch.from_numpy(rows).to(device)
                stack.shift_noise(epoch, step)
                with products_in(plan.precision):
                    logits = stack.logits(train.rows.take(rows), own=rows.ndim > 1)
                    loss = _losses(logits, train.y[index], train.weight[index], plan.label_smoothing)
                    gradients = stack.gradients(loss.sum())
                at = epoch + (step + 1) / len(batches)
                factor = schedule_factor(plan.schedule, at, plan.epochs, plan.warmup)
                lrs = [o.configuration.lr * factor * r for o, r in zip(alive, reduced, strict=True)]
                decays = [o.configuration.weight_decay for o in alive]
                optimizer.step(gradients, lrs, decays)
                losses += loss.detach() * (rows.shape[-1] / len(train.rows))
            scores = {} if val is None else _scores(stack, val)
            keep = []
            for i, outcome in enumerate(alive):
                row = {name: float(values[i]) for name, values in scores.items()}
                outcome.curve.append({"epoch": epoch + 1, "lr": lrs[i], "loss": float(losses[i]), **row})
                finite = all(map(math.isfinite, (outcome.curve[-1]["loss"], *row.values())))
                choice, before = choices[i], choices[i].waited
                if finite and (choice.offer(row) if row else True):
                    outcome.epochs = epoch + 1
                    stack.remember(i)
                    if choice.best is not None:
                        outcome.score, outcome.log_loss = choice.best[0], -choice.best[1]
                stuck = choice.waited > before and choice.waited % _PLATEAU_AFTER == 0
                if plan.schedule == "plateau" and (epoch + 1 in plan.drops if val is None else stuck):
                    reduced[i] *= _PLATEAU
                    outcome.drops.append(epoch + 1)
                if finite and not choice.exhausted:
                    keep.append(i)
                else:
                    outcome.state = stack.best(i)
            progress(epoch + 1, epochs, max(outcome.score for outcome in outcomes))
            if len(keep) < len(alive):
                if not keep:
                    alive = []
                    break
                chosen = torch.tensor(keep, device=device)
                stack.select(chosen)
                optimizer.select(stack.parameters, chosen)
                alive = [alive[i] for i in keep]
                reduced, choices = [reduced[i] for i in keep], [choices[i] for i in keep]
        for i, outcome in enumerate(alive):
            outcome.state = stack.best(i)
    return outcomes


class Stack:
    """Weights of m copies of a network, and how to run them all.

    `network` lends its structure, its own weights are not used; `parameters` are (m, ...) each, and so are the `buffers`
    that are named in `own`, the others being the same for all models.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        configurations: Sequence[Configuration],
        device: torch.device,
        batched: bool,
    ) -> None:
        self.configurations, self.batched = list(configurations), batched
        copies: dict[int, nn.Module] = {}
        for seed in self.seeds:
            if seed not in copies:
                torch.manual_seed(seed)
                copies[seed] = build().to(device)
        members = [copies[seed] for seed in self.seeds]
        self.network = members[0]
        if batched:
            for module in self.network.modules():
                if type(module) is nn.Linear:
                    module.__class__ = Linear
        self.parameters = {
            name: torch.stack([member.get_parameter(name).detach() for member in members])
            for name, _ in self.network.named_parameters()
        }
        own = {
            name: torch.stack([member.get_buffer(name) for member in members])
            for name, _ in self.network.named_buffers()
        }
        own |= stacked_rates(
            self.network,
            torch.tensor([c.dropout for c in configurations], device=device),
            torch.tensor([c.modality_dropout for c in configurations], device=device),
        )
        self.noise = [name for name in own if name.endswith(".shift")]
        #: Names of buffers of which each model has its own.
        self.own = {name for name, values in own.items() if not batched or not (values == values[0]).all()}
        if len(set(self.seeds)) > 1:
            self.own |= set(self.noise)
        self.buffers = {name: v if name in self.own else v[0].clone() for name, v in own.items()}
        self._best: dict[int, dict[str, torch.Tensor]] = {}
        self._numbers = list(range(len(members)))

    @property
    def seeds(self) -> list[int]:
        """Seed of each model."""
        return [c.seed for c in self.configurations]

    def logits(self, batch: Batch, *, own: bool = False) -> torch.Tensor:
        """Logits of every model, (m, n, k), for n rows; with `own`, a batch (m, n, ...) has other rows for each model."""
        for p in self.parameters.values():
            p.requires_grad_(torch.is_grad_enabled())
        if not self.batched:
            first = {n: t[0] if n in self.own or n in self.parameters else t for n, t in self._tensors()}
            inputs, masks = batch
            logits: torch.Tensor = functional_call(self.network, first, (inputs, masks))
            return logits[None]

        def run(tensors: dict[str, torch.Tensor], inputs: Any, masks: Any) -> torch.Tensor:
            result: torch.Tensor = functional_call(self.network, tensors, (inputs, masks))
            return result

        tensors = dict(self._tensors())
        stacked = {n: 0 if n in self.own or n in self.parameters else None for n in tensors}
        rows = 0 if own else None
        return vmap(run, in_dims=(stacked, rows, rows), randomness="same")(tensors, *batch)

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradient of every weight, (m, ...) each; zero where the loss does not reach."""
        values = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
        return dict(zip(self.parameters, values, strict=True))

    def shift_noise(self, epoch: int, step: int) -> None:
        """Move the dropout noise of each model by what its seed says for this step."""
        if not self.noise:
            return
        draws = {
            seed: np.random.default_rng((seed, epoch, step)).random(len(self.noise))
            for seed in set(self.seeds)
        }
        shifts = torch.tensor(np.array([draws[seed] for seed in self.seeds]), dtype=torch.float32)
        shifts = shifts.to(self.buffers[self.noise[0]].device)
        for j, name in enumerate(self.noise):
            self.buffers[name] = shifts[:, j] if name in self.own else shifts[0, j]

    def remember(self, model: int) -> None:
        """Keep the weights that a model has now."""
        self._best[self._numbers[model]] = {
            name: (tensor[model] if name in self.own or name in self.parameters else tensor).detach().clone()
            for name, tensor in self._tensors()
        }

    def best(self, model: int) -> dict[str, torch.Tensor]:
        """State of a model's network as remembered, on the CPU; empty if nothing was."""
        kept = self._best.pop(self._numbers[model], {})
        names = set(self.network.state_dict())
        return {name: tensor.cpu() for name, tensor in kept.items() if name in names}

    def select(self, models: torch.Tensor) -> None:
        """Go on with some of the models."""
        chosen = models.tolist()
        self.configurations = [self.configurations[i] for i in chosen]
        self._numbers = [self._numbers[i] for i in chosen]
        self.parameters = {name: p.detach()[models] for name, p in self.parameters.items()}
        self.buffers = {n: t[models] if n in self.own else t for n, t in self.buffers.items()}

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [*self.parameters.items(), *self.buffers.items()]


def _batches(seeds: Sequence[int], epoch: int, n: int, size: int) -> list[np.ndarray]:
    """Rows of each step of an epoch, (b,) where all models share a seed, else (m, b); batch sizes differ by one at most."""
    orders = {seed: np.random.default_rng((seed, epoch)).permutation(n) for seed in set(seeds)}
    rows = orders[seeds[0]] if len(orders) == 1 else np.stack([orders[seed] for seed in seeds])
    return np.array_split(rows, math.ceil(n / size), axis=-1)


def _losses(logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Weighted mean cross-entropy of every model: logits (m, n, k), y and weight (n,) or (m, n), to (m,)."""
    m, n, k = logits.shape
    y, weight = y.expand(m, n), weight.expand(m, n)
    loss = cross_entropy(
        logits.reshape(m * n, k), y.reshape(m * n), reduction="none", label_smoothing=smoothing
    )
    return (loss.view(m, n) * weight).mean(dim=1)


@torch.no_grad()
def _scores(stack: Stack, val: Part) -> dict[str, torch.Tensor]:
    """Dev scores of every model, (m,) each: log loss and accuracy (weighted), macro-F1."""
    stack.network.eval()
    step = max(64, _SCORED // len(stack.configurations))
    logits = torch.cat([stack.logits(val.rows.take(rows)) for rows in blocks(val.rows.X, step)], dim=1)
    m, n, k = logits.shape
    total = val.weight.sum()
    at = logits.log_softmax(dim=2).gather(2, val.y.expand(m, n)[..., None])[..., 0]
    predicted = logits.argmax(dim=2)
    right = predicted == val.y
    hits = torch.zeros(m, k, device=logits.device).scatter_add_(1, predicted, right.float())
    marked = torch.zeros(m, k, device=logits.device).scatter_add_(1, predicted, torch.ones_like(at))
    marked = marked + torch.bincount(val.y, minlength=k)
    f1 = (2 * hits / marked.clamp(min=1)).sum(dim=1) / (marked > 0).sum(dim=1)
    scores = {
        "log_loss": -(at * val.weight).sum(dim=1) / total,
        "accuracy": (right * val.weight).sum(dim=1) / total,
        "macro_f1": f1,
    }
    return {name: values.cpu() for name, values in scores.items()}
