"""`align`: align fusion of Hate-CLIPper (Kumar & Nandakumar 2022).

Both vectors are projected to the same width and multiplied elementwise: a unit fires where they agree, which is
what a linear head on the concatenation can never see. With three inputs the product runs over all that a row has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..inputs import InputError
from ..neural.head import TorchHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AlignFusion"]


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
        from ..neural.networks import Align

        if len(widths) < 2:
            raise InputError(
                f"align multiplies inputs with one another, and there is only {next(iter(widths))!r}: "
                "add an input, or choose mlp"
            )
        return Align(widths, self.width, self.hidden, classes)
