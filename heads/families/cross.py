"""`cross`: cross fusion of Hate-CLIPper (Kumar & Nandakumar 2022), at low width.

The outer product of two projections holds every product of a unit of one with a unit of the other. The published
one multiplies full-width projections, a layer of a million inputs; here each is projected to a few units first. A
one is appended to each, as in tensor fusion (Zadeh et al. 2017), so that the inputs by themselves are in there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..inputs import InputError
from ..neural.head import TorchHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CrossFusion"]


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
        from ..neural.networks import Cross

        if len(widths) < 2:
            raise InputError(
                f"cross multiplies inputs with one another, and there is only {next(iter(widths))!r}: "
                "add an input, or choose mlp"
            )
        return Cross(widths, self.width, self.hidden, classes)
