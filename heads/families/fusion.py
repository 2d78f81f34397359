"""Fusion heads: `mlp`, `align` and `cross` (Hate-CLIPper, Kumar & Nandakumar 2022), `two-token`.

Both vectors are projected to the same width and multiplied elementwise: a unit fires where they agree, which is
what a linear head on the concatenation can never see. With three inputs the product runs over all that a row has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..checks import ParameterError
from ..inputs import InputError
from ..torch.head import Grid, TorchHead

if TYPE_CHECKING:
    from torch import nn


@dataclass(kw_only=True, eq=False, repr=False)
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
    minimum: ClassVar[Mapping[str, int]] = {"hidden": 1, "layers": 0}

    hidden: int = 256
    layers: int = 1

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..torch.layers import Perceptron

        return Perceptron(sum(widths.values()), self.hidden, self.layers, classes)


@dataclass(kw_only=True, eq=False, repr=False)
class _ProductFusion(TorchHead):
    """A head whose network multiplies projected inputs with one another."""

    minimum: ClassVar[Mapping[str, int]] = {"width": 1, "hidden": 1}
    takes_one_vector: ClassVar[bool] = False
    #: Name of the network in `torch.layers`.
    network: ClassVar[str]

    width: int = 512
    hidden: int = 256

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network; `InputError` if there is only one input."""
        from ..torch import layers

        if len(widths) < 2:
            raise InputError(
                f"{self.family} multiplies inputs with one another, and there is only {next(iter(widths))!r}: "
                "add an input, or choose mlp"
            )
        network: nn.Module = getattr(layers, self.network)(widths, self.width, self.hidden, classes)
        return network


@dataclass(kw_only=True, eq=False, repr=False)
class AlignFusion(_ProductFusion):
    """Elementwise product of projected inputs, then a perceptron with dropout.

    With a single input it says that there is nothing to align.

    Parameters
    ----------
    width : int, default 512
        Width of the projections; 1024 as published.
    hidden : int, default 256
        Width of the perceptron after the product.
    **shared
        See `TorchHead`.
    """

    family: ClassVar[str] = "align"
    network: ClassVar[str] = "Align"


# The published outer product multiplies full-width projections, a layer of a million inputs; here each is projected to a
# few units first. A one is appended to each, as in tensor fusion (Zadeh et al. 2017), so that the inputs by themselves
# are in there too.
@dataclass(kw_only=True, eq=False, repr=False)
class CrossFusion(_ProductFusion):
    """Flattened outer product of projected inputs, then a perceptron with dropout.

    With a single input it says that there is nothing to cross.

    Parameters
    ----------
    width : int, default 24
        Width of the projections; the perceptron sees its square for every pair of inputs.
    hidden : int, default 256
        Width of the perceptron after the product.
    **shared
        See `TorchHead`.
    """

    family: ClassVar[str] = "cross"
    network: ClassVar[str] = "Cross"

    width: int = 24


# The form of several crisis models (BLIP or ViT with XLM-R): image and text vectors as two tokens, two pre-norm
# layers of eight heads, a mean over the tokens, a perceptron. It works on token states as well, all in one sequence.
@dataclass(kw_only=True, eq=False, repr=False)
class TwoTokenTransformer(TorchHead):
    """Transformer encoder over the inputs as tokens.

    Each input is projected to one width, and told apart by an embedding of its own. An input that a row lacks is
    not attended to.

    Parameters
    ----------
    width : int, default 128
        Width of the tokens; a multiple of `heads`.
    layers : int, default 2
    heads : int, default 8
    hidden : int, default 128
        Width of the perceptron after the mean.
    **shared
        See `TorchHead`.
    """

    family: ClassVar[str] = "two-token"
    minimum: ClassVar[Mapping[str, int]] = {"width": 1, "layers": 0, "heads": 1, "hidden": 1}

    width: int = 128
    layers: int = 2
    heads: int = 8
    hidden: int = 128
    # The slowest of the heads: a grid of two, so that ten thousand rows stay well under a minute.
    dropout: Grid = 0.2
    epochs: int = 20

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network; `ParameterError` if the width is no multiple of the number of heads."""
        from ..torch.layers import TwoToken

        if self.heads < 1 or self.width % self.heads:
            raise ParameterError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return TwoToken(widths, self.width, self.layers, self.heads, self.hidden, classes)
