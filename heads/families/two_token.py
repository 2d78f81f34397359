"""`two-token`: a transformer encoder over one vector an input.

The form of several crisis models (BLIP or ViT with XLM-R): image and text vectors as two tokens, two pre-norm
layers of eight heads, a mean over the tokens, a perceptron. It works on token states as well, all in one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..checks import ParameterError
from ..neural.head import TorchHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TwoTokenTransformer"]


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
        from ..neural.networks import TwoToken

        if self.heads < 1 or self.width % self.heads:
            raise ParameterError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return TwoToken(widths, self.width, self.layers, self.heads, self.hidden, classes)
