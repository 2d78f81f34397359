"""Fusion heads: `mlp`, `align` and `cross` (Hate-CLIPper, Kumar & Nandakumar 2022), `two-token`.

Both vectors are projected to the same width and multiplied elementwise: a unit fires where they agree, which is
what a linear head on the concatenation can never see. With three inputs the product runs over all that a row has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..checks import ParameterError
from ..inputs import InputError
from ..torch.head import TorchHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MLP", "AlignFusion", "CrossFusion", "TwoTokenTransformer"]


class AlignFusion(TorchHead):
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
    least: ClassVar[Mapping[str, int]] = {"width": 1, "hidden": 1}
    takes_one_vector: ClassVar[bool] = False

    def __init__(self, *, width: int = 512, hidden: int = 256, **shared: Any) -> None:
        super().__init__(**{**self.defaults, **shared})
        self.width = width
        self.hidden = hidden

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network.

        Raises
        ------
        HeadError
            If there is only one input.
        """
        from ..torch.layers import Align

        if len(widths) < 2:
            raise InputError(
                f"align multiplies inputs with one another, and there is only {next(iter(widths))!r}: "
                "add an input, or choose mlp"
            )
        return Align(widths, self.width, self.hidden, classes)


# The outer product of two projections holds every product of a unit of one with a unit of the other. The published
# one multiplies full-width projections, a layer of a million inputs; here each is projected to a few units first. A
# one is appended to each, as in tensor fusion (Zadeh et al. 2017), so that the inputs by themselves are in there too.


class CrossFusion(TorchHead):
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
    least: ClassVar[Mapping[str, int]] = {"width": 1, "hidden": 1}
    takes_one_vector: ClassVar[bool] = False

    def __init__(self, *, width: int = 24, hidden: int = 256, **shared: Any) -> None:
        super().__init__(**{**self.defaults, **shared})
        self.width = width
        self.hidden = hidden

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network.

        Raises
        ------
        HeadError
            If there is only one input.
        """
        from ..torch.layers import Cross

        if len(widths) < 2:
            raise InputError(
                f"cross multiplies inputs with one another, and there is only {next(iter(widths))!r}: "
                "add an input, or choose mlp"
            )
        return Cross(widths, self.width, self.hidden, classes)


# The form of several crisis models (BLIP or ViT with XLM-R): image and text vectors as two tokens, two pre-norm
# layers of eight heads, a mean over the tokens, a perceptron. It works on token states as well, all in one sequence.


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
    least: ClassVar[Mapping[str, int]] = {"width": 1, "layers": 0, "heads": 1, "hidden": 1}
    # The dearest of the heads: a grid of two, so that ten thousand rows stay well under a minute.
    defaults: ClassVar[dict[str, Any]] = {"dropout": 0.2, "epochs": 20}

    def __init__(
        self, *, width: int = 128, layers: int = 2, heads: int = 8, hidden: int = 128, **shared: Any
    ) -> None:
        super().__init__(**{**self.defaults, **shared})
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network.

        Raises
        ------
        UsageError
            If the width is no multiple of the number of heads.
        """
        from ..torch.layers import TwoToken

        if self.heads < 1 or self.width % self.heads:
            raise ParameterError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return TwoToken(widths, self.width, self.layers, self.heads, self.hidden, classes)


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
        from ..torch.layers import Perceptron

        return Perceptron(sum(widths.values()), self.hidden, self.layers, classes)
