"""`diff-attn`: differential attention over the tokens of all inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..checks import ParameterError
from ..neural.attending import PublishableHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DiffAttn"]


class DiffAttn(PublishableHead):
    """Differential transformer (Ye et al. 2024; version 2, January 2026) over the tokens of all inputs together.

    Each input is embedded into tokens of its own kind (one for a vector), with positions where it has several;
    `depth` pre-norm blocks of differential attention and SwiGLU run over all of them; attention pools them into
    one vector, which is classified. Versions: see `icehouse.heads.neural.attention.DifferentialV1` and
    `DifferentialV2`. A single input of one vector is refused: over one token, attention is a linear map.

    Parameters
    ----------
    version : {"v1", "v2"}, default "v2"
    depth : int, default 1
        Number of blocks. Over one vector an input, a second doubles the time of training and gains nothing that
        was seen; over tokens it is worth a try.
    width : int, default 64
        Of the model; a multiple of `heads`, in version 1 of twice `heads`.
    heads : int, default 4
    as_published : bool, default False
        The form of arXiv 2507.05165: the gates of `guided-ca` as published, then version 1 over z as one token
        (where queries and keys have no effect), 4 heads, batch norm, SGD with lr 1e-3, 50 epochs, patience 5,
        dropout 0.5; the four parameters above have no effect. It exists to reproduce published results. **Its
        predictions depend on the other rows of the batch**, whose size is `batch_size`, and a note (`notes_`) says so.
        It takes two inputs of one vector each.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> DiffAttn(epochs=2).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "diff-attn"

    def __init__(
        self,
        *,
        version: Literal["v1", "v2"] = "v2",
        depth: int = 1,
        width: int = 64,
        heads: int = 4,
        as_published: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(as_published=as_published, **shared)
        self.version = version
        self.depth = depth
        self.width = width
        self.heads = heads

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..neural.differential import DiffNet

        if self.as_published:
            return self._published(widths, classes, differential=True)
        if self.version not in ("v1", "v2"):
            raise ParameterError(f"version must be v1 or v2, not {self.version!r}")
        self._check_shape(2 * self.heads if self.version == "v1" else self.heads, self.depth)
        return DiffNet(
            widths, classes, width=self.width, heads=self.heads, depth=self.depth, version=self.version
        )
