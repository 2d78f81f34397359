"""`mlp`: one hidden layer on the concatenated inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..neural.head import TorchHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MLP"]


class MLP(TorchHead):
    """Multilayer perceptron: concatenation, layer norm, hidden layers with GELU and dropout, logits.

    An input that a row lacks is at its training mean. Tokens are averaged.

    Parameters
    ----------
    hidden : int, default 256
        Width of a hidden layer.
    layers : int, default 1
        Number of hidden layers.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> MLP(epochs=2).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "mlp"
    least: ClassVar[Mapping[str, int]] = {"hidden": 1, "layers": 0}

    def __init__(self, *, hidden: int = 256, layers: int = 1, **shared: Any) -> None:
        super().__init__(**{**self.defaults, **shared})
        self.hidden = hidden
        self.layers = layers

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..neural.networks import Perceptron

        return Perceptron(sum(widths.values()), self.hidden, self.layers, classes)
