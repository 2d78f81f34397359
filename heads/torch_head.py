"""`TorchHead`: the base of every head that is a small network.

A family writes `build` and its own parameters; this class standardises the inputs, trains the grid as one
batched program (`icehouse.heads.torch_training`), keeps what is best on dev, predicts and saves.

Predictions are made in float64: rounding then cannot tell a row alone from the same row in a batch. The
networks are small enough that nobody notices.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from ..errors import CorruptError, HeadError
from .head import Chosen, Examples, Head, Pair, Validation
from .inputs import Inputs, Labels
from .registry import ClassWeight, Footprint, ParameterError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .torch_training import Configuration, Outcome, Part, Plan

#: A number, or several to choose from on dev.
Grid: TypeAlias = float | Sequence[float]

# Rows that are predicted at a time.
_PREDICTED = 4096
#: Parameters of which several values make a grid, all trained as one program, and what their values may be.
GRIDS = {
    "lr": "above zero",
    "weight_decay": "not below zero",
    "dropout": "in [0, 1)",
    "modality_dropout": "in [0, 1)",
}


@dataclass(kw_only=True, eq=False, repr=False)
class TorchHead(Head):
    """A network on frozen features, trained by AdamW with early stopping on dev.

    A family adds its own parameters, and defaults of its own for those below::

        @dataclass(kw_only=True, eq=False, repr=False)
        class Mine(TorchHead):
            family = "mine"
            hidden: int = 256
            epochs: int = 20

            def build(self, widths: dict[str, int], classes: int) -> nn.Module: ...

    Parameters
    ----------
    lr : float or sequence of float
        Learning rate. Here and below, several values are a grid: every combination is trained, all as one
        program, and the best on dev is kept.
    weight_decay : float or sequence of float
        Decoupled weight decay.
    dropout : float or sequence of float
        Rate of the network's dropout layers.
    modality_dropout : float or sequence of float, default 0
        Share of a row's inputs that are hidden in training, never all of a row's.
    epochs : int
        Passes over the rows that the learning rate's schedule spans.
    stop : int, optional
        End after this many of them without looking at dev; what `refit` uses.
    patience : int or None
        Epochs without a better dev score after which training ends; None for never. The weights of the best
        epoch are kept either way.
    batch_size : int or "auto", default "auto"
        "auto" makes some sixteen steps an epoch of few rows: a power of two between 16 and 128.
    warmup : float, default 1
        Epochs over which the learning rate rises from zero.
    schedule : {"cosine", "plateau", "constant"}, default "cosine"
        "plateau" lowers the rate to 0.3 of itself whenever dev has not improved for two epochs.
    drops : sequence of int, default ()
        Epochs after which "plateau" lowers it where there is no dev to look at; what `refit` uses.
    optimizer : {"adamw", "sgd"}, default "adamw"
    momentum : float, default 0.9
        Of "sgd".
    label_smoothing : float, default 0
    class_weight : None, "balanced" or mapping of label to float, default None
        "balanced" weighs classes by the inverse of their frequency, in the loss and in dev's log loss and
        accuracy.
    metric : {"log_loss", "macro_f1", "accuracy"}, default "log_loss"
        What decides on dev between epochs and between configurations.
    standardize : bool, default True
        Whether each input is centred and divided by one number, so that its features have about unit variance.
    precision : {"auto", "float32"}, default "auto"
        "auto" rounds the factors of training's matrix products to bfloat16 on CPUs with instructions for it;
        sums, weights, dev scores and predictions stay as they are.
    seed : int, default 0
        Of initial weights, order of rows, dropout, and the part held out where there is no dev.
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU. A head that was saved loads anywhere.

    Attributes
    ----------
    network_ : torch.nn.Module
        The fitted network, behind the centring and scaling of its inputs: raw features in, logits out. On the
        CPU, in float32, in evaluation mode.
    curve_ : list of dict
        One row for each configuration (its parameters, the number of its best epoch as ``best``, and the dev
        scores then), then one for each epoch of the chosen one (``epoch``, ``lr``, training ``loss`` and dev scores).
    """

    takes_tokens: ClassVar[bool] = True
    handles_missing: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(dev=8, weights=6)
    #: Whether one input of one vector a row is enough.
    takes_one_vector: ClassVar[bool] = True
    #: False if the network cannot run under `torch.func.vmap`: it is then trained one configuration at a time.
    batched: ClassVar[bool] = True

    minimum: ClassVar[Mapping[str, int]] = {"epochs": 1, "stop": 1, "patience": 1, "batch_size": 1}

    lr: Grid = (1e-3, 3e-3)
    weight_decay: Grid = 0.01
    dropout: Grid = (0.2, 0.5)
    modality_dropout: Grid = 0.0
    epochs: int = 30
    stop: int | None = None
    patience: int | None = 6
    batch_size: int | Literal["auto"] = "auto"
    warmup: float = 1.0
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    drops: Sequence[int] = ()
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    label_smoothing: float = 0.0
    class_weight: ClassWeight = None
    metric: Literal["log_loss", "macro_f1", "accuracy"] = "log_loss"
    standardize: bool = True
    precision: Literal["auto", "float32"] = "auto"
    seed: int = 0
    device: str = "auto"

    @abstractmethod
    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """A new network that maps ``(inputs, masks)`` to logits (n, classes); see `icehouse.heads.torch_layers`.

        A `HeadError` says that the family cannot work on these inputs.
        """

    def _refuse(self, X: Inputs) -> None:
        """Raise an `InputError` for inputs that the family can make nothing of."""

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """Names of the parameters, the family's own first, with their defaults."""
        known = super().parameters()
        own = {name: default for name, default in known.items() if name not in TorchHead.__dataclass_fields__}
        return {**own, **known}

    # ------------------------------------------------------------------ fitting

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        from .torch_training import Configuration

        self._refuse(X)
        grids, plan = self._grids(), self._plan(len(y))
        configurations = self._configurations()

        def choose(examples: Examples, val: Validation) -> Chosen:
            best = self._note(self._train(configurations, plan, examples, val), True)
            self._keep(best.state)
            return self._chosen(best)

        def fit(examples: Examples, chosen: Chosen) -> Chosen:
            curve = self.curve_
            final = replace(plan, stop=chosen.get("stop", plan.stop), drops=chosen.get("drops", plan.drops))
            values = {name: chosen[name] for name in GRIDS}
            only = Configuration(**values, seed=int(self.seed))
            best = self._note(self._train([only], final, examples, None), False)
            self._keep(best.state)
            self.curve_ = curve or self.curve_
            return {**self._chosen(best), **chosen}

        # With nothing to choose on, the middle of each grid.
        default = {name: values[(len(values) - 1) // 2] for name, values in grids.items()}
        undecided = plan.stop is None and (len(configurations) > 1 or plan.patience is not None)
        val = None if plan.stop is not None else val
        examples = self._examples(X, y, weight)
        return self._select(examples, val, choose, fit, default, undecided=undecided)

    def _grids(self) -> dict[str, list[float]]:
        """Values of each parameter that may have several, checked."""
        grids = {}
        for name, described in GRIDS.items():
            given: Any = getattr(self, name)
            try:
                values = [float(v) for v in np.atleast_1d(np.asarray(given, np.float64)).tolist()]
            except (TypeError, ValueError):
                values = []
            top = 1.0 if "dropout" in name else math.inf
            if not values or not all(0 <= v < top for v in values) or (name == "lr" and 0.0 in values):
                raise ParameterError(f"{name} must be a number or several numbers {described}, not {given!r}")
            grids[name] = list(dict.fromkeys(values))
        return grids

    def _configurations(self) -> list[Configuration]:
        """Every combination of them, with the head's seed."""
        from .torch_training import Configuration

        grids = self._grids()
        return [
            Configuration(**dict(zip(grids, values, strict=True)), seed=int(self.seed))
            for values in product(*grids.values())
        ]

    def _plan(self, n: int) -> Plan:
        """Training plan of all configurations on about `n` rows."""
        from .torch_training import Plan

        for name in ("label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name} must be in [0, 1), not {getattr(self, name)!r}")
        if self.warmup < 0:
            raise ParameterError(f"warmup must not be negative, not {self.warmup!r}")
        shared = {name: getattr(self, name) for name in Plan.__dataclass_fields__}
        if self.batch_size == "auto":
            shared["batch_size"] = min(128, max(16, 2 ** int(math.log2(n / 16)))) if n >= 16 else 16
        return Plan(**{**shared, "drops": tuple(self.drops)})

    def _chosen(self, best: Outcome) -> dict[str, Any]:
        chosen = {**{name: getattr(best.configuration, name) for name in GRIDS}, "stop": best.epochs}
        return {**chosen, "drops": _drops(best)} if self.schedule == "plateau" else chosen

    def _train(
        self,
        configurations: Sequence[Configuration],
        plan: Plan,
        examples: Examples,
        val: Validation | None,
    ) -> list[Outcome]:
        from .torch_training import Rows, statistics, train_many

        device, by_class = self._device(), examples.by_class
        centred = statistics(examples.X, examples.weight) if self.standardize else {}

        def network() -> nn.Module:
            return self._network(centred)

        return train_many(
            network,
            configurations,
            _part(Rows(examples.X, device), examples.y, examples.weight * by_class[examples.y]),
            None if val is None else _part(Rows(val[0], device), val[1], by_class[val[1]]),
            plan,
            batched=self.batched,
            progress=self.progress,
        )

    def _note(self, outcomes: Sequence[Outcome], compared: bool) -> Outcome:
        """Note in `curve_` what came of the configurations, `compared` on dev or not, and give back the best."""
        best = max(outcomes, key=lambda outcome: outcome.rank)
        if best.epochs == 0:
            raise HeadError(
                f"training {self.family} diverged: the loss was never finite; try a learning rate below lr={self.lr}"
            )
        if compared and best.epochs == 1 < self.epochs:
            form = "" if self.batch_independent else " as published"
            self.notes_.append(
                f"{self.family}{form} stopped at epoch 1: of {len(best.curve)} epochs the first was the best on dev, so it "
                "has hardly learned, and may have collapsed to the commonest class; look at the curve, and try another lr"
            )
        self.curve_ = [_summary(outcome) for outcome in outcomes] if compared else []
        self.curve_ += [_finite(row) for row in best.curve]
        return best

    def fit_seeds(
        self, seeds: Sequence[int], X: Any, y: Labels, val: Pair | None = None, **given: Any
    ) -> list[Self]:
        """New heads, one fitted with each seed: the grid times the seeds as one program."""
        if val is None or self.stop is not None or not self.batched:
            return super().fit_seeds(seeds, X, y, val, **given)
        heads = [self.unfitted(seed=seed) for seed in seeds]
        for head in heads:
            head.progress = self.progress
            inputs, codes, weight = head._begin(X, y, **given)
            head._refuse(inputs)
        first = heads[0]
        dev = first._validation(val)
        if dev is None or len(first._absent(dev)):
            return super().fit_seeds(seeds, X, y, val, **given)
        first._check_memory(len(codes), len(dev[1]) * len(heads))
        configurations = [configuration for head in heads for configuration in head._configurations()]
        examples = first._examples(inputs, codes, weight)
        outcomes = first._train(configurations, first._plan(len(codes)), examples, dev)
        for head in heads:
            best = head._note([o for o in outcomes if o.configuration.seed == head.seed], True)
            head._keep(best.state)
            head.chosen_ = head._chosen(best)
        return heads

    def _network(self, centred: Mapping[str, tuple[np.ndarray, float]] | None = None) -> nn.Module:
        """A new network behind centring and scaling; the caller seeds."""
        import torch

        from .torch_layers import Prepared

        network = Prepared(self.build(dict(self.widths_), len(self.classes_)), self.widths_)
        for i, name in enumerate(self.widths_):
            if centred and name in centred:
                centre, scale = centred[name]
                network.get_buffer(f"centre_{i}").copy_(torch.from_numpy(centre))
                network.get_buffer(f"scale_{i}").fill_(scale)
        return network

    def _keep(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take `state` as the fitted network."""
        import torch

        with torch.random.fork_rng(devices=[]):
            network = self._network()
        network.load_state_dict(dict(state))
        self.network_ = network.eval().requires_grad_(False)
        self._exact = deepcopy(self.network_).double()

    # ------------------------------------------------------------------ predicting and storing

    def _predict_proba(self, X: Inputs) -> np.ndarray:
        import torch

        from .torch_training import Rows, blocks

        device = self._device()
        device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        network = self._exact.to(device)
        parts = []
        with torch.inference_mode():
            for rows in blocks(X, _PREDICTED):
                inputs, masks = Rows(X[rows], device, torch.float64).take(slice(None))
                parts.append(network(inputs, masks).softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {name: tensor.numpy() for name, tensor in self.network_.state_dict().items()}, {}

    def _restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        import torch

        for name in (*GRIDS, "drops"):  # which JSON gives back as lists
            if isinstance(getattr(self, name), list):
                setattr(self, name, tuple(getattr(self, name)))
        self._check_size(arrays)
        self._keep({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})

    def _check_size(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuse weights of other shapes than the parameters say, before a network as large as those say is made."""
        import torch

        numbers = sum(array.size for array in arrays.values())
        for name, value in self.get_params().items():
            most = len(arrays) if name == "depth" else numbers
            if (
                name not in TorchHead.__dataclass_fields__
                and isinstance(value, int)
                and not 0 <= value <= most
            ):
                raise CorruptError(f"its weights are too few for {name}={value}")
        with torch.device("meta"):
            shapes = self._network().state_dict()
        # As `_save` has scalars.
        wanted = {name: tuple(weight.shape) or (1,) for name, weight in shapes.items()}
        for name in [*wanted, *arrays]:
            found = arrays[name].shape or (1,) if name in arrays else "absent"
            if found != wanted.get(name):
                raise CorruptError(f"its weights {name} are {found}, not {wanted.get(name, 'expected')}")

    def _device(self) -> torch.device:
        import torch

        if self.device != "auto":
            try:
                return torch.device(self.device)
            except RuntimeError:
                raise ParameterError(f"device must be auto, cpu, cuda or mps, not {self.device!r}") from None
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _part(rows: Any, y: np.ndarray, weight: np.ndarray) -> Part:
    """Rows for the trainer; weights have a mean of one, so that they leave the learning rate's meaning alone."""
    import torch

    from .torch_training import Part

    share = torch.from_numpy(weight / weight.mean()).to(rows.device, torch.float32)
    return Part(rows, torch.from_numpy(y).to(rows.device), share)


def _drops(best: Outcome) -> tuple[int, ...]:
    """Epochs at which the learning rate fell before the best epoch."""
    return tuple(epoch for epoch in best.drops if epoch < best.epochs)


def _summary(outcome: Outcome) -> dict[str, Any]:
    """A configuration's row in `curve_`."""
    given = {name: getattr(outcome.configuration, name) for name in GRIDS}
    at = outcome.curve[max(outcome.epochs, 1) - 1]
    scores = {name: at[name] for name in ("log_loss", "accuracy", "macro_f1")}
    return _finite({**given, "best": outcome.epochs, **scores})


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with None for what JSON has no number for."""
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}
