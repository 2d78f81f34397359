"""`guided-ca+diff-attn`: guided gates, then differential attention over the gated tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..checks import ParameterError
from ..neural.attending import AttentionHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["GuidedDiff"]


class GuidedDiff(AttentionHead):
    """The gates of `guided-ca`, then the differential blocks of `diff-attn` over the gated tokens α ∘ f̃.

    What arXiv 2507.05165 puts one after the other, with several tokens for the second to attend to; its own form
    is `DiffAttn(as_published=True)`.

    Parameters
    ----------
    version : {"v1", "v2"}, default "v2"
    depth : int, default 1
        Number of differential blocks.
    width : int, default 64
        Of the model; a multiple of `heads`, in version 1 of twice `heads`.
    heads : int, default 4
        Of the attention between inputs, and of the blocks.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> GuidedDiff(epochs=2).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "guided-ca+diff-attn"

    def __init__(
        self,
        *,
        version: Literal["v1", "v2"] = "v2",
        depth: int = 1,
        width: int = 64,
        heads: int = 4,
        **shared: Any,
    ) -> None:
        super().__init__(**{**self.defaults, **shared})
        self.version = version
        self.depth = depth
        self.width = width
        self.heads = heads

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..neural.guided import GuidedDiffNet

        if self.version not in ("v1", "v2"):
            raise ParameterError(f"version must be v1 or v2, not {self.version!r}")
        self._check_shape(2 * self.heads if self.version == "v1" else self.heads, self.depth)
        return GuidedDiffNet(
            widths, classes, width=self.width, heads=self.heads, depth=self.depth, version=self.version
        )
