"""`TorchHead`: the base of every head that is a small network.

A family writes `build` and its own parameters; this class standardises the inputs, trains the grid as one
batched program (`icehouse.heads.torch.training`), keeps what is best on dev, predicts and saves.

Predictions are made in float64: rounding then cannot tell a row alone from the same row in a batch. The
networks are small enough that nobody notices.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from ...errors import CorruptError, HeadError
from ..checks import Footprint, ParameterError
from ..head import Head, Validation
from ..inputs import Inputs
from ..vectors import class_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .training import Configuration, Metric, Outcome, Part, Plan, Schedule

__all__ = ["GRIDS", "Grid", "TorchHead"]

#: A number, or several to choose from on dev.
Grid: TypeAlias = float | Sequence[float]

# Rows that are predicted at a time.
_PREDICTED = 4096
#: Parameters of which several values make a grid, all trained as one program.
GRIDS = ("lr", "weight_decay", "dropout", "modality_dropout")


class TorchHead(Head):
    """A network on frozen features, trained by AdamW with early stopping on dev.

    A family takes its own parameters and passes the others on::

        class Mine(TorchHead):
            family = "mine"

            def __init__(self, *, hidden: int = 256, **shared: Any) -> None:
                super().__init__(**{**self.defaults, **shared})
                self.hidden = hidden

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
    #: Shared parameters for which a family has defaults of its own.
    defaults: ClassVar[dict[str, Any]] = {}
    #: False if the network cannot run under `torch.func.vmap`: it is then trained one configuration at a time.
    batched: ClassVar[bool] = True

    network_: nn.Module
    _exact: nn.Module

    def __init__(
        self,
        *,
        lr: Grid = (1e-3, 3e-3),
        weight_decay: Grid = 0.01,
        dropout: Grid = (0.2, 0.5),
        modality_dropout: Grid = 0.0,
        epochs: int = 30,
        stop: int | None = None,
        patience: int | None = 6,
        batch_size: int | Literal["auto"] = "auto",
        warmup: float = 1.0,
        schedule: Schedule = "cosine",
        drops: Sequence[int] = (),
        optimizer: Literal["adamw", "sgd"] = "adamw",
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        metric: Metric = "log_loss",
        standardize: bool = True,
        precision: Literal["auto", "float32"] = "auto",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.modality_dropout = modality_dropout
        self.epochs = epochs
        self.stop = stop
        self.patience = patience
        self.batch_size = batch_size
        self.warmup = warmup
        self.schedule: Schedule = schedule
        self.drops = drops
        self.optimizer: Literal["adamw", "sgd"] = optimizer
        self.momentum = momentum
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.metric: Metric = metric
        self.standardize = standardize
        self.precision: Literal["auto", "float32"] = precision
        self.seed = seed
        self.device = device

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the shared parameters, with the family's own defaults, to whoever asks for the signature."""
        super().__init_subclass__(**kwargs)
        keyword = inspect.Parameter.KEYWORD_ONLY
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by inspect.signature
            [inspect.Parameter(name, keyword, default=value) for name, value in cls.parameters().items()]
        )

    @abstractmethod
    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """A new network that maps ``(inputs, masks)`` to logits (n, classes); see `icehouse.heads.torch.layers`.

        Raises
        ------
        HeadError
            If the family cannot work on these inputs.
        """

    def _refuse(self, X: Inputs) -> None:
        """Raise an `InputError` for inputs that the family can make nothing of."""

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """Names of the parameters, the family's own first, with their defaults."""
        own = {
            name: p.default
            for name, p in inspect.signature(cls.__init__).parameters.items()
            if name != "self" and p.kind is not p.VAR_KEYWORD
        }
        shared = inspect.signature(TorchHead.__init__).parameters
        return own | {
            name: cls.defaults.get(name, p.default)
            for name, p in shared.items()
            if name not in {*own, "self"}
        }

    # ------------------------------------------------------------------ fitting

    def _fit(
        self, X: Inputs, y: np.ndarray, val: Validation | None, sample_weight: np.ndarray | None
    ) -> Mapping[str, Any]:
        from .settings import configurations_of, grids_of, plan_of

        self._refuse(X)
        configurations, plan = configurations_of(self), plan_of(self, len(y))
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        by_class = class_weights(self.class_weight, self.classes_, y, weight)
        if plan.stop is not None:
            val = None
        elif val is None and (len(configurations) > 1 or plan.patience is not None):
            part = self._held_out(X, y)
            if part is not None:
                rest = ~part
                best = self._best(
                    configurations, plan, X[rest], y[rest], weight[rest], (X[part], y[part]), by_class
                )
                return self._settle(best, plan, X, y, weight, by_class)
        if val is None:
            # Nothing to choose on: the middle of each grid.
            middle: dict[str, Any] = {
                n: values[(len(values) - 1) // 2] for n, values in grids_of(self).items()
            }
            configurations = [replace(configurations[0], **middle)]
        best = self._best(configurations, plan, X, y, weight, val, by_class)
        self._keep(best.state)
        return self._chosen(best)

    def _settle(
        self, best: Outcome, plan: Plan, X: Inputs, y: np.ndarray, weight: np.ndarray, by_class: np.ndarray
    ) -> dict[str, Any]:
        """Train what was chosen on all rows, for as many epochs as were best."""
        curve = self.curve_
        plan = replace(plan, stop=best.epochs, drops=_drops(best))
        final = self._best([best.configuration], plan, X, y, weight, None, by_class)
        self.curve_ = curve
        self._keep(final.state)
        return self._chosen(best)

    def _chosen(self, best: Outcome) -> dict[str, Any]:
        chosen = {**{name: getattr(best.configuration, name) for name in GRIDS}, "stop": best.epochs}
        return {**chosen, "drops": _drops(best)} if self.schedule == "plateau" else chosen

    def _best(
        self,
        configurations: Sequence[Configuration],
        plan: Plan,
        X: Inputs,
        y: np.ndarray,
        weight: np.ndarray,
        val: Validation | None,
        by_class: np.ndarray,
    ) -> Outcome:
        """Train every configuration, note what came of it in `curve_`, and give back the best."""
        return self._note(self._train(configurations, plan, X, y, weight, val, by_class), val is not None)

    def _train(
        self,
        configurations: Sequence[Configuration],
        plan: Plan,
        X: Inputs,
        y: np.ndarray,
        weight: np.ndarray,
        val: Validation | None,
        by_class: np.ndarray,
    ) -> list[Outcome]:
        from .training import Rows, statistics, train_many

        device = self._device()
        centred = statistics(X, weight) if self.standardize else {}

        def network() -> nn.Module:
            return self._network(centred)

        return train_many(
            network,
            configurations,
            _part(Rows(X, device), y, weight * by_class[y]),
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
        self,
        seeds: Sequence[int],
        X: Any,
        y: Sequence[Any] | np.ndarray,
        val: tuple[Any, Any] | None = None,
        sample_weight: Sequence[float] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
    ) -> list[Self]:
        """New heads, one fitted with each seed: the grid times the seeds as one program."""
        from .settings import configurations_of, plan_of

        if val is None or self.stop is not None or not self.batched:
            return super().fit_seeds(seeds, X, y, val, sample_weight, groups)
        heads = [self.unfitted(seed=seed) for seed in seeds]
        for head in heads:
            head.progress = self.progress
            inputs, codes, given = head._begin(X, y, sample_weight, groups)
            head._refuse(inputs)
        first = heads[0]
        dev = first._validation(val)
        if dev is None or len(first._absent(dev)):
            return super().fit_seeds(seeds, X, y, val, sample_weight, groups)
        first._check_memory(len(codes), len(dev[1]) * len(heads))
        weight = np.ones(len(codes)) if given is None else given
        outcomes = first._train(
            [configuration for head in heads for configuration in configurations_of(head)],
            plan_of(first, len(codes)),
            inputs,
            codes,
            weight,
            dev,
            class_weights(first.class_weight, first.classes_, codes, weight),
        )
        for head in heads:
            best = head._note([o for o in outcomes if o.configuration.seed == head.seed], True)
            head._keep(best.state)
            head.chosen_ = head._chosen(best)
        return heads

    def _network(self, centred: Mapping[str, tuple[np.ndarray, float]] | None = None) -> nn.Module:
        """A new network behind centring and scaling; the caller seeds."""
        import torch

        from .layers import Prepared

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

        from .training import Rows, blocks

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
        shared = inspect.signature(TorchHead.__init__).parameters
        for name, value in self.get_params().items():
            most = len(arrays) if name == "depth" else numbers
            if name not in shared and isinstance(value, int) and not 0 <= value <= most:
                raise CorruptError(f"its weights are too few for {name}={value}")
        with torch.device("meta"):
            shapes = self._network().state_dict()
        wanted = {
            name: tuple(weight.shape) or (1,) for name, weight in shapes.items()
        }  # as `_save` has scalars
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

    from .training import Part

    share = torch.from_numpy(weight / weight.mean()).to(rows.device, torch.float32)
    return Part(rows, torch.from_numpy(y).to(rows.device), share)


def _drops(best: Outcome) -> tuple[int, ...]:
    """When the learning rate fell on the way to the best epoch."""
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
